package p2p

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/prometheus/client_golang/prometheus"
)

// scrape returns the names of all metrics that a registry gives.
func scrape(t *testing.T, r prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func TestHostsOfOneProcessCountApart(t *testing.T) {
	regs := []*prometheus.Registry{prometheus.NewRegistry(), prometheus.NewRegistry()}
	a, b := newHost(t, Config{Registerer: regs[0], Agent: "poq/a"}), newHost(t, Config{Registerer: regs[1], Agent: "poq/\x1b[2Jb"})
	if _, err := New(Config{Network: "test", Registerer: regs[0]}); err == nil {
		t.Error("two hosts share a registry")
	}
	connect(t, a, b)
	out := make(chan got, 16)
	topics := []*Topic{join(t, a, out), join(t, b, out)}
	allReady(t, topics)
	for i, text := range []string{"one", "four"} {
		if err := topics[i].Publish(deadline(t), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		receive(t, out)
	}
	if err := b.Serve(ServeConfig{Name: "blob", MaxRequest: 9, Handle: echo}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Request(deadline(t), b.ID(), "blob", []byte("x"), 9); err != nil {
		t.Fatal(err)
	}
	for i, h := range []*Host{a, b} {
		s := h.Topics()[0]
		if s.Name != "order" || s.Delivered != 1 || s.Peers != 1 || len(s.Mesh) != 1 {
			t.Errorf("host %d says of its topic: %+v", i, s)
		}
		if sizes := []uint64{3, 4}; s.BytesOut != sizes[i] || s.BytesIn != sizes[1-i] {
			t.Errorf("host %d: %d bytes in, %d out", i, s.BytesIn, s.BytesOut)
		}
		m := scrape(t, regs[i])
		for _, name := range []string{"poq_gossip_messages_total", "poq_gossip_mesh_peers", "poq_host_peers", "poq_host_bytes_total", "libp2p_swarm_connections_opened_total", "libp2p_rcmgr_connections"} {
			if m[name] == 0 {
				t.Errorf("host %d: %s is %v, want more", i, name, m[name])
			}
		}
	}
	if n := scrape(t, regs[1])["poq_request_served_seconds"]; n != 1 {
		t.Errorf("%v requests served, want 1", n)
	}
	if n := scrape(t, regs[0])["poq_request_served_seconds"]; n != 0 {
		t.Errorf("%v requests served by who served none", n)
	}
	p := a.PeerInfos()
	if len(p) != 1 || p[0].ID != b.ID() || !p[0].Connected || p[0].Gone || p[0].Path != PathDirect || p[0].In == 0 || p[0].Out == 0 || !slices.Equal(p[0].Topics, []string{"order"}) || p[0].Inbound {
		t.Errorf("a says of b: %+v", p)
	}
	if want := "poq/[2Jb"; p[0].Agent != want {
		t.Errorf("agent %q, want %q", p[0].Agent, want)
	}
}

func TestPeerThatLeftIsGoneAndForgottenLater(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	connect(t, a, b)
	changed, stop := a.watch.add(b.ID())
	defer stop()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for a.Connected(b.ID()) {
		receive(t, changed)
	}
	p := a.PeerInfos()
	if len(p) != 1 || p[0].Connected || !p[0].Gone || time.Since(p[0].Heard) > time.Minute {
		t.Fatalf("a says of b: %+v", p)
	}
	a.traffic.forget(a.linkedTo, time.Now().Add(time.Hour))
	if p := a.PeerInfos(); len(p) != 0 {
		t.Errorf("still remembered: %+v", p)
	}
}

func TestPeerWithoutHelloIsNotListed(t *testing.T) {
	a := newHost(t, Config{})
	guest, err := libp2p.New(libp2p.ListenAddrs(overTCP...), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close() })
	info := peer.AddrInfo{ID: a.ID(), Addrs: a.host.Addrs()}
	if err := guest.Connect(deadline(t), info); err != nil {
		t.Fatal(err)
	}
	if r := <-ping.Ping(deadline(t), guest, a.ID()); r.Error != nil {
		t.Fatal(r.Error)
	}
	if _, known := a.traffic.peers.load(guest.ID()); !known {
		t.Error("its bytes are not counted")
	}
	if p := a.PeerInfos(); len(p) != 0 {
		t.Errorf("listed: %+v", p)
	}
}

func TestReadThatFailsIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, p := newTraffic(), peer.ID("p")
		tr.LogRecvMessageStream(1, "", p)
		heard := tr.peers.loadOrMake(p, newFlow).heard.Load()
		<-time.After(time.Minute)
		tr.LogRecvMessageStream(0, "", p)
		if tr.peers.loadOrMake(p, newFlow).heard.Load() != heard {
			t.Error("the peer counts as heard")
		}
	})
}

func TestFewOfManyPeersThatLeftAreRemembered(t *testing.T) {
	tr := newTraffic()
	stays := peer.ID("stays")
	tr.LogRecvMessageStream(1, "", stays)
	for i := range 3 * maxGone {
		tr.LogRecvMessageStream(1, "", peer.ID(strings.Repeat("x", 1+i)))
	}
	tr.forget(func(p peer.ID) bool { return p == stays }, time.Time{})
	kept := tr.GetBandwidthByPeer()
	if _, ok := kept[stays]; !ok || len(kept) != maxGone+1 {
		t.Errorf("%d peers are remembered, want %d; the connected one: %v", len(kept), maxGone+1, ok)
	}
}

func TestRatesAreThoseOfTheLastPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTraffic()
		for range 3 {
			tr.LogRecvMessage(5000)
			tr.LogSentMessage(500)
			tr.tick(pulse)
			if b := tr.total.bandwidth(); b.InRate != 1000 || b.OutRate != 100 {
				t.Errorf("%+v, want 1000 and 100 bytes per second", b)
			}
		}
		tr.tick(pulse)
		if b := tr.total.bandwidth(); b.InRate != 0 || b.In != 15000 {
			t.Errorf("%+v, want 15000 bytes and a rate of none", b)
		}
	})
}

func TestPingTellsTheTimeOrWhyNot(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	connect(t, a, b)
	for range 3 {
		if d, err := a.Ping(deadline(t), b.ID()); err != nil || d <= 0 {
			t.Fatalf("%v, %v", d, err)
		}
	}
	if p := a.PeerInfos(); p[0].LatencyUS <= 0 {
		t.Errorf("latency is not kept: %+v", p)
	}
	stranger := newHost(t, Config{}).ID()
	if _, err := a.Ping(deadline(t), stranger); err == nil || !strings.Contains(err.Error(), stranger.String()) {
		t.Errorf("a peer without address: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ping(deadline(t), b.ID()); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed host: %v", err)
	}
}
