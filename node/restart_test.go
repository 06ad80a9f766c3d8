package node

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/votelog"
)

// pend orders and gives up at once: the order is in force.
func (s *swarm) pend(prompt string, o AskOptions) ledger.TaskID {
	s.t.Helper()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	var pending *PendingError
	if _, err := s.payer.node.Ask(gone, prompt, o); !errors.As(err, &pending) {
		s.t.Fatalf("ask: %v", err)
	}
	return pending.Task
}

func TestRestartedPeersFindTheirLedgerAndGoOn(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 4, says("one"), says("three"))
	for range 3 {
		got := s.ask("before", AskOptions{MaxAnswers: 2})
		s.await(got.Task, s.all()...)
	}
	for _, m := range []*member{s.validators[1], s.workers[0], s.payer} {
		if err := m.node.Ledger().Flush(); err != nil {
			t.Fatal(err)
		}
		before := m.node.Ledger().Summary()
		s.stop(m)
		s.launch(m)
		if after := m.node.Ledger().Summary(); len(after.Accounts) == 0 || len(after.Accounts) != len(before.Accounts) || after.Tasks != before.Tasks {
			t.Errorf("%s held %v, now %v", m.name, before, after)
		}
		// It need not be ready: what it misses is sent again.
		got := s.ask("after "+m.name, AskOptions{MaxAnswers: 2, AnswerTimeout: 2 * time.Second})
		s.await(got.Task, s.all()...)
	}
	s.check()
	// What the restarted validator signed is one chain of bundles.
	m := s.validators[1]
	s.stop(m)
	for seq, u := range s.bundles(1) {
		if h := u.Header.Statement; h.Seq != uint64(seq) {
			t.Errorf("bundle %d stands at %d", h.Seq, seq)
		}
	}
}

// bundles reads the vote log of validator i, which is stopped.
func (s *swarm) bundles(i int) (list []*ledger.Bundle) {
	t, m := s.t, s.validators[i]
	t.Helper()
	disk, err := votelog.Dir(filepath.Join(m.dir, "votes"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := votelog.Open(votelog.Config{Genesis: s.genesis, Self: i, Disk: disk}, votelog.Replayer{
		Message: func(ledger.Message) {},
		Bundle:  func(u *ledger.Bundle) { list = append(list, u) },
		Opening: func(ledger.ScoreCommit, ledger.Opening) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if len(list) == 0 {
		t.Errorf("%s logged no vote", m.name)
	}
	return list
}

func TestOrderGivenBeforeACrashIsPublishedAgain(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4, says("one"))
	s.launch(s.payer)
	first := s.pend("first", AskOptions{MaxAnswers: 1}) // nobody hears it
	s.stop(s.payer)
	s.start(append(s.validators, s.workers...)...)
	s.launch(s.payer)
	s.await(first, s.all()...)
	if got := s.ask("second", AskOptions{MaxAnswers: 1}); got.Nonce != 1 {
		t.Errorf("the next order has nonce %d", got.Nonce)
	}
}

func TestOrderGivenBeforeStartFollowsThoseOfTheLastRun(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1, says("one"))
	s.launch(s.payer)
	first := s.pend("first", AskOptions{MaxAnswers: 1})
	s.stop(s.payer)
	s.launch(s.validators[0], s.workers[0])
	for _, m := range s.running() {
		if err := m.node.WaitReady(soon(t), 1); err != nil {
			t.Fatal(err)
		}
	}
	s.make(s.payer)
	n := s.payer.node
	second := s.pend("second", AskOptions{MaxAnswers: 1}) // must not take the nonce of the first
	for _, m := range s.running()[:2] {
		keep(t, n, m.node)
	}
	if err := n.Start(soon(t)); err != nil {
		t.Fatal(err)
	}
	s.await(first, s.payer)
	s.await(second, s.payer)
}

func TestTaskThatWasOpenWhenAllStoppedIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	busy := true
	s := startSwarm(t, 4, engine(func(ctx context.Context, _ string) (string, error) {
		if busy {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "done", nil
	}))
	task := s.pend("q", AskOptions{MaxAnswers: 1})
	for _, m := range s.all() {
		s.record.await("lock at "+m.name, func(who string, e Event) bool { return who == m.name && e.Step == ledger.Locked })
	}
	s.stop(s.all()...)
	busy = false
	s.start(s.all()...)
	s.await(task, s.all()...)
	if got, err := s.payer.node.Settlement(soon(t), task); err != nil || got.Outcome != ledger.Paid || got.Answers[0].Text != "done" {
		t.Errorf("settled as %+v, %v", got, err)
	}
	s.check()
}

func TestWorkerThatRestartsGivesTheAnswerItCommittedTo(t *testing.T) {
	t.Parallel()
	runs := 0
	s := startSwarm(t, 1, engine(func(context.Context, string) (string, error) {
		runs++
		return strings.Repeat("again ", runs), nil
	}), engine(func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done() // keeps the task from closing before the deadline
		return "", ctx.Err()
	}))
	w := s.workers[0]
	task := s.pend("q", AskOptions{MaxAnswers: 2, AnswerTimeout: time.Second, ScoreTimeout: ledger.MaxDeadline})
	s.record.await("commitment", func(who string, e Event) bool { return who == s.validators[0].name && e.Step == ledger.Committed })
	s.stop(w)
	s.launch(w)
	s.await(task, s.all()...) // and nobody notices a second commitment
	got, err := s.payer.node.Settlement(soon(t), task)
	if err != nil || len(got.Answers) != 1 || got.Answers[0].Text != "again " {
		t.Errorf("settled as %+v, %v", got, err)
	}
}

func TestTaskSettlesWithoutAStoppedValidatorWhichThenCatchesUp(t *testing.T) {
	t.Parallel()
	for _, locked := range []bool{false, true} {
		name := "it was away when the fee was locked"
		if locked {
			name = "it stopped after the fee was locked"
		}
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			s := startSwarm(t, 4, engine(func(context.Context, string) (string, error) {
				<-release
				return "an answer", nil
			}))
			away := s.validators[3]
			if !locked {
				s.stop(away)
			}
			task := s.pend("q", AskOptions{MaxAnswers: 1, AnswerTimeout: 20 * time.Second, ScoreTimeout: 40 * time.Second})
			if locked {
				s.record.await("lock", func(who string, e Event) bool { return who == away.name && e.Step == ledger.Locked })
				s.stop(away)
			}
			close(release)
			for _, m := range append(s.validators[:3:3], s.payer) {
				s.await(task, m)
			}
			if err := s.payer.node.store.Flush(); err != nil {
				t.Fatal(err)
			}
			r, err := s.payer.node.store.Receipt(task)
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome.Kind != ledger.Paid || len(r.Outcome.Reveals) != 3 {
				t.Errorf("settled as %v with %d reveals", r.Outcome.Kind, len(r.Outcome.Reveals))
			}
			s.launch(away)
			s.await(task, away)
			s.check()
			if got := s.ask("next", AskOptions{MaxAnswers: 1}); got.Outcome != ledger.Paid {
				t.Errorf("the next task settles as %+v", got)
			}
		})
	}
}
