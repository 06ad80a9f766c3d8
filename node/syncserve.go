package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/p2p"
)

// serveSync answers a peer that compares its ledger with this one. What it says proves itself, or is
// proven wrong by what it says next, so anybody may ask.
func (n *Node) serveSync(ctx context.Context, _ peer.ID, request []byte) ([]byte, error) {
	a, err := decodeAsk(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", p2p.ErrBadRequest, err)
	}
	switch a.kind {
	case askDigest:
		return encodeDigests(n.store.Digest()), nil
	case askBuckets:
		return encodeDigests(n.store.BucketDigests()...), nil
	}
	// The rest is read from disk, which must not be behind the digests that were told.
	if err := n.store.Flush(); err != nil {
		return nil, err
	}
	switch a.kind {
	case askTasks:
		tasks, err := n.store.BucketTasks(a.bucket, a.after, syncPage)
		return encodeBucketTasks(tasks), err
	case askReceipts:
		return readParts(a.tasks, n.store.EncodedReceipt)
	case askOpen:
		tasks, err := n.store.OpenAbove(a.after, syncPage)
		return appendTasks(nil, tasks), err
	case askLocks:
		return readParts(a.tasks, n.store.EncodedLock)
	default:
		return n.readSaid(ctx, a.tasks)
	}
}

// readSaid reads what workers said of open tasks.
func (n *Node) readSaid(ctx context.Context, tasks []ledger.TaskID) ([]byte, error) {
	said := map[ledger.TaskID][]byte{}
	err := n.inLoop(ctx, func(e *ledger.Engine) {
		for _, t := range tasks {
			if messages := e.Said(t); len(messages) > 0 {
				said[t] = encodeSaid(messages)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return readParts(tasks, func(t ledger.TaskID) ([]byte, error) { return said[t], nil })
}

// readParts reads as many parts as fit into a response: one at least, since syncBytes is more than
// ledger.MaxMessage.
func readParts(tasks []ledger.TaskID, read func(ledger.TaskID) ([]byte, error)) ([]byte, error) {
	var parts [][]byte
	size := partsHeader
	for _, t := range tasks {
		data, err := read(t)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if size += partHeader + len(data); size > syncBytes {
			break
		}
		parts = append(parts, data)
	}
	return encodeParts(parts), nil
}
