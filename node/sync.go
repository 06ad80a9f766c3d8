package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/p2p"
)

// How a node keeps up with others. Together these bound the memory that it takes beside the ledger's own:
// syncPeers * syncAhead responses of syncBytes, and what they decode to.
const (
	syncPeers = 3   // peers that are worked with side by side
	syncAhead = 2   // responses with receipts that are under way from each of them
	syncBatch = 256 // receipts that are asked for at once
	// syncTurn is how long one peer is worked with before others that wait get their turn: who answers slowly must
	// not keep those away that do not.
	syncTurn = time.Minute
	// syncEvery is the mean time after which a node compares its digest with that of a peer chosen at random.
	syncEvery = 30 * time.Second
	// syncTimeout is how long one response may take.
	syncTimeout = 10 * time.Second
	// syncQueue bounds the peers that wait for their turn.
	syncQueue = 256
	// verifyChunk is how many receipts are verified in one batch of signatures: 10 ms of one processor.
	verifyChunk = 64
	// applyChunk is how many are applied in one turn of the node's loop: under 1 ms.
	applyChunk = 16
	// maxOpenTaken bounds the open tasks that are taken from one peer's list.
	maxOpenTaken = 1 << 16
)

// errLie is wrapped when what a peer says contradicts itself or the protocol. The peer is not asked again
// for lieTime.
var errLie = errors.New("the peer's ledger does not hold")

const lieTime = time.Hour

func lie(format string, a ...any) error {
	return fmt.Errorf("%w: %w", errLie, fmt.Errorf(format, a...))
}

// remote is a peer's ledger, as far as it tells of it. It implements digests.
type remote struct {
	node *Node
	peer peer.ID
}

// request asks a peer. A response that is no answer to the question is a lie.
func request[T any](ctx context.Context, r remote, a ask, decode func([]byte) (T, error)) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	data, err := r.node.host.Request(ctx, r.peer, protocolSync, a.encode(), a.maxAnswer())
	if errors.Is(err, p2p.ErrTooLarge) {
		return v, lie("%w", err)
	}
	if err != nil {
		return v, err
	}
	if v, err = decode(data); err != nil {
		return v, lie("%w", err)
	}
	return v, nil
}

func (r remote) Digest(ctx context.Context) (ledger.Digest, error) {
	d, err := request(ctx, r, ask{kind: askDigest}, func(b []byte) ([]ledger.Digest, error) { return decodeDigests(b, 1) })
	if err != nil {
		return ledger.Digest{}, err
	}
	return d[0], nil
}

func (r remote) BucketDigests(ctx context.Context) ([]ledger.Digest, error) {
	return request(ctx, r, ask{kind: askBuckets}, func(b []byte) ([]ledger.Digest, error) { return decodeDigests(b, ledger.Buckets) })
}

// BucketTasks checks the list by what was told of it. A ledger only grows, so the list must have as many tasks as the digest
// that was told before counts, and if it has no more, make that digest.
func (r remote) BucketTasks(ctx context.Context, bucket int, told ledger.Digest) iter.Seq2[store.BucketTask, error] {
	return func(yield func(store.BucketTask, error) bool) {
		sums := ledger.NewSums(r.node.domain)
		for after := (ledger.TaskID{}); ; {
			page, err := request(ctx, r, ask{kind: askTasks, bucket: bucket, after: after}, decodeBucketTasks)
			if err != nil {
				yield(store.BucketTask{}, err)
				return
			}
			for _, t := range page {
				if ledger.BucketOf(t.Task) != bucket || bytes.Compare(t.Task[:], after[:]) <= 0 {
					yield(t, lie("bucket %d lists %s after %s", bucket, t.Task.Short(), after.Short()))
					return
				}
				after = t.Task
				sums.Add(t.Task, t.Outcome)
				if !yield(t, nil) {
					return
				}
			}
			if len(page) < syncPage {
				break
			}
		}
		switch got := sums.BucketDigest(bucket); {
		case got.Tasks < told.Tasks:
			yield(store.BucketTask{}, lie("bucket %d lists %d tasks, its digest is of %d", bucket, got.Tasks, told.Tasks))
		case got.Tasks == told.Tasks && got != told:
			yield(store.BucketTask{}, lie("bucket %d lists tasks that do not make its digest", bucket))
		}
	}
}

