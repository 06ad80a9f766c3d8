package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"
)

// ErrQueueFull says that a peer takes frames more slowly than they come, or is away. The frame was not queued;
// later ones may be. Send the peer's state again when LinkConfig.Up names it.
var ErrQueueFull = errors.New("p2p: link queue is full")

// LinkConfig describes links, whose frames decode to T.
type LinkConfig[T any] struct {
	// Name of the protocol; both ends of a link must use the same.
	Name string
	// MaxFrame bounds a frame in bytes, 1 to MaxFrame.
	MaxFrame int
	// Allow says which peers may open a link to this host; nil admits all.
	Allow func(peer.ID) bool
	// Validate decodes and checks a frame. An error that wraps ErrReject ends the stream, since its sender is
	// not to be understood; any other error or a panic drops the frame alone. frame belongs to the callee.
	Validate func(ctx context.Context, from peer.ID, frame []byte) (T, error)
	// Handle gets what Validate returned. Validate and Handle of one peer's frames are called from one
	// goroutine, in the order in which they were sent; of different peers at the same time. While Handle blocks, that peer's
	// frames wait in the streams' buffers and then in the sender's queue.
	Handle func(from peer.ID, msg T)
	// Up, if set, is called whenever a link to a peer has opened, the first time and after every break, before
	// any waiting frame is sent. Frames around a break may be lost, so this is the moment to Send again
	// what the peer must know. It runs in the link's goroutine, which waits for it: it must not block.
	Up func(to peer.ID)
}

// Links keeps one long-lived stream to each peer that it sends to, for small frames that must arrive soon and in
// order. Delivery is at most once: a frame is lost when its link breaks while it is under way. Its methods are
// safe for concurrent use.
type Links struct {
	h        *Host
	name     string
	id       protocol.ID
	maxFrame int
	allow    func(peer.ID) bool
	up       func(peer.ID)
	receive  func(ctx context.Context, from peer.ID, frame []byte) error

	mu      sync.Mutex
	links   map[peer.ID]*link
	inbound map[peer.ID]*inbound

	sent, received atomic.Uint64 // frames
}

// LinkStats are the counters of one protocol's links since the host started.
type LinkStats struct {
	Protocol string `json:"protocol"`
	Wanted   int    `json:"wanted"` // peers to whom a link is held
	Up       int    `json:"up"`     // of these, open now
	Sent     uint64 `json:"sent"`   // frames
	Received uint64 `json:"received"`
	Dropped  uint64 `json:"dropped"` // refused with ErrQueueFull or lost with a broken link
}

// link is the sending end to one peer.
type link struct {
	to    peer.ID
	queue chan []byte
	isUp  atomic.Bool
	// dropped counts the frames that were refused or lost.
	dropped atomic.Uint64
}

// inbound is the receiving end from one peer.
type inbound struct {
	stream network.Stream
	done   chan struct{}
}

// NewLinks serves the protocol until the host closes. Names are used once per host.
func NewLinks[T any](h *Host, cfg LinkConfig[T]) (*Links, error) {
	id, err := h.protocol(cfg.Name)
	switch {
	case err != nil:
		return nil, err
	case cfg.MaxFrame < 1 || cfg.MaxFrame > MaxFrame:
		return nil, fmt.Errorf("p2p: links %q: MaxFrame %d: want 1 to %d", cfg.Name, cfg.MaxFrame, MaxFrame)
	case cfg.Validate == nil || cfg.Handle == nil:
		return nil, fmt.Errorf("p2p: links %q: Validate and Handle are required", cfg.Name)
	}
	l := &Links{
		h: h, name: cfg.Name, id: id, maxFrame: cfg.MaxFrame, allow: cfg.Allow, up: cfg.Up,
		links:   make(map[peer.ID]*link),
		inbound: make(map[peer.ID]*inbound),
	}
	l.receive = func(ctx context.Context, from peer.ID, frame []byte) error {
		l.received.Add(1)
		msg, err := guard(h, "links "+cfg.Name, func() (T, error) { return cfg.Validate(ctx, from, frame) })
		if err == nil {
			cfg.Handle(from, msg)
		}
		return err
	}
	h.mu.Lock()
	h.links = append(h.links, l)
	h.mu.Unlock()
	h.host.SetStreamHandler(id, l.serve)
	return l, nil
}

