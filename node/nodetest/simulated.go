package nodetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	libp2pcrypto "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
	"github.com/multiformats/go-multiaddr"
)

// linkRate is what a member's simulated link carries in each direction.
const linkRate = 100 * simlibp2p.OneMbps

// Simulated has members speak QUIC over simulated links of 100 Mbit/s, with a latency between any two. No socket is opened. It is
// made for a testing/synctest bubble, where time is virtual: a task that takes a minute takes no time of yours. Ledgers
// are on disk all the same. Outside of a bubble the latency is real.
func Simulated(latency time.Duration) Option {
	return func(c *config) {
		c.links = &links{net: &simnet.Simnet{LatencyFunc: simnet.StaticLatency(latency)}, hosts: map[string]host.Host{}, cut: map[peer.ID]bool{}}
	}
}

// links are the simulated network.
type links struct {
	net *simnet.Simnet

	mu    sync.Mutex
	made  int
	hosts map[string]host.Host // by name
	cut   map[peer.ID]bool     // those on one side of a partition
}

// host makes the host of a member. Each gets an address that none had before.
func (l *links) host(name string, key libp2pcrypto.PrivKey) (host.Host, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	link := simnet.LinkSettings{BitsPerSecond: linkRate}
	h, err := libp2p.New(libp2p.Identity(key),
		libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/udp/8000/quic-v1", simnet.IntToPublicIPv4(l.made))),
		simlibp2p.QUICSimnet(l.net, simnet.NodeBiDiLinkSettings{Uplink: link, Downlink: link}),
		libp2p.ConnectionGater(end{l, id}),
		libp2p.DisableIdentifyAddressDiscovery(), // it stalls a synctest bubble
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(), libp2p.Ping(false), libp2p.DisableMetrics(),
	)
	if err == nil {
		l.made++
		l.hosts[name] = h
	}
	return h, err
}

// part cuts the named members off from the others, and has those of each side leave those of the other.
func (l *links) part(names []string) {
	l.mu.Lock()
	clear(l.cut)
	for _, name := range names {
		l.cut[l.hosts[name].ID()] = true
	}
	var apart []network.Conn
	for _, h := range l.hosts {
		for _, c := range h.Network().Conns() {
			if l.cut[c.LocalPeer()] != l.cut[c.RemotePeer()] {
				apart = append(apart, c)
			}
		}
	}
	l.mu.Unlock()
	for _, c := range apart {
		_ = c.Close() // the other end may have been first
	}
}

// end is a member's end of the links. It refuses who is on the other side of a partition.
type end struct {
	*links
	self peer.ID
}

func (e end) admits(p peer.ID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cut[e.self] == e.cut[p]
}

func (e end) InterceptPeerDial(p peer.ID) bool                        { return e.admits(p) }
func (e end) InterceptAddrDial(p peer.ID, _ multiaddr.Multiaddr) bool { return e.admits(p) }
func (e end) InterceptAccept(network.ConnMultiaddrs) bool             { return true }
func (e end) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return e.admits(p)
}
func (e end) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	return e.admits(c.RemotePeer()), 0
}
