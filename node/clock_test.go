package node

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/p2p"
)

func TestClockIsComparedWithTheMedianPeer(t *testing.T) {
	s := newSwarm(t, 1)
	s.launch(s.payer)
	n := s.payer.node
	if c := n.Clock(soon(t)); c.Peers != 0 || c.AheadUS != 0 {
		t.Errorf("of no peers: %+v", c)
	}
	const hour = int64(time.Hour / time.Microsecond)
	for i, off := range []int64{-3 * hour, -3 * hour, 100 * hour} { // the last one lies
		h := s.bareHost(testIdentity(t, string(rune('a'+i))))
		if err := h.Serve(p2p.ServeConfig{Name: protocolClock, MaxRequest: 1, Handle: func(context.Context, peer.ID, []byte) ([]byte, error) {
			return binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixMicro()+off)), nil
		}}); err != nil {
			t.Fatal(err)
		}
		if err := n.Host().Connect(soon(t), h.Addrs()...); err != nil {
			t.Fatal(err)
		}
	}
	mute := s.bareHost(testIdentity(t, "mute"))
	if err := n.Host().Connect(soon(t), mute.Addrs()...); err != nil {
		t.Fatal(err)
	}
	if err := mute.Serve(p2p.ServeConfig{Name: protocolClock, MaxRequest: 1, Handle: func(context.Context, peer.ID, []byte) ([]byte, error) {
		return []byte("noon"), nil
	}}); err != nil {
		t.Fatal(err)
	}
	c := n.Clock(soon(t))
	if off := c.AheadUS - 3*hour; c.Peers != 3 || off < -hour/60 || off > hour/60 {
		t.Errorf("%+v, want three hours ahead of 3 peers", c)
	}
	s.launch(s.validators[0])
	if err := n.Host().Connect(soon(t), s.validators[0].node.Host().Addrs()...); err != nil {
		t.Fatal(err)
	}
	if d, err := n.ahead(soon(t), s.validators[0].node.Host().ID()); err != nil || d < -hour/60 || d > hour/60 {
		t.Errorf("a node of this machine is %d µs off, %v", d, err)
	}
}
