package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/gofrs/flock"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Errors a caller may branch on.
var (
	ErrNotFound  = errors.New("not found")
	ErrAmbiguous = errors.New("ambiguous")
	ErrInUse     = errors.New("in use by another process")
	ErrGenesis   = errors.New("ledger of another genesis")
	ErrClosed    = errors.New("ledger is closed")
	ErrBadID     = errors.New("no task id")
	ErrDiskFull  = errors.New("disk full")
)

// Bounds of what waits to be written.
const (
	maxPending      = 4096
	maxPendingBytes = 32 << 20
	// groupDelay is how long a write waits for others to share its sync, unless somebody waits for it.
	groupDelay = 2 * time.Millisecond
)

// minFree is the space that must be free for a group to be written. Badger writes through mapped memory,
// where a full disk is no error but the end of the process, so it must not come to that.
const minFree = 64 << 20

// BlobTTL is how long prompts and answers are kept.
const BlobTTL = 7 * 24 * time.Hour

// Store is a ledger in Badger. It is safe for concurrent use.
type Store struct{ Reader }

// Reader is a ledger as those see it who must not change it. It is safe for concurrent use; what it returns is the caller's, but
// for the genesis. It can be read until its [Store] is closed.
type Reader struct {
	dir     string
	db      *badger.DB
	genesis *ledger.Genesis
	version uint32 // of the layout on disk

	mu         sync.RWMutex
	state      *ledger.State
	seq        uint64 // number of settled tasks
	checkpoint *checkpoint
	headers    map[int]*ledger.Signed[ledger.BundleHeader] // by validator, the highest in a certificate
	pending    []write
	waiting    int        // bytes in pending
	changed    *sync.Cond // on mu: pending, written, closing or failed changed
	queued     uint64     // writes ever queued
	written    uint64     // of these, durable
	urgent     uint64     // somebody waits until so many are written
	closing    bool
	failed     error

	done      chan struct{} // the applier has ended
	collected chan struct{} // the collector has ended
	fail      chan struct{}

	reading sync.RWMutex // held for reading by reads from disk, for writing by Close
	closed  bool         // under reading
}

// Open opens the ledger in a directory and makes it if there is none. Only one process can have it
// open: another one gets ErrInUse. The genesis must be the one that the ledger began with.
func Open(dir string, g *ledger.Genesis) (*Store, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the ledger's directory: %w", err)
	}
	if err := checkSpace(dir); err != nil {
		return nil, err
	}
	s, err := open(dir, false)
	if err != nil {
		return nil, err
	}
	if err := s.begin(g); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	err = s.load()
	if err == nil && s.version < schema {
		err = s.migrate()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading the ledger in %s: %w", dir, err), s.db.Close())
	}
	go s.apply()
	go s.collect()
	return s, nil
}

// OpenReadOnly opens an existing ledger for reading; nothing in the directory is changed. While a
// process has the ledger open for writing it returns ErrInUse.
func OpenReadOnly(dir string) (*Store, error) {
	if _, err := os.Stat(filepath.Join(dir, "MANIFEST")); err != nil {
		return nil, fmt.Errorf("no ledger in %s: %w", dir, ErrNotFound)
	}
	s, err := open(dir, true)
	if err != nil {
		return nil, err
	}
	s.closing = true // nothing can be applied
	close(s.done)
	close(s.collected)
	err = s.view(func(txn *badger.Txn) error {
		_, err := s.readGenesis(txn)
		return err
	})
	if err == nil {
		err = s.load()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading the ledger in %s: %w", dir, err), s.db.Close())
	}
	return s, nil
}

