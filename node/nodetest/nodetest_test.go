package nodetest_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/nodetest"
	"github.com/poqmesh/poq/quality"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func ask(t *testing.T, s *nodetest.Swarm, prompt string) *node.Settlement {
	t.Helper()
	got, err := s.Payer().Ask(t.Context(), prompt, node.AskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSwarmSettlesAndAllLedgersAgree(t *testing.T) {
	t.Parallel()
	s := nodetest.NewSwarm(t, nodetest.Validators(4), nodetest.Workers(3))
	got := ask(t, s, "hello")
	if got.Outcome != ledger.Paid || len(got.Answers) != 3 {
		t.Fatalf("settled as %+v", got)
	}
	for _, a := range got.Answers {
		if a.Text != a.Worker.Name+" says: hello" || a.Score != 3000+10*ledger.Score(len(a.Text)) {
			t.Errorf("answer %+v", a)
		}
	}
	s.Await(got.Task)
	s.CheckLedgers()
}

func TestStoppedMemberCatchesUpWhenItStartsAgain(t *testing.T) {
	t.Parallel()
	s := nodetest.NewSwarm(t, nodetest.Validators(4))
	s.Stop("validator-4")
	if names := strings.Join(s.Running(), " "); strings.Contains(names, "validator-4") {
		t.Errorf("%s run", names)
	}
	got := ask(t, s, "with three of four")
	s.Start("validator-4")
	s.Await(got.Task, "validator-4")
	ask(t, s, "with all")
	s.CheckLedgers()
}

func TestPartitionedMembersMissWhatSettlesUntilItHeals(t *testing.T) {
	t.Parallel()
	s := nodetest.NewSwarm(t, nodetest.Validators(4), nodetest.Workers(2))
	s.Partition("validator-1", "worker-1")
	got := ask(t, s, "on the larger side")
	if len(got.Answers) != 1 || got.Answers[0].Worker.Name != "worker-2" {
		t.Errorf("answers of %+v", got.Answers)
	}
	s.Await(got.Task, "validator-2", "validator-3", "validator-4", "worker-2", "payer")
	for _, cut := range []string{"validator-1", "worker-1"} {
		if s.Node(cut).Ledger().IsLocked(got.Task) {
			t.Errorf("%s heard of a task on the other side", cut)
		}
		if n := len(s.Node(cut).Host().Peers()); n != 1 {
			t.Errorf("%s is connected to %d peers, want its fellow alone", cut, n)
		}
	}
	s.Heal()
	s.Await(got.Task)
	if got := ask(t, s, "together again"); len(got.Answers) != 2 {
		t.Errorf("answers of %+v", got.Answers)
	}
	s.CheckLedgers()
}

// A member that starts while a partition lasts is on its side of it from the beginning.
func TestPartitionHoldsForMembersThatStartAgain(t *testing.T) {
	t.Parallel()
	s := nodetest.NewSwarm(t, nodetest.Validators(1))
	s.Partition("worker-1")
	s.Stop("worker-1")
	s.Start("worker-1")
	if n := len(s.Node("worker-1").Host().Peers()); n != 0 {
		t.Errorf("worker-1 is connected to %d peers across the partition", n)
	}
	s.Heal()
	ask(t, s, "together again")
}

// brevity likes short answers.
type brevity struct{}

func (brevity) ID() crypto.Hash { return crypto.Sum([]byte("brevity")) }
func (brevity) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(10000 - min(10000, len(answer))), nil
}

func TestJudgeOfTheTestsOwnDecides(t *testing.T) {
	t.Parallel()
	s := nodetest.NewSwarm(t, nodetest.Validators(1), nodetest.Judge(brevity{}))
	if got := ask(t, s, "hello"); got.Answers[0].Score != ledger.Score(10000-len("worker-1 says: hello")) {
		t.Errorf("settled as %+v", got.Answers)
	}
}

// thinker takes five minutes to answer.
type thinker struct{}

func (thinker) Name() string     { return "thinker" }
func (thinker) Models() []string { return []string{"thinker"} }
func (thinker) Generate(ctx context.Context, _ llm.Request, _ func(string)) (*llm.Answer, error) {
	select {
	case <-time.After(5 * time.Minute):
		return &llm.Answer{Text: "42", Model: "thinker", Stop: llm.StopEnd}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestSimulatedSwarmLivesInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := nodetest.NewSwarm(t, nodetest.Engines(thinker{}), nodetest.Simulated(20*time.Millisecond))
		asked := time.Now()
		got, err := s.Payer().Ask(t.Context(), "What is the answer?", node.AskOptions{AnswerTimeout: 6 * time.Minute, ScoreTimeout: 8 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(asked); got.Answers[0].Text != "42" || took < 5*time.Minute {
			t.Errorf("settled after %v as %+v", took, got)
		}
		s.Await(got.Task)
		s.CheckLedgers()
	})
}

func TestSimulatedSwarmStopsStartsAndParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := nodetest.NewSwarm(t, nodetest.Workers(2), nodetest.Simulated(5*time.Millisecond))
		s.Stop("validator-4")
		first := ask(t, s, "with three of four")
		s.Start("validator-4")
		s.Await(first.Task)
		s.Partition("validator-1", "worker-1")
		second := ask(t, s, "on the larger side")
		if len(second.Answers) != 1 || second.Answers[0].Worker.Name != "worker-2" {
			t.Errorf("answers of %+v", second.Answers)
		}
		if s.Node("validator-1").Ledger().IsLocked(second.Task) {
			t.Error("a task crossed the partition")
		}
		s.Heal()
		s.Await(second.Task)
		s.CheckLedgers()
	})
}
