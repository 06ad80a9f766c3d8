package sim

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/votelog"
)

// Invariant is what must hold in every run: those of protocol §9 by their numbers (there is no I14), and
// what else is promised.
type Invariant uint8

// The invariants.
const (
	I1        Invariant = iota + 1 // two decided values of one instance never differ
	I2                             // one vote on each ballot, one bundle with each number
	I3                             // no vote of a round that was left
	I4                             // Commit only with a quorum of Prepare
	I5                             // nothing is sent that is not in the synced log
	I6                             // nothing is made or lost
	I7                             // an outcome pays out the fee exactly
	I8                             // one lock per nonce, one outcome per task, each applied once
	I9                             // no balance below zero
	I10                            // the order of application changes nothing
	I11                            // Settle run again gives the outcome
	I12                            // a reveal opens its commitment
	I13                            // no reveal before the seal
	_                              // the protocol has no I14
	I15                            // signers change nothing
	Liveness                       // what is locked is settled once the faults stop, what can be locked is locked
	LogOpens                       // a log opens after every crash, and is refused only if it was replaced by an older one
	Refused                        // nobody refuses what an honest peer sends
	Innocent                       // no proof and no contradiction of an honest validator
	Silent                         // a validator with an older log signs nothing
	Size                           // messages fit what carries them
	Justified                      // validators prepare the value that a justification forces, and nothing else
	Reported                       // a validator that leaves a round tells what it has committed to
	Chained                        // an order is locked after the one that it names
	Foreign                        // what was signed in another network or epoch is refused
	invariants
)

var invariantNames = [invariants]string{Liveness: "liveness", LogOpens: "log opens", Refused: "refused", Innocent: "innocent", Silent: "silent", Size: "size", Justified: "value(J)", Reported: "reported", Chained: "order chain", Foreign: "foreign"}

// String is the number or the name.
func (i Invariant) String() string {
	if i <= I15 {
		return "I" + strconv.Itoa(int(i))
	}
	return invariantNames[i]
}

// MarshalText implements [encoding.TextMarshaler].
func (i Invariant) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// Violation says what was broken, when, and at which node.
type Violation struct {
	Invariant Invariant     `json:"invariant"`
	At        time.Duration `json:"at_ns"` // in virtual time
	Node      int           `json:"node"`  // index, validators first; -1: of no single one
	Text      string        `json:"text"`
}

// String is one line.
func (v Violation) String() string {
	return fmt.Sprintf("%v at %v, node %d: %s", v.Invariant, v.At, v.Node, v.Text)
}

// checker watches a run from outside: it sees all messages, all disks and all ledgers.
type checker struct {
	w *world

	votes    map[ledger.Leaf]uint64         // validators that cast it, as a set
	ballots  map[ballot]crypto.Hash         // honest votes
	left     map[ballot]uint32              // the latest round that an honest validator entered; kind and round are zero
	bundles  map[bundle]crypto.Hash         // honest
	tasks    map[bundle][]ledger.TaskID     // of their votes
	chain    []uint64                       // number of the next bundle of each honest validator
	decided  map[instance]crypto.Hash       // what can have a certificate, or has one
	nonces   map[nonce]ledger.TaskID        // orders that can have a lock, or have one
	orders   map[ledger.TaskID]ledger.Order // seen on the wire
	proposed map[candidate]bool             // with a justification that forces the value
	promises map[promise]ledger.TaskID      // honest lock votes

	ordered  []ledger.TaskID // all that stand in orders, as they came
	late     map[ballot]int  // rounds that an honest validator entered since the run is calm, keys as in left
	changed  bool            // some node's ledger, or which nodes are up
	complete bool            // done, when that last changed
}

type ballot struct {
	validator int
	kind      ledger.LeafKind
	task      ledger.TaskID
	stage     ledger.Stage
	round     uint32
}

type bundle struct {
	validator uint16
	seq       uint64
}

type instance struct {
	task  ledger.TaskID
	stage ledger.Stage
}