func open(dir string, readOnly bool) (*Store, error) {
	o := badger.DefaultOptions(dir).
		WithReadOnly(readOnly).
		WithSyncWrites(true).
		WithDetectConflicts(false). // there is one writer
		WithLogger(nil).
		WithMetricsEnabled(false).
		// A ledger is small: these keep thirty of them in one process, at a few MB of memory each.
		WithMemTableSize(memTableSize).WithNumMemtables(2).
		// Receipts are written once and never change: in the value log they are not written again when
		// the tree is put in order.
		WithValueThreshold(valueThreshold).WithValueLogFileSize(32 << 20).
		WithBlockCacheSize(0).WithIndexCacheSize(0).WithCompression(options.None).
		WithNumCompactors(2).WithNumLevelZeroTables(4).WithNumLevelZeroTablesStall(8)
	if !readOnly {
		if err := removeEmptyLogs(dir); err != nil {
			return nil, fmt.Errorf("removing an empty file of the ledger: %w", err)
		}
	}
	db, err := badger.Open(o)
	switch {
	case err != nil && strings.Contains(err.Error(), "Cannot acquire directory lock"):
		return nil, fmt.Errorf("ledger in %s: %w; stop that one, or wait until it has ended", dir, ErrInUse)
	case err != nil && readOnly && strings.Contains(err.Error(), "truncate"):
		return nil, fmt.Errorf("the ledger in %s was not closed: start its network once and end it, then read it again (%w)", dir, err)
	case err != nil:
		return nil, fmt.Errorf("opening the ledger in %s: %w", dir, err)
	}
	s := &Store{Reader{dir: dir, db: db, headers: map[int]*ledger.Signed[ledger.BundleHeader]{}, done: make(chan struct{}), collected: make(chan struct{}), fail: make(chan struct{})}}
	s.changed = sync.NewCond(&s.mu)
	return s, nil
}

// removeEmptyLogs removes Badger's logs without a byte in them: a process that was killed had made one and not
// come to write. Badger does not start on it; removed, nothing is missing.
func removeEmptyLogs(dir string) error {
	if len(emptyLogs(dir)) == 0 {
		return nil
	}
	// A process that runs may have made the file this moment. Badger locks the directory itself in this way; on
	// Windows that can't be done, and a file that is in use can't be removed.
	lock := flock.New(dir, flock.SetFlag(os.O_RDONLY))
	if ok, err := lock.TryLock(); err == nil && !ok {
		return nil // Badger says so
	}
	var errs []error
	for _, f := range emptyLogs(dir) {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(append(errs, lock.Unlock())...)
}

func emptyLogs(dir string) (empty []string) {
	for _, pattern := range []string{"*.vlog", "*.mem"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern)) // the pattern is good
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Size() == 0 {
				empty = append(empty, f)
			}
		}
	}
	return empty
}

// begin writes the genesis into a new store, or compares it with that of an old one.
func (s *Store) begin(g *ledger.Genesis) error {
	return s.db.Update(func(txn *badger.Txn) error {
		old, err := s.readGenesis(txn)
		if err == nil {
			return sameGenesis(old, g)
		}
		if !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		data, err := json.Marshal(g)
		if err != nil {
			return fmt.Errorf("encoding the genesis: %w", err)
		}
		s.genesis, s.version = g, schema
		var w write
		w.set(keySchema, binary.BigEndian.AppendUint32(nil, schema))
		w.set(keyGenesis, data)
		for _, a := range g.Accounts {
			w.set(accountKey(a.ID), encodeAccount(ledger.Account{Balance: int64(a.Balance)}))
		}
		return newGroup([]write{w}).set(txn)
	})
}

// sameGenesis refuses another genesis than the ledger's.
func sameGenesis(own, other *ledger.Genesis) error {
	if own.Chain() == other.Chain() {
		return nil
	}
	return fmt.Errorf("%w: it began with chain %s, this is chain %s, which differs in %s; use another directory",
		ErrGenesis, own.Chain().Short(), other.Chain().Short(), own.Difference(other))
}

func (s *Store) readGenesis(txn *badger.Txn) (*ledger.Genesis, error) {
	version, err := value(txn, keySchema)
	if err != nil {
		return nil, err
	}
	if len(version) != 4 {
		return nil, fmt.Errorf("schema version: %w", crypto.ErrEncoding)
	}
	if s.version = binary.BigEndian.Uint32(version); s.version < 1 || s.version > schema {
		return nil, fmt.Errorf("the ledger in %s has layout %d, this poq knows layouts 1 to %d: use a newer poq", s.dir, s.version, schema)
	}
	data, err := value(txn, keyGenesis)
	if err != nil {
		return nil, err
	}
	s.genesis = new(ledger.Genesis)
	if err := json.Unmarshal(data, s.genesis); err != nil {
		return nil, fmt.Errorf("stored genesis: %w", err)
	}
	return s.genesis, s.genesis.Validate()
}

