package node

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/poqmesh/poq/ledger"
)

// Event is a step of a task as this node saw it. What it points to must not be changed.
type Event struct {
	ledger.Progress
	Time   time.Time
	Missed int // [Node.Events] alone: events before this one that its reader was too slow for
}

// maxUnread is how many events wait for a reader of [Node.Events]: those of a hundred tasks.
const maxUnread = 4096

// Events tells of every step of every task from this call on, as the node sees it, until ctx ends, the node closes or the loop
// over it is left. It is for one loop. The node does not wait for it: of a reader that is more than 4096 events behind, the
// newest are dropped, and the next event that it gets says how many. An iterator that is never used takes memory until ctx ends.
//
// Called between New and [Node.Start] it misses nothing. Of what was settled while this node was away only the settlements
// are told, when they are fetched.
func (n *Node) Events(ctx context.Context) iter.Seq[Event] {
	s := &subscriber{ready: make(chan struct{}, 1)}
	n.loop.feed.add(s)
	stop := context.AfterFunc(ctx, func() { n.loop.feed.drop(s) })
	return func(yield func(Event) bool) {
		defer stop()
		defer n.loop.feed.drop(s)
		for range s.ready {
			for _, e := range s.take() {
				if ctx.Err() != nil || !yield(e) {
					return
				}
			}
		}
	}
}

// feed hands events to who wants to see them. Its methods may be called from any goroutine.
type feed struct {
	mu          sync.Mutex
	closed      bool
	subscribers map[*subscriber]struct{}  // to all tasks
	tasks       map[ledger.TaskID][]*Task // own ones that are followed
}

// tell never waits for a reader.
func (f *feed) tell(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subscribers {
		s.put(e)
	}
	for _, t := range f.tasks[e.Task] {
		t.put(e)
	}
}

func (f *feed) add(s *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		close(s.ready)
		return
	}
	f.subscribers[s] = struct{}{}
}

// drop ends a subscription. It may be called twice.
func (f *feed) drop(s *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.subscribers[s]; ok {
		delete(f.subscribers, s)
		close(s.ready)
	}
}

// close ends all subscriptions; what is unread can still be read. It may be called twice.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for s := range f.subscribers {
		s.wake()
		close(s.ready)
	}
	clear(f.subscribers)
}

func (f *feed) follow(t *Task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tasks[t.ID] = append(f.tasks[t.ID], t)
}

// leave ends what follow began. It may be called twice.
func (f *feed) leave(t *Task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := slices.DeleteFunc(f.tasks[t.ID], func(o *Task) bool { return o == t })
	if f.tasks[t.ID] = rest; len(rest) == 0 {
		delete(f.tasks, t.ID)
	}
}

// subscriber is a reader of all events.
type subscriber struct {
	ready chan struct{} // holds a token when something may be unread; closed at the end. The feed's mutex guards sending.

	mu     sync.Mutex
	unread []Event
	missed int
}

func (s *subscriber) put(e Event) {
	s.mu.Lock()
	if len(s.unread) < maxUnread {
		e.Missed, s.missed = s.missed, 0
		s.unread = append(s.unread, e)
	} else {
		s.missed++
	}
	s.mu.Unlock()
	s.wake()
}

func (s *subscriber) wake() {
	select {
	case s.ready <- struct{}{}:
	default: // it holds a token
	}
}

// take returns what is unread.
func (s *subscriber) take() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.unread
	s.unread = nil
	return events
}