// parts fetches what is asked for of each task from the first on, as many as the peer's response holds.
func (r remote) parts(ctx context.Context, kind askKind, tasks []ledger.TaskID) ([][]byte, error) {
	size := 0
	parts, err := request(ctx, r, ask{kind: kind, tasks: tasks}, func(b []byte) ([][]byte, error) {
		size = len(b)
		return decodeParts(b, len(tasks))
	})
	if err == nil && len(parts) < len(tasks) && size+partHeader+ledger.MaxMessage <= syncBytes {
		return nil, lie("%d of %d parts in a response of %d bytes, where more have room", len(parts), len(tasks), size)
	}
	return parts, err
}

// receipts fetches the receipts of listed tasks from the first on, as many as a response holds, and
// verifies them. A receipt proves itself, so it does not matter who sends it.
func (r remote) receipts(ctx context.Context, listed []store.BucketTask) ([]ledger.Verified, error) {
	tasks := make([]ledger.TaskID, len(listed))
	for i, t := range listed {
		tasks[i] = t.Task
	}
	parts, err := r.parts(ctx, askReceipts, tasks)
	if err != nil {
		return nil, err
	}
	verified := make([]ledger.Verified, len(parts))
	var g errgroup.Group
	for begin := 0; begin < len(parts); begin += verifyChunk {
		r.node.syncer.cores <- struct{}{}
		g.Go(func() error {
			defer func() { <-r.node.syncer.cores }()
			end := min(begin+verifyChunk, len(parts))
			v, err := r.node.checkReceipts(parts[begin:end], listed[begin:end])
			copy(verified[begin:], v)
			return err
		})
	}
	return verified, g.Wait()
}

// checkReceipts decodes and verifies receipts that should be those of listed tasks.
func (n *Node) checkReceipts(parts [][]byte, listed []store.BucketTask) ([]ledger.Verified, error) {
	receipts := make([]*ledger.Receipt, len(parts))
	for i, data := range parts {
		if len(data) == 0 {
			return nil, lie("receipt of task %s: it is listed, and not there", listed[i].Task.Short())
		}
		r, err := ledger.DecodeReceipt(data)
		if err != nil {
			return nil, lie("receipt of task %s: %w", listed[i].Task.Short(), err)
		}
		if vote := r.Settle.Vote; vote.Task != listed[i].Task || vote.Value != listed[i].Outcome {
			return nil, lie("receipt of task %s: it is of another task or outcome than listed", listed[i].Task.Short())
		}
		receipts[i] = r
	}
	verified, err := n.verifier.Receipts(receipts)
	if err != nil {
		return nil, lie("%w", err)
	}
	return verified, nil
}

// syncer compares the node's ledger with those of peers and fetches what is missing: with each peer when
// it connects, and from time to time with one chosen at random, so that whoever missed a receipt gets it.
type syncer struct {
	node  *Node
	every time.Duration
	wake  chan struct{}
	cores chan struct{} // held while verifying: as many as there are processors
	// current is set once this ledger lacked nothing that a peer had: what others say and does not fit it may
	// then be held against them.
	current atomic.Bool

	mu     sync.Mutex
	queue  []peer.ID                       // to be compared with
	claims map[ledger.TaskID]chan struct{} // tasks that are being fetched; closed when that ended
	liars  *lru.Cache[peer.ID, time.Time]  // when they lied
	known  *lru.Cache[ledger.TaskID, bool] // conflicts that are known
}

func newSyncer(n *Node) *syncer {
	liars, err := lru.New[peer.ID, time.Time](1024)
	if err != nil {
		panic(err) // the size is positive
	}
	known, err := lru.New[ledger.TaskID, bool](1024)
	if err != nil {
		panic(err)
	}
	return &syncer{
		node: n, every: n.cfg.syncEvery, wake: make(chan struct{}, 1), cores: make(chan struct{}, runtime.NumCPU()),
		claims: map[ledger.TaskID]chan struct{}{}, liars: liars, known: known,
	}
}