// load fills the state from disk. What an older layout lacks is made from the certificates.
func (s *Store) load() error {
	s.state = ledger.EmptyState(s.genesis)
	return s.view(func(txn *badger.Txn) error {
		for e, err := range scan(txn, prefixAccount) {
			if err != nil {
				return err
			}
			a, err := decodeAccount(e.value)
			if err != nil || len(e.key) != 32 {
				return fmt.Errorf("account %x: %w", e.key, errors.Join(err, crypto.ErrEncoding))
			}
			s.state.RestoreAccount(ledger.AccountID(e.key), a)
		}
		for e, err := range scan(txn, prefixNonce) {
			if err != nil {
				return err
			}
			if len(e.key) != 40 || len(e.value) != 32 {
				return fmt.Errorf("nonce %x: %w", e.key, crypto.ErrEncoding)
			}
			s.state.RestoreNonce(ledger.AccountID(e.key[:32]), binary.BigEndian.Uint64(e.key[32:]), ledger.TaskID(e.value))
		}
		for l, err := range openLocks(txn) {
			if err != nil {
				return err
			}
			o := l.Order.Statement
			s.state.RestoreEscrow(l.Votes.Vote.Task, ledger.Escrow{Payer: o.Payer, Fee: o.Fee})
		}
		var err error
		if s.checkpoint, err = readCheckpoint(txn, s.genesis); err != nil {
			return err
		}
		for e, err := range settledTasks(txn) {
			if err != nil {
				return err
			}
			s.state.RestoreSettled(e.task, e.outcome)
			s.checkpoint.add(e)
			s.seq = max(s.seq, e.seq+1)
		}
		s.state.RestoreSums(s.checkpoint.sums)
		if s.version < 2 {
			err = s.findHeaders(txn)
		} else {
			err = s.readHeaders(txn)
		}
		if err != nil {
			return err
		}
		return s.state.Check()
	})
}

// migrate writes what an older layout lacks, and the version with it: all of it or nothing.
func (s *Store) migrate() error {
	var w write
	s.checkpoint.write(&w, s.seq)
	for v, h := range s.headers {
		w.set(headerKey(v), ledger.EncodeHeader(*h))
	}
	w.set(keySchema, binary.BigEndian.AppendUint32(nil, schema))
	if err := s.db.Update(newGroup([]write{w}).set); err != nil {
		return fmt.Errorf("migrating from layout %d to %d: %w", s.version, schema, err)
	}
	s.version = schema
	return nil
}

// Close writes what is pending and closes the ledger. It may be called twice. If the ledger's files can't be put in
// order it gives up after ten seconds, and the process should end.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closing && s.failed == nil && s.checkpoint.counted < s.seq {
		var w write
		s.checkpoint.write(&w, s.seq)
		s.queue(w)
	}
	s.closing = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.done
	s.reading.Lock()
	s.closed = true
	s.reading.Unlock()
	closed := make(chan error, 1)
	go func() {
		err := s.db.Close()
		<-s.collected
		closed <- err
	}()
	var err error
	select {
	case err = <-closed:
	case <-time.After(closeTimeout):
		err = errors.New("the ledger's files could not be put in order before the end, which the next start does")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return errors.Join(s.failed, err)
}

// closeTimeout bounds how long Badger takes to close: if it can't write its last table, to a full disk for instance,
// it tries for ever. What was acknowledged is in its log by then.
const closeTimeout = 10 * time.Second

// Failed is closed when a write failed, for instance because the disk is full. From then on nothing
// can be applied: the process must stop. Err tells why.
func (s *Store) Failed() <-chan struct{} { return s.fail }

// Err returns why the store failed, nil if it did not.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failed
}

// Genesis returns the ledger's genesis, which must not be changed.
func (s *Reader) Genesis() *ledger.Genesis { return s.genesis }

