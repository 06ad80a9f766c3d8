package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/ledger/votelog"
)

// loop owns the engine: one goroutine gives it events one after another and then carries out what it
// decided. It is the engine's ledger.Host, together with the outbox.
type loop struct {
	*votelog.Outbox
	node   *Node
	engine *ledger.Engine
	events chan func(*ledger.Engine)
	known  known
	names  map[ledger.AccountID]string          // that the genesis gives
	asked  *lru.Cache[ledger.TaskID, time.Time] // when another validator was last asked about a task

	feed feed

	publish chan ledger.Message
}

const (
	eventQueue   = 1024
	eventBatch   = 256 // events handled before votes leave: the bundle of a busy validator
	publishQueue = 1024
)

func newLoop(n *Node) (*loop, error) {
	asked, err := lru.New[ledger.TaskID, time.Time](knownTasks)
	if err != nil {
		return nil, err
	}
	l := &loop{
		node: n, known: newKnown(), names: Names(n.genesis), asked: asked, feed: feed{subscribers: map[*subscriber]struct{}{}, tasks: map[ledger.TaskID][]*Task{}},
		events: make(chan func(*ledger.Engine), eventQueue), publish: make(chan ledger.Message, publishQueue),
	}
	l.engine = ledger.NewEngine(n.genesis, n.self, l)
	kept, err := n.store.Evidence()
	if err != nil {
		return nil, err
	}
	for _, p := range kept {
		l.engine.RestoreEvidence(p)
	}
	for i := range n.genesis.Validators {
		if h := n.store.HighestHeader(i); h != nil {
			l.engine.RestoreHeader(h)
		}
	}
	c := votelog.Config{Genesis: n.genesis, Verifier: n.verifier, Engine: l.engine, Self: n.self, Key: n.identity.Consensus}
	if n.self >= 0 {
		c.Ledger = n.store
		disk, err := votelog.Dir(n.votesDir())
		if err != nil {
			return nil, err
		}
		c.Disk = timedDisk{disk, n.meter}
	}
	if l.Outbox, err = votelog.NewOutbox(c); err != nil {
		return nil, err
	}
	if n.self >= 0 {
		if h := n.store.HighestHeader(n.self); h != nil {
			_ = l.Mark(n.self, &ledger.Mark{Validator: uint16(n.self), Header: h}) // Signing tells
		}
	}
	if _, err := l.Signing(); err != nil {
		n.refuse(err)
	}
	return l, nil
}

// do has the loop run f on the engine. It gives up when the node closes.
func (l *loop) do(f func(*ledger.Engine)) {
	select {
	case l.events <- f:
	case <-l.node.ctx.Done():
	}
}

// offer hands an order to the engine that may wait, unless the loop is busy.
func (l *loop) offer(v ledger.Verified) {
	select {
	case l.events <- func(e *ledger.Engine) { e.Receive(v) }:
	default:
	}
}

// receive hands a verified message to the engine.
func (l *loop) receive(from peer.ID, v ledger.Verified) {
	l.node.meter.received(v.Message())
	validator := l.node.genesis.ValidatorByPeer(from.String())
	switch m := v.Message().(type) {
	case *ledger.Query:
		if validator < 0 {
			return
		}
		l.do(func(e *ledger.Engine) {
			if !e.Query(validator, m.Task) {
				l.askBack(validator, m)
			}
		})
	case *ledger.Mark:
		if validator < 0 {
			return
		}
		l.do(func(*ledger.Engine) {
			if err := l.Mark(validator, m); err != nil {
				l.node.refuse(err)
			}
		})
	default:
		l.do(func(e *ledger.Engine) { e.Receive(v) })
	}
}

// askBack asks a validator about a task that it asked about and that is not locked here. A validator
// that was away when the fee was locked has no other way to learn of it: gossip does not repeat what is
// seconds old. One question per task and second is asked, or two that know nothing would never end.
func (l *loop) askBack(validator int, q *ledger.Query) {
	if last, ok := l.asked.Get(q.Task); ok && time.Since(last) < time.Second {
		return
	}
	l.asked.Add(q.Task, time.Now())
	l.Send(validator, q)
}

