package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/pool"
)

// worker answers locked tasks with the node's engine: one after another, or as many at a time as a pool lets through.
type worker struct {
	node   *Node
	teller *teller
	turn   chan struct{} // holds one token: an engine uses the cores that there are; nil if it is a pool, which knows better

	mu    sync.Mutex
	tasks map[ledger.TaskID]*assignment

	announcing sync.Mutex
}

// assignment is a task that is being answered.
type assignment struct {
	closed chan struct{}      // commitments don't count any more: the answer may be shown
	cancel context.CancelFunc // settled, or too late to answer
	ready  bool               // committed: the answer must still be shown when the task closes
}

func newWorker(n *Node) *worker {
	w := &worker{node: n, teller: newTeller(n), tasks: map[ledger.TaskID]*assignment{}}
	if _, paced := n.cfg.engine.(*pool.Pool); !paced {
		w.turn = make(chan struct{}, 1)
	}
	return w
}

// observe is called from the loop.
func (w *worker) observe(p ledger.Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.tasks[p.Task]
	switch {
	case p.Step == ledger.Locked && a == nil:
		ctx, cancel := context.WithTimeout(w.node.ctx, time.Duration(p.Order.ScoreDeadline)*time.Millisecond)
		a = &assignment{closed: make(chan struct{}), cancel: cancel}
		w.tasks[p.Task] = a
		w.node.tasks.Go(func() {
			defer w.forget(p.Task)
			w.answer(ctx, p.Task, *p.Order, a)
		})
	case p.Step == ledger.Closed && a != nil:
		close(a.closed)
		if !a.ready {
			a.cancel()
		}
	case p.Step == ledger.Settled && a != nil:
		a.cancel()
	}
}

// busy is the number of tasks that are being answered, or whose answer must still be shown.
func (w *worker) busy() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tasks)
}

func (w *worker) forget(task ledger.TaskID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks[task].cancel()
	delete(w.tasks, task)
}

// answer generates, commits, waits until commitments are closed, and shows the answer.
func (w *worker) answer(ctx context.Context, task ledger.TaskID, o ledger.Order, a *assignment) {
	n := w.node
	k := w.teller.begin(task, o.Payer)
	m, err := w.prepare(ctx, k, o)
	if err != nil {
		if ctx.Err() != nil {
			k.failed("the answer came too late")
		} else {
			k.failed(reason(err))
			level := slog.LevelWarn
			if errors.As(err, new(*llm.DeclineError)) {
				level = slog.LevelInfo
			}
			n.log.Log(ctx, level, "task declined", "task", task.Short(), "error", err)
			n.loop.gossip(new(ledger.Sign(n.domain, n.identity.Account, ledger.Decline{Task: task, Worker: n.Account(), Reason: reason(err)})))
		}
		return
	}
	w.mu.Lock()
	late := ctx.Err() != nil
	a.ready = !late
	w.mu.Unlock()
	if late {
		return
	}
	commit := ledger.AnswerCommit{Task: task, Worker: n.Account(), Commitment: m.Answer.Statement.Commitment(n.domain)}
	n.loop.gossip(new(ledger.Sign(n.domain, n.identity.Account, commit)))
	select {
	case <-a.closed:
		n.loop.gossip(m)
	case <-ctx.Done():
	}
}

// prepare makes the answer to commit to, or finds the one that this node committed to before it was
// restarted.
func (w *worker) prepare(ctx context.Context, k *talk, o ledger.Order) (*ledger.AnswerMessage, error) {
	n, task := w.node, k.task
	m, err := n.store.Answer(task)
	if err == nil {
		if text, err := n.content.local(m.Answer.Statement.Text); err == nil {
			k.answered(&llm.Answer{Text: string(text)})
		}
	}
	if !errors.Is(err, store.ErrNotFound) {
		return m, err
	}
	if err := n.cfg.policy.check(o); err != nil {
		return nil, err
	}
	a, err := w.generate(ctx, o, k.say)
	if err != nil {
		return nil, err
	}
	k.answered(a)
	n.content.keep([]byte(a.Text))
	answer := ledger.Answer{Task: task, Worker: n.Account(), Text: crypto.Sum([]byte(a.Text))}
	rand.Read(answer.Salt[:]) // never fails
	m = &ledger.AnswerMessage{Answer: ledger.Sign(n.domain, n.identity.Account, answer)}
	if len(a.Text) <= ledger.MaxInline {
		m.Text = []byte(a.Text)
	}
	return m, n.store.PutAnswer(m)
}

func (w *worker) generate(ctx context.Context, o ledger.Order, emit func(string)) (*llm.Answer, error) {
	q, err := w.node.content.request(ctx, o)
	switch {
	case errors.Is(err, crypto.ErrEncoding):
		return nil, fmt.Errorf("%w: %w", &llm.DeclineError{Reason: "the prompt is malformed"}, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", &llm.DeclineError{Reason: "the prompt could not be fetched"}, err)
	}
	if q.Model != "" && !slices.Contains(w.node.cfg.engine.Models(), q.Model) {
		w.findModels(ctx) // of a server that was down
		if !slices.Contains(w.node.cfg.engine.Models(), q.Model) {
			return nil, &llm.DeclineError{Reason: ledger.NoModel + ": " + q.Model}
		}
	}
	if w.turn != nil {
		select {
		case w.turn <- struct{}{}:
			defer func() { <-w.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	begin := time.Now()
	a, err := w.ask(ctx, q, emit)
	w.node.meter.answered(begin, err)
	w.announce() // the engine may have asked its server for them
	return a, err
}

// ask asks the engine, and takes no answer that nobody could use.
func (w *worker) ask(ctx context.Context, q llm.Request, emit func(string)) (*llm.Answer, error) {
	if len(q.Stop) > 0 && emit != nil { // an engine may know nothing of them
		text := llm.TextStream{Emit: emit, Stop: q.Stop}
		emit = func(piece string) { text.Write(piece) }
	}
	a, err := w.try(ctx, q, emit)
	if err != nil {
		return nil, err
	}
	if text := llm.Cut(a.Text, q.Stop); text != a.Text {
		a = &llm.Answer{Text: text, Model: a.Model, PromptTokens: a.PromptTokens, Stop: llm.StopEnd}
	}
	switch {
	case strings.TrimSpace(a.Text) == "":
		return nil, &llm.DeclineError{Reason: "the answer came out empty"}
	case len(a.Text) > ledger.MaxAnswer:
		return nil, &llm.DeclineError{Reason: "the answer came out too long"}
	case !utf8.ValidString(a.Text):
		return nil, &llm.DeclineError{Reason: "the answer came out garbled"}
	}
	return a, nil
}

// try asks the engine. A pool has no other member go on where one failed that had begun, since what was told can't be taken
// back; but the answer matters more than that: it is made anew, and told to be another text.
func (w *worker) try(ctx context.Context, q llm.Request, emit func(string)) (*llm.Answer, error) {
	e, begun := w.node.cfg.engine, false
	a, err := e.Generate(ctx, q, func(piece string) {
		begun = true
		if emit != nil {
			emit(piece)
		}
	})
	if _, several := e.(*pool.Pool); err != nil && begun && several && ctx.Err() == nil {
		if another, failed := e.Generate(ctx, q, nil); failed == nil {
			return another, nil
		}
	}
	return a, err
}

// reason makes the one printable line with which a worker declines. Failures of the engine are told in
// full in the worker's own log only.
func reason(err error) string {
	var d *llm.DeclineError
	if errors.As(err, &d) {
		return oneLine(d.Reason, ledger.MaxReason)
	}
	return "the engine failed"
}
