package sim

import (
	"slices"

	"github.com/poqmesh/poq/ledger"
)

// withholder commits to scores and does not reveal them, or to one peer alone.
type withholder struct{ faithful }

func (withholder) sends(n *node, to int, m ledger.Message) []ledger.Message {
	switch m := m.(type) {
	case *ledger.Signed[ledger.Reveal]:
		if n.own(m) && to != n.index && !n.w.chance(15) {
			return nil
		}
	case *ledger.RoundChange:
		if n.own(m) && m.Stage == ledger.StageSettle && !m.Fast {
			c := *m
			c.Reveals = slices.DeleteFunc(slices.Clone(c.Reveals), func(r ledger.RevealedOpening) bool { return int(r.Member) == n.self })
			c.Proof = n.forge(c.Leaf(n.w.domain)).Proof(0)
			return []ledger.Message{&c}
		}
	}
	return []ledger.Message{m}
}
