package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/pool"
)

func TestTaskSettlesWhateverItsWorkerDoes(t *testing.T) {
	t.Parallel()
	failing := func(err error) engine {
		return func(context.Context, string) (string, error) { return "", err }
	}
	cases := []struct {
		prompt string
		engine engine
		reason string // which the payer is told; none if the worker can't say one in time
	}{
		{"declines", failing(&llm.DeclineError{Reason: "no passage\nto extract from"}), "no passage to extract from"},
		{"declines at length", failing(fmt.Errorf("wrapped: %w", &llm.DeclineError{Reason: strings.Repeat("ä", 1000)})), strings.Repeat("ä", ledger.MaxReason/2)},
		{"fails", failing(errors.New("connection refused to 10.0.0.1 with key 123")), "the engine failed"},
		{"is empty", says(""), "the answer came out empty"},
		{"is blank", says(" \n"), "the answer came out empty"},
		{"is too long", says(text(ledger.MaxAnswer + 1)), "the answer came out too long"},
		{"is not UTF-8", says("caf\xe9"), "the answer came out garbled"},
		{"hangs", func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			return "", context.Cause(ctx)
		}, ""},
	}
	s := startSwarm(t, 4, engine(func(ctx context.Context, prompt string) (string, error) {
		for _, c := range cases {
			if c.prompt == prompt {
				return c.engine(ctx, prompt)
			}
		}
		return "an answer", nil
	}))
	t.Run("cases", func(t *testing.T) { // ends when all of them have
		for _, c := range cases {
			t.Run(c.prompt, func(t *testing.T) {
				timeout := 3 * time.Second // that a busy machine can decline in; the cases wait for it side by side
				if c.reason == "" {
					timeout = 300 * time.Millisecond // alone, before the others: nobody else gets the worker meanwhile
				} else {
					t.Parallel()
				}
				got := s.ask(c.prompt, AskOptions{MaxAnswers: 1, AnswerTimeout: timeout, ScoreTimeout: 10 * time.Second})
				if got.Outcome != ledger.NoAnswers || len(got.Answers) != 0 || got.Refund == 0 {
					t.Errorf("settled as %v with %d answers and a refund of %d", got.Outcome, len(got.Answers), got.Refund)
				}
				var reasons []string
				for _, d := range got.Declined {
					if d.Worker.Name != "worker-1" {
						t.Errorf("%v declined", d.Worker)
					}
					reasons = append(reasons, d.Reason)
				}
				if strings.Join(reasons, "|") != c.reason {
					t.Errorf("the payer was told %q, want %q", reasons, c.reason)
				}
			})
		}
	})
	if got := s.ask("and now a good one", AskOptions{MaxAnswers: 1}); got.Outcome != ledger.Paid {
		t.Errorf("after all this a good answer settles as %v", got.Outcome)
	}
}

func TestWorkerThatDeclinesDoesNotMakeOthersWait(t *testing.T) {
	t.Parallel()
	decline := engine(func(context.Context, string) (string, error) { return "", &llm.DeclineError{Reason: "not today"} })
	s := startSwarm(t, 4, decline, says("an answer"))
	got := s.ask("q", AskOptions{MaxAnswers: 2, AnswerTimeout: ledger.MaxDeadline}) // waiting for that would fail the test
	if got.Outcome != ledger.Paid || len(got.Answers) != 1 || len(got.Declined) != 1 {
		t.Errorf("settled as %+v", got)
	}
}

func TestPoolAnswersAsManyTasksAtOnceAsItLetsThrough(t *testing.T) {
	t.Parallel()
	const most = 3
	atWork := make(chan struct{}, most)
	release := make(chan struct{})
	e := engine(func(ctx context.Context, prompt string) (string, error) {
		if prompt == "one too many" {
			return "", errors.New("asked beyond the bounds")
		}
		atWork <- struct{}{}
		select {
		case <-release:
			return "an answer", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	})
	s := startSwarm(t, 4, pool.New(pool.Member{Engine: e, Concurrency: most, Queue: -1}))
	settled := make(chan ledger.OutcomeKind, most)
	for i := range most {
		go func() {
			settled <- s.ask(fmt.Sprint("q", i), AskOptions{MaxAnswers: 1, AnswerTimeout: ledger.MaxDeadline}).Outcome
		}()
	}
	for range most { // none waits for another
		select {
		case <-atWork:
		case <-time.After(time.Minute):
			t.Fatal("waited in vain for all to be at work")
		}
	}
	got := s.ask("one too many", AskOptions{MaxAnswers: 1, AnswerTimeout: 3 * time.Second}) // waits for another answer
	if len(got.Declined) != 1 || got.Declined[0].Reason != "busy: 3 at work, 0 waiting" {
		t.Errorf("declined with %+v", got.Declined)
	}
	close(release)
	for range most {
		if o := <-settled; o != ledger.Paid {
			t.Errorf("settled as %v", o)
		}
	}
}

func TestWorkerDeclinesWhatItsPolicyExcludes(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4, says("everybody's"), says("dear"), says("a friend's"), says("nobody's"))
	for i, p := range []Policy{
		{},
		{MinFee: 2 * ledger.Credit},
		{Payers: []ledger.AccountID{testIdentity(t, "somebody").Account.Public(), s.payer.id.Account.Public()}},
		{Payers: []ledger.AccountID{testIdentity(t, "somebody").Account.Public()}},
	} {
		s.workers[i].opts = append(s.workers[i].opts, WithPolicy(p))
	}
	s.start(s.all()...)
	for _, c := range []struct {
		fee    ledger.Amount
		answer []string
		reason []string
	}{
		{2*ledger.Credit - 1, []string{"a friend's", "everybody's"}, []string{"worker-2: fee too low: 1.999999, this worker takes 2.000000 or more", "worker-4: payer not served"}},
		{2 * ledger.Credit, []string{"a friend's", "dear", "everybody's"}, []string{"worker-4: payer not served"}},
	} {
		got := s.ask(fmt.Sprintf("for %d", c.fee), AskOptions{Fee: c.fee, MaxAnswers: 4, AnswerTimeout: ledger.MaxDeadline, ScoreTimeout: ledger.MaxDeadline})
		var answers, reasons []string
		for _, a := range got.Answers {
			answers = append(answers, a.Text)
		}
		for _, d := range got.Declined {
			reasons = append(reasons, d.Worker.Name+": "+d.Reason)
		}
		slices.Sort(answers)
		slices.Sort(reasons)
		if !slices.Equal(answers, c.answer) || !slices.Equal(reasons, c.reason) {
			t.Errorf("for a fee of %d: answers %q, declined %q; want %q, %q", c.fee, answers, reasons, c.answer, c.reason)
		}
	}
}

func TestReasonIsOnePrintableLine(t *testing.T) {
	for _, in := range []string{"", "fine", "two\nlines\tand\x00more", "\xff\xfe bad", strings.Repeat("x", 1<<20), strings.Repeat("日本", 100), "\u202eevil"} {
		got := reason(&llm.DeclineError{Reason: in})
		if len(got) > ledger.MaxReason || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%.20q became %q", in, got)
		}
		if len(in) > ledger.MaxReason && len(got) < ledger.MaxReason-utf8.UTFMax {
			t.Errorf("%.20q was cut to %d bytes", in, len(got))
		}
	}
	if got := reason(errors.New("secret")); got != "the engine failed" {
		t.Errorf("a failure is told as %q", got)
	}
}
