package p2p

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/multiformats/go-multiaddr"
)

// neighbours finds peers in the local network by multicast DNS (RFC 6762) and is found by them.
type neighbours struct {
	f       *finder
	service string

	mu      sync.Mutex
	running mdns.Service
	addrs   []multiaddr.Multiaddr // that the service has told
}

// serviceName keeps networks apart that share a cable: a label has room for 63 bytes, less than a network's name, so it
// is hashed, together with the genesis.
func serviceName(network string, genesis []byte) string {
	sum := sha256.Sum256(append([]byte(network+"\x00"), genesis...))
	return "_poq-" + hex.EncodeToString(sum[:8]) + "._udp"
}

func newNeighbours(f *finder) *neighbours {
	return &neighbours{f: f, service: serviceName(f.h.network, f.h.greet.mine.Genesis)}
}

// update starts the service, or starts it anew when the addresses of this host are other ones: it tells them as they
// were when it started.
func (n *neighbours) update() {
	addrs, err := n.f.h.host.Network().InterfaceListenAddresses()
	if err != nil {
		return // the host closes
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running != nil && slices.EqualFunc(addrs, n.addrs, multiaddr.Multiaddr.Equal) {
		return
	}
	n.stop()
	s := mdns.NewMdnsService(n.f.h.host, n.service, n)
	if err := s.Start(); err != nil { // no interface that does multicast; another one may come
		n.f.h.log.Debug("no mDNS", "err", err)
		_ = s.Close()
		return
	}
	n.running, n.addrs = s, addrs
}

func (n *neighbours) stop() {
	if n.running != nil {
		_ = n.running.Close()
		n.running = nil
	}
}

func (n *neighbours) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stop()
}

// HandlePeerFound implements mdns.Notifee. A neighbour tells all its addresses; loopback ones are of use only to a host that
// has no others either.
func (n *neighbours) HandlePeerFound(p peer.AddrInfo) {
	p.Addrs = dialable(p.Addrs)
	if slices.ContainsFunc(n.f.h.host.Addrs(), Routable) {
		p.Addrs = multiaddr.FilterAddrs(p.Addrs, Routable)
	}
	n.f.add(peer.AddrInfo{ID: p.ID, Addrs: p.Addrs[:min(len(p.Addrs), maxAddrs)]}, FromMDNS)
}
