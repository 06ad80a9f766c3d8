package p2p

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

func echo(_ context.Context, _ peer.ID, req []byte) ([]byte, error) { return req, nil }

func TestRemoteErrorsKeepTheirType(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	answers := map[string]error{
		"missing":  fmt.Errorf("looking: %w", ErrNotFound),
		"busy":     ErrBusy,
		"odd":      fmt.Errorf("%w: odd", ErrBadRequest),
		"internal": errors.New("disk on fire"),
	}
	want := map[string]error{"missing": ErrNotFound, "busy": ErrBusy, "odd": ErrBadRequest, "internal": ErrRemote, "panic": ErrRemote}
	err := hosts[0].Serve(ServeConfig{Name: "blob", MaxRequest: 10, Handle: func(_ context.Context, _ peer.ID, req []byte) ([]byte, error) {
		if string(req) == "panic" {
			panic(req)
		}
		return []byte("ignored"), answers[string(req)]
	}})
	if err != nil {
		t.Fatal(err)
	}
	for req, want := range want {
		if resp, err := hosts[1].Request(deadline(t), hosts[0].ID(), "blob", []byte(req), 10); !errors.Is(err, want) || resp != nil {
			t.Errorf("%s: got %q, %v, want %v", req, resp, err, want)
		}
	}
}

func TestRequestBounds(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	const maxRequest = 1000
	if err := hosts[0].Serve(ServeConfig{Name: "blob", MaxRequest: maxRequest, Handle: echo}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		size, limit int
		want        error
	}{
		{"within both limits", maxRequest, maxRequest, nil},
		{"response over the requester's limit", maxRequest, maxRequest - 1, ErrTooLarge},
		{"request over the server's limit", maxRequest + 1, MaxBody, ErrBadRequest},
		{"empty request", 0, 10, ErrTooLarge},
		{"request over any limit", MaxBody + 1, 10, ErrTooLarge},
		{"limit over any limit", 10, MaxBody + 1, ErrTooLarge},
	} {
		resp, err := hosts[1].Request(deadline(t), hosts[0].ID(), "blob", make([]byte, c.size), c.limit)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if c.want == nil && len(resp) != c.size {
			t.Errorf("%s: response of %d bytes", c.name, len(resp))
		}
	}
}

func TestEmptyResponseIsNotAnError(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	nothing := func(context.Context, peer.ID, []byte) ([]byte, error) { return nil, nil }
	err := hosts[0].Serve(ServeConfig{Name: "blob", MaxRequest: 10, Handle: nothing})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := hosts[1].Request(deadline(t), hosts[0].ID(), "blob", []byte("x"), 0); err != nil || len(resp) != 0 {
		t.Errorf("got %q, %v", resp, err)
	}
}

func TestBusyServerRefusesAtOnceAndServesOthers(t *testing.T) {
	hosts := newHosts(t, 3, Config{})
	entered, leave := make(chan struct{}, servePerPeer), make(chan struct{})
	err := hosts[0].Serve(ServeConfig{Name: "blob", MaxRequest: 10, Handle: func(_ context.Context, from peer.ID, req []byte) ([]byte, error) {
		if from == hosts[1].ID() {
			entered <- struct{}{}
			<-leave
		}
		return req, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, servePerPeer)
	for range servePerPeer {
		go func() {
			_, err := hosts[1].Request(deadline(t), hosts[0].ID(), "blob", []byte("x"), 10)
			answers <- err
		}()
	}
	for range servePerPeer {
		receive(t, entered)
	}
	if _, err := hosts[1].Request(deadline(t), hosts[0].ID(), "blob", []byte("x"), 10); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if _, err := hosts[2].Request(deadline(t), hosts[0].ID(), "blob", []byte("x"), 10); err != nil {
		t.Errorf("another peer: %v", err)
	}
	close(leave)
	for range servePerPeer {
		if err := receive(t, answers); err != nil {
			t.Error(err)
		}
	}
}

func TestRequestEndsWithItsContextAtBothEnds(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	entered, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	err := hosts[0].Serve(ServeConfig{Name: "blob", MaxRequest: 10, Handle: func(ctx context.Context, _ peer.ID, _ []byte) ([]byte, error) {
		entered <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return nil, ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := hosts[1].Request(ctx, hosts[0].ID(), "blob", []byte("x"), 10)
		answer <- err
	}()
	receive(t, entered)
	cancel()
	if err := receive(t, answer); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	receive(t, ended)
}
