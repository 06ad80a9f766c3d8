package node

import (
	"slices"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

func TestPayerWithTwoOrdersIsFrozenAtAllPeersForGood(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 4, says("one"))
	s.record.mu.Lock()
	s.record.lenient = true
	s.record.mu.Unlock()
	done := s.ask("first", AskOptions{MaxAnswers: 1})
	s.await(done.Task, s.all()...)

	// Its owner runs the payer's key a second time, from a machine that knows of no order.
	if err := s.payer.node.Ledger().Flush(); err != nil {
		t.Fatal(err)
	}
	r, err := s.payer.node.Ledger().Receipt(done.Task)
	if err != nil {
		t.Fatal(err)
	}
	order := func(nonce uint64, previous ledger.TaskID, prompt string) (ledger.TaskID, *ledger.OrderMessage) {
		o := r.Order.Statement
		o.Nonce, o.Previous, o.Prompt = nonce, previous, crypto.Sum([]byte(prompt))
		d := ledger.Domain(s.genesis)
		return ledger.OrderID(d, o), &ledger.OrderMessage{Order: ledger.Sign(d, s.payer.id.Account, o), Prompt: []byte(prompt)}
	}
	_, second := order(0, ledger.TaskID{}, "second")
	s.payer.node.loop.gossip(second)
	for _, m := range s.all() {
		s.record.await("evidence at "+m.name, func(who string, e Event) bool {
			return who == m.name && e.Proof != nil && e.Proof.Offence == ledger.TwoOrders
		})
	}

	s.stop(s.validators...)
	s.start(s.validators...)
	for _, m := range s.all() {
		kept, err := m.node.Ledger().Evidence()
		if err != nil || len(kept) != 1 {
			t.Errorf("%s keeps %d proofs, %v", m.name, len(kept), err)
		}
	}
	later, third := order(1, done.Task, "third")
	s.payer.node.loop.gossip(third)
	for _, m := range s.validators {
		s.record.await("order at "+m.name, func(who string, e Event) bool { return who == m.name && e.Task == later && e.Step == ledger.Ordered })
	}
	// A lock vote would be cast in the same turn of the loop and stand in the log.
	for i, m := range s.validators {
		s.stop(m)
		for _, u := range s.bundles(i) {
			if slices.ContainsFunc(u.Leaves, func(l ledger.Leaf) bool { return l.Task == later }) {
				t.Errorf("%s voted for a later order", m.name)
			}
		}
	}
}
