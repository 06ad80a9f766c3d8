package sim

import (
	"slices"

	"github.com/poqmesh/poq/ledger"
)

// censor never votes for the orders of one payer, and passes on nothing about its tasks.
type censor struct{ faithful }

func (censor) hates(n *node, id ledger.TaskID) bool {
	t, ok := n.w.known[id]
	return ok && t.payer == n.w.payers[0]
}

func (c censor) sends(n *node, _ int, m ledger.Message) []ledger.Message {
	u, bundle := m.(*ledger.Bundle)
	if !bundle {
		if c.hates(n, n.w.verifier.Task(m)) {
			return nil
		}
		return []ledger.Message{m}
	}
	leaves := slices.DeleteFunc(slices.Clone(u.Leaves), func(l ledger.Leaf) bool { return c.hates(n, l.Task) })
	switch len(leaves) {
	case len(u.Leaves):
		return []ledger.Message{m}
	case 0:
		return nil
	}
	return []ledger.Message{n.forge(leaves...)}
}

func (c censor) serves(n, _ *node, task ledger.TaskID) bool { return !c.hates(n, task) }
