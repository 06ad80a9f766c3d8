package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/p2p"
)

// content finds prompts and answers by their hash: in memory, in the store, or at a peer.
type content struct {
	node   *Node
	recent *lru.Cache[crypto.Hash, []byte]
}

// recentTexts bounds the texts in memory: at most 32 MB if all are as long as a prompt may be.
const recentTexts = 128

func newContent(n *Node) *content {
	c, err := lru.New[crypto.Hash, []byte](recentTexts)
	if err != nil {
		panic(err) // the size is positive
	}
	return &content{n, c}
}

// hold keeps a text in memory.
func (c *content) hold(text []byte) {
	if len(text) > 0 {
		c.recent.Add(crypto.Sum(text), text)
	}
}

// keep keeps a text of a paid task on disk as well, as long as the store keeps texts.
func (c *content) keep(text []byte) {
	if len(text) == 0 {
		return
	}
	c.hold(text)
	if err := c.node.store.PutBlob(text); err != nil {
		c.node.log.Warn("text not stored", "error", err)
	}
}

// local returns a text that this node has, or store.ErrNotFound.
func (c *content) local(h crypto.Hash) ([]byte, error) {
	if text, ok := c.recent.Get(h); ok {
		return text, nil
	}
	return c.node.store.Blob(h)
}

// get returns a text of at most most bytes, from a peer if need be.
func (c *content) get(ctx context.Context, h crypto.Hash, most int) ([]byte, error) {
	text, err := c.local(h)
	if err == nil {
		return text, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	type answer struct {
		from peer.ID
		text []byte
		err  error
	}
	peers, errs := c.node.host.Peers(), []error{fmt.Errorf("no peer has the text %s", h.Short())}
	answers := make(chan answer, len(peers))
	patience := time.NewTicker(askPatience)
	defer patience.Stop()
	asked, answered := 0, 0
	askNext := func() {
		p := peers[asked]
		asked++
		asking.Go(func() {
			text, err := c.ask(ctx, p, h, most)
			answers <- answer{p, text, err}
		})
	}
	for {
		if asked == answered {
			if asked == len(peers) {
				return nil, errors.Join(errs...)
			}
			askNext()
		}
		select {
		case a := <-answers:
			answered++
			if a.err == nil && crypto.Sum(a.text) != h {
				a.err = errors.New("it sent another text")
				c.node.host.Fault(a.from, p2p.FaultLie)
			}
			if a.err == nil {
				c.keep(a.text)
				return a.text, nil
			}
			if !errors.Is(a.err, p2p.ErrNotFound) {
				errs = append(errs, fmt.Errorf("peer %s: %w", a.from, a.err))
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		case <-patience.C:
			if asked < len(peers) && asked-answered < askAtOnce {
				askNext()
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Peers that hang must not use up a task's time.
const (
	askTimeout  = 3 * time.Second        // for one peer
	askPatience = 250 * time.Millisecond // then another one is asked as well
	askAtOnce   = 3
)

func (c *content) ask(ctx context.Context, p peer.ID, h crypto.Hash, most int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.node.host.Request(ctx, p, protocolContent, h[:], most)
}

// serve answers a peer that asks for a text.
func (c *content) serve(_ context.Context, _ peer.ID, request []byte) ([]byte, error) {
	if len(request) != crypto.HashSize {
		return nil, p2p.ErrBadRequest
	}
	text, err := c.local(crypto.Hash(request))
	if errors.Is(err, store.ErrNotFound) || len(text) > ledger.MaxPrompt {
		return nil, p2p.ErrNotFound
	}
	return text, err
}