// Applying

// Lock applies a LockCert that was verified. It implements [ledger.Ledger].
func (s *Store) Lock(l *ledger.LockCert) error {
	return s.change(func(w *write) error {
		task, o := l.Votes.Vote.Task, l.Order.Statement
		applied, err := s.state.Lock(task, o)
		if err != nil || !applied {
			return err
		}
		s.see(w, l.Votes)
		w.set(openKey(task), l.Encode())
		w.set(nonceKey(o.Payer, o.Nonce), task[:])
		w.set(accountKey(o.Payer), encodeAccount(s.state.Account(o.Payer)))
		return nil
	})
}

// Settle applies a receipt that was verified. It implements [ledger.Ledger].
func (s *Store) Settle(r *ledger.Receipt) error {
	return s.change(func(w *write) error {
		task, o, outcome := r.Task(), r.Order.Statement, r.Settle.Vote.Value
		applied, err := s.state.Settle(task, o, r.Outcome, outcome)
		if err != nil || !applied {
			return err
		}
		s.see(w, r.Settle, r.Seal.Votes, r.Lock)
		w.set(openKey(task), nil)
		w.set(nonceKey(o.Payer, o.Nonce), task[:])
		w.set(receiptKey(task), r.Encode())
		w.set(taskKey(task), append(outcome[:], u64(s.seq)...))
		w.set(seqKey(s.seq), append(task[:], u64(uint64(time.Now().UnixMilli()))...))
		w.set(accountKey(o.Payer), encodeAccount(s.state.Account(o.Payer)))
		for _, c := range r.Outcome.Credits {
			if c.Account != o.Payer {
				w.set(accountKey(c.Account), encodeAccount(s.state.Account(c.Account)))
			}
		}
		s.seq++
		s.checkpoint.touched[ledger.BucketOf(task)] = true
		if s.seq-s.checkpoint.counted >= checkpointEvery {
			s.checkpoint.write(w, s.seq)
		}
		return nil
	})
}

// PutBlob keeps a prompt or an answer for BlobTTL.
func (s *Store) PutBlob(data []byte) error {
	h := crypto.Sum(data)
	return s.change(func(w *write) error {
		w.entry(badger.NewEntry(blobKey(h), data).WithTTL(BlobTTL))
		return nil
	})
}

// PutOwn keeps an order of this peer, to be sent again after a restart. Nobody may see it before a [Store.Flush]
// that came after has returned: a payer that forgot an order would sign another one with its nonce. Orders become
// durable in the order in which they were put, so what a crash takes are the last ones.
func (s *Store) PutOwn(nonce uint64, m *ledger.OrderMessage) error {
	_, data := ledger.Encode(m)
	return s.change(func(w *write) error {
		w.set(ownKey(nonce), data)
		return nil
	})
}

// DeleteOwn forgets an own order that is settled.
func (s *Store) DeleteOwn(nonce uint64) error {
	return s.change(func(w *write) error {
		w.set(ownKey(nonce), nil)
		return nil
	})
}

// PutAnswer keeps what this peer is about to commit to, so that it does not commit to something else
// after a restart. It does not wait: a crash in the next milliseconds costs the worker its pay, nobody
// anything else. It expires like a text.
func (s *Store) PutAnswer(m *ledger.AnswerMessage) error {
	_, data := ledger.Encode(m)
	return s.change(func(w *write) error {
		w.entry(badger.NewEntry(answerKey(m.Answer.Statement.Task), data).WithTTL(BlobTTL))
		return nil
	})
}

// Answer returns what this peer committed to for a task, or ErrNotFound.
func (s *Reader) Answer(task ledger.TaskID) (m *ledger.AnswerMessage, err error) {
	err = s.get(answerKey(task), func(data []byte) error {
		d, err := ledger.Decode(ledger.TopicAnswer, data)
		if err != nil {
			return fmt.Errorf("own answer: %w", err)
		}
		m = d.(*ledger.AnswerMessage)
		return nil
	})
	return m, err
}