type nonce struct {
	payer ledger.AccountID
	n     uint64
}

func newChecker(w *world) *checker {
	return &checker{
		w: w, votes: map[ledger.Leaf]uint64{}, ballots: map[ballot]crypto.Hash{}, left: map[ballot]uint32{}, late: map[ballot]int{},
		bundles: map[bundle]crypto.Hash{}, tasks: map[bundle][]ledger.TaskID{}, chain: make([]uint64, w.n), decided: map[instance]crypto.Hash{},
		nonces: map[nonce]ledger.TaskID{}, orders: map[ledger.TaskID]ledger.Order{}, proposed: map[candidate]bool{}, promises: map[promise]ledger.TaskID{},
	}
}

// enough violations are kept; one run gone wrong breaks much.
const enough = 10

func (c *checker) broken(i Invariant, node int, format string, args ...any) {
	v := Violation{i, c.w.now, node, fmt.Sprintf(format, args...)}
	if c.w.trace != nil {
		c.w.trace(fmt.Sprintf("%10.3f ms  BROKEN %v", float64(c.w.now.Microseconds())/1000, v))
	}
	if len(c.w.result.Broken) < enough {
		c.w.result.Broken = append(c.w.result.Broken, v)
	}
}

// holds counts a check, and reports whether it held.
func (c *checker) holds(ok bool, i Invariant, node int, format string, args ...any) bool {
	if c.fails(i, ok) {
		c.broken(i, node, format, args...)
	}
	return ok
}

// fails counts a check where it is made often: only when it fails is there something to say.
func (c *checker) fails(i Invariant, ok bool) bool {
	c.w.result.Checked[i]++
	return !ok
}

// byzantine is the number of validators that may sign whatever they like.
func (c *checker) byzantine() (n int) {
	for _, v := range c.w.nodes[:c.w.n] {
		if !v.honest() {
			n++
		}
	}
	return n
}

// possible reports whether a quorum for a vote exists or can be made up by the Byzantine at any time: what
// they sign in secret counts too.
func (c *checker) possible(l ledger.Leaf) bool {
	honest := 0
	for set := c.votes[l]; set != 0; set &= set - 1 {
		if c.w.nodes[bits.TrailingZeros64(set)].honest() {
			honest++
		}
	}
	return honest > 0 && honest+c.byzantine() >= quorum(c.w.n)
}

// onWire looks at a message when it is first sent.
func (c *checker) onWire(from *node, e *envelope) {
	switch m := e.message.(type) {
	case *ledger.OrderMessage:
		if _, known := c.orders[e.task]; !known {
			c.orders[e.task] = m.Order.Statement
			c.ordered = append(c.ordered, e.task)
		}
	case *ledger.RoundChange:
		c.onChange(from, m)
	case *ledger.Proposal:
		c.onProposal(from, m)
	case *ledger.Bundle:
		c.onBundle(m)
	}
}

func (c *checker) onBundle(u *ledger.Bundle) {
	h := u.Header.Statement
	v := int(h.Validator)
	honest := c.w.nodes[v].honest()
	if honest {
		hash := h.Hash(c.w.domain)
		known, again := c.bundles[bundle{h.Validator, h.Seq}]
		c.holds(!again || known == hash, I2, v, "two bundles with number %d", h.Seq)
		before := c.bundles[bundle{h.Validator, h.Seq - 1}]
		c.holds(h.Seq == 0 || before == (crypto.Hash{}) || before == h.Previous, I2, v, "bundle %d does not name the one before", h.Seq)
		c.bundles[bundle{h.Validator, h.Seq}] = hash
		for _, l := range u.Leaves {
			c.tasks[bundle{h.Validator, h.Seq}] = append(c.tasks[bundle{h.Validator, h.Seq}], l.Task)
		}
	} else if n := c.w.nodes[v]; n.restored {
		seen := c.ahead(n, h.Seq)
		c.holds(seen <= c.w.genesis.Faults(), Silent, v, "signs bundle %d with an older log, and %d others have seen as much before", h.Seq, seen)
	}
	for _, l := range u.Leaves {
		c.votes[l] |= 1 << v
		if honest {
			c.onVote(v, l)
		}
	}
}

