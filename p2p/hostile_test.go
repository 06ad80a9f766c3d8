package p2p

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/p2p/p2ptest"
)

// target is two honest hosts that gossip, of which one is attacked.
type target struct {
	victim, friend *Host
	out            chan got
	to             *Topic // the friend's
}

func newTarget(t testing.TB, cfg Config) *target {
	t.Helper()
	hosts := newHosts(t, 2, cfg)
	g := &target{victim: hosts[0], friend: hosts[1], out: make(chan got, 1<<16)}
	topics := []*Topic{join(t, g.victim, g.out), join(t, g.friend, make(chan got, 1<<16))}
	g.to = topics[1]
	allReady(t, topics)
	return g
}

// attack connects a hostile peer to the victim.
func (g *target) attack(t testing.TB) *p2ptest.Attacker {
	t.Helper()
	a, err := p2ptest.New("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	if err := a.Connect(deadline(t), g.victim.Addrs()...); err != nil {
		t.Fatal(err)
	}
	return a
}

func (g *target) gossip(t testing.TB, a *p2ptest.Attacker) *p2ptest.Gossip {
	t.Helper()
	s, err := a.Gossip(deadline(t), g.victim.ID(), "order")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// responds checks that the victim hears its friend.
func (g *target) responds(t testing.TB, msg string) {
	t.Helper()
	if err := g.to.Publish(deadline(t), []byte(msg)); err != nil {
		t.Fatal(err)
	}
	for receive(t, g.out).msg != msg { //nolint:revive // what the attacker said before is skipped
	}
	if s := g.victim.Scores()[g.friend.ID()]; s.Faults != 0 || s.Total < 0 {
		t.Errorf("the honest peer's score: %+v", s)
	}
}

// endsBanned checks that the victim throws the attacker out and does not let it in again.
func (g *target) endsBanned(t testing.TB, a *p2ptest.Attacker) {
	t.Helper()
	select {
	case <-a.Gone(g.victim.ID()):
	case <-deadline(t).Done():
		t.Fatalf("still connected: %+v, %v", g.victim.Stats(), g.victim.Scores()[a.ID()])
	}
	if g.victim.Scores()[a.ID()].BannedUntil.IsZero() {
		t.Error("not banned")
	}
	if err := a.Connect(deadline(t), g.victim.Addrs()...); err == nil {
		select { // the dialler may think for a moment that it is in
		case <-a.Gone(g.victim.ID()):
		case <-deadline(t).Done():
			t.Error("let in again")
		}
	}
}

// flood sends what make returns, hundreds at a time, until it is stopped.
func flood(t testing.TB, s *p2ptest.Gossip, most int, message func(i int) string) {
	t.Helper()
	i := 0
	_, err := s.Flood(deadline(t), "order", func() (batch [][]byte) {
		for ; len(batch) < 256 && i < most; i++ {
			batch = append(batch, []byte(message(i)))
		}
		return batch
	})
	t.Logf("%d messages: %v", i, err)
}

func TestFloodOfValidMessagesEndsInABan(t *testing.T) {
	g := newTarget(t, Config{})
	a := g.attack(t)
	flood(t, g.gossip(t, a), 1<<20, func(i int) string { return fmt.Sprint("valid ", i) })
	g.endsBanned(t, a)
	g.responds(t, "still here")
	if s := g.victim.Stats(); s.OverQuota == 0 || s.Banned != 1 || s.Throttled > 0 {
		t.Errorf("%+v", s)
	}
}

func TestFloodOfInvalidMessagesEndsInABan(t *testing.T) {
	g := newTarget(t, Config{})
	a := g.attack(t)
	flood(t, g.gossip(t, a), 1<<20, func(i int) string { return fmt.Sprint("bad ", i) })
	g.endsBanned(t, a)
	g.responds(t, "still here")
}

func TestPeerThatIsNotHeardAnyMoreIsBannedForWhatItSaidBefore(t *testing.T) {
	g := newTarget(t, Config{})
	a := g.attack(t)
	scored := func(score float64) {
		g.victim.scored(map[peer.ID]float64{a.ID(): score})
	}
	scored(graylistThreshold - 1) // many that share its address, say
	for range 6 {                 // too few for a ban
		g.victim.Fault(a.ID(), FaultInvalid)
	}
	scored(graylistThreshold)
	if !g.victim.Scores()[a.ID()].BannedUntil.IsZero() {
		t.Error("banned without reason")
	}
	scored(graylistThreshold - 1)
	g.endsBanned(t, a)
}

// attackProtected connects a hostile peer to a victim that protects it, as a validator would be.
func attackProtected(t testing.TB) (*target, *p2ptest.Attacker) {
	t.Helper()
	a, err := p2ptest.New("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	g := &target{victim: newHost(t, Config{Protected: []peer.ID{a.ID()}}), friend: newHost(t, Config{}), out: make(chan got, 1<<16)}
	connect(t, g.victim, g.friend)
	topics := []*Topic{join(t, g.victim, g.out), join(t, g.friend, make(chan got, 1<<16))}
	g.to = topics[1]
	allReady(t, topics)
	if err := a.Connect(deadline(t), g.victim.Addrs()...); err != nil {
		t.Fatal(err)
	}
	return g, a
}

func TestProtectedPeerIsSlowedAndNotBannedForLoad(t *testing.T) {
	g, a := attackProtected(t)
	s := g.gossip(t, a)
	flood(t, s, 8*DefaultRate, func(i int) string { return fmt.Sprint("valid ", i) })
	g.responds(t, "still here")
	if s := g.victim.Scores()[a.ID()]; s.Faults != 0 || !s.BannedUntil.IsZero() || !g.victim.Connected(a.ID()) {
		t.Errorf("protected peer: %+v", s)
	}
	flood(t, s, 1<<20, func(i int) string { return fmt.Sprint("bad ", i) })
	g.endsBanned(t, a)
}

func TestReplayOverQuotaDoesNotSuppressWhatItReplays(t *testing.T) {
	g, a := attackProtected(t)
	s := g.gossip(t, a)
	// The attacker exhausts its quota, and only then sends what the friend is about to say.
	flood(t, s, 4*DefaultRate, func(i int) string {
		if i < 4*DefaultRate-100 {
			return fmt.Sprint("odd ", i)
		}
		return "overtaken"
	})
	g.responds(t, "overtaken")
}

func TestMalformedGossipEndsInABan(t *testing.T) {
	huge := binary.AppendUvarint(nil, maxRPC+1)
	noRPC := append(binary.AppendUvarint(nil, 4), 0xff, 0xff, 0xff, 0xff)
	for name, bytes := range map[string][]byte{"a frame over the limit": huge, "no RPC": noRPC} {
		t.Run(name, func(t *testing.T) {
			g := newTarget(t, Config{})
			a := g.attack(t)
			for ctx := deadline(t); !g.victim.standings.bans.has(a.ID()) && ctx.Err() == nil; {
				s, err := a.Gossip(deadline(t), g.victim.ID(), "order")
				if err == nil {
					err = s.Raw(bytes)
				}
				if err != nil {
					t.Log(err) // the ban may come at any moment
				}
			}
			g.endsBanned(t, a)
			g.responds(t, "still here")
		})
	}
}

func TestSpamOfControlAndSubscriptionsEndsInABan(t *testing.T) {
	ids := make([]string, 4000)
	for i := range ids {
		ids[i] = fmt.Sprintf("%020d", i)
	}
	for name, send := range map[string]func(*p2ptest.Gossip) error{
		"announcements of messages": func(s *p2ptest.Gossip) error { return s.Have("order", ids...) },
		"wishes for messages":       func(s *p2ptest.Gossip) error { return s.Want(ids...) },
		"topics": func(s *p2ptest.Gossip) error {
			return s.Subscribe(true, strings.Fields(strings.Repeat("nothing ", 64))...)
		},
		"coming and going": func(s *p2ptest.Gossip) error {
			if err := s.Subscribe(false, "order"); err != nil {
				return err
			}
			return s.Subscribe(true, "order")
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTarget(t, Config{})
			a := g.attack(t)
			s := g.gossip(t, a)
			for range 1 << 16 {
				if err := send(s); err != nil {
					break
				}
			}
			g.endsBanned(t, a)
			g.responds(t, "still here")
		})
	}
}

func TestSlowRequestsEndInABan(t *testing.T) {
	for name, listen := range map[string][]multiaddr.Multiaddr{"QUIC": overQUIC, "TCP": overTCP} {
		t.Run(name, func(t *testing.T) {
			g := newTarget(t, Config{Listen: listen})
			if err := g.victim.Serve(ServeConfig{Name: "blob", MaxRequest: 1 << 10, Handle: echo}); err != nil {
				t.Fatal(err)
			}
			a := g.attack(t)
			for range servePerPeer {
				s, err := a.Open(deadline(t), g.victim.ID(), "blob")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Write([]byte{100, 'x'}); err != nil { // one byte of a hundred
					t.Fatal(err)
				}
			}
			if _, err := g.friend.Request(deadline(t), g.victim.ID(), "blob", []byte("x"), 10); err != nil {
				t.Error(err)
			}
			g.endsBanned(t, a)
			g.responds(t, "still here")
		})
	}
}

func TestStreamsWithoutEndEndInABan(t *testing.T) {
	g := newTarget(t, Config{})
	a := g.attack(t)
	for ctx := deadline(t); !g.victim.standings.bans.has(a.ID()) && ctx.Err() == nil; {
		var streams []network.Stream
		for range 64 {
			s, err := a.OpenBare(deadline(t), g.victim.ID())
			if err == nil {
				_, err = s.Write([]byte{1})
			}
			if err != nil {
				break
			}
			streams = append(streams, s)
		}
		for _, s := range streams {
			_ = s.Reset()
		}
	}
	g.endsBanned(t, a)
	g.responds(t, "still here")
}

func TestFloodOfRequestsIsToldToWaitAndEndsInABan(t *testing.T) {
	g := newTarget(t, Config{})
	if err := g.victim.Serve(ServeConfig{Name: "blob", MaxRequest: 10, Rate: 1, Handle: echo}); err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context) error {
		_, err := g.friend.Request(ctx, g.victim.ID(), "blob", []byte("x"), 10)
		return err
	}
	busy := 0
	for range 8 {
		if err := ask(deadline(t)); err != nil {
			busy++
		}
	}
	if busy == 0 {
		t.Error("nobody was told to wait")
	}
	if s := g.victim.Scores()[g.friend.ID()]; s.Faults != 0 {
		t.Errorf("a few too many are no fault: %+v", s)
	}
}

