package ledger

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// proofs makes one valid proof of each offence; validator 2 and the payer are the culprits.
func proofs(s *swarm) []*Evidence {
	id, order := s.order(3, crypto.Sum([]byte("previous")), Credit, 1)
	_, other := s.order(3, crypto.Sum([]byte("previous")), Credit, 2)
	commit := func(salt byte) Signed[ScoreCommit] {
		return Sign(s.domain, s.keys[2], CommitScores(s.domain, id, 2, nil, Opening{Salt: [32]byte{salt}}))
	}
	bundle := func(seq uint64, previous crypto.Hash, leaves ...Leaf) *Bundle {
		u := NewBundle(2, seq, previous, leaves)
		u.Sign(s.domain, s.keys[2])
		return &u
	}
	vote := func(seq uint64, l Leaf) ProvenVote {
		u := bundle(seq, crypto.Hash{}, Leaf{Kind: LockVote, Task: id, Value: id}, l)
		return ProvenVote{l, u.Proof(1)}
	}
	commitVote := func(round uint32, value string) Leaf {
		return Leaf{Commit, id, StageSeal, round, crypto.Sum([]byte(value))}
	}
	leave := Leaf{NewRound, id, StageSeal, 2, crypto.Sum([]byte("what is known"))}
	return []*Evidence{
		ordersEvidence(order.Order, other.Order),
		commitsEvidence(commit(1), commit(2)),
		bundlesEvidence(bundle(7, crypto.Hash{}, leave).Header, bundle(7, crypto.Hash{}, commitVote(1, "a")).Header),
		{Offence: BrokenChain, Bundles: [2]Signed[BundleHeader]{bundle(7, crypto.Hash{}, leave).Header, bundle(8, crypto.Hash{1}, leave).Header}},
		votesEvidence(vote(4, commitVote(1, "a")), vote(4, commitVote(1, "b"))),
		{Offence: VoteAfterEnd, Votes: [2]ProvenVote{vote(4, leave), vote(5, commitVote(1, "a"))}},
	}
}

func TestEachOffenceIsProvenByTwoSignaturesOfOneKey(t *testing.T) {
	s := newSwarm(t, 4, 1)
	ids := map[crypto.Hash]bool{}
	for _, p := range proofs(s) {
		if _, err := s.verifier.Verify(p); err != nil {
			t.Errorf("%v: %v", p.Offence, err)
		}
		again, err := DecodeEvidence(p.Encode())
		if err != nil || !bytes.Equal(again.Encode(), p.Encode()) {
			t.Errorf("%v does not survive encoding: %v", p.Offence, err)
		}
		want, culprit := s.keys[2].Public(), crypto.PublicKey{}
		if p.Offence == TwoOrders {
			want = s.payer.Public()
		}
		if culprit, err = p.Culprit(s.genesis); err != nil || culprit != want {
			t.Errorf("%v accuses %s, %v", p.Offence, culprit.Short(), err)
		}
		ids[p.ID(s.domain)] = true
	}
	if len(ids) != int(VoteAfterEnd) {
		t.Errorf("%d ids of %d offences", len(ids), VoteAfterEnd)
	}
}

func TestStatementsThatAnHonestKeySignsAreNoEvidence(t *testing.T) {
	s := newSwarm(t, 4, 1)
	swap := func(p *Evidence) {
		slices.Reverse(p.Orders[:])
		slices.Reverse(p.Commits[:])
		slices.Reverse(p.Bundles[:])
		slices.Reverse(p.Votes[:])
	}
	same := func(p *Evidence) {
		p.Orders[1], p.Commits[1], p.Bundles[1], p.Votes[1] = p.Orders[0], p.Commits[0], p.Bundles[0], p.Votes[0]
	}
	for name, change := range map[string]func(*Evidence){"in the other order": swap, "one statement twice": same} {
		for _, p := range proofs(s) {
			change(p)
			if _, err := s.verifier.Verify(p); !errors.Is(err, ErrMalformed) {
				t.Errorf("%v, %s: %v", p.Offence, name, err)
			}
		}
	}
	// Two honest chains, of two validators, contradict each other in nothing.
	for _, p := range proofs(s) {
		if p.Offence == TwoOrders {
			continue
		}
		p.Commits[1].Statement.Member, p.Bundles[1].Statement.Validator, p.Votes[1].Proof.Header.Statement.Validator = 1, 1, 1
		if _, err := s.verifier.Verify(p); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v of two validators: %v", p.Offence, err)
		}
	}
	for _, p := range proofs(s) {
		p.Orders[1].Sig[3]++
		p.Commits[1].Sig[3]++
		p.Bundles[1].Sig[3]++
		p.Votes[1].Proof.Header.Sig[3]++
		if _, err := s.verifier.Verify(p); !errors.Is(err, ErrSignature) {
			t.Errorf("%v with a foreign signature: %v", p.Offence, err)
		}
	}
}

