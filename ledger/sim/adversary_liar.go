package sim

import (
	"slices"

	"github.com/poqmesh/poq/ledger"
)

// liar leaves rounds with less than it knows: it hides that it sent FastCommit, what it has prepared,
// commitments and reveals, as far as that can be signed, and tells everyone something else. Now and then it leaves
// a round before its time.
type liar struct{ faithful }

// lie is a round change of a validator's own with something left out.
func lie(n *node, m *ledger.RoundChange) *ledger.RoundChange {
	w, c := n.w, *m
	if w.chance(70) {
		c.Prepared = nil
	}
	if w.chance(70) {
		c.Fast = false
	}
	if w.chance(40) {
		c.Commits = slices.DeleteFunc(slices.Clone(c.Commits), func(ledger.Signed[ledger.ScoreCommit]) bool { return w.chance(50) })
	}
	if w.chance(60) && !c.Fast {
		c.Reveals = slices.DeleteFunc(slices.Clone(c.Reveals), func(ledger.RevealedOpening) bool { return w.chance(50) })
	}
	c.Proof = n.forge(c.Leaf(w.domain)).Proof(0)
	return &c
}

func (liar) sends(n *node, _ int, m ledger.Message) []ledger.Message {
	c, ok := m.(*ledger.RoundChange)
	if !ok || !n.own(m) {
		return []ledger.Message{m}
	}
	if n.w.chance(20) {
		later := *c
		later.Round += 1 + n.w.random.Uint32N(4)
		return []ledger.Message{lie(n, c), lie(n, &later)}
	}
	return []ledger.Message{lie(n, c)}
}
