package nodetest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/nodetest"
)

// A test that asks while one of four validators is down.
func ExampleNewSwarm() {
	var t *testing.T // that of TestXxx(t *testing.T)

	s := nodetest.NewSwarm(t, nodetest.Validators(4), nodetest.Workers(3))
	s.Stop("validator-4")
	got, err := s.Payer().Ask(t.Context(), "hello", node.AskOptions{MaxAnswers: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got.Outcome != ledger.Paid {
		t.Errorf("outcome %v", got.Outcome)
	}
	s.Start("validator-4")
	s.Await(got.Task) // everywhere
	s.CheckLedgers()
}

// A test in virtual time, of a network whose members are 20 ms apart.
func ExampleSimulated() {
	var t *testing.T // that of TestXxx(t *testing.T)

	synctest.Test(t, func(t *testing.T) {
		s := nodetest.NewSwarm(t, nodetest.Workers(3), nodetest.Simulated(20*time.Millisecond))
		begin := time.Now()
		if _, err := s.Payer().Ask(t.Context(), "hello", node.AskOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Logf("settled after %v", time.Since(begin)) // of virtual time
	})
}
