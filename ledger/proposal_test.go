package ledger

import (
	"bytes"
	"errors"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

// sealProposal makes a proposal of the seal stage in round 3, in which every member holds all commitments
// to the scores of some answers, and those whose prepared round is not 0 a prepared certificate of it.
func sealProposal(s *swarm, answers int, prepared func(member int) uint32) *Proposal {
	id, order := s.order(0, TaskID{}, Credit, 16)
	lock := &LockCert{order.Order, s.certificate(LockLeaf(id))}
	var ids []AnswerID
	for i := range answers {
		ids = append(ids, AnswerID{s.workers[0].Public(), crypto.Sum([]byte{byte(i)})})
	}
	sortAnswerIDs(ids)
	var commits SealValue
	for i, key := range s.keys {
		commits = append(commits, Sign(s.domain, key, CommitScores(s.domain, id, uint16(i), ids, Opening{Scores: make([]Score, answers), Salt: [32]byte{byte(i)}})))
	}
	certificates := map[uint32]*Prepared{}
	m := &Proposal{Round: 3}
	for member := range s.genesis.Quorum() {
		j := &RoundChange{Task: id, Stage: StageSeal, Round: 3, Lock: lock, Commits: commits}
		if r := prepared(member); r > 0 {
			if certificates[r] == nil {
				v := Value{Task: id, Stage: StageSeal, Seal: commits[r:]} // another one in each round
				certificates[r] = &Prepared{s.certificate(Leaf{Prepare, id, StageSeal, r, v.Hash(s.domain)}), v}
			}
			j.Prepared = certificates[r]
		}
		j.Proof = s.prove(member, j.Leaf(s.domain))
		m.Justification = append(m.Justification, j)
	}
	m.Value = Justified(s.genesis, s.domain, id, StageSeal, order.Order.Statement, m.Justification)
	return s.lead(m)
}

// lead has the round's leader sign a proposal.
func (s *swarm) lead(m *Proposal) *Proposal {
	m.Proof = s.prove(Leader(s.genesis, s.domain, m.Value.Task, m.Value.Stage, m.Round), m.Leaf(s.domain))
	return m
}

func TestProposalOfTheLargestCommitteeFitsAFrame(t *testing.T) {
	s := newSwarm(t, MaxValidators, 1)
	m := sealProposal(s, MaxAnswers, func(member int) uint32 { return 1 + uint32(member)%2 })
	_, data := Encode(m)
	if len(data) > MaxFrame/2 {
		t.Errorf("%d bytes", len(data))
	}
	got, err := Decode(TopicVotes, data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verifier.Verify(got); err != nil {
		t.Error(err)
	}
	if _, again := Encode(got); !bytes.Equal(again, data) {
		t.Error("it does not survive encoding")
	}
	t.Logf("%d bytes", len(data))
}

func TestProposalProvesTheHighestPreparedCertificateAlone(t *testing.T) {
	s := newSwarm(t, 7, 2)
	m := sealProposal(s, 2, func(member int) uint32 { return []uint32{1, 2, 0, 1, 0}[member] })
	_, data := Encode(m)
	got, err := Decode(TopicVotes, data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verifier.Verify(got); err != nil {
		t.Fatal(err)
	}
	j := got.(*Proposal).Justification
	if j[0].Prepared != nil || j[0].Claim == nil || j[0].Claim.Round != 1 || j[1].Prepared == nil || j[2].claim() != nil {
		t.Errorf("reported: %v %v %v", j[0].claim(), j[1].claim(), j[2].claim())
	}
	for i, change := range j {
		if change.Leaf(s.domain) != m.Justification[i].Leaf(s.domain) {
			t.Errorf("report %d is of another vote", i)
		}
	}
	if v := Justified(s.genesis, s.domain, j[0].Task, StageSeal, Order{}, j); v.Hash(s.domain) != m.Value.Hash(s.domain) {
		t.Error("the value does not follow any more")
	}
}

func TestProposalThatLeavesItsHighestPreparedCertificateOutIsRefused(t *testing.T) {
	s := newSwarm(t, 4, 3)
	for name, change := range map[string]func(m *Proposal){
		"none is proven": func(m *Proposal) {
			for _, j := range m.Justification {
				if j.Prepared != nil {
					j.Claim, j.Prepared = &j.Prepared.Votes.Vote, nil
				}
			}
		},
		"a lower one is proven": func(m *Proposal) {
			j := m.Justification[1]
			j.Claim, j.Prepared = &j.Prepared.Votes.Vote, nil
		},
	} {
		m := sealProposal(s, 1, func(member int) uint32 { return []uint32{1, 2, 0}[member] })
		change(m)
		m.Value = Justified(s.genesis, s.domain, m.Value.Task, StageSeal, Order{}, m.Justification)
		_, data := Encode(s.lead(m))
		got, err := Decode(TopicVotes, data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := s.verifier.Verify(got); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProposalHasOneEncoding(t *testing.T) {
	s := newSwarm(t, 4, 4)
	m := sealProposal(s, 1, func(int) uint32 { return 0 })
	_, data := Encode(m)
	commits := m.Justification[0].Commits
	table := commits.append(nil)
	at := bytes.LastIndex(data, table)
	if at < 0 {
		t.Fatal("the table of commitments is not there")
	}
	for name, other := range map[string]SealValue{
		"one that nobody names": append(commits[:len(commits):len(commits)], commits[0]),
		"in another order":      {commits[1], commits[0], commits[2], commits[3]},
		"one is missing":        commits[:3],
	} {
		changed := bytes.Clone(data[:at])
		changed = append(other.append(changed), data[at+len(table):]...)
		got, err := Decode(TopicVotes, changed)
		if err == nil {
			_, err = s.verifier.Verify(got)
		}
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRoundChangeBindsWhatIsHeldAndNotWhoSignedIt(t *testing.T) {
	s := newSwarm(t, 4, 5)
	m := sealProposal(s, 1, func(int) uint32 { return 1 }).Justification[0]
	leaf := m.Leaf(s.domain)
	lock, prepared := *m.Lock, *m.Prepared
	lock.Votes.Proofs, prepared.Votes.Proofs = lock.Votes.Proofs[1:], prepared.Votes.Proofs[1:]
	other := *m
	other.Lock, other.Prepared = &lock, &prepared
	if other.Leaf(s.domain) != leaf {
		t.Error("it depends on the signers of a certificate (I15)")
	}
	for name, change := range map[string]func(m *RoundChange){
		"round":    func(m *RoundChange) { m.Round++ },
		"fast":     func(m *RoundChange) { m.Fast = !m.Fast },
		"prepared": func(m *RoundChange) { m.Prepared = nil },
		"value":    func(m *RoundChange) { m.Prepared, m.Claim = nil, &Leaf{Prepare, m.Task, m.Stage, 1, crypto.Hash{1}} },
		"commits":  func(m *RoundChange) { m.Commits = m.Commits[1:] },
		"stage":    func(m *RoundChange) { m.Stage = StageSettle },
	} {
		other := *m
		if change(&other); other.Leaf(s.domain).Value == leaf.Value {
			t.Errorf("it does not bind its %s", name)
		}
	}
}
