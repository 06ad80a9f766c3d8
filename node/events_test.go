package node

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/poqmesh/poq/ledger"
)

func newFeed() *feed {
	return &feed{subscribers: map[*subscriber]struct{}{}, tasks: map[ledger.TaskID][]*Task{}}
}

// readers counts subscribers to all tasks.
func readers(f *feed) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subscribers)
}

// followed counts the tasks that are followed.
func followed(f *feed) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.tasks)
}

// numbered is an event that can be told from others.
func numbered(i int) Event { return Event{Progress: ledger.Progress{Member: i}} }

func TestSlowReaderOfEventsIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	n := &Node{loop: &loop{feed: *newFeed()}}
	events := n.Events(t.Context())
	const late = 7
	for i := range maxUnread + late {
		n.loop.feed.tell(numbered(i))
	}
	read, total := 0, 0
	for e := range events {
		switch {
		case read < maxUnread && (e.Member != read || e.Missed != 0):
			t.Fatalf("event %d is %d, after %d that were missed", read, e.Member, e.Missed)
		case read == maxUnread && (e.Member != -1 || e.Missed != late):
			t.Fatalf("event %d after %d that were missed, want the next one after %d", e.Member, e.Missed, late)
		case read > maxUnread && e.Missed != 0:
			t.Fatalf("%d missed by a reader that is not slow", e.Missed)
		}
		read++
		total += 1 + e.Missed
		switch read {
		case maxUnread: // all that waited
			n.loop.feed.tell(numbered(-1))
			n.loop.feed.tell(numbered(-2))
		case maxUnread + 2:
			n.loop.feed.close() // else it would wait for more
		}
	}
	if total != maxUnread+late+2 {
		t.Errorf("%d events are accounted for, %d happened", total, maxUnread+late+2)
	}
}

func TestEventsEndAndLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(n *Node, cancel context.CancelFunc){
		"when the context does": func(_ *Node, cancel context.CancelFunc) { cancel() },
		"when the node closes":  func(n *Node, _ context.CancelFunc) { n.loop.feed.close() },
	} {
		t.Run(name, func(t *testing.T) {
			n := &Node{loop: &loop{feed: *newFeed()}}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan int)
			events := n.Events(ctx)
			go func() {
				read := 0
				for range events {
					read++
				}
				ended <- read
			}()
			end(n, cancel)
			if read := receive(t, ended); read != 0 {
				t.Errorf("%d events of nothing", read)
			}
			if readers(&n.loop.feed) != 0 {
				t.Error("a subscriber is left")
			}
		})
	}
	t.Run("when the loop is left", func(t *testing.T) {
		n := &Node{loop: &loop{feed: *newFeed()}}
		events := n.Events(t.Context())
		n.loop.feed.tell(numbered(1))
		for range events {
			break
		}
		if readers(&n.loop.feed) != 0 {
			t.Error("a subscriber is left")
		}
		for range events {
			t.Error("an event after the end")
		}
	})
	t.Run("at once on a closed node", func(t *testing.T) {
		n := &Node{loop: &loop{feed: *newFeed()}}
		n.loop.feed.close()
		for range n.Events(t.Context()) {
			t.Error("an event of a closed node")
		}
	})
}

// What was told before a node closed is read, however late its reader comes.
func TestEventsBeforeTheEndAreRead(t *testing.T) {
	t.Parallel()
	n := &Node{loop: &loop{feed: *newFeed()}}
	events := n.Events(t.Context())
	n.loop.feed.tell(numbered(1))
	n.loop.feed.tell(numbered(2))
	n.loop.feed.close()
	n.loop.feed.tell(numbered(3))
	var got []int
	for e := range events {
		got = append(got, e.Member)
	}
	if !slices.Equal(got, []int{1, 2}) {
		t.Errorf("read %v", got)
	}
}

func TestTaskTellsAllItsStepsToWhoeverComes(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("an answer"))
	task, err := s.payer.node.Order(soon(t), "q", AskOptions{MaxAnswers: 1})
	if err != nil {
		t.Fatal(err)
	}
	var first []ledger.Step
	for e := range task.Events() { // while it happens
		first = append(first, e.Step)
	}
	got, err := task.Wait()
	if err != nil || got.Task != task.ID || got.Timeline.Settled == 0 {
		t.Fatalf("settled as %+v, %v", got, err)
	}
	var again []ledger.Step
	for e := range task.Events() {
		again = append(again, e.Step)
	}
	if !slices.Equal(first, again) || first[0] != ledger.Ordered || first[len(first)-1] != ledger.Settled || !slices.Contains(first, ledger.Answered) {
		t.Errorf("first %v, then %v", first, again)
	}
	if again, err := task.Wait(); err != nil || again.Task != task.ID {
		t.Errorf("waiting again: %+v, %v", again, err)
	}
	if followed(&s.payer.node.loop.feed) != 0 {
		t.Error("the task is followed still")
	}
}

func TestTaskEndsWhenItsNodeCloses(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1) // without workers, and only the payer runs
	s.make(s.payer)
	task, err := s.payer.node.Order(soon(t), "q", AskOptions{MaxAnswers: 1})
	if err != nil {
		t.Fatal(err)
	}
	s.stop(s.payer)
	for e := range task.Events() {
		t.Errorf("step %v of a task that nobody settled", e.Step)
	}
	var pending *PendingError
	if _, err := task.Wait(); !errors.As(err, &pending) || pending.Task != task.ID || !errors.Is(err, errStopped) {
		t.Errorf("got %v", err)
	}
}
