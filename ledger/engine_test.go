package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// settleOne runs one task with three answers to its end.
func (s *swarm) settleOne() TaskID {
	id, order := s.order(0, TaskID{}, Credit, 3)
	s.gossip(len(s.peers)-1, order)
	for w := range 3 {
		s.answer(id, w, fmt.Sprint("answer ", w), 20*time.Millisecond, 40*time.Millisecond)
	}
	s.run(time.Minute)
	return id
}

func (p *peer) saw(step Step) (n int) {
	for _, g := range p.progress {
		if g.Step == step {
			n++
		}
	}
	return n
}

func (p *peer) evidence() (reasons []string) {
	for _, g := range p.progress {
		if g.Step == Contradiction {
			reasons = append(reasons, g.Reason)
		}
	}
	return reasons
}

func TestSwarmOfAnySizeSettlesAndAgrees(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 7, 10, 16} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("n=%d/seed=%d", n, seed), func(t *testing.T) {
				s := newSwarm(t, n, seed)
				s.settleOne()
				s.checkAgreement(1)
				for i, p := range s.peers {
					if k := p.receipts[0].Outcome.Kind; k != Paid {
						t.Errorf("peer %d: %v, want PAID", i, k)
					}
					if open := p.engine.OpenTasks(); open != 0 {
						t.Errorf("peer %d keeps %d tasks", i, open)
					}
					if len(p.engine.held)+len(p.engine.sent)+len(p.engine.openings)+len(p.engine.voted)+len(p.engine.reserved) != 0 {
						t.Errorf("peer %d keeps something of a settled task", i)
					}
				}
			})
		}
	}
}

func TestOutcomeDoesNotDependOnTheOrderOfMessages(t *testing.T) {
	kinds := map[string]bool{}
	for seed := range uint64(12) {
		s := newSwarm(t, 4, seed)
		s.settleOne()
		var ranking []string
		for _, r := range s.peers[0].receipts[0].Outcome.Ranking {
			ranking = append(ranking, fmt.Sprint(r.Answer.Text.Short(), r.Score))
		}
		kinds[strings.Join(ranking, " ")] = true
	}
	if len(kinds) != 1 {
		t.Errorf("%d rankings of one task: %v", len(kinds), kinds)
	}
}

func TestPipelinedOrdersAreLockedInOrderAndNeverOverdrawn(t *testing.T) {
	s := newSwarm(t, 4, 3)
	var previous TaskID
	orders := make([]*OrderMessage, 5)
	for i := range orders { // five orders of 30 from a balance of 100
		previous, orders[i] = s.order(uint64(i), previous, 30*Credit, 1)
	}
	for _, i := range []int{4, 2, 0, 3, 1} {
		s.after(0, func() { s.gossip(4, orders[i]) })
	}
	s.run(900 * time.Millisecond) // before any answer deadline
	for i, p := range s.peers {
		if open, escrow := p.Escrowed(); open != 3 || escrow != 90*Credit {
			t.Errorf("peer %d has %d tasks with %d in escrow, want 3 with 90 credits", i, open, escrow)
		}
		if b := p.Account(s.payer.Public()).Balance; b != int64(10*Credit) {
			t.Errorf("peer %d: balance %d", i, b)
		}
	}
	// Nobody answers: the refunds cover the rest.
	s.run(time.Hour)
	s.checkAgreement(5)
}

