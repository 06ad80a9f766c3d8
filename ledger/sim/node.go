package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/votelog"
)

// node is a peer: the engine's host, together with its outbox.
type node struct {
	*votelog.Outbox
	w      *world
	index  int
	self   int // -1 for a follower
	name   string
	engine *ledger.Engine
	disk   *disk
	store  *store
	evil   adversary // nil for an honest one

	up       bool
	life     int  // counts the starts
	restored bool // its log was put back to an older one: it counts as faulty
	amnesia  bool // gossip brings again what it had before: it has restarted
	fuse     int  // so many steps until the process dies, 0: it does not
	dying    bool
	flushing bool // a flush is due
	syncing  bool // a group of the store is due
	clock    int  // sixteenths of a second that its timers take for one

	texts  map[crypto.Hash]bool // what it has of answers
	asked  map[ledger.TaskID]time.Duration
	got    []*envelope            // of this life, what certificates came
	sealed map[ledger.TaskID]bool // in any life
	salts  *rand.Rand
}

func (n *node) honest() bool { return n.evil == nil && !n.restored }

// start is what a process does: it opens its log and its store, takes up open tasks, and connects. With a
// fuse it dies after so many steps.
func (n *node) start(fuse int) {
	w := n.w
	n.up, n.dying, n.fuse, n.flushing, n.syncing = true, false, fuse, false, false
	n.life++
	w.check.changed = true
	n.got, n.asked = nil, map[ledger.TaskID]time.Duration{}
	n.Outbox = nil
	n.engine = ledger.NewEngine(w.genesis, n.self, n)
	c := votelog.Config{Genesis: w.genesis, Verifier: w.verifier, Engine: n.engine, Self: n.self}
	if n.self >= 0 {
		c.Key, c.Disk, c.Ledger, c.Segment = keys.validators[n.self], n.disk, durable{n}, w.segment
	}
	var err error
	if n.Outbox, err = votelog.NewOutbox(c); err != nil {
		if n.dying {
			n.crash()
			return
		}
		n.up = false // for good
		w.check.broken(LogOpens, n.index, "the vote log does not open after a crash: %v", err)
		return
	}
	for i, h := range n.store.headers() {
		if h != nil {
			n.engine.RestoreHeader(h)
		}
		if h != nil && i == n.self && n.evil == nil {
			n.check(n.self, &ledger.Mark{Validator: uint16(i), Header: h})
		}
	}
	if !n.up {
		return
	}
	for _, p := range n.store.evidence() {
		n.engine.RestoreEvidence(p)
	}
	w.tell(n, "start", "life %d, %d tasks settled, %d open", n.life, len(n.store.receipts), len(n.store.open()))
	n.do(func() {
		for _, l := range n.store.open() {
			n.engine.Resume(l)
		}
	})
	if !n.up {
		return
	}
	if n.self >= 0 {
		for _, other := range w.nodes[:w.n] {
			if other != n && other.up {
				w.reconnect(n, other)
			}
		}
	}
	n.every(w.between(10*time.Millisecond, 300*time.Millisecond))
}

// every compares the ledger with that of another peer, now and again, as package node does.
func (n *node) every(d time.Duration) {
	life := n.life
	n.w.after(d, func() {
		if !n.up || n.life != life {
			return
		}
		other := n.w.nodes[n.w.random.IntN(len(n.w.nodes))]
		if n.reaches(other) {
			for _, r := range other.store.settledList() {
				if n.store.receipts[r.Task()] == nil {
					n.fetched(other, r.Task(), r)
				}
			}
			for _, l := range other.store.open() {
				if id := l.Votes.Vote.Task; n.store.locks[id] == nil && n.store.receipts[id] == nil {
					n.fetched(other, id, l)
				}
			}
			for _, l := range n.store.open() {
				if id := l.Votes.Vote.Task; len(n.engine.Said(id)) == 0 {
					for _, m := range other.engine.Said(id) {
						n.fetched(other, id, m)
					}
				}
			}
		}
		n.every(n.w.between(2*time.Second, 20*time.Second))
	})
}

func (n *node) reaches(o *node) bool {
	return o != n && o.up && n.w.links[n.index][o.index].blocked == 0 && n.w.links[o.index][n.index].blocked == 0
}

// fetched has what was asked for about a task arrive.
func (n *node) fetched(from *node, id ledger.TaskID, m ledger.Message) {
	if from.evil != nil && !from.evil.serves(from, n, id) {
		return
	}
	e, life := n.w.pack(from, m), n.life
	n.w.after(n.w.delay()+n.w.delay(), func() {
		if n.up && n.life == life {
			n.receive(from.index, e)
		}
	})
}

// do runs an event on the engine and lets out what it decided, at once or a little later together with
// what further events decide.
func (n *node) do(f func()) {
	f()
	if n.dying {
		n.crash()
		return
	}
	if n.w.lazy == 0 {
		n.flush()
		return
	}
	if !n.flushing {
		n.flushing = true
		life := n.life
		n.w.after(n.w.between(0, n.w.lazy), func() {
			if n.up && n.life == life {
				n.flushing = false
				n.flush()
			}
		})
	}
}

