package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/goleak"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chain makes receipts of a payer's successive tasks, signed by a committee of four. They are real:
// every check of a ledger passes.
type chain struct {
	t       testing.TB
	genesis *ledger.Genesis
	domain  crypto.Domain
	keys    []crypto.PrivateKey
	payer   crypto.PrivateKey
	last    ledger.TaskID
	nonce   uint64
	seq     uint64 // of the next bundle of each validator
	fee     ledger.Amount
}

func newKey(t testing.TB, name string) crypto.PrivateKey {
	t.Helper()
	seed := crypto.Sum([]byte(name))
	k, err := crypto.GenerateKey(bytes.NewReader(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newChain(t testing.TB) *chain {
	c := &chain{t: t, payer: newKey(t, "payer"), fee: ledger.Credit}
	g := &ledger.Genesis{Network: "test", Epoch: 1, Judge: crypto.Sum([]byte("judge")), MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()}}
	for i := range 4 {
		c.keys = append(c.keys, newKey(t, fmt.Sprint("validator", i)))
		g.Validators = append(g.Validators, ledger.Validator{Consensus: c.keys[i].Public(), Account: newKey(t, fmt.Sprint("account", i)).Public(), Peer: fmt.Sprint("peer", i)})
	}
	g.Accounts = []ledger.GenesisAccount{{ID: c.payer.Public(), Balance: 1000 * ledger.Credit}}
	c.genesis, c.domain = g, ledger.Domain(g)
	return c
}

// next returns the lock and the receipt of the payer's next task.
func (c *chain) next() (*ledger.LockCert, *ledger.Receipt) {
	o := ledger.Order{Payer: c.payer.Public(), Nonce: c.nonce, Previous: c.last, Fee: c.fee, Split: 1, Judge: c.genesis.Judge, MaxAnswers: 1, AnswerDeadline: 1000, ScoreDeadline: 1000}
	task := ledger.OrderID(c.domain, o)
	c.nonce, c.last = c.nonce+1, task
	answer := ledger.AnswerID{Worker: newKey(c.t, "worker").Public(), Text: crypto.Sum(task[:])}
	r := &ledger.Receipt{Order: ledger.Sign(c.domain, c.payer, o)}
	r.Lock = c.certificate(ledger.Leaf{Kind: ledger.LockVote, Task: task, Value: task})
	var reveals []ledger.RevealedOpening
	for i, k := range c.keys {
		open := ledger.Opening{Scores: []ledger.Score{8000}, Salt: crypto.Sum([]byte{byte(i)})}
		commit := ledger.CommitScores(c.domain, task, uint16(i), []ledger.AnswerID{answer}, open)
		r.Seal.Value = append(r.Seal.Value, ledger.Sign(c.domain, k, commit))
		reveals = append(reveals, ledger.RevealedOpening{Member: uint16(i), Opening: open})
	}
	r.Seal.Votes = c.certificate(ledger.Leaf{Kind: ledger.Commit, Task: task, Stage: ledger.StageSeal, Value: r.Seal.Value.Hash(c.domain)})
	r.Outcome = ledger.Settle(c.genesis, c.domain, task, o, r.Seal.Value, reveals)
	r.Settle = c.certificate(ledger.Leaf{Kind: ledger.FastCommit, Task: task, Stage: ledger.StageSettle, Value: r.Outcome.Hash(c.domain)})
	return &ledger.LockCert{Order: r.Order, Votes: r.Lock}, r
}

func (c *chain) certificate(vote ledger.Leaf) ledger.Certificate {
	cert := ledger.Certificate{Vote: vote}
	for i, k := range c.keys[:3] {
		u := ledger.NewBundle(uint16(i), c.seq, crypto.Hash{}, []ledger.Leaf{vote})
		u.Sign(c.domain, k)
		cert.Proofs = append(cert.Proofs, ledger.VoteProof{Header: u.Header})
	}
	c.seq++
	return cert
}

func openStore(t testing.TB, dir string, g *ledger.Genesis) *Store {
	t.Helper()
	s, err := Open(dir, g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestLedgerIsTheSameAfterItWasClosed(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	var receipts []*ledger.Receipt
	for range 300 { // more than a group
		l, r := c.next()
		must(t, s.Lock(l), s.Settle(r), s.Settle(r), s.Lock(l))
		receipts = append(receipts, r)
	}
	l, _ := c.next()
	must(t, s.Lock(l))
	before := s.Summary()
	must(t, s.Close(), s.Close())
	if err := s.Lock(l); !errors.Is(err, ErrClosed) {
		t.Errorf("lock after close: %v", err)
	}
	if _, err := s.Receipt(receipts[0].Task()); !errors.Is(err, ErrClosed) {
		t.Errorf("read after close: %v", err)
	}

	s = openStore(t, dir, c.genesis)
	after := s.Summary()
	if fmt.Sprint(before) != fmt.Sprint(after) || after.Tasks != 300 || after.Open != 1 {
		t.Errorf("before: %v\nafter:  %v", before, after)
	}
	v, err := s.Verify()
	if err != nil || v.Tasks != 300 || v.Open != 1 || v.Escrow != ledger.Credit {
		t.Errorf("verify: %+v, %v", v, err)
	}
	tasks, err := s.Tasks(5)
	if err != nil || len(tasks) != 5 || tasks[0].Task != receipts[299].Task() || tasks[4].Task != receipts[295].Task() {
		t.Errorf("latest tasks: %v, %v", tasks, err)
	}
	got, err := s.Receipt(receipts[7].Task())
	if err != nil || !bytes.Equal(got.Encode(), receipts[7].Encode()) {
		t.Errorf("receipt: %v", err)
	}
	locks, err := s.OpenLocks()
	if err != nil || len(locks) != 1 || locks[0].Votes.Vote.Task != l.Votes.Vote.Task {
		t.Errorf("open locks: %v, %v", locks, err)
	}
	must(t, s.Settle(func() *ledger.Receipt { // the open one, after the restart
		c.nonce, c.last = 300, receipts[299].Task()
		_, r := c.next()
		return r
	}()), s.Flush())
	if _, err := s.Verify(); err != nil {
		t.Error(err)
	}
}

func TestReceiptWithoutItsLockIsApplied(t *testing.T) {
	c := newChain(t)
	s := openStore(t, t.TempDir(), c.genesis)
	l, r := c.next()
	must(t, s.Settle(r), s.Lock(l), s.Flush())
	if v, err := s.Verify(); err != nil || v.Tasks != 1 || v.Open != 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestVerifySaysWhereALedgerFails(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(txn *badger.Txn, r *ledger.Receipt) error
		want   string
	}{
		"balance": {func(txn *badger.Txn, r *ledger.Receipt) error {
			return txn.Set(accountKey(r.Order.Statement.Payer), encodeAccount(ledger.Account{Balance: 5}))
		}, "is stored with balance 5"},
		"account gone": {func(txn *badger.Txn, r *ledger.Receipt) error {
			return txn.Delete(accountKey(r.Outcome.Credits[0].Account))
		}, "is missing"},
		"account made up": {func(txn *badger.Txn, _ *ledger.Receipt) error {
			return txn.Set(accountKey(ledger.AccountID{9}), encodeAccount(ledger.Account{Balance: 5}))
		}, "its certificates give 0"},
		"receipt gone": {func(txn *badger.Txn, r *ledger.Receipt) error { return txn.Delete(receiptKey(r.Task())) }, "is stored with balance"},
		"signature": {func(txn *badger.Txn, r *ledger.Receipt) error {
			r.Settle.Proofs[0].Header.Sig[5] ^= 1
			return txn.Set(receiptKey(r.Task()), r.Encode())
		}, "signature does not hold"},
		"outcome": {func(txn *badger.Txn, r *ledger.Receipt) error {
			r.Outcome.Credits[0].Amount++
			return txn.Set(receiptKey(r.Task()), r.Encode())
		}, "outcome does not follow"},
		"bytes": {func(txn *badger.Txn, r *ledger.Receipt) error { return txn.Set(receiptKey(r.Task()), []byte{1}) }, "not a canonical encoding"},
		"swapped": {func(txn *badger.Txn, r *ledger.Receipt) error {
			return txn.Set(receiptKey(ledger.TaskID{1}), r.Encode())
		}, "is stored as that of"},
		"index": {func(txn *badger.Txn, r *ledger.Receipt) error {
			return txn.Set(taskKey(ledger.TaskID{1}), make([]byte, 40))
		}, "is stored as settled"},
		"digest": {func(txn *badger.Txn, r *ledger.Receipt) error {
			other := ledger.NewSums(crypto.Domain{})
			other.Add(r.Task(), crypto.Hash{1})
			hash, tasks := other.Bucket(ledger.BucketOf(r.Task()))
			return errors.Join(txn.Set(keyCounted, u64(1)), txn.Set(sumsKey(ledger.BucketOf(r.Task())), append(u64(uint64(tasks)), hash.Encode()...)))
		}, "has the stored digest"},
		"sum cut": {func(txn *badger.Txn, _ *ledger.Receipt) error {
			return errors.Join(txn.Set(keyCounted, u64(1)), txn.Set(sumsKey(7), make([]byte, 8)))
		}, "sum of bucket 07"},
	} {
		t.Run(name, func(t *testing.T) {
			ch := newChain(t)
			s := openStore(t, t.TempDir(), ch.genesis)
			_, r := ch.next()
			must(t, s.Settle(r), s.Flush())
			must(t, s.db.Update(func(txn *badger.Txn) error { return c.damage(txn, r) }))
			if _, err := s.Verify(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestStoreIsRefusedToTheWrongOnes(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	if _, err := Open(dir, c.genesis); !errors.Is(err, ErrInUse) {
		t.Errorf("second process: %v", err)
	}
	if _, err := OpenReadOnly(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("reader beside a writer: %v", err)
	}
	must(t, s.Close())
	other := *c.genesis
	other.Network = "other"
	if _, err := Open(dir, &other); !errors.Is(err, ErrGenesis) {
		t.Errorf("other genesis: %v", err)
	}
	if _, err := OpenReadOnly(filepath.Join(dir, "nothing")); !errors.Is(err, ErrNotFound) {
		t.Errorf("no ledger: %v", err)
	}
	s = openStore(t, dir, c.genesis)
	must(t, s.db.Update(func(txn *badger.Txn) error { return txn.Set(keySchema, binary.BigEndian.AppendUint32(nil, schema+1)) }), s.Close())
	if _, err := Open(dir, c.genesis); err == nil || !strings.Contains(err.Error(), "has layout 3, this poq knows layouts 1 to 2: use a newer poq") {
		t.Errorf("newer layout: %v", err)
	}
	if _, err := OpenReadOnly(dir); err == nil || !strings.Contains(err.Error(), "has layout 3") {
		t.Errorf("newer layout, read only: %v", err)
	}
}

func TestLedgerOpensOnLogsThatAKilledProcessHadNotBegun(t *testing.T) {
	c := newChain(t)
	_, r := c.next()
	for name, file := range map[string]string{"values": "000077.vlog", "memory table": "00077.mem"} {
		dir := t.TempDir()
		s := openStore(t, dir, c.genesis)
		must(t, s.Settle(r), s.Close())
		path := filepath.Join(dir, file)
		must(t, os.WriteFile(path, nil, 0o600))
		again, err := Open(dir, c.genesis)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		must(t, os.WriteFile(path, nil, 0o600)) // what the process that has the ledger just made stays
		if _, err := Open(dir, c.genesis); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: opened twice: %v", name, err)
		}
		must(t, os.Remove(path))
		if _, err := again.Verify(); err != nil || again.Summary().Tasks != 1 {
			t.Errorf("%s: %+v, %v", name, again.Summary(), err)
		}
		must(t, again.Close())
	}
}

func TestReadOnlyLedgerTellsTheSameAndTakesNothing(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	_, r := c.next()
	must(t, s.Settle(r), s.Close())
	ro, err := OpenReadOnly(dir)
	must(t, err)
	defer func() { must(t, ro.Close()) }()
	if v, err := ro.Verify(); err != nil || v.Tasks != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := ro.Settle(r); !errors.Is(err, ErrClosed) {
		t.Errorf("settle: %v", err)
	}
	if got, want := ro.Genesis().Chain(), c.genesis.Chain(); got != want {
		t.Errorf("chain %s, want %s", got, want)
	}
}

func TestShortIDsAreResolvedWhereTheyAreClear(t *testing.T) {
	c := newChain(t)
	s := openStore(t, t.TempDir(), c.genesis)
	ids := map[string]int{}
	var all []ledger.TaskID
	for i := range 40 {
		l, r := c.next()
		if i%2 == 0 {
			must(t, s.Lock(l))
		} else {
			must(t, s.Settle(r))
		}
		all = append(all, r.Task())
		ids[r.Task().String()[:1]]++
	}
	must(t, s.Flush())
	for _, id := range all {
		for _, short := range []string{id.String(), id.String()[:12], strings.ToUpper(id.String()[:11])} {
			if got, err := s.Resolve(short); err != nil || got != id {
				t.Errorf("%s: got %v, %v", short, got, err)
			}
		}
	}
	for first, n := range ids {
		if _, err := s.Resolve(first); errors.Is(err, ErrAmbiguous) != (n > 1) {
			t.Errorf("%s stands for %d tasks: %v", first, n, err)
		}
	}
	if _, err := s.Resolve("00000000000000"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	for _, bad := range []string{"", "xyz", all[0].String() + "0"} {
		if _, err := s.Resolve(bad); !errors.Is(err, ErrBadID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTextsAndOwnOrdersAreKept(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	text := bytes.Repeat([]byte("text "), 40000)
	o := ledger.Order{Payer: c.payer.Public(), Fee: 5}
	must(t, s.PutBlob(text), s.PutOwn(7, &ledger.OrderMessage{Order: ledger.Sign(c.domain, c.payer, o), Prompt: []byte("p")}), s.Close())
	s = openStore(t, dir, c.genesis)
	if got, err := s.Blob(crypto.Sum(text)); err != nil || !bytes.Equal(got, text) {
		t.Errorf("text: %v", err)
	}
	if _, err := s.Blob(crypto.Hash{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown text: %v", err)
	}
	own, err := s.OwnOrders()
	if err != nil || len(own) != 1 || own[0].Order.Statement != o {
		t.Errorf("own orders: %v, %v", own, err)
	}
	must(t, s.DeleteOwn(7), s.Flush())
	if own, err := s.OwnOrders(); err != nil || len(own) != 0 {
		t.Errorf("own orders: %v, %v", own, err)
	}
}

func TestCrashTakesNoOwnOrderThatWasFlushedAndTheLastOnesOnly(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	const orders, flushed = 300, 200
	for i := range uint64(orders) {
		o := ledger.Order{Payer: c.payer.Public(), Nonce: i, Fee: 5}
		must(t, s.PutOwn(i, &ledger.OrderMessage{Order: ledger.Sign(c.domain, c.payer, o), Prompt: []byte("p")}))
		if i == flushed-1 {
			must(t, s.Flush())
		}
	}
	s = openStore(t, crash(t, dir), c.genesis)
	own, err := s.OwnOrders()
	must(t, err)
	if len(own) < flushed {
		t.Errorf("%d orders are left, %d were durable", len(own), flushed)
	}
	for i, m := range own {
		if m.Order.Statement.Nonce != uint64(i) {
			t.Fatalf("order %d has nonce %d: one before it is lost", i, m.Order.Statement.Nonce)
		}
	}
}

func TestOwnAnswerIsKept(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	a := ledger.Answer{Task: ledger.TaskID{5}, Text: crypto.Sum([]byte("text"))}
	if _, err := s.Answer(a.Task); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	must(t, s.PutAnswer(&ledger.AnswerMessage{Answer: ledger.Sign(c.domain, c.payer, a), Text: []byte("text")}), s.Close())
	s = openStore(t, dir, c.genesis)
	if m, err := s.Answer(a.Task); err != nil || m.Answer.Statement != a || string(m.Text) != "text" {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestConcurrentReadersSeeSumsThatHold(t *testing.T) {
	c := newChain(t)
	s := openStore(t, t.TempDir(), c.genesis)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				sum, total := s.Summary(), int64(0)
				for _, a := range sum.Accounts {
					total += a.Balance
				}
				if total+int64(sum.Escrow) != int64(c.genesis.Supply()) {
					t.Errorf("balances of %d and escrow of %d", total, sum.Escrow)
					return
				}
			}
		})
	}
	for range 100 {
		l, r := c.next()
		must(t, s.Lock(l), s.Settle(r))
	}
	close(done)
	wg.Wait()
	must(t, s.Flush())
}

func TestGenesisSurvivesJSON(t *testing.T) {
	c := newChain(t)
	data, err := json.Marshal(c.genesis)
	must(t, err)
	var g ledger.Genesis
	must(t, json.Unmarshal(data, &g))
	if g.Chain() != c.genesis.Chain() {
		t.Error("another chain id")
	}
}
