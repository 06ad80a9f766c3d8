package p2p

import (
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// bans keeps peers out for a time. Ids are free, so an address from which three were banned is kept out too, if it
// is a public one: behind a private one there may be everybody. It is safe for concurrent use.
type bans struct {
	mu    sync.Mutex
	until map[peer.ID]time.Time
	addrs map[netip.Addr]*bannedAddr
}

type bannedAddr struct {
	peers int // banned since the first of them was
	until time.Time
}

var _ connmgr.ConnectionGater = (*bans)(nil)

func newBans() *bans {
	return &bans{until: make(map[peer.ID]time.Time), addrs: make(map[netip.Addr]*bannedAddr)}
}

// add bans a peer and reports false if it was banned already.
func (b *bans) add(p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.until[p].After(now) {
		return false
	}
	if len(b.until) >= bansKept {
		for p, until := range b.until {
			if !until.After(now) {
				delete(b.until, p)
			}
		}
	}
	for p := range b.until { // all in force: any one goes
		if len(b.until) < bansKept {
			break
		}
		delete(b.until, p)
	}
	b.until[p] = now.Add(banTime)
	return true
}

// addAddr notes from where a peer came that was banned.
func (b *bans) addAddr(m multiaddr.Multiaddr) {
	ip, ok := addrOf(m)
	if !ok || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for k, a := range b.addrs {
		if !a.until.After(now) || len(b.addrs) >= bansKept {
			delete(b.addrs, k)
		}
	}
	if b.addrs[ip] == nil {
		b.addrs[ip] = &bannedAddr{}
	}
	b.addrs[ip].peers++
	b.addrs[ip].until = now.Add(banTime)
}

func addrOf(m multiaddr.Multiaddr) (netip.Addr, bool) {
	if throughRelay(m) {
		return netip.Addr{}, false // the address is the relay's
	}
	ip, err := manet.ToIP(m)
	if err != nil {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

func (b *bans) has(p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until[p].After(time.Now())
}

func (b *bans) hasAddr(m multiaddr.Multiaddr) bool {
	ip, ok := addrOf(m)
	if !ok {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.addrs[ip]
	return a != nil && a.peers >= bansPerAddr && a.until.After(time.Now())
}

// all returns the bans in force.
func (b *bans) all() map[peer.ID]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, in := time.Now(), make(map[peer.ID]time.Time)
	for p, until := range b.until {
		if until.After(now) {
			in[p] = until
		}
	}
	return in
}

// The gater's part: before a dial, before a handshake, and once it is known who it is.

func (b *bans) InterceptPeerDial(p peer.ID) bool                        { return !b.has(p) }
func (b *bans) InterceptAddrDial(p peer.ID, m multiaddr.Multiaddr) bool { return !b.has(p) }
func (b *bans) InterceptAccept(c network.ConnMultiaddrs) bool           { return !b.hasAddr(c.RemoteMultiaddr()) }
func (b *bans) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !b.has(p)
}

func (b *bans) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