// SendReceipt implements ledger.Host.
func (l *loop) SendReceipt(to int, task ledger.TaskID) {
	r, err := l.node.store.Receipt(task)
	if err == nil {
		l.Send(to, r)
	} else if !errors.Is(err, store.ErrNotFound) { // it may just not be on disk yet: the peer asks again
		l.node.log.Warn("receipt not read", "task", task.Short(), "error", err)
	}
}

func (l *loop) run() {
	defer l.feed.close()
	l.node.tasks.Go(l.runPublisher)
	l.tell()
	for {
		select {
		case <-l.node.ctx.Done():
			return
		case f := <-l.events:
			f(l.engine)
		}
		for range eventBatch {
			select {
			case f := <-l.events:
				f(l.engine)
				continue
			default:
			}
			break
		}
		if err := l.Flush(wire{l}); err != nil {
			l.node.fail(err)
			return
		}
		l.tell()
	}
}

// tell lets others see what only the loop may look at.
func (l *loop) tell() {
	signing, _ := l.Signing()
	l.node.meter.turn(l.engine.OpenTasks(), signing)
}

// wire is the network as the outbox needs it.
type wire struct{ *loop }

// Gossip implements votelog.Network.
func (w wire) Gossip(m ledger.Message) { w.gossip(m) }

// Send implements votelog.Network, over the links.
func (w wire) Send(to int, m ledger.Message) {
	l := w.loop
	_, data := ledger.Encode(m)
	for i, v := range l.node.genesis.Validators {
		if i == l.node.self || to != ledger.Everyone && to != i {
			continue
		}
		p, err := peer.Decode(v.Peer)
		if err == nil {
			err = l.node.links.Send(p, data)
		}
		if err != nil && l.node.ctx.Err() == nil {
			l.node.log.Debug("not sent to validator", "validator", i, "error", err) // it is sent again by the retry timer
		}
	}
}

// runPublisher gossips in its own goroutine, since publishing checks the message once more.
func (l *loop) runPublisher() {
	for {
		select {
		case <-l.node.ctx.Done():
			return
		case m := <-l.publish:
			topic, data := ledger.Encode(m)
			if err := l.node.topics[topic].Publish(l.node.ctx, data); err != nil && l.node.ctx.Err() == nil {
				l.node.log.Error("not published", "topic", topic, "error", err)
			}
		}
	}
}

// gossip queues a message for all peers, this one among them.
func (l *loop) gossip(m ledger.Message) {
	select {
	case l.publish <- m:
	case <-l.node.ctx.Done():
	}
}

// The engine's host.

// SetTimer implements ledger.Host.
func (l *loop) SetTimer(t ledger.Timer, d time.Duration) {
	time.AfterFunc(d, func() { l.do(func(e *ledger.Engine) { e.Timer(t) }) })
}

// Salt implements ledger.Host.
func (l *loop) Salt() (salt [32]byte) {
	rand.Read(salt[:]) // never fails
	return salt
}

// Score implements ledger.Host: prompt and answer are fetched and judged outside of the loop.
func (l *loop) Score(task ledger.TaskID, o ledger.Order, a ledger.AnswerID, text []byte) {
	l.node.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(l.node.ctx, time.Duration(o.ScoreDeadline)*time.Millisecond)
		defer cancel()
		score, err := l.node.score(ctx, o, a, text)
		if err != nil && l.node.ctx.Err() == nil {
			l.node.heard.Warn("answer not scored", "task", task.Short(), "worker", a.Worker.Short(), "error", err)
		}
		l.do(func(e *ledger.Engine) { e.Scored(task, a, score, err) })
	})
}

