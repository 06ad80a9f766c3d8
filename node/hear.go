package node

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/p2p"
)

// Told is what a worker says of its answer. Nobody can check it, and it is signed by nobody.
type Told struct {
	Model        string         `json:"model,omitempty"`
	Stop         llm.StopReason `json:"stop,omitempty"`
	PromptTokens int            `json:"prompt_tokens,omitempty"` // of the worker's model; 0 if it does not count
	AnswerTokens int            `json:"answer_tokens,omitempty"`
}

// Piece is a part of a worker's text as it makes it, before it has committed to an answer: what it shows later, and is judged and paid
// for, may be another text ([SettledAnswer.Changed]).
type Piece struct {
	Worker Party
	Text   string // follows on the worker's last piece; "" in the last one
	Last   bool   // the worker has no more to say
	Failed string // with Last: why there is no answer, "" if there is one
	Told          // with Last
}

const (
	// maxHeard bounds how many workers are listened to at once.
	maxHeard = 64
	// hearGrace is how long a settlement waits for what workers of settled answers have yet to tell.
	hearGrace = time.Second
	// Back-off with a worker that ended the feed.
	hearAgainMin = 250 * time.Millisecond
	hearAgainMax = 30 * time.Second
)

// hearer listens to what workers tell of own tasks. It holds one feed per worker, however many tasks there are.
type hearer struct {
	node *Node

	mu     sync.Mutex
	feeds  map[peer.ID]*heardFeed
	tasks  map[ledger.TaskID]*hearing
	closed bool
}

// heardFeed is the feed of one worker.
type heardFeed struct {
	worker ledger.AccountID // zero until it has introduced itself
	down   bool             // it ended, and is waited with
}

// hearing is what is heard of one task.
type hearing struct {
	hearer  *hearer
	task    ledger.TaskID
	said    map[ledger.AccountID]*words
	workers []ledger.AccountID // those in said, in the order in which they began
	changed chan struct{}      // closed, and made anew, when something was heard
	done    chan struct{}      // closed when nothing more is to come

	over   bool               // the task is: what is missing now of its workers' ends is waited for
	ranked []ledger.AccountID // workers of settled answers
}

// words are what one worker said of a task.
type words struct {
	text []byte
	end  *talkFrame
}

func newHearer(n *Node) *hearer {
	return &hearer{node: n, feeds: map[peer.ID]*heardFeed{}, tasks: map[ledger.TaskID]*hearing{}}
}

// listen begins to hear of a task.
func (h *hearer) listen(task ledger.TaskID) *hearing {
	g := &hearing{hearer: h, task: task, said: map[ledger.AccountID]*words{}, changed: make(chan struct{}), done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tasks[task] = g
	h.tune()
	return g
}

// tune follows the workers that are connected and not followed yet; h.mu must be held.
func (h *hearer) tune() {
	n := h.node
	if h.closed {
		return
	}
	if self := n.host.ID(); n.worker != nil && h.feeds[self] == nil {
		f := &heardFeed{worker: n.Account()}
		h.feeds[self] = f
		n.tasks.Go(func() {
			_ = n.worker.teller.follow(n.ctx, n.Account(), func(frame []byte) error { return h.take(f, frame) })
			h.leave(self)
		})
	}
	for _, p := range n.host.Peers() {
		hello, ok := n.host.Hello(p)
		if !ok || h.feeds[p] != nil || len(h.feeds) >= maxHeard || !slices.Contains(hello.Labels, labelWorker) {
			continue
		}
		f := &heardFeed{}
		h.feeds[p] = f
		n.tasks.Go(func() {
			h.follow(p, f)
			h.leave(p)
		})
	}
}

// follow follows a worker as long as there are tasks to hear of.
func (h *hearer) follow(p peer.ID, f *heardFeed) {
	n, pause := h.node, hearAgainMin
	for {
		begin, introduced := time.Now(), false
		err := n.host.Follow(n.ctx, p, protocolTalk, n.introduce(p), maxTalk, func(frame []byte) error {
			if introduced {
				return h.take(f, frame)
			}
			introduced = true
			worker, err := n.introduced(p, frame)
			if err != nil {
				return fmt.Errorf("%w: %w", p2p.ErrReject, err)
			}
			h.set(func() { f.worker, f.down = worker, false })
			return nil
		})
		h.set(func() { f.worker, f.down = ledger.AccountID{}, true })
		n.log.Debug("a worker's feed ended", "worker", p.String(), "error", err)
		if time.Since(begin) > hearAgainMax {
			pause = hearAgainMin
		}
		if !h.wanted(p) {
			return
		}
		select {
		case <-time.After(pause):
		case <-n.ctx.Done():
			return
		}
		if !h.wanted(p) {
			return
		}
		pause = min(2*pause, hearAgainMax)
	}
}

// wanted says whether there is a task to hear of, and the worker is there.
func (h *hearer) wanted(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.tasks) > 0 && h.node.ctx.Err() == nil && h.node.host.Connected(p)
}

