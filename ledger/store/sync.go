package store

import (
	"github.com/dgraph-io/badger/v4"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// What peers tell each other to find out what one of them misses.

// Outcome returns the hash of a settled task's outcome.
func (s *Reader) Outcome(task ledger.TaskID) (outcome crypto.Hash, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Settled(task)
}

// BucketDigest stands for the settled tasks of a bucket, 0 to ledger.Buckets-1.
func (s *Reader) BucketDigest(bucket int) ledger.Digest {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.BucketDigest(bucket)
}

// EncodedReceipt is Receipt without decoding.
func (s *Reader) EncodedReceipt(task ledger.TaskID) ([]byte, error) { return s.raw(receiptKey(task)) }

// EncodedLock returns the canonical bytes of an open task's lock certificate, or ErrNotFound. Like a
// receipt it is there a few milliseconds after it was applied.
func (s *Reader) EncodedLock(task ledger.TaskID) ([]byte, error) { return s.raw(openKey(task)) }

func (s *Reader) raw(k []byte) (data []byte, err error) {
	err = s.get(k, func(d []byte) error {
		data = d
		return nil
	})
	return data, err
}

// OpenAbove returns up to n open tasks above one, ascending; those above the zero id are all. It reads
// what is on disk: Flush waits for the rest.
func (s *Reader) OpenAbove(after ledger.TaskID, n int) (tasks []ledger.TaskID, err error) {
	err = s.view(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix, o.PrefetchValues = []byte{prefixOpen}, false
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Seek(openKey(after)); it.Valid() && len(tasks) < n; it.Next() {
			if t := ledger.TaskID(it.Item().Key()[1:]); t != after {
				tasks = append(tasks, t)
			}
		}
		return nil
	})
	return tasks, err
}
