package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"
)

// FeedConfig describes a protocol in which this host answers a request with frames, for as long as both ends like.
type FeedConfig struct {
	Name string
	// MaxRequest bounds a request in bytes, 1 to MaxBody.
	MaxRequest int
	// Handle sends frames of 1 to MaxFrame bytes with send, until it has no more or ctx ends: when the follower leaves, or the host
	// closes. It runs for up to 256 followers at once, 2 per peer (further ones are answered with ErrBusy). Send waits for a
	// follower that reads slowly, and fails after 5 s. An error before the first frame is told to the follower as that of
	// a request is; later ones end the feed. A panic ends it too. An error that wraps ErrBadRequest is held against from.
	Handle func(ctx context.Context, from peer.ID, req []byte, send func(frame []byte) error) error
}

// ServeFeed serves followers until the host closes. Names are used once per host.
func (h *Host) ServeFeed(cfg FeedConfig) error {
	id, err := h.protocol(cfg.Name)
	switch {
	case err != nil:
		return err
	case cfg.MaxRequest < 1 || cfg.MaxRequest > MaxBody:
		return fmt.Errorf("p2p: feed %q: MaxRequest %d: want 1 to %d", cfg.Name, cfg.MaxRequest, MaxBody)
	case cfg.Handle == nil:
		return fmt.Errorf("p2p: feed %q: Handle is required", cfg.Name)
	}
	slots := newSlots(feedsAtOnce, feedsPerPeer)
	h.host.SetStreamHandler(id, func(s network.Stream) {
		if !h.begin() {
			_ = s.Reset()
			return
		}
		defer h.running.Done()
		defer context.AfterFunc(h.ctx, func() { _ = s.Reset() })()
		if err := h.feed(s, cfg, slots); err != nil {
			_ = s.Reset()
			h.log.Debug("feed ended", "protocol", id, "to", s.Conn().RemotePeer().String(), "err", err)
			return
		}
		_ = s.Close()
	})
	return nil
}

// feed reads a request and sends frames. The first is the status.
func (h *Host) feed(s network.Stream, cfg FeedConfig, slots *slots) error {
	from := s.Conn().RemotePeer()
	begun := false
	send := func(frame []byte) error {
		if len(frame) == 0 || len(frame) > MaxFrame {
			return fmt.Errorf("%w: frame of %d bytes, want 1 to %d", ErrTooLarge, len(frame), MaxFrame)
		}
		var buf []byte
		if !begun {
			buf = appendFrame(nil, []byte{statusOK})
			begun = true
		}
		_ = s.SetWriteDeadline(time.Now().Add(linkTimeout))
		_, err := s.Write(appendFrame(buf, frame))
		return err
	}
	req, release, err := h.readRequest(s, cfg.Name, cfg.MaxRequest, feedRate, slots)
	if err == nil {
		defer release()
		_, err = handle(h.ctx, h, s, "feed "+cfg.Name, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, cfg.Handle(ctx, from, req, send)
		})
	}
	if begun {
		return err
	}
	_ = s.SetWriteDeadline(time.Now().Add(linkTimeout))
	_, writeErr := s.Write(appendFrame(nil, []byte{statusOf(err)}))
	if err != nil {
		h.log.Debug("feed refused", "protocol", cfg.Name, "to", from.String(), "err", err)
	}
	return writeErr
}

// Follow asks a peer for a feed and calls each with every frame, of at most maxFrame bytes, until the peer ends it, ctx ends
// or each returns an error. Frames are read no faster than 2048 or 2 MiB a second, and one that each refuses with an error
// that wraps [ErrReject] is held against the peer. The errors wrap ErrNotFound, ErrBusy, ErrBadRequest or ErrRemote if the peer
// said so, ErrTooLarge, ErrClosed, or what went wrong on the way; nil is the peer's end.
func (h *Host) Follow(ctx context.Context, to peer.ID, name string, req []byte, maxFrame int, each func(frame []byte) error) error {
	id, err := h.protocol(name)
	if err != nil {
		return err
	}
	if len(req) == 0 || len(req) > MaxBody || maxFrame < 1 || maxFrame > MaxFrame {
		return fmt.Errorf("%w: request of %d bytes, frames of %d: want 1 to %d and 1 to %d", ErrTooLarge, len(req), maxFrame, MaxBody, MaxFrame)
	}
	if !h.begin() {
		return ErrClosed
	}
	defer h.running.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	err = h.follow(ctx, to, id, req, maxFrame, each)
	switch {
	case err == nil:
		return nil
	case h.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		err = ctx.Err() // the stream was reset for it
	}
	return fmt.Errorf("p2p: feed %s of %s: %w", name, to, err)
}

func (h *Host) follow(ctx context.Context, to peer.ID, id protocol.ID, req []byte, maxFrame int, each func([]byte) error) error {
	opening, cancel := context.WithTimeout(ctx, linkTimeout)
	s, err := h.host.NewStream(limited(opening), to, id)
	cancel()
	if err != nil {
		return err
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	_, writeErr := s.Write(appendFrame(nil, req))
	frames := newFrameReader(s, maxFrame)
	blame := func(err error) error {
		switch {
		case errors.Is(err, errFrame):
			h.standings.fault(to, FaultProtocol, 1)
		case errors.Is(err, ErrReject):
			h.standings.fault(to, FaultInvalid, 1)
		}
		return err
	}
	_ = s.SetReadDeadline(time.Now().Add(requestTimeout))
	status, err := frames.next()
	if err != nil {
		return errors.Join(writeErr, blame(err))
	}
	if err := errorOf(status[0]); err != nil {
		return err
	}
	_ = s.SetReadDeadline(time.Time{})
	pace, bytes := rate.NewLimiter(feedFrames, feedFrames), rate.NewLimiter(feedBytes, max(feedBytes, maxFrame))
	for {
		frame, err := frames.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = each(frame)
		}
		if err != nil {
			return blame(err)
		}
		if err := errors.Join(pace.Wait(ctx), bytes.WaitN(ctx, len(frame))); err != nil {
			return err
		}
	}
}
