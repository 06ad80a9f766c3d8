package p2p

import (
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

func rules(t testing.TB, list ...string) (rules []Rule) {
	t.Helper()
	for _, s := range list {
		r, err := ParseRule(s)
		if err != nil {
			t.Fatal(err)
		}
		if r.String() != s {
			t.Errorf("got %s, want %s", r, s)
		}
		rules = append(rules, r)
	}
	return rules
}

func TestAccessListsAdmitByAddressAndPeer(t *testing.T) {
	friend, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		allow, deny []string
		peer        peer.ID
		ip          string
		want        bool
	}{
		"no lists":                     {nil, nil, "x", "192.0.2.1", true},
		"allowed range":                {[]string{"192.0.2.0/24"}, nil, "x", "192.0.2.1", true},
		"outside the range":            {[]string{"192.0.2.0/24"}, nil, "x", "198.51.100.1", false},
		"allowed address":              {[]string{"192.0.2.1"}, nil, "x", "192.0.2.1", true},
		"next address":                 {[]string{"192.0.2.1"}, nil, "x", "192.0.2.2", false},
		"mapped range":                 {[]string{"192.0.2.7/24"}, nil, "x", "192.0.2.1", true},
		"IPv6 range":                   {[]string{"2001:db8::/32"}, nil, "x", "2001:db8:1::1", true},
		"denied wins":                  {[]string{"192.0.2.0/24"}, []string{"192.0.2.1"}, "x", "192.0.2.1", false},
		"denied private":               {nil, []string{"private"}, "x", "192.168.1.1", false},
		"denied private, loopback":     {nil, []string{"private"}, "x", "127.0.0.1", false},
		"denied private, public one":   {nil, []string{"private"}, "x", "192.0.2.1", true},
		"allowed public":               {[]string{"public"}, nil, "x", "192.0.2.1", true},
		"allowed public, private one":  {[]string{"public"}, nil, "x", "10.1.2.3", false},
		"allowed friend":               {[]string{friend.String()}, nil, friend, "192.0.2.1", true},
		"no friend":                    {[]string{friend.String()}, nil, "x", "192.0.2.1", false},
		"denied friend":                {[]string{"public"}, []string{friend.String()}, friend, "192.0.2.1", false},
		"friend behind a relay":        {[]string{friend.String()}, nil, friend, "", true},
		"somebody behind a relay":      {[]string{"private", "public"}, nil, "x", "", false},
		"not denied, behind a relay":   {nil, []string{"private", "public"}, "x", "", true},
		"friend or range, in range":    {[]string{friend.String(), "10.0.0.0/8"}, nil, "x", "10.1.1.1", true},
		"friend or range, out of both": {[]string{friend.String(), "10.0.0.0/8"}, nil, "x", "192.0.2.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := Access{Allow: rules(t, c.allow...), Deny: rules(t, c.deny...)}
			var ip netip.Addr
			if c.ip != "" {
				ip = netip.MustParseAddr(c.ip)
			}
			if got := a.admits(c.peer, ip); got != c.want {
				t.Errorf("got %v", got)
			}
			if c.want && (!a.mayAdmit(c.peer, netip.Addr{}) || !a.mayAdmit("", ip)) {
				t.Error("refused before all was known")
			}
		})
	}
	for _, s := range []string{"", "192.0.2.0/33", "example.org", "10.0.0.0/8/8", "12D3"} {
		if _, err := ParseRule(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func FuzzRule(f *testing.F) {
	for _, s := range []string{"private", "10.0.0.0/8", "::ffff:10.0.0.1/104", "fe80::1%eth0", "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRule(s); err == nil {
			_ = r.names("x", netip.MustParseAddr("192.0.2.1"))
		}
	})
}

func TestDeniedPeersAreKeptOutInBothDirections(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	guarded := newHost(t, Config{Access: Access{Deny: rules(t, a.ID().String())}})
	if err := a.Connect(deadline(t), guarded.Addrs()...); err == nil {
		t.Error("a denied peer got in")
	}
	if err := guarded.Connect(deadline(t), a.Addrs()...); refusal(refusalOf(guarded.ID(), err)) != Denied {
		t.Errorf("got %v", err)
	}
	connect(t, b, guarded)
	waitConnected(t, guarded, b.ID(), true)
	guarded.SetAccess(Access{Deny: rules(t, "private")})
	waitConnected(t, b, guarded.ID(), false)
	if err := b.Connect(deadline(t), guarded.Addrs()...); err == nil {
		t.Error("a denied address got in")
	}
	guarded.SetAccess(Access{Allow: rules(t, a.ID().String())})
	connect(t, a, guarded)
	if err := b.Connect(deadline(t), guarded.Addrs()...); err == nil {
		t.Error("a peer that is not allowed got in")
	}
}

func TestAnnouncedAddressesAreThoseOfUseElsewhere(t *testing.T) {
	list := func(texts ...string) (l []multiaddr.Multiaddr) {
		for _, s := range texts {
			l = append(l, multiaddr.StringCast(s))
		}
		return l
	}
	for name, c := range map[string]struct{ announce, own, want []multiaddr.Multiaddr }{
		"loopback alone": {nil, list("/ip4/127.0.0.1/tcp/1"), list("/ip4/127.0.0.1/tcp/1")},
		"several": {nil, list("/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/169.254.1.1/tcp/1", "/ip4/10.0.0.1/tcp/1"),
			list("/ip4/10.0.0.1/tcp/1")},
		"announced": {list("/dns/example.org/tcp/1"), list("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"),
			list("/dns/example.org/tcp/1", "/ip4/10.0.0.1/tcp/1")},
		"announced twice": {list("/ip4/10.0.0.1/tcp/1"), list("/ip4/10.0.0.1/tcp/1"), list("/ip4/10.0.0.1/tcp/1")},
		"relayed": {nil, list("/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit"),
			list("/ip4/192.0.2.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit")},
	} {
		got := announced(c.announce, c.own)
		for _, a := range c.want {
			if len(got) != len(c.want) || !multiaddr.Contains(got, a) {
				t.Errorf("%s: got %v", name, got)
			}
		}
	}
	told := multiaddr.StringCast("/ip4/192.0.2.7/tcp/4777")
	h := newHost(t, Config{Announce: []multiaddr.Multiaddr{told}})
	if got := h.host.Addrs(); len(got) != 1 || !got[0].Equal(told) {
		t.Errorf("got %v", got)
	}
}
