package p2p_test

import (
	"context"
	"fmt"
	"log"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/p2p"
)

// Two hosts of one process meet on loopback; one publishes, the other handles.
func Example() {
	ctx := context.Background()
	start := func() *p2p.Host {
		h, err := p2p.New(p2p.Config{Network: "example", Topics: []string{"greeting"}})
		if err != nil {
			log.Fatal(err)
		}
		return h
	}
	alice, bob := start(), start()
	defer func() { _ = alice.Close() }()
	defer func() { _ = bob.Close() }()

	greetings := make(chan string, 2)
	join := func(h *p2p.Host) *p2p.Topic {
		t, err := p2p.Join(h, p2p.TopicConfig[string]{
			Name:    "greeting",
			MaxSize: 100,
			Validate: func(_ context.Context, _ peer.ID, data []byte) (string, error) {
				if len(data) == 0 {
					return "", fmt.Errorf("%w: empty greeting", p2p.ErrReject)
				}
				return string(data), nil
			},
			Handle: func(_ peer.ID, msg string) { greetings <- msg },
		})
		if err != nil {
			log.Fatal(err)
		}
		return t
	}
	from, to := join(alice), join(bob)

	if err := bob.Keep(alice.Addrs()...); err != nil {
		log.Fatal(err)
	}
	for _, t := range []*p2p.Topic{from, to} {
		if err := t.WaitForPeers(ctx, 1); err != nil {
			log.Fatal(err)
		}
	}
	if err := from.Publish(ctx, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-greetings, <-greetings)
	// Output: hello hello
}
