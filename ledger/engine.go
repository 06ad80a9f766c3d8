package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// Bounds on what an engine keeps for tasks that nobody has paid for yet.
const (
	maxHeld   = 1024 // messages that overtook the lock of their task
	maxRecent = 1024 // bundle headers kept per validator, to notice equivocation
)

// retryFirst is the time after which an undecided task's messages are sent again; it doubles up to
// retryMost. Nothing of safety hangs on it.
const (
	retryFirst = 500 * time.Millisecond
	retryMost  = 10 * time.Second
	showGrace  = 5 * time.Second        // after commitments closed, so long a panel member waits for a worker to show its answer
	linkDelay  = 100 * time.Millisecond // after a link came up, so that others can come up with it
	linkPause  = time.Second
	overdue    = 2 * time.Second // after the score deadline a peer that only follows asks for the receipt
)

// Engine is one peer's part in the protocol: of a validator, or of a peer that only follows. It
// holds the open tasks. It is not safe for concurrent use, and deterministic: the same calls in the
// same order give the same decisions.
type Engine struct {
	genesis *Genesis
	domain  crypto.Domain
	self    int // index in the committee, -1 for a peer that only follows
	host    Host

	tasks map[TaskID]*task // locked ones, and orders that this validator voted for or that wait
	held  []Verified       // messages for tasks that are not locked yet, oldest first

	voted    map[nonce]TaskID     // lock votes whose lock is not applied yet
	reserved map[AccountID]Amount // the fees of these
	waiting  waitingOrders        // for the one before them, or for funds
	frozen   map[AccountID]bool   // payers that signed two orders with one nonce
	sent     map[TaskID][]Leaf    // own votes on open tasks, in the order in which they were cast
	openings map[TaskID]logged    // own score commitments on open tasks
	restored map[TaskID][]Message // what a validator's log says of tasks that are not open yet
	recent   []headers            // by validator
	accused  map[crypto.Hash]bool // evidence that is kept, by its id
	silent   map[uint16]bool      // validators that missed a seal and were not heard of since
	linked   bool                 // a link came up since the open tasks were last sent again
	paused   bool                 // a LinkUp timer is set
}

// headers remembers the latest bundle headers of a validator.
type headers struct {
	bySeq   map[uint64]Signed[BundleHeader]
	order   []uint64 // as they came, at most maxRecent
	highest *Signed[BundleHeader]
}

// add takes a header and returns the proof if it contradicts one that is known. Another header with the
// same number is not taken.
func (h *headers) add(s Signed[BundleHeader], d crypto.Domain) (proof *Evidence, taken bool) {
	seq := s.Statement.Seq
	if known, ok := h.bySeq[seq]; ok {
		if known.Statement != s.Statement {
			return bundlesEvidence(known, s), false
		}
		return nil, true
	}
	if h.bySeq == nil {
		h.bySeq = map[uint64]Signed[BundleHeader]{}
	}
	if len(h.order) == maxRecent {
		delete(h.bySeq, h.order[0])
		h.order = append(h.order[:0], h.order[1:]...)
	}
	h.bySeq[seq] = s
	h.order = append(h.order, seq)
	if before, ok := h.bySeq[seq-1]; ok && seq > 0 && s.Statement.Previous != before.Statement.Hash(d) {
		return &Evidence{Offence: BrokenChain, Bundles: [2]Signed[BundleHeader]{before, s}}, true
	}
	if after, ok := h.bySeq[seq+1]; ok && after.Statement.Previous != s.Statement.Hash(d) {
		return &Evidence{Offence: BrokenChain, Bundles: [2]Signed[BundleHeader]{s, after}}, true
	}
	return nil, true
}

// ballot is what a validator may fill in once (I2).
type ballot struct {
	task  TaskID
	kind  LeafKind
	stage Stage
	round uint32
}

func (l Leaf) ballot() ballot { return ballot{l.Task, l.Kind, l.Stage, l.Round} }

type logged struct {
	commit  ScoreCommit
	opening Opening
}

