package p2p

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	bhost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/prometheus/client_golang/prometheus"
)

// NAT says what a host does about routers between it and its peers. The zero value does nothing: a host then
// reaches, and is reached, at the addresses it is given.
type NAT struct {
	// On has the host find out at which of its addresses others can reach it (AutoNAT, which it also serves), take
	// a place at relays while that is none, punch holes to peers that it meets through a relay, and carry gossip
	// over relayed connections when it has no others (see the package documentation). The fields below matter only then.
	On bool
	// PortMap asks the router for open ports, by UPnP or NAT-PMP.
	PortMap bool
	// RelayService lets peers of this network be reached through this host, as long as it is publicly reachable itself.
	RelayService bool
	// Relays are kept connections to, and used as relays besides connected peers that serve as one. They
	// need not be of this network. Their addresses end in /p2p/<id>.
	Relays []multiaddr.Multiaddr
}

// Path is the way to a peer that is connected.
type Path string

// The paths. A peer with several connections has the first of them that holds.
const (
	PathDirect  Path = "direct"  // one dialled the other
	PathPunched Path = "punched" // direct too, through holes that both made in their routers
	PathRelayed Path = "relayed" // through a relay, which sees who talks to whom, when and how much, but not what
	PathNone    Path = ""        // not connected
)

// The states of reachability.
const (
	ReachPublic  = "public"  // others can dial it
	ReachPrivate = "private" // others tried and could not
	ReachUnknown = "unknown" // nobody could tell yet
)

// Reachability is what a host knows about how others can reach it.
type Reachability struct {
	// Status of the host: one of ReachPublic, ReachPrivate, ReachUnknown. It is unknown until a peer with a public
	// address has tried, and stays so in networks without public addresses.
	Status string
	// Addrs are the public addresses that others were asked to try.
	Addrs []ReachAddr
	// Mapped are the addresses that the router opened on request.
	Mapped []multiaddr.Multiaddr
	// Relays keep a place for this host: others reach it through them.
	Relays []peer.ID
	// Relaying says that this host serves as a relay.
	Relaying bool
	// Through are the peers that carry this host's gossip because it has only relayed connections.
	Through []peer.ID
}

// ReachAddr is an address and its state.
type ReachAddr struct {
	Addr   multiaddr.Multiaddr
	Status string
}

// traversal is what a host with NAT.On knows of its place in the network.
type traversal struct {
	cfg     NAT
	relays  []peer.AddrInfo
	forced  network.Reachability // by tests; else unknown
	mapping bhost.NATManager

	h     *Host
	ready chan struct{} // closed once h is set

	mu      sync.Mutex
	changed chan struct{}    // closed and replaced at every event
	punched map[string]bool  // ids of connections
	leading map[peer.ID]bool // lead runs
	status  network.Reachability
	addrs   event.EvtHostReachableAddrsChanged
	circuit []multiaddr.Multiaddr
}

var (
	_ holepunch.EventTracer = (*traversal)(nil)
	_ relay.ACLFilter       = (*traversal)(nil)
)

func newTraversal(cfg Config) (*traversal, error) {
	relays, err := peer.AddrInfosFromP2pAddrs(cfg.NAT.Relays...)
	if err != nil {
		return nil, fmt.Errorf("p2p: NAT.Relays: address without /p2p/<id>: %w", err)
	}
	return &traversal{
		cfg: cfg.NAT, relays: relays, forced: cfg.reach,
		ready: make(chan struct{}), changed: make(chan struct{}), punched: make(map[string]bool), leading: make(map[peer.ID]bool),
	}, nil
}

