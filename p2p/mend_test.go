package p2p

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// soonMended makes hosts look after forgotten peers without delay.
func soonMended(s *gossipSettings) { s.grace = 50 * time.Millisecond }

func TestPeerThatGossipForgotIsConnectedAnew(t *testing.T) {
	a, b := newHost(t, Config{tune: soonMended}), newHost(t, Config{tune: soonMended})
	out := make(chan got, 16)
	topics := []*Topic{join(t, a, out), join(t, b, out)}
	if err := a.Keep(b.Addrs()...); err != nil {
		t.Fatal(err)
	}
	allReady(t, topics)
	events, err := topics[0].topic.EventHandler()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Cancel()
	next := func(want pubsub.EventType) {
		t.Helper()
		for {
			e, err := events.NextPeerEvent(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == want {
				return
			}
		}
	}
	next(pubsub.PeerJoin)
	// As when one of two connections ends: a's stream to b breaks, b's to a does not.
	reset := 0
	for _, c := range b.host.Network().ConnsToPeer(a.ID()) {
		for _, s := range c.GetStreams() {
			if s.Stat().Direction == network.DirInbound && slices.Contains(pubsub.GossipSubDefaultProtocols, s.Protocol()) {
				_ = s.Reset()
				reset++
			}
		}
	}
	if reset != 1 {
		t.Fatalf("%d gossip streams", reset)
	}
	next(pubsub.PeerLeave)
	next(pubsub.PeerJoin) // which without mending never comes
	allReady(t, topics)
	if err := topics[0].Publish(deadline(t), []byte("are you there")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		receive(t, out)
	}
}

func TestPeerThatLeftATopicIsNotForgotten(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	topic := join(t, a, nil)
	sub, err := b.gossip.Join(b.id("order"))
	if err != nil {
		t.Fatal(err)
	}
	in, err := sub.Subscribe()
	if err != nil {
		t.Fatal(err)
	}
	connect(t, a, b)
	if err := a.mesh.wait(deadline(t), a.id("order"), map[peer.ID]bool{b.ID(): true}, 0); err != nil {
		t.Fatal(err)
	}
	events, err := topic.topic.EventHandler()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Cancel()
	for _, want := range []pubsub.EventType{pubsub.PeerJoin, pubsub.PeerLeave} {
		e, err := events.NextPeerEvent(deadline(t))
		if err != nil || e.Type != want {
			t.Fatalf("got %v, %v", e, err)
		}
		if a.forgotten(b.ID()) {
			t.Errorf("forgotten after event %d", e.Type)
		}
		in.Cancel()
	}
}

func TestMenderWaitsLongerEachTimeInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMender(nil, time.Second)
		p := peer.ID("p")
		for _, wait := range []time.Duration{0, 2 * time.Second, 4 * time.Second} {
			m.wait[p] = wait
			m.suspect(p)
			m.suspect(p)
			if got := time.Until(m.due[p]); got != max(wait, time.Second) {
				t.Errorf("got %v, want %v", got, wait)
			}
			delete(m.due, p)
		}
	})
}
