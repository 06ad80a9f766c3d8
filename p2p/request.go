package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// The answers of a peer that is not served. A handler returns an error that wraps one of them, and the
// requester's error wraps the same. ErrRemote stands for every other error of a handler, of which nothing is told.
var (
	ErrNotFound   = errors.New("p2p: peer does not have it")
	ErrBusy       = errors.New("p2p: peer is busy, try another or later")
	ErrBadRequest = errors.New("p2p: peer does not understand the request")
	ErrRemote     = errors.New("p2p: peer failed to answer")
)

// A response is a frame whose first byte is its status.
const (
	statusOK byte = iota
	statusNotFound
	statusBusy
	statusBadRequest
	statusFailed
)

func statusOf(err error) byte {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, ErrNotFound):
		return statusNotFound
	case errors.Is(err, ErrBusy):
		return statusBusy
	case errors.Is(err, ErrBadRequest):
		return statusBadRequest
	default:
		return statusFailed
	}
}

func errorOf(status byte) error {
	switch status {
	case statusOK:
		return nil
	case statusNotFound:
		return ErrNotFound
	case statusBusy:
		return ErrBusy
	case statusBadRequest:
		return ErrBadRequest
	default:
		return ErrRemote
	}
}

// ServeConfig describes a request/response protocol that this host answers.
type ServeConfig struct {
	Name string
	// MaxRequest bounds a request in bytes, 1 to MaxBody.
	MaxRequest int
	// Rate is how many requests per second a peer may send, and twice as many at once; 0 means 256. What is over is
	// answered with ErrBusy.
	Rate int
	// Handle answers a request with at most MaxBody bytes. It runs in up to 64 goroutines at once, 8 per peer
	// (further requests are answered with ErrBusy), and must end with ctx: after 10 s, or when the requester gives
	// up. A panic is answered with ErrRemote. An error that wraps ErrBadRequest is held against from.
	Handle func(ctx context.Context, from peer.ID, req []byte) ([]byte, error)
}

// Serve answers requests until the host closes. Names are used once per host.
func (h *Host) Serve(cfg ServeConfig) error {
	id, err := h.protocol(cfg.Name)
	switch {
	case err != nil:
		return err
	case cfg.MaxRequest < 1 || cfg.MaxRequest > MaxBody:
		return fmt.Errorf("p2p: serve %q: MaxRequest %d: want 1 to %d", cfg.Name, cfg.MaxRequest, MaxBody)
	case cfg.Rate < 0:
		return fmt.Errorf("p2p: serve %q: Rate %d: want 0 or more", cfg.Name, cfg.Rate)
	case cfg.Handle == nil:
		return fmt.Errorf("p2p: serve %q: Handle is required", cfg.Name)
	}
	cfg.Rate = cmp.Or(cfg.Rate, requestRate)
	slots := newSlots(serveAtOnce, servePerPeer)
	h.host.SetStreamHandler(id, func(s network.Stream) {
		if !h.begin() {
			_ = s.Reset()
			return
		}
		defer h.running.Done()
		ctx, cancel := context.WithTimeout(h.ctx, requestTimeout)
		defer cancel()
		defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
		if err := h.answer(ctx, s, cfg, slots); err != nil {
			_ = s.Reset()
			h.log.Debug("request not answered", "protocol", id, "from", s.Conn().RemotePeer().String(), "err", err)
			return
		}
		_ = s.Close()
	})
	return nil
}

// answer reads a request, has it handled and writes the response.
func (h *Host) answer(ctx context.Context, s network.Stream, cfg ServeConfig, slots *slots) error {
	begin := time.Now()
	body, err := h.respond(ctx, s, cfg, slots)
	if err == nil && len(body) > MaxBody {
		err = fmt.Errorf("%w: response of %d bytes", ErrTooLarge, len(body))
	}
	h.timings.serve(cfg.Name, begin, err)
	if err != nil {
		body = nil
		h.log.Debug("request refused", "protocol", cfg.Name, "from", s.Conn().RemotePeer().String(), "err", err)
	}
	_, writeErr := s.Write(appendFrame(nil, []byte{statusOf(err)}, body))
	return writeErr
}

func (h *Host) respond(ctx context.Context, s network.Stream, cfg ServeConfig, slots *slots) ([]byte, error) {
	from := s.Conn().RemotePeer()
	req, release, err := h.readRequest(s, cfg.Name, cfg.MaxRequest, cfg.Rate, slots)
	if err != nil {
		return nil, err
	}
	defer release()
	return handle(ctx, h, s, "serve "+cfg.Name, func(ctx context.Context) ([]byte, error) { return cfg.Handle(ctx, from, req) })
}