// task is an open task.
type task struct {
	id       TaskID
	order    *Signed[Order]
	restored bool // the order is from the log; it has not come since
	locked   bool
	retry    time.Duration
	retrying bool // its timer is set

	locks tally // lock votes
	lock  Certificate

	commits  map[AccountID]crypto.Hash    // commitments to answers that came in time
	declined map[AccountID]bool           // and whether that takes a place
	early    map[AccountID]*AnswerMessage // answers that overtook their commitment
	closed   bool
	shown    bool                   // no more answers are waited for
	answers  map[AccountID]AnswerID // opened
	said     []Message              // of workers, as far as it counts here, as it came
	scores   map[AnswerID]scored
	scoring  bool // this member's commitment is on its way or made

	scoreCommits map[uint16]Signed[ScoreCommit]
	contradicted map[uint16]bool    // members with two commitments: none counts
	earlyReveals map[uint16]Opening // reveals that overtook the seal

	seal, settle instance
	sealed       *SealCert
	reveals      map[uint16]Opening
	ownReveal    *Signed[Reveal]
}

type scored struct {
	score  Score
	failed bool
}

// NewEngine returns an engine for the validator with index self, or with self -1 for a peer that
// only follows. A validator's earlier votes must be put back by the Restore methods before anything
// else is called.
func NewEngine(g *Genesis, self int, host Host) *Engine {
	return &Engine{
		genesis: g, domain: Domain(g), self: self, host: host,
		tasks: map[TaskID]*task{},
		voted: map[nonce]TaskID{}, reserved: map[AccountID]Amount{}, waiting: newWaitingOrders(), frozen: map[AccountID]bool{},
		sent: map[TaskID][]Leaf{}, openings: map[TaskID]logged{}, restored: map[TaskID][]Message{},
		recent: make([]headers, len(g.Validators)), accused: map[crypto.Hash]bool{},
		silent: map[uint16]bool{},
	}
}

// Restore puts back a message that was logged before a vote.
func (e *Engine) Restore(m Message) {
	switch m := m.(type) {
	case *OrderMessage:
		o := m.Order.Statement
		if _, applied := e.host.LockedAt(o.Payer, o.Nonce); !applied && e.voted[nonceOf(o)].IsZero() {
			id := OrderID(e.domain, o)
			e.voted[nonceOf(o)] = id
			e.reserved[o.Payer] += o.Fee
			t := e.task(id) // its payer may have seen it locked, and nobody else may know of it any more
			t.order, t.restored = &m.Order, true
			e.setRetry(t)
		}
	case *SealCert:
		e.keepRestored(m.Votes.Vote.Task, m)
	case *Value:
		e.keepRestored(m.Task, m)
	case *Prepared:
		e.keepRestored(m.Value.Task, m)
	}
}

func (e *Engine) keepRestored(id TaskID, m Message) {
	if !e.host.IsSettled(id) {
		e.restored[id] = append(e.restored[id], m)
	}
}

// RestoreVote puts back a vote of this validator, which then never contradicts it.
func (e *Engine) RestoreVote(l Leaf) {
	if !e.host.IsSettled(l.Task) && !slices.Contains(e.sent[l.Task], l) {
		e.sent[l.Task] = append(e.sent[l.Task], l)
	}
}

// RestoreOpening puts back the secret behind a score commitment of this validator.
func (e *Engine) RestoreOpening(c ScoreCommit, o Opening) {
	if !e.host.IsSettled(c.Task) {
		e.openings[c.Task] = logged{c, o}
	}
}

// Resume takes up a task whose fee was in escrow when the process ended.
func (e *Engine) Resume(l *LockCert) {
	if t := e.task(l.Votes.Vote.Task); !t.locked {
		e.open(t, l)
	}
}

// OpenTasks returns the number of tasks without an outcome.
func (e *Engine) OpenTasks() int { return len(e.tasks) }

