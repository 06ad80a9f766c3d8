package apikeys

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// ErrUnknownKey says that a key is missing, was revoked or never was one.
var ErrUnknownKey = errors.New("not an API key")

// LimitError says that a key may not spend so much.
type LimitError struct {
	Name  string
	Limit ledger.Amount
	Usage
	Fee ledger.Amount
}

// Error names the limit and what is left of it.
func (e *LimitError) Error() string {
	f := func(a ledger.Amount) string { return ledger.FormatAmount(int64(a)) }
	return fmt.Sprintf("API key %s may spend %s credits: %s are spent, %s are reserved for open tasks, and this one's fee is %s; poq api-keys set raises the limit",
		e.Name, f(e.Limit), f(e.Spent), f(e.Reserved), f(e.Fee))
}

// Guard knows the keys of a peer's directory, and counts what they spend. It sees changes of the keys at once. It is safe for
// concurrent use; only one may be open for a directory.
type Guard struct {
	dir  string
	cost func(ledger.TaskID) (ledger.Amount, bool)
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	seen    fs.FileInfo // of the file that keys were read from; nil without one
	keys    []Key
	unread  error // why they could not be read
	buckets map[crypto.Hash]*rate.Limiter
	book    *book
	log     writer
	dirty   bool  // the log has lines that are not synced
	failed  error // of a write: nothing may be spent that is not counted
}

// syncEvery is how long what was spent may be lost to a power failure. At the same pace the ledger is asked about tasks that
// nobody waits for.
const syncEvery = time.Second

// Open opens the keys of a directory; there may be none. cost tells what a task cost in µ-credits once it is settled.
func Open(dir string, cost func(ledger.TaskID) (ledger.Amount, bool)) (*Guard, error) {
	b, err := readBook(dir)
	if err != nil {
		return nil, err
	}
	g := &Guard{dir: dir, cost: cost, stop: make(chan struct{}), done: make(chan struct{}), buckets: map[crypto.Hash]*rate.Limiter{}, book: b}
	if err := g.load(); err != nil {
		return nil, err
	}
	g.log.path = filepath.Join(dir, usageFile)
	if _, err := os.Stat(g.log.path); err == nil {
		g.forget()
		if err := g.log.rewrite(b); err != nil { // it may end in half a line
			return nil, err
		}
	}
	go g.run()
	return g, nil
}

// Close writes down what was counted.
func (g *Guard) Close() error {
	close(g.stop)
	<-g.done
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Join(g.failed, g.log.close())
}

func (g *Guard) run() {
	defer close(g.done)
	t := time.NewTicker(syncEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			g.collect()
			g.sync()
		case <-g.stop:
			return
		}
	}
}

func (g *Guard) sync() {
	g.mu.Lock()
	f := g.log.f
	if !g.dirty {
		f = nil
	}
	g.dirty = false
	g.mu.Unlock()
	if f == nil {
		return
	}
	if err := f.Sync(); err != nil && !errors.Is(err, os.ErrClosed) { // if it was rewritten meanwhile it is synced
		g.mu.Lock()
		defer g.mu.Unlock()
		g.fail(err)
	}
}

func (g *Guard) fail(err error) {
	if g.failed == nil && err != nil {
		g.failed = fmt.Errorf("counting what API keys spend: %w", err)
	}
}

// load reads the keys again if their file is another one. Files are replaced, never written to.
func (g *Guard) load() error {
	info, err := os.Stat(Path(g.dir))
	if errors.Is(err, fs.ErrNotExist) {
		g.seen, g.keys, g.unread = nil, nil, nil
		return nil
	}
	if err == nil && g.seen != nil && os.SameFile(info, g.seen) && info.ModTime().Equal(g.seen.ModTime()) && info.Size() == g.seen.Size() {
		return g.unread
	}
	if err != nil {
		return fmt.Errorf("reading API keys: %w", err)
	}
	g.seen = info
	g.keys, g.unread = List(g.dir)
	if g.unread != nil {
		return g.unread
	}
	buckets := map[crypto.Hash]*rate.Limiter{}
	for _, k := range g.keys {
		if k.Rate == 0 {
			continue
		}
		b, perSecond := g.buckets[k.Hash], rate.Limit(k.Rate)/60
		switch {
		case b == nil:
			b = rate.NewLimiter(perSecond, k.Rate)
		case b.Burst() != k.Rate:
			b.SetLimit(perSecond)
			b.SetBurst(k.Rate)
		}
		buckets[k.Hash] = b
	}
	g.buckets = buckets
	return nil
}

// forget drops what keys spent that are gone, unless a task of theirs is open.
func (g *Guard) forget() {
	if g.seen == nil || g.unread != nil { // which ones are gone is not known
		return
	}
	for hash, u := range g.book.usage {
		if u.Reserved == 0 && g.key(hash) == nil {
			delete(g.book.usage, hash)
		}
	}
}

func (g *Guard) key(hash crypto.Hash) (found *Key) {
	for i := range g.keys { // all of them: the time tells nothing
		if subtle.ConstantTimeCompare(g.keys[i].Hash[:], hash[:]) == 1 {
			found = &g.keys[i]
		}
	}
	return found
}