func (n *node) flush() {
	err := n.Flush((*network)(n))
	switch {
	case n.dying:
		n.crash()
	case err != nil:
		n.w.check.broken(Refused, n.index, "flush: %v", err)
	}
}

// step is called before whatever a crash can fall between; it reports false from the moment on at which
// the process is dead.
func (n *node) step() bool {
	if n.fuse > 0 {
		if n.fuse--; n.fuse == 0 {
			n.dying = true
		}
	}
	return !n.dying
}

// receive takes a message of another peer, or of a client with from -1.
func (n *node) receive(from int, e *envelope) {
	w := n.w
	w.mix(uint64(n.index), uint64(from+1))
	w.result.Delivered++
	if e.err != nil {
		return
	}
	if w.trace != nil {
		w.tell(n, "recv", "from %s: %s", w.who(from), w.describe(e.message))
	}
	if n.evil != nil && !n.evil.takes(n, from, e.message) {
		return
	}
	switch m := e.message.(type) {
	case *ledger.Query:
		n.do(func() {
			if !n.engine.Query(from, m.Task) {
				n.askBack(from, m)
			}
		})
	case *ledger.Mark:
		n.check(from, m)
	case *ledger.AnswerMessage:
		n.texts[m.Answer.Statement.Text] = true
		n.do(func() { n.engine.Receive(e.verified) })
	default:
		n.got = append(n.got, e)
		n.do(func() { n.engine.Receive(e.verified) })
	}
}

// check takes what another one saw of the own bundles.
func (n *node) check(from int, m *ledger.Mark) {
	if from < 0 || n.w.nodes[from].self < 0 {
		return
	}
	if n.evil != nil {
		m = &ledger.Mark{Validator: m.Validator} // it signs whatever others saw of it
	}
	n.do(func() {
		if err := n.Mark(from, m); err != nil && n.honest() {
			n.w.check.broken(LogOpens, n.index, "an honest log is refused: %v", err)
		} else if err != nil {
			n.w.tell(n, "refuse", "%v", err)
			n.w.result.Refusals++
		}
	})
}

// askBack asks about a task that is unknown here, as package node does.
func (n *node) askBack(from int, q *ledger.Query) {
	if last, ok := n.asked[q.Task]; ok && n.w.now-last < time.Second {
		return
	}
	n.asked[q.Task] = n.w.now
	n.Send(from, q)
}

// crash ends the process at this moment.
func (n *node) crash() {
	w := n.w
	n.up, n.fuse, n.dying = false, 0, false
	n.amnesia = true
	w.check.changed = true
	n.Outbox = nil
	w.tell(n, "crash", "")
	if n.self >= 0 {
		n.disk.crash(w.random, w.faults&Disk != 0)
		for _, other := range w.nodes[:w.n] {
			w.links[n.index][other.index].epoch++
			w.links[other.index][n.index].epoch++
		}
	}
	if lost := len(n.store.list) - n.store.synced; lost > 0 {
		w.tell(n, "lose", "%d certificates", lost)
	}
	n.store = n.store.reopen()
	if n.self >= 0 {
		w.check.logHolds(n)
	}
	w.crashed(n)
}

// network is what the outbox lets out.
type network node

// Send implements votelog.Network.
func (l *network) Send(to int, m ledger.Message) {
	n := (*node)(l)
	w := n.w
	w.pack(n, m) // a vote counts from the moment at which it is signed
	for _, other := range w.nodes[:w.n] {
		if other == n || to != ledger.Everyone && to != other.index {
			continue
		}
		if !n.step() {
			return
		}
		if n.evil != nil {
			for _, m := range n.evil.sends(n, other.index, m) {
				w.stream(n, other, m)
			}
			continue
		}
		w.check.leaves(n, m)
		if w.trace != nil {
			w.tell(n, "send", "to %s: %s", other.name, w.describe(m))
		}
		w.stream(n, other, m)
	}
}

// Gossip implements votelog.Network.
func (l *network) Gossip(m ledger.Message) {
	n := (*node)(l)
	w := n.w
	if !n.step() {
		return
	}
	if n.evil != nil {
		for _, other := range w.nodes {
			if other == n {
				w.arrive(n, n, w.pack(n, m), 0)
				continue
			}
			for _, m := range n.evil.sends(n, other.index, m) {
				w.arrive(n, other, w.pack(n, m), w.delay())
			}
		}
		return
	}
	w.check.leaves(n, m)
	if w.trace != nil {
		w.tell(n, "gossip", "%s", w.describe(m))
	}
	w.gossip(n, m)
}

// The engine's host.

// SendReceipt implements ledger.Host.
func (n *node) SendReceipt(to int, id ledger.TaskID) {
	if r, ok := n.store.receipts[id]; ok {
		n.Send(to, r)
	}
}

