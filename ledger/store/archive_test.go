package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
)

// exported makes a ledger of n settled tasks, an open one and a piece of evidence, and exports it.
func exported(t testing.TB, c *chain, n int) (s *Store, data []byte) {
	t.Helper()
	s = openStore(t, t.TempDir(), c.genesis)
	for i := range n {
		l, r := c.next()
		if i%2 == 0 {
			must(t, s.Lock(l))
		}
		must(t, s.Settle(r))
	}
	l, _ := c.next()
	must(t, s.Lock(l), s.PutEvidence(c.evidence()))
	var out bytes.Buffer
	totals, err := s.Export(&out)
	must(t, err)
	if want := (archive.Totals{Counts: archive.Counts{Receipts: uint64(n), Locks: 1, Evidence: 1}, Digest: s.Digest().Sum}); totals != want {
		t.Fatalf("exported %v, want %v", totals, want)
	}
	return s, out.Bytes()
}

// evidence proves that a payer signed two orders with one nonce.
func (c *chain) evidence() *ledger.Evidence {
	var orders [2]ledger.Signed[ledger.Order]
	for i := range orders {
		o := ledger.Order{Payer: c.payer.Public(), Nonce: 1000, Previous: crypto.Hash{1}, Fee: ledger.Amount(i + 1), Split: 1, Judge: c.genesis.Judge, MaxAnswers: 1, AnswerDeadline: 1000, ScoreDeadline: 1000}
		orders[i] = ledger.Sign(c.domain, c.payer, o)
	}
	return &ledger.Evidence{Offence: ledger.TwoOrders, Orders: orders}
}

func importInto(ctx context.Context, t testing.TB, s *Store, in io.Reader) (*Imported, error) {
	t.Helper()
	a, err := archive.NewReader(in)
	must(t, err)
	return s.Import(ctx, a)
}

func sameLedger(t *testing.T, a, b *Store) {
	t.Helper()
	va, err := a.Verify()
	must(t, err)
	vb, err := b.Verify()
	must(t, err)
	va.ElapsedMS, vb.ElapsedMS = 0, 0
	ea, err := a.Evidence()
	must(t, err)
	eb, err := b.Evidence()
	must(t, err)
	if *va != *vb || !reflect.DeepEqual(a.Summary(), b.Summary()) || !reflect.DeepEqual(ea, eb) {
		t.Errorf("ledgers differ:\n%+v\n%+v", va, vb)
	}
}

func TestImportedLedgerIsTheExportedOne(t *testing.T) {
	c := newChain(t)
	s, data := exported(t, c, 60)
	dir := t.TempDir()
	to := openStore(t, dir, c.genesis)
	got, err := importInto(t.Context(), t, to, bytes.NewReader(data))
	must(t, err)
	want := Imported{archive.Totals{Counts: archive.Counts{Receipts: 60, Locks: 1, Evidence: 1}, Digest: s.Digest().Sum}, archive.Counts{Receipts: 60, Locks: 1, Evidence: 1}, s.Digest(), true}
	if *got != want {
		t.Errorf("%+v, want %+v", *got, want)
	}
	sameLedger(t, s, to)
	tasks, err := s.Tasks(100)
	must(t, err)
	order, err := to.Tasks(100)
	must(t, err)
	for i := range tasks {
		if tasks[i].Task != order[i].Task {
			t.Fatalf("task %d was settled in another order", i)
		}
	}
	must(t, to.Close())
	to = openStore(t, dir, c.genesis)
	sameLedger(t, s, to)

	// Once more: nothing is new.
	want.New = archive.Counts{}
	if got, err := importInto(t.Context(), t, to, bytes.NewReader(data)); err != nil || *got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	// Into a ledger that has more.
	_, more := c.next()
	must(t, to.Settle(more))
	if got, err := importInto(t.Context(), t, to, bytes.NewReader(data)); err != nil || got.Equal || got.Ledger.Tasks != 61 {
		t.Errorf("%+v, %v", got, err)
	}
	var again bytes.Buffer
	if _, err := to.Export(&again); err != nil {
		t.Error(err)
	}
	must(t, to.Close())
	ro, err := OpenReadOnly(dir)
	must(t, err)
	defer ro.Close()
	var out bytes.Buffer
	if _, err := ro.Export(&out); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("a ledger that is read only exports something else: %v", err)
	}
	if _, err := importInto(t.Context(), t, ro, bytes.NewReader(data)); err != nil {
		t.Errorf("nothing is new, and it is read only: %v", err)
	}
}

