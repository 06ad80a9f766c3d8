package p2p

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// forever makes waitFor wait for an event alone.
const forever = time.Duration(-1)

// waitFor returns true when an event came or d has passed, false when ctx ended.
func waitFor(ctx context.Context, event <-chan struct{}, d time.Duration) bool {
	var after <-chan time.Time
	if d != forever {
		timer := time.NewTimer(d)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-event:
	case <-after:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// backoff doubles a delay from lowest to highest, each drawn from its upper half, so that peers that lost the
// same connection do not return in step.
type backoff struct{ lowest, highest, delay time.Duration }

func newBackoff(lowest, highest time.Duration) *backoff {
	return &backoff{lowest: lowest, highest: highest, delay: lowest}
}

func (b *backoff) reset() { b.delay = b.lowest }

func (b *backoff) next() time.Duration {
	d := b.delay
	b.delay = min(2*b.delay, b.highest)
	return d/2 + rand.N(d/2+1)
}

// anyPeer stands for all peers in watchers.add.
const anyPeer peer.ID = ""

// watchers wakes the loops that wait for a peer to come or go.
type watchers struct {
	mu    sync.Mutex
	peers map[peer.ID]map[chan struct{}]struct{}
}

// add returns a channel that holds an event whenever the connection to p changed since it was last read, and
// a function to end that.
func (w *watchers) add(p peer.ID) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.peers == nil {
		w.peers = make(map[peer.ID]map[chan struct{}]struct{})
	}
	if w.peers[p] == nil {
		w.peers[p] = make(map[chan struct{}]struct{})
	}
	w.peers[p][c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.peers[p], c); len(w.peers[p]) == 0 {
			delete(w.peers, p)
		}
	}
}

func (w *watchers) wake(p peer.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, waiting := range []map[chan struct{}]struct{}{w.peers[p], w.peers[anyPeer]} {
		for c := range waiting {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}