func TestDoubleSpendLocksAtMostOneOrderAndFreezesThePayer(t *testing.T) {
	for seed := range uint64(20) {
		s := newSwarm(t, 4, seed)
		a, first := s.order(0, TaskID{}, Credit, 1)
		b, second := s.order(0, TaskID{}, 2*Credit, 1)
		for to := range s.peers { // half of the peers hear the one first, half the other
			if to%2 == 0 {
				s.send(4, to, "", first)
				s.after(5*time.Millisecond, func() { s.send(4, to, "", second) })
			} else {
				s.send(4, to, "", second)
				s.after(5*time.Millisecond, func() { s.send(4, to, "", first) })
			}
		}
		s.run(500 * time.Millisecond)
		_, next := s.order(1, a, Credit, 1)
		s.gossip(4, next)
		s.run(time.Second)
		for i, p := range s.peers[:4] {
			_, one := p.Escrow(a)
			_, two := p.Escrow(b)
			if one && two {
				t.Fatalf("seed %d: peer %d locked both", seed, i)
			}
			if len(p.evidence()) == 0 {
				t.Errorf("seed %d: peer %d noticed nothing", seed, i)
			}
			if open, _ := p.Escrowed(); open > 1 {
				t.Errorf("seed %d: the frozen payer got another lock", seed)
			}
			if err := p.CheckComplete(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMessagesThatOvertakeTheirOrderAreKept(t *testing.T) {
	s := newSwarm(t, 4, 5)
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.answer(id, 0, "early", 0, time.Millisecond)
	s.after(100*time.Millisecond, func() { s.gossip(4, order) })
	s.run(time.Minute)
	s.checkAgreement(1)
	if o := s.peers[0].receipts[0].Outcome; len(o.Ranking) != 1 {
		t.Errorf("the early answer was lost: %+v", o)
	}
}

func TestAnswerWithoutTimelyCommitmentIsNotScored(t *testing.T) {
	s := newSwarm(t, 4, 6)
	id, order := s.order(0, TaskID{}, Credit, 3)
	s.gossip(4, order)
	good := s.answer(id, 0, "in time", 100*time.Millisecond, 1100*time.Millisecond)
	s.answer(id, 1, "late", 1200*time.Millisecond, 1300*time.Millisecond)
	s.after(200*time.Millisecond, func() { // shows an answer that is not the one it committed to
		a := Answer{Task: id, Worker: s.workers[2].Public(), Text: crypto.Sum([]byte("promised"))}
		s.gossip(4, new(Sign(s.domain, s.workers[2], AnswerCommit{id, a.Worker, a.Commitment(s.domain)})))
		a.Text = crypto.Sum([]byte("copied"))
		s.after(time.Second, func() { s.gossip(4, &AnswerMessage{Sign(s.domain, s.workers[2], a), []byte("copied")}) })
	})
	s.run(time.Minute)
	s.checkAgreement(1)
	o := s.peers[0].receipts[0].Outcome
	if len(o.Ranking) != 1 || o.Ranking[0].Answer != good {
		t.Errorf("got ranking %+v, want only the answer in time", o.Ranking)
	}
}

func TestDeclinesCloseEarlyButNeverAlone(t *testing.T) {
	for name, c := range map[string]struct {
		answers, declines int
		reason            string
		early             bool
	}{
		"answer and declines":   {1, 2, "busy", true},
		"only declines":         {0, 3, "busy", false},
		"one is still missing":  {1, 1, "busy", false},
		"others lack the model": {1, 2, NoModel + ": small", false},
	} {
		s := newSwarm(t, 4, 7)
		id, order := s.order(0, TaskID{}, Credit, 3)
		s.gossip(4, order)
		for w := range c.answers {
			s.answer(id, w, "text", 20*time.Millisecond, 100*time.Millisecond)
		}
		for w := c.answers; w < c.answers+c.declines; w++ {
			s.after(30*time.Millisecond, func() {
				s.gossip(4, new(Sign(s.domain, s.workers[w], Decline{id, s.workers[w].Public(), c.reason})))
			})
		}
		s.run(900 * time.Millisecond) // the answer deadline is at 1 s
		if settled := s.peers[0].Tasks() == 1; settled != c.early {
			t.Errorf("%s: settled before the deadline: %v", name, settled)
		}
		s.run(time.Minute)
		s.checkAgreement(1)
		if n := s.peers[4].saw(Declined); n != c.declines {
			t.Errorf("%s: %d declines were shown, want %d", name, n, c.declines)
		}
	}
}

func TestTaskThatNobodyAnswersRefundsThePayer(t *testing.T) {
	s := newSwarm(t, 4, 8)
	_, order := s.order(0, TaskID{}, Credit, 3)
	s.gossip(4, order)
	s.run(time.Minute)
	s.checkAgreement(1)
	p := s.peers[0]
	if p.receipts[0].Outcome.Kind != NoAnswers {
		t.Errorf("got %v", p.receipts[0].Outcome.Kind)
	}
	if b := p.Account(s.payer.Public()).Balance; b != int64(100*Credit-Credit/100) {
		t.Errorf("payer holds %d", b)
	}
	if b := p.Account(Burned).Balance; b != int64(Credit/100) {
		t.Errorf("%d burned", b)
	}
}

func TestLostVotesAndScoresAreSentAgain(t *testing.T) {
	for seed := range uint64(10) {
		s := newSwarm(t, 4, seed)
		s.drop = func(from, to int, m Message) bool {
			if s.now > 5*time.Second {
				return false
			}
			switch m.(type) {
			case *Bundle, *Signed[ScoreCommit], *Signed[Reveal], *SealCert, *LockCert:
				return from != to && s.random.IntN(10) < 4
			}
			return false
		}
		s.settleOne()
		s.checkAgreement(1)
	}
}

func TestFollowerFetchesTheReceiptThatItMissed(t *testing.T) {
	s := newSwarm(t, 4, 13)
	s.drop = func(_, to int, m Message) bool {
		_, receipt := m.(*Receipt)
		return receipt && to == 4 && s.now < 2*time.Second
	}
	s.settleOne()
	s.checkAgreement(1)
}

func TestRevealLeavesNoValidatorBeforeTheSeal(t *testing.T) {
	s := newSwarm(t, 4, 9)
	s.drop = func(from, to int, m Message) bool {
		if _, ok := m.(*Signed[Reveal]); ok && from < 4 && s.peers[from].saw(Sealed) == 0 {
			t.Errorf("validator %d reveals before the seal (I13)", from)
		}
		return false
	}
	s.settleOne()
	s.checkAgreement(1)
}

func TestMemberWithTwoCommitmentsIsSealedOutAndReported(t *testing.T) {
	s := newSwarm(t, 4, 10)
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.answer(id, 0, "text", 20*time.Millisecond, 40*time.Millisecond)
	s.drop = func(from, _ int, m Message) bool { // member 3 keeps quiet, but for what is sent below
		c, ok := m.(*Signed[ScoreCommit])
		return ok && from == 3 && c.Statement.Answers != nil
	}
	s.after(30*time.Millisecond, func() {
		for salt := range 2 {
			s.gossip(3, new(Sign(s.domain, s.keys[3], CommitScores(s.domain, id, 3, nil, Opening{Salt: [32]byte{byte(salt)}}))))
		}
	})
	s.run(time.Minute)
	s.checkAgreement(1)
	for i, p := range s.peers[:3] {
		if !slices.ContainsFunc(p.evidence(), func(r string) bool { return strings.Contains(r, "validator 3") }) {
			t.Errorf("peer %d noticed nothing", i)
		}
		for _, c := range p.receipts[0].Seal.Value {
			if c.Statement.Member == 3 {
				t.Errorf("peer %d sealed a contradicted commitment", i)
			}
		}
	}
}

func TestSameCommitmentForOtherAnswersIsAContradictionToo(t *testing.T) {
	s := newSwarm(t, 4, 14)
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.run(100 * time.Millisecond)
	c := ScoreCommit{Task: id, Member: 3, Commitment: crypto.Hash{1}}
	for _, answers := range [][]AnswerID{nil, {{s.workers[0].Public(), crypto.Hash{2}}}} {
		c.Answers = answers
		s.send(3, 0, "", new(Sign(s.domain, s.keys[3], c)))
	}
	s.run(200 * time.Millisecond)
	if len(s.peers[0].evidence()) != 1 {
		t.Errorf("noticed: %v", s.peers[0].evidence())
	}
}

func TestWorkerThatNeverShowsItsAnswerHoldsNobodyUpForLong(t *testing.T) {
	s := newSwarm(t, 4, 15)
	_, order := s.order(0, TaskID{}, Credit, 2)
	o := order.Order.Statement
	o.AnswerDeadline, o.ScoreDeadline = 60_000, 120_000
	order.Order = Sign(s.domain, s.payer, o)
	id := OrderID(s.domain, o)
	s.gossip(4, order)
	s.answer(id, 0, "shown", 20*time.Millisecond, 40*time.Millisecond)
	s.answer(id, 1, "kept back", 20*time.Millisecond, time.Hour)
	s.run(10 * time.Second)
	s.checkAgreement(1)
	if n := len(s.peers[0].receipts[0].Outcome.Ranking); n != 1 {
		t.Errorf("%d answers were ranked", n)
	}
}

func TestBundleHeadersAreRememberedWithinABound(t *testing.T) {
	var h headers
	header := func(seq uint64, root byte) Signed[BundleHeader] {
		return Signed[BundleHeader]{Statement: BundleHeader{Seq: seq, Root: crypto.Hash{root}}}
	}
	for i := range uint64(3 * maxRecent) {
		if proof, taken := h.add(header((i+2)*(i+2), byte(i)), crypto.Domain{}); proof != nil || !taken {
			t.Fatal("a new header was taken for a contradiction")
		}
	}
	if len(h.bySeq) != maxRecent || len(h.order) != maxRecent {
		t.Errorf("%d and %d headers are kept", len(h.bySeq), len(h.order))
	}
	last := uint64(3*maxRecent - 1)
	if proof, taken := h.add(header((last+2)*(last+2), byte(last)), crypto.Domain{}); proof != nil || !taken {
		t.Error("a header contradicts itself")
	}
	if proof, taken := h.add(header((last+2)*(last+2), byte(last)+1), crypto.Domain{}); proof == nil || taken {
		t.Error("the latest header is not told from another")
	}
}

func TestTwoBundlesWithOneNumberAreReported(t *testing.T) {
	s := newSwarm(t, 4, 11)
	for i := range 2 {
		u := NewBundle(2, 0, crypto.Hash{}, []Leaf{{Prepare, TaskID{byte(i)}, StageSeal, 0, crypto.Hash{}}})
		u.Sign(s.domain, s.keys[2])
		s.send(2, 0, TopicVotes, &u)
	}
	s.run(time.Second)
	if e := s.peers[0].evidence(); len(e) != 1 || !strings.Contains(e[0], "validator 2 signed two bundles") {
		t.Errorf("got %v", e)
	}
}

// A validator that restarts with its log never contradicts a vote, and takes up its open tasks.
func TestRestartedValidatorKeepsItsVotesAndFinishesItsTasks(t *testing.T) {
	for _, at := range []time.Duration{3, 8, 20, 60, 70, 80, 90} {
		s := newSwarm(t, 4, uint64(at))
		id, order := s.order(0, TaskID{}, Credit, 1)
		s.gossip(4, order)
		s.answer(id, 0, "text", 20*time.Millisecond, 50*time.Millisecond)
		s.after(at*time.Millisecond, func() {
			s.peers[1].restart()
		})
		s.run(2 * time.Minute)
		s.checkAgreement(1)
	}
}

// offer gives a validator an order as if it had been verified, and returns its task.
func (s *swarm) offer(p *peer, o Order) TaskID {
	o.Split, o.Judge, o.MaxAnswers, o.AnswerDeadline, o.ScoreDeadline = 1, s.genesis.Judge, 1, 1000, 1000
	id := OrderID(s.domain, o)
	p.engine.Receive(Verified{&OrderMessage{Order: Signed[Order]{Statement: o}}, id})
	return id
}

func TestUnpaidOrdersDoNotPileUp(t *testing.T) {
	s := newSwarm(t, 4, 12)
	p := s.peers[0]
	before := len(s.queue)
	for i := range 2 * maxPoor {
		s.offer(p, Order{Payer: testKey("poor", i).Public(), Fee: Credit})
		s.offer(p, Order{Payer: testKey("poor", i).Public(), Nonce: uint64(i), Fee: Credit})
	}
	if n := p.engine.OpenTasks(); n > maxPoor {
		t.Errorf("%d unpaid orders are kept", n)
	}
	if n := len(s.queue) - before; n != 0 {
		t.Errorf("%d timers and messages for what nobody paid", n)
	}
	for i := range 3 * maxHeld {
		p.engine.Receive(Verified{&Signed[Decline]{}, TaskID{byte(i), byte(i >> 8)}})
	}
	if n := len(p.engine.held); n > maxHeld {
		t.Errorf("%d messages are held", n)
	}
	if len(p.votes) != 0 {
		t.Error("voted to lock fees that are not there")
	}
	follower := s.peers[len(s.peers)-1]
	s.offer(follower, Order{Payer: testKey("poor", 0).Public(), Fee: Credit})
	if n := follower.engine.OpenTasks(); n != 0 {
		t.Errorf("a peer that only follows keeps %d unpaid orders", n)
	}
}

func TestOrderThatCanNeverBeVotedForIsForgotten(t *testing.T) {
	s := newSwarm(t, 4, 12)
	p := s.peers[0]
	payer := s.payer.Public()
	first := s.offer(p, Order{Payer: payer, Fee: Credit})
	if len(p.votes) != 1 || p.engine.OpenTasks() != 1 {
		t.Fatalf("%d votes, %d tasks", len(p.votes), p.engine.OpenTasks())
	}
	s.offer(p, Order{Payer: payer, Nonce: 1, Previous: TaskID{1}, Fee: Credit}) // another chain
	if n := p.engine.OpenTasks(); n != 1 {
		t.Errorf("%d tasks: an order of another chain is kept", n)
	}
	s.offer(p, Order{Payer: payer, Fee: 2 * Credit}) // freezes the payer
	for i := range 10 {
		s.offer(p, Order{Payer: payer, Nonce: 1, Previous: first, Fee: Credit + Amount(i)})
	}
	if n := p.engine.OpenTasks(); n != 1 || len(p.votes) != 1 {
		t.Errorf("%d tasks, %d votes: orders of a frozen payer are kept", n, len(p.votes))
	}
}

func TestWaitingOrdersOfManyLeaveRoomForEveryPayer(t *testing.T) {
	w := newWaitingOrders()
	kept := map[TaskID]bool{}
	add := func(payer string, n int, funded bool) TaskID {
		id := crypto.Sum(fmt.Append(nil, payer, n))
		kept[id] = true
		for _, out := range w.add(nonce{AccountID(crypto.Sum([]byte(payer))), uint64(n)}, id, funded) {
			delete(kept, out)
		}
		return id
	}
	for i := range 2 * maxWaitingPayer {
		for p := range 8 {
			add(fmt.Sprint("greedy", p), i, true)
		}
	}
	if w.n != maxWaiting || len(kept) != maxWaiting {
		t.Fatalf("%d orders wait, %d are kept, want %d", w.n, len(kept), maxWaiting)
	}
	modest := add("modest", 7, true)
	for i := range 2 * maxPoor {
		add(fmt.Sprint("poor", i), 1, false)
	}
	if !kept[modest] {
		t.Error("who has one order finds no room among those who have many")
	}
	if len(w.poor) != maxPoor || len(kept) != maxWaiting+maxPoor || len(w.tasks) != len(kept) {
		t.Errorf("%d poor of %d kept, %d known", len(w.poor), len(kept), len(w.tasks))
	}
	for p, list := range w.of {
		for _, at := range list {
			if !kept[w.tasks[at]] || at.payer != p {
				t.Fatal("an order waits that was given up")
			}
		}
	}
	for at := range w.tasks {
		if _, ok := w.take(at); !ok {
			t.Fatal("lost")
		}
	}
	if w.n+len(w.of)+len(w.poor)+len(w.tasks) != 0 {
		t.Errorf("left: %+v", w)
	}
}

func TestStateRefusesWhatContradictsIt(t *testing.T) {
	s := newSwarm(t, 4, 1)
	r := s.receipt()
	st := NewState(s.genesis)
	o := r.Order.Statement
	if applied, err := st.Settle(r.Task(), o, r.Outcome, r.Settle.Vote.Value); !applied || err != nil {
		t.Fatal(applied, err)
	}
	for range 2 { // applying twice changes nothing (I8)
		before := st.Account(o.Payer)
		if applied, err := st.Settle(r.Task(), o, r.Outcome, r.Settle.Vote.Value); applied || err != nil {
			t.Error(applied, err)
		}
		if applied, err := st.Lock(r.Task(), o); applied || err != nil {
			t.Error(applied, err)
		}
		if st.Account(o.Payer) != before {
			t.Error("applied twice")
		}
	}
	if _, err := st.Settle(r.Task(), o, r.Outcome, crypto.Hash{1}); !errors.Is(err, ErrConflict) {
		t.Errorf("another outcome: %v", err)
	}
	if _, err := st.Lock(TaskID{1}, o); !errors.Is(err, ErrConflict) {
		t.Errorf("another order with the nonce: %v", err)
	}
	for _, amount := range []Amount{0, o.Fee + 1, 1<<64 - 1} {
		v := Outcome{Credits: []CreditAmount{{o.Payer, amount}, {Burned, 1}}}
		if _, err := st.Settle(TaskID{2}, o, v, crypto.Hash{}); !errors.Is(err, ErrInvariant) {
			t.Errorf("pays out %d+1 of %d: %v", amount, o.Fee, err)
		}
	}
	if err := st.CheckComplete(); err != nil {
		t.Error(err)
	}
}

// TestOrderThatSettlesElsewhereLeavesNothing: a validator that voted for a lock, missed all that followed and got the receipt
// keeps nothing of the payer, or it would keep an entry for every payer that there ever was.
func TestOrderThatSettlesElsewhereLeavesNothing(t *testing.T) {
	s := newSwarm(t, 4, 3)
	const away = 3
	s.drop = func(_, to int, m Message) bool {
		switch m.(type) {
		case *OrderMessage, *Receipt:
			return false
		}
		return to == away
	}
	s.settleOne()
	s.checkAgreement(1)
	e := s.peers[away].engine
	if len(e.voted)+len(e.reserved)+len(e.waiting.tasks)+len(e.sent) != 0 {
		t.Errorf("%d votes, %d promised fees, %d waiting orders and %d leaves are kept", len(e.voted), len(e.reserved), len(e.waiting.tasks), len(e.sent))
	}
}