// Fetch implements ledger.Host.
func (n *node) Fetch(id ledger.TaskID) {
	for range 3 {
		other := n.w.nodes[n.w.random.IntN(len(n.w.nodes))]
		if r, ok := other.store.receipts[id]; ok && n.reaches(other) {
			n.fetched(other, id, r)
			return
		}
	}
}

// SetTimer implements ledger.Host.
func (n *node) SetTimer(t ledger.Timer, d time.Duration) {
	life := n.life
	n.w.after(d*time.Duration(n.clock)/16, func() {
		if n.up && n.life == life {
			if n.w.trace != nil {
				n.w.tell(n, "timer", "%s %s round %d", timerNames[t.Kind], n.w.task(t.Task), t.Round)
			}
			n.do(func() { n.engine.Timer(t) })
		}
	})
}

// Score implements ledger.Host.
func (n *node) Score(task ledger.TaskID, _ ledger.Order, a ledger.AnswerID, _ []byte) {
	life := n.life
	n.w.after(n.w.between(time.Millisecond, 30*time.Millisecond), func() {
		if !n.up || n.life != life {
			return
		}
		var err error
		s := int(binary.BigEndian.Uint16(a.Text[:]) % 10001)
		switch k := n.w.random.IntN(32); {
		case k == 0:
			err = errors.New("the judge fails")
		case k < 3:
			s = n.w.random.IntN(10001) // an opinion of its own
		case k < 16:
			s = min(10000, s+n.w.random.IntN(3)) // another machine
		}
		n.do(func() { n.engine.Scored(task, a, ledger.Score(s), err) })
	})
}

// Salt implements ledger.Host.
func (n *node) Salt() (salt [32]byte) {
	for i := range 4 {
		binary.BigEndian.PutUint64(salt[8*i:], n.salts.Uint64())
	}
	return salt
}

// Observe implements ledger.Host.
func (n *node) Observe(p ledger.Progress) {
	w := n.w
	if w.trace != nil {
		w.tell(n, "step", "%v %s %s", p.Step, w.task(p.Task), p.Reason)
	}
	switch p.Step {
	case ledger.Sealed:
		n.sealed[p.Task] = true
	case ledger.Contradiction:
		w.check.contradiction(n, p)
		if p.Proof != nil {
			n.store.list = append(n.store.list, p.Proof)
			n.dirty()
		}
	}
	if n.index == w.n {
		w.observe(p)
	}
}

// Account implements ledger.Ledger.
func (n *node) Account(id ledger.AccountID) ledger.Account { return n.store.state.Account(id) }

// LockedAt implements ledger.Ledger.
func (n *node) LockedAt(payer ledger.AccountID, nonce uint64) (ledger.TaskID, bool) {
	return n.store.state.LockedAt(payer, nonce)
}

// SignedOrder implements ledger.Ledger.
func (n *node) SignedOrder(id ledger.TaskID) (ledger.Signed[ledger.Order], bool) {
	return n.store.order(id)
}

// IsSettled implements ledger.Ledger.
func (n *node) IsSettled(id ledger.TaskID) bool { _, ok := n.store.receipts[id]; return ok }

// Lock implements ledger.Ledger.
func (n *node) Lock(l *ledger.LockCert) error {
	err := n.store.lock(l)
	n.w.check.locked(n, l, err)
	n.dirty()
	return err
}

// Settle implements ledger.Ledger.
func (n *node) Settle(r *ledger.Receipt) error {
	err := n.store.settle(r)
	n.w.check.settled(n, r, err)
	n.dirty()
	return err
}

// durable is the ledger as the vote log needs it.
type durable struct{ *node }

// Digest implements votelog.Ledger.
func (d durable) Digest() ledger.Digest { return d.store.state.Digest() }

// Flush implements votelog.Ledger: it waits for the store.
func (d durable) Flush() error {
	if !d.step() {
		return errCrashed
	}
	d.store.synced = len(d.store.list)
	return nil
}

// dirty has the store sync a group soon.
func (n *node) dirty() {
	if n.syncing {
		return
	}
	n.syncing = true
	life, d := n.life, n.w.between(time.Millisecond, 20*time.Millisecond)
	if n.w.faulty(Disk) && n.w.chance(30) {
		n.w.inject(Disk)
		d = n.w.between(d, 2*time.Second)
	}
	n.w.after(d, func() {
		if n.up && n.life == life {
			n.syncing = false
			n.store.synced = len(n.store.list)
		}
	})
}

var timerNames = map[ledger.TimerKind]string{
	ledger.AnswerDeadline: "answers", ledger.ShowDeadline: "show", ledger.ScoreDeadline: "scores", ledger.Retry: "retry",
	ledger.SealRound: "seal", ledger.SettleRound: "settle", ledger.LinkUp: "link up",
}

func validatorName(i int) string { return fmt.Sprint("v", i) }
