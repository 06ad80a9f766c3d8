package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/multiformats/go-multiaddr"
)

// bindAddrs reads an address to listen on: an IP, host:port or a multiaddr. One without a port gets the given one; one
// without a protocol listens over QUIC and TCP.
func bindAddrs(s string, port uint16) ([]multiaddr.Multiaddr, error) {
	if strings.HasPrefix(s, "/") {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return nil, usagef("--bind %s: %w", s, err)
		}
		return []multiaddr.Multiaddr{a}, nil
	}
	ip, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		at, e := netip.ParseAddrPort(s)
		if e != nil {
			if host, _, e := net.SplitHostPort(s); e == nil && host == "localhost" {
				return bindAddrs("127.0.0.1"+strings.TrimPrefix(s, "localhost"), port)
			}
			return nil, usagef("--bind %s: want an IP address, IP:PORT or a multiaddr", s)
		}
		ip, port = at.Addr(), at.Port()
	}
	kind := "ip4"
	if ip = ip.Unmap(); ip.Is6() {
		kind = "ip6"
	}
	var list []multiaddr.Multiaddr
	for _, form := range []string{"/%s/%s/udp/%d/quic-v1", "/%s/%s/tcp/%d"} {
		a, err := multiaddr.NewMultiaddr(fmt.Sprintf(form, kind, ip, port))
		if err != nil {
			return nil, usagef("--bind %s: %w", s, err)
		}
		list = append(list, a)
	}
	return list, nil
}
