package p2p

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/marcopolo/simnet"
	"github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"go.uber.org/fx"
)

// internet is a simulated one: hosts with the real stack, with public addresses 2.2.0.x, or with 10.0.0.x behind a router
// of their own, which lets in only packets from where they sent some themselves. Holes can be punched into that
// unless the two routers are closed to each other, as two symmetric ones are.
type internet struct {
	simnet.SimpleFirewallRouter
	hosts int

	mu     sync.Mutex
	closed map[[2]string]bool // pairs of IPs
}

// RecvPacket implements simnet.Router.
func (n *internet) RecvPacket(p *simnet.Packet) {
	p.From = outside(p.From)
	n.mu.Lock()
	drop := n.closed[[2]string{ip(p.From), ip(p.To)}]
	n.mu.Unlock()
	if !drop {
		n.SimpleFirewallRouter.RecvPacket(p)
	}
}

// outside is the address that a router gives to packets from inside.
func outside(a net.Addr) net.Addr {
	in := a.(*net.UDPAddr)
	if ip := in.IP.To4(); ip[0] == 10 {
		return &net.UDPAddr{IP: net.IPv4(2, 2, ip[2], ip[3]), Port: in.Port}
	}
	return a
}

func ip(a net.Addr) string { return a.(*net.UDPAddr).IP.String() }

// close lets nothing pass between the routers of two hosts, in spite of all holes.
func (n *internet) close(a, b *Host) {
	x, y := hostIP(a), hostIP(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed == nil {
		n.closed = make(map[[2]string]bool)
	}
	n.closed[[2]string{x, y}], n.closed[[2]string{y, x}] = true, true
}

func hostIP(h *Host) string {
	for _, a := range h.host.Network().ListenAddresses() {
		if ip := ipOf(a); ip.IsValid() {
			return outside(&net.UDPAddr{IP: ip.AsSlice()}).(*net.UDPAddr).IP.String()
		}
	}
	panic("no IP address")
}

// sourceIP tells QUIC from which address it sends.
type sourceIP struct{ ip atomic.Pointer[net.IP] }

func (s *sourceIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return *s.ip.Load(), nil
}

// newQUIC makes a connection manager that closes with its host; the library closes only its own.
func newQUIC(l fx.Lifecycle, reset quic.StatelessResetKey, token quic.TokenGeneratorKey, opts ...quicreuse.Option) (*quicreuse.ConnManager, error) {
	m, err := quicreuse.NewConnManager(reset, token, opts...)
	if err == nil {
		l.Append(fx.StopHook(m.Close))
	}
	return m, err
}

// options are those of a libp2p host with the next address, public or behind a router.
func (n *internet) options(public bool) (at multiaddr.Multiaddr, options []libp2p.Option) {
	n.hosts++
	source := new(sourceIP)
	at = multiaddr.StringCast(fmt.Sprintf("/ip4/10.0.0.%d/udp/8000/quic-v1", n.hosts))
	if public {
		at = multiaddr.StringCast(fmt.Sprintf("/ip4/2.2.0.%d/udp/8000/quic-v1", n.hosts))
	}
	return at, []libp2p.Option{libp2p.QUICReuse(newQUIC,
		quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return source, nil }),
		quicreuse.OverrideListenUDP(func(_ string, a *net.UDPAddr) (net.PacketConn, error) {
			source.ip.Store(&a.IP)
			if public {
				n.SetAddrPubliclyReachable(a)
			}
			c := simnet.NewSimConn(a)
			c.SetUpPacketReceiver(n)
			n.AddNode(outside(a), c)
			return c, nil
		}))}
}

// host starts a host with a public address, or behind a router.
func (n *internet) host(t testing.TB, public bool, cfg Config) *Host {
	t.Helper()
	at, options := n.options(public)
	cfg.NAT.On = true
	if public {
		cfg.reach = network.ReachabilityPublic
	}
	cfg.Listen, cfg.options = []multiaddr.Multiaddr{at}, options
	return newHost(t, cfg)
}

