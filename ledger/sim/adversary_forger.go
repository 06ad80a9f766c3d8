package sim

import (
	"slices"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// forger makes up what only signatures, hashes and counts keep out: certificates without a quorum, outcomes
// that nobody voted for, proposals that their justification does not carry.
type forger struct {
	faithful
	apart    uint64                             // bundles that it signed apart from its chain
	proofs   map[uint16]ledger.VoteProof        // a vote of each of the others
	lock     *ledger.Certificate                // of some task
	prepared *ledger.Prepared                   // in some task
	prepares map[ledger.Leaf][]ledger.VoteProof // votes of others, by validator
	forged   bool                               // an order of its own was locked, if anybody believed that
	twisted  ledger.Message                     // the last message that it changed,
	into     []ledger.Message                   // and what that became
}

func newForger() adversary {
	return &forger{proofs: map[uint16]ledger.VoteProof{}, prepares: map[ledger.Leaf][]ledger.VoteProof{}}
}

// farSeq is far above the numbers of the bundles that it sends.
const farSeq = 1 << 32

// proof proves its vote for anything.
func (a *forger) proof(n *node, l ledger.Leaf) ledger.VoteProof {
	u := ledger.NewBundle(uint16(n.self), farSeq+a.apart, crypto.Hash{}, []ledger.Leaf{l})
	a.apart++
	u.Header = *ledger.SignTrusted(n.w.verifier, keys.validators[n.self], u.Header.Statement)
	return u.Proof(0)
}

// alone is a certificate with no votes but its own, count times.
func (a *forger) alone(n *node, l ledger.Leaf, count int) ledger.Certificate {
	return ledger.Certificate{Vote: l, Proofs: slices.Repeat([]ledger.VoteProof{a.proof(n, l)}, count)}
}

func (a *forger) takes(n *node, _ int, m ledger.Message) bool {
	switch m := m.(type) {
	case *ledger.Bundle:
		if v := m.Header.Statement.Validator; int(v) != n.self {
			a.proofs[v] = m.Proof(0)
			for i, l := range m.Leaves {
				if l.Kind == ledger.Prepare {
					a.prepares[l] = append(a.prepares[l], m.Proof(i))
				}
			}
		}
	case *ledger.SealCert:
		a.prepare(n, m)
	case *ledger.LockCert:
		a.lock = &m.Votes
		a.lockOwn(n)
	case *ledger.RoundChange:
		if m.Prepared != nil {
			a.prepared = m.Prepared
		}
	case *ledger.Receipt:
		if n.w.chance(30) {
			a.enrich(n, m)
		}
	}
	return true
}

// prepare makes a prepared certificate of a sealed set out of the votes that it has seen.
func (a *forger) prepare(n *node, m *ledger.SealCert) {
	l := m.Votes.Vote
	l.Kind = ledger.Prepare
	proofs := append(slices.Clone(a.prepares[l]), a.proof(n, l))
	slices.SortStableFunc(proofs, func(a, b ledger.VoteProof) int {
		return int(a.Header.Statement.Validator) - int(b.Header.Statement.Validator)
	})
	proofs = slices.CompactFunc(proofs, func(a, b ledger.VoteProof) bool {
		return a.Header.Statement.Validator == b.Header.Statement.Validator
	})
	if len(proofs) >= quorum(n.w.n) {
		a.prepared = &ledger.Prepared{
			Votes: ledger.Certificate{Vote: l, Proofs: proofs},
			Value: ledger.Value{Task: l.Task, Stage: ledger.StageSeal, Seal: m.Value},
		}
	}
}

// lockOwn gossips locks of an order that nobody voted for, of an account that has nothing.
func (a *forger) lockOwn(n *node) {
	w := n.w
	if a.forged || !w.chance(20) {
		return
	}
	a.forged = true
	key := keys.accounts[n.self]
	order := ledger.SignTrusted(w.verifier, key, ledger.Order{
		Payer: key.Public(), Fee: 1 << 40, Split: 1, Prompt: crypto.Sum([]byte("forged")), Judge: judge, MaxAnswers: 1,
		AnswerDeadline: 20, ScoreDeadline: 20,
	})
	l, q := ledger.LockLeaf(ledger.OrderID(w.domain, order.Statement)), quorum(w.n)
	borrowed, unsigned := ledger.Certificate{Vote: l}, ledger.Certificate{Vote: l}
	for v := range w.n {
		p, ok := a.proofs[uint16(v)]
		if v == n.self {
			p, ok = a.proof(n, l), true
		}
		if ok {
			borrowed.Proofs = append(borrowed.Proofs, p)
		}
		u := ledger.NewBundle(uint16(v), farSeq, crypto.Hash{}, []ledger.Leaf{l})
		unsigned.Proofs = append(unsigned.Proofs, u.Proof(0))
	}
	for _, votes := range []ledger.Certificate{a.alone(n, l, q), a.alone(n, l, 1), borrowed, unsigned, *a.lock} {
		w.gossip(n, &ledger.LockCert{Order: *order, Votes: votes})
	}
}

// enrich gossips a receipt that pays the forger what others have earned.
func (a *forger) enrich(n *node, r *ledger.Receipt) {
	forged := *r
	forged.Outcome.Credits = slices.Clone(r.Outcome.Credits)
	forged.Outcome.Credits[0].Account = keys.accounts[n.self].Public()
	n.w.gossip(n, &forged)
}

func (a *forger) sends(n *node, _ int, m ledger.Message) []ledger.Message {
	if a.twisted != m {
		a.twisted, a.into = m, a.twist(n, m)
	}
	return a.into
}

// twist returns what all others get instead of a message.
func (a *forger) twist(n *node, m ledger.Message) []ledger.Message {
	switch m := m.(type) {
	case *ledger.Signed[ledger.Reveal]:
		if n.own(m) && n.w.chance(50) {
			return []ledger.Message{reveal(n, m.Statement)}
		}
	case *ledger.RoundChange:
		if n.own(m) && n.w.chance(50) {
			return []ledger.Message{a.change(n, m)}
		}
	case *ledger.Proposal:
		if n.own(m) && n.w.chance(70) {
			return []ledger.Message{a.proposal(n, m)}
		}
	}
	return []ledger.Message{m}
}

// reveal shows the best score for every answer, whatever it committed to.
func reveal(n *node, r ledger.Reveal) ledger.Message {
	r.Opening.Scores = slices.Repeat([]ledger.Score{ledger.MaxScore}, len(r.Opening.Scores))
	r.Opening.Salt[0]++
	return ledger.SignTrusted(n.w.verifier, keys.validators[n.self], r)
}

// change is a round change with a prepared certificate that there never was, or is of another task.
func (a *forger) change(n *node, m *ledger.RoundChange) *ledger.RoundChange {
	w := n.w
	twisted := *m
	value := ledger.Value{Task: m.Task, Stage: m.Stage}
	least := uint32(0)
	if m.Stage == ledger.StageSettle {
		least = 1 // there is no Prepare in its round 0
		value.Outcome = ledger.Settle(w.genesis, w.domain, m.Task, w.check.orders[m.Task], m.Seal.Value, nil)
	}
	switch {
	case a.prepared != nil && a.prepared.Value.Task != m.Task && w.chance(50):
		twisted.Prepared = a.prepared
	case m.Round > least:
		l := ledger.Leaf{Kind: ledger.Prepare, Task: m.Task, Stage: m.Stage, Round: m.Round - 1, Value: value.Hash(w.domain)}
		twisted.Prepared = &ledger.Prepared{Votes: a.alone(n, l, []int{1, quorum(w.n)}[w.random.IntN(2)]), Value: value}
	default:
		return m
	}
	twisted.Proof = a.proof(n, twisted.Leaf(w.domain))
	return &twisted
}

// proposal is one that leaves something out: of the value, or of the justification.
func (a *forger) proposal(n *node, m *ledger.Proposal) *ledger.Proposal {
	w := n.w
	twisted := *m
	i := slices.IndexFunc(m.Justification, func(j *ledger.RoundChange) bool { return int(j.Proof.Header.Statement.Validator) == n.self })
	if w.chance(40) {
		return a.strip(n, m)
	}
	if kind := w.random.IntN(3); kind > 0 && i >= 0 {
		own := *m.Justification[i]
		own.Prepared, own.Fast, own.Reveals, own.Commits = nil, false, nil, nil
		own.Proof = a.proof(n, own.Leaf(w.domain))
		twisted.Justification = []*ledger.RoundChange{&own}
		if kind > 1 {
			twisted.Justification = slices.Repeat(twisted.Justification, quorum(w.n))
		}
	}
	twisted.Value = ledger.Value{Task: m.Value.Task, Stage: m.Value.Stage}
	if m.Value.Stage == ledger.StageSettle {
		twisted.Value.Outcome = ledger.Settle(w.genesis, w.domain, m.Value.Task, w.check.orders[m.Value.Task], m.Justification[0].Seal.Value, nil)
	}
	twisted.Proof = a.proof(n, twisted.Leaf(w.domain))
	return &twisted
}

// strip leaves the prepared certificates out of a proposal that would force its value. The round changes say no
// less than before: only the proof is gone.
func (a *forger) strip(n *node, m *ledger.Proposal) *ledger.Proposal {
	w := n.w
	twisted := &ledger.Proposal{Round: m.Round}
	for _, j := range m.Justification {
		bare := *j
		if bare.Prepared != nil {
			bare.Prepared, bare.Claim = nil, &j.Prepared.Votes.Vote
		}
		twisted.Justification = append(twisted.Justification, &bare)
	}
	twisted.Value = ledger.Justified(w.genesis, w.domain, m.Value.Task, m.Value.Stage, w.check.orders[m.Value.Task], twisted.Justification)
	twisted.Proof = a.proof(n, twisted.Leaf(w.domain))
	return twisted
}
