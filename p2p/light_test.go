package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"
)

// plainRelay starts a relay that knows nothing of poq, with the given limits of a circuit, and returns its addresses.
func (n *internet) plainRelay(t testing.TB, limit *relay.RelayLimit) []multiaddr.Multiaddr {
	t.Helper()
	h := n.plain(t, true, libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService(relay.WithLimit(limit)))
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}

// strangers starts hosts that reach each other through a plain relay alone.
func (n *internet) strangers(t testing.TB, count int, limit *relay.RelayLimit) []*Host {
	t.Helper()
	cfg := Config{NAT: NAT{Relays: n.plainRelay(t, limit)}, reach: network.ReachabilityPrivate}
	hosts := make([]*Host, count)
	for i := range hosts {
		hosts[i] = n.host(t, false, cfg)
		for _, other := range hosts[:i] {
			n.close(hosts[i], other)
		}
		waitUntil(t, hosts[i], func() bool { return len(through(hosts[i])) > 0 })
	}
	return hosts
}

// apart starts hosts that are connected through a plain relay alone, each to all others.
func (n *internet) apart(t testing.TB, count int, limit *relay.RelayLimit) []*Host {
	t.Helper()
	hosts := n.strangers(t, count, limit)
	meet(t, hosts)
	return hosts
}

func meet(t testing.TB, hosts []*Host) {
	t.Helper()
	for i, h := range hosts {
		for _, other := range hosts[:i] {
			connectThrough(t, h, other)
		}
	}
}

// waitLight waits until a host's gossip goes through n relayed peers.
func waitLight(t testing.TB, h *Host, n int) {
	t.Helper()
	waitUntil(t, h, func() bool { return len(h.Reachability().Through) == n })
}