// plain starts a host that knows nothing of poq.
func (n *internet) plain(t testing.TB, public bool, more ...libp2p.Option) host.Host {
	t.Helper()
	at, options := n.options(public)
	h, err := libp2p.New(append(append(options, more...), libp2p.ListenAddrs(at), libp2p.DisableMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// relay starts a public host that serves as relay.
func (n *internet) relay(t testing.TB, network string) *Host {
	t.Helper()
	return n.host(t, true, Config{Network: network, NAT: NAT{RelayService: true}})
}

// home starts a host behind a router that has a place at a relay.
func (n *internet) home(t testing.TB, relay *Host, cfg Config) *Host {
	t.Helper()
	cfg.NAT.Relays = append(cfg.NAT.Relays, relay.Addrs()...)
	cfg.reach = network.ReachabilityPrivate
	h := n.host(t, false, cfg)
	waitUntil(t, h, func() bool { return reserved(h) && punches(h) })
	return h
}

// waitUntil waits for what a change of the host's addresses or of a peer's state brings.
func waitUntil(t testing.TB, h *Host, ok func() bool) {
	t.Helper()
	ctx := deadline(t)
	for {
		changed := h.nat.change()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("it did not happen: at %v, %+v", through(h), h.Reachability())
		}
	}
}

// punches says whether a host's hole punching has begun, which it does not before it has heard of a public address.
func punches(h *Host) bool { return slices.Contains(h.host.Mux().Protocols(), holepunch.Protocol) }

// reserved says whether a host has a place at a relay and knows of it: libp2p changes the addresses, and tells of that, each
// in its own time.
func reserved(h *Host) bool { return len(through(h)) > 0 && len(h.Reachability().Relays) > 0 }

// through are the addresses of a host at relays.
func through(h *Host) (addrs []multiaddr.Multiaddr) {
	for _, a := range h.Addrs() {
		if throughRelay(a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func connectThrough(t testing.TB, a, b *Host) {
	t.Helper()
	if err := a.Connect(deadline(t), through(b)...); err != nil {
		t.Fatal(err)
	}
}

func TestHoleIsPunchedBetweenTwoHomes(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "")
	a, b := n.home(t, relay, Config{}), n.home(t, relay, Config{})
	connectThrough(t, a, b)
	// Either has a direct connection through a hole, even if its own dial and not libp2p's punching was the first through it.
	hole := func(p Path) bool { return p == PathPunched || p == PathDirect }
	waitUntil(t, a, func() bool { return hole(a.Path(b.ID())) })
	waitUntil(t, b, func() bool { return hole(b.Path(a.ID())) })
	if p := a.Path(relay.ID()); p != PathDirect {
		t.Errorf("path to the relay: %q", p)
	}
	if p := a.Path(peer.ID("nobody")); p != PathNone {
		t.Errorf("path to nobody: %q", p)
	}
}

func TestRequestsAndLinksGoThroughARelay(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "")
	a, b := n.home(t, relay, Config{}), n.home(t, relay, Config{})
	n.close(a, b)
	connectThrough(t, a, b)
	waitConnected(t, b, a.ID(), true)
	if pa, pb := a.Path(b.ID()), b.Path(a.ID()); pa != PathRelayed || pb != PathRelayed {
		t.Fatalf("paths %q and %q, want relayed", pa, pb)
	}
	if !a.Connected(b.ID()) {
		t.Error("a relayed peer counts as connected")
	}
	if err := a.Serve(ServeConfig{Name: "blob", MaxRequest: 1 << 20, Handle: echo}); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 1<<20) // more than a plain relay lets through
	if resp, err := b.Request(deadline(t), a.ID(), "blob", big, len(big)); err != nil || len(resp) != len(big) {
		t.Errorf("got %d bytes, %v", len(resp), err)
	}
	frames := make(chan got, 4)
	for _, h := range []*Host{a, b} {
		links := newLinks(t, h, LinkConfig[string]{}, frames)
		to := b.ID()
		if h == b {
			to = a.ID()
		}
		if err := links.Send(to, []byte("vote")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if g := receive(t, frames); g.msg != "vote" {
			t.Errorf("got %v", g)
		}
	}
}

func TestRelayServesOnlyItsNetwork(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "one")
	stranger := n.plain(t, false)
	if err := stranger.Connect(deadline(t), peer.AddrInfo{ID: relay.ID(), Addrs: relay.host.Addrs()}); err != nil {
		t.Fatal(err)
	}
	if relay.nat.AllowReserve(stranger.ID(), nil) || relay.nat.AllowConnect(stranger.ID(), nil, relay.ID()) {
		t.Error("a host of no network was served")
	}
	member := n.home(t, relay, Config{Network: "one"})
	if !relay.nat.AllowReserve(member.ID(), nil) {
		t.Error("a host of the network was refused")
	}
	if relay.nat.AllowReserve("unknown", nil) {
		t.Error("a peer that is not connected was served")
	}
}

func TestRelayServesWhoSaysALittleLaterThatItIsOfTheNetwork(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "one")
	newcomer := n.plain(t, false)
	if err := newcomer.Connect(deadline(t), peer.AddrInfo{ID: relay.ID(), Addrs: relay.host.Addrs()}); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, relay, func() bool {
		known, err := relay.host.Peerstore().GetProtocols(newcomer.ID())
		return err == nil && len(known) > 0
	})
	served := make(chan bool)
	go func() { served <- relay.nat.AllowReserve(newcomer.ID(), nil) }()
	newcomer.SetStreamHandler(protocol.ID(relay.id(lightName)), func(s network.Stream) { _ = s.Reset() })
	if !<-served {
		t.Error("refused")
	}
}