// onVote looks at a vote of an honest validator.
func (c *checker) onVote(v int, l ledger.Leaf) {
	w := c.w
	b := ballot{v, l.Kind, l.Task, l.Stage, l.Round}
	known, again := c.ballots[b]
	if c.fails(I2, !again || known == l.Value) {
		c.broken(I2, v, "two votes: %s, before for %s", w.leaf(l), known.Short())
	}
	c.ballots[b] = l.Value
	if l.Stage != ledger.StageLock {
		in := ballot{validator: v, task: l.Task, stage: l.Stage}
		if c.fails(I3, l.Round >= c.left[in]) {
			c.broken(I3, v, "%s after it entered round %d", w.leaf(l), c.left[in])
		}
		if l.Kind == ledger.NewRound && l.Round > c.left[in] {
			c.left[in] = l.Round
			w.result.Rounds = max(w.result.Rounds, int(l.Round))
			if w.now > w.calm {
				c.late[in]++
				w.result.LateRounds = max(w.result.LateRounds, c.late[in])
				if c.fails(Liveness, c.late[in] <= lateRounds(w.n)) {
					c.broken(Liveness, v, "%s, the round %d since the faults have stopped", w.leaf(l), c.late[in])
				}
			}
		}
	}
	switch l.Kind {
	case ledger.LockVote:
		c.promised(v, l.Task)
		if o, ok := c.orders[l.Task]; ok && c.possible(l) {
			at := nonce{o.Payer, o.Nonce}
			known, again := c.nonces[at]
			c.holds(!again || known == l.Task, I8, v, "orders %s and %s with one nonce can both be locked", w.task(known), w.task(l.Task))
			c.nonces[at] = l.Task
		}
	case ledger.Prepare:
		c.prepared(v, l)
	case ledger.Commit:
		p := l
		p.Kind = ledger.Prepare
		c.holds(c.possible(p), I4, v, "%s without a quorum of prepare votes", w.leaf(l))
		fallthrough
	case ledger.FastCommit:
		if c.possible(l) {
			c.decide(v, l.Task, l.Stage, l.Value)
		}
	}
}

// lateRounds bounds the rounds in which nothing is decided after the faults have stopped: those that f Byzantine
// leaders lead, twice, and as long as messages take longer than the first rounds last.
func lateRounds(n int) int { return 2*((n-1)/3) + 6 }

// decide notes what an instance decides, or may decide.
func (c *checker) decide(v int, task ledger.TaskID, s ledger.Stage, value crypto.Hash) {
	in := instance{task, s}
	known, again := c.decided[in]
	if c.fails(I1, !again || known == value) {
		c.broken(I1, v, "%v of %s decides %s and %s", s, c.w.task(task), known.Short(), value.Short())
	}
	c.decided[in] = value
}

// leaves looks at a message at the moment at which an honest process sends it.
func (c *checker) leaves(n *node, m ledger.Message) {
	if !n.honest() {
		return
	}
	switch m := m.(type) {
	case *ledger.Bundle:
		if int(m.Header.Statement.Validator) == n.self {
			_, data := ledger.Encode(m)
			c.holds(n.disk.holds(data), I5, n.index, "bundle %d is sent and not in the synced log", m.Header.Statement.Seq)
		}
	case *ledger.Signed[ledger.ScoreCommit]:
		if int(m.Statement.Member) == n.self {
			purged := n.store.receipts[m.Statement.Task] != nil // settled while it waited to be sent again
			c.holds(purged || n.disk.holds(m.Statement.Commitment[:]), I5, n.index, "a score commitment is sent and its secret not in the synced log")
		}
	case *ledger.Signed[ledger.Reveal]:
		if int(m.Statement.Member) == n.self {
			c.shown(n, m.Statement.Task)
		}
	case *ledger.RoundChange:
		if m.Stage == ledger.StageSettle {
			c.shown(n, m.Task)
		}
	}
}

