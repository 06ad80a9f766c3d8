package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// ErrClosed is returned by everything that is used after [Host.Close].
var ErrClosed = errors.New("p2p: host is closed")

// ErrTooLarge says that a message, frame, request or response is over the limit of its topic or protocol.
var ErrTooLarge = errors.New("p2p: message over the size limit")

// names keeps topic and protocol ids readable and free of separators.
var names = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)

// Config tells what [New] starts. Network is required, everything else has a usable zero value. The
// caller must not change it afterwards.
type Config struct {
	// Network separates networks: it is part of every topic and protocol id, so that peers of two networks
	// that happen to be connected never exchange a message. Letters, digits, '.', '_', '-', at most 128.
	Network string
	// Topics are the names that may be joined. Announcements of any other topic are dropped, so a peer cannot
	// make this host remember topics without bound. They must be known before the first peer connects,
	// because a peer announces a topic only once.
	Topics []string
	// Key is the libp2p identity; nil makes a fresh one. It is not a key that signs votes or payments.
	Key crypto.PrivKey
	// Listen are the addresses to listen on; nil means a free UDP port (QUIC) and a free TCP port of 127.0.0.1.
	Listen []multiaddr.Multiaddr
	// Host is a libp2p host made elsewhere, to be used instead of a fresh one; Key, Listen, Announce and Access must then
	// be left out. What it speaks and announces, whom it admits and which limits it has is its maker's business, but nobody
	// else may run gossipsub on it under the protocol ids of its standard. The new Host closes it; when New fails, its maker must. Its bytes are not counted,
	// nor are silent peers pinged.
	Host host.Host
	// Protected are peers that this host can't do without. Their connections are not cut when there are too many, and
	// load alone does not get them banned, only what is invalid; quotas hold for them too.
	Protected []peer.ID
	// Announce are addresses to tell others besides those that the host listens on: those under which a port of a
	// router or a container leads here.
	Announce []multiaddr.Multiaddr
	// Access says with whom connections are made.
	Access Access
	// Hello is what this host says of itself.
	Hello Hello
	// NAT says what to do about routers between this host and others; the zero value does nothing. With Host set, what
	// libp2p does of it (AutoNAT, relays, hole punching, port mapping) is its maker's business.
	NAT NAT
	// SeenTTL is how long the id of a gossip message is remembered, in which time the same bytes are not
	// delivered again; zero means two minutes. It must be longer than the longest time for which a message can
	// still wander between peers.
	SeenTTL time.Duration
	// Met, if set, is called with every peer that connected, once both have said hello and it is known which protocols the peer speaks; for each
	// connection anew. It must return at once.
	Met func(peer.ID)
	// Logger gets this host's log; nil means slog.Default. go-libp2p itself logs errors through the
	// package-level handler of its gologshim, which only a main package should set.
	Logger *slog.Logger

	// Registerer gets the metrics of this host and of the libraries below it; nil means that they are only counted. Two
	// hosts need two registries, or labels that tell them apart. What libp2p itself counts (libp2p_*), it counts for
	// all hosts of the process together.
	Registerer prometheus.Registerer
	// Agent is the name and version of the program, as other peers see it; "" stands for "poq".
	Agent string

	// tune lets benchmarks compare gossip settings.
	tune func(*gossipSettings)
	// reach and options let tests decide what AutoNAT finds, and run over a simulated network.
	reach   network.Reachability
	options []libp2p.Option
}