// kept returns the proofs that a peer's host was given.
func (p *peer) kept() (list []*Evidence) {
	for _, g := range p.progress {
		if g.Proof != nil {
			list = append(list, g.Proof)
		}
	}
	return list
}

func TestPayerWithTwoOrdersIsFrozenEverywhereAndStaysSoAfterARestart(t *testing.T) {
	s := newSwarm(t, 4, 5)
	id, first := s.order(0, TaskID{}, Credit, 1)
	_, second := s.order(0, TaskID{}, Credit, 2)
	s.gossip(4, first)
	s.answer(id, 0, "text", 20*time.Millisecond, 40*time.Millisecond)
	s.after(3*time.Second, func() { s.send(4, 1, "", second) }) // one validator alone sees both
	s.run(20 * time.Second)
	s.checkAgreement(1)
	for i, p := range s.peers {
		if kept := p.kept(); len(kept) != 1 || kept[0].Offence != TwoOrders {
			t.Errorf("peer %d keeps %v", i, kept)
		}
	}
	for _, p := range s.peers[:4] {
		proof := p.kept()[0]
		p.restart()
		p.engine.RestoreEvidence(proof)
	}
	next, order := s.order(1, id, Credit, 1)
	s.gossip(4, order)
	s.run(40 * time.Second)
	for i, p := range s.peers[:4] {
		if _, locked := p.Escrow(next); locked {
			t.Errorf("peer %d locked a later order of the frozen payer", i)
		}
	}
}

func TestOneProofOfAnOffenceAndCulpritIsKeptAndPublished(t *testing.T) {
	s := newSwarm(t, 4, 6)
	published := map[int]int{}
	s.drop = func(from, to int, m Message) bool {
		if _, ok := m.(*Evidence); ok && from == to {
			published[from]++
		}
		return false
	}
	for seq := range uint64(5) {
		for i := range 2 {
			u := NewBundle(2, seq, crypto.Hash{}, []Leaf{{Prepare, TaskID{byte(i), byte(seq)}, StageSeal, 0, crypto.Hash{}}})
			u.Sign(s.domain, s.keys[2])
			s.send(2, 0, TopicVotes, &u)
		}
	}
	s.run(time.Second)
	for i, p := range s.peers {
		var offences []Offence
		for _, e := range p.kept() {
			offences = append(offences, e.Offence)
		}
		slices.Sort(offences)
		if !slices.Equal(offences, []Offence{TwoBundles, BrokenChain}) {
			t.Errorf("peer %d keeps %v", i, offences)
		}
	}
	if len(published) != 1 || published[0] != 2 {
		t.Errorf("published by: %v", published)
	}
}

func TestEvidenceOfAnUnknownPayerIsNotKept(t *testing.T) {
	s := newSwarm(t, 4, 7)
	s.payer = testKey("stranger", 0)
	s.gossip(4, proofs(s)[0])
	s.run(time.Second)
	for i, p := range s.peers {
		if len(p.kept()) != 0 {
			t.Errorf("peer %d keeps it", i)
		}
	}
}

func TestVoteOfARoundThatItsValidatorLeftCountsNoMore(t *testing.T) {
	s := newSwarm(t, 4, 8)
	id, order := s.order(0, TaskID{}, Credit, 1)
	s.gossip(4, order)
	s.run(100 * time.Millisecond)
	p := s.peers[0]
	lock := &LockCert{*p.engine.tasks[id].order, p.engine.tasks[id].lock}
	change := &RoundChange{Task: id, Stage: StageSeal, Round: 1, Lock: lock}
	leave := NewBundle(3, 100, crypto.Hash{}, []Leaf{change.Leaf(s.domain)})
	leave.Sign(s.domain, s.keys[3])
	change.Proof = leave.Proof(0)
	late := NewBundle(3, 101, leave.Header.Statement.Hash(s.domain), []Leaf{{Prepare, id, StageSeal, 0, crypto.Sum([]byte("x"))}})
	late.Sign(s.domain, s.keys[3])
	early := NewBundle(3, 99, crypto.Hash{}, []Leaf{{Commit, id, StageSeal, 0, crypto.Sum([]byte("x"))}})
	early.Sign(s.domain, s.keys[3])
	for i, m := range []Message{&leave, change, &late, &early} {
		s.after(time.Duration(10*i)*time.Millisecond, func() { s.send(3, 0, TopicVotes, m) })
	}
	s.run(200 * time.Millisecond)
	votes := p.engine.tasks[id].seal.votes.votes
	if n := len(votes[late.Leaves[0]]); n != 0 {
		t.Error("it counts")
	}
	if n := len(votes[early.Leaves[0]]); n != 1 {
		t.Error("one that was signed before the end of the round does not count")
	}
	kept := p.kept()
	if !slices.ContainsFunc(kept, func(e *Evidence) bool { return e.Offence == VoteAfterEnd }) {
		t.Errorf("kept: %v", kept)
	}
	for _, e := range kept {
		if _, err := s.verifier.Verify(e); err != nil {
			t.Errorf("%v: %v", e.Offence, err)
		}
	}
}
