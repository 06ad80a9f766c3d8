package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

func TestPeersHoldTheSameLedgerAfterConcurrentAsks(t *testing.T) {
	t.Parallel()
	echo := engine(func(_ context.Context, prompt string) (string, error) { return "you said " + prompt, nil })
	s := startSwarm(t, 4, echo, says("a longer answer than the other ones give to this"), says("short"))
	const asks, atOnce = 30, 8
	var mu sync.Mutex
	var tasks []*Settlement
	prompts := make(chan string)
	var askers sync.WaitGroup
	for range atOnce {
		askers.Go(func() {
			for p := range prompts {
				got, err := s.payer.node.Ask(soon(t), p, AskOptions{Fee: ledger.Credit})
				if err != nil {
					t.Errorf("%s: %v", p, err)
					continue
				}
				if got.Prompt != p || len(got.Answers) != 3 || got.Outcome != ledger.Paid {
					t.Errorf("%s: settled as %+v", p, got)
				}
				mu.Lock()
				tasks = append(tasks, got)
				mu.Unlock()
			}
		})
	}
	for i := range asks {
		prompts <- fmt.Sprint("question ", i)
	}
	close(prompts)
	askers.Wait()
	for _, got := range tasks {
		s.await(got.Task, s.all()...)
		var sum ledger.Amount
		for _, c := range got.Credits {
			sum += c.Amount
		}
		if sum != got.Fee {
			t.Errorf("task %s pays %d of a fee of %d", got.Task.Short(), sum, got.Fee)
		}
	}
	s.check()
	for _, m := range s.all() {
		for _, got := range tasks {
			r, err := m.node.Ledger().Receipt(got.Task)
			if err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
			if want := s.firstOutcome(got.Task); r.Settle.Vote.Value != want {
				t.Errorf("%s: task %s has another outcome", m.name, got.Task.Short())
			}
		}
	}
	if sum := s.payer.node.Ledger().Summary(); sum.Tasks != asks || sum.Open != 0 || sum.Escrow != 0 {
		t.Errorf("ledger sums up to %d tasks, %d open, escrow %d", sum.Tasks, sum.Open, sum.Escrow)
	}
	if own, err := s.payer.node.Ledger().OwnOrders(); err != nil || len(own) != 0 {
		t.Errorf("%d own orders are kept though all are settled (%v)", len(own), err)
	}
}

func (s *swarm) firstOutcome(task ledger.TaskID) ledger.TaskID {
	r, err := s.validators[0].node.Ledger().Receipt(task)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Settle.Vote.Value
}

func TestLongTextsAreFetchedByHashAndJudged(t *testing.T) {
	t.Parallel()
	longAnswer := text(ledger.MaxInline + 1)
	var asked string
	s := startSwarm(t, 4, engine(func(_ context.Context, prompt string) (string, error) {
		asked = prompt
		return longAnswer, nil
	}), says(text(ledger.MaxAnswer)))
	prompt := text(ledger.MaxPrompt)
	got := s.ask(prompt, AskOptions{MaxAnswers: 2})
	if asked != prompt {
		t.Errorf("the worker got a prompt of %d bytes", len(asked))
	}
	if len(got.Answers) != 2 || got.Outcome != ledger.Paid {
		t.Fatalf("settled as %v with %d answers", got.Outcome, len(got.Answers))
	}
	sizes := map[int]bool{}
	for _, a := range got.Answers {
		sizes[len(a.Text)] = true
		if len(a.Scores) != 4 {
			t.Errorf("%d validators judged an answer of %d bytes", len(a.Scores), len(a.Text))
		}
	}
	if !sizes[ledger.MaxInline+1] || !sizes[ledger.MaxAnswer] {
		t.Errorf("the payer got texts of %v bytes", sizes)
	}
	if got.Prompt != prompt {
		t.Errorf("the settlement shows a prompt of %d bytes", len(got.Prompt))
	}
}

