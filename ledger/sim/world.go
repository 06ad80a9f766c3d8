package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// world is one run: all nodes, the messages between them, and virtual time.
type world struct {
	plan
	genesis  *ledger.Genesis
	domain   crypto.Domain
	verifier *ledger.Verifier
	random   *rand.Rand // of everything that happens; the plan has its own
	now      time.Duration
	queue    queue
	seq      uint64
	nodes    []*node // validators, then followers
	links    [][]link
	wire     map[string]*envelope
	check    *checker
	known    map[ledger.TaskID]*task
	trace    func(line string) // nil unless the run is told
	hash     uint64            // of all events
	events   int
	result   Result
}

// envelope is a message on its way: decoded and verified once for all who get it.
type envelope struct {
	verified ledger.Verified
	message  ledger.Message
	task     ledger.TaskID
	err      error
	reached  uint64 // nodes that gossip brought it to
}

// link is the stream from one validator to another.
type link struct {
	blocked int // by partitions under way
	epoch   int // counts its breaks; what was under way is lost in one
	last    time.Duration
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// after has do called when virtual time has passed.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, do})
}

// maxEvents bounds a run: one that does not end is a fault of the core.
const maxEvents = 2_000_000

// run lets events happen until a moment, or until done.
func (w *world) run(until time.Duration, done func() bool) {
	for len(w.queue) > 0 && w.queue[0].at <= until && !done() {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.events++
		w.mix(uint64(e.at), e.seq)
		if w.events > maxEvents {
			w.check.broken(Liveness, -1, "the run takes more than %d events", maxEvents)
			return
		}
		e.do()
	}
	if !done() {
		w.now = max(w.now, until)
	}
}

// mix adds to the hash of the run.
func (w *world) mix(values ...uint64) {
	for _, v := range values {
		w.hash = (w.hash ^ v) * 0x9E3779B97F4A7C15
		w.hash ^= w.hash >> 29
	}
}

// tell adds a line to the trace.
func (w *world) tell(n *node, what, format string, args ...any) {
	if w.trace == nil {
		return
	}
	who := "-"
	if n != nil {
		who = n.name
	}
	w.trace(fmt.Sprintf("%10.3f ms  %-3s %-8s %s", float64(w.now.Microseconds())/1000, who, what, fmt.Sprintf(format, args...)))
}

// chance is true in percent of a hundred cases.
func (w *world) chance(percent int) bool { return percent > 0 && w.random.IntN(100) < percent }

// between draws a duration.
func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)+1))
}

func (w *world) between(lo, hi time.Duration) time.Duration { return between(w.random, lo, hi) }

// pack encodes a message, and decodes and verifies it, once for the same bytes.
func (w *world) pack(from *node, m ledger.Message) *envelope {
	topic, data := ledger.Encode(m)
	if e, ok := w.wire[string(data)]; ok {
		return e
	}
	if topic != ledger.TopicVotes && len(data) > ledger.MaxMessage {
		w.check.broken(Size, index(from), "a message of %d bytes is too long for gossip", len(data))
	}
	e := &envelope{}
	w.wire[string(data)] = e
	w.result.Messages++
	w.mix(uint64(len(data)), uint64(data[len(data)-1]))
	if e.message, e.err = ledger.Decode(ledger.TopicVotes, data); e.err == nil {
		e.verified, e.err = w.verifier.Verify(e.message)
		e.task = w.verifier.Task(e.message)
	}
	if e.err != nil {
		if from != nil && from.honest() {
			w.check.broken(Refused, from.index, "an honest message is refused: %s: %v", w.describe(m), e.err)
		}
		w.result.Refused++
		return e
	}
	w.check.onWire(from, e)
	return e
}

func index(n *node) int {
	if n == nil {
		return -1
	}
	return n.index
}

// delay draws how long a message is under way.
func (w *world) delay() time.Duration {
	d := w.between(200*time.Microsecond, 4*time.Millisecond)
	if w.faulty(Delay) && w.chance(w.slow) {
		w.inject(Delay)
		d += time.Millisecond << w.random.IntN(12) // heavy tail, to 2 s
		d += w.between(0, d)
	}
	return d
}

// stream sends over the link between two validators.
func (w *world) stream(from, to *node, m ledger.Message) {
	e := w.pack(from, m)
	l := &w.links[from.index][to.index]
	if l.blocked > 0 || !to.up {
		return
	}
	at := w.now + w.delay()
	if !w.faulty(Reorder) {
		at = max(at, l.last)
	} else {
		w.inject(Reorder)
	}
	l.last = max(at, l.last)
	copies := 1
	if w.faulty(Duplicate) && w.chance(10) {
		w.inject(Duplicate)
		copies = 2
	}
	epoch := l.epoch
	for range copies {
		w.after(at-w.now, func() {
			if l.epoch == epoch && to.up {
				to.receive(from.index, e)
			}
		})
		at += w.delay()
	}
}

// gossip publishes to all nodes; from is nil for a client.
func (w *world) gossip(from *node, m ledger.Message) {
	e := w.pack(from, m)
	for _, to := range w.nodes {
		d := w.delay()
		switch {
		case to == from:
			d = 0
		case from != nil && w.links[from.index][to.index].blocked > 0:
			continue
		case w.faulty(Loss) && w.chance(w.loss):
			w.inject(Loss)
			continue
		}
		w.arrive(from, to, e, d)
		if w.faulty(Duplicate) && w.chance(5) {
			w.inject(Duplicate)
			w.arrive(from, to, e, d+w.delay())
		}
	}
}

// arrive brings a gossiped message to a node, which drops what it had before.
func (w *world) arrive(from, to *node, e *envelope, d time.Duration) {
	w.after(d, func() {
		bit := uint64(1) << to.index
		if !to.up || e.reached&bit != 0 && !to.amnesia {
			return
		}
		e.reached |= bit
		to.receive(index(from), e)
	})
}

// reconnect breaks the link between two validators and makes it anew: both tell what they saw of the other.
func (w *world) reconnect(a, b *node) {
	for _, d := range [][2]*node{{a, b}, {b, a}} {
		from, to := d[0], d[1]
		l := &w.links[from.index][to.index]
		l.epoch++
		l.last = w.now
		epoch, life := l.epoch, from.life
		w.after(w.delay(), func() {
			if l.epoch == epoch && l.blocked == 0 && from.up && from.life == life && to.up {
				from.do(func() { from.engine.Mark(to.index) })
			}
		})
	}
}