// change runs f, which changes the state and notes what to write, and queues the write.
func (s *Store) change(f func(w *write) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for (len(s.pending) >= maxPending || s.waiting >= maxPendingBytes) && s.failed == nil && !s.closing {
		s.changed.Wait()
	}
	if s.failed != nil {
		return fmt.Errorf("the ledger's disk failed: %w", s.failed)
	}
	if s.closing {
		return ErrClosed
	}
	var w write
	if err := f(&w); err != nil {
		return err
	}
	if len(w.entries) > 0 {
		s.queue(w)
		s.changed.Broadcast()
	}
	return nil
}

func (s *Store) queue(w write) {
	s.pending = append(s.pending, w)
	s.waiting += w.bytes
	s.queued++
}

// apply is the applier: the one goroutine that writes.
func (s *Store) apply() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closing {
			s.changed.Wait()
		}
		s.gather()
		pending := s.pending   // only the applier takes from it
		err := s.state.Check() // I6; I7 and I8 were asserted when the state changed
		s.mu.Unlock()
		if len(pending) == 0 {
			return // closing, and all is written
		}
		g := newGroup(pending)
		if err == nil {
			err = checkSpace(s.dir)
		}
		if err == nil {
			err = s.db.Update(g.set)
		}
		s.mu.Lock()
		if err != nil {
			s.failed, s.pending = brief(err), nil
			close(s.fail)
		} else {
			s.pending = s.pending[g.writes:]
			s.waiting -= g.bytes
			s.written += uint64(g.writes)
		}
		s.changed.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// brief cuts an error of Badger's that carries the value it is about.
func brief(err error) error {
	const most = 300
	if text := err.Error(); len(text) > most && !errors.Is(err, ErrDiskFull) {
		return errors.New(text[:most] + " ...")
	}
	return err
}

func checkSpace(dir string) error {
	free, err := FreeSpace(dir)
	if err != nil {
		return fmt.Errorf("looking for free space: %w", err)
	}
	if free < minFree {
		return fmt.Errorf("%w: %d MiB are free for %s, at least %d are needed: make room and start again", ErrDiskFull, free>>20, dir, minFree>>20)
	}
	return nil
}

// gather lets writes come together for groupDelay, less if somebody waits or a group is full.
func (s *Store) gather() {
	late := false
	timer := time.AfterFunc(groupDelay, func() {
		s.mu.Lock()
		late = true
		s.changed.Broadcast()
		s.mu.Unlock()
	})
	defer timer.Stop()
	for !late && !s.closing && s.urgent <= s.written && len(s.pending) < maxGroup {
		s.changed.Wait()
	}
}

// Flush waits until everything applied before the call is durable.
func (s *Reader) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	target := s.queued
	s.urgent = max(s.urgent, target)
	s.changed.Broadcast()
	for s.written < target && s.failed == nil {
		s.changed.Wait()
	}
	return s.failed
}

// Reading

// Account returns an account. It implements [ledger.Ledger].
func (s *Reader) Account(id ledger.AccountID) ledger.Account {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Account(id)
}

// LockedAt implements [ledger.Ledger].
func (s *Reader) LockedAt(payer ledger.AccountID, nonce uint64) (ledger.TaskID, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.LockedAt(payer, nonce)
}

// IsSettled implements [ledger.Ledger].
func (s *Reader) IsSettled(task ledger.TaskID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.state.Settled(task)
	return ok
}

// IsLocked reports whether a task's fee is in escrow or was paid out.
func (s *Reader) IsLocked(task ledger.TaskID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, open := s.state.Escrow(task)
	_, settled := s.state.Settled(task)
	return open || settled
}

// AccountEntry is an account with its id.
type AccountEntry struct {
	ID ledger.AccountID
	ledger.Account
}

// Summary is the ledger at one moment.
type Summary struct {
	Accounts []AccountEntry // ascending by id; what is burned stands under the zero id
	Tasks    int            // settled
	Open     int            // tasks whose fee is in escrow
	Escrow   ledger.Amount
}

