// Package p2ptest makes hostile peers, for tests of what a host endures. An [Attacker] is a bare libp2p host that keeps
// none of the rules of package p2p and shares no code with it: it writes what it likes, as fast as it
// is read.
package p2ptest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-msgio"
	"github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"
)

// Attacker is a hostile peer. Its methods are safe for concurrent use.
type Attacker struct {
	network string
	host    host.Host

	heard func(topic string, data []byte)

	mu   sync.Mutex
	gone map[peer.ID]chan struct{} // closed when the last connection to the peer has ended
}

// New starts a hostile peer with a fresh identity, which speaks the ids of a network and dials only.
func New(networkName string) (*Attacker, error) { return NewListener(networkName, nil) }

// NewListener is [New] for a peer that calls heard with every message of gossip that it gets, by the id of its topic; each
// victim's from a goroutine of its own.
func NewListener(networkName string, heard func(topic string, data []byte)) (*Attacker, error) {
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableRelay(), libp2p.Ping(false), libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		return nil, fmt.Errorf("starting a hostile peer: %w", err)
	}
	a := &Attacker{network: networkName, host: h, heard: heard, gone: make(map[peer.ID]chan struct{})}
	// A peer that takes no gossip would get none and be of no interest.
	for _, id := range []protocol.ID{pubsub.GossipSubID_v11, pubsub.GossipSubID_v12} {
		h.SetStreamHandler(id, a.listen)
	}
	h.Network().Notify(&network.NotifyBundle{DisconnectedF: func(n network.Network, c network.Conn) {
		if p := c.RemotePeer(); n.Connectedness(p) != network.Connected {
			a.mu.Lock()
			defer a.mu.Unlock()
			if gone := a.gone[p]; gone != nil {
				close(gone)
				delete(a.gone, p)
			}
		}
	}})
	return a, nil
}

// listen reads what a victim says.
func (a *Attacker) listen(s network.Stream) {
	if a.heard == nil {
		_, _ = io.Copy(io.Discard, s)
		return
	}
	r := msgio.NewVarintReader(s)
	for {
		data, err := r.ReadMsg()
		if err != nil {
			return
		}
		var rpc pb.RPC
		if proto.Unmarshal(data, &rpc) == nil {
			for _, m := range rpc.GetPublish() {
				a.heard(m.GetTopic(), m.GetData())
			}
		}
		r.ReleaseMsg(data)
	}
}

// Close ends the peer.
func (a *Attacker) Close() error { return a.host.Close() }

// ID is its peer id.
func (a *Attacker) ID() peer.ID { return a.host.ID() }

// Connect dials a victim by its addresses, which end in /p2p/<id>.
func (a *Attacker) Connect(ctx context.Context, addrs ...multiaddr.Multiaddr) error {
	infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return fmt.Errorf("victim's addresses: %w", err)
	}
	for _, info := range infos {
		if sw, ok := a.host.Network().(*swarm.Swarm); ok {
			sw.Backoff().Clear(info.ID)
		}
		if err := a.host.Connect(ctx, info); err != nil {
			return fmt.Errorf("hostile dial: %w", err)
		}
	}
	return nil
}

// Disconnect ends the connections to a victim.
func (a *Attacker) Disconnect(victim peer.ID) error { return a.host.Network().ClosePeer(victim) }

// Gone is closed once no connection to the victim is left.
func (a *Attacker) Gone(victim peer.ID) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	gone := a.gone[victim]
	if gone == nil {
		gone = make(chan struct{})
		if a.host.Network().Connectedness(victim) != network.Connected {
			close(gone)
			return gone
		}
		a.gone[victim] = gone
	}
	return gone
}

// Topic is the id of a topic or protocol of the attacker's network.
func (a *Attacker) Topic(name string) string { return "/poq/" + a.network + "/" + name + "/1" }

// Open opens a stream of one of the network's protocols to the victim. Nothing is written to it.
func (a *Attacker) Open(ctx context.Context, victim peer.ID, name string) (network.Stream, error) {
	s, err := a.host.NewStream(ctx, victim, protocol.ID(a.Topic(name)))
	if err != nil {
		return nil, fmt.Errorf("hostile stream: %w", err)
	}
	return s, nil
}

