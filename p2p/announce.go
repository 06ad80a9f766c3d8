package p2p

import (
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// announced returns what a host with these own addresses tells others: what it was told to announce, and its own
// ones. An address that leads nowhere from another machine is left out as soon as there is another one.
func announced(announce, own []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	all := multiaddr.Unique(append(append([]multiaddr.Multiaddr(nil), announce...), own...))
	routable := multiaddr.FilterAddrs(all, Routable)
	if len(routable) == 0 {
		return all
	}
	return routable
}

// Routable says whether an address may lead to this host from another machine: it is not loopback, link-local or
// unspecified. Addresses of private networks are routable within them.
func Routable(a multiaddr.Multiaddr) bool {
	return !manet.IsIPLoopback(a) && !manet.IsIPUnspecified(a) && !manet.IsIP6LinkLocal(a) && !isIP4LinkLocal(a)
}

func isIP4LinkLocal(a multiaddr.Multiaddr) bool {
	ip := ipOf(a)
	return ip.Is4() && ip.IsLinkLocalUnicast()
}
