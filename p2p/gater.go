package p2p

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Access says with whom connections are made, in both directions. Deny wins; if Allow is not empty, only what it names
// is admitted. A connection through a relay shows the relay's address, not the peer's, so there only rules
// with a peer id count.
type Access struct {
	Allow, Deny []Rule
}

// Rule names a peer or a range of addresses. Make one with [ParseRule].
type Rule struct {
	id     peer.ID
	ranges []netip.Prefix
	not    bool // all addresses but these
	text   string
}

// private are the ranges of addresses that are not routed in the Internet: those of home networks and organisations
// (RFC 1918, RFC 4193), carrier NAT (RFC 6598), links (RFC 3927, RFC 4291) and the machine itself.
var private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8",
	"fc00::/7", "fe80::/10", "::1/128")

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

// ParseRule reads a rule: a peer id, an IP address, a range of them (192.0.2.0/24), "private" for addresses that
// are not routed in the Internet, or "public" for all others.
func ParseRule(s string) (Rule, error) {
	switch s {
	case "private":
		return Rule{ranges: private, text: s}, nil
	case "public":
		return Rule{ranges: private, not: true, text: s}, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Rule{}, fmt.Errorf("p2p: %q is no range of addresses such as 192.0.2.0/24: %w", s, err)
		}
		return Rule{ranges: []netip.Prefix{netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked()}, text: s}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap().WithZone("")
		return Rule{ranges: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, text: s}, nil
	}
	id, err := peer.Decode(s)
	if err != nil {
		return Rule{}, fmt.Errorf("p2p: %q is neither private, public, an IP address, a range of them nor a peer id", s)
	}
	return Rule{id: id, text: s}, nil
}

// String returns the rule as it was read.
func (r Rule) String() string { return r.text }

// names says whether the rule names the peer or the address. The address is not valid if it is not known.
func (r Rule) names(p peer.ID, a netip.Addr) bool {
	if r.id != "" {
		return r.id == p
	}
	return a.IsValid() && r.not != slices.ContainsFunc(r.ranges, func(x netip.Prefix) bool { return x.Contains(a) })
}

// admits says whether a connection with a peer at an address may be made.
func (a Access) admits(p peer.ID, ip netip.Addr) bool {
	named := func(r Rule) bool { return r.names(p, ip) }
	if slices.ContainsFunc(a.Deny, named) {
		return false
	}
	return len(a.Allow) == 0 || slices.ContainsFunc(a.Allow, named)
}

// mayAdmit is admits while only the peer or only the address is known: false if nothing that comes to be known can help.
func (a Access) mayAdmit(p peer.ID, ip netip.Addr) bool {
	if slices.ContainsFunc(a.Deny, func(r Rule) bool { return r.names(p, ip) }) {
		return false
	}
	return len(a.Allow) == 0 || slices.ContainsFunc(a.Allow, func(r Rule) bool {
		unknown := r.id != "" && p == "" || r.id == "" && !ip.IsValid()
		return unknown || r.names(p, ip)
	})
}

// gater asks the bans and the access lists at every step of a connection, as soon as it can be known.
type gater struct {
	*bans
	access atomic.Pointer[Access]
}

var _ connmgr.ConnectionGater = (*gater)(nil)

func newGater(a Access, b *bans) *gater {
	g := &gater{bans: b}
	g.access.Store(&a)
	return g
}

// ipOf is the address of the machine at the other end; not valid for names and for what lies behind a relay.
func ipOf(a multiaddr.Multiaddr) netip.Addr {
	if _, err := a.ValueForProtocol(multiaddr.P_CIRCUIT); err == nil {
		return netip.Addr{}
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}
	}
	n, _ := netip.AddrFromSlice(ip)
	return n.Unmap()
}

// InterceptPeerDial implements connmgr.ConnectionGater.
func (g *gater) InterceptPeerDial(p peer.ID) bool {
	return g.bans.InterceptPeerDial(p) && g.access.Load().mayAdmit(p, netip.Addr{})
}

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g *gater) InterceptAddrDial(p peer.ID, a multiaddr.Multiaddr) bool {
	return g.bans.InterceptAddrDial(p, a) && g.access.Load().admits(p, ipOf(a))
}

// InterceptAccept implements connmgr.ConnectionGater.
func (g *gater) InterceptAccept(c network.ConnMultiaddrs) bool {
	return g.bans.InterceptAccept(c) && g.access.Load().mayAdmit("", ipOf(c.RemoteMultiaddr()))
}

// InterceptSecured implements connmgr.ConnectionGater.
func (g *gater) InterceptSecured(d network.Direction, p peer.ID, c network.ConnMultiaddrs) bool {
	return g.bans.InterceptSecured(d, p, c) && g.access.Load().admits(p, ipOf(c.RemoteMultiaddr()))
}

// SetAccess replaces the access lists. Connections that they no longer admit are closed. It must not be used on a
// host that was made elsewhere (Config.Host).
func (h *Host) SetAccess(a Access) {
	h.gater.access.Store(&a)
	for _, c := range h.host.Network().Conns() {
		if !a.admits(c.RemotePeer(), ipOf(c.RemoteMultiaddr())) {
			_ = c.CloseWithError(network.ConnGated)
		}
	}
}