// options are what libp2p does for us.
func (t *traversal) options(metrics prometheus.Registerer) []libp2p.Option {
	tracer := holepunch.WithTracer(t)
	if metrics != nil {
		tracer = holepunch.WithMetricsAndEventTracer(holepunch.NewMetricsTracer(holepunch.WithRegisterer(metrics)), t)
	}
	options := []libp2p.Option{
		libp2p.EnableRelay(),
		libp2p.EnableAutoNATv2(),
		libp2p.EnableHolePunching(tracer),
		libp2p.EnableAutoRelayWithPeerSource(t.candidates,
			autorelay.WithNumRelays(relaysWanted), autorelay.WithMinCandidates(1), autorelay.WithBootDelay(0),
			autorelay.WithBackoff(relayBackoff), autorelay.WithMinInterval(relaySearch)),
	}
	if t.cfg.PortMap {
		options = append(options, libp2p.NATManager(func(n network.Network) bhost.NATManager {
			t.mapping = bhost.NewNATManager(n)
			return t.mapping
		}))
	}
	if t.cfg.RelayService {
		options = append(options, libp2p.EnableRelayService(relay.WithResources(relayResources()), relay.WithACL(t)))
	}
	switch t.forced {
	case network.ReachabilityPublic:
		options = append(options, libp2p.ForceReachabilityPublic())
	case network.ReachabilityPrivate:
		options = append(options, libp2p.ForceReachabilityPrivate())
	default:
		// The older AutoNAT asks about the host as a whole. It needs one peer to learn its public address from where
		// the newer needs four, so in small networks it is the one that tells.
		options = append(options, libp2p.EnableNATService())
	}
	return options
}

// start begins to follow what libp2p finds out.
func (t *traversal) start(h *Host) error {
	t.h = h
	close(t.ready)
	bus := h.host.EventBus()
	sub, err := bus.Subscribe([]any{
		new(event.EvtLocalReachabilityChanged), new(event.EvtHostReachableAddrsChanged), new(event.EvtAutoRelayAddrsUpdated),
		new(event.EvtLocalAddressesUpdated), new(event.EvtLocalProtocolsUpdated), new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerProtocolsUpdated),
	})
	if err != nil {
		return fmt.Errorf("p2p: watch reachability: %w", err)
	}
	h.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.punched, c.ID())
	}})
	h.running.Go(func() {
		defer func() { _ = sub.Close() }()
		seek := time.NewTimer(relaySeek)
		defer seek.Stop()
		sought := t.forced != network.ReachabilityUnknown
		for {
			late := false
			select {
			case e := <-sub.Out():
				t.observe(e)
			case <-seek.C:
				late = true
			case <-h.ctx.Done():
				return
			}
			if !sought && (late || slices.Contains(h.host.Mux().Protocols(), holepunch.Protocol)) {
				sought = true
				if !t.hasPublicIP4() {
					t.seekRelays()
				}
			}
		}
	})
	return h.Keep(t.cfg.Relays...)
}

// seekRelays makes libp2p look for relays. It does so only when it is told that the host's reachability is private or has
// become unknown, and AutoNAT takes half a minute or more to find that it is private. Here it begins as soon as hole
// punching does, which misses whoever comes before, or after relaySeek; but not on a machine with a public IPv4
// address of its own, which most likely needs none. (A public IPv6 address says little: home routers let nothing in to it.)
func (t *traversal) seekRelays() {
	status, err := t.h.host.EventBus().Emitter(new(event.EvtLocalReachabilityChanged))
	if err == nil {
		err = status.Emit(event.EvtLocalReachabilityChanged{Reachability: network.ReachabilityUnknown})
		_ = status.Close()
	}
	if err != nil {
		t.h.log.Error("relays not sought", "err", err)
	}
}

func (t *traversal) hasPublicIP4() bool {
	own, err := t.h.host.Network().InterfaceListenAddresses()
	return err == nil && slices.ContainsFunc(own, func(a multiaddr.Multiaddr) bool { return ipOf(a).Is4() && manet.IsPublicAddr(a) })
}

func (t *traversal) observe(e any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := e.(type) {
	case event.EvtLocalReachabilityChanged:
		t.status = e.Reachability
	case event.EvtHostReachableAddrsChanged:
		t.addrs = e
	case event.EvtAutoRelayAddrsUpdated:
		t.circuit = e.RelayAddrs
		t.h.log.Info("addresses at relays changed", "addrs", len(e.RelayAddrs), "relays", len(relaysOf(e.RelayAddrs)))
	}
	t.notify()
}

// change returns a channel that is closed at the next event.
func (t *traversal) change() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *traversal) tell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notify()
}

