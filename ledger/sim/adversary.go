package sim

import (
	"math/rand/v2"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// adversary is how a Byzantine validator departs from what its engine and its outbox would do. It signs with
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

// newAdversary makes one by name.
func newAdversary(name string) adversary {
	switch name {
	case "censor":
		return censor{}
	case "double":
		return &double{other: map[ledger.TaskID]*ledger.Signed[ledger.ScoreCommit]{}}
	case "equivocator":
		return &equivocator{other: map[ledger.Message]ledger.Message{}}
	case "forger":
		return newForger()
	case "hider":
		return &hider{victim: -1}
	case "late":
		return late{}
	case "leader":
		return &evilLeader{}
	case "liar":
		return liar{}
	case "mixed":
		return newMixed()
	case "mute":
		return mute{}
	case "replayer":
		return &replayer{}
	case "spammer":
		return &spammer{}
	case "splitter":
		return splitter{}
	case "withholder":
		return withholder{}
	case "yes":
		return &yes{said: map[ledger.Leaf]bool{}}
	}
	panic("sim: no adversary " + name)
}

// Adversaries are the names of all adversaries, ascending.
var Adversaries = []string{"censor", "double", "equivocator", "forger", "hider", "late", "leader", "liar", "mixed", "mute", "replayer", "spammer", "splitter", "withholder", "yes"}

// drawAdversaries picks up to f validators, or exactly f of the adversary with a name; "none" is none.
func drawAdversaries(r *rand.Rand, n int, name string) []string {
	evil := make([]string, n)
	f := (n - 1) / 3
	count := 0
	if k := r.IntN(8); k < 4 {
		count = f
	} else if k < 6 {
		count = r.IntN(f + 1)
	}
	chosen, kinds := r.Perm(n), r.Perm(len(Adversaries))
	switch name {
	case "":
	case "none":
		count = 0
	default:
		count = f
	}
	for i, v := range chosen[:count] {
		evil[v] = Adversaries[kinds[i%len(kinds)]]
		if name != "" {
			evil[v] = name
		}
	}
	return evil
}

// forge signs votes in a bundle that no log has seen. Its number is a low one, so that votes of left rounds do
// not give themselves away by it.
func (n *node) forge(leaves ...ledger.Leaf) *ledger.Bundle {
	u := ledger.NewBundle(uint16(n.self), n.w.random.Uint64N(64), crypto.Hash{}, leaves)
	u.Header = *ledger.SignTrusted(n.w.verifier, keys.validators[n.self], u.Header.Statement)
	return &u
}

// own reports whether a message is signed by this validator.
func (n *node) own(m ledger.Message) bool {
	switch m := m.(type) {
	case *ledger.Bundle:
		return int(m.Header.Statement.Validator) == n.self
	case *ledger.RoundChange:
		return int(m.Proof.Header.Statement.Validator) == n.self
	case *ledger.Proposal:
		return int(m.Proof.Header.Statement.Validator) == n.self
	case *ledger.Signed[ledger.ScoreCommit]:
		return int(m.Statement.Member) == n.self
	case *ledger.Signed[ledger.Reveal]:
		return int(m.Statement.Member) == n.self
	}
	return false
}

// whisper sends something to a validator, or to all others, that the engine knows nothing of.
func (n *node) whisper(to int, m ledger.Message) {
	for _, other := range n.w.nodes[:n.w.n] {
		if other != n && (to == ledger.Everyone || to == other.index) {
			n.w.stream(n, other, m)
		}
	}
}
