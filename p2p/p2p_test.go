package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// got is a gossip message or a frame as a handler saw it.
type got struct {
	at, from peer.ID
	msg      string
}

// newHost starts a host that is closed at the end of the test.
func newHost(t testing.TB, cfg Config) *Host {
	t.Helper()
	if cfg.Network == "" {
		cfg.Network = "test"
	}
	if cfg.Topics == nil {
		cfg.Topics = []string{"order"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// overQUIC and overTCP make a host listen, and so its peers dial, over one transport.
var (
	overQUIC = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/udp/0/quic-v1")}
	overTCP  = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/0")}
)

// newHosts starts n hosts, each connected to all others.
func newHosts(t testing.TB, n int, cfg Config) []*Host {
	t.Helper()
	hosts := make([]*Host, n)
	for i := range hosts {
		hosts[i] = newHost(t, cfg)
		for _, other := range hosts[:i] {
			connect(t, hosts[i], other)
		}
	}
	return hosts
}

func connect(t testing.TB, a, b *Host) {
	t.Helper()
	if err := a.Connect(deadline(t), b.Addrs()...); err != nil {
		t.Fatal(err)
	}
}

// deadline is a context for what must happen soon on a healthy machine.
func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// join joins the topic "order" with text messages; what is handled goes to out. Messages that start with
// "bad" are rejected, "odd" ignored, "oops" panics.
func join(t testing.TB, h *Host, out chan<- got) *Topic {
	t.Helper()
	topic, err := Join(h, TopicConfig[string]{
		Name: "order", MaxSize: 8 << 10,
		Validate: parse,
		Handle:   func(from peer.ID, msg string) { out <- got{h.ID(), from, msg} },
	})
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

var errOdd = errors.New("odd")

func parse(_ context.Context, _ peer.ID, data []byte) (string, error) {
	switch s := string(data); {
	case len(s) >= 3 && s[:3] == "bad":
		return "", fmt.Errorf("%w: %s", ErrReject, s)
	case len(s) >= 3 && s[:3] == "odd":
		return "", errOdd
	case len(s) >= 4 && s[:4] == "oops":
		panic(s)
	default:
		return s, nil
	}
}

// ups is a LinkConfig.Up that tells of links that opened, and never holds one up.
func ups() (func(peer.ID), <-chan peer.ID) {
	up := make(chan peer.ID, 16)
	return func(p peer.ID) {
		select {
		case up <- p:
		default:
		}
	}, up
}

// newLinks serves links for text frames, as join does; what is handled goes to out.
func newLinks(t testing.TB, h *Host, cfg LinkConfig[string], out chan<- got) *Links {
	t.Helper()
	cfg.Name, cfg.MaxFrame, cfg.Validate = "votes", 1<<10, parse
	if cfg.Handle == nil {
		cfg.Handle = func(from peer.ID, msg string) { out <- got{h.ID(), from, msg} }
	}
	links, err := NewLinks(h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return links
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-deadline(t).Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func allReady(t testing.TB, topics []*Topic) {
	t.Helper()
	for _, topic := range topics {
		if err := topic.WaitForPeers(deadline(t), len(topics)-1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTwoHostsTalk(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	a, b := hosts[0], hosts[1]
	out := make(chan got, 16)
	topics := []*Topic{join(t, a, out), join(t, b, out)}
	allReady(t, topics)
	if err := topics[0].Publish(deadline(t), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	seen := map[peer.ID]got{}
	for range 2 {
		g := receive(t, out)
		seen[g.at] = g
	}
	for _, h := range hosts {
		if want := (got{h.ID(), a.ID(), "hello"}); seen[h.ID()] != want {
			t.Errorf("got %v, want %v", seen[h.ID()], want)
		}
	}

	frames := make(chan got, 16)
	newLinks(t, a, LinkConfig[string]{}, frames)
	links := newLinks(t, b, LinkConfig[string]{}, frames)
	if err := links.Send(a.ID(), []byte("vote")); err != nil {
		t.Fatal(err)
	}
	if g, want := receive(t, frames), (got{a.ID(), b.ID(), "vote"}); g != want {
		t.Errorf("got %v, want %v", g, want)
	}

	err := a.Serve(ServeConfig{Name: "blob", MaxRequest: 100, Handle: func(_ context.Context, from peer.ID, req []byte) ([]byte, error) {
		if string(req) == "?" {
			return nil, fmt.Errorf("%w: no such thing", ErrNotFound)
		}
		return append(req, from...), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := b.Request(deadline(t), a.ID(), "blob", []byte("x"), 100); err != nil || string(resp) != "x"+string(b.ID()) {
		t.Errorf("got %q, %v", resp, err)
	}
	if _, err := b.Request(deadline(t), a.ID(), "blob", []byte("?"), 100); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}