// shown looks at a reveal that leaves a node: it must have been sealed there, and be sealed at all.
func (c *checker) shown(n *node, task ledger.TaskID) {
	_, sealed := c.decided[instance{task, ledger.StageSeal}]
	c.holds(sealed && n.sealed[task], I13, n.index, "reveals of %s leave before its seal", c.w.task(task))
}

// holds reports whether the synced part of the disk contains b.
func (d *disk) holds(b []byte) bool {
	if bytes.Contains(d.fresh, b) {
		return true
	}
	for _, f := range d.synced {
		if bytes.Contains(f.durable, b) {
			return true
		}
	}
	return false
}

// logHolds opens what a crash left of a validator's log: every bundle that it sent must be there, after
// what its votes rest on.
func (c *checker) logHolds(n *node) {
	if !n.honest() {
		return
	}
	seen := map[uint64]crypto.Hash{}
	basis := map[ledger.Leaf]bool{} // votes that what is in the log allows
	l, err := votelog.Open(c.logOf(n, n.disk), votelog.Replayer{
		Message: func(m ledger.Message) {
			switch m := m.(type) {
			case *ledger.OrderMessage:
				basis[ledger.LockLeaf(ledger.OrderID(c.w.domain, m.Order.Statement))] = true
			case *ledger.Prepared:
				l := m.Votes.Vote
				l.Kind = ledger.Commit
				basis[l] = true
			case *ledger.Value:
				basis[ledger.Leaf{Kind: ledger.FastCommit, Task: m.Task, Stage: m.Stage, Value: m.Hash(c.w.domain)}] = true
			}
		},
		Bundle: func(u *ledger.Bundle) {
			seen[u.Header.Statement.Seq] = u.Header.Statement.Hash(c.w.domain)
			for _, l := range u.Leaves {
				if l.Kind != ledger.LockVote && l.Kind != ledger.Commit && l.Kind != ledger.FastCommit || n.store.receipts[l.Task] != nil {
					continue
				}
				if c.fails(I5, basis[l]) {
					c.broken(I5, n.index, "%s is in the log without what it rests on", c.w.leaf(l))
				}
			}
		},
		Opening: func(ledger.ScoreCommit, ledger.Opening) {},
	})
	if err != nil {
		c.broken(LogOpens, n.index, "after a crash: %v", err)
		return
	}
	_ = l.Close()
	for seq := uint64(0); ; seq++ {
		hash, sent := c.bundles[bundle{uint16(n.self), seq}]
		if !sent {
			return
		}
		known, logged := seen[seq]
		switch {
		case logged:
			c.holds(known == hash, I5, n.index, "another bundle %d was sent than is in the log", seq)
		case !c.holds(c.purgeable(n, seq), I5, n.index, "bundle %d was sent and is not in the log", seq):
			return
		}
	}
}

// purgeable reports whether a log need not hold a bundle any more: all its tasks are settled for good.
func (c *checker) purgeable(n *node, seq uint64) bool {
	return !slices.ContainsFunc(c.tasks[bundle{uint16(n.self), seq}], func(id ledger.TaskID) bool { return n.store.receipts[id] == nil })
}

// logOf opens a copy of what is durable of a validator's log.
func (c *checker) logOf(n *node, d *disk) votelog.Config {
	return votelog.Config{Genesis: c.w.genesis, Self: n.self, Disk: d.copySynced(), Segment: c.w.segment}
}

// foreign looks at a message that was signed in another network.
func (c *checker) foreign(e *envelope) {
	c.holds(e.err != nil, Foreign, -1, "%s of another network or epoch is accepted", c.w.describe(e.message))
}

