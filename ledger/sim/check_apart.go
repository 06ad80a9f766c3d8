package sim

import (
	"slices"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/internal/naive"
)

// This file checks with code of its own what the core decides with its own code: receipts by the second
// implementation, and that validators prepare nothing but value(J).

// plainShare of the runs have their receipts checked by the second implementation, which is slow.
const plainShare = 4

// plainly checks the receipts of a peer by the second implementation.
func (c *checker) plainly(n *node) {
	if c.w.result.Seed%plainShare != 0 {
		return
	}
	g, err := naive.ParseGenesis(c.w.genesis.Encode())
	if err != nil {
		c.broken(I11, n.index, "genesis: %v", err)
		return
	}
	for _, r := range n.store.settledList() {
		err := g.CheckReceipt(r.Encode())
		c.holds(err == nil, I11, n.index, "receipt of %s by the second implementation: %v", c.w.task(r.Task()), err)
	}
}

// chained checks that each order that a peer has locked names the one before it (§4).
func (c *checker) chained(n *node) {
	for _, id := range n.store.lockedList() {
		signed, _ := n.store.order(id)
		o := signed.Statement
		if o.Nonce == 0 {
			continue
		}
		before, locked := n.store.state.LockedAt(o.Payer, o.Nonce-1)
		c.holds(!locked || before == o.Previous, Chained, n.index, "%s is locked after %s, which it does not name", c.w.task(id), c.w.task(before))
	}
}

// promise is what a validator votes to lock once: a nonce of a payer (§4).
type promise struct {
	validator int
	nonce
}

// promised looks at an honest lock vote.
func (c *checker) promised(v int, task ledger.TaskID) {
	o, ok := c.orders[task]
	if !ok {
		return
	}
	at := promise{v, nonce{o.Payer, o.Nonce}}
	known, again := c.promises[at]
	c.holds(!again || known == task, I8, v, "votes to lock %s and %s, which have one nonce", c.w.task(known), c.w.task(task))
	c.promises[at] = task
}

// onChange looks at what a validator says when it leaves a round: the next leader must learn of every value that
// it may have helped to decide.
func (c *checker) onChange(from *node, m *ledger.RoundChange) {
	v := int(m.Proof.Header.Statement.Validator)
	if from == nil || !from.honest() || from.self != v {
		return
	}
	told := -1
	if m.Prepared != nil {
		told = int(m.Prepared.Votes.Vote.Round)
	}
	for round := range m.Round {
		_, committed := c.ballots[ballot{v, ledger.Commit, m.Task, m.Stage, round}]
		c.holds(!committed || told >= int(round), Reported, v, "enters round %d of %s, and does not tell what it committed to in round %d", m.Round, c.w.task(m.Task), round)
	}
	_, fast := c.ballots[ballot{v, ledger.FastCommit, m.Task, m.Stage, 0}]
	c.holds(!fast || m.Fast, Reported, v, "enters round %d of %s, and does not tell of its fast-commit", m.Round, c.w.task(m.Task))
}

// candidate is a value that a leader proposed with a justification that leaves it no choice.
type candidate struct {
	instance
	round uint32
	value crypto.Hash
}

// onProposal looks at a proposal when it is first sent.
func (c *checker) onProposal(from *node, m *ledger.Proposal) {
	d, g := c.w.domain, c.w.genesis
	order, known := c.orders[m.Value.Task]
	if !known {
		return
	}
	var members []int
	for _, j := range m.Justification {
		if j.Task == m.Value.Task && j.Stage == m.Value.Stage && j.Round == m.Round {
			members = append(members, int(j.Proof.Header.Statement.Validator))
		}
	}
	slices.Sort(members)
	enough := len(slices.Compact(members)) >= quorum(len(g.Validators))
	value := m.Value.Hash(d)
	sound := enough && value == forced(g, d, m, order)
	if sound {
		c.proposed[candidate{instance{m.Value.Task, m.Value.Stage}, m.Round, value}] = true
	}
	if from != nil && from.honest() {
		c.holds(sound, Justified, from.index, "proposes for round %d of %s what its justification does not force", m.Round, c.w.task(m.Value.Task))
	}
}

// prepared looks at an honest Prepare of a later round. A leader's own can be seen before its proposal.
func (c *checker) prepared(v int, l ledger.Leaf) {
	if l.Round == 0 || ledger.Leader(c.w.genesis, c.w.domain, l.Task, l.Stage, l.Round) == v {
		return
	}
	c.holds(c.proposed[candidate{instance{l.Task, l.Stage}, l.Round, l.Value}], Justified, v, "%s, which no justification forces", c.w.leaf(l))
}

// quorum is that of protocol §2.
func quorum(n int) int { return n - (n-1)/3 }

// forced is value(J) of protocol §6, by its hash.
func forced(g *ledger.Genesis, d crypto.Domain, m *ledger.Proposal, o ledger.Order) crypto.Hash {
	v := ledger.Value{Task: m.Value.Task, Stage: m.Value.Stage}
	var best *ledger.Prepared
	var claims []*ledger.Leaf // of prepared certificates that the proposal need not show
	openings := map[uint16]ledger.Opening{}
	commits := map[uint16][]ledger.Signed[ledger.ScoreCommit]{}
	for _, j := range m.Justification {
		if p := j.Prepared; p != nil && (best == nil || p.Votes.Vote.Round >= best.Votes.Vote.Round) {
			best = p
		}
		if j.Claim != nil {
			claims = append(claims, j.Claim)
		}
		for _, r := range j.Reveals {
			openings[r.Member] = r.Opening
		}
		for _, s := range j.Commits {
			member := s.Statement.Member
			if !slices.ContainsFunc(commits[member], func(k ledger.Signed[ledger.ScoreCommit]) bool {
				return k.Statement.Commitment == s.Statement.Commitment && slices.Equal(k.Statement.Answers, s.Statement.Answers)
			}) {
				commits[member] = append(commits[member], s)
			}
		}
	}
	if slices.ContainsFunc(claims, func(l *ledger.Leaf) bool { return best == nil || l.Round > best.Votes.Vote.Round }) {
		return crypto.Hash{} // it leaves out what forces the value
	}
	switch {
	case best != nil:
		v = best.Value
	case v.Stage == ledger.StageSeal:
		for member := range g.Validators {
			if list := commits[uint16(member)]; len(list) == 1 {
				v.Seal = append(v.Seal, list[0])
			}
		}
	default:
		var reveals []ledger.RevealedOpening
		for member := range g.Validators {
			if o, ok := openings[uint16(member)]; ok {
				reveals = append(reveals, ledger.RevealedOpening{Member: uint16(member), Opening: o})
			}
		}
		v.Outcome = ledger.Settle(g, d, v.Task, o, m.Justification[0].Seal.Value, reveals)
	}
	return v.Hash(d)
}
