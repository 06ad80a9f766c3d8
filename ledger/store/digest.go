package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// checkpointEvery is after how many settlements the sums behind the digest are written. Those that a
// crash takes are added anew from the list of tasks, in 5 µs each.
const checkpointEvery = 8192

// Digest stands for all settled tasks.
func (s *Reader) Digest() ledger.Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Digest()
}

// BucketDigests returns the digests of all [ledger.Buckets] buckets of settled tasks, taken at one moment.
func (s *Reader) BucketDigests() []ledger.Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	digests := make([]ledger.Digest, ledger.Buckets)
	for i := range digests {
		digests[i] = s.state.BucketDigest(i)
	}
	return digests
}

// BucketTask is a settled task with the hash of its outcome.
type BucketTask struct {
	Task    ledger.TaskID
	Outcome crypto.Hash
}

// BucketTasks returns up to n settled tasks of a bucket above one, ascending by id; those above the zero
// id are all. It reads what is on disk: Flush waits for the rest.
func (s *Reader) BucketTasks(bucket int, after ledger.TaskID, n int) (tasks []BucketTask, err error) {
	err = s.view(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = []byte{prefixTask, byte(bucket)}
		it := txn.NewIterator(o)
		defer it.Close()
		start := after
		if ledger.BucketOf(after) < bucket {
			start = ledger.TaskID{byte(bucket)}
		}
		for it.Seek(taskKey(start)); it.Valid() && len(tasks) < n; it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			e, err := decodeTask(it.Item().Key()[1:], v)
			if err != nil {
				return err
			}
			if e.task != after {
				tasks = append(tasks, BucketTask{e.task, e.outcome})
			}
		}
		return nil
	})
	return tasks, err
}

// settled is an entry of the list of settled tasks.
type settled struct {
	task    ledger.TaskID
	outcome crypto.Hash
	seq     uint64
}

func decodeTask(key, value []byte) (settled, error) {
	if len(key) != 32 || len(value) != 40 {
		return settled{}, fmt.Errorf("settled task %x: %w", key, crypto.ErrEncoding)
	}
	return settled{ledger.TaskID(key), crypto.Hash(value), binary.BigEndian.Uint64(value[32:])}, nil
}

// checkpoint are the sums over the first counted settled tasks, as they were written last.
type checkpoint struct {
	sums    *ledger.Sums
	counted uint64
	touched [ledger.Buckets]bool // since then
}

// readCheckpoint reads the checkpoint; if there is none, it counts no task.
func readCheckpoint(txn *badger.Txn, g *ledger.Genesis) (*checkpoint, error) {
	c := &checkpoint{sums: ledger.NewSums(ledger.Domain(g))}
	v, err := value(txn, keyCounted)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if len(v) != 8 {
		return nil, fmt.Errorf("checkpoint of the digest: %w", crypto.ErrEncoding)
	}
	c.counted = binary.BigEndian.Uint64(v)
	for e, err := range scan(txn, prefixSums) {
		if err != nil {
			return nil, err
		}
		if len(e.key) != 1 || len(e.value) < 8 {
			return nil, fmt.Errorf("sum of bucket %x: %w", e.key, crypto.ErrEncoding)
		}
		hash, err := ledger.DecodeLtHash(e.value[8:])
		if err != nil {
			return nil, fmt.Errorf("sum of bucket %x: %w", e.key, err)
		}
		c.sums.Restore(int(e.key[0]), *hash, int(binary.BigEndian.Uint64(e.value)))
	}
	return c, nil
}

// add adds a task that the checkpoint does not count.
func (c *checkpoint) add(e settled) {
	if e.seq >= c.counted {
		c.sums.Add(e.task, e.outcome)
		c.touched[ledger.BucketOf(e.task)] = true
	}
}

// write notes the buckets that changed, so that the checkpoint counts the first seq tasks.
func (c *checkpoint) write(w *write, seq uint64) {
	for i, touched := range c.touched {
		if touched {
			hash, tasks := c.sums.Bucket(i)
			w.set(sumsKey(i), append(u64(uint64(tasks)), hash.Encode()...))
		}
	}
	w.set(keyCounted, u64(seq))
	c.counted, c.touched = seq, [ledger.Buckets]bool{}
}
