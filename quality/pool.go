package quality

import (
	"context"
	"errors"
	"runtime"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/poqmesh/poq/crypto"
)

// ErrClosed is returned by [Pool.Score] for a pair that a closed [Pool] doesn't know.
var ErrClosed = errors.New("the judge's pool is closed")

// defaultEntries is how many scores a [Pool] remembers by default: about 10 MB.
const defaultEntries = 1 << 16

// defaultWorkers is one less than [runtime.GOMAXPROCS], at least one, and no more than there are cores. Goroutines that compute keep a
// processor of the runtime for ten milliseconds at a time: if all were judging, a peer's message would wait that long (see
// BenchmarkEchoBesideTheJudge). A program that sets GOMAXPROCS above the number of cores judges on all cores and leaves it to the
// operating system to let short work pass, which it does within microseconds.
func defaultWorkers() int { return max(1, min(runtime.NumCPU(), runtime.GOMAXPROCS(0)-1)) }

// PoolOptions bound what a [Pool] takes. The zero value is a good choice.
type PoolOptions struct {
	Workers int // pairs scored at a time; by default one less than the processors that Go uses, and at least one
	Entries int // scores remembered, the least recently used goes first; by default 65536
}

// Pool is the [Judge] that the peers of a process share. It scores at most a fixed number of pairs at a time, first come, first served;
// it computes a pair once, however many ask for it, and remembers the score.
type Pool struct {
	judge  Judge
	slots  chan struct{}
	scores *lru.Cache[pairKey, Score]

	mu      sync.Mutex
	closed  bool
	flights map[pairKey]*flight
	running sync.WaitGroup
}

var _ Judge = (*Pool)(nil)

// pairKey stands for a prompt and an answer. A pool has one judge, so the judge is no part of it.
type pairKey struct{ prompt, answer crypto.Hash }

func keyOf(prompt, answer string) pairKey {
	return pairKey{crypto.Sum([]byte(prompt)), crypto.Sum([]byte(answer))}
}

// flight is a pair that is being scored. It has a context of its own, which ends when the last one who waits for it has left.
type flight struct {
	waiting int // under Pool.mu
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when score and err are set
	score   Score
	err     error
}

// NewPool returns a pool that asks judge. It has no goroutines while nothing is being scored.
func NewPool(judge Judge, o PoolOptions) *Pool {
	if o.Workers <= 0 {
		o.Workers = defaultWorkers()
	}
	if o.Entries <= 0 {
		o.Entries = defaultEntries
	}
	scores, err := lru.New[pairKey, Score](o.Entries)
	if err != nil {
		panic(err) // only for a size that isn't positive
	}
	return &Pool{
		judge:   judge,
		slots:   make(chan struct{}, o.Workers),
		scores:  scores,
		flights: make(map[pairKey]*flight),
	}
}

// ID is the identity of the judge behind the pool.
func (p *Pool) ID() crypto.Hash { return p.judge.ID() }

// Put makes score the pool's answer for a pair, as if the judge had given it.
func (p *Pool) Put(prompt, answer string, score Score) { p.scores.Add(keyOf(prompt, answer), score) }

// Score returns the remembered score or waits for the judge's. If ctx ends before, the others who wait for the same pair still get
// theirs; when all have left, a pair that waits for its turn isn't scored. Errors aren't remembered.
func (p *Pool) Score(ctx context.Context, prompt, answer string) (Score, error) {
	key := keyOf(prompt, answer)
	if score, ok := p.scores.Get(key); ok {
		return score, nil
	}
	f, err := p.join(key, prompt, answer)
	if err != nil {
		return 0, err
	}
	select {
	case <-f.done:
		return f.score, f.err
	case <-ctx.Done():
		p.leave(key, f)
		return 0, ctx.Err()
	}
}

// join returns the flight of a pair and starts it if there is none.
func (p *Pool) join(key pairKey, prompt, answer string) (*flight, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[key]; f != nil {
		f.waiting++
		return f, nil
	}
	if score, ok := p.scores.Get(key); ok { // it landed between the caller's look and the lock
		f := &flight{score: score, done: make(chan struct{})}
		close(f.done)
		return f, nil
	}
	if p.closed {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &flight{waiting: 1, cancel: cancel, done: make(chan struct{})}
	p.flights[key] = f
	p.running.Go(func() {
		defer cancel(nil)
		f.score, f.err = p.compute(ctx, prompt, answer)
		if f.err == nil {
			p.scores.Add(key, f.score)
		}
		p.mu.Lock()
		if p.flights[key] == f {
			delete(p.flights, key)
		}
		p.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

// leave takes one who gave up from a flight, and ends the flight with the last. A later caller then starts anew.
func (p *Pool) leave(key pairKey, f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.waiting--
	if f.waiting == 0 && p.flights[key] == f {
		delete(p.flights, key)
		f.cancel(context.Canceled)
	}
}

// compute waits for a slot and asks the judge.
func (p *Pool) compute(ctx context.Context, prompt, answer string) (Score, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	score, err := p.judge.Score(ctx, prompt, answer)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return score, err
}

// Close refuses pairs the pool doesn't know, drops those that wait for their turn, and returns when none is being scored any more. It
// leaves the judge open, and may be called more than once.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	for key, f := range p.flights {
		delete(p.flights, key)
		f.cancel(ErrClosed)
	}
	p.mu.Unlock()
	p.running.Wait()
	return nil
}
