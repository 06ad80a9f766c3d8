package sim

import (
	"fmt"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// spammer sends whatever costs nothing: statements of keys that it makes up, orders that nobody can pay, votes
// for tasks that do not exist and in rounds that nobody came to.
type spammer struct {
	faithful
	count int
}

// strangers are the keys that spam is signed with.
var strangers = makeKeysOf("stranger", 3)

func (s *spammer) takes(n *node, _ int, m ledger.Message) bool {
	w := n.w
	if s.count > 200 || !w.chance(15) {
		return true
	}
	s.count++
	key := strangers[w.random.IntN(len(strangers))]
	id := w.tasks[w.random.IntN(len(w.tasks))].id
	text := fmt.Appendf(nil, "spam %d", s.count)
	switch w.random.IntN(6) {
	case 0:
		a := ledger.Answer{Task: id, Worker: key.Public(), Text: crypto.Sum(text)}
		w.gossip(n, ledger.SignTrusted(w.verifier, key, ledger.AnswerCommit{Task: id, Worker: key.Public(), Commitment: a.Commitment(w.domain)}))
		w.gossip(n, &ledger.AnswerMessage{Answer: *ledger.SignTrusted(w.verifier, key, a), Text: text})
	case 1:
		w.gossip(n, ledger.SignTrusted(w.verifier, key, ledger.Decline{Task: id, Worker: key.Public(), Reason: "spam"}))
	case 2:
		o := w.tasks[0].message.Order.Statement
		o.Payer, o.Nonce, o.Previous, o.Fee = key.Public(), 0, ledger.TaskID{}, ledger.Amount(s.count)
		w.gossip(n, &ledger.OrderMessage{Order: *ledger.SignTrusted(w.verifier, key, o)})
	case 3:
		n.whisper(ledger.Everyone, n.forge(ledger.LockLeaf(crypto.Sum(text))))
	case 4:
		var leaves []ledger.Leaf
		for i := range 20 {
			leaves = append(leaves, ledger.Leaf{Kind: ledger.Commit, Task: id, Stage: ledger.StageSeal, Round: uint32(w.random.IntN(200)), Value: crypto.Sum(append(text, byte(i)))})
		}
		n.whisper(ledger.Everyone, n.forge(leaves...))
	case 5:
		if c, ok := m.(*ledger.RoundChange); ok {
			far := *c
			far.Prepared, far.Fast, far.Round = nil, false, c.Round+w.random.Uint32N(200)
			far.Proof = n.forge(far.Leaf(w.domain)).Proof(0)
			n.whisper(ledger.Everyone, &far)
		}
	}
	return true
}

// stranger reports whether a key is one that spam made up.
func stranger(id ledger.AccountID) bool {
	for _, k := range strangers {
		if k.Public() == id {
			return true
		}
	}
	return false
}
