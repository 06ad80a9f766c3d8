package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// checkVotes asserts of every honest validator that it cast no ballot twice (I2) and nothing of a round
// after it left it (I3).
func (s *swarm) checkVotes() {
	s.t.Helper()
	for i, p := range s.peers {
		cast := map[ballot]crypto.Hash{}
		left := map[ballot]uint32{} // by task and stage
		for _, l := range p.votes {
			if v, ok := cast[l.ballot()]; ok && v != l.Value {
				s.t.Errorf("peer %d contradicted its %v vote (I2)", i, l.Kind)
			}
			cast[l.ballot()] = l.Value
			in := ballot{task: l.Task, stage: l.Stage}
			if l.Kind == NewRound {
				left[in] = max(left[in], l.Round)
			} else if l.Round < left[in] {
				s.t.Errorf("peer %d cast a %v vote of round %d after NewRound(%d) (I3)", i, l.Kind, l.Round, left[in])
			}
		}
	}
}

func (s *swarm) trace() (text string) {
	for i, p := range s.peers {
		text += fmt.Sprintf("peer %d: %d settled\n", i, p.Tasks())
		for _, l := range p.votes {
			text += fmt.Sprintf("  %v %v round %d %s\n", l.Stage, l.Kind, l.Round, l.Value.Short())
		}
	}
	return text
}

func TestTasksSettleWithoutTheValidatorsThatMayFail(t *testing.T) {
	for _, n := range []int{4, 5, 6, 7, 10, 16} {
		for seed := range uint64(4) {
			s := newSwarm(t, n, seed)
			for _, i := range s.random.Perm(n)[:s.genesis.Faults()] {
				s.peers[i].down = true
			}
			s.settleOne()
			s.checkAgreement(1)
			s.checkVotes()
			for i, p := range s.peers {
				if !p.down && p.receipts[0].Outcome.Kind != Paid {
					t.Errorf("n=%d seed=%d: peer %d: %v", n, seed, i, p.receipts[0].Outcome.Kind)
				}
			}
		}
	}
}

func TestTaskWaitsWhenTooManyAreDownAndGoesOnWhenOneReturns(t *testing.T) {
	for seed := range uint64(6) {
		s := newSwarm(t, 4, seed)
		a, b := s.peers[1], s.peers[2]
		at := time.Duration(5+s.random.IntN(120)) * time.Millisecond
		s.after(at, func() { a.down, b.down = true, true })
		id, order := s.order(0, TaskID{}, Credit, 1)
		s.gossip(4, order)
		s.answer(id, 0, "text", 20*time.Millisecond, 50*time.Millisecond)
		s.run(30 * time.Second)
		before := s.peers[0].Tasks()
		if held, fee := s.peers[0].Escrowed(); before == 0 && held == 1 && fee != Credit {
			t.Errorf("seed %d: escrow %d", seed, fee)
		}
		s.after(0, a.restart)
		s.run(3 * time.Minute)
		s.checkVotes()
		if s.peers[0].Tasks() != 1 {
			t.Fatalf("seed %d: stopped at %v, the task is not settled with three of four\n%s", seed, at, s.trace())
		}
		s.checkAgreement(1)
	}
}

// However far apart the timers are by then.
func TestTaskGoesOnAsSoonAsALinkToTheValidatorThatReturnsIsUp(t *testing.T) {
	for _, away := range []time.Duration{5 * time.Second, 21 * time.Second, 33 * time.Second, 64 * time.Second} {
		s := newSwarm(t, 4, 1)
		back := s.peers[1]
		s.after(50*time.Millisecond, func() { back.down, s.peers[2].down = true, true })
		_, order := s.order(0, TaskID{}, Credit, 1)
		s.gossip(4, order)
		s.after(away, func() {
			back.restart()
			for _, other := range []int{0, 3} {
				s.peers[other].engine.Mark(1)
				back.engine.Mark(other)
			}
		})
		s.run(away + time.Second)
		s.checkVotes()
		if s.peers[0].Tasks() != 1 {
			t.Errorf("away for %v: the task is not settled within a second\n%s", away, s.trace())
		}
	}
}

// A process may die after its NewRound vote has left and before what the vote stands for.
func TestTaskGoesOnWhenRoundChangeIsLostInACrash(t *testing.T) {
	s := newSwarm(t, 4, 1)
	s.peers[1].down = true
	crashed := false
	s.drop = func(from, to int, m Message) bool {
		_, change := m.(*RoundChange)
		if lost := change && from == 2 && !crashed; lost {
			s.after(0, func() {
				if !crashed {
					crashed = true
					s.peers[2].restart()
				}
			})
			return true
		}
		return false
	}
	s.settleOne()
	if !crashed {
		t.Fatal("no round change was sent")
	}
	s.checkAgreement(1)
	s.checkVotes()
}

