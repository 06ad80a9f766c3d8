package node

import (
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// known remembers how far the latest locked tasks have come and who spoke in them, so that what changes nothing
// any more is found out before its signature is verified: a certificate that each validator publishes, a second
// commitment, the answer of somebody who made none. It is safe for concurrent use.
type known struct {
	tasks *lru.Cache[ledger.TaskID, *knownTask]
}

// knownTask is what is known of a task.
type knownTask struct {
	mu      sync.Mutex
	step    ledger.Step
	locked  time.Time // here
	closed  bool
	workers map[ledger.AccountID]bool // whose commitment counts
	said    map[voice]int             // statements that were verified
	voices  map[ledger.Step]int       // distinct ones, by what they say
}

// voice is somebody who says something, by the step that it leads to. Members of the panel are named by their number.
type voice struct {
	step   ledger.Step
	worker ledger.AccountID
	member uint16
}

const (
	// knownTasks is how many tasks are remembered.
	knownTasks = 8192
	// maxRepeats is how often somebody is heard out on one thing: a second, other statement is what proves that it
	// contradicts itself.
	maxRepeats = 2
	// maxVoices bounds how many are heard on one thing in a task: twice what counts, as others may hear them in another order.
	maxVoices = 2 * ledger.MaxAnswers
)

func newKnown() known {
	c, err := lru.New[ledger.TaskID, *knownTask](knownTasks)
	if err != nil {
		panic(err) // the size is positive
	}
	return known{c}
}

// task returns what is known of a task, and makes room for it if it is locked.
func (k known) task(id ledger.TaskID, locked bool) (*knownTask, bool) {
	t, ok := k.tasks.Get(id)
	if !ok && locked {
		t = &knownTask{workers: map[ledger.AccountID]bool{}, said: map[voice]int{}, voices: map[ledger.Step]int{}}
		if raced, was, _ := k.tasks.PeekOrAdd(id, t); was {
			t = raced
		}
	}
	return t, ok || locked
}

// observe follows the loop.
func (k known) observe(e Event) {
	t, ok := k.task(e.Task, e.Step == ledger.Locked)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Step {
	case ledger.Locked:
		t.step, t.locked = e.Step, e.Time
	case ledger.Sealed:
		t.step = e.Step
	case ledger.Committed:
		t.workers[e.Worker] = true
	case ledger.Closed:
		t.closed = true
	case ledger.Settled: // the ledger knows
		t.step = e.Step
		clear(t.workers)
		clear(t.said)
		clear(t.voices)
	}
}

// lockedAt returns when a task was locked here, zero if that is not known.
func (k known) lockedAt(task ledger.TaskID) time.Time {
	t, ok := k.task(task, false)
	if !ok {
		return time.Time{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.locked
}

// voiceOf says whose statement a message is. Certificates and orders are nobody's.
func voiceOf(m ledger.Message) (v voice, ok bool) {
	switch m := m.(type) {
	case *ledger.Signed[ledger.AnswerCommit]:
		return voice{step: ledger.Committed, worker: m.Statement.Worker}, true
	case *ledger.Signed[ledger.Decline]:
		return voice{step: ledger.Declined, worker: m.Statement.Worker}, true
	case *ledger.AnswerMessage:
		return voice{step: ledger.Answered, worker: m.Answer.Statement.Worker}, true
	case *ledger.Signed[ledger.ScoreCommit]:
		return voice{step: ledger.Scored, member: m.Statement.Member}, true
	case *ledger.Signed[ledger.Reveal]:
		return voice{step: ledger.Revealed, member: m.Statement.Member}, true
	}
	return v, false
}

// stale says whether a message of a task changes nothing any more, and early whether it is a worker's, for whom a key costs nothing,
// and of a task that is not known to be locked.
func (k known) stale(task ledger.TaskID, m ledger.Message) (stale, early bool) {
	t, ok := k.task(task, false)
	v, spoken := voiceOf(m)
	if !ok {
		return false, spoken && v.worker != (ledger.AccountID{})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch m.(type) {
	case *ledger.LockCert:
		return t.step >= ledger.Locked, false
	case *ledger.SealCert:
		return t.step >= ledger.Sealed, false
	}
	switch {
	case !spoken:
		return false, false
	case t.closed && (v.step == ledger.Committed || v.step == ledger.Declined),
		t.closed && v.step == ledger.Answered && !t.workers[v.worker]:
		return true, false
	}
	return t.said[v] >= maxRepeats || t.said[v] == 0 && t.voices[v.step] >= maxVoices && v.worker != (ledger.AccountID{}), false
}

// heard notes a message that was verified. That of a lock tells it before the loop has come to it: however far that is behind, what
// follows is not early.
func (k known) heard(task ledger.TaskID, m ledger.Message) {
	_, lock := m.(*ledger.LockCert)
	v, spoken := voiceOf(m)
	t, ok := k.task(task, lock)
	if !spoken || !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.step == ledger.Settled {
		return
	}
	if t.said[v]++; t.said[v] == 1 {
		t.voices[v.step]++
	}
}

// credit is how much a peer may hand over per second that nobody has paid for: orders of who has not got the fee, and
// what workers say of tasks that are not known to be locked. Honest peers do so when they are ahead by a moment. The latter is passed
// on, but in all no more than one peer may hand over, or honest peers would exceed their credit with others.
type credit struct {
	peers *lru.Cache[peer.ID, *advance]
	early *rate.Limiter // what is passed on
}

type advance struct{ orders, early *rate.Limiter }

const (
	unpaidRate  = 2
	unpaidBurst = 16
	earlyRate   = 64
	earlyBurst  = 512
	earlyPassed = 2    // parts of that are passed on: one in so many
	maxAhead    = 4096 // orders of a payer beyond its last one that is locked
)

func newCredit() credit {
	c, err := lru.New[peer.ID, *advance](knownTasks)
	if err != nil {
		panic(err) // the size is positive
	}
	return credit{c, rate.NewLimiter(earlyRate/earlyPassed, earlyBurst/earlyPassed)}
}

func (c credit) of(p peer.ID) *advance {
	a, ok := c.peers.Get(p)
	if !ok {
		a = &advance{rate.NewLimiter(unpaidRate, unpaidBurst), rate.NewLimiter(earlyRate, earlyBurst)}
		if old, raced, _ := c.peers.PeekOrAdd(p, a); raced {
			return old
		}
	}
	return a
}

// unpaid says why nobody can be paid for an order: as far as is known here, it will never be locked, or not soon. It
// costs a few looks into maps.
func (n *Node) unpaid(o ledger.Order) error {
	a := n.store.Account(o.Payer)
	switch {
	case a.Balance < 0 || uint64(a.Balance) < o.Fee:
		return fmt.Errorf("%w: the payer has not got the fee", errUnpaid)
	case o.Nonce >= a.Nonce+maxAhead:
		return fmt.Errorf("%w: the payer's last order that was locked is far behind", errUnpaid)
	case n.store.HasEvidence((&ledger.Evidence{Offence: ledger.TwoOrders, Orders: [2]ledger.Signed[ledger.Order]{{Statement: o}}}).ID(n.domain)):
		return fmt.Errorf("%w: the payer contradicted itself", errUnpaid)
	}
	return nil
}

// lend decides on an order that nobody can be paid for. It is not passed on to others. A validator keeps it, without its text,
// as long as from has credit: the payer may just have been paid, in a certificate that is still on its way. What goes
// on beyond that is held against from, unless it is this ledger that is behind.
func (n *Node) lend(from peer.ID, m *ledger.OrderMessage) {
	if !n.credit.of(from).orders.Allow() {
		if n.syncer.current.Load() {
			n.host.Fault(from, p2p.FaultUseless)
		}
		return
	}
	if n.self < 0 {
		return
	}
	if v, err := n.verifier.Verify(&ledger.OrderMessage{Order: m.Order}); err == nil {
		n.loop.offer(v)
	}
}