func TestGossipReachesHostsThatHaveOnlyRelayedConnections(t *testing.T) {
	const each = 10
	hosts := new(internet).apart(t, 5, relay.DefaultLimit())
	out := make(chan got, len(hosts)*len(hosts)*each)
	topics := make([]*Topic, len(hosts))
	for i, h := range hosts {
		topics[i] = join(t, h, out)
	}
	for _, h := range hosts {
		waitLight(t, h, lightPeers)
		for _, other := range hosts {
			if p := h.Path(other.ID()); h != other && p != PathRelayed {
				t.Fatalf("path %q", p)
			}
		}
	}
	for _, topic := range topics { // two asked, perhaps more ask
		if err := topic.WaitForPeers(deadline(t), lightPeers); err != nil || len(topic.Peers()) < lightPeers {
			t.Errorf("%d peers, %v", len(topic.Peers()), err)
		}
	}
	for n := range each {
		for i, topic := range topics {
			if err := topic.Publish(deadline(t), fmt.Appendf(nil, "%d from %d", n, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := make(map[got]bool)
	for range cap(out) {
		g := receive(t, out)
		g.from = ""
		if seen[g] {
			t.Errorf("%v handled twice", g)
		}
		seen[g] = true
	}
	for _, h := range hosts {
		if s := h.Stats(); s.Rejected+s.Ignored+s.Unsent > 0 {
			t.Errorf("lost or dropped: %+v", s)
		}
	}
}

func TestGroupsThatMeetLateExchangeGossip(t *testing.T) {
	hosts := new(internet).strangers(t, 6, relay.DefaultLimit())
	out := make(chan got, 1024)
	topics := make([]*Topic, len(hosts))
	for i, h := range hosts {
		topics[i] = join(t, h, out)
	}
	for _, group := range [][]*Host{hosts[:3], hosts[3:]} {
		meet(t, group)
		for _, h := range group {
			waitLight(t, h, lightPeers) // each asks both others of its group
		}
	}
	meet(t, hosts)
	first := slices.MinFunc(hosts, func(a, b *Host) int { return strings.Compare(string(a.ID()), string(b.ID())) })
	for _, h := range hosts {
		if h != first {
			waitUntil(t, h, func() bool { return slices.Contains(h.Reachability().Through, first.ID()) })
		}
	}
	if err := topics[0].Publish(deadline(t), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	at := make(map[peer.ID]bool)
	for range hosts {
		at[receive(t, out).at] = true
	}
	if len(at) != len(hosts) {
		t.Errorf("it reached %d of %d", len(at), len(hosts))
	}
}

func TestLightPathEndsAtWhoHasGossip(t *testing.T) {
	n := new(internet)
	hosts := n.apart(t, 2, relay.DefaultLimit())
	a, b := hosts[0], hosts[1]
	out := make(chan got, 16)
	topics := []*Topic{join(t, a, out), join(t, b, out)}
	waitLight(t, a, 1)
	waitLight(t, b, 1)
	public := n.host(t, true, Config{})
	topics = append(topics, join(t, public, out))
	connect(t, a, public)
	waitLight(t, a, 0)
	allReady(t, []*Topic{topics[0], topics[2]})
	for i, topic := range topics {
		msg := fmt.Sprint("message ", i)
		if err := topic.Publish(deadline(t), []byte(msg)); err != nil {
			t.Fatal(err)
		}
		at := make(map[peer.ID]bool)
		for range topics {
			g := receive(t, out)
			if g.msg != msg {
				t.Errorf("got %v, want %s", g, msg)
			}
			at[g.at] = true
		}
		if len(at) != len(topics) {
			t.Errorf("%s reached %d of %d", msg, len(at), len(topics))
		}
	}
	if got := b.Reachability().Through; len(got) != 1 || got[0] != a.ID() {
		t.Errorf("b's gossip goes through %v, want a", got)
	}
}

func TestWhoSendsRubbishOnALightStreamLosesIt(t *testing.T) {
	hosts := new(internet).apart(t, 2, relay.DefaultLimit())
	a, b := hosts[0], hosts[1]
	out := make(chan got, 16)
	join(t, a, out)
	liar, err := Join(b, TopicConfig[string]{ // accepts everything
		Name: "order", MaxSize: MaxGossip,
		Validate: func(_ context.Context, _ peer.ID, data []byte) (string, error) { return string(data), nil },
		Handle:   func(peer.ID, string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitLight(t, a, 1)
	waitLight(t, b, 1)
	for _, msg := range []string{"odd", "oops", "good", "bad"} {
		if err := liar.Publish(deadline(t), []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if g := receive(t, out); g != (got{a.ID(), b.ID(), "good"}) {
		t.Errorf("got %v", g)
	}
	waitUntil(t, a, func() bool { return a.Scores()[b.ID()].Faults > 0 })
	if s := a.Stats(); s.Rejected == 0 {
		t.Errorf("got %+v, want some rejected", s)
	}
	a.light.mu.Lock()
	defer a.light.mu.Unlock()
	for _, r := range a.light.retry {
		if wait := time.Until(r.at); wait > lightRetryMax {
			t.Errorf("asked again only after %v", wait)
		}
	}
}

func TestLightPathGoesOnAfterARelayCutsIt(t *testing.T) {
	hosts := new(internet).apart(t, 2, &relay.RelayLimit{Duration: time.Minute, Data: 96 << 10})
	a, b := hosts[0], hosts[1]
	if err := a.Keep(through(b)...); err != nil {
		t.Fatal(err)
	}
	out := make(chan got, 1024)
	topic := join(t, a, out)
	join(t, b, out)
	waitLight(t, a, 1)
	const size = 8 << 10
	ctx := deadline(t)
	for sent, received := 0, 0; received < 20*size; sent++ { // two circuits' worth
		if err := topic.Publish(ctx, fmt.Appendf(nil, "%0*d", size, sent)); err != nil {
			t.Fatal(err)
		}
		for waiting := true; waiting; {
			select {
			case g := <-out:
				if g.at == b.ID() {
					received += len(g.msg)
					waiting = false
				}
			case <-time.After(100 * time.Millisecond): // lost with the circuit
				waiting = false
			case <-ctx.Done():
				t.Fatalf("only %d bytes came", received)
			}
		}
	}
}

func TestHostServesOnlySoManyLightStreams(t *testing.T) {
	hosts := newHosts(t, 2, Config{NAT: NAT{On: true}})
	a, b := hosts[0], hosts[1]
	b.light.mu.Lock()
	for i := range lightClients {
		b.light.serving[peer.ID(fmt.Sprint(i))] = &lightStream{}
	}
	b.light.mu.Unlock()
	if _, err := a.light.converse(b.ID()); !errors.Is(err, errLightFull) {
		t.Errorf("got %v, want %v", err, errLightFull)
	}
	b.light.mu.Lock()
	defer b.light.mu.Unlock()
	if len(b.light.serving) != lightClients {
		t.Errorf("%d streams are served", len(b.light.serving))
	}
}

func TestLightQuotaSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &lightQuota{rate.NewLimiter(lightMessages, lightMessageBurst), rate.NewLimiter(lightBytes, lightByteBurst)}
		begin := time.Now()
		for range lightMessageBurst + lightMessages {
			if err := q.wait(t.Context(), 100); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin).Round(10 * time.Millisecond); took != time.Second {
			t.Errorf("messages took %v, want 1s", took)
		}
		synctest.Wait()
		begin = time.Now()
		for sent := 0; sent < lightByteBurst+4*lightBytes; sent += lightFrame {
			if err := q.wait(t.Context(), lightFrame); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin).Round(time.Second); took != 4*time.Second {
			t.Errorf("bytes took %v, want 4s", took)
		}
	})
}

func TestFullQueueOfALightStreamDropsAndCounts(t *testing.T) {
	s := &lightStream{queue: make(chan []byte, lightQueue)}
	h := newHost(t, Config{})
	for range 3 {
		s.send(make([]byte, lightQueueBytes/2), &h.mesh.unsent)
	}
	if n := h.Stats().Unsent; n != 1 || len(s.queue) != 2 {
		t.Errorf("%d lost, %d queued; want 1 and 2", n, len(s.queue))
	}
	for range lightQueue {
		s.send(nil, &h.mesh.unsent)
	}
	if n := h.Stats().Unsent; n != 3 {
		t.Errorf("%d lost, want 3", n)
	}
}

func TestLightFramesAreReadBack(t *testing.T) {
	for _, topics := range [][]string{nil, {"order"}, {"order", strings.Repeat("x", 128)}} {
		if got, err := parseTopics(appendTopics(nil, topics)); err != nil || fmt.Sprint(got) != fmt.Sprint(topics) {
			t.Errorf("%v: got %v, %v", topics, got, err)
		}
	}
	topic, data, err := parseLight(appendLight(nil, "order", []byte("data")))
	if err != nil || topic != "order" || string(data) != "data" {
		t.Errorf("got %q, %q, %v", topic, data, err)
	}
	for _, bad := range [][]byte{{1}, {1, 0}, {1, 3, 'a'}, {0, 0}, {33}, appendTopics(nil, []string{"a/b"}), append(appendTopics(nil, []string{"a"}), 0)} {
		if got, err := parseTopics(bad); !errors.Is(err, ErrReject) {
			t.Errorf("%v: got %v, %v", bad, got, err)
		}
	}
}

func FuzzLightFrame(f *testing.F) {
	f.Add(appendLight(nil, "order", []byte("data")))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		topic, data, err := parseLight(frame)
		switch {
		case err != nil && !errors.Is(err, ErrReject):
			t.Errorf("blames nobody: %v", err)
		case err == nil && string(appendLight(nil, topic, data)) != string(frame):
			t.Errorf("%q reads as %q, %q", frame, topic, data)
		}
	})
}

func FuzzLightTopics(f *testing.F) {
	f.Add(appendTopics(nil, []string{"order", "answer"}))
	f.Add([]byte{255})
	f.Add(append([]byte{1, 255}, make([]byte, 255)...)) // the longest name that a byte can tell
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) == 0 {
			return // no frame is empty
		}
		topics, err := parseTopics(frame)
		switch {
		case err != nil && !errors.Is(err, ErrReject):
			t.Errorf("blames nobody: %v", err)
		case err == nil && string(appendTopics(nil, topics)) != string(frame):
			t.Errorf("%q reads as %q", frame, topics)
		}
	})
}