// handle has a request answered that was read from s, by f with a context that ends when the requester leaves as well.
func handle[T any](ctx context.Context, h *Host, s network.Stream, what string, f func(context.Context) (T, error)) (T, error) {
	// The requester sends nothing more: a read ends when it leaves, or below.
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		_, _ = s.Read(make([]byte, 1))
	}()
	defer func() { _ = s.SetReadDeadline(time.Now()); <-gone }()
	v, err := guard(h, what, func() (T, error) { return f(ctx) })
	if errors.Is(err, ErrBadRequest) {
		h.standings.fault(s.Conn().RemotePeer(), FaultInvalid, 1)
	}
	return v, err
}

// readRequest reads the one frame of a request if its sender may have it answered. What holds its place is released by the caller.
func (h *Host) readRequest(s network.Stream, name string, most, perSecond int, slots *slots) (req []byte, release func(), err error) {
	from := s.Conn().RemotePeer()
	// Both before reading: a busy host spends no memory on what it will not answer.
	if st := h.standings.of(from); !st.limiter(st.requests, name, perSecond).Allow() {
		h.standings.refused.Add(1)
		h.standings.exceed(from, 1)
		return nil, nil, ErrBusy
	}
	release, ok := slots.take(from)
	if !ok {
		return nil, nil, ErrBusy
	}
	_ = s.SetReadDeadline(time.Now().Add(requestRead))
	req, err = newFrameReader(s, most).next()
	switch {
	case errors.Is(err, errFrame):
		h.standings.fault(from, FaultProtocol, 1)
	case isTimeout(err):
		h.standings.fault(from, FaultSlow, 1)
	}
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	_ = s.SetReadDeadline(time.Time{})
	return req, release, nil
}

// isTimeout says whether a read ended by its deadline, of which each transport tells in its own words.
func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// slots bounds the requests of one protocol that are worked on.
type slots struct {
	most, mostPerPeer int

	mu      sync.Mutex
	taken   int
	perPeer map[peer.ID]int
}

func newSlots(most, perPeer int) *slots {
	return &slots{most: most, mostPerPeer: perPeer, perPeer: make(map[peer.ID]int)}
}

func (s *slots) take(p peer.ID) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.most || s.perPeer[p] >= s.mostPerPeer {
		return nil, false
	}
	s.taken++
	s.perPeer[p]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
		if s.perPeer[p]--; s.perPeer[p] == 0 {
			delete(s.perPeer, p)
		}
	}, true
}

// Request asks a peer and returns its response of at most maxResponse bytes. A context without deadline
// gets one of 10 s. The errors wrap ErrNotFound, ErrBusy, ErrBadRequest or ErrRemote if the peer
// said so, ErrTooLarge, ErrClosed, or what went wrong on the way. The peer is dialled if its address is known.
// Over a relay, which limits bytes and time, large responses may break off.
func (h *Host) Request(ctx context.Context, to peer.ID, name string, req []byte, maxResponse int) ([]byte, error) {
	id, err := h.protocol(name)
	if err != nil {
		return nil, err
	}
	if len(req) == 0 || len(req) > MaxBody || maxResponse < 0 || maxResponse > MaxBody {
		return nil, fmt.Errorf("%w: request of %d bytes, response of %d: want 1 and 0 to %d", ErrTooLarge, len(req), maxResponse, MaxBody)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	begin := time.Now()
	body, err := h.request(ctx, to, id, req, maxResponse)
	h.timings.request(name, begin, err)
	switch {
	case err == nil:
		return body, nil
	case h.ctx.Err() != nil:
		return nil, ErrClosed
	case ctx.Err() != nil:
		err = ctx.Err() // the stream was reset for it
	}
	return nil, fmt.Errorf("p2p: request %s of %s: %w", name, to, err)
}

func (h *Host) request(ctx context.Context, to peer.ID, id protocol.ID, req []byte, maxResponse int) ([]byte, error) {
	s, err := h.host.NewStream(limited(ctx), to, id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	reset := func() { _ = s.Reset() }
	defer context.AfterFunc(ctx, reset)()
	defer context.AfterFunc(h.ctx, reset)()
	// A busy peer may answer and stop reading before it has the request: a failed write is not the last word.
	_, writeErr := s.Write(appendFrame(nil, req))
	frame, err := newFrameReader(s, 1+maxResponse).next()
	if err != nil {
		if errors.Is(err, errFrame) {
			h.standings.fault(to, FaultProtocol, 1)
		}
		reset()
		return nil, errors.Join(writeErr, err)
	}
	return frame[1:], errorOf(frame[0])
}