// An archive that is cut off, then a crash, then the whole of it.
func TestImportGoesOnWhereItEnded(t *testing.T) {
	c := newChain(t)
	s, data := exported(t, c, 40)
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	last := 0
	for _, part := range []float64{0.2, 0.5, 0.9} {
		to := openStore(t, dir, c.genesis)
		cut := int(float64(len(data))*part) + r.IntN(500)
		got, err := importInto(t.Context(), t, to, bytes.NewReader(data[:cut]))
		if !errors.Is(err, archive.ErrTruncated) {
			t.Fatalf("cut to %d of %d bytes: %v", cut, len(data), err)
		}
		if got.Ledger.Tasks != int(got.Archive.Receipts) || got.Ledger.Tasks <= last || got.Ledger.Tasks != last+int(got.New.Receipts) || got.Equal {
			t.Errorf("cut to %d bytes: %+v, before that %d tasks", cut, got, last)
		}
		last = got.Ledger.Tasks
		dir = crash(t, dir)
	}
	to := openStore(t, dir, c.genesis)
	if got, err := importInto(t.Context(), t, to, bytes.NewReader(data)); err != nil || !got.Equal || int(got.New.Receipts) != 40-last {
		t.Errorf("%+v, %v", got, err)
	}
	sameLedger(t, s, to)
}

// stopAt calls off the import when so many bytes were read.
type stopAt struct {
	io.Reader
	n    int
	stop context.CancelFunc
}

func (s *stopAt) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b[:min(len(b), 3000)])
	if s.n -= n; s.n <= 0 {
		s.stop()
	}
	return n, err
}

func TestImportThatIsCalledOffKeepsWhatItApplied(t *testing.T) {
	c := newChain(t)
	s, data := exported(t, c, 80)
	to := openStore(t, t.TempDir(), c.genesis)
	ctx, cancel := context.WithCancel(t.Context())
	in := &stopAt{bytes.NewReader(data), len(data) / 2, cancel}
	got, err := importInto(ctx, t, to, in)
	if !errors.Is(err, context.Canceled) || got.Ledger.Tasks != int(got.New.Receipts) || got.Ledger.Tasks >= 80 {
		t.Errorf("%+v, %v", got, err)
	}
	first := got.Ledger.Tasks
	if got, err = importInto(t.Context(), t, to, bytes.NewReader(data)); err != nil || !got.Equal || int(got.New.Receipts) != 80-first {
		t.Errorf("%+v, %v", got, err)
	}
	sameLedger(t, s, to)
}

