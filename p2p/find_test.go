package p2p

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// multicast skips a test on machines without multicast.
func multicast(t *testing.T) {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(i net.Interface) bool { return i.Flags&net.FlagUp != 0 && i.Flags&net.FlagMulticast != 0 }) {
		t.Skip("no interface does multicast")
	}
}

func TestNeighboursFindEachOtherByMDNS(t *testing.T) {
	multicast(t)
	conf := Config{Network: fmt.Sprint("mdns-", time.Now().UnixNano())}
	a, b := newHost(t, conf), newHost(t, conf)
	other := newHost(t, Config{Network: conf.Network, Hello: Hello{Genesis: []byte{1}}})
	for _, h := range []*Host{a, b, other} {
		discover(t, h, Discovery{MDNS: true})
	}
	waitConnected(t, a, b.ID(), true)
	waitConnected(t, b, a.ID(), true)
	for ctx := deadline(t); ; {
		la, changed := a.attempts.get()
		lb, changed2 := b.attempts.get()
		list := append(la, lb...)
		if slices.ContainsFunc(list, func(at Attempt) bool { return at.Peer == other.ID() }) {
			t.Errorf("a host of another network was dialled: %v", list)
		}
		if slices.ContainsFunc(list, func(at Attempt) bool { return at.Source == FromMDNS && at.Outcome == Reached }) {
			return
		}
		select {
		case <-changed:
		case <-changed2:
		case <-ctx.Done():
			t.Fatalf("got attempts %v", list)
		}
	}
}

func TestNeighbourIsNotBelievedThatItIsHere(t *testing.T) {
	h := newHost(t, Config{Announce: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/192.0.2.7/tcp/1")}})
	f := &finder{h: h, wake: make(chan struct{}, 1), candidates: make(map[peer.ID]*candidate)}
	n := newNeighbours(f)
	id, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	n.HandlePeerFound(peer.AddrInfo{ID: id, Addrs: overTCP})
	if f.candidates[id] != nil {
		t.Error("loopback address of another machine was taken")
	}
	n.HandlePeerFound(peer.AddrInfo{ID: id, Addrs: append(overTCP, multiaddr.StringCast("/ip4/192.0.2.8/tcp/1"))})
	if c := f.candidates[id]; c == nil || len(c.addrs) != 1 {
		t.Errorf("got %v", c)
	}
}

func TestWantedPeerIsFoundByTheDHT(t *testing.T) {
	// A chain: everybody knows the one before alone. Target 1 keeps them from looking for more.
	var hosts []*Host
	for range 5 {
		h := newHost(t, Config{})
		if len(hosts) > 0 {
			connect(t, h, hosts[len(hosts)-1])
		}
		discover(t, h, Discovery{DHT: DHTServer, Target: 1})
		hosts = append(hosts, h)
	}
	wanted := hosts[0]
	h := newHost(t, Config{})
	connect(t, h, hosts[len(hosts)-1])
	discover(t, h, Discovery{DHT: DHTClient, Wanted: []peer.ID{wanted.ID()}, Target: 1})
	waitConnected(t, h, wanted.ID(), true)
}

func TestWalksThroughTheDHTFindPeersUpToTheTarget(t *testing.T) {
	middle := newHost(t, Config{})
	discover(t, middle, Discovery{DHT: DHTServer, Target: 1})
	for range 4 {
		h := newHost(t, Config{})
		connect(t, h, middle)
		discover(t, h, Discovery{DHT: DHTServer, Target: 1})
	}
	h := newHost(t, Config{})
	connect(t, h, middle)
	discover(t, h, Discovery{DHT: DHTAuto, Target: 4})
	changed, stop := h.watch.add(anyPeer)
	defer stop()
	ctx := deadline(t)
	for len(h.greet.peers()) < 4 {
		if !waitFor(ctx, changed, forever) {
			t.Fatalf("%d peers", len(h.greet.peers()))
		}
	}
}

func TestDHTModeIsReadFromItsName(t *testing.T) {
	for _, m := range []DHTMode{DHTOff, DHTAuto, DHTClient, DHTServer} {
		if got, err := ParseDHTMode(string(m)); got != m || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if _, err := ParseDHTMode("on"); err == nil {
		t.Error("no error")
	}
}