// Host is a libp2p host with gossip, links and requests on top. Its methods are safe for concurrent use.
// Hosts share no state: as many as one likes live in one process.
type Host struct {
	network string
	topics  map[string]bool
	log     *slog.Logger
	traffic *traffic
	timings *timings
	host    host.Host
	gossip  *pubsub.PubSub
	mesh    *meshTracer
	watch   watchers
	gater   *gater

	greet    *greeter
	attempts *attempts
	mender   *mender
	records  *records
	finder   atomic.Pointer[finder] // nil without discovery
	nat      *traversal             // nil without Config.NAT.On, as is light
	light    *light

	topicNames []string // Config.Topics
	standings  *standings
	totals     atomic.Pointer[map[peer.ID]float64] // gossip's scores, as of the last second

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	keeping map[peer.ID]bool
	links   []*Links
	running sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

// New starts a host over QUIC and TCP (Noise, Yamux) with gossip on it. It listens when New returns; topics,
// links and requests are added with [Join], [NewLinks] and [Host.Serve].
func New(cfg Config) (*Host, error) {
	if !names.MatchString(cfg.Network) {
		return nil, fmt.Errorf("p2p: network name %q: want 1 to 128 letters, digits, '.', '_' or '-'", cfg.Network)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var nat *traversal
	if cfg.NAT.On {
		var err error
		if nat, err = newTraversal(cfg); err != nil {
			return nil, err
		}
	}
	lh, seen, st := cfg.Host, newTraffic(), newStandings(cfg.Protected)
	gate := newGater(cfg.Access, st.bans)
	switch {
	case lh == nil:
		var err error
		if lh, err = startHost(cfg, seen, st, gate, nat); err != nil {
			return nil, fmt.Errorf("p2p: start host: %w", err)
		}
	case cfg.Key != nil || cfg.Listen != nil || cfg.Announce != nil || cfg.Access.Allow != nil || cfg.Access.Deny != nil:
		return nil, errors.New("p2p: Config.Host has its own key, addresses and access lists: leave Key, Listen, Announce and Access out")
	}
	h := &Host{
		network: cfg.Network,
		topics:  make(map[string]bool),
		log:     cfg.Logger.With("peer", lh.ID().String()),
		host:    lh,
		traffic: seen,
		timings: newTimings(),
		mesh:    newMeshTracer(st),
		keeping: make(map[peer.ID]bool),
		gater:   gate,
		records: newRecords(),

		standings: st,
		nat:       nat,
	}
	h.totals.Store(&map[peer.ID]float64{})
	st.part = h.part
	for _, p := range cfg.Protected {
		lh.ConnManager().Protect(p, "protected")
	}
	h.attempts = newAttempts(h.log)
	h.mender = newMender(h, cfg.gossip().grace)
	h.mesh.suspect = h.mender.suspect
	h.ctx, h.cancel = context.WithCancel(context.Background())
	if err := h.startHello(cfg); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if err := h.watchPeers(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if nat != nil {
		var err error
		if h.light, err = newLight(h, cfg); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	if err := h.startGossip(cfg); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if nat != nil {
		h.light.start()
		if err := nat.start(h); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	if cfg.Registerer != nil {
		if err := h.timings.register(cfg.Registerer, h); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	if cfg.Host == nil {
		h.running.Go(h.pulse)
	}
	if err := h.serveRecords(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// startHost starts a libp2p host that reports its traffic and asks gate about connections.
func startHost(cfg Config, seen *traffic, st *standings, gate *gater, nat *traversal) (host.Host, error) {
	listen := libp2p.ListenAddrs(cfg.Listen...)
	if len(cfg.Listen) == 0 {
		listen = libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0")
	}
	resources, err := newResources(st, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	conns, err := connmgr.NewConnManager(connsLow, connsHigh, connmgr.WithGracePeriod(connsGrace))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connection manager: %w", err), resources.Close())
	}
	options := []libp2p.Option{
		listen,
		libp2p.Transport(quic.NewTransport),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(conns),
		libp2p.UserAgent(cmp.Or(cfg.Agent, "poq")),
		libp2p.BandwidthReporter(seen),
		libp2p.ConnectionGater(gate),
		libp2p.AddrsFactory(func(own []multiaddr.Multiaddr) []multiaddr.Multiaddr { return announced(cfg.Announce, own) }),
	}
	if cfg.Registerer != nil {
		options = append(options, libp2p.PrometheusRegisterer(cfg.Registerer))
	} else { // libp2p would register its metrics with the process-wide registry
		options = append(options, libp2p.DisableMetrics())
	}
	if nat != nil {
		options = append(options, nat.options(cfg.Registerer)...)
	} else { // what a peer with known addresses has no use for, and would keep an idle host busy
		options = append(options, libp2p.DisableRelay(), libp2p.DisableIdentifyAddressDiscovery())
	}
	if cfg.Key != nil {
		options = append(options, libp2p.Identity(cfg.Key))
	}
	options = append(options, cfg.options...)
	lh, err := libp2p.New(options...)
	if err != nil {
		return nil, errors.Join(err, conns.Close(), resources.Close())
	}
	return lh, nil
}

// watchPeers wakes the loops that wait for a peer whenever something about it changed that may help them.
func (h *Host) watchPeers() error {
	sub, err := h.host.EventBus().Subscribe([]any{
		new(event.EvtPeerConnectednessChanged), new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerProtocolsUpdated),
	})
	if err != nil {
		return fmt.Errorf("p2p: watch peers: %w", err)
	}
	h.running.Go(func() {
		defer func() { _ = sub.Close() }()
		for {
			select {
			case e := <-sub.Out():
				switch e := e.(type) {
				case event.EvtPeerConnectednessChanged:
					if e.Connectedness == network.Connected && h.standings.bans.has(e.Peer) { // Config.Host has its own gater
						_ = h.host.Network().ClosePeer(e.Peer)
					}
					if e.Connectedness == network.NotConnected {
						h.records.drop(e.Peer)
						h.mesh.forget(e.Peer)
					}
					switch {
					case h.nat == nil:
					case e.Connectedness == network.Limited:
						h.nat.lead(e.Peer)
					case e.Connectedness == network.Connected:
						h.leaveRelay(e.Peer)
					}
					h.watch.wake(e.Peer)
				case event.EvtPeerIdentificationCompleted:
					h.records.keep(e.Peer, e.SignedPeerRecord)
					h.mender.suspect(e.Peer)
					h.greet.identified(e.Conn)
					h.watch.wake(e.Peer)
				case event.EvtPeerProtocolsUpdated:
					h.watch.wake(e.Peer)
				}
			case <-h.ctx.Done():
				return
			}
		}
	})
	return nil
}

// part ends the connection to a peer that was banned.
func (h *Host) part(p peer.ID, f Fault) {
	if !h.begin() {
		return
	}
	go func() {
		defer h.running.Done()
		h.log.Info("peer is kept out", "who", p.String(), "last_fault", f.String(), "for", banTime)
		for _, c := range h.host.Network().ConnsToPeer(p) {
			h.standings.bans.addAddr(c.RemoteMultiaddr())
		}
		_ = h.host.Network().ClosePeer(p)
	}()
}

// ID is the peer id, the hash of the identity key.
func (h *Host) ID() peer.ID { return h.host.ID() }

// Addrs are the addresses that the host listens on, each with /p2p/<id>, ready for [Host.Connect] of another. Those at
// relays come last.
func (h *Host) Addrs() []multiaddr.Multiaddr {
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.host.Addrs()})
	if err != nil {
		h.log.Error("own addresses", "err", err) // an id that libp2p made always encodes
	}
	slices.SortStableFunc(addrs, func(a, b multiaddr.Multiaddr) int {
		switch ra, rb := throughRelay(a), throughRelay(b); {
		case ra == rb:
			return 0
		case rb:
			return -1
		default:
			return 1
		}
	})
	return addrs
}

// Peers are the peers with an open connection that have said hello, in no order.
func (h *Host) Peers() []peer.ID { return h.greet.peers() }

// Connected says whether a connection to p is open, directly or through a relay ([Host.Path]).
func (h *Host) Connected(p peer.ID) bool {
	switch h.host.Network().Connectedness(p) {
	case network.Connected, network.Limited:
		return true
	default:
		return false
	}
}

// Connect dials every peer named by addrs (several addresses of one peer count as one) and returns when all
// are connected and have said hello, or the joined errors of those that are not; see [Refusal].
func (h *Host) Connect(ctx context.Context, addrs ...multiaddr.Multiaddr) error {
	peers, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return fmt.Errorf("p2p: connect: address without /p2p/<id>: %w", err)
	}
	errs := make([]error, len(peers))
	var dials sync.WaitGroup
	for i, p := range peers {
		dials.Go(func() { _, errs[i] = h.meet(ctx, p) })
	}
	dials.Wait()
	return errors.Join(errs...)
}

// dial connects to a peer unless it is connected, and returns as soon as it is, whoever dialled. It forgets
// libp2p's own back-off for the peer (5 s to 5 min), which knows nothing of why we dial: every loop that calls
// dial has its own.
func (h *Host) dial(ctx context.Context, p peer.AddrInfo) error {
	if h.ctx.Err() != nil {
		return ErrClosed
	}
	if sw, ok := h.host.Network().(*swarm.Swarm); ok {
		sw.Backoff().Clear(p.ID)
	}
	// A peer that restarted elsewhere may reach us while we still try its old address, which over UDP
	// takes seconds to fail.
	changed, stop := h.watch.add(p.ID)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialled := make(chan error, 1)
	go func() { dialled <- h.host.Connect(limited(ctx), p) }()
	for {
		select {
		case err := <-dialled:
			if err != nil && !h.Connected(p.ID) {
				return fmt.Errorf("p2p: connect to %s: %w", p.ID, err)
			}
			return nil
		case <-changed:
			if h.Connected(p.ID) {
				cancel()
			}
		}
	}
}

// Keep holds connections to the given peers open from now on: a peer that is not connected is dialled again,
// with a back-off between a quarter of a second and ten seconds. It returns at once. Addresses of one peer are
// merged; naming a peer a second time adds its addresses.
func (h *Host) Keep(addrs ...multiaddr.Multiaddr) error {
	peers, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return fmt.Errorf("p2p: keep: address without /p2p/<id>: %w", err)
	}
	for _, p := range peers {
		if p.ID == h.ID() {
			continue
		}
		h.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.PermanentAddrTTL)
		h.host.ConnManager().Protect(p.ID, "keep")
		h.mu.Lock()
		known := h.keeping[p.ID]
		h.keeping[p.ID] = true
		h.mu.Unlock()
		if known {
			continue
		}
		if !h.begin() {
			return ErrClosed
		}
		go h.keep(p.ID)
	}
	return nil
}

// keep is the loop behind Keep for one peer.
func (h *Host) keep(p peer.ID) {
	defer h.running.Done()
	changed, stop := h.watch.add(p)
	defer stop()
	retry := newBackoff(dialMin, dialMax)
	// Two peers that keep each other would dial at the same moment and end up with two connections: the one
	// with the higher id lets the other begin.
	wait := time.Duration(0)
	if h.ID() > p {
		wait = dialMin
	}
	for {
		if h.Connected(p) {
			retry.reset()
			wait = dialMin
			if !waitFor(h.ctx, changed, forever) {
				return
			}
			continue
		}
		if !waitFor(h.ctx, changed, wait) {
			return
		}
		if h.Connected(p) {
			continue
		}
		ctx, cancel := context.WithTimeout(h.ctx, dialTimeout)
		err := h.dial(ctx, peer.AddrInfo{ID: p})
		cancel()
		if err != nil {
			wait = retry.next()
			h.log.Debug("kept peer is away", "to", p.String(), "again_in", wait, "err", err)
		}
	}
}

// Close ends everything the host started and waits for it: handlers that run, links, dials. It is
// idempotent and may be called from any goroutine but a handler's.
func (h *Host) Close() error {
	h.closeOnce.Do(func() {
		h.mu.Lock()
		h.closed = true
		h.mu.Unlock()
		h.cancel()
		h.timings.unregister()
		if err := h.host.Close(); err != nil {
			h.closeErr = fmt.Errorf("p2p: close: %w", err)
		}
		h.running.Wait()
	})
	return h.closeErr
}

// begin registers work that Close waits for; the caller must call h.running.Done when it is true.
func (h *Host) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.running.Add(1)
	return true
}

// id is the topic or protocol id of a name in this host's network. The trailing number is the version of the
// encoding spoken on it.
func (h *Host) id(name string) string { return "/poq/" + h.network + "/" + name + "/1" }

// protocol checks a protocol's name and returns its id.
func (h *Host) protocol(name string) (protocol.ID, error) {
	if !names.MatchString(name) {
		return "", fmt.Errorf("p2p: protocol name %q: want 1 to 128 letters, digits, '.', '_' or '-'", name)
	}
	return protocol.ID(h.id(name)), nil
}
