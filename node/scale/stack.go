package scale

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// Stack is a way to gossip.
type Stack string

// Stacks.
const (
	// Poq is package p2p, as nodes use it.
	Poq Stack = "poq"
	// Bare is gossipsub with the mesh of package p2p and nothing else of it: no validator, filter or score, and
	// like there no signature of gossipsub's own, which makes ids hashes. The difference to Poq is what this project adds.
	Bare Stack = "bare, same mesh"
	// BareDefaults is gossipsub as the library sets it up, signatures among it.
	BareDefaults Stack = "bare, defaults"
)

// Stacks lists them.
func Stacks() []Stack { return []Stack{Poq, Bare, BareDefaults} }

var topics = []ledger.Topic{ledger.TopicOrder, ledger.TopicAnswer, ledger.TopicScore, ledger.TopicCert}

// gossip is one host of a stack in this process.
type gossip struct {
	addrs   []multiaddr.Multiaddr // with the peer id
	connect func(context.Context, ...multiaddr.Multiaddr) error
	topics  map[ledger.Topic]joined
	traffic func() p2p.Traffic
	lost    func() p2p.Stats
	close   func() error
}

// joined is a topic of a host.
type joined struct {
	publish func(context.Context, []byte) error
	wait    func(ctx context.Context, peers int) error
}

func (g *gossip) Addrs() []multiaddr.Multiaddr { return g.addrs }

func (g *gossip) Dial(ctx context.Context, addrs []multiaddr.Multiaddr) error {
	return g.connect(ctx, addrs...)
}

func (g *gossip) Ready(ctx context.Context, others int) error {
	for name, t := range g.topics {
		if err := t.wait(ctx, others); err != nil {
			return fmt.Errorf("topic %s: %w", name, err)
		}
	}
	return nil
}

func (g *gossip) Publish(ctx context.Context, topic ledger.Topic, number uint64, size int) (time.Time, error) {
	data := binary.BigEndian.AppendUint64(make([]byte, 0, size), number)[:size]
	at := time.Now()
	return at, g.topics[topic].publish(ctx, data)
}

func (g *gossip) Usage(context.Context) (Usage, error) {
	l := g.lost()
	return Usage{Traffic: g.traffic(), Lost: l.Lost() + l.Rejected + l.Ignored}, nil
}

func (g *gossip) Close() error { return g.close() }

// loopback is where hosts listen that are not given.
var loopback = multiaddr.StringCast("/ip4/127.0.0.1/tcp/0")

// start starts the stack on a host, or on one of its own if h is nil, and joins the topics. got is called with
// the number of each message, own ones too, from one goroutine for each topic. The host is closed if start fails.
func (s Stack) start(h host.Host, got func(number uint64)) (*gossip, error) {
	g := &gossip{topics: map[ledger.Topic]joined{}}
	handle := func(data []byte) { got(binary.BigEndian.Uint64(data)) }
	start := g.bare
	if s == Poq {
		start = g.poq
	}
	if err := start(h, s, handle); err != nil {
		if g.close != nil {
			err = errors.Join(err, g.close())
		}
		return nil, err
	}
	return g, nil
}

func (g *gossip) poq(h host.Host, _ Stack, handle func([]byte)) error {
	conf := p2p.Config{Network: "scale", Host: h, Logger: slog.New(slog.DiscardHandler)}
	if h == nil {
		conf.Listen = []multiaddr.Multiaddr{loopback}
	}
	for _, t := range topics {
		conf.Topics = append(conf.Topics, string(t))
	}
	ours, err := p2p.New(conf)
	if err != nil {
		return err
	}
	g.addrs, g.connect = ours.Addrs(), ours.Connect
	g.traffic, g.lost, g.close = ours.Traffic, ours.Stats, ours.Close
	for _, name := range topics {
		t, err := p2p.Join(ours, p2p.TopicConfig[[]byte]{
			Name: string(name), MaxSize: ledger.MaxMessage,
			Validate: func(_ context.Context, _ peer.ID, data []byte) ([]byte, error) { return data, nil },
			Handle:   func(_ peer.ID, data []byte) { handle(data) },
		})
		if err != nil {
			return err
		}
		g.topics[name] = joined{t.Publish, t.WaitForPeers}
	}
	return nil
}

func (g *gossip) bare(h host.Host, s Stack, handle func([]byte)) (err error) {
	if h == nil {
		h, err = libp2p.New(libp2p.ListenAddrs(loopback), libp2p.Transport(tcp.NewTCPTransport), libp2p.Security(noise.ID, noise.New),
			libp2p.Muxer(yamux.ID, yamux.DefaultTransport), libp2p.DisableRelay(), libp2p.DisableMetrics())
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.close = func() error { cancel(); return h.Close() }
	if g.addrs, err = peer.AddrInfoToP2pAddrs(host.InfoFromHost(h)); err != nil {
		return err
	}
	g.connect = func(ctx context.Context, addrs ...multiaddr.Multiaddr) error {
		p, err := peer.AddrInfosFromP2pAddrs(addrs...)
		if err != nil {
			return err
		}
		return h.Connect(ctx, p[0])
	}
	tracer := p2p.NewTracer()
	g.traffic, g.lost = tracer.Traffic, tracer.Stats
	opts := []pubsub.Option{pubsub.WithRawTracer(tracer), pubsub.WithLogger(slog.New(slog.DiscardHandler))}
	low := pubsub.DefaultGossipSubParams().Dlo
	if s == Bare {
		params, flood := p2p.GossipParams()
		low = params.Dlo
		opts = append(opts, pubsub.WithGossipSubParams(params), pubsub.WithFloodPublish(flood),
			pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
			pubsub.WithMessageIdFn(func(m *pb.Message) string { h := sha256.Sum256(m.GetData()); return string(h[:20]) }))
	}
	ps, err := pubsub.NewGossipSub(ctx, h, opts...)
	if err != nil {
		return err
	}
	for _, name := range topics {
		t, err := ps.Join(string(name))
		if err != nil {
			return err
		}
		sub, err := t.Subscribe(pubsub.WithBufferSize(1024))
		if err != nil {
			return err
		}
		go func() {
			for {
				m, err := sub.Next(ctx)
				if err != nil {
					return
				}
				handle(m.Data)
			}
		}()
		g.topics[name] = joined{
			func(ctx context.Context, data []byte) error { return t.Publish(ctx, data) },
			func(ctx context.Context, peers int) error { return tracer.WaitForPeers(ctx, t, peers, low) },
		}
	}
	return nil
}