func (n *Node) score(ctx context.Context, o ledger.Order, a ledger.AnswerID, text []byte) (ledger.Score, error) {
	q, err := n.content.request(ctx, o)
	if err != nil {
		return 0, err
	}
	if len(text) == 0 {
		if text, err = n.content.get(ctx, a.Text, ledger.MaxAnswer); err != nil {
			return 0, fmt.Errorf("answer: %w", err)
		}
	}
	begin := time.Now()
	s, err := n.cfg.judge.Score(ctx, q.Prompt, string(text))
	n.meter.judged(begin, ledger.Score(s), err)
	return ledger.Score(s), err
}

// Vote implements ledger.Host.
func (l *loop) Vote(v ledger.Leaf) {
	l.node.meter.cast(v)
	l.Outbox.Vote(v)
}

// Account implements ledger.Ledger.
func (l *loop) Account(id ledger.AccountID) ledger.Account { return l.node.store.Account(id) }

// LockedAt implements ledger.Ledger.
func (l *loop) LockedAt(payer ledger.AccountID, nonce uint64) (ledger.TaskID, bool) {
	return l.node.store.LockedAt(payer, nonce)
}

// SignedOrder implements ledger.Ledger.
func (l *loop) SignedOrder(task ledger.TaskID) (ledger.Signed[ledger.Order], bool) {
	return l.node.store.SignedOrder(task)
}

// IsSettled implements ledger.Ledger.
func (l *loop) IsSettled(task ledger.TaskID) bool { return l.node.store.IsSettled(task) }

// Lock implements ledger.Ledger.
func (l *loop) Lock(c *ledger.LockCert) error { return l.node.store.Lock(c) }

// Settle implements ledger.Ledger.
func (l *loop) Settle(r *ledger.Receipt) error { return l.node.store.Settle(r) }

// Observe implements ledger.Host: texts are kept, workers and those who asked are told.
func (l *loop) Observe(p ledger.Progress) {
	e := Event{Progress: p, Time: time.Now()}
	l.known.observe(e)
	l.node.meter.observe(e)
	switch p.Step {
	case ledger.Ordered:
		l.node.content.hold(p.Prompt)
	case ledger.Locked:
		if prompt, ok := l.node.content.recent.Get(p.Order.Prompt); ok {
			l.node.content.keep(prompt)
		}
	case ledger.Answered:
		l.node.content.keep(p.Text)
	case ledger.Settled:
		l.forgetOwn(p.Receipt.Order.Statement)
		l.logSettled(e)
	case ledger.Contradiction:
		if p.Proof != nil {
			if err := l.node.store.PutEvidence(p.Proof); err != nil {
				l.node.log.Error("evidence not kept", "error", err)
			}
		}
		l.node.heard.Warn("contradiction", "task", p.Task.Short(), "what", p.Reason)
	}
	if l.node.worker != nil {
		l.node.worker.observe(p)
	}
	l.feed.tell(e)
}

// logSettled writes the one line that a task has in the log. What was settled while this node was away has none: the syncer
// says how much that was.
func (l *loop) logSettled(e Event) {
	locked := l.known.lockedAt(e.Task)
	if locked.IsZero() {
		return
	}
	v, fee := e.Receipt.Outcome, e.Receipt.Order.Statement.Fee
	line := []any{"task", e.Task.Short(), "outcome", v.Kind, "fee", ledger.FormatAmount(int64(fee)), "answers", len(v.Ranking)}
	if v.Kind == ledger.Paid {
		best := v.Ranking[0]
		winner := l.names[best.Answer.Worker]
		if winner == "" {
			winner = best.Answer.Worker.Short()
		}
		line = append(line, "winner", winner, "score", best.Score)
	}
	l.node.log.Info("settled", append(line, "ms", e.Time.Sub(locked).Milliseconds())...)
}

// forgetOwn drops an own order that is settled: it need not be published again.
func (l *loop) forgetOwn(o ledger.Order) {
	if o.Payer != l.node.Account() {
		return
	}
	if err := l.node.store.DeleteOwn(o.Nonce); err != nil {
		l.node.log.Warn("own order not forgotten", "error", err) // the next start does it
	}
}
