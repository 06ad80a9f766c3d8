package p2p

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"
)

// errOverQuota has gossipsub drop an RPC.
var errOverQuota = errors.New("p2p: peer is over its quota of gossip RPCs")

// inspect takes out of a gossip RPC what its sender has no quota for. It runs in gossipsub's loop before anything else
// looks at the RPC: what is over costs a look into a map, is not hashed, and does not count as
// seen, so that a flood of honest messages, replayed, does not suppress them when they come from others.
func (s *standings) inspect(from peer.ID, rpc *pubsub.RPC) error {
	st, now := s.of(from), time.Now()
	over := 0
	defer func() {
		if over > 0 {
			s.overQuota.Add(uint64(over))
			s.exceed(from, over)
		}
	}()
	if !st.rpcs.AllowN(now, 1) {
		over = 1 + len(rpc.Publish)
		return errOverQuota
	}
	if n := len(rpc.Subscriptions); n > 0 && !allow(st.subscriptions, now, n) {
		rpc.Subscriptions = nil
		over += n
	}
	if n := controlSize(rpc); n > 0 && !allow(st.control, now, n) {
		rpc.Control = nil
		over += n
	}
	kept := rpc.Publish[:0]
	topic, bucket := "", (*rate.Limiter)(nil)
	for _, m := range rpc.Publish {
		if t := m.GetTopic(); bucket == nil || t != topic { // an RPC seldom holds several
			perSecond, ok := s.rates.load(t)
			if !ok {
				over++
				continue
			}
			topic, bucket = t, st.limiter(st.topics, t, perSecond)
		}
		if !bucket.AllowN(now, 1) {
			over++
			continue
		}
		if !s.admit(st, from) {
			s.crowded.Add(1)
			continue
		}
		kept = append(kept, m)
	}
	clear(rpc.Publish[len(kept):])
	rpc.Publish = kept
	return nil
}

// admit takes a place for a message in the queue before Validate. A peer may hold an eighth of the places that are free, a
// protected one a half. So the queue never fills up: the more of them crowd it, the less each one gets,
// and who comes last still finds room. That there is none is not the fault of who has to wait.
func (s *standings) admit(st *standing, p peer.ID) bool {
	share := int64(8)
	if s.protected[p] {
		share = 2
	}
	if st.waiting.Load() >= (validateQueue-s.waiting.Load())/share {
		return false
	}
	st.waiting.Add(1)
	s.waiting.Add(1)
	return true
}

// countCopies holds it against peers when they hand over copies of what is known, again and again: by gossip's rules a peer hands
// over a message once, so its copies are no more than what others deliver. It is called once a second.
func (s *standings) countCopies() {
	delivered := s.delivered.Swap(0)
	for _, p := range s.peers.Keys() {
		st, ok := s.peers.Peek(p)
		if !ok {
			continue
		}
		st.mu.Lock()
		st.mayCopy = min(st.mayCopy+delivered+copyRate, copiesKept) - st.copies.Swap(0)
		over := max(0, -st.mayCopy)
		st.mayCopy += over
		st.mu.Unlock()
		if over > 0 {
			s.exceed(p, int(over))
		}
	}
}

// copied counts a copy of a message that is known.
func (s *standings) copied(p peer.ID) {
	if st, ok := s.known(p); ok {
		st.copies.Add(1)
	}
}

// checked gives the place back: the message is known already, refused, or taken up by Validate.
func (s *standings) checked(p peer.ID) {
	if st, ok := s.known(p); ok && st.waiting.Load() > 0 {
		st.waiting.Add(-1)
		s.waiting.Add(-1)
	}
}

// forgetWaiting gives back all places of a peer whose messages gossipsub drops without a word: it is graylisted, or gone.
func (s *standings) forgetWaiting(p peer.ID) {
	if st, ok := s.known(p); ok {
		s.waiting.Add(-st.waiting.Swap(0))
	}
}

// allow takes n tokens, or as many as the bucket can hold, so that a single large one is not refused for ever.
func allow(l *rate.Limiter, now time.Time, n int) bool { return l.AllowN(now, min(n, l.Burst())) }

// controlSize counts what an RPC's control part makes gossipsub look up.
func controlSize(rpc *pubsub.RPC) int {
	c := rpc.GetControl()
	n := len(c.GetGraft()) + len(c.GetPrune())
	for _, m := range c.GetIhave() {
		n += 1 + len(m.GetMessageIDs())
	}
	for _, m := range c.GetIwant() {
		n += 1 + len(m.GetMessageIDs())
	}
	for _, m := range c.GetIdontwant() {
		n += 1 + len(m.GetMessageIDs())
	}
	return n
}

// gossipHost is the host as gossipsub sees it. What it writes to a peer goes out in batches. What it reads of a peer
// comes no faster than the peer's quota of bytes allows, so that decoding what one sends leaves time for the others,
// and bytes that it can't make sense of are held against the peer.
type gossipHost struct {
	host.Host
	standings *standings
	ctx       context.Context
}

func (g gossipHost) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	g.Host.SetStreamHandler(id, g.wrap(handle))
}

func (g gossipHost) SetStreamHandlerMatch(id protocol.ID, match func(protocol.ID) bool, handle network.StreamHandler) {
	g.Host.SetStreamHandlerMatch(id, match, g.wrap(handle))
}

func (g gossipHost) NewStream(ctx context.Context, p peer.ID, ids ...protocol.ID) (network.Stream, error) {
	s, err := g.Host.NewStream(ctx, p, ids...)
	if err != nil {
		return nil, err
	}
	return newBatchStream(s), nil
}

func (g gossipHost) wrap(handle network.StreamHandler) network.StreamHandler {
	return func(inner network.Stream) {
		p := inner.Conn().RemotePeer()
		s := &gossipStream{Stream: inner, in: bufio.NewReaderSize(paced{inner, g.ctx, g.standings.of(p).bytes}, gossipBuffer)}
		handle(s)
		// Gossipsub ends a stream that it could still read only for what it read there.
		if s.readErr == nil && s.wasReset.Load() && g.ctx.Err() == nil {
			g.standings.fault(p, FaultProtocol, 1)
		}
	}
}

// paced reads no faster than a quota of bytes allows.
type paced struct {
	io.Reader
	ctx   context.Context
	bytes *rate.Limiter
}

// Read waits until so many bytes may have been read.
func (r paced) Read(p []byte) (n int, err error) {
	n, err = r.Reader.Read(p[:min(len(p), gossipBytes)])
	if err == nil && !r.bytes.AllowN(time.Now(), n) {
		err = r.bytes.WaitN(r.ctx, n)
	}
	return n, err
}

// gossipBuffer holds a few messages. Gossipsub reads the length of each byte by byte, which it would otherwise do from
// the connection, at a tenth of the processor time that a message takes.
const gossipBuffer = 4 << 10

// gossipStream is an inbound stream of gossip.
type gossipStream struct {
	network.Stream
	in       *bufio.Reader
	readErr  error // of the handler's goroutine alone
	wasReset atomic.Bool
}

func (s *gossipStream) Read(p []byte) (n int, err error) {
	n, err = s.in.Read(p)
	s.readErr = err
	return n, err
}

func (s *gossipStream) Reset() error {
	s.wasReset.Store(true)
	return s.Stream.Reset()
}
