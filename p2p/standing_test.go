package p2p

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"
)

// newTestStandings returns standings without a host, with a topic "t" of 100 messages per second, and what was banned.
func newTestStandings(protected ...peer.ID) (*standings, map[peer.ID]Fault) {
	s, parted := newStandings(protected), make(map[peer.ID]Fault)
	s.part = func(p peer.ID, f Fault) { parted[p] = f }
	s.rates.store("t", 100)
	return s, parted
}

func messages(topic string, n int) *pubsub.RPC {
	rpc := &pubsub.RPC{}
	for i := range n {
		rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &topic, Data: fmt.Append(nil, i)})
	}
	return rpc
}

func TestQuotaIsPerPeerAndTopicAndFillsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newTestStandings()
		s.rates.store("u", 100)
		for _, c := range []struct {
			from  peer.ID
			topic string
			wait  time.Duration
			n     int
			want  int
		}{
			{"a", "t", 0, 300, 200}, // twice a second's worth
			{"a", "t", 0, 10, 0},
			{"a", "u", 0, 10, 10},
			{"b", "t", 0, 10, 10},
			{"a", "t", time.Second / 2, 100, 50},
			{"a", "t", time.Hour, 300, 200},
			{"a", "of nobody", 0, 10, 0},
		} {
			time.Sleep(c.wait) //nolint:forbidigo // of the test's own clock
			rpc := messages(c.topic, c.n)
			if err := s.inspect(c.from, rpc); err != nil || len(rpc.Publish) != c.want {
				t.Errorf("%+v: %d passed, %v", c, len(rpc.Publish), err)
			}
			for range rpc.Publish {
				s.checked(c.from)
			}
		}
		if left := s.waiting.Load(); left != 0 {
			t.Errorf("%d places taken", left)
		}
	})
}

func TestQueueNeverFillsHoweverManyCrowdIt(t *testing.T) {
	s, parted := newTestStandings("validator")
	s.rates.store("t", 1<<20)
	for i := range 200 {
		rpc := messages("t", 1200)
		if err := s.inspect(peer.ID(fmt.Sprint(i)), rpc); err != nil {
			t.Fatal(err)
		}
		if len(rpc.Publish) == 0 {
			t.Fatalf("no room for peer %d, %d places taken", i, s.waiting.Load())
		}
		if i > 50 {
			break
		}
	}
	last := messages("t", 10)
	if err := s.inspect("validator", last); err != nil || len(last.Publish) == 0 {
		t.Errorf("no room for a protected peer: %d passed, %v", len(last.Publish), err)
	}
	if len(parted) != 0 {
		t.Errorf("banned because others crowd the queue: %v", parted)
	}
	for i := range 200 {
		s.forgetWaiting(peer.ID(fmt.Sprint(i)))
	}
	s.forgetWaiting("validator")
	if left := s.waiting.Load(); left != 0 {
		t.Errorf("%d places taken", left)
	}
}

func TestFaultsAreForgottenAndBansEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, parted := newTestStandings()
		for range 7 {
			s.fault("a", FaultInvalid, 1)
		}
		if len(parted) != 0 {
			t.Fatal("banned too soon")
		}
		if held := s.held("a"); held != 35 {
			t.Errorf("%v points, want 35", held)
		}
		time.Sleep(faultHalfLife) //nolint:forbidigo // of the test's own clock
		if held := s.held("a"); held != 17.5 {
			t.Errorf("%v points, want 17.5", held)
		}
		for range 5 {
			s.fault("a", FaultInvalid, 1)
		}
		if f, ok := parted["a"]; !ok || f != FaultInvalid || !s.bans.has("a") {
			t.Errorf("not banned: %v", parted)
		}
		time.Sleep(banTime) //nolint:forbidigo // of the test's own clock
		if s.bans.has("a") || len(s.bans.all()) != 0 {
			t.Error("the ban does not end")
		}
	})
}

