package p2p

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"
)

func newKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestNewTellsWhatIsWrong(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no network":   {},
		"odd network":  {Network: "a/b"},
		"odd topic":    {Network: "test", Topics: []string{"a b"}},
		"long network": {Network: string(make([]byte, 200))},
	} {
		if h, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
			_ = h.Close()
		}
	}
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	before := goleak.IgnoreCurrent()
	func() {
		hosts := newHosts(t, 3, Config{})
		topics := make([]*Topic, len(hosts))
		tell, up := ups()
		for i, h := range hosts {
			topics[i] = join(t, h, nil)
			if err := h.Serve(ServeConfig{Name: "blob", MaxRequest: 1, Handle: echo}); err != nil {
				t.Fatal(err)
			}
			links := newLinks(t, h, LinkConfig[string]{Up: tell}, nil)
			for j, other := range hosts {
				if i == j {
					continue
				}
				if err := errors.Join(links.Open(other.ID()), h.Keep(other.Addrs()...)); err != nil {
					t.Fatal(err)
				}
			}
		}
		allReady(t, topics)
		for range 6 {
			receive(t, up)
		}
		for _, h := range hosts {
			if err := errors.Join(h.Close(), h.Close()); err != nil {
				t.Error(err)
			}
		}
	}()
	goleak.VerifyNone(t, before)
}

func TestClosedHostSaysSo(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	topic := join(t, a, nil)
	links := newLinks(t, a, LinkConfig[string]{}, nil)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	_, joinErr := Join(a, TopicConfig[string]{Name: "order", MaxSize: 1, Validate: parse, Handle: func(peer.ID, string) {}})
	_, requestErr := a.Request(t.Context(), b.ID(), "blob", []byte("x"), 1)
	for name, err := range map[string]error{
		"Publish": topic.Publish(t.Context(), []byte("x")),
		"Send":    links.Send(b.ID(), []byte("x")),
		"Open":    links.Open(b.ID()),
		"Connect": a.Connect(t.Context(), b.Addrs()...),
		"Keep":    a.Keep(b.Addrs()...),
		"Join":    joinErr,
		"Request": requestErr,
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", name, err)
		}
	}
}

func TestKeptPeerIsDialledAgainAfterItRestarts(t *testing.T) {
	key := newKey(t)
	b := newHost(t, Config{Key: key, Listen: overQUIC})
	addrs := b.host.Addrs() // the ports it must come back to
	a := newHost(t, Config{})
	if err := a.Keep(b.Addrs()...); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, a, b.ID(), true)
	waitConnected(t, b, a.ID(), true) // a host that closes in the middle of a handshake leaves the other to time out
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, a, b.ID(), false)
	newHost(t, Config{Key: key, Listen: addrs})
	waitConnected(t, a, b.ID(), true)
}

// waitConnected waits until the connection to p is open, or is not.
func waitConnected(t testing.TB, h *Host, p peer.ID, want bool) {
	t.Helper()
	changed, stop := h.watch.add(p)
	defer stop()
	ctx := deadline(t)
	for h.Connected(p) != want {
		if !waitFor(ctx, changed, forever) {
			t.Fatalf("connected: %v, want %v", h.Connected(p), want)
		}
	}
}

func TestConnectJoinsTheErrorsOfPeersThatAreAway(t *testing.T) {
	a, b, gone := newHost(t, Config{}), newHost(t, Config{}), newHost(t, Config{Listen: overTCP})
	away := gone.Addrs()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
	defer cancel()
	if err := a.Connect(ctx, append(b.Addrs(), away...)...); err == nil {
		t.Error("no error")
	}
	if !a.Connected(b.ID()) {
		t.Error("the peer that is there was not connected")
	}
	if err := a.Connect(ctx, b.host.Addrs()...); err == nil {
		t.Error("an address without id must be refused")
	}
}