// task returns the task with an id and makes it if need be.
func (e *Engine) task(id TaskID) *task {
	if t, ok := e.tasks[id]; ok {
		return t
	}
	t := &task{
		id: id, retry: retryFirst,
		commits: map[AccountID]crypto.Hash{}, declined: map[AccountID]bool{}, early: map[AccountID]*AnswerMessage{},
		answers: map[AccountID]AnswerID{}, scores: map[AnswerID]scored{},
		scoreCommits: map[uint16]Signed[ScoreCommit]{}, contradicted: map[uint16]bool{}, earlyReveals: map[uint16]Opening{},
		reveals: map[uint16]Opening{}, seal: newInstance(StageSeal), settle: newInstance(StageSettle),
	}
	e.tasks[id] = t
	return t
}

func nonceOf(o Order) nonce { return nonce{o.Payer, o.Nonce} }

// Receive takes a message of another peer, or one that the host signed for this one.
func (e *Engine) Receive(v Verified) {
	switch m := v.message.(type) {
	case *Bundle:
		e.onBundle(m)
		return
	case *Receipt:
		e.onReceipt(m)
		return
	case *Evidence:
		e.onEvidence(m)
		return
	}
	if e.host.IsSettled(v.task) {
		if m, late := v.message.(*RoundChange); late {
			e.host.SendReceipt(int(m.validator()), v.task)
		}
		return
	}
	switch m := v.message.(type) {
	case *OrderMessage:
		e.onOrder(v.task, m)
		return
	case *LockCert:
		if t := e.task(v.task); !t.locked {
			e.open(t, m)
		}
		return
	}
	t, ok := e.tasks[v.task]
	if m, change := v.message.(*RoundChange); change && m.Lock != nil && (!ok || !t.locked) {
		t, ok = e.task(v.task), true // whoever missed the lock can join
		e.open(t, m.Lock)
	}
	if !ok || !t.locked {
		e.hold(v)
		return
	}
	e.dispatch(t, v)
}

// dispatch handles what concerns a locked task.
func (e *Engine) dispatch(t *task, v Verified) {
	switch m := v.message.(type) {
	case *Signed[AnswerCommit]:
		e.onAnswerCommit(t, m)
	case *AnswerMessage:
		e.onAnswer(t, m)
	case *Signed[Decline]:
		e.onDecline(t, m)
	case *Signed[ScoreCommit]:
		e.onScoreCommit(t, *m)
	case *SealCert:
		e.onSealCert(t, m)
	case *Signed[Reveal]:
		e.onReveal(t, m)
	case *Bundle:
		e.castLeaves(t, m)
	case *RoundChange:
		e.onRoundChange(t, m)
	case *Proposal:
		e.onProposal(t, m)
	}
}

// hold keeps a message that overtook its task's lock, since gossip delivers it only once. The
// oldest goes when there are too many.
func (e *Engine) hold(v Verified) {
	if len(e.held) >= maxHeld {
		e.held = append(e.held[:0], e.held[1:]...)
	}
	e.held = append(e.held, v)
}

// release handles what was held for t, or of it the votes alone while t is not locked.
func (e *Engine) release(t *task) {
	var mine []Verified
	rest := e.held[:0]
	for _, v := range e.held {
		if _, vote := v.message.(*Bundle); v.task == t.id && (vote || t.locked) {
			mine = append(mine, v)
		} else {
			rest = append(rest, v)
		}
	}
	clear(e.held[len(rest):])
	e.held = rest
	for _, v := range mine {
		if e.tasks[t.id] != t {
			return // settled meanwhile
		}
		e.dispatch(t, v)
	}
}

// Timer tells that a timer set through the host has run down.
func (e *Engine) Timer(tm Timer) {
	if tm.Kind == LinkUp {
		e.linkUp()
		return
	}
	t, ok := e.tasks[tm.Task]
	if !ok {
		return
	}
	switch tm.Kind {
	case SealRound, SettleRound:
		in := &t.seal
		if tm.Kind == SettleRound {
			in = &t.settle
		}
		if t.locked && in.round == tm.Round && (in.stage == StageSeal || t.sealed != nil) {
			e.roundOver(t, in)
		}
	case AnswerDeadline:
		e.close(t)
	case ShowDeadline:
		t.shown = true
		e.commitScoresIfReady(t)
	case ScoreDeadline:
		e.close(t)
		e.commitScores(t)
	case Retry:
		if e.self < 0 {
			e.host.Fetch(t.id)
		} else {
			e.resend(t)
		}
		t.retry = min(2*t.retry, retryMost)
		e.host.SetTimer(Timer{Task: t.id, Kind: Retry}, t.retry)
	}
}