// Open begins to hold links to peers open; Send does so too, but the first frame then waits for the link.
// The peers must be connected, be dialling us, or have known addresses (Connect, Keep).
func (l *Links) Open(peers ...peer.ID) error {
	for _, p := range peers {
		if _, err := l.link(p); err != nil {
			return err
		}
	}
	return nil
}

// Send queues a frame for a peer and returns at once. The errors are ErrTooLarge, ErrQueueFull and
// ErrClosed. The caller must not change frame afterwards.
func (l *Links) Send(to peer.ID, frame []byte) error {
	if len(frame) == 0 || len(frame) > l.maxFrame {
		return fmt.Errorf("%w: frame of %d bytes, %s takes 1 to %d", ErrTooLarge, len(frame), l.id, l.maxFrame)
	}
	k, err := l.link(to)
	if err != nil {
		return err
	}
	select {
	case k.queue <- frame:
		return nil
	default:
		k.dropped.Add(1)
		return fmt.Errorf("%w: %d frames wait for %s on %s", ErrQueueFull, cap(k.queue), to, l.id)
	}
}

// Up says whether the link to a peer is open.
func (l *Links) Up(to peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.links[to]
	return k != nil && k.isUp.Load()
}

// Dropped is the number of frames for a peer that were refused with ErrQueueFull or lost with a broken link.
func (l *Links) Dropped(to peer.ID) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.links[to]; k != nil {
		return k.dropped.Load()
	}
	return 0
}

// Stats returns the counters.
func (l *Links) Stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := LinkStats{Protocol: l.name, Wanted: len(l.links), Sent: l.sent.Load(), Received: l.received.Load()}
	for _, k := range l.links {
		s.Dropped += k.dropped.Load()
		if k.isUp.Load() {
			s.Up++
		}
	}
	return s
}

// Links returns the counters of all links, one for each protocol.
func (h *Host) Links() []LinkStats {
	h.mu.Lock()
	links := slices.Clone(h.links)
	h.mu.Unlock()
	list := make([]LinkStats, len(links))
	for i, l := range links {
		list[i] = l.Stats()
	}
	return list
}