func TestWithheldRevealCostsOnlyTheOneWhoWithholdsIt(t *testing.T) {
	s := newSwarm(t, 4, 3)
	s.drop = func(from, _ int, m Message) bool {
		_, reveal := m.(*Signed[Reveal])
		_, change := m.(*RoundChange)
		return from == 2 && (reveal || change)
	}
	s.settleOne()
	s.checkAgreement(1)
	for _, c := range s.peers[0].receipts[0].Outcome.Credits {
		if c.Account == s.genesis.Validators[2].Account {
			t.Error("it is paid")
		}
		if c.Account == s.genesis.Validators[1].Account && (c.Amount < Credit/20-2 || c.Amount > Credit/20+2) {
			t.Errorf("another one gets %d", c.Amount)
		}
	}
}

func TestOpenTaskHasOneRetryTimer(t *testing.T) {
	s := newSwarm(t, 4, 1)
	_, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.run(200 * time.Millisecond)
	for i, p := range s.peers {
		if p.engine.OpenTasks() != 1 || p.retries != 1 {
			t.Errorf("peer %d: %d open tasks, %d retry timers", i, p.engine.OpenTasks(), p.retries)
		}
	}
}

func TestLeaderHasNoChoice(t *testing.T) {
	s := newSwarm(t, 4, 1)
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.answer(id, 0, "text", 20*time.Millisecond, 40*time.Millisecond)
	s.peers[3].down = true
	refused := false
	s.twist = func(_, _ int, m Message) Message {
		p, ok := m.(*Proposal)
		if !ok || p.Value.Stage != StageSeal || len(p.Value.Seal) == 0 {
			return m
		}
		lie := *p // leaves out a commitment that its justification holds
		lie.Value.Seal = lie.Value.Seal[1:]
		l := lie.Leaf(s.domain)
		leader := p.Proof.Header.Statement.Validator
		u := NewBundle(leader, 1000+uint64(p.Round), crypto.Hash{}, []Leaf{l})
		u.Sign(s.domain, s.keys[leader])
		lie.Proof = u.Proof(0)
		refused = true
		return &lie
	}
	s.run(10 * time.Second)
	for i, p := range s.peers[:3] {
		for _, l := range p.votes {
			if l.Kind == Prepare {
				// The leader prepares its honest value by itself; nobody else may follow the lie.
				if l.Round > 0 && Leader(s.genesis, s.domain, id, StageSeal, l.Round) != i {
					t.Errorf("peer %d prepared a value that does not follow", i)
				}
			}
		}
	}
	if !refused {
		t.Error("no proposal was made")
	}
}

func TestRoundMessagesAreCheckedInEveryPart(t *testing.T) {
	var changes []*RoundChange
	var proposals []*Proposal
	for seed := range uint64(6) {
		s := newSwarm(t, 4, seed)
		s.peers[3].down = true
		s.drop = func(_, _ int, m Message) bool {
			switch m := m.(type) {
			case *RoundChange:
				changes = append(changes, m)
			case *Proposal:
				proposals = append(proposals, m)
			case *Signed[Reveal]:
				return s.random.IntN(2) == 0
			}
			return false
		}
		s.settleOne()
	}
	if len(changes) == 0 || len(proposals) == 0 {
		t.Fatal("no rounds")
	}
	s := newSwarm(t, 4, 0)
	sample := []Message{changes[0], proposals[0], changes[len(changes)-1], proposals[len(proposals)-1]}
	for _, m := range sample {
		_, data := Encode(m)
		for i := 0; i < len(data); i += 1 + len(data)/300 {
			broken := append([]byte{}, data...)
			broken[i] ^= 1 << (i % 8)
			got, err := Decode(TopicVotes, broken)
			if err != nil {
				continue
			}
			if _, err := s.verifier.Verify(got); err == nil {
				t.Fatalf("%T: bit flipped in byte %d of %d: accepted", m, i, len(data))
			}
		}
	}
}