// resend sends what this validator said of an undecided task once more, in case it was lost. Of an order
// that it did not vote for it says nothing, nor of one of a payer that contradicted itself.
func (e *Engine) resend(t *task) {
	if !t.locked && (len(e.sent[t.id]) == 0 || e.frozen[t.order.Statement.Payer]) {
		return
	}
	if !t.locked {
		e.host.Send(Everyone, &OrderMessage{Order: *t.order})
	}
	if c, ok := t.scoreCommits[uint16(e.self)]; ok {
		e.host.Send(Everyone, &c)
	}
	if t.ownReveal != nil {
		e.host.Send(Everyone, t.ownReveal)
	}
	for _, l := range e.sent[t.id] {
		past := l.Stage == StageLock && t.locked || l.Stage == StageSeal && t.seal.decided ||
			l.Stage != StageLock && (!t.locked || l.Round < t.instance(l.Stage).round)
		if !past {
			e.host.Vote(l)
		}
	}
	e.host.Send(Everyone, &Query{t.id})
}

// Query answers a validator that is behind with the certificates that are held of a task. It reports
// false if there are none.
func (e *Engine) Query(from int, id TaskID) (known bool) {
	if e.host.IsSettled(id) {
		e.host.SendReceipt(from, id)
		return true
	}
	t, ok := e.tasks[id]
	if !ok || !t.locked {
		return false
	}
	e.host.Send(from, &LockCert{*t.order, t.lock})
	if t.sealed != nil {
		e.host.Send(from, t.sealed)
	}
	return true
}

// Mark tells another validator, whose link has come up, how much is known here of what it signed. If
// it forgot some of that, it must not sign any more. Soon after, what undecided tasks need of this validator is
// sent again: it may have been lost with the link, and their timers may be far apart by now.
func (e *Engine) Mark(to int) {
	e.host.Send(to, &Mark{uint16(to), e.recent[to].highest})
	if e.linked = true; !e.paused {
		e.paused = true
		e.host.SetTimer(Timer{Kind: LinkUp}, linkDelay)
	}
}

// linkUp sends all open tasks again if links came up, then not for a while: links that come and go must
// not make it talk all the time.
func (e *Engine) linkUp() {
	if e.paused = e.linked; !e.linked {
		return
	}
	e.linked = false
	for _, id := range slices.SortedFunc(maps.Keys(e.tasks), TaskID.Compare) {
		e.resend(e.tasks[id])
	}
	e.host.SetTimer(Timer{Kind: LinkUp}, linkPause)
}

// RestoreHeader puts back the highest bundle header that was seen of a validator.
func (e *Engine) RestoreHeader(h *Signed[BundleHeader]) { e.recent[h.Statement.Validator].see(h) }

func (h *headers) see(s *Signed[BundleHeader]) {
	if h.highest == nil || s.Statement.Seq > h.highest.Statement.Seq {
		h.highest = s
	}
}

// Orders and locks

func (e *Engine) onOrder(id TaskID, m *OrderMessage) {
	if t, ok := e.tasks[id]; ok && t.order != nil && !t.restored {
		return
	}
	e.host.Observe(Progress{Task: id, Step: Ordered, Order: &m.Order.Statement, Prompt: m.Prompt})
	if e.self < 0 {
		return // who only follows has no use for it before its lock, which repeats it
	}
	t := e.task(id)
	t.order, t.restored = &m.Order, false
	e.voteLock(t)
	if e.tasks[id] == t {
		e.countLocks(t)
		e.release(t)
	}
}