// link returns the link to a peer and starts it the first time.
func (l *Links) link(to peer.ID) (*link, error) {
	if to == l.h.ID() {
		return nil, fmt.Errorf("p2p: link to itself on %s", l.id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.links[to]; k != nil {
		if l.h.ctx.Err() != nil {
			return nil, ErrClosed
		}
		return k, nil
	}
	if !l.h.begin() {
		return nil, ErrClosed
	}
	k := &link{to: to, queue: make(chan []byte, linkQueue)}
	l.links[to] = k
	go l.run(k)
	return k, nil
}

// run keeps the link open until the host closes.
func (l *Links) run(k *link) {
	defer l.h.running.Done()
	changed, stop := l.h.watch.add(k.to)
	defer stop()
	retry := newBackoff(dialMin, dialMax)
	for {
		s, err := l.open(k.to)
		if err == nil {
			since := time.Now()
			k.isUp.Store(true)
			if l.up != nil {
				l.up(k.to)
			}
			err = l.pump(k, s)
			k.isUp.Store(false)
			if time.Since(since) > dialMax { // a peer that admits us and hangs up at once must not make us spin
				retry.reset()
			}
		}
		if l.h.ctx.Err() != nil {
			return
		}
		wait := retry.next()
		l.h.log.Debug("link is down", "protocol", l.id, "to", k.to.String(), "again_in", wait, "err", err)
		if !waitFor(l.h.ctx, changed, wait) {
			return
		}
	}
}

// linkReady is what the receiving end writes, once, when it reads frames. Without it the opener would not know
// that the peer serves the protocol and admits it, because libp2p settles that lazily.
const linkReady = 1

// open opens a stream and waits until the other end is ready.
func (l *Links) open(to peer.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(l.h.ctx, linkTimeout)
	defer cancel()
	if err := l.h.reach(ctx, to); err != nil {
		return nil, err
	}
	s, err := l.h.host.NewStream(limited(ctx), to, l.id)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil || b[0] != linkReady {
		_ = s.Reset()
		return nil, fmt.Errorf("link not accepted (answer %d): %w", b[0], err)
	}
	return s, nil
}

// pump writes queued frames until the stream breaks or the host closes.
func (l *Links) pump(k *link, s network.Stream) error {
	broken := make(chan struct{})
	go func() { // nothing more is ever read: a read ends when the stream does
		defer close(broken)
		_, _ = s.Read(make([]byte, 1))
	}()
	defer func() { _ = s.Reset(); <-broken }()
	var buf []byte
	for {
		var frame []byte
		select {
		case frame = <-k.queue:
		case <-broken:
			return errors.New("peer ended the stream")
		case <-l.h.ctx.Done():
			return l.h.ctx.Err()
		}
		// One write for all that waits: fewer packets, and fewer turns of the scheduler at both ends.
		buf = appendFrame(buf[:0], frame)
		frames := uint64(1)
	gather:
		for len(buf) < linkBatch {
			select {
			case frame = <-k.queue:
				buf = appendFrame(buf, frame)
				frames++
			default:
				break gather
			}
		}
		_ = s.SetWriteDeadline(time.Now().Add(linkTimeout))
		if _, err := s.Write(buf); err != nil {
			k.dropped.Add(frames)
			return err
		}
		l.sent.Add(frames)
	}
}

// serve reads the frames of one inbound stream.
func (l *Links) serve(s network.Stream) {
	if !l.h.begin() {
		_ = s.Reset()
		return
	}
	defer l.h.running.Done()
	from := s.Conn().RemotePeer()
	if l.allow != nil && !l.allow(from) {
		_ = s.ResetWithError(network.StreamGated)
		return
	}
	defer l.take(from, s)()
	defer func() { _ = s.Reset() }()
	_ = s.SetWriteDeadline(time.Now().Add(linkTimeout))
	if _, err := s.Write([]byte{linkReady}); err != nil {
		return
	}
	// A peer that sends more is read no faster, so that checking what one sends leaves time for the others.
	pace := rate.NewLimiter(frameRate, frameRate)
	err := readFrames(s, l.maxFrame, func(frame []byte) error {
		if err := pace.Wait(l.h.ctx); err != nil {
			return nil //nolint:nilerr // the host closes
		}
		return l.receive(l.h.ctx, from, frame)
	})
	if err != nil {
		fault := FaultInvalid
		if errors.Is(err, errFrame) {
			fault = FaultProtocol
		}
		l.h.standings.fault(from, fault, 1)
		_ = s.ResetWithError(network.StreamProtocolViolation)
		l.h.log.Warn("link ended: peer broke the protocol", "protocol", l.id, "from", from.String(), "err", err)
	}
}

// take makes s the one inbound stream of its peer: a peer that opens a second has lost the first. It waits
// until the first is done, so that frames stay in order. If the first came over another connection, the
// peer has lost that too, most likely by a crash: closing it now lets gossip and our own link move to the new
// connection at once, where the transport alone would take half a minute to notice.
func (l *Links) take(from peer.ID, s network.Stream) (release func()) {
	in := &inbound{stream: s, done: make(chan struct{})}
	l.mu.Lock()
	old := l.inbound[from]
	l.inbound[from] = in
	l.mu.Unlock()
	if old != nil {
		_ = old.stream.Reset()
		if old.stream.Conn() != s.Conn() {
			_ = old.stream.Conn().Close()
		}
		<-old.done
	}
	return func() {
		l.mu.Lock()
		if l.inbound[from] == in {
			delete(l.inbound, from)
		}
		l.mu.Unlock()
		close(in.done)
	}
}

// readFrames calls receive with every frame. It returns nil when the stream ends, and an error when the peer
// sends what it must not: a malformed frame, or one that receive rejects.
func readFrames(r io.Reader, maxFrame int, receive func([]byte) error) error {
	frames := newFrameReader(r, maxFrame)
	for {
		frame, err := frames.next()
		if errors.Is(err, errFrame) {
			return err
		}
		if err != nil {
			return nil //nolint:nilerr // however a stream ends, it is opened again
		}
		if err := receive(frame); errors.Is(err, ErrReject) {
			return err
		}
	}
}
