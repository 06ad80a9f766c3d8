package sim

import (
	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// replayer sends again what it heard before, to anybody, at any time; and what the others signed in another
// network, in which they have the same keys.
type replayer struct {
	faithful
	heard []ledger.Message
}

func (r *replayer) takes(n *node, _ int, m ledger.Message) bool {
	w := n.w
	if len(r.heard) < 300 {
		r.heard = append(r.heard, m)
	} else {
		r.heard[w.random.IntN(len(r.heard))] = m
	}
	if _, ok := m.(*ledger.Query); !ok && w.chance(20) {
		n.whisper(w.random.IntN(w.n), r.heard[w.random.IntN(len(r.heard))])
	}
	if w.chance(3) {
		r.foreign(n, m)
	}
	return true
}

// foreign shows a vote that the signer of another one cast in another network or epoch.
func (r *replayer) foreign(n *node, m ledger.Message) {
	u, ok := m.(*ledger.Bundle)
	if !ok {
		return
	}
	d := n.w.domain
	if n.w.chance(50) {
		d.Epoch++
	} else {
		d.Chain = crypto.Sum(d.Chain[:])
	}
	h := u.Header.Statement
	b := ledger.NewBundle(h.Validator, h.Seq+1, h.Hash(d), u.Leaves)
	b.Header = ledger.Sign(d, keys.validators[h.Validator], b.Header.Statement)
	n.w.check.foreign(n.w.pack(n, &b))
	n.whisper(n.w.random.IntN(n.w.n), &b)
}
