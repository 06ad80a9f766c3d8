package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

// serveFeed serves a feed called text.
func serveFeed(t testing.TB, h *Host, handle func(ctx context.Context, from peer.ID, req []byte, send func([]byte) error) error) {
	t.Helper()
	if err := h.ServeFeed(FeedConfig{Name: "text", MaxRequest: 100, Handle: handle}); err != nil {
		t.Fatal(err)
	}
}

func TestFeedBringsAllFramesInOrderAndEnds(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	const frames = 3000 // more than are read at once
	serveFeed(t, hosts[0], func(_ context.Context, from peer.ID, req []byte, send func([]byte) error) error {
		if from != hosts[1].ID() || string(req) != "all" {
			return ErrBadRequest
		}
		for i := range frames {
			if err := send(fmt.Append(nil, i)); err != nil {
				return err
			}
		}
		return nil
	})
	next := 0
	err := hosts[1].Follow(deadline(t), hosts[0].ID(), "text", []byte("all"), 10, func(frame []byte) error {
		if string(frame) != fmt.Sprint(next) {
			return fmt.Errorf("frame %q, want %d", frame, next)
		}
		next++
		return nil
	})
	if err != nil || next != frames {
		t.Errorf("%d frames: %v", next, err)
	}
}

func TestFeedThatIsRefusedSaysWhy(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	answers := map[string]error{"missing": fmt.Errorf("looking: %w", ErrNotFound), "busy": ErrBusy, "internal": errors.New("disk on fire")}
	serveFeed(t, hosts[0], func(_ context.Context, _ peer.ID, req []byte, _ func([]byte) error) error {
		if string(req) == "panic" {
			panic(req)
		}
		return answers[string(req)]
	})
	for req, want := range map[string]error{"missing": ErrNotFound, "busy": ErrBusy, "internal": ErrRemote, "panic": ErrRemote, strings.Repeat("x", 101): ErrBadRequest} {
		err := hosts[1].Follow(deadline(t), hosts[0].ID(), "text", []byte(req), 10, func([]byte) error { return errors.New("a frame") })
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", req, err, want)
		}
	}
}

func TestFeedEndsWhenItsFollowerLeaves(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	ended := make(chan error, 1)
	serveFeed(t, hosts[0], func(ctx context.Context, _ peer.ID, _ []byte, send func([]byte) error) error {
		if err := send([]byte("one")); err != nil {
			return err
		}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil
	})
	enough := errors.New("enough")
	err := hosts[1].Follow(deadline(t), hosts[0].ID(), "text", []byte("x"), 10, func([]byte) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	receive(t, ended)

	ctx, leave := context.WithCancel(deadline(t))
	err = hosts[1].Follow(ctx, hosts[0].ID(), "text", []byte("x"), 10, func([]byte) error { leave(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	receive(t, ended)
}

func TestFeedsOfOnePeerAreFew(t *testing.T) {
	hosts := newHosts(t, 3, Config{})
	serveFeed(t, hosts[0], func(ctx context.Context, _ peer.ID, _ []byte, send func([]byte) error) error {
		err := send([]byte("x"))
		<-ctx.Done()
		return err
	})
	ctx, leave := context.WithCancel(deadline(t))
	begun, left := make(chan bool), make(chan error)
	follow := func(h *Host) {
		left <- h.Follow(ctx, hosts[0].ID(), "text", []byte("x"), 10, func([]byte) error { begun <- true; return nil })
	}
	for range feedsPerPeer {
		go follow(hosts[1])
		receive(t, begun)
	}
	go follow(hosts[1])
	if err := receive(t, left); !errors.Is(err, ErrBusy) {
		t.Errorf("one too many: %v", err)
	}
	go follow(hosts[2])
	receive(t, begun)
	leave()
	for range feedsPerPeer + 1 {
		receive(t, left)
	}
}

func TestWhoSendsRubbishInAFeedIsBlamed(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	serveFeed(t, hosts[0], func(_ context.Context, _ peer.ID, _ []byte, send func([]byte) error) error {
		return send(bytes.Repeat([]byte("x"), 100))
	})
	err := hosts[1].Follow(deadline(t), hosts[0].ID(), "text", []byte("x"), 99, func([]byte) error { return nil })
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("a frame above the limit: %v", err)
	}
	before := hosts[1].Scores()[hosts[0].ID()].Faults
	if before < 9 {
		t.Errorf("%v points for it", before)
	}
	err = hosts[1].Follow(deadline(t), hosts[0].ID(), "text", []byte("x"), 100, func([]byte) error { return fmt.Errorf("%w: nonsense", ErrReject) })
	if !errors.Is(err, ErrReject) {
		t.Errorf("a frame that is refused: %v", err)
	}
	if after := hosts[1].Scores()[hosts[0].ID()].Faults; after < before+4 {
		t.Errorf("%v points for what was refused", after-before)
	}
}

func TestFeedEndsWithItsHost(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	serveFeed(t, hosts[0], func(ctx context.Context, _ peer.ID, _ []byte, send func([]byte) error) error {
		err := send([]byte("x"))
		<-ctx.Done()
		return err
	})
	begun, left := make(chan bool), make(chan error)
	go func() {
		left <- hosts[1].Follow(context.Background(), hosts[0].ID(), "text", []byte("x"), 10, func([]byte) error { begun <- true; return nil })
	}()
	receive(t, begun)
	go func() { _ = hosts[1].Close() }()
	if err := receive(t, left); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}