func TestOnlySustainedFloodBansAndNeverAProtectedPeer(t *testing.T) {
	s, parted := newTestStandings("validator")
	for range floodSize*banPoints - 1 {
		s.exceed("a", 1)
		s.exceed("validator", 1000)
	}
	if len(parted) != 0 {
		t.Fatalf("banned: %v", parted)
	}
	for range 2 * floodSize { // some is forgotten meanwhile
		s.exceed("a", 1)
	}
	if _, ok := parted["a"]; !ok || len(parted) != 1 {
		t.Errorf("banned: %v", parted)
	}
	for range 9 {
		s.fault("validator", FaultInvalid, 1)
	}
	if _, ok := parted["validator"]; !ok {
		t.Error("a protected peer that sends what is invalid is not banned")
	}
}

func TestAddressOfThreeBannedPeersIsKeptOutUnlessPrivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBans()
		public, home := multiaddr.StringCast("/ip4/8.8.8.8/tcp/1"), multiaddr.StringCast("/ip4/192.168.1.9/udp/1/quic-v1")
		for i := range bansPerAddr {
			if b.hasAddr(public) {
				t.Errorf("kept out after %d", i)
			}
			b.addAddr(public)
			b.addAddr(home)
		}
		if !b.hasAddr(multiaddr.StringCast("/ip4/8.8.8.8/udp/2/quic-v1")) || b.hasAddr(home) {
			t.Error("want the public address kept out and the private one let in")
		}
		time.Sleep(banTime) //nolint:forbidigo // of the test's own clock
		if b.hasAddr(public) {
			t.Error("the ban does not end")
		}
	})
}

func TestBansAreBounded(t *testing.T) {
	b := newBans()
	for i := range bansKept + 100 {
		b.add(peer.ID(fmt.Sprint(i)))
	}
	if n := len(b.all()); n > bansKept || !b.has(peer.ID(fmt.Sprint(bansKept+99))) {
		t.Errorf("%d bans kept", n)
	}
}

func TestWhoRepeatsWhatIsKnownIsBannedAndWhoHandsOverEverythingOnceIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, parted := newTestStandings()
		s.of("honest")
		s.of("replays")
		for second := 0; second < 60 && len(parted) == 0; second++ {
			for range 1000 {
				s.delivered.Add(1)
				s.copied("honest")
				s.copied("replays")
			}
			for range 400 {
				s.copied("replays")
			}
			s.countCopies()
			time.Sleep(time.Second) //nolint:forbidigo // of the test's own clock
		}
		if _, ok := parted["replays"]; !ok || len(parted) != 1 {
			t.Errorf("banned: %v", parted)
		}
		if held := s.held("honest"); held != 0 {
			t.Errorf("%v points held against the honest peer", held)
		}
	})
}

func TestStandingIsThatOfThePeerWhoeverWasLookedUpBefore(t *testing.T) {
	s, _ := newTestStandings()
	a, b := s.of("a"), s.of("b")
	for range 2 {
		for p, want := range map[peer.ID]*standing{"a": a, "b": b} {
			if s.of(p) != want {
				t.Errorf("of(%s) is another's", p)
			}
			if st, ok := s.known(p); !ok || st != want {
				t.Errorf("known(%s) is another's", p)
			}
			if _, ok := s.known("c"); ok {
				t.Error("a peer is known of which nothing was heard")
			}
		}
	}
}

// BenchmarkConduct is what a copy of a known message costs besides gossipsub's own work, with senders that take turns.
func BenchmarkConduct(b *testing.B) {
	s, _ := newTestStandings()
	s.rates.store("t", 1<<30)
	var peers []peer.ID
	for i := range 10 {
		peers = append(peers, peer.ID(fmt.Sprintf("a peer with an id of usual length %d", i)))
		s.of(peers[i]).rpcs = rate.NewLimiter(1<<30, 1<<30)
	}
	rpc := messages("t", 1)
	m := rpc.Publish[0]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		from := peers[i%len(peers)]
		rpc.Publish = append(rpc.Publish[:0], m)
		if err := s.inspect(from, rpc); err != nil || len(rpc.Publish) != 1 {
			b.Fatal("dropped", err)
		}
		s.held(from)
		s.checked(from)
		s.copied(from)
	}
}
