package p2p

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"
)

// Counts are what became of gossip messages. In a healthy network all but Delivered, Duplicates, Rejected and
// Ignored stay at zero.
type Counts struct {
	Delivered   uint64 `json:"delivered"`   // of other peers, new and valid
	Duplicates  uint64 `json:"duplicates"`  // came once more
	Rejected    uint64 `json:"rejected"`    // the sender's fault
	Ignored     uint64 `json:"ignored"`     // dropped by Validate without blame
	Throttled   uint64 `json:"throttled"`   // dropped because too many waited for Validate
	Undelivered uint64 `json:"undelivered"` // Handle was too slow
}

// Stats counts the gossip messages of all topics on this host since it started, and what it refused.
type Stats struct {
	Counts
	Unsent    uint64 `json:"unsent"`     // RPCs that found a peer's outbound queue full; zero in a healthy network
	Crowded   uint64 `json:"crowded"`    // messages of peers that held their share of the places before Validate
	OverQuota uint64 `json:"over_quota"` // messages, announcements and control entries of peers that sent too many
	Refused   uint64 `json:"refused"`    // requests and streams of peers that sent too many
	Banned    uint64 `json:"banned"`     // times that a peer was disconnected and kept out for its faults
}

// Lost is the number of messages, and RPCs full of them, that were lost for want of room: a sign that this host, or a peer, can't
// keep up.
func (s Stats) Lost() uint64 { return s.Throttled + s.Undelivered + s.Unsent }

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

// TopicStats is what a host knows of one of its topics.
type TopicStats struct {
	Name  string    `json:"name"`
	Peers int       `json:"peers"` // connected ones that are in the topic
	Mesh  []peer.ID `json:"mesh"`  // of these, the ones that exchange all messages with this host, ascending
	Counts
	BytesIn  uint64 `json:"bytes_in"`  // of messages with duplicates, without overhead
	BytesOut uint64 `json:"bytes_out"` // likewise
}

// meshTracer follows what gossipsub keeps to itself: to whom streams are open, who is in which mesh, and what becomes
// of messages. Its methods run inside gossipsub's loop and must not block.
type meshTracer struct {
	standings *standings

	mu      sync.Mutex
	streams map[peer.ID]bool
	mesh    map[string]map[peer.ID]bool
	changed chan struct{} // closed and replaced at every change
	// announced are the topics of ours in which a connected peer says it is.
	announced map[peer.ID]map[string]bool
	suspect   func(peer.ID) // called when the stream to a peer ended; nil for a Tracer

	counters map[string]*topicCounters // by topic id; complete before gossip starts
	foreign  topicCounters             // of all topics that are not ours
	unsent   atomic.Uint64

	messagesSent, messagesReceived, bytesSent, bytesReceived atomic.Uint64 // see Traffic
}

// topicCounters count what became of a topic's messages.
type topicCounters struct {
	delivered, duplicates, rejected, ignored, throttled, undelivered, in, out atomic.Uint64
}

func (c *topicCounters) counts() Counts {
	return Counts{
		Delivered: c.delivered.Load(), Duplicates: c.duplicates.Load(), Rejected: c.rejected.Load(), Ignored: c.ignored.Load(),
		Throttled: c.throttled.Load(), Undelivered: c.undelivered.Load(),
	}
}

func (c *Counts) add(o Counts) {
	c.Delivered += o.Delivered
	c.Duplicates += o.Duplicates
	c.Rejected += o.Rejected
	c.Ignored += o.Ignored
	c.Throttled += o.Throttled
	c.Undelivered += o.Undelivered
}

var _ pubsub.RawTracer = (*meshTracer)(nil)

func newMeshTracer(st *standings) *meshTracer {
	return &meshTracer{
		standings: st,
		streams:   make(map[peer.ID]bool),
		announced: make(map[peer.ID]map[string]bool),
		mesh:      make(map[string]map[peer.ID]bool),
		changed:   make(chan struct{}),
		counters:  make(map[string]*topicCounters),
	}
}

// topic returns the counters of the topic with an id.
func (t *meshTracer) topic(id string) *topicCounters {
	if c, ok := t.counters[id]; ok {
		return c
	}
	return &t.foreign
}

