package ledger

import (
	"fmt"
	"testing"
	"time"
)

func TestSwarmOfAnySizeSettlesAndAgrees(t *testing.T) {
	for _, n := range []int{1, 2, 4, 7, 10} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("n=%d/seed=%d", n, seed), func(t *testing.T) {
				s := newSwarm(t, n, seed)
				id, order := s.order(0, TaskID{}, Credit, 3)
				s.gossip(n, order)
				for w := range 3 {
					s.answer(id, w, fmt.Sprint("answer ", w), 20*time.Millisecond, 40*time.Millisecond)
				}
				s.run(time.Minute)
				s.checkAgreement(1)
				for i, p := range s.peers {
					if k := p.receipts[0].Outcome.Kind; k != Paid {
						t.Errorf("peer %d: %v, want PAID", i, k)
					}
					if open := p.engine.OpenTasks(); open != 0 {
						t.Errorf("peer %d keeps %d tasks", i, open)
					}
				}
			})
		}
	}
}
