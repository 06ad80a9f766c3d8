package sim

import (
	"cmp"
	"slices"

	"github.com/poqmesh/poq/ledger"
)

// evilLeader proposes two values in one round, each justified by another quorum, with its own round change told
// in two ways; and it votes for both.
type evilLeader struct {
	liar
	changes []*ledger.RoundChange // of others
}

func (e *evilLeader) takes(_ *node, _ int, m ledger.Message) bool {
	switch m := m.(type) {
	case *ledger.RoundChange:
		e.changes = append(e.changes, m)
	case *ledger.Proposal:
		e.changes = append(e.changes, m.Justification...)
	}
	return true
}

func (e *evilLeader) sends(n *node, to int, m ledger.Message) []ledger.Message {
	p, ok := m.(*ledger.Proposal)
	if !ok || !n.own(m) {
		return e.liar.sends(n, to, m)
	}
	if n.w.chance(20) {
		return nil
	}
	if to%2 == 0 {
		return []ledger.Message{m}
	}
	other := e.propose(n, p)
	if other == nil {
		return []ledger.Message{m}
	}
	vote := ledger.Leaf{Kind: ledger.Prepare, Task: other.Value.Task, Stage: other.Value.Stage, Round: other.Round, Value: other.Value.Hash(n.w.domain)}
	commit := vote
	commit.Kind = ledger.Commit
	return []ledger.Message{other, n.forge(vote), n.forge(commit)}
}

// propose makes a proposal for the same round out of another quorum, nil if there is none.
func (e *evilLeader) propose(n *node, p *ledger.Proposal) *ledger.Proposal {
	w := n.w
	of := map[uint16]*ledger.RoundChange{}
	for _, c := range slices.Concat(e.changes, p.Justification) {
		if v := c.Proof.Header.Statement.Validator; c.Task == p.Value.Task && c.Stage == p.Value.Stage && c.Round == p.Round && (of[v] == nil || w.chance(50)) {
			of[v] = c
		}
	}
	if own := of[uint16(n.self)]; own != nil {
		of[uint16(n.self)] = lie(n, own)
	}
	var j []*ledger.RoundChange
	for v := range w.n {
		if of[uint16(v)] != nil {
			j = append(j, of[uint16(v)])
		}
	}
	w.random.Shuffle(len(j), func(a, b int) { j[a], j[b] = j[b], j[a] })
	if len(j) < w.genesis.Quorum() {
		return nil
	}
	j = j[:w.genesis.Quorum()]
	slices.SortFunc(j, func(a, b *ledger.RoundChange) int {
		return cmp.Compare(a.Proof.Header.Statement.Validator, b.Proof.Header.Statement.Validator)
	})
	t, ok := w.known[p.Value.Task]
	if !ok {
		return nil
	}
	other := &ledger.Proposal{Round: p.Round, Justification: j}
	other.Value = ledger.Justified(w.genesis, w.domain, p.Value.Task, p.Value.Stage, t.message.Order.Statement, j)
	other.Proof = n.forge(other.Leaf(w.domain)).Proof(0)
	return other
}