// add has peers compared with, soon.
func (s *syncer) add(peers ...peer.ID) {
	s.mu.Lock()
	for _, p := range peers {
		if len(s.queue) < syncQueue && !slices.Contains(s.queue, p) {
			s.queue = append(s.queue, p)
		}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// addAny adds a connected peer, chosen at random.
func (s *syncer) addAny() {
	peers := slices.DeleteFunc(s.node.host.Peers(), s.lied)
	if len(peers) > 0 {
		s.add(peers[rand.IntN(len(peers))])
	}
}

func (s *syncer) lied(p peer.ID) bool {
	at, ok := s.liars.Get(p)
	return ok && time.Since(at) < lieTime
}

// next takes the first peer from the queue that may be compared with now.
func (s *syncer) next(active map[peer.ID]bool) (p peer.ID, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.DeleteFunc(s.queue, func(p peer.ID) bool { return s.lied(p) || !s.node.host.Connected(p) })
	i := slices.IndexFunc(s.queue, func(p peer.ID) bool { return !active[p] })
	if i < 0 {
		return p, false
	}
	p = s.queue[i]
	s.queue = slices.Delete(s.queue, i, i+1)
	return p, true
}

func (s *syncer) run() {
	ctx := s.node.ctx
	ended, active := make(chan peer.ID), map[peer.ID]bool{}
	pause := func() time.Duration { return s.every/2 + rand.N(s.every) }
	tick := time.NewTimer(pause())
	defer tick.Stop()
	for {
		for len(active) < syncPeers {
			p, ok := s.next(active)
			if !ok {
				break
			}
			active[p] = true
			s.node.tasks.Go(func() {
				s.with(ctx, p)
				select {
				case ended <- p:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-s.wake:
		case <-tick.C:
			s.addAny()
			tick.Reset(pause())
		case p := <-ended:
			delete(active, p)
		case <-ctx.Done():
			return
		}
	}
}

// with works with one peer until it has nothing that this ledger lacks, or its turn is over.
func (s *syncer) with(ctx context.Context, p peer.ID) {
	ctx, cancel := context.WithTimeout(ctx, syncTurn)
	defer cancel()
	r, all, begin := remote{s.node, p}, 0, time.Now()
	again, err := true, error(nil)
	for again && err == nil {
		var got int
		got, again, err = s.pass(ctx, r)
		all += got
		s.node.meter.synced(got, again, err)
	}
	log := s.node.heard.With("from", p)
	if all > 0 {
		log.Info("caught up with peer", "settlements", all, "in", time.Since(begin))
	}
	switch {
	case err == nil:
		s.current.Store(true)
	case s.node.ctx.Err() != nil:
	case errors.Is(err, errLie):
		s.node.host.Fault(p, p2p.FaultLie)
		log.Warn("peer is not asked for its ledger any more", "error", err)
		s.liars.Add(p, time.Now())
		s.addAny()
	case ctx.Err() != nil:
		s.add(p)
	default:
		log.Info("not caught up with peer", "error", err) // another one comes with the next tick
	}
}

// pass compares the ledgers once and fetches what is missing here. It tells how many settlements came,
// and whether to compare again.
func (s *syncer) pass(ctx context.Context, r remote) (got int, again bool, err error) {
	theirs, err := r.Digest(ctx)
	if err != nil {
		return 0, false, err
	}
	s.node.meter.compared(theirs == s.node.store.Digest())
	if theirs != s.node.store.Digest() {
		if got, again, err = s.fetchMissing(ctx, r); err != nil {
			return got, false, err
		}
	}
	return got, again, s.takeOpen(ctx, r)
}

func (s *syncer) fetchMissing(ctx context.Context, r remote) (got int, again bool, err error) {
	group, fetching := errgroup.WithContext(ctx)
	group.SetLimit(syncAhead)
	f := fetch{syncer: s, remote: r, group: group}
	err = f.list(fetching)
	if e := group.Wait(); e != nil {
		err = e // the cause; the list ended for it
	}
	s.release(f.batch)
	if err != nil {
		return f.got, false, err
	}
	for _, done := range f.elsewhere {
		select {
		case <-done:
		case <-ctx.Done():
			return f.got, false, ctx.Err()
		}
	}
	return f.got, f.got > 0 || len(f.elsewhere) > 0, nil
}

// fetch is one pass over a peer's buckets.
type fetch struct {
	*syncer
	remote    remote
	group     *errgroup.Group
	batch     []store.BucketTask // claimed, not asked for yet
	elsewhere []<-chan struct{}  // ends of what another peer is asked for meanwhile

	mu  sync.Mutex
	got int // receipts applied
}

// list goes through the buckets in which the ledgers differ. Listing is never further ahead of fetching
// than syncAhead batches, so a peer can't list without end what it does not have.
func (f *fetch) list(ctx context.Context) error {
	theirs, err := f.remote.BucketDigests(ctx)
	if err != nil {
		return err
	}
	first := rand.IntN(ledger.Buckets) // peers that are asked side by side are asked for different things
	for i := range ledger.Buckets {
		b := (first + i) % ledger.Buckets
		if theirs[b].Tasks == 0 || theirs[b] == f.node.store.BucketDigest(b) {
			continue
		}
		for t, err := range f.remote.BucketTasks(ctx, b, theirs[b]) {
			if err != nil {
				return err
			}
			f.want(ctx, t)
		}
	}
	f.start(ctx)
	return nil
}

// want has a listed task fetched unless it is here.
func (f *fetch) want(ctx context.Context, t store.BucketTask) {
	if outcome, _ := f.node.store.Outcome(t.Task); outcome == t.Outcome || f.known.Contains(t.Task) {
		return
	}
	if done, ok := f.claim(t.Task); !ok {
		f.elsewhere = append(f.elsewhere, done)
		return
	}
	if f.batch = append(f.batch, t); len(f.batch) == syncBatch {
		f.start(ctx)
	}
}

// start fetches the batch. It waits while syncAhead others are under way.
func (f *fetch) start(ctx context.Context) {
	batch := f.batch
	f.batch = nil
	f.group.Go(func() error {
		defer f.release(batch)
		for rest := batch; len(rest) > 0; {
			receipts, err := f.remote.receipts(ctx, rest)
			if err != nil {
				return err
			}
			n, err := f.apply(ctx, receipts)
			f.mu.Lock()
			f.got += n
			f.mu.Unlock()
			if err != nil {
				return err
			}
			rest = rest[len(receipts):]
		}
		return nil
	})
}

func (s *syncer) claim(task ledger.TaskID) (done <-chan struct{}, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done, ok := s.claims[task]; ok {
		return done, false
	}
	s.claims[task] = make(chan struct{})
	return nil, true
}

func (s *syncer) release(tasks []store.BucketTask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range tasks {
		close(s.claims[t.Task])
		delete(s.claims, t.Task)
	}
}

// apply gives receipts to the engine and waits until they are on disk, so that they do not pile up before
// it. It tells how many tasks were settled by them.
func (s *syncer) apply(ctx context.Context, receipts []ledger.Verified) (n int, err error) {
	if err := s.node.give(ctx, receipts); err != nil {
		return 0, err
	}
	for _, v := range receipts {
		if s.check(v.Message().(*ledger.Receipt)) {
			n++
		}
	}
	return n, s.node.store.Flush()
}

// check tells whether a receipt that was applied stands in the ledger. If not, the committee certified two
// things that exclude each other (I1, I8). The engine has reported it; it is never resolved here, and not
// fetched again.
func (s *syncer) check(r *ledger.Receipt) bool {
	outcome, _ := s.node.store.Outcome(r.Task())
	if outcome == r.Settle.Vote.Value {
		return true
	}
	s.known.Add(r.Task(), true)
	s.node.heard.Error("more validators are faulty than the network bears: the committee certified what contradicts this ledger",
		"task", r.Task(), "outcome", r.Settle.Vote.Value, "held", outcome)
	return false
}

// inLoop has the node's loop run f and waits for it.
func (n *Node) inLoop(ctx context.Context, f func(*ledger.Engine)) error {
	done := make(chan struct{})
	n.loop.do(func(e *ledger.Engine) {
		f(e)
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give hands verified messages to the engine, a few at a time, so that the settlements of the moment pass between
// them, and waits until it has taken them.
func (n *Node) give(ctx context.Context, messages []ledger.Verified) error {
	for chunk := range slices.Chunk(messages, applyChunk) {
		if err := n.inLoop(ctx, func(e *ledger.Engine) {
			for _, v := range chunk {
				e.Receive(v)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// takeOpen learns which tasks are open at a peer. It takes the locks that are missing here, and what workers
// said of tasks in which nobody is known here to have spoken.
func (s *syncer) takeOpen(ctx context.Context, r remote) error {
	after := ledger.TaskID{}
	for range maxOpenTaken / syncPage {
		page, err := request(ctx, r, ask{kind: askOpen, after: after}, decodeTasks)
		if err != nil {
			return err
		}
		for _, task := range page {
			if bytes.Compare(task[:], after[:]) <= 0 {
				return lie("the list of open tasks has %s after %s", task.Short(), after.Short())
			}
			after = task
		}
		if err := s.takeParts(ctx, r, askLocks, slices.DeleteFunc(slices.Clone(page), s.node.store.IsLocked), lockMessage); err != nil {
			return err
		}
		var silent []ledger.TaskID
		if err := s.node.inLoop(ctx, func(e *ledger.Engine) {
			silent = slices.DeleteFunc(slices.Clone(page), func(t ledger.TaskID) bool {
				return !s.node.store.IsLocked(t) || s.node.store.IsSettled(t) || len(e.Said(t)) > 0
			})
		}); err != nil {
			return err
		}
		if err := s.takeParts(ctx, r, askSaid, silent, decodeSaid); err != nil {
			return err
		}
		if len(page) < syncPage {
			break
		}
	}
	return nil
}

func lockMessage(data []byte) ([]ledger.Message, error) {
	l, err := ledger.DecodeLock(data)
	return []ledger.Message{l}, err
}

// takeParts fetches what a peer has of tasks, verifies it and gives it to the engine.
func (s *syncer) takeParts(ctx context.Context, r remote, kind askKind, tasks []ledger.TaskID, decode func([]byte) ([]ledger.Message, error)) error {
	for len(tasks) > 0 {
		parts, err := r.parts(ctx, kind, tasks)
		if err != nil {
			return err
		}
		var taken []ledger.Verified
		for i, data := range parts {
			if len(data) == 0 {
				continue // settled meanwhile, or nobody spoke
			}
			messages, err := decode(data)
			if err != nil {
				return lie("open task %s: %w", tasks[i].Short(), err)
			}
			for _, m := range messages {
				v, err := s.node.verifier.Verify(m)
				if err != nil {
					return lie("open task %s: %w", tasks[i].Short(), err)
				}
				if v.Task() != tasks[i] {
					return lie("open task %s: the peer sent what is of another one", tasks[i].Short())
				}
				taken = append(taken, v)
			}
		}
		if err := s.node.give(ctx, taken); err != nil {
			return err
		}
		tasks = tasks[len(parts):]
	}
	return nil
}

// Fetch implements ledger.Host.
func (l *loop) Fetch(task ledger.TaskID) {
	n := l.node
	n.tasks.Go(func() {
		for _, p := range n.host.Peers() {
			if err := n.fetchReceipt(n.ctx, remote{n, p}, task); err == nil {
				return
			}
		}
	})
}

func (n *Node) fetchReceipt(ctx context.Context, r remote, task ledger.TaskID) error {
	parts, err := r.parts(ctx, askReceipts, []ledger.TaskID{task})
	if err != nil {
		return err
	}
	receipt, err := ledger.DecodeReceipt(parts[0])
	if err != nil {
		return err
	}
	v, err := n.verifier.Verify(receipt)
	if err != nil {
		return err
	}
	if v.Task() != task {
		return errors.New("the peer sent the receipt of another task")
	}
	n.loop.do(func(e *ledger.Engine) { e.Receive(v) })
	return nil
}