func TestReachabilityNamesStatusAndRelays(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "")
	home := n.home(t, relay, Config{})
	if r := relay.Reachability(); r.Status != ReachPublic || !r.Relaying || len(r.Relays) != 0 {
		t.Errorf("relay: %+v", r)
	}
	if r := home.Reachability(); r.Status != ReachPrivate || r.Relaying || len(r.Relays) != 1 || r.Relays[0] != relay.ID() {
		t.Errorf("home: %+v", r)
	}
	if r := newHost(t, Config{}).Reachability(); r.Status != ReachUnknown || r.Relaying || len(r.Addrs) != 0 {
		t.Errorf("without NAT: %+v", r)
	}
}

func TestConnectedPeerThatServesAsRelayIsFound(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "")
	home := n.host(t, false, Config{reach: network.ReachabilityPrivate}) // told of no relay
	connect(t, home, relay)
	waitUntil(t, home, func() bool { return reserved(home) })
	if r := home.Reachability().Relays; len(r) != 1 || r[0] != relay.ID() {
		t.Errorf("relays %v", r)
	}
}

func TestPlainRelayIsUsed(t *testing.T) {
	n := new(internet)
	relay := n.plain(t, true, libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService())
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: relay.ID(), Addrs: relay.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{NAT: NAT{Relays: addrs}, reach: network.ReachabilityPrivate}
	a, b := n.host(t, false, cfg), n.host(t, false, cfg)
	n.close(a, b)
	waitUntil(t, b, func() bool { return reserved(b) })
	connectThrough(t, a, b)
	if p := a.Path(b.ID()); p != PathRelayed {
		t.Errorf("path %q", p)
	}
}

func TestRelayIsSoughtOnceHolesCanBePunched(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "")
	home := n.host(t, false, Config{reach: network.ReachabilityUnknown})
	connect(t, home, relay)
	waitUntil(t, home, func() bool { return reserved(home) })
	if !punches(home) {
		t.Error("others may come before their holes are punched")
	}
	if r := home.Reachability(); r.Status != ReachUnknown {
		t.Errorf("status %q", r.Status)
	}
}

func TestBansOfRelayedPeersLeaveTheRelayAlone(t *testing.T) {
	b := newBans()
	at := multiaddr.StringCast("/ip4/2.2.0.1/udp/8000/quic-v1")
	id := newHost(t, Config{}).ID()
	for range bansPerAddr {
		b.addAddr(at.Encapsulate(multiaddr.StringCast("/p2p/" + id.String() + "/p2p-circuit")))
	}
	if b.hasAddr(at) {
		t.Error("the relay's address is banned for what others did through it")
	}
}

func TestMachineWithAPublicAddressWaitsForAutoNAT(t *testing.T) {
	n := new(internet)
	relay := n.relay(t, "")
	public, home := n.host(t, true, Config{}), n.home(t, relay, Config{})
	if !public.nat.hasPublicIP4() || home.nat.hasPublicIP4() || newHost(t, Config{NAT: NAT{On: true}}).nat.hasPublicIP4() {
		t.Error("only an address of the machine's own counts")
	}
	addrs := home.Addrs()
	if throughRelay(addrs[0]) || !throughRelay(addrs[len(addrs)-1]) {
		t.Errorf("direct addresses come first: %v", addrs)
	}
}

func TestBadRelayAddressIsNamed(t *testing.T) {
	if _, err := New(Config{Network: "test", NAT: NAT{On: true, Relays: overTCP}}); err == nil {
		t.Error("an address without peer id was taken")
	}
}
