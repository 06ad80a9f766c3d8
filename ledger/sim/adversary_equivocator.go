package sim

import (
	"slices"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// equivocator shows each half of the others votes for another value, in every phase, within bundles of
// one number.
type equivocator struct {
	faithful
	other map[ledger.Message]ledger.Message
	seen  []ledger.Leaf // votes of others, whose values it may vote for as well
}

func (q *equivocator) takes(_ *node, _ int, m ledger.Message) bool {
	if u, ok := m.(*ledger.Bundle); ok {
		q.seen = append(q.seen, u.Leaves...)
	}
	return true
}

func (q *equivocator) sends(n *node, to int, m ledger.Message) []ledger.Message {
	u, ok := m.(*ledger.Bundle)
	if !ok || !n.own(m) || to%2 == 0 {
		return []ledger.Message{m}
	}
	if q.other[m] == nil {
		leaves := slices.Clone(u.Leaves)
		for i, l := range leaves {
			if l.Kind == ledger.Prepare || l.Kind == ledger.Commit || l.Kind == ledger.FastCommit {
				leaves[i].Value = q.another(l)
			}
		}
		h := u.Header.Statement
		b := ledger.NewBundle(h.Validator, h.Seq, h.Previous, leaves)
		b.Header = *ledger.SignTrusted(n.w.verifier, keys.validators[n.self], b.Header.Statement)
		q.other[m] = &b
	}
	return []ledger.Message{q.other[m]}
}

// another finds a value that somebody votes for in the same instance, or makes one up.
func (q *equivocator) another(l ledger.Leaf) crypto.Hash {
	for _, o := range q.seen {
		if o.Task == l.Task && o.Stage == l.Stage && o.Value != l.Value && (o.Kind == ledger.Prepare || o.Kind == ledger.Commit) {
			return o.Value
		}
	}
	return crypto.Sum(l.Value[:])
}
