package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/p2p"
)

// A node that was away asks others for the receipts that it missed. A receipt proves itself, so it does
// not matter who sends it.
//
//	request: 1 | task(32)   -> ids of settled tasks above this one, ascending, at most syncPage
//	request: 2 | task(32)   -> the task's receipt
const (
	protocolLedger = "ledger"
	askTasks       = 1
	askReceipt     = 2
	syncPage       = 2000
	// syncPeers is how many peers a node compares itself with when it starts.
	syncPeers = 3
)

func (n *Node) serveLedger(_ context.Context, _ peer.ID, request []byte) ([]byte, error) {
	if len(request) != 1+crypto.HashSize {
		return nil, p2p.ErrBadRequest
	}
	task := ledger.TaskID(request[1:])
	switch request[0] {
	case askTasks:
		if err := n.store.Flush(); err != nil { // what is listed can then be fetched
			return nil, err
		}
		ids, err := n.store.SettledAbove(task, syncPage)
		if err != nil {
			return nil, err
		}
		var b []byte
		for _, id := range ids {
			b = append(b, id[:]...)
		}
		return b, nil
	case askReceipt:
		r, err := n.store.Receipt(task)
		if errors.Is(err, store.ErrNotFound) {
			return nil, p2p.ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		return r.Encode(), nil
	}
	return nil, p2p.ErrBadRequest
}

// catchUp compares this ledger with those of a few peers, as soon as there is one.
func (n *Node) catchUp() {
	if n.topics[ledger.TopicCert].WaitForPeers(n.ctx, 1) != nil {
		return
	}
	for i, p := range n.host.Peers() {
		if i == syncPeers {
			return
		}
		if err := n.syncFrom(n.ctx, p); err != nil && n.ctx.Err() == nil {
			n.log.Warn("not caught up with peer", "from", p, "error", err)
		}
	}
}

// syncFrom fetches every receipt that a peer has and this node has not.
func (n *Node) syncFrom(ctx context.Context, p peer.ID) error {
	for after := (ledger.TaskID{}); ; {
		page, err := n.host.Request(ctx, p, protocolLedger, append([]byte{askTasks}, after[:]...), syncPage*crypto.HashSize)
		if err != nil {
			return fmt.Errorf("listing tasks: %w", err)
		}
		if len(page)%crypto.HashSize != 0 {
			return errors.New("listing tasks: the peer's list is cut")
		}
		for part := range slices.Chunk(page, crypto.HashSize) {
			id := ledger.TaskID(part)
			if bytes.Compare(id[:], after[:]) <= 0 {
				return errors.New("listing tasks: the peer's list does not ascend")
			}
			after = id
			if n.store.IsSettled(id) {
				continue
			}
			if err := n.fetchReceipt(ctx, p, id); err != nil {
				return err
			}
		}
		if len(page) < syncPage*crypto.HashSize {
			return nil
		}
	}
}

func (n *Node) fetchReceipt(ctx context.Context, p peer.ID, task ledger.TaskID) error {
	data, err := n.host.Request(ctx, p, protocolLedger, append([]byte{askReceipt}, task[:]...), ledger.MaxMessage)
	if err != nil {
		return fmt.Errorf("receipt of task %s: %w", task.Short(), err)
	}
	r, err := ledger.DecodeReceipt(data)
	if err != nil {
		return err
	}
	if r.Task() != task {
		return fmt.Errorf("receipt of task %s: the peer sent another one", task.Short())
	}
	v, err := n.verifier.Verify(r)
	if err != nil {
		return fmt.Errorf("receipt of task %s: %w", task.Short(), err)
	}
	n.loop.do(func(e *ledger.Engine) { e.Receive(v) })
	return nil
}

// Fetch implements ledger.Host.
func (l *loop) Fetch(task ledger.TaskID) {
	n := l.node
	n.tasks.Go(func() {
		for _, p := range n.host.Peers() {
			if err := n.fetchReceipt(n.ctx, p, task); err == nil {
				return
			}
		}
	})
}
