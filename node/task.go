package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/poqmesh/poq/ledger"
)

// Task is an order of this node's that it follows until it is settled. Its methods are safe for concurrent use.
type Task struct {
	ID ledger.TaskID

	node  *Node
	asked context.Context // Order's
	ctx   context.Context // of asked; ends when the task is not followed any more, with the reason as its cause
	end   context.CancelCauseFunc
	begin time.Time
	heard *hearing // nil without AskOptions.Listen

	mu      sync.Mutex
	steps   []Event
	changed chan struct{} // closed and replaced by put
}

// maxSteps is more than an honest task has. More are not kept, except for the settlement.
const maxSteps = 1024

// settleGrace is how much longer than the score deadline a task is followed.
const settleGrace = 30 * time.Second

var (
	errUndecided = errors.New("the validators have not decided in time")
	errStopped   = errors.New("the node stopped")
)

// follow begins to follow an own order. Nothing may have been published of it.
func (n *Node) follow(ctx context.Context, o ledger.Order, listen bool) *Task {
	t := &Task{ID: ledger.OrderID(n.domain, o), node: n, asked: ctx, begin: time.Now(), changed: make(chan struct{})}
	late := time.Duration(o.ScoreDeadline)*time.Millisecond + settleGrace
	limited, cancel := context.WithTimeoutCause(ctx, late, errUndecided)
	t.ctx, t.end = context.WithCancelCause(limited)
	if listen {
		t.heard = n.hearer.listen(t.ID)
	}
	n.loop.feed.follow(t)
	stop := context.AfterFunc(n.ctx, func() { t.end(errors.Join(errStopped, n.Err())) })
	context.AfterFunc(t.ctx, func() {
		n.loop.feed.leave(t)
		cancel()
		stop()
		if t.heard != nil {
			t.heard.end(t.ranked())
		}
	})
	return t
}

// put takes note of a step, from the node's loop.
func (t *Task) put(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) >= maxSteps && e.Step != ledger.Settled {
		return
	}
	t.steps = append(t.steps, e)
	close(t.changed)
	t.changed = make(chan struct{})
	if e.Step == ledger.Settled {
		t.end(nil)
	}
}

// Events tells of the task's steps, from the first one on, as they come, and ends with the settlement. It ends without one where
// Wait has an error. It may be called any number of times.
func (t *Task) Events() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for i := 0; ; i++ {
			e, ok := t.step(i)
			if !ok || !yield(e) || e.Step == ledger.Settled {
				return
			}
		}
	}
}

// step returns a step, by its number, when it is there. It is false if it never will be.
func (t *Task) step(i int) (Event, bool) {
	for {
		t.mu.Lock()
		steps, changed := t.steps, t.changed
		t.mu.Unlock()
		if i < len(steps) {
			return steps[i], true
		}
		select {
		case <-changed:
		case <-t.ctx.Done():
			t.mu.Lock()
			steps = t.steps // the settlement ends ctx, too
			t.mu.Unlock()
			if i < len(steps) {
				return steps[i], true
			}
			return Event{}, false
		}
	}
}

// Text tells what workers say of the task, from the beginning on, as they make it. It ends when the task is settled, or where Wait has an
// error; a worker that is late with the end of a settled answer is waited for, a second at most. It may be called any number of times, and
// yields nothing without [AskOptions.Listen].
func (t *Task) Text() iter.Seq[Piece] {
	if t.heard == nil {
		return func(func(Piece) bool) {}
	}
	return t.heard.pieces
}

// ranked returns the workers whose answers were settled.
func (t *Task) ranked() (workers []ledger.AccountID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.steps) == 0 || t.steps[len(t.steps)-1].Step != ledger.Settled {
		return nil
	}
	for _, r := range t.steps[len(t.steps)-1].Receipt.Outcome.Ranking {
		workers = append(workers, r.Answer.Worker)
	}
	return workers
}

// Wait returns how the task was settled, when it is. If the context of [Node.Order] ends or nothing is decided in time, the order
// stays in force: the error is a *PendingError, and the ledger shows later how it ended.
func (t *Task) Wait() (*Settlement, error) {
	var steps []Event
	for e := range t.Events() {
		steps = append(steps, e)
	}
	t.node.loop.feed.leave(t) // at once, not when ctx's goroutine comes to it
	if len(steps) == 0 || steps[len(steps)-1].Step != ledger.Settled {
		return nil, &PendingError{t.ID, context.Cause(t.ctx)}
	}
	s := t.node.settlement(t.asked, steps[len(steps)-1].Receipt, timeline(t.begin, steps))
	if t.heard != nil {
		<-t.heard.done
		t.heard.describe(s.Answers)
	}
	return s, nil
}

// PendingError says that an order was given but its outcome is not known yet.
type PendingError struct {
	Task ledger.TaskID
	Err  error
}

// Error names the task.
func (e *PendingError) Error() string {
	return fmt.Sprintf("task %s is not settled yet (%v): look later with poq ledger task %s", e.Task.Short(), e.Err, e.Task.Short())
}

// Unwrap returns the cause.
func (e *PendingError) Unwrap() error { return e.Err }