func TestPeersThatComeAndGoWithoutEndLeaveNothingBehind(t *testing.T) {
	g := newTarget(t, Config{})
	const rounds, identities = 8, 16
	for range identities {
		a, err := p2ptest.New("test")
		if err != nil {
			t.Fatal(err)
		}
		for range rounds {
			if err := a.Connect(deadline(t), g.victim.Addrs()...); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Gossip(deadline(t), g.victim.ID(), "order"); err != nil {
				t.Log(err) // the victim may have ended the connection, as this host never says hello
			}
			if err := a.Disconnect(g.victim.ID()); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	g.responds(t, "still here")
	changed, stop := g.victim.watch.add(anyPeer)
	defer stop()
	for {
		mesh := g.victim.mesh.change()
		g.victim.greet.mu.Lock()
		greeted := len(g.victim.greet.conns)
		g.victim.greet.mu.Unlock()
		conns, peers := len(g.victim.host.Network().Conns()), g.victim.gossip.ListPeers(g.victim.id("order"))
		if greeted == 1 && conns == 1 && len(peers) == 1 && peers[0] == g.friend.ID() {
			return
		}
		select {
		case <-changed:
		case <-mesh:
		case <-deadline(t).Done():
			t.Fatalf("%d connections, %d greeted, in the topic %v: want the friend alone", conns, greeted, peers)
		}
	}
}

func TestOtherNetworksCountForNothing(t *testing.T) {
	g := newTarget(t, Config{})
	a, err := p2ptest.New("other")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	if err := a.Connect(deadline(t), g.victim.Addrs()...); err != nil {
		t.Fatal(err)
	}
	flood(t, g.gossip(t, a), 1<<20, func(i int) string { return fmt.Sprint("valid ", i) })
	g.endsBanned(t, a)
	g.responds(t, "still here")
	if s := g.victim.Stats(); s.Rejected+s.Ignored+s.Throttled > 0 {
		t.Errorf("%+v", s)
	}
}
