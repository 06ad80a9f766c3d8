package sim

import (
	"time"

	"github.com/poqmesh/poq/ledger"
)

// late says everything, and much of it when nobody waits for it any more.
type late struct{ faithful }

func (late) sends(n *node, to int, m ledger.Message) []ledger.Message {
	w := n.w
	if to >= w.n || w.chance(40) {
		return []ledger.Message{m}
	}
	w.after(w.between(0, 20*time.Millisecond<<w.random.IntN(9)), func() { n.whisper(to, m) })
	return nil
}
