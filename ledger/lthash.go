package ledger

import (
	"crypto/sha3"
	"encoding/binary"
	"fmt"

	"github.com/poqmesh/poq/crypto"
)

// LtHash is a hash of a multiset of elements that does not depend on their order, and that changes with
// an element in constant time: LtHash16 with 1024 lanes (Lewi, Kim, Maykov, Weis: "Securing Update
// Propagation with Homomorphic Hashing", 2019). An element is expanded by SHAKE128 to 1024 integers
// of 16 bits, big endian, and the hash is their sum, lane by lane, modulo 2^16. The zero value is the
// hash of nothing. To find two sets with one hash is a short vector problem, with more than 200 bits of
// security by that paper; an element that is added twice counts twice.
type LtHash struct {
	lanes [ltHashSize / 8]uint64 // four lanes each, the first in the highest bits
}

// ltHashSize is the length of an encoded LtHash in bytes.
const ltHashSize = 1024 * 2

// high has the highest bit of each lane of a word. What is added or subtracted without these bits does
// not carry over into the next lane; they are put right by exclusive or.
const high = 0x8000_8000_8000_8000

// expand returns the LtHash of one element.
func expand(element crypto.Hash) (l LtHash) {
	var raw [ltHashSize]byte
	h := sha3.NewSHAKE128()
	_, _ = h.Write(element[:]) // neither fails
	_, _ = h.Read(raw[:])
	l.fill(raw[:])
	return l
}

func (l *LtHash) fill(raw []byte) {
	for i := range l.lanes {
		l.lanes[i] = binary.BigEndian.Uint64(raw[8*i:])
	}
}

// Add puts an element in.
func (l *LtHash) Add(element crypto.Hash) {
	e := expand(element)
	l.Combine(&e)
}

// Remove takes an element out that was put in.
func (l *LtHash) Remove(element crypto.Hash) {
	e := expand(element)
	for i, b := range &e.lanes {
		a := l.lanes[i]
		l.lanes[i] = ((a | high) - (b &^ high)) ^ ((a ^ ^b) & high)
	}
}

// Combine puts all elements of another hash in.
func (l *LtHash) Combine(other *LtHash) {
	for i, b := range &other.lanes {
		a := l.lanes[i]
		l.lanes[i] = ((a &^ high) + (b &^ high)) ^ ((a ^ b) & high)
	}
}

// Encode returns the lanes, big endian: 2048 bytes.
func (l *LtHash) Encode() []byte {
	b := make([]byte, 0, ltHashSize)
	for _, w := range &l.lanes {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

// DecodeLtHash reads what [LtHash.Encode] wrote.
func DecodeLtHash(data []byte) (*LtHash, error) {
	if len(data) != ltHashSize {
		return nil, fmt.Errorf("LtHash of %d bytes: %w", len(data), crypto.ErrEncoding)
	}
	l := new(LtHash)
	l.fill(data)
	return l, nil
}

// Sum returns 32 bytes that stand for the hash: the SHA-256 of its lanes.
func (l *LtHash) Sum() crypto.Hash { return crypto.Sum(l.Encode()) }

// Buckets is the number of parts into which the settled tasks fall, by the first byte of their ids, so
// that two peers find out cheaply where they differ.
const Buckets = 256

// BucketOf returns a task's bucket, 0 to Buckets-1.
func BucketOf(task TaskID) int { return int(task[0]) }

// Digest stands for a set of settled tasks with their outcomes. Two ledgers with one digest hold the
// same ones.
type Digest struct {
	Sum   crypto.Hash `json:"sum"`   // of an LtHash over the tasks
	Tasks int         `json:"tasks"` // how many
}

// settledElement is what stands for a settled task in an LtHash.
func settledElement(d crypto.Domain, task TaskID, outcome crypto.Hash) crypto.Hash {
	return d.Hash(kindSettled, append(task[:len(task):len(task)], outcome[:]...))
}

// Sums keeps the LtHash of each bucket of settled tasks. It takes 2 KiB for each bucket that holds one,
// 512 KiB in all. It is not safe for concurrent use.
type Sums struct {
	domain  crypto.Domain
	buckets [Buckets]*bucketSum
}

type bucketSum struct {
	hash  LtHash
	tasks int
}

// NewSums returns the sums of no tasks.
func NewSums(d crypto.Domain) *Sums { return &Sums{domain: d} }

func (s *Sums) bucket(i int) *bucketSum {
	if s.buckets[i] == nil {
		s.buckets[i] = new(bucketSum)
	}
	return s.buckets[i]
}

// Add adds a settled task, which must not be among them.
func (s *Sums) Add(task TaskID, outcome crypto.Hash) {
	b := s.bucket(BucketOf(task))
	b.hash.Add(settledElement(s.domain, task, outcome))
	b.tasks++
}

// Bucket returns the LtHash of a bucket, 0 to Buckets-1, and the number of its tasks.
func (s *Sums) Bucket(i int) (hash LtHash, tasks int) {
	if b := s.buckets[i]; b != nil {
		return b.hash, b.tasks
	}
	return hash, 0
}

// Restore puts back what Bucket returned.
func (s *Sums) Restore(i int, hash LtHash, tasks int) { *s.bucket(i) = bucketSum{hash, tasks} }

// Digest returns the digest of all tasks, in tens of microseconds.
func (s *Sums) Digest() Digest {
	var all bucketSum
	for _, b := range s.buckets {
		if b != nil {
			all.hash.Combine(&b.hash)
			all.tasks += b.tasks
		}
	}
	return Digest{all.hash.Sum(), all.tasks}
}

// BucketDigest returns the digest of a bucket, 0 to Buckets-1.
func (s *Sums) BucketDigest(i int) Digest {
	hash, tasks := s.Bucket(i)
	return Digest{hash.Sum(), tasks}
}