// ahead counts the honest validators that have had, since they last started, a bundle of another one with this
// number or a higher one. If they are more than f, one of them is among any q−1 that tell it what they saw.
func (c *checker) ahead(of *node, seq uint64) (count int) {
	for _, o := range c.w.nodes[:c.w.n] {
		if o != of && o.up && o.honest() && slices.ContainsFunc(o.got, func(e *envelope) bool {
			u, ok := e.message.(*ledger.Bundle)
			return ok && int(u.Header.Statement.Validator) == of.self && u.Header.Statement.Seq >= seq
		}) {
			count++
		}
	}
	return count
}

// locked and settled look at every certificate that is applied.
func (c *checker) locked(n *node, l *ledger.LockCert, err error) {
	c.changed = true
	c.holds(err == nil, I8, n.index, "lock of %s: %v", c.w.task(l.Votes.Vote.Task), err)
	c.balanced(n)
}

func (c *checker) settled(n *node, r *ledger.Receipt, err error) {
	c.changed = true
	c.holds(err == nil, I8, n.index, "settling %s: %v", c.w.task(r.Task()), err)
	c.decide(n.index, r.Task(), ledger.StageSeal, r.Seal.Votes.Vote.Value)
	c.decide(n.index, r.Task(), ledger.StageSettle, r.Settle.Vote.Value)
	c.balanced(n)
}

func (c *checker) balanced(n *node) {
	if n.honest() {
		err := n.store.state.Check()
		c.holds(err == nil, I6, n.index, "%v", err)
	}
}

// contradiction looks at an accusation.
func (c *checker) contradiction(n *node, p ledger.Progress) {
	if p.Proof == nil {
		c.w.result.Odd++
		return
	}
	if v := p.Proof.Validator(); v >= 0 {
		c.holds(!c.w.nodes[v].honest(), Innocent, n.index, "accuses an honest validator: %s", p.Reason)
		return
	}
	culprit := p.Proof.Orders[0].Statement.Payer
	guilty := slices.ContainsFunc(c.w.payers, func(y *payer) bool { return y.key.Public() == culprit && y.equivocate })
	c.holds(guilty || stranger(culprit), Innocent, n.index, "accuses an honest payer: %s", p.Reason)
}

// lockedAnywhere reports whether an honest node has applied the lock of a task.
func (c *checker) lockedAnywhere(id ledger.TaskID) bool {
	for _, n := range c.w.nodes {
		if n.honest() {
			if _, ok := n.store.order(id); ok {
				return true
			}
		}
	}
	return false
}

// done reports whether every honest peer has settled what is locked anywhere, and nothing can be locked.
func (c *checker) done() bool {
	if !c.changed {
		return c.complete
	}
	c.changed = false
	c.complete = !slices.ContainsFunc(c.w.nodes, func(n *node) bool { return n.honest() && !n.up }) && len(c.unsettled()) == 0 && len(c.unlocked()) == 0
	return c.complete
}

// unsettled lists tasks that are locked at some honest peer and not settled at all of them.
func (c *checker) unsettled() (list []string) {
	for _, id := range c.ordered {
		if !c.lockedAnywhere(id) {
			continue
		}
		for _, n := range c.w.nodes {
			if n.honest() && n.store.receipts[id] == nil {
				list = append(list, fmt.Sprintf("%s at %s", c.w.task(id), n.name))
			}
		}
	}
	return list
}

// unlocked lists orders of honest payers that every honest validator can vote for.
func (c *checker) unlocked() (list []string) {
	first := c.w.nodes[slices.IndexFunc(c.w.nodes, (*node).honest)]
	for _, y := range c.w.payers {
		if y.equivocate {
			continue
		}
		a := first.Account(y.key.Public())
		if int(a.Nonce) < len(y.tasks) && a.Balance >= int64(y.tasks[a.Nonce].fee) {
			list = append(list, y.tasks[a.Nonce].name)
		}
	}
	return list
}