// Wanted reports whether a key is asked for: once there was one, until the file is removed.
func (g *Guard) Wanted() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.load()
	return g.seen != nil, err
}

// Caller is who came with a key. It is for one request.
type Caller struct {
	guard  *Guard
	key    Key
	bucket *rate.Limiter // nil without a limit
}

// Admit finds who comes with a secret. The error wraps [ErrUnknownKey] if it is none.
func (g *Guard) Admit(secret string) (*Caller, error) {
	hash := crypto.Sum([]byte(secret))
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.load(); err != nil {
		return nil, err
	}
	k := g.key(hash)
	if k == nil {
		return nil, ErrUnknownKey
	}
	return &Caller{g, *k, g.buckets[hash]}, nil
}

// Name is the key's name.
func (c *Caller) Name() string { return c.key.Name }

// Rate is how a key stands with its rate: a bucket of a minute's requests that fills evenly.
type Rate struct {
	Limit     int           // requests a minute
	Remaining int           // that may come at once
	Reset     time.Duration // until the bucket is full
	Wait      time.Duration // until the next request, if this one was too much
}

// Take counts a request, and reports whether it may come. A key without a limit has a zero Rate.
func (c *Caller) Take(now time.Time) (r Rate, ok bool) {
	if c.bucket == nil {
		return r, true
	}
	ok = c.bucket.AllowN(now, 1)
	tokens := c.bucket.TokensAt(now)
	after := func(missing float64) time.Duration {
		return time.Duration(max(0, missing) / float64(c.bucket.Limit()) * float64(time.Second))
	}
	r = Rate{Limit: c.key.Rate, Remaining: int(max(0, tokens)), Reset: after(float64(c.key.Rate) - tokens)}
	if !ok {
		r.Wait = after(1 - tokens)
	}
	return r, ok
}

// Spending is a fee that is reserved. It is for one goroutine.
type Spending struct {
	guard *Guard
	key   crypto.Hash
	fee   ledger.Amount
	task  ledger.TaskID // zero before it is ordered
	ended bool
}

// Reserve reserves a fee, or returns a [*LimitError]. The caller must call End in any case.
func (c *Caller) Reserve(fee ledger.Amount) (*Spending, error) {
	g := c.guard
	s, err := g.reserve(c.key, fee)
	if limit := (*LimitError)(nil); errors.As(err, &limit) && limit.Reserved > 0 {
		g.collect() // what is reserved may be settled
		s, err = g.reserve(c.key, fee)
	}
	return s, err
}

func (g *Guard) reserve(k Key, fee ledger.Amount) (*Spending, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != nil {
		return nil, g.failed
	}
	u := g.book.of(k.Hash)
	if used := u.Spent + u.Reserved; k.Limit > 0 && (used > k.Limit || fee > k.Limit-used) {
		return nil, &LimitError{k.Name, k.Limit, *u, fee}
	}
	u.Reserved += fee
	return &Spending{guard: g, key: k.Hash, fee: fee}, nil
}

// Ordered says which task the fee is for. From now on it is reserved across restarts, until the task is settled. What it says
// after the first time is ignored.
func (s *Spending) Ordered(task ledger.TaskID) {
	if !s.task.IsZero() || s.ended {
		return
	}
	s.task = task
	g := s.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	g.book.of(s.key).Reserved -= s.fee // the record reserves it again
	g.note(record{Key: s.key, Task: task, Fee: s.fee})
	if o := g.book.open[task]; o != nil {
		o.left = false
	}
}

// Settled says what the task cost.
func (s *Spending) Settled(task ledger.TaskID, cost ledger.Amount) {
	s.Ordered(task)
	g := s.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	s.ended = true
	g.settle(s.key, task, cost)
}

// End gives the fee back if nothing was ordered. If the task is open, the guard waits for its end in the ledger.
func (s *Spending) End() {
	if s.ended {
		return
	}
	s.ended = true
	g := s.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.task.IsZero() {
		g.book.of(s.key).Reserved -= s.fee
	} else if o := g.book.open[s.task]; o != nil {
		o.left = true
	}
}

func (g *Guard) settle(key crypto.Hash, task ledger.TaskID, cost ledger.Amount) {
	g.note(record{Key: key, Task: task, Cost: &cost})
}

// note writes a line and counts it.
func (g *Guard) note(e record) {
	if err := g.book.apply(e); err != nil {
		g.fail(err)
		return
	}
	if g.failed != nil { // half a line may be the last one
		return
	}
	g.dirty = true
	g.fail(g.log.append(e))
	if g.failed == nil && g.log.long() {
		g.forget()
		g.fail(g.log.rewrite(g.book))
	}
}

// collect asks the ledger about tasks that nobody waits for.
func (g *Guard) collect() {
	g.mu.Lock()
	left := map[ledger.TaskID]crypto.Hash{}
	for task, o := range g.book.open {
		if o.left {
			left[task] = o.key
		}
	}
	g.mu.Unlock()
	for task, key := range left {
		cost, settled := g.cost(task) // which may wait for the disk
		if !settled {
			continue
		}
		g.mu.Lock()
		if g.book.open[task] != nil { // else somebody else was faster
			g.settle(key, task, cost)
		}
		g.mu.Unlock()
	}
}