// Summary returns all accounts and sums, taken at one moment.
func (s *Reader) Summary() Summary {
	s.mu.RLock()
	sum := Summary{Tasks: s.state.Tasks()}
	sum.Open, sum.Escrow = s.state.Escrowed()
	accounts := s.state.CopyAccounts()
	s.mu.RUnlock() // sorting must not hold up what settles
	for _, id := range slices.SortedFunc(maps.Keys(accounts), ledger.AccountID.Compare) {
		sum.Accounts = append(sum.Accounts, AccountEntry{id, accounts[id]})
	}
	return sum
}

// Totals are the ledger's sums and what it takes, quick to get.
type Totals struct {
	Tasks    int           // settled
	Open     int           // tasks whose fee is in escrow
	Escrow   ledger.Amount // these fees
	Waiting  int           // writes that are not durable yet
	Tables   int64         // bytes of Badger's tables on disk, as Badger counted once in the last minute
	ValueLog int64         // bytes of Badger's logs, likewise
	Free     uint64        // bytes that are free on the disk; 0 if the system does not tell
}

// Totals returns the sums at one moment.
func (s *Reader) Totals() Totals {
	s.mu.RLock()
	t := Totals{Tasks: s.state.Tasks(), Waiting: len(s.pending)}
	t.Open, t.Escrow = s.state.Escrowed()
	s.mu.RUnlock()
	t.Tables, t.ValueLog = s.db.Size()
	t.Free, _ = FreeSpace(s.dir) // 0 says it
	return t
}

// Receipt returns the receipt of a settled task, or ErrNotFound. A receipt is there a few
// milliseconds after its task settled: Flush waits for it.
func (s *Reader) Receipt(task ledger.TaskID) (r *ledger.Receipt, err error) {
	err = s.get(receiptKey(task), func(data []byte) (err error) {
		r, err = ledger.DecodeReceipt(data)
		return err
	})
	return r, err
}

// SignedOrder returns the order of a task that was locked or settled. It implements [ledger.Ledger].
func (s *Reader) SignedOrder(task ledger.TaskID) (o ledger.Signed[ledger.Order], ok bool) {
	if err := s.Flush(); err != nil { // what was applied just now is to be found
		return o, false
	}
	if r, err := s.Receipt(task); err == nil {
		return r.Order, true
	}
	err := s.get(openKey(task), func(data []byte) error {
		l, err := ledger.DecodeLock(data)
		if err == nil {
			o = l.Order
		}
		return err
	})
	return o, err == nil
}

// Blob returns a prompt or an answer, or ErrNotFound when it is unknown or expired.
func (s *Reader) Blob(h crypto.Hash) (data []byte, err error) {
	err = s.get(blobKey(h), func(d []byte) error {
		data = d
		return nil
	})
	return data, err
}

// view reads from disk; after Close it returns ErrClosed, since Badger's memory maps are gone then.
func (s *Reader) view(f func(txn *badger.Txn) error) error {
	s.reading.RLock()
	defer s.reading.RUnlock()
	if s.closed {
		return ErrClosed
	}
	return s.db.View(f)
}

func (s *Reader) get(k []byte, f func(data []byte) error) error {
	return s.view(func(txn *badger.Txn) error {
		data, err := value(txn, k)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return f(data)
	})
}

// OpenLocks returns the lock certificates of the tasks that are not settled.
func (s *Reader) OpenLocks() (locks []*ledger.LockCert, err error) {
	err = s.view(func(txn *badger.Txn) error {
		for l, err := range openLocks(txn) {
			if err != nil {
				return err
			}
			locks = append(locks, l)
		}
		return nil
	})
	return locks, err
}

// OwnOrders returns the orders of this peer that may not be settled, by nonce.
func (s *Reader) OwnOrders() (orders []*ledger.OrderMessage, err error) {
	err = s.view(func(txn *badger.Txn) error {
		for e, err := range scan(txn, prefixOwn) {
			if err != nil {
				return err
			}
			m, err := ledger.Decode(ledger.TopicOrder, e.value)
			if err != nil {
				return fmt.Errorf("own order %x: %w", e.key, err)
			}
			orders = append(orders, m.(*ledger.OrderMessage))
		}
		return nil
	})
	return orders, err
}

