package p2p

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"
)

// Stats counts the gossip messages that were lost or dropped on this host since it started. In a
// healthy network all but Rejected and Ignored stay at zero.
type Stats struct {
	Rejected    uint64 // the sender's fault
	Ignored     uint64 // dropped by Validate without blame
	Throttled   uint64 // dropped because too many waited for Validate
	Undelivered uint64 // Handle was too slow
	Unsent      uint64 // RPCs that found a peer's outbound queue full
}

// Traffic counts what gossip sent and received on this host since it started: RPCs, which carry messages and
// control, as they are on the stream, without what the transport adds.
type Traffic struct {
	MessagesSent     uint64 // copies of messages, one for each peer that got one
	MessagesReceived uint64 // copies of messages: Delivered, Duplicates, and what Stats counts as dropped
	Delivered        uint64 // messages of others that Validate accepted
	Duplicates       uint64 // copies of messages that were known already
	BytesSent        uint64 // messages and control
	BytesReceived    uint64
}

// meshTracer follows what gossipsub keeps to itself: to whom streams are open and who is in which mesh. Its
// methods run inside gossipsub's loop and must not block.
type meshTracer struct {
	mu      sync.Mutex
	streams map[peer.ID]bool
	mesh    map[string]map[peer.ID]bool
	changed chan struct{} // closed and replaced at every change

	rejected, ignored, throttled, undelivered, unsent atomic.Uint64

	messagesSent, messagesReceived, delivered, duplicates, bytesSent, bytesReceived atomic.Uint64
}

var _ pubsub.RawTracer = (*meshTracer)(nil)

func newMeshTracer() *meshTracer {
	return &meshTracer{
		streams: make(map[peer.ID]bool),
		mesh:    make(map[string]map[peer.ID]bool),
		changed: make(chan struct{}),
	}
}

// wait returns when streams to all of peers are open and the topic's mesh has at least degree members.
func (t *meshTracer) wait(ctx context.Context, topic string, peers map[peer.ID]bool, degree int) error {
	ready := func() (bool, <-chan struct{}) {
		t.mu.Lock()
		defer t.mu.Unlock()
		for p := range peers {
			if !t.streams[p] {
				return false, t.changed
			}
		}
		return len(t.mesh[topic]) >= degree, t.changed
	}
	for {
		ok, changed := ready()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *meshTracer) update(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *meshTracer) OnNewOutboundStream(p peer.ID, _ protocol.ID) {
	t.update(func() { t.streams[p] = true })
}

func (t *meshTracer) OnClosedOutboundStream(p peer.ID) {
	t.update(func() {
		delete(t.streams, p)
		for _, members := range t.mesh {
			delete(members, p)
		}
	})
}

func (t *meshTracer) Graft(p peer.ID, topic string) {
	t.update(func() {
		if t.mesh[topic] == nil {
			t.mesh[topic] = make(map[peer.ID]bool)
		}
		t.mesh[topic][p] = true
	})
}

func (t *meshTracer) Prune(p peer.ID, topic string) {
	t.update(func() { delete(t.mesh[topic], p) })
}

func (t *meshTracer) RejectMessage(_ *pubsub.Message, reason string) {
	switch reason {
	case pubsub.RejectValidationIgnored:
		t.ignored.Add(1)
	case pubsub.RejectValidationQueueFull:
		t.throttled.Add(1)
	default:
		t.rejected.Add(1)
	}
}

func (t *meshTracer) DeliverMessage(*pubsub.Message)   { t.delivered.Add(1) }
func (t *meshTracer) DuplicateMessage(*pubsub.Message) { t.duplicates.Add(1) }

func (t *meshTracer) RecvRPC(rpc *pubsub.RPC) {
	t.messagesReceived.Add(uint64(len(rpc.GetPublish())))
	t.bytesReceived.Add(uint64(proto.Size(&rpc.RPC)))
}

func (t *meshTracer) SendRPC(rpc *pubsub.RPC, _ peer.ID) {
	t.messagesSent.Add(uint64(len(rpc.GetPublish())))
	t.bytesSent.Add(uint64(proto.Size(&rpc.RPC)))
}

func (t *meshTracer) UndeliverableMessage(*pubsub.Message) { t.undelivered.Add(1) }
func (t *meshTracer) DropRPC(*pubsub.RPC, peer.ID)         { t.unsent.Add(1) }

func (t *meshTracer) Join(string)                                          {}
func (t *meshTracer) Leave(string)                                         {}
func (t *meshTracer) ValidateMessage(*pubsub.Message)                      {}
func (t *meshTracer) ThrottlePeer(peer.ID)                                 {}
func (t *meshTracer) SendRPCCompleted(*pubsub.RPC, peer.ID, time.Duration) {}

// Stats returns the counters of lost and dropped gossip.
func (h *Host) Stats() Stats {
	return Stats{
		Rejected:    h.mesh.rejected.Load(),
		Ignored:     h.mesh.ignored.Load(),
		Throttled:   h.mesh.throttled.Load(),
		Undelivered: h.mesh.undelivered.Load(),
		Unsent:      h.mesh.unsent.Load(),
	}
}

// Traffic returns the counters of gossip that was sent and received.
func (h *Host) Traffic() Traffic {
	return Traffic{
		MessagesSent:     h.mesh.messagesSent.Load(),
		MessagesReceived: h.mesh.messagesReceived.Load(),
		Delivered:        h.mesh.delivered.Load(),
		Duplicates:       h.mesh.duplicates.Load(),
		BytesSent:        h.mesh.bytesSent.Load(),
		BytesReceived:    h.mesh.bytesReceived.Load(),
	}
}
