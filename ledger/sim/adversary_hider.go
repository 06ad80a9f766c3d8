package sim

import (
	"time"

	"github.com/poqmesh/poq/ledger"
)

// hider votes in secret: one victim at most sees its votes, so that it and perhaps the victim know of
// certificates that nobody else can make. It shows what it knows late, to one peer.
type hider struct {
	faithful
	victim int
}

func (h *hider) sends(n *node, to int, m ledger.Message) []ledger.Message {
	w := n.w
	if h.victim < 0 || w.chance(5) {
		h.victim = w.random.IntN(w.n)
	}
	switch m := m.(type) {
	case *ledger.LockCert, *ledger.SealCert, *ledger.Receipt:
		if to == w.random.IntN(len(w.nodes)) {
			other := w.nodes[to]
			w.after(w.between(0, 3*time.Second), func() {
				if to < w.n {
					n.whisper(to, m)
				} else if other.up {
					w.arrive(n, other, w.pack(n, m), w.delay())
				}
			})
		}
		return nil
	case *ledger.Bundle:
		if to != h.victim && m.Leaves[0].Kind != ledger.LockVote {
			return nil
		}
	case *ledger.RoundChange:
		if w.chance(50) {
			return []ledger.Message{lie(n, m)}
		}
	}
	return []ledger.Message{m}
}

func (h *hider) serves(n, _ *node, _ ledger.TaskID) bool { return n.w.chance(20) }