// TaskEntry is a settled task in the order in which it was settled here.
type TaskEntry struct {
	Task    ledger.TaskID
	Settled time.Time // by this peer's clock
}

// Tasks returns the last n settled tasks, newest first.
func (s *Reader) Tasks(n int) (tasks []TaskEntry, err error) {
	err = s.view(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Reverse, o.Prefix = true, []byte{prefixSeq}
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek([]byte{prefixSeq + 1}); it.Valid() && len(tasks) < n; it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if len(v) != 40 {
				return fmt.Errorf("task list: %w", crypto.ErrEncoding)
			}
			tasks = append(tasks, TaskEntry{ledger.TaskID(v[:32]), time.UnixMilli(int64(binary.BigEndian.Uint64(v[32:])))})
		}
		return nil
	})
	return tasks, err
}

// Resolve finds the task, settled or open, whose id begins with hex digits. It returns ErrNotFound
// or ErrAmbiguous.
func (s *Reader) Resolve(prefix string) (task ledger.TaskID, err error) {
	prefix = strings.ToLower(prefix)
	whole, odd := prefix, len(prefix)%2 == 1
	if odd {
		whole = prefix[:len(prefix)-1]
	}
	start, err := hex.DecodeString(whole)
	if err != nil || len(prefix) > 64 || prefix == "" {
		return task, fmt.Errorf("%w: %q: want up to 64 hex digits", ErrBadID, prefix)
	}
	var found []ledger.TaskID
	err = s.view(func(txn *badger.Txn) error {
		for _, p := range []byte{prefixTask, prefixOpen} {
			for e, err := range scan(txn, p, start...) {
				if err != nil {
					return err
				}
				id := ledger.TaskID(append(bytes.Clone(start), e.key...))
				if strings.HasPrefix(id.String(), prefix) {
					found = append(found, id)
				}
				if len(found) > 1 {
					return fmt.Errorf("%w: more than one task begins with %s, among them %s and %s", ErrAmbiguous, prefix, found[0].Short(), found[1].Short())
				}
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return task, err
	case len(found) == 0:
		return task, fmt.Errorf("task %s: %w", prefix, ErrNotFound)
	}
	return found[0], nil
}

type item struct{ key, value []byte } // key without what was scanned for

// scan iterates over the keys that begin with a prefix, in ascending order.
func scan(txn *badger.Txn, prefix byte, more ...byte) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		start := key(prefix, more)
		o := badger.DefaultIteratorOptions
		o.Prefix = start
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			k := it.Item().KeyCopy(nil)
			v, err := it.Item().ValueCopy(nil)
			if !yield(item{k[len(start):], v}, err) {
				return
			}
		}
	}
}

func openLocks(txn *badger.Txn) iter.Seq2[*ledger.LockCert, error] {
	return func(yield func(*ledger.LockCert, error) bool) {
		for e, err := range scan(txn, prefixOpen) {
			var l *ledger.LockCert
			if err == nil {
				l, err = ledger.DecodeLock(e.value)
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

func settledTasks(txn *badger.Txn) iter.Seq2[settled, error] {
	return func(yield func(settled, error) bool) {
		for e, err := range scan(txn, prefixTask) {
			var t settled
			if err == nil {
				t, err = decodeTask(e.key, e.value)
			}
			if !yield(t, err) {
				return
			}
		}
	}
}

func receipts(txn *badger.Txn) iter.Seq2[*ledger.Receipt, error] {
	return func(yield func(*ledger.Receipt, error) bool) {
		for e, err := range scan(txn, prefixReceipt) {
			var r *ledger.Receipt
			if err == nil {
				r, err = ledger.DecodeReceipt(e.value)
			}
			if err == nil && !bytes.Equal(e.key, r.Settle.Vote.Task[:]) {
				err = fmt.Errorf("receipt of task %s is stored as that of %x", r.Task().Short(), e.key)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func value(txn *badger.Txn, k []byte) ([]byte, error) {
	i, err := txn.Get(k)
	if err != nil {
		return nil, err
	}
	return i.ValueCopy(nil)
}
