package node

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
)

// The messages by which two peers find out where their ledgers differ, and fetch what is missing. They
// are in the canonical encoding of the ledger's own messages; docs/protocol.md has the table.

// protocolSync is the name of the protocol. Its version is the number that p2p puts behind it.
const protocolSync = "sync"

// askKind is the first byte of a request.
type askKind uint8

const (
	askDigest   askKind = iota + 1 // the digest of all settled tasks
	askBuckets                     // the digest of each bucket
	askTasks                       // the settled tasks of a bucket above one
	askReceipts                    // the receipts of tasks
	askOpen                        // the open tasks above one
	askLocks                       // the lock certificates of tasks
	askSaid                        // what workers said of open tasks
)

// Bounds of the protocol.
const (
	syncPage = 1024 // tasks in a list
	// syncBytes bounds a response that carries certificates. The largest of them is ledger.MaxMessage long, so
	// that at least five fit.
	syncBytes = 1 << 20
	// maxSaid is how many messages of workers count for a task at most: declines, commitments, of which each makes
	// room for one more decline, and answers. Together they are well under ledger.MaxMessage.
	maxSaid = 4 * ledger.MaxAnswers

	partsHeader    = 2
	partHeader     = 4
	digestSize     = crypto.HashSize + 8
	bucketTaskSize = 2 * crypto.HashSize
	maxAsk         = 1 + 2 + syncPage*crypto.HashSize
)

// ask is a request: only the fields of its kind are set.
type ask struct {
	kind   askKind
	bucket int             // askTasks
	after  ledger.TaskID   // askTasks, askOpen
	tasks  []ledger.TaskID // askReceipts, askLocks, askSaid: 1 to syncPage
}

func (a ask) encode() []byte {
	b := []byte{byte(a.kind)}
	switch a.kind {
	case askTasks:
		b = append(append(b, byte(a.bucket)), a.after[:]...)
	case askOpen:
		b = append(b, a.after[:]...)
	case askReceipts, askLocks, askSaid:
		b = appendTasks(b, a.tasks)
	}
	return b
}

func decodeAsk(data []byte) (a ask, err error) {
	r := crypto.NewReader(data)
	switch a.kind = askKind(r.Uint8()); a.kind {
	case askDigest, askBuckets:
	case askTasks:
		a.bucket, a.after = int(r.Uint8()), r.Hash()
	case askOpen:
		a.after = r.Hash()
	case askReceipts, askLocks, askSaid:
		if a.tasks = readTasks(r); len(a.tasks) == 0 {
			r.Fail()
		}
	default:
		r.Fail()
	}
	if err := r.End(); err != nil {
		return ask{}, fmt.Errorf("request: %w", err)
	}
	return a, nil
}

// maxAnswer is the length of the longest response to a request.
func (a ask) maxAnswer() int {
	switch a.kind {
	case askDigest:
		return digestSize
	case askBuckets:
		return ledger.Buckets * digestSize
	case askTasks:
		return 2 + syncPage*bucketTaskSize
	case askOpen:
		return 2 + syncPage*crypto.HashSize
	}
	return syncBytes
}

func appendTasks(b []byte, tasks []ledger.TaskID) []byte {
	b = crypto.AppendCount(b, len(tasks))
	for _, t := range tasks {
		b = append(b, t[:]...)
	}
	return b
}

func readTasks(r *crypto.Reader) []ledger.TaskID {
	tasks := make([]ledger.TaskID, r.Count(syncPage, crypto.HashSize))
	for i := range tasks {
		tasks[i] = r.Hash()
	}
	return tasks
}

func encodeDigests(digests ...ledger.Digest) []byte {
	b := make([]byte, 0, len(digests)*digestSize)
	for _, d := range digests {
		b = binary.BigEndian.AppendUint64(append(b, d.Sum[:]...), uint64(d.Tasks))
	}
	return b
}

func decodeDigests(data []byte, n int) ([]ledger.Digest, error) {
	digests, r := make([]ledger.Digest, n), crypto.NewReader(data)
	for i := range digests {
		sum, tasks := r.Hash(), r.Uint64()
		if tasks > math.MaxInt {
			r.Fail()
		}
		digests[i] = ledger.Digest{Sum: sum, Tasks: int(tasks)}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("digests: %w", err)
	}
	return digests, nil
}

func encodeBucketTasks(tasks []store.BucketTask) []byte {
	b := crypto.AppendCount(nil, len(tasks))
	for _, t := range tasks {
		b = append(append(b, t.Task[:]...), t.Outcome[:]...)
	}
	return b
}

func decodeBucketTasks(data []byte) ([]store.BucketTask, error) {
	r := crypto.NewReader(data)
	tasks := make([]store.BucketTask, r.Count(syncPage, bucketTaskSize))
	for i := range tasks {
		tasks[i] = store.BucketTask{Task: r.Hash(), Outcome: r.Hash()}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("list of tasks: %w", err)
	}
	return tasks, nil
}

func decodeTasks(data []byte) ([]ledger.TaskID, error) {
	r := crypto.NewReader(data)
	tasks := readTasks(r)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("list of open tasks: %w", err)
	}
	return tasks, nil
}

// encodeParts packs what was asked for, in that order, as far as it fits. Nil stands for what is not held.
func encodeParts(parts [][]byte) []byte {
	b := crypto.AppendCount(nil, len(parts))
	for _, p := range parts {
		b = crypto.AppendBytes(b, p)
	}
	return b
}

// decodeParts reads what encodeParts wrote for at most most parts. They share memory with data.
func decodeParts(data []byte, most int) ([][]byte, error) {
	r := crypto.NewReader(data)
	parts := make([][]byte, r.Count(most, partHeader))
	for i := range parts {
		parts[i] = r.Bytes(ledger.MaxMessage)
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("parts: %w", err)
	}
	return parts, nil
}

// encodeSaid packs messages of workers into one part.
func encodeSaid(messages []ledger.Message) []byte {
	parts := make([][]byte, len(messages))
	for i, m := range messages {
		_, parts[i] = ledger.Encode(m)
	}
	return encodeParts(parts)
}

// decodeSaid reads what encodeSaid wrote.
func decodeSaid(data []byte) (messages []ledger.Message, err error) {
	parts, err := decodeParts(data, maxSaid)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		m, err := ledger.Decode(ledger.TopicAnswer, p)
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, nil
}
