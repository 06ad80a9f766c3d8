package sim

import "github.com/poqmesh/poq/ledger"

// splitter is heard by some and not by others: every message of its own goes to a random part of them.
type splitter struct{ faithful }

func (splitter) sends(n *node, _ int, m ledger.Message) []ledger.Message {
	if n.w.chance(50) {
		return nil
	}
	return []ledger.Message{m}
}

func (splitter) serves(n, _ *node, _ ledger.TaskID) bool { return n.w.chance(50) }