func TestRoundsDoNotRunAwayWhileAQuorumIsMissing(t *testing.T) {
	s := newSwarm(t, 4, 2)
	a, b := s.peers[1], s.peers[2]
	s.after(30*time.Millisecond, func() { a.down, b.down = true, true })
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.answer(id, 0, "text", 20*time.Millisecond, 50*time.Millisecond)
	const away = time.Hour // of rounds of ten seconds each
	s.run(away)
	if s.peers[0].Tasks() != 0 {
		t.Fatal("settled without a quorum")
	}
	for _, l := range s.peers[0].votes {
		if l.Round > 1 {
			t.Fatalf("a %v vote of round %d after an hour without a quorum", l.Kind, l.Round)
		}
	}
	s.after(0, func() { a.restart(); b.restart() })
	s.run(2 * away)
	s.checkVotes()
	s.checkAgreement(1)
}

func TestTwoSealsNameThoseWhoSignedBoth(t *testing.T) {
	s := newSwarm(t, 4, 4)
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.run(100 * time.Millisecond)
	for i := range 2 {
		commit := Sign(s.domain, s.keys[3], CommitScores(s.domain, id, 3, nil, Opening{Salt: [32]byte{byte(i)}}))
		v := SealValue{commit}
		s.send(3, 0, "", &SealCert{v, s.certificate(Leaf{Commit, id, StageSeal, 0, v.Hash(s.domain)})})
	}
	s.run(200 * time.Millisecond)
	accused := map[int]bool{}
	for _, e := range s.peers[0].kept() {
		if e.Offence == TwoVotes {
			accused[e.Validator()] = true
		}
	}
	if len(accused) < s.genesis.Quorum()-s.genesis.Faults() {
		t.Errorf("accused: %v", accused)
	}
}

func TestOnlyTheFirstTaskWaitsForAValidatorThatIsDown(t *testing.T) {
	s := newSwarm(t, 4, 3)
	first, order := s.order(0, TaskID{}, Credit, 1)
	second, next := s.order(1, first, Credit, 1)
	third, last := s.order(2, second, Credit, 1)
	down := slices.IndexFunc(s.peers[:4], func(p *peer) bool { // no leader of a round that is needed
		return Leader(s.genesis, s.domain, first, StageSeal, 1) != p.index && Leader(s.genesis, s.domain, second, StageSeal, 1) != p.index
	})
	s.peers[down].down = true
	run := func(id TaskID, m *OrderMessage) time.Duration {
		begin := s.now
		s.gossip(4, m)
		s.answer(id, 0, "text", 20*time.Millisecond, 30*time.Millisecond)
		for s.peers[4].saw(Settled) < int(m.Order.Statement.Nonce)+1 {
			s.run(s.now + time.Millisecond)
			s.now += time.Millisecond
		}
		return s.now - begin
	}
	if took := run(first, order); took < sealGrace {
		t.Errorf("the first task did not wait: %v", took)
	}
	if took := run(second, next); took > sealGrace {
		t.Errorf("the second task took %v", took)
	}
	s.peers[down].restart()
	run(third, last)
	if n := len(s.peers[4].receipts[2].Seal.Value); n != 4 {
		t.Errorf("after it returned %d commitments are sealed", n)
	}
}

func TestLinksThatComeAndGoDoNotHaveEverythingSentAgainEachTime(t *testing.T) {
	s := newSwarm(t, 4, 1)
	s.peers[2].down, s.peers[3].down = true, true
	_, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.run(time.Minute) // its own timers are far apart now
	queries := 0
	s.drop = func(from, to int, m Message) bool {
		if _, ok := m.(*Query); ok && from == 0 && to == 1 {
			queries++
		}
		return false
	}
	const flaps = 500
	for i := range flaps {
		s.after(time.Duration(i)*10*time.Millisecond, func() { s.peers[0].engine.Mark(3) })
	}
	s.run(s.now + 8*time.Second)
	if queries == 0 || queries > 8 {
		t.Errorf("sent again %d times in 5 s of %d new links", queries, flaps)
	}
}

func TestOrderThatAQuorumVotedForIsLockedAfterAllWereRestarted(t *testing.T) {
	s := newSwarm(t, 4, 5)
	id, order := s.order(0, TaskID{}, Credit, 1)
	dark := true
	s.drop = func(from, to int, m Message) bool { // the power goes off before any vote arrives
		_, votes := m.(*Bundle)
		return dark && votes && from != to
	}
	s.gossip(4, order)
	s.run(50 * time.Millisecond)
	for _, p := range s.peers[:4] {
		if len(p.votes) != 1 {
			t.Fatalf("peer %d voted %d times", p.index, len(p.votes))
		}
		p.restart()
	}
	dark = false
	s.run(time.Minute)
	for i, p := range s.peers[:4] {
		if task, _ := p.LockedAt(s.payer.Public(), 0); task != id {
			t.Errorf("peer %d has not locked it", i)
		}
	}
	s.checkAgreement(1)
}
