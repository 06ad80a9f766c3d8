package sim

import (
	"math/rand/v2"

	"github.com/poqmesh/poq/ledger"
)

// adversary is how a Byzantine validator departs from what its engine, outbox and log would do. It holds
// its own keys alone.
type adversary interface {
	// sends returns what goes to a peer instead of m.
	sends(n *node, to int, m ledger.Message) []ledger.Message
	// takes sees a message that came from a peer, or from a client with from -1; false keeps it from the engine.
	takes(n *node, from int, m ledger.Message) bool
	// serves reports whether it gives another peer a receipt that it asks for.
	serves(n, to *node, task ledger.TaskID) bool
}

// faithful does nothing else than its engine; adversaries embed it.
type faithful struct{}

func (faithful) sends(_ *node, _ int, m ledger.Message) []ledger.Message { return []ledger.Message{m} }
func (faithful) takes(*node, int, ledger.Message) bool                   { return true }
func (faithful) serves(_, _ *node, _ ledger.TaskID) bool                 { return true }

// adversaries makes them by name.
var adversaries = map[string]func() adversary{
	"forge": newForger,
	"mute":  func() adversary { return mute{} },
}

// Adversaries are the names of all adversaries, ascending.
var Adversaries = []string{"forge", "mute"}

// drawAdversaries picks up to f validators, or exactly f of the adversary with a name; "none" is none.
func drawAdversaries(r *rand.Rand, n int, name string) []string {
	evil := make([]string, n)
	count := 0
	if f := (n - 1) / 3; r.IntN(2) == 0 {
		count = r.IntN(f + 1)
	} else if r.IntN(2) == 0 {
		count = f
	}
	chosen, kinds := r.Perm(n), r.Perm(len(Adversaries))
	switch name {
	case "":
	case "none":
		count = 0
	default:
		count = (n - 1) / 3
	}
	for i, v := range chosen[:count] {
		evil[v] = Adversaries[kinds[i%len(kinds)]]
		if name != "" {
			evil[v] = name
		}
	}
	return evil
}

// stranger reports whether a key is one that spam made up.
func (w *world) stranger(ledger.AccountID) bool { return false }