// OpenBare opens a stream and says on it of no protocol.
func (a *Attacker) OpenBare(ctx context.Context, victim peer.ID) (network.Stream, error) {
	s, err := a.host.Network().NewStream(ctx, victim)
	if err != nil {
		return nil, fmt.Errorf("hostile stream: %w", err)
	}
	return s, nil
}

// Gossip opens a stream of gossip to the victim and announces the topics.
func (a *Attacker) Gossip(ctx context.Context, victim peer.ID, topics ...string) (*Gossip, error) {
	s, err := a.host.NewStream(ctx, victim, pubsub.GossipSubID_v12, pubsub.GossipSubID_v11)
	if err != nil {
		return nil, fmt.Errorf("hostile gossip: %w", err)
	}
	g := &Gossip{a: a, s: s}
	return g, g.Subscribe(true, topics...)
}

// Gossip is a stream on which an attacker says what it likes. It is not safe for concurrent use.
type Gossip struct {
	a *Attacker
	s network.Stream
}

// Subscribe announces, or takes back, topics by their names.
func (g *Gossip) Subscribe(in bool, topics ...string) error {
	rpc := &pb.RPC{}
	for _, t := range topics {
		rpc.Subscriptions = append(rpc.Subscriptions, &pb.RPC_SubOpts{Subscribe: &in, Topicid: proto.String(g.a.Topic(t))})
	}
	return g.Send(rpc)
}

// Publish sends messages of one topic in one RPC.
func (g *Gossip) Publish(topic string, data ...[]byte) error {
	rpc, id := &pb.RPC{}, g.a.Topic(topic)
	for _, d := range data {
		rpc.Publish = append(rpc.Publish, &pb.Message{Topic: &id, Data: d})
	}
	return g.Send(rpc)
}

// Have announces message ids that nobody has, Want asks for such.
func (g *Gossip) Have(topic string, ids ...string) error {
	return g.Send(&pb.RPC{Control: &pb.ControlMessage{Ihave: []*pb.ControlIHave{{TopicID: proto.String(g.a.Topic(topic)), MessageIDs: ids}}}})
}

// Want asks for messages by their ids.
func (g *Gossip) Want(ids ...string) error {
	return g.Send(&pb.RPC{Control: &pb.ControlMessage{Iwant: []*pb.ControlIWant{{MessageIDs: ids}}}})
}

// Graft asks to be taken into the mesh of topics.
func (g *Gossip) Graft(topics ...string) error {
	rpc := &pb.RPC{Control: &pb.ControlMessage{}}
	for _, t := range topics {
		rpc.Control.Graft = append(rpc.Control.Graft, &pb.ControlGraft{TopicID: proto.String(g.a.Topic(t))})
	}
	return g.Send(rpc)
}

// Send sends an RPC.
func (g *Gossip) Send(rpc *pb.RPC) error {
	data, err := proto.Marshal(rpc)
	if err != nil {
		return fmt.Errorf("encoding a hostile RPC: %w", err)
	}
	return g.Raw(append(binary.AppendUvarint(nil, uint64(len(data))), data...))
}

// Raw writes bytes as they are.
func (g *Gossip) Raw(data []byte) error {
	if _, err := g.s.Write(data); err != nil {
		return fmt.Errorf("hostile gossip: %w", err)
	}
	return nil
}

// Flood publishes messages, as many in each RPC as next returns, until ctx ends, next returns none or the victim has had
// enough. It returns how many went out.
func (g *Gossip) Flood(ctx context.Context, topic string, next func() [][]byte) (sent int, err error) {
	defer context.AfterFunc(ctx, func() { _ = g.s.Reset() })()
	for {
		data := next()
		if len(data) == 0 {
			return sent, nil
		}
		if err := g.Publish(topic, data...); err != nil {
			if ctx.Err() != nil {
				return sent, nil
			}
			return sent, errors.Join(errRefused, err)
		}
		sent += len(data)
	}
}

// errRefused says that the victim ended a flood.
var errRefused = errors.New("the victim reads no more")
