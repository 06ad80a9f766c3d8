package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// crash returns a copy of a ledger's files as they are, as kill -9 would leave them.
func crash(t testing.TB, dir string) string {
	t.Helper()
	for {
		to := t.TempDir()
		before, err := copyFiles(dir, to)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Badger put its files in order meanwhile
		}
		must(t, err)
		after, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		if slices.Equal(before, after) {
			return to
		}
	}
}

func copyFiles(dir, to string) (files []string, err error) {
	if files, err = filepath.Glob(filepath.Join(dir, "*")); err != nil {
		return nil, err
	}
	for _, f := range files {
		if filepath.Base(f) == "LOCK" {
			continue
		}
		in, err := os.Open(f)
		if err != nil {
			return nil, err
		}
		out, err := os.Create(filepath.Join(to, filepath.Base(f)))
		if err == nil {
			_, err = io.Copy(out, in)
			err = errors.Join(err, out.Close())
		}
		if err = errors.Join(err, in.Close()); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// counted returns how many tasks the checkpoint on disk counts.
func counted(t testing.TB, s *Store) (n uint64) {
	t.Helper()
	must(t, s.db.View(func(txn *badger.Txn) error {
		c, err := readCheckpoint(txn, s.genesis)
		if err == nil {
			n = c.counted
		}
		return err
	}))
	return n
}

func TestDigestSurvivesClosingAndCrashing(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	want := ledger.NewSums(c.domain)
	s := openStore(t, dir, c.genesis)
	settle := func(n int) {
		t.Helper()
		for range n {
			_, r := c.next()
			must(t, s.Settle(r))
			want.Add(r.Task(), r.Settle.Vote.Value)
		}
		must(t, s.Flush())
	}
	check := func(when string, count uint64) {
		t.Helper()
		if got := s.Digest(); got != want.Digest() {
			t.Errorf("%s: the digest is %v, want %v", when, got, want.Digest())
		}
		if got := counted(t, s); got != count {
			t.Errorf("%s: the checkpoint counts %d tasks, want %d", when, got, count)
		}
		if v, err := s.Verify(); err != nil || v.Digest != want.Digest() {
			t.Errorf("%s: verified as %+v, %v", when, v, err)
		}
	}
	settle(40)
	check("at first", 0)
	must(t, s.Close())
	s = openStore(t, dir, c.genesis)
	check("closed", 40)
	settle(20)
	s = openStore(t, crash(t, dir), c.genesis)
	check("crashed", 40)
	dir = s.dir
	must(t, s.Close())
	s = openStore(t, dir, c.genesis)
	check("closed after the crash", 60)
}

// unsigned makes a receipt that settles but proves nothing, in no time.
func (c *chain) unsigned() *ledger.Receipt {
	o := ledger.Order{Payer: c.payer.Public(), Nonce: c.nonce, Previous: c.last, Fee: 1}
	task := ledger.OrderID(c.domain, o)
	c.nonce, c.last = c.nonce+1, task
	return &ledger.Receipt{
		Order:   ledger.Signed[ledger.Order]{Statement: o},
		Outcome: ledger.Outcome{Task: task, Credits: []ledger.CreditAmount{{Account: o.Payer, Amount: 1}}},
		Settle:  ledger.Certificate{Vote: ledger.Leaf{Kind: ledger.FastCommit, Task: task, Stage: ledger.StageSettle, Value: crypto.Sum(task[:])}},
	}
}

func TestSumsAreWrittenNowAndThen(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	want := ledger.NewSums(c.domain)
	for range checkpointEvery + 5 {
		r := c.unsigned()
		must(t, s.Settle(r))
		want.Add(r.Task(), r.Settle.Vote.Value)
	}
	must(t, s.Flush())
	s = openStore(t, crash(t, dir), c.genesis)
	if n := counted(t, s); n != checkpointEvery || s.Digest() != want.Digest() {
		t.Errorf("the checkpoint counts %d tasks; the digest is %v, want %v", n, s.Digest(), want.Digest())
	}
}

// toFirstLayout takes out of a closed ledger what its first layout did not have.
func toFirstLayout(t testing.TB, dir string) {
	t.Helper()
	db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil))
	must(t, err)
	must(t, db.DropPrefix([]byte{prefixSums}, []byte{prefixHeader}, []byte{prefixEvidence}, keyCounted))
	must(t, db.Update(func(txn *badger.Txn) error {
		return txn.Set(keySchema, binary.BigEndian.AppendUint32(nil, 1))
	}), db.Close())
}