// atEnd checks what must hold of all honest peers when a run is over.
func (c *checker) atEnd() {
	w := c.w
	missing, waiting := c.unsettled(), c.unlocked()
	c.holds(len(missing) == 0, Liveness, -1, "not settled: %v", missing)
	c.holds(len(waiting) == 0, Liveness, -1, "not locked: %v", waiting)
	if len(missing) > 0 {
		return // the rest speaks of complete ledgers
	}
	var first *node
	for _, n := range w.nodes {
		if !n.honest() || !n.up {
			continue
		}
		if n.self >= 0 {
			c.logHolds(n)
		}
		if first == nil {
			first = n
		}
		c.whole(n, first)
		c.chained(n)
	}
	c.reordered(first)
	c.plainly(first)
}

// whole checks one peer's ledger and every receipt in it.
func (c *checker) whole(n, first *node) {
	w, s := c.w, n.store.state
	err := s.CheckComplete()
	c.holds(err == nil, I9, n.index, "%v", err)
	c.holds(s.Digest() == first.store.state.Digest(), I10, n.index, "another digest than at %s", first.name)
	for _, r := range n.store.settledList() {
		id := r.Task()
		err := w.verifier.Receipt(r)
		c.holds(err == nil, I11, n.index, "receipt of %s: %v", w.task(id), err)
		c.outcome(n, r)
		if again, err := s.Settle(id, r.Order.Statement, r.Outcome, r.Settle.Vote.Value); again || err != nil {
			c.broken(I8, n.index, "%s is settled twice (%v)", w.task(id), err)
		}
		other := first.store.receipts[id]
		if n == first || other == nil {
			continue
		}
		// The same certificates by other signers: nothing else may differ.
		mixed := &ledger.Receipt{Order: other.Order, Lock: r.Lock, Seal: other.Seal, Outcome: r.Outcome, Settle: other.Settle}
		err = w.verifier.Receipt(mixed)
		c.holds(err == nil && other.Settle.Vote.Value == r.Settle.Vote.Value, I15, n.index, "%s with certificates of other signers: %v", w.task(id), err)
		if !slices.Equal(r.Settle.Signers(), other.Settle.Signers()) {
			w.result.OtherSigners++
		}
	}
	for _, id := range first.store.state.Accounts() {
		c.holds(s.Account(id) == first.store.state.Account(id), I10, n.index, "account %s is %+v, at %s %+v", id.Short(), s.Account(id), first.name, first.store.state.Account(id))
	}
}

// outcome checks the sums and the openings of a receipt, without the code that made it.
func (c *checker) outcome(n *node, r *ledger.Receipt) {
	sum := uint64(0)
	for _, x := range r.Outcome.Credits {
		sum += x.Amount
	}
	c.holds(sum == r.Order.Statement.Fee, I7, n.index, "%s pays %d of a fee of %d", c.w.task(r.Task()), sum, r.Order.Statement.Fee)
	for _, v := range r.Outcome.Reveals {
		i := slices.IndexFunc(r.Seal.Value, func(s ledger.Signed[ledger.ScoreCommit]) bool { return s.Statement.Member == v.Member })
		c.holds(i >= 0 && v.Opening.Opens(c.w.domain, r.Seal.Value[max(i, 0)].Statement), I12, n.index, "reveal of %d in %s opens no commitment", v.Member, c.w.task(r.Task()))
	}
}

// reordered applies a peer's certificates in another order, some twice.
func (c *checker) reordered(n *node) {
	list := slices.Clone(n.store.list)
	list = append(list, list...)
	c.w.random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	s := newStore(c.w.genesis)
	for _, x := range list {
		var err error
		switch x := x.(type) {
		case *ledger.LockCert:
			err = s.lock(x)
		case *ledger.Receipt:
			err = s.settle(x)
		}
		c.holds(err == nil, I10, n.index, "applied in another order: %v", err)
	}
	c.holds(s.state.Digest() == n.store.state.Digest(), I10, n.index, "another order gives another digest")
	for _, id := range n.store.state.Accounts() {
		c.holds(s.state.Account(id) == n.store.state.Account(id), I10, n.index, "another order gives account %s %+v", id.Short(), s.state.Account(id))
	}
}
