package node

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// newRelay starts a relay that is no peer of the network, and returns its address.
func newRelay(t *testing.T) multiaddr.Multiaddr {
	t.Helper()
	h, err := libp2p.New(libp2p.Transport(tcp.NewTCPTransport), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics(),
		libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService(relay.WithLimit(&relay.RelayLimit{Duration: time.Hour, Data: 64 << 20})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	return addrs[0]
}

// newDeafHost starts a host that listens nowhere and has a place at a relay.
func newDeafHost(t *testing.T, m *member, relay multiaddr.Multiaddr) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.Transport(tcp.NewTCPTransport), libp2p.NoListenAddrs, libp2p.EnableRelay(),
		libp2p.DisableMetrics(), libp2p.Identity(m.id.Peer))
	if err != nil {
		t.Fatal(err)
	}
	at, err := peer.AddrInfoFromP2pAddr(relay)
	if err == nil {
		_, err = client.Reserve(soon(t), h, *at)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestNetworkSettlesOverRelayedConnectionsAlone(t *testing.T) {
	s := newSwarm(t, 4, says("a short answer"), says("a rather longer answer"))
	relay := newRelay(t)
	for _, m := range s.all() {
		m.opts = append(m.opts, WithHost(newDeafHost(t, m, relay)), WithNAT(p2p.NAT{On: true, Relays: []multiaddr.Multiaddr{relay}}))
	}
	s.launch(s.all()...)
	for i, m := range s.all() {
		for _, other := range s.all()[:i] {
			at := multiaddr.StringCast("/p2p-circuit/p2p/" + other.node.Host().ID().String())
			if err := m.node.Host().Keep(relay.Encapsulate(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, m := range s.all() {
		if err := m.node.WaitReady(soon(t), 1); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
	}
	for range 3 {
		got := s.ask("what?", AskOptions{MaxAnswers: 2})
		if got.Outcome != ledger.Paid || len(got.Answers) != 2 {
			t.Errorf("settled as %v with %d answers", got.Outcome, len(got.Answers))
		}
		s.await(got.Task, s.all()...)
	}
	s.check()
	for _, m := range s.all() {
		for _, other := range s.all() {
			// Not everybody has met everybody: three tasks are settled before that.
			if path := m.node.Host().Path(other.node.Host().ID()); path != p2p.PathRelayed && path != p2p.PathNone {
				t.Errorf("%s reaches %s on path %q", m.name, other.name, path)
			}
		}
	}
}