func TestImportTakesNothingThatDoesNotVerify(t *testing.T) {
	c := newChain(t)
	var receipts []*ledger.Receipt
	for range 10 {
		_, r := c.next()
		receipts = append(receipts, r)
	}
	lock, _ := c.next()
	copyOf := func(r *ledger.Receipt) *ledger.Receipt {
		d, err := ledger.DecodeReceipt(r.Encode())
		must(t, err)
		return d
	}
	bad := copyOf(receipts[6])
	bad.Settle.Proofs[0].Header.Sig[7] ^= 1
	paid := copyOf(receipts[6])
	paid.Outcome.Credits[0].Amount++
	few := copyOf(receipts[6])
	few.Lock.Proofs = few.Lock.Proofs[:2]
	badLock := *lock
	badLock.Order.Sig[0] ^= 1
	badEvidence := c.evidence()
	badEvidence.Orders[1].Sig[3] ^= 1
	for name, e := range map[string]struct {
		message ledger.Message
		want    error
	}{
		"signature": {bad, ledger.ErrSignature},
		"payment":   {paid, ledger.ErrOutcome},
		"quorum":    {few, ledger.ErrNoQuorum},
		"lock":      {&badLock, ledger.ErrSignature},
		"evidence":  {badEvidence, ledger.ErrSignature},
	} {
		var out bytes.Buffer
		head := archive.Head{Genesis: c.genesis, Counts: archive.Counts{Receipts: 9}}
		switch e.message.(type) {
		case *ledger.Receipt:
			head.Receipts++
		case *ledger.LockCert:
			head.Locks++
		default:
			head.Evidence++
		}
		w, err := archive.NewWriter(&out, head)
		must(t, err)
		for i, r := range receipts {
			if i == 6 {
				must(t, w.Write(e.message))
			} else {
				must(t, w.Write(r))
			}
		}
		_, err = w.Close()
		must(t, err)
		s := openStore(t, t.TempDir(), c.genesis)
		got, err := importInto(t.Context(), t, s, &out)
		if !errors.Is(err, e.want) {
			t.Errorf("%s: %v, want %v", name, err, e.want)
		}
		if got.Ledger.Tasks != 6 || got.New != (archive.Counts{Receipts: 6}) {
			t.Errorf("%s: %+v was applied, want what comes before it", name, got)
		}
		if _, err := s.Verify(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Flipped bits never bring anything into a ledger that was not in the archive.
func TestDamagedArchiveBringsNothingWrong(t *testing.T) {
	c := newChain(t)
	whole, data := exported(t, c, 6)
	s := openStore(t, t.TempDir(), c.genesis)
	step := len(data)/150 + 1
	for i := 0; i < len(data); i += step {
		broken := bytes.Clone(data)
		broken[i] ^= 1 << (i % 8)
		a, err := archive.NewReader(bytes.NewReader(broken))
		if err == nil {
			_, err = s.Import(t.Context(), a)
		}
		if err == nil {
			t.Fatalf("byte %d of %d changed: nothing was noticed", i, len(data))
		}
		for _, e := range s.Summary().Accounts {
			if e.Balance < 0 {
				t.Fatalf("account %s holds %d", e.ID.Short(), e.Balance)
			}
		}
	}
	if got, err := importInto(t.Context(), t, s, bytes.NewReader(data)); err != nil || !got.Equal {
		t.Errorf("%+v, %v", got, err)
	}
	sameLedger(t, whole, s)
}

func TestArchiveOfAnotherLedgerIsRefused(t *testing.T) {
	c := newChain(t)
	_, data := exported(t, c, 2)
	for want, change := range map[string]func(g *ledger.Genesis){
		`the network: "test", not "other"`: func(g *ledger.Genesis) { g.Network = "other" },
		"the epoch: 1, not 2":              func(g *ledger.Genesis) { g.Epoch++ },
		"the judge":                        func(g *ledger.Genesis) { g.Judge[0]++ },
		"the minimum fee: 0.000001 credits, not 0.000002 credits": func(g *ledger.Genesis) { g.MinFee++ },
		"split 1: band: 100, not 101":                             func(g *ledger.Genesis) { g.Splits[0].Band++ },
		`validator 3 "x": name: "", not "x"`:                      func(g *ledger.Genesis) { g.Validators[2].Name = "x" },
		"validator 4: consensus key ":                             func(g *ledger.Genesis) { g.Validators = g.Validators[:3] },
		"balance: 1000.000000 credits, not 1000.000001 credits":   func(g *ledger.Genesis) { g.Accounts[0].Balance++ },
		"1000.000000 credits, not none":                           func(g *ledger.Genesis) { g.Accounts = nil },
	} {
		g := newChain(t).genesis
		change(g)
		s := openStore(t, t.TempDir(), g)
		if _, err := importInto(t.Context(), t, s, bytes.NewReader(data)); !errors.Is(err, ErrGenesis) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if s.Digest().Tasks != 0 {
			t.Error("something was applied")
		}
	}
}

func TestContradictionInAnArchiveIsNoticed(t *testing.T) {
	c := newChain(t)
	_, data := exported(t, c, 3)
	other := newChain(t) // the same committee, which locks another first order
	other.fee = 2 * ledger.Credit
	l, r := other.next()
	s := openStore(t, t.TempDir(), c.genesis)
	must(t, s.Lock(l), s.Settle(r))
	if _, err := importInto(t.Context(), t, s, bytes.NewReader(data)); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("two orders with one nonce: %v", err)
	}
}

func TestExportIsOneMomentOfALedgerThatGoesOn(t *testing.T) {
	c := newChain(t)
	s := openStore(t, t.TempDir(), c.genesis)
	var receipts []*ledger.Receipt
	for range 200 {
		_, r := c.next()
		receipts = append(receipts, r)
	}
	done := make(chan error)
	go func() {
		var errs []error
		for _, r := range receipts {
			errs = append(errs, s.Settle(r))
		}
		done <- errors.Join(errs...)
	}()
	for running := true; running; {
		select {
		case err := <-done:
			must(t, err)
			running = false
		default:
		}
		var out bytes.Buffer
		totals, err := s.Export(&out)
		must(t, err)
		to := openStore(t, t.TempDir(), c.genesis)
		if got, err := importInto(t.Context(), t, to, &out); err != nil || !got.Equal || got.Archive != totals {
			t.Fatalf("%+v, %v", got, err)
		}
		must(t, to.Close())
	}
}