// notify tells those who wait for a change; t.mu must be held.
func (t *traversal) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// candidates tells libp2p of peers that may be relays: those of the configuration and connected ones that serve as
// relay. It waits until there is one.
func (t *traversal) candidates(ctx context.Context, n int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo, n)
	go func() {
		defer close(out)
		select {
		case <-t.ready:
		case <-ctx.Done():
			return
		}
		for {
			changed := t.change()
			list := t.known()
			if len(list) > 0 {
				for _, p := range list[:min(n, len(list))] {
					out <- p
				}
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// known are the candidates of this moment.
func (t *traversal) known() []peer.AddrInfo {
	list := slices.Clone(t.relays)
	for _, p := range t.h.Peers() {
		if t.h.direct(p) && t.h.speaks(p, proto.ProtoIDv2Hop) {
			list = append(list, peer.AddrInfo{ID: p})
		}
	}
	return list
}

// Trace notes which connections come of a punched hole. It implements holepunch.EventTracer.
func (t *traversal) Trace(e *holepunch.Event) {
	end, ok := e.Evt.(*holepunch.EndHolePunchEvt)
	if !ok {
		return
	}
	select {
	case <-t.ready:
	default:
		return
	}
	if !end.Success {
		t.h.log.Debug("hole not punched", "to", e.Remote.String(), "err", end.Error)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.h.host.Network().ConnsToPeer(e.Remote) {
		if !relayed(c) {
			t.punched[c.ID()] = true
		}
	}
	t.notify()
}

// AllowReserve implements relay.ACLFilter: only peers of this network get a place. What a peer speaks
// is its own claim, so this keeps strangers' traffic away, not liars'.
func (t *traversal) AllowReserve(p peer.ID, _ multiaddr.Multiaddr) bool { return t.member(p) }

// AllowConnect implements relay.ACLFilter. That dest is of this network was seen when it took its place.
func (t *traversal) AllowConnect(src peer.ID, _ multiaddr.Multiaddr, _ peer.ID) bool {
	return t.member(src)
}

// member tells whether a connected peer is of this network, and waits until it has said so: identify tells the protocols that a
// host served a moment ago, and those of one that has just started come after.
func (t *traversal) member(p peer.ID) bool {
	select {
	case <-t.ready:
	default:
		return false
	}
	ctx, cancel := context.WithTimeout(t.h.ctx, identifyTimeout)
	defer cancel()
	for {
		changed := t.change()
		switch {
		case t.h.speaks(p, protocol.ID(t.h.id(lightName))):
			return true
		case t.h.host.Network().Connectedness(p) == network.NotConnected:
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// speaks says whether a peer is known to serve a protocol.
func (h *Host) speaks(p peer.ID, id protocol.ID) bool {
	list, err := h.host.Peerstore().SupportsProtocols(p, id)
	return err == nil && len(list) > 0
}

// relayed says whether a connection goes through a relay.
func relayed(c network.Conn) bool { return throughRelay(c.RemoteMultiaddr()) }

func throughRelay(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}

// direct says whether a connection to p is open over which everything goes: one that no relay cuts.
func (h *Host) direct(p peer.ID) bool {
	return h.host.Network().Connectedness(p) == network.Connected
}

// limited allows what is done with the context to use connections that a relay limits.
func limited(ctx context.Context) context.Context { return network.WithAllowLimitedConn(ctx, "poq") }

// lead tries now and then to reach a peer directly for as long as it is connected through a relay alone.
func (t *traversal) lead(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leading[p] || !t.h.begin() {
		return
	}
	t.leading[p] = true
	go func() {
		defer t.h.running.Done()
		changed, stop := t.h.watch.add(p)
		defer stop()
		retry := newBackoff(leadMin, leadMax)
		for at := time.Now().Add(retry.next()); ; {
			t.mu.Lock()
			done := !t.h.Connected(p) || t.h.direct(p)
			if done {
				delete(t.leading, p)
			}
			t.mu.Unlock()
			if done || !waitFor(t.h.ctx, changed, max(0, time.Until(at))) {
				return
			}
			if time.Now().Before(at) {
				continue
			}
			ctx, cancel := context.WithTimeout(network.WithForceDirectDial(t.h.ctx, "poq"), dialTimeout)
			err := t.h.host.Connect(ctx, peer.AddrInfo{ID: p})
			cancel()
			at = time.Now().Add(retry.next())
			t.h.log.Debug("tried to reach relayed peer directly", "to", p.String(), "again_at", at, "err", err)
		}
	}()
}

// uses says whether a peer is a relay of the configuration, which need not be of this network.
func (t *traversal) uses(p peer.ID) bool {
	return slices.ContainsFunc(t.relays, func(r peer.AddrInfo) bool { return r.ID == p })
}

// leaveRelay closes the relayed connections to a peer that has a direct one: links and streams move to it, and the relay
// is free for others.
func (h *Host) leaveRelay(p peer.ID) {
	if h.Path(p) == PathRelayed || !h.direct(p) {
		return
	}
	for _, c := range h.host.Network().ConnsToPeer(p) {
		if relayed(c) {
			_ = c.Close()
		}
	}
}

// Path is the way to a peer.
func (h *Host) Path(p peer.ID) Path {
	path := PathNone
	for _, c := range h.host.Network().ConnsToPeer(p) {
		switch {
		case relayed(c):
			if path == PathNone {
				path = PathRelayed
			}
		case h.nat != nil && h.nat.isPunched(c):
			path = PathPunched
		default:
			return PathDirect
		}
	}
	return path
}

func (t *traversal) isPunched(c network.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.punched[c.ID()]
}

// Reachability tells how others can reach this host. Without NAT.On nothing is known.
func (h *Host) Reachability() Reachability {
	r := Reachability{Status: ReachUnknown}
	if h.nat == nil {
		return r
	}
	for _, id := range h.host.Mux().Protocols() {
		r.Relaying = r.Relaying || id == proto.ProtoIDv2Hop
	}
	r.Through = h.light.through()
	t := h.nat
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mapping != nil {
		for _, a := range h.host.Network().ListenAddresses() {
			if m := t.mapping.GetMapping(a); m != nil && !multiaddr.Contains(r.Mapped, m) {
				r.Mapped = append(r.Mapped, m)
			}
		}
	}
	for _, l := range []struct {
		addrs  []multiaddr.Multiaddr
		status string
	}{{t.addrs.Reachable, ReachPublic}, {t.addrs.Unreachable, ReachPrivate}, {t.addrs.Unknown, ReachUnknown}} {
		for _, a := range l.addrs {
			r.Addrs = append(r.Addrs, ReachAddr{a, l.status})
		}
	}
	slices.SortFunc(r.Addrs, func(a, b ReachAddr) int { return strings.Compare(a.Addr.String(), b.Addr.String()) })
	r.Relays = relaysOf(t.circuit)
	switch {
	case len(t.addrs.Reachable) > 0 || t.status == network.ReachabilityPublic:
		r.Status = ReachPublic
	case len(t.addrs.Unreachable) > 0 || t.status == network.ReachabilityPrivate:
		r.Status = ReachPrivate
	}
	return r
}

// relaysOf are the relays named in circuit addresses, each once.
func relaysOf(addrs []multiaddr.Multiaddr) (relays []peer.ID) {
	for _, a := range addrs {
		at, _ := multiaddr.SplitFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT })
		if info, err := peer.AddrInfoFromP2pAddr(at); err == nil && !slices.Contains(relays, info.ID) {
			relays = append(relays, info.ID)
		}
	}
	slices.Sort(relays)
	return relays
}

// relayResources are what this host gives to those that use it as a relay.
func relayResources() relay.Resources {
	r := relay.DefaultResources()
	r.Limit = &relay.RelayLimit{Duration: circuitTime, Data: circuitBytes}
	r.ReservationTTL = relayPlaceTime
	r.MaxReservations, r.MaxReservationsPerIP = relayPlaces, relayPlacesPerIP
	r.MaxCircuits = relayCircuits
	r.BufferSize = relayBuffer
	return r
}