// voteLock votes for an order's lock: once per (payer, nonce), if the order before it is the one that
// this validator voted for or applied, and if the funds are there after all that it voted for (§4). An order that can't
// be voted for yet waits; one that never can is forgotten.
func (e *Engine) voteLock(t *task) {
	o := t.order.Statement
	at := nonceOf(o)
	if e.frozen[o.Payer] {
		e.forget(t.id)
		return
	}
	if other, ok := e.lockedOrVoted(at); ok && other != t.id {
		if first, ok := e.signedOrder(other); ok {
			e.accuse(ordersEvidence(first, *t.order))
		}
		e.forget(t.id)
		return
	}
	balance := e.host.Account(o.Payer).Balance
	if o.Nonce > 0 {
		before, ok := e.lockedOrVoted(nonce{o.Payer, o.Nonce - 1})
		if !ok {
			e.wait(t, balance >= int64(o.Fee))
			return
		}
		if before != o.Previous { // not the chain that this validator follows
			e.forget(t.id)
			return
		}
	}
	if _, again := e.voted[at]; !again {
		if balance < int64(e.reserved[o.Payer]+o.Fee) {
			e.wait(t, balance >= int64(o.Fee))
			return
		}
		e.voted[at] = t.id
		e.reserved[o.Payer] += o.Fee
		e.host.Log(&OrderMessage{Order: *t.order})
	}
	e.vote(LockLeaf(t.id))
	e.setRetry(t)
	e.retryLock(nonce{o.Payer, o.Nonce + 1})
}

// wait keeps an order until it can be voted for, within bounds.
func (e *Engine) wait(t *task, funded bool) {
	for _, id := range e.waiting.add(nonceOf(t.order.Statement), t.id, funded) {
		e.forget(id)
	}
}

// forget drops an order that this validator did not vote for. A lock certificate brings its task back.
func (e *Engine) forget(id TaskID) {
	t, ok := e.tasks[id]
	if ok && !t.locked && (t.order == nil || e.voted[nonceOf(t.order.Statement)] != id) {
		delete(e.tasks, id)
	}
}

// signedOrder returns the order of a task that is open, locked or settled.
func (e *Engine) signedOrder(id TaskID) (Signed[Order], bool) {
	if t, ok := e.tasks[id]; ok && t.order != nil {
		return *t.order, true
	}
	return e.host.SignedOrder(id)
}

func (e *Engine) lockedOrVoted(at nonce) (TaskID, bool) {
	if id, ok := e.voted[at]; ok {
		return id, true
	}
	return e.host.LockedAt(at.payer, at.n)
}

// retryLock looks again at an order that waited.
func (e *Engine) retryLock(at nonce) {
	id, ok := e.waiting.take(at)
	if !ok {
		return
	}
	if t, ok := e.tasks[id]; ok && !t.locked && t.order != nil {
		e.voteLock(t)
	}
}

// countLocks assembles the LockCert.
func (e *Engine) countLocks(t *task) {
	if t.locked || t.order == nil {
		return
	}
	if cert, ok := t.locks.certificate(LockLeaf(t.id), e.genesis.Quorum()); ok {
		e.open(t, &LockCert{*t.order, cert})
	}
}

// setRetry sets the first retry timer of a task: when its order comes or, if the lock came first, then.
func (e *Engine) setRetry(t *task) {
	if !t.retrying {
		t.retrying = true
		e.host.SetTimer(Timer{Task: t.id, Kind: Retry}, t.retry)
	}
}

// open applies a LockCert. The task's local deadlines start here (§5).
func (e *Engine) open(t *task, l *LockCert) {
	o := l.Order.Statement
	if err := e.host.Lock(l); err != nil {
		e.odd(t.id, err.Error())
		e.forget(t.id)
		return
	}
	t.locked, t.lock, t.order, t.restored = true, l.Votes, &l.Order, false
	e.publish(t.id, StageLock, l)
	e.freeFee(t.id, o)
	if id, ok := e.waiting.take(nonceOf(o)); ok && id != t.id {
		e.forget(id)
	}
	e.host.SetTimer(Timer{Task: t.id, Kind: AnswerDeadline}, time.Duration(o.AnswerDeadline)*time.Millisecond)
	e.host.SetTimer(Timer{Task: t.id, Kind: ScoreDeadline}, time.Duration(o.ScoreDeadline)*time.Millisecond)
	if e.self < 0 { // nothing to send again; by then the receipt should be here
		t.retry = time.Duration(o.ScoreDeadline)*time.Millisecond + overdue
	}
	e.setRetry(t)
	e.host.Observe(Progress{Task: t.id, Step: Locked, Order: &o})
	if e.self >= 0 {
		e.host.SetTimer(Timer{t.id, SealRound, 0}, time.Duration(o.ScoreDeadline)*time.Millisecond+sealGrace)
	}
	if own, ok := e.openings[t.id]; ok {
		t.scoring = true
		e.host.CommitScores(own.commit, own.opening)
	}
	e.recover(t)
	e.retryLock(nonce{o.Payer, o.Nonce + 1})
	e.release(t)
}