func (h *hearer) leave(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.feeds, p)
}

// close ends listening: nothing is followed anew.
func (h *hearer) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// set changes a feed's state, which settlements may wait for.
func (h *hearer) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	for _, g := range h.tasks {
		g.wake()
	}
}

// take takes a frame of a worker.
func (h *hearer) take(f *heardFeed, data []byte) error {
	frame, err := decodeTalk(data)
	if err != nil {
		return fmt.Errorf("%w: %w", p2p.ErrReject, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.tasks[frame.task]
	if g == nil { // nobody waits for it any more
		return nil
	}
	w := g.said[f.worker]
	if w == nil {
		w = &words{}
		g.said[f.worker] = w
		g.workers = append(g.workers, f.worker)
	}
	if w.end != nil {
		return nil // a feed that was followed anew tells all again
	}
	at, have := int(frame.at), len(w.text)
	switch {
	case frame.text == "" && at == have:
		w.end = &frame
	case frame.text != "" && at <= have:
		w.text = append(w.text, frame.text[min(len(frame.text), have-at):]...)
	default:
		return fmt.Errorf("%w: text at %d, after %d bytes", p2p.ErrReject, at, have)
	}
	g.wake()
	return nil
}

// wake tells those who wait that something was heard, and ends it if that was all; the hearer's lock must be held.
func (g *hearing) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
	if g.over && g.whole() {
		g.stop()
	}
}

// stop ends it; the hearer's lock must be held. It may be called twice.
func (g *hearing) stop() {
	select {
	case <-g.done:
	default:
		close(g.done)
		delete(g.hearer.tasks, g.task)
	}
}

// end has it end when the workers of settled answers have told all that can be expected of them, after hearGrace at the latest.
func (g *hearing) end(ranked []ledger.AccountID) {
	h := g.hearer
	h.mu.Lock()
	defer h.mu.Unlock()
	g.over, g.ranked = true, ranked
	if g.whole() {
		g.stop()
		return
	}
	time.AfterFunc(hearGrace, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		g.stop()
	})
}

// whole says whether the workers of settled answers have told all that they can be expected to; the hearer's lock must be held.
func (g *hearing) whole() bool {
	for _, id := range g.ranked {
		if w := g.said[id]; w != nil && w.end != nil {
			continue
		}
		for _, f := range g.hearer.feeds {
			if f.worker == id || f.worker.IsZero() && !f.down { // it may be the one that is just being followed
				return false
			}
		}
	}
	return true
}

// pieces yields what was heard, and what is, until nothing more is to come.
func (g *hearing) pieces(yield func(Piece) bool) {
	told, ended := map[ledger.AccountID]int{}, map[ledger.AccountID]bool{}
	for last := false; ; {
		g.hearer.mu.Lock()
		var fresh []Piece
		for _, id := range g.workers {
			w, party := g.said[id], Party{id, g.hearer.node.loop.names[id]}
			if rest := w.text[told[id]:]; len(rest) > 0 {
				fresh = append(fresh, Piece{Worker: party, Text: string(rest)})
				told[id] = len(w.text)
			}
			if w.end != nil && !ended[id] {
				fresh = append(fresh, Piece{Worker: party, Last: true, Failed: w.end.fail, Told: w.end.told})
				ended[id] = true
			}
		}
		changed := g.changed
		g.hearer.mu.Unlock()
		for _, p := range fresh {
			if !yield(p) {
				return
			}
		}
		if last {
			return
		}
		select {
		case <-changed:
		case <-g.done:
			last = true // but for what was heard meanwhile
		}
	}
}

// describe adds what workers told to the answers of a settlement.
func (g *hearing) describe(answers []SettledAnswer) {
	g.hearer.mu.Lock()
	defer g.hearer.mu.Unlock()
	for i := range answers {
		a := &answers[i]
		w := g.said[a.Worker.Account]
		if w == nil {
			continue
		}
		if w.end != nil {
			a.Told = w.end.told
			a.Changed = len(w.text) > 0 && crypto.Sum(w.text) != a.Hash
		} else { // cut off: it must be the beginning
			a.Changed = a.Text != "" && !strings.HasPrefix(a.Text, string(w.text))
		}
	}
}