func TestLedgerOfTheFirstLayoutIsMigrated(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	for range 30 {
		_, r := c.next()
		must(t, s.Settle(r))
	}
	l, _ := c.next()
	must(t, s.Lock(l))
	digest, header := s.Digest(), *s.HighestHeader(1)
	must(t, s.Close())
	toFirstLayout(t, dir)
	check := func(when string, s *Store, counts uint64) {
		t.Helper()
		if s.Digest() != digest || s.HighestHeader(1) == nil || *s.HighestHeader(1) != header || s.HighestHeader(3) != nil {
			t.Errorf("%s: %v, %v; want %v, %v", when, s.Digest(), s.HighestHeader(1), digest, header)
		}
		if n := counted(t, s); n != counts {
			t.Errorf("%s: the checkpoint counts %d tasks, want %d", when, n, counts)
		}
		if v, err := s.Verify(); err != nil || v.Digest != digest {
			t.Errorf("%s: %+v, %v", when, v, err)
		}
	}
	for range 2 { // reading changes nothing
		ro, err := OpenReadOnly(dir)
		must(t, err)
		check("read only", ro, 0)
		if ro.version != 1 {
			t.Errorf("read only: layout %d", ro.version)
		}
		must(t, ro.Close())
	}
	s = openStore(t, dir, c.genesis)
	killed := crash(t, dir)
	check("migrated", s, 30)
	must(t, s.Close())
	for _, dir := range []string{dir, killed} {
		s = openStore(t, dir, c.genesis)
		check("opened again", s, 30)
		if s.version != schema {
			t.Errorf("layout %d", s.version)
		}
	}
}

func TestHighestHeadersAreKept(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	if s.HighestHeader(0) != nil {
		t.Error("a header in an empty ledger")
	}
	l, _ := c.next()
	_, late := c.next()
	_, latest := c.next()
	check := func(want ledger.Certificate) {
		t.Helper()
		for v := range 4 {
			got := s.HighestHeader(v)
			if v == 3 { // did not sign
				if got != nil {
					t.Errorf("validator 3: %+v", got)
				}
			} else if got == nil || *got != want.Proofs[v].Header {
				t.Errorf("validator %d: %+v, want %+v", v, got, want.Proofs[v].Header)
			}
		}
	}
	must(t, s.Lock(l))
	check(l.Votes)
	must(t, s.Settle(latest))
	check(latest.Settle)
	must(t, s.Settle(late)) // older
	check(latest.Settle)
	must(t, s.Close())
	s = openStore(t, dir, c.genesis)
	check(latest.Settle)
}

func TestEvidenceIsKept(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	proof := func(payer byte) *ledger.Evidence {
		e := &ledger.Evidence{Offence: ledger.TwoOrders}
		e.Orders[0].Statement.Payer = ledger.AccountID{payer}
		return e
	}
	for _, payer := range []byte{9, 2, 9} {
		must(t, s.PutEvidence(proof(payer)))
	}
	must(t, s.Close())
	s = openStore(t, dir, c.genesis)
	if got, err := s.Evidence(); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	d := ledger.Domain(c.genesis)
	if !s.HasEvidence(proof(9).ID(d)) || s.HasEvidence(proof(3).ID(d)) {
		t.Error("it does not know what it keeps")
	}
}

func TestBucketsListWhatTheDigestStandsFor(t *testing.T) {
	c := newChain(t)
	s := openStore(t, t.TempDir(), c.genesis)
	want := map[ledger.TaskID]bool{}
	for range 700 { // several to a bucket
		_, r := c.next()
		must(t, s.Settle(r))
		want[r.Task()] = true
	}
	must(t, s.Flush())
	again, n := ledger.NewSums(c.domain), 0
	for bucket, d := range s.BucketDigests() {
		own := ledger.NewSums(c.domain)
		for after := (ledger.TaskID{}); ; {
			page, err := s.BucketTasks(bucket, after, 2)
			must(t, err)
			for _, e := range page {
				if bytes.Compare(e.Task[:], after[:]) <= 0 || ledger.BucketOf(e.Task) != bucket || !want[e.Task] {
					t.Fatalf("bucket %d lists %s after %s", bucket, e.Task.Short(), after.Short())
				}
				own.Add(e.Task, e.Outcome)
				again.Add(e.Task, e.Outcome)
				after, n = e.Task, n+1
			}
			if len(page) < 2 {
				break
			}
		}
		if own.Digest() != d {
			t.Errorf("bucket %d has the digest %v, its tasks make %v", bucket, d, own.Digest())
		}
	}
	if n != len(want) || again.Digest() != s.Digest() || s.Digest().Tasks != n {
		t.Errorf("%d tasks make %v, the ledger says %v", n, again.Digest(), s.Digest())
	}
}