// members returns who is in a topic's mesh, in no order.
func (t *meshTracer) members(topic string) []peer.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.AppendSeq(make([]peer.ID, 0, len(t.mesh[topic])), maps.Keys(t.mesh[topic]))
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

// change returns a channel that is closed at the next change.
func (t *meshTracer) change() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// anyStream says whether gossipsub has a stream to anybody.
func (t *meshTracer) anyStream() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams) > 0
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
	if t.suspect != nil {
		t.suspect(p)
	}
}

// announce notes which topics a peer says it is in, or is not in any more.
func (t *meshTracer) announce(r *pubsub.RPC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := r.From()
	for _, s := range r.GetSubscriptions() {
		if _, ours := t.counters[s.GetTopicid()]; !ours {
			continue
		}
		if !s.GetSubscribe() {
			delete(t.announced[p], s.GetTopicid())
			continue
		}
		if t.announced[p] == nil {
			t.announced[p] = make(map[string]bool)
		}
		t.announced[p][s.GetTopicid()] = true
	}
}

// forget drops what a peer announced that is not connected any more.
func (t *meshTracer) forget(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.announced, p)
}

// knows says whether a stream to a peer is open, and which topics the peer has announced.
func (t *meshTracer) knows(p peer.ID) (stream bool, topics []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams[p], slices.Collect(maps.Keys(t.announced[p]))
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

func (t *meshTracer) RejectMessage(m *pubsub.Message, reason string) {
	c := t.topic(m.GetTopic())
	switch reason {
	case pubsub.RejectValidationIgnored:
		c.ignored.Add(1)
	case pubsub.RejectValidationQueueFull:
		t.standings.checked(m.ReceivedFrom)
		c.throttled.Add(1)
	case pubsub.RejectValidationFailed:
		c.rejected.Add(1)
		t.standings.fault(m.ReceivedFrom, FaultInvalid, 1)
	default: // before validation: a signature or an author where none belongs
		t.standings.checked(m.ReceivedFrom)
		c.rejected.Add(1)
		t.standings.fault(m.ReceivedFrom, FaultInvalid, 1)
	}
}

func (t *meshTracer) DeliverMessage(m *pubsub.Message) {
	t.topic(m.GetTopic()).delivered.Add(1)
	t.standings.delivered.Add(1)
}

func (t *meshTracer) DuplicateMessage(m *pubsub.Message) {
	t.topic(m.GetTopic()).duplicates.Add(1)
	t.standings.checked(m.ReceivedFrom)
	t.standings.copied(m.ReceivedFrom)
}
func (t *meshTracer) UndeliverableMessage(m *pubsub.Message) {
	t.topic(m.GetTopic()).undelivered.Add(1)
}
func (t *meshTracer) DropRPC(*pubsub.RPC, peer.ID) { t.unsent.Add(1) }

func (t *meshTracer) RecvRPC(r *pubsub.RPC) {
	if t.suspect != nil && len(r.GetSubscriptions()) > 0 {
		t.announce(r)
	}
	t.messagesReceived.Add(uint64(len(r.GetPublish())))
	t.bytesReceived.Add(uint64(proto.Size(&r.RPC)))
	for _, m := range r.GetPublish() {
		t.topic(m.GetTopic()).in.Add(uint64(len(m.GetData())))
	}
}

func (t *meshTracer) SendRPC(r *pubsub.RPC, _ peer.ID) {
	t.messagesSent.Add(uint64(len(r.GetPublish())))
	t.bytesSent.Add(uint64(proto.Size(&r.RPC)))
	for _, m := range r.GetPublish() {
		t.topic(m.GetTopic()).out.Add(uint64(len(m.GetData())))
	}
}

func (t *meshTracer) Join(string)                                          {}
func (t *meshTracer) Leave(string)                                         {}
func (t *meshTracer) ValidateMessage(m *pubsub.Message)                    { t.standings.checked(m.ReceivedFrom) }
func (t *meshTracer) ThrottlePeer(peer.ID)                                 {}
func (t *meshTracer) SendRPCCompleted(*pubsub.RPC, peer.ID, time.Duration) {}

// Faults counts what was held against peers since the host started, by kind.
func (h *Host) Faults() map[Fault]uint64 {
	counts := make(map[Fault]uint64, len(points))
	for f := range points {
		counts[Fault(f)] = h.standings.faults[f].Load()
	}
	return counts
}

// Stats returns the counters of gossip over all topics, and of what was refused.
func (h *Host) Stats() Stats {
	s, st := h.mesh.Stats(), h.standings
	s.Crowded, s.OverQuota, s.Refused, s.Banned = st.crowded.Load(), st.overQuota.Load(), st.refused.Load(), st.banned.Load()
	return s
}

// Stats returns the counters of gossip over all topics.
func (t *meshTracer) Stats() Stats {
	s := Stats{Counts: t.foreign.counts(), Unsent: t.unsent.Load()}
	for _, c := range t.counters {
		s.add(c.counts())
	}
	return s
}

// Topics returns what is known of each of Config.Topics, in their order.
func (h *Host) Topics() []TopicStats {
	list := make([]TopicStats, 0, len(h.topicNames))
	for _, name := range h.topicNames {
		id := h.id(name)
		c, mesh := h.mesh.topic(id), h.mesh.members(id)
		slices.Sort(mesh)
		list = append(list, TopicStats{
			Name: name, Peers: len(h.gossip.ListPeers(id)), Mesh: mesh,
			Counts: c.counts(), BytesIn: c.in.Load(), BytesOut: c.out.Load(),
		})
	}
	return list
}

// Traffic returns the counters of gossip that was sent and received.
func (h *Host) Traffic() Traffic { return h.mesh.Traffic() }

// Traffic returns the counters of what was sent and received.
func (t *meshTracer) Traffic() Traffic {
	s := t.Stats()
	return Traffic{
		MessagesSent:     t.messagesSent.Load(),
		MessagesReceived: t.messagesReceived.Load(),
		Delivered:        s.Delivered,
		Duplicates:       s.Duplicates,
		BytesSent:        t.bytesSent.Load(),
		BytesReceived:    t.bytesReceived.Load(),
	}
}

// Tracer follows a gossipsub that runs without a [Host], as a Host follows its own, so that the two can be
// compared. Give it to pubsub.WithRawTracer.
type Tracer struct{ *meshTracer }

// NewTracer returns a Tracer for one gossipsub.
func NewTracer() Tracer { return Tracer{newMeshTracer(nil)} }

var _ pubsub.RawTracer = Tracer{}

// What a Host holds against peers, a Tracer only counts.

func (t Tracer) ValidateMessage(*pubsub.Message)           {}
func (t Tracer) DeliverMessage(m *pubsub.Message)          { t.topic(m.GetTopic()).delivered.Add(1) }
func (t Tracer) DuplicateMessage(m *pubsub.Message)        { t.topic(m.GetTopic()).duplicates.Add(1) }
func (t Tracer) RejectMessage(m *pubsub.Message, _ string) { t.topic(m.GetTopic()).rejected.Add(1) }

// WaitForPeers is what [Topic.WaitForPeers] does, for a topic of the gossipsub that is followed. low is the least
// number of peers that it wants in its mesh.
func (t Tracer) WaitForPeers(ctx context.Context, topic *pubsub.Topic, n, low int) error {
	if in, err := t.waitForPeers(ctx, topic, n, low); err != nil {
		return fmt.Errorf("p2p: %d of %d peers in topic %s: %w", in, n, topic, err)
	}
	return nil
}

// waitForPeers returns when n other peers are in the topic, streams to them are open and the mesh has
// min(n, low) of them; or with an error, and how many peers are in the topic.
func (t *meshTracer) waitForPeers(ctx context.Context, topic *pubsub.Topic, n, low int) (int, error) {
	events, err := topic.EventHandler()
	if err != nil {
		return 0, err
	}
	defer events.Cancel()
	in := make(map[peer.ID]bool)
	for len(in) < n {
		e, err := events.NextPeerEvent(ctx)
		if err != nil {
			return len(in), err
		}
		if e.Type == pubsub.PeerJoin {
			in[e.Peer] = true
		} else {
			delete(in, e.Peer)
		}
	}
	return len(in), t.wait(ctx, topic.String(), in, min(n, low))
}
