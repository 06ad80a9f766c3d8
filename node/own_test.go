package node

import (
	"reflect"
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

func TestOwnOrdersAreFoundWhateverHasBecomeOfThem(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1, says("x"))
	s.launch(s.payer) // nobody locks anything yet
	want := []OwnOrder{
		{s.pend("one", AskOptions{MaxAnswers: 1}), 0, DefaultFee, "one", llm.Options{}},
		{s.pend("two", AskOptions{MaxAnswers: 1, Fee: 2 * ledger.Credit}), 1, 2 * ledger.Credit, "two", llm.Options{}},
		{s.pend("two", AskOptions{MaxAnswers: 1, Options: llm.Options{MaxTokens: 7}}), 2, DefaultFee, "two", llm.Options{MaxTokens: 7}},
	}
	check := func(when string, from uint64) {
		t.Helper()
		if got, next, err := s.payer.node.OwnOrders(from); err != nil || next != 3 || !reflect.DeepEqual(got, want[from:]) {
			t.Errorf("%s, from %d: %+v, next %d, %v; want %+v", when, from, got, next, err, want[from:])
		}
	}
	check("not locked", 0)
	check("not locked", 2)
	s.stop(s.payer)
	s.launch(s.payer)
	check("restarted", 0)
	s.start(append(s.validators, s.workers...)...)
	for _, o := range want {
		s.await(o.Task, s.payer)
	}
	check("settled", 0)
	check("settled", 1)
	if got, next, err := s.payer.node.OwnOrders(3); len(got) != 0 || next != 3 || err != nil {
		t.Errorf("the next ones: %+v, %d, %v", got, next, err)
	}
}