// recover puts a task's instances where they were when this validator ended: in the round that it had
// entered, with what its votes rest on. What it said of that round is gone, so it goes on to the next.
func (e *Engine) recover(t *task) {
	for _, l := range e.sent[t.id] {
		if l.Kind == NewRound {
			in := t.instance(l.Stage)
			in.round = max(in.round, l.Round)
		}
	}
	messages := e.restored[t.id]
	delete(e.restored, t.id)
	for _, m := range messages {
		switch m := m.(type) {
		case *SealCert:
			e.onSealCert(t, m)
		case *Value:
			for _, r := range m.Outcome.Reveals {
				t.reveals[r.Member] = r.Opening
			}
		case *Prepared:
			in := t.instance(m.Value.Stage)
			in.values[m.Value.Hash(e.domain)] = m.Value
			if in.prepared == nil || in.prepared.Votes.Vote.Round < m.Votes.Vote.Round {
				in.prepared = m
			}
		}
	}
	for _, in := range []*instance{&t.seal, &t.settle} {
		if in.round > 0 && !in.decided {
			e.host.SetTimer(Timer{t.id, roundTimer(in.stage), in.round}, firstRound)
		}
	}
}

// Answers

// Said returns what workers said of an open task, as far as it counts here, in the order in which it came:
// for a peer that was away, since gossip repeats nothing that is old. Answers are without their text.
func (e *Engine) Said(id TaskID) []Message {
	if t, ok := e.tasks[id]; ok {
		return t.said
	}
	return nil
}

func (e *Engine) onAnswerCommit(t *task, m *Signed[AnswerCommit]) {
	c := m.Statement
	if known, ok := t.commits[c.Worker]; ok {
		if known != c.Commitment {
			e.odd(t.id, fmt.Sprintf("worker %s committed to two answers", c.Worker.Short()))
		}
		return
	}
	if t.closed || len(t.commits) >= int(t.order.Statement.MaxAnswers) {
		return // late
	}
	t.commits[c.Worker] = c.Commitment
	t.said = append(t.said, m)
	delete(t.declined, c.Worker)
	e.host.Observe(Progress{Task: t.id, Step: Committed, Worker: c.Worker})
	if m, ok := t.early[c.Worker]; ok {
		delete(t.early, c.Worker)
		e.onAnswer(t, m)
	}
	e.closeIfFull(t)
}

func (e *Engine) onDecline(t *task, m *Signed[Decline]) {
	d := m.Statement
	_, answers := t.commits[d.Worker]
	_, again := t.declined[d.Worker]
	if answers || t.closed || again || len(t.declined) >= MaxAnswers {
		return
	}
	t.declined[d.Worker] = d.takesPlace()
	t.said = append(t.said, m)
	e.host.Observe(Progress{Task: t.id, Step: Declined, Worker: d.Worker, Reason: d.Reason})
	e.closeIfFull(t)
}

// closeIfFull spares everybody the wait for the deadline once as many workers have spoken as the
// order wants answers. Workers that decline can't end a task on their own.
func (e *Engine) closeIfFull(t *task) {
	spoken := len(t.commits)
	for _, place := range t.declined {
		if place {
			spoken++
		}
	}
	if len(t.commits) > 0 && spoken >= int(t.order.Statement.MaxAnswers) {
		e.close(t)
	}
}

func (e *Engine) close(t *task) {
	if t.closed || !t.locked {
		return
	}
	t.closed = true
	clear(t.early)
	e.host.SetTimer(Timer{Task: t.id, Kind: ShowDeadline}, showGrace)
	e.host.Observe(Progress{Task: t.id, Step: Closed})
	e.commitScoresIfReady(t)
}

