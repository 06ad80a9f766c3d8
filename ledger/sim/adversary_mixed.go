package sim

import "github.com/poqmesh/poq/ledger"

// mixed does with each message what one of the others would do.
type mixed struct{ all []adversary }

func newMixed() adversary {
	m := &mixed{}
	for _, name := range []string{"double", "equivocator", "hider", "leader", "liar", "replayer", "splitter", "withholder", "yes"} {
		m.all = append(m.all, newAdversary(name))
	}
	return m
}

func (x *mixed) sends(n *node, to int, m ledger.Message) []ledger.Message {
	return x.all[n.w.random.IntN(len(x.all))].sends(n, to, m)
}

func (x *mixed) takes(n *node, from int, m ledger.Message) bool {
	for _, a := range x.all {
		if !a.takes(n, from, m) {
			return false
		}
	}
	return true
}

func (x *mixed) serves(n, to *node, task ledger.TaskID) bool {
	return x.all[n.w.random.IntN(len(x.all))].serves(n, to, task)
}
