package node_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/keystore"
)

// chatty starts a host with the program's own gossipsub on it. The node speaks gossipsub under the ids of its standard, so the
// program's needs an id of its own.
func chatty(ctx context.Context, id keystore.Identity) (host.Host, *pubsub.Topic, error) {
	h, err := libp2p.New(libp2p.Identity(id.Peer), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		return nil, nil, err
	}
	all := func(pubsub.GossipSubFeature, protocol.ID) bool { return true }
	ps, err := pubsub.NewGossipSub(ctx, h, pubsub.WithGossipSubProtocols([]protocol.ID{"/chat/gossipsub/1"}, all))
	if err != nil {
		return nil, nil, err
	}
	topic, err := ps.Join("chat")
	return h, topic, err
}

// Two nodes live on hosts of the program, beside a gossipsub of the program's. One of them works for the network.
func ExampleWithHost() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	network, err := devnet.Start(ctx, devnet.Config{Dir: filepath.Join(dir, "network"), Validators: 1, Judge: loudness{}, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	var topics []*pubsub.Topic
	peers := network.Peers[0].Node.Host().Addrs()
	for _, e := range []llm.Engine{shout{}, nil} {
		id, err := keystore.New(nil, false)
		if err != nil {
			log.Fatal(err)
		}
		h, topic, err := chatty(ctx, id)
		if err != nil {
			log.Fatal(err)
		}
		opts := []node.Option{
			node.WithDataDir(filepath.Join(dir, h.ID().String())), node.WithGenesis(network.Genesis), node.WithLogger(quiet),
			node.WithIdentity(id), node.WithHost(h), node.WithPeers(peers...),
		}
		if e != nil {
			opts = append(opts, node.WithEngine(e))
		}
		n, err := node.New(ctx, opts...)
		if err != nil {
			log.Fatal(err)
		}
		defer n.Close() // and the host with it
		if err := n.Start(ctx); err != nil {
			log.Fatal(err)
		}
		if err := n.WaitReady(ctx, 1); err != nil {
			log.Fatal(err)
		}
		topics, peers = append(topics, topic), append(peers, n.Host().Addrs()...)
	}

	heard, err := topics[0].Subscribe()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := topics[1].Subscribe(); err != nil { // or it has no mesh that could be ready
		log.Fatal(err)
	}
	if err := topics[1].Publish(ctx, []byte("lunch?"), pubsub.WithReadiness(pubsub.MinTopicSize(1))); err != nil {
		log.Fatal(err)
	}
	m, err := heard.Next(ctx)
	if err != nil {
		log.Fatal(err)
	}
	s, err := network.Payer().Node.Ask(ctx, "who is there?", node.AskOptions{MaxAnswers: 1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s %s\n", m.Data, s.Answers[0].Text)
	// Output: lunch? WHO IS THERE?
}
