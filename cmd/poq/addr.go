package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/p2p"
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
	return bothTransports(ipKind(ip), ip.Unmap().String(), port)
}

func ipKind(ip netip.Addr) string {
	if ip.Unmap().Is6() {
		return "ip6"
	}
	return "ip4"
}

// bothTransports returns the addresses of a machine over QUIC and TCP. kind is ip4, ip6 or dns.
func bothTransports(kind, host string, port uint16) (list []multiaddr.Multiaddr, err error) {
	for _, form := range []string{"/%s/%s/udp/%d/quic-v1", "/%s/%s/tcp/%d"} {
		a, err := multiaddr.NewMultiaddr(fmt.Sprintf(form, kind, host, port))
		if err != nil {
			return nil, usageError{err}
		}
		list = append(list, a)
	}
	return list, nil
}

// announceAddrs reads an address to tell others: an IP or a name, with a port or the given one, or a multiaddr.
func announceAddrs(s string, port uint16) ([]multiaddr.Multiaddr, error) {
	if strings.HasPrefix(s, "/") {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return nil, usagef("--announce %s: %w", s, err)
		}
		if rest, id := peer.SplitAddr(a); id != "" { // it is told with the peer's own id anyhow
			a = rest
		}
		return []multiaddr.Multiaddr{a}, nil
	}
	host := strings.Trim(s, "[]")
	if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, usagef("--announce %s: want a port from 1 to 65535", s)
		}
		host, port = h, uint16(n)
	}
	kind := "dns"
	if ip, err := netip.ParseAddr(host); err == nil {
		kind, host = ipKind(ip), ip.Unmap().String()
	} else if host == "" || strings.ContainsAny(host, ":/ ") {
		return nil, usagef("--announce %s: want an IP or a name, with :PORT if it is another one, or a multiaddr", s)
	}
	return bothTransports(kind, host, port)
}

// accessRules reads the rules of an access list.
func accessRules(flag string, list []string) (rules []p2p.Rule, err error) {
	for _, s := range list {
		r, err := p2p.ParseRule(s)
		if err != nil {
			return nil, usagef("%s: %w", flag, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// listenAddrs returns where to listen: on all addresses, or on those of --bind, at a port unless they bring their own.
// Port 0 stands for one that is free for UDP and TCP.
func listenAddrs(bind []string, port uint16) (list []multiaddr.Multiaddr, err error) {
	if len(bind) == 0 {
		bind = []string{"0.0.0.0", "::"}
	}
	for _, b := range bind {
		addrs, err := bindAddrs(b, port)
		if err != nil {
			return nil, err
		}
		list = append(list, addrs...)
	}
	return list, nil
}

// freePort finds a port that is free for UDP and TCP.
func freePort() (uint16, error) {
	var lc net.ListenConfig
	for range 100 {
		t, err := lc.Listen(context.Background(), "tcp", ":0")
		if err != nil {
			return 0, fmt.Errorf("looking for a free port: %w", err)
		}
		port := t.Addr().(*net.TCPAddr).Port
		u, err := lc.ListenPacket(context.Background(), "udp", fmt.Sprintf(":%d", port))
		if err == nil {
			err = u.Close()
		}
		if e := t.Close(); err == nil && e == nil {
			return uint16(port), nil
		}
	}
	return 0, errors.New("no port is free for UDP and TCP alike: name one with --port")
}

// checkPorts says who holds a port that is to be listened on. The library would share a TCP port with another process, so that connections
// go to one of the two by chance, and keep silent about one address of several. If the addresses were not asked for, a
// machine need not have all of them.
func checkPorts(ctx context.Context, listen []multiaddr.Multiaddr, asked bool) error {
	for _, a := range listen {
		network, at, err := manet.DialArgs(a)
		if err != nil {
			continue // no address of a machine
		}
		err = tryListen(ctx, network, at)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			_, port, _ := net.SplitHostPort(at)
			return fmt.Errorf("port %s is taken by %s: choose another with --port, or a free one with --port 0", port, portHolder(ctx, network[:3], port))
		case err != nil && (asked || errors.Is(err, syscall.EACCES)):
			return fmt.Errorf("can't listen on %s: %w", a, err)
		}
	}
	return nil
}

// tryListen listens for a moment.
func tryListen(ctx context.Context, network, at string) error {
	var lc net.ListenConfig
	if strings.HasPrefix(network, "udp") {
		c, err := lc.ListenPacket(ctx, network, at)
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := lc.Listen(ctx, network, at)
	if err != nil {
		return err
	}
	return l.Close()
}

// portHolder describes who listens on a port of this machine: a peer of this user, if it is one.
func portHolder(ctx context.Context, protocol, port string) string {
	running, _ := control.Running(ctx) // of those that do not answer nothing is known
	for _, r := range running {
		for _, p := range r.Status.Peers {
			for _, a := range p.Addrs {
				if strings.Contains(a+"/", "/"+protocol+"/"+port+"/") {
					return fmt.Sprintf("the poq that runs in %s (process %d)", r.Status.Dir, r.Status.PID)
				}
			}
		}
	}
	return "another program"
}

// parseAddrs reads multiaddrs of peers.
func parseAddrs(flag string, list []string) (addrs []multiaddr.Multiaddr, err error) {
	for _, s := range list {
		a, err := multiaddr.NewMultiaddr(s)
		if err == nil {
			_, err = peer.AddrInfoFromP2pAddr(a)
		}
		if err != nil {
			return nil, usagef("%s %s: want a multiaddr that ends in /p2p/ID, like those that poq up prints: %w", flag, s, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