func (e *Engine) onAnswer(t *task, m *AnswerMessage) {
	a := m.Answer.Statement
	commitment, ok := t.commits[a.Worker]
	if !ok {
		if !t.closed && len(t.early) < MaxAnswers {
			t.early[a.Worker] = m
		}
		return
	}
	if _, known := t.answers[a.Worker]; known || a.Commitment(e.domain) != commitment {
		return
	}
	t.answers[a.Worker] = a.ID()
	t.said = append(t.said, &AnswerMessage{Answer: m.Answer})
	e.host.Observe(Progress{Task: t.id, Step: Answered, Worker: a.Worker, Answer: a.ID(), Text: m.Text})
	if e.self >= 0 && !t.scoring {
		e.host.Score(t.id, t.order.Statement, a.ID(), m.Text)
	}
}

// Scores

// Scored takes the judge's grade of an answer, or the news that it could not be graded here.
func (e *Engine) Scored(id TaskID, a AnswerID, s Score, err error) {
	if t, ok := e.tasks[id]; ok {
		t.scores[a] = scored{s, err != nil}
		e.commitScoresIfReady(t)
	}
}

func (e *Engine) commitScoresIfReady(t *task) {
	if !t.closed || len(t.answers) < len(t.commits) && !t.shown {
		return
	}
	for _, a := range t.answers {
		if _, ok := t.scores[a]; !ok {
			return
		}
	}
	e.commitScores(t)
}

// commitScores binds this member to the scores that it has.
func (e *Engine) commitScores(t *task) {
	if e.self < 0 || t.scoring || !t.locked {
		return
	}
	t.scoring = true
	var ids []AnswerID
	for a, s := range t.scores {
		if !s.failed {
			ids = append(ids, a)
		}
	}
	sortAnswerIDs(ids)
	o := Opening{Salt: e.host.Salt()}
	for _, a := range ids {
		o.Scores = append(o.Scores, t.scores[a].score)
	}
	c := CommitScores(e.domain, t.id, uint16(e.self), ids, o)
	e.openings[t.id] = logged{c, o}
	e.host.CommitScores(c, o)
}

func (e *Engine) onScoreCommit(t *task, c Signed[ScoreCommit]) {
	s := c.Statement
	if t.contradicted[s.Member] {
		return
	}
	if known, ok := t.scoreCommits[s.Member]; ok {
		if !bytes.Equal(known.Statement.append(nil), s.append(nil)) {
			t.contradicted[s.Member] = true
			delete(t.scoreCommits, s.Member)
			e.accuse(commitsEvidence(known, c))
		}
		return
	}
	t.scoreCommits[s.Member] = c
	e.host.Observe(Progress{Task: t.id, Step: Scored, Member: int(s.Member)})
	if n := len(e.genesis.Validators); len(t.scoreCommits) >= n-e.genesis.Faults() && n > len(t.scoreCommits) && t.seal.round == 0 {
		e.host.SetTimer(Timer{t.id, SealRound, 0}, e.sealGrace(t))
	}
	e.step(t, StageSeal)
}

func (e *Engine) onReveal(t *task, r *Signed[Reveal]) {
	v := r.Statement
	if t.sealed == nil {
		if _, ok := t.earlyReveals[v.Member]; !ok {
			t.earlyReveals[v.Member] = v.Opening
		}
		return
	}
	if int(v.Member) == e.self {
		t.ownReveal = r
	}
	e.openReveal(t, v.Member, v.Opening)
	e.step(t, StageSettle)
}

// openReveal takes a reveal that opens a sealed commitment (I12).
func (e *Engine) openReveal(t *task, member uint16, o Opening) {
	if _, ok := t.reveals[member]; ok {
		return
	}
	for _, c := range t.sealed.Value {
		if c.Statement.Member == member && o.Opens(e.domain, c.Statement) {
			t.reveals[member] = o
			e.host.Observe(Progress{Task: t.id, Step: Revealed, Member: int(member)})
		}
	}
}

// Votes and the end

