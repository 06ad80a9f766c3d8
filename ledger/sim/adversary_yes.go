package sim

import "github.com/poqmesh/poq/ledger"

// yes casts every vote that anybody else casts, for every value, in every round, also in those that are over.
type yes struct {
	faithful
	said map[ledger.Leaf]bool
}

func (y *yes) takes(n *node, _ int, m ledger.Message) bool {
	u, ok := m.(*ledger.Bundle)
	if !ok {
		return true
	}
	for _, l := range u.Leaves {
		if y.said[l] || l.Kind == ledger.NewRound || l.Kind == ledger.Propose {
			continue
		}
		y.said[l] = true
		commit := l
		if l.Kind == ledger.Prepare {
			commit.Kind = ledger.Commit
		}
		n.whisper(ledger.Everyone, n.forge(l))
		if commit != l && !y.said[commit] {
			y.said[commit] = true
			n.whisper(ledger.Everyone, n.forge(commit))
		}
	}
	return true
}