func TestBadOrdersOrderNothing(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1, says("x"))
	s.start(s.all()...)
	n := s.payer.node
	usage := func(err error) bool { return errors.Is(err, ErrBadOption) }
	empty := func(err error) bool { return errors.Is(err, ErrEmptyPrompt) }
	funds := func(err error) bool {
		var f *FundsError
		return errors.As(err, &f) && f.Available == int64(payerBalance)
	}
	size := func(err error) bool {
		var e *PromptSizeError
		return errors.As(err, &e) && e.Size == ledger.MaxPrompt+1 && e.Limit == ledger.MaxPrompt
	}
	for name, c := range map[string]struct {
		prompt string
		o      AskOptions
		want   func(error) bool
	}{
		"empty prompt":           {"", AskOptions{}, empty},
		"blank prompt":           {" \n\t", AskOptions{}, empty},
		"prompt over the limit":  {text(ledger.MaxPrompt + 1), AskOptions{}, size},
		"prompt with NUL first":  {"\x00\x01q", AskOptions{}, func(err error) bool { return errors.Is(err, ErrNulPrompt) }},
		"temperature too high":   {"q", AskOptions{Options: llm.Options{Temperature: new(2.5)}}, usage},
		"no room for options":    {text(ledger.MaxPrompt - 28), AskOptions{Options: llm.Options{MaxTokens: 1}}, size},
		"no answers":             {"q", AskOptions{MaxAnswers: -1}, usage},
		"too many answers":       {"q", AskOptions{MaxAnswers: ledger.MaxAnswers + 1}, usage},
		"fee below the minimum":  {"q", AskOptions{Fee: 999}, usage},
		"unknown split":          {"q", AskOptions{Split: 7}, usage},
		"answers too soon":       {"q", AskOptions{AnswerTimeout: ledger.MinDeadline - 1}, usage},
		"negative time":          {"q", AskOptions{AnswerTimeout: -time.Second}, usage},
		"scores before answers":  {"q", AskOptions{AnswerTimeout: 2 * time.Second, ScoreTimeout: time.Second}, usage},
		"scores too late":        {"q", AskOptions{ScoreTimeout: ledger.MaxDeadline + time.Millisecond}, usage},
		"fee above the balance":  {"q", AskOptions{Fee: payerBalance + 1}, funds},
		"fee above all there is": {"q", AskOptions{Fee: 1<<64 - 1}, funds},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := n.Ask(soon(t), c.prompt, c.o); err == nil || !c.want(err) {
				t.Errorf("got %T %v", err, err)
			}
		})
	}
	if own, err := n.Ledger().OwnOrders(); err != nil || len(own) > 0 {
		t.Errorf("%d orders were given (%v)", len(own), err)
	}
	if got := s.ask("a good one", AskOptions{MaxAnswers: 1, AnswerTimeout: ledger.MaxDeadline}); got.Nonce != 0 {
		t.Errorf("the first order has nonce %d", got.Nonce)
	}
}

func TestFeesOfOrdersThatAreNotLockedAreNotSpentTwice(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4, says("x"))
	s.launch(s.payer) // nobody locks anything yet
	n := s.payer.node
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	var pending *PendingError
	var tasks []ledger.TaskID
	for range 3 {
		if _, err := n.Ask(gone, "q", AskOptions{Fee: 30 * ledger.Credit, MaxAnswers: 1}); !errors.As(err, &pending) || !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		tasks = append(tasks, pending.Task)
	}
	var funds *FundsError
	if _, err := n.Ask(gone, "q", AskOptions{Fee: 10*ledger.Credit + 1}); !errors.As(err, &funds) || funds.Available != 10*int64(ledger.Credit) {
		t.Fatalf("got %v", err)
	}
	s.start(append(s.validators, s.workers...)...)
	for _, task := range tasks { // they are in force
		s.await(task, s.all()...)
	}
	s.check()
}

func TestOrderOfAnAskThatGaveUpStillSettles(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := startSwarm(t, 4, engine(func(ctx context.Context, _ string) (string, error) {
		select {
		case <-release:
			return "late", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}))
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	asked, err := s.payer.node.Order(ctx, "q", AskOptions{MaxAnswers: 1})
	if err != nil {
		t.Fatal(err)
	}
	for e := range asked.Events() { // it ends with ctx
		if e.Step == ledger.Locked {
			cancel()
		}
	}
	_, err = asked.Wait()
	var pending *PendingError
	if !errors.As(err, &pending) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if st, err := s.payer.node.Status(soon(t), pending.Task); err != nil || !st.Open || st.Settlement != nil {
		t.Errorf("status of the open task: %+v, %v", st, err)
	}
	if followed(&s.payer.node.loop.feed) != 0 {
		t.Error("the task is followed still")
	}
	close(release)
	s.await(pending.Task, s.all()...)
	st, err := s.payer.node.Status(soon(t), pending.Task)
	if err != nil || st.Open || st.Settlement == nil || st.Settlement.Answers[0].Text != "late" {
		t.Errorf("status of the settled task: %+v, %v", st, err)
	}
	if _, err := s.payer.node.Status(soon(t), ledger.TaskID{1}); err == nil {
		t.Error("an unknown task has a status")
	}
	s.check()
}

func TestAskWaitsForAsManyAnswersAsThereAreWorkers(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("The keeper lived in it."))
	task := s.ask("Who lived in the tower?", AskOptions{}).Task
	order, ok := s.payer.node.store.SignedOrder(task)
	if !ok {
		t.Fatal("no order of the task is kept")
	}
	if got := order.Statement.MaxAnswers; got != 1 {
		t.Errorf("one worker is there, and the order asks for %d answers", got)
	}
}