func (e *Engine) onBundle(u *Bundle) {
	h := u.Header.Statement
	proof, taken := e.recent[h.Validator].add(u.Header, e.domain)
	if proof != nil {
		e.accuse(proof)
	}
	if !taken {
		return
	}
	e.recent[h.Validator].see(&u.Header)
	delete(e.silent, h.Validator)
	seen := map[TaskID]bool{}
	for _, l := range u.Leaves {
		if seen[l.Task] || e.host.IsSettled(l.Task) {
			continue
		}
		seen[l.Task] = true
		if t, ok := e.tasks[l.Task]; ok {
			e.castLeaves(t, u)
		} else {
			e.hold(Verified{u, l.Task})
		}
	}
}

// castLeaves counts the votes of a bundle that concern t.
func (e *Engine) castLeaves(t *task, u *Bundle) {
	for i, l := range u.Leaves {
		if l.Task == t.id {
			e.castLeaf(t, l, u, i)
		}
	}
}

func (e *Engine) onReceipt(r *Receipt) {
	id := r.Task()
	known := e.host.IsSettled(id)
	if err := e.host.Settle(r); err != nil { // also if another outcome is known
		e.odd(id, err.Error())
		return
	}
	if !known {
		e.finish(r)
	}
}

// freeFee forgets that the fee of an order that was voted for is promised.
func (e *Engine) freeFee(id TaskID, o Order) {
	at := nonceOf(o)
	if e.voted[at] != id {
		return
	}
	delete(e.voted, at)
	e.reserved[o.Payer] -= o.Fee
	if e.reserved[o.Payer] == 0 {
		delete(e.reserved, o.Payer)
	}
}

// finish forgets a task that has its outcome.
func (e *Engine) finish(r *Receipt) {
	id := r.Task()
	o := r.Order.Statement
	if _, open := e.tasks[id]; open { // else it is old: others have had it for long
		delete(e.tasks, id)
		e.publish(id, StageSettle, r)
	}
	e.freeFee(id, o)
	delete(e.openings, id)
	delete(e.sent, id)
	delete(e.restored, id)
	e.host.Observe(Progress{Task: id, Step: Settled, Receipt: r})
	e.retryLock(nonce{o.Payer, o.Nonce + 1})
	for _, c := range r.Outcome.Credits { // what was paid may cover an order that waited
		e.retryLock(nonce{c.Account, e.host.Account(c.Account).Nonce})
	}
}

// Contradictions

// odd tells of what should not be and that nobody can prove.
func (e *Engine) odd(id TaskID, reason string) {
	e.host.Observe(Progress{Task: id, Step: Contradiction, Reason: reason})
}

// accuse keeps a proof that was found here, and publishes it, unless one of that kind is known.
func (e *Engine) accuse(p *Evidence) {
	if e.keepEvidence(p) {
		e.host.Publish(p)
	}
}

// onEvidence keeps a proof of somebody else's. That of a payer counts only if there is such an account,
// since keys cost nothing.
func (e *Engine) onEvidence(p *Evidence) {
	if p.Offence == TwoOrders && e.host.Account(p.Orders[0].Statement.Payer) == (Account{}) {
		return
	}
	e.keepEvidence(p)
	if t, ok := e.tasks[p.Task(e.domain)]; ok && p.Offence == TwoCommits && t.locked {
		for _, c := range p.Commits {
			e.onScoreCommit(t, c)
		}
	}
}

// keepEvidence gives a proof its effect and has the host keep it. It reports false if one of that
// offence and culprit is kept already.
func (e *Engine) keepEvidence(p *Evidence) bool {
	id := p.ID(e.domain)
	if e.accused[id] {
		return false
	}
	e.RestoreEvidence(p)
	e.host.Observe(Progress{Task: p.Task(e.domain), Step: Contradiction, Reason: p.Describe(e.domain), Proof: p})
	return true
}

// RestoreEvidence puts back a proof that the host kept.
func (e *Engine) RestoreEvidence(p *Evidence) {
	e.accused[p.ID(e.domain)] = true
	if p.Offence == TwoOrders {
		e.frozen[p.Orders[0].Statement.Payer] = true
	}
}
