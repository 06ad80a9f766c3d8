package ledger

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// LeafKind is the kind of a vote.
type LeafKind uint8

// Kinds of votes (protocol §3, §6).
const (
	LockVote   LeafKind = iota + 1 // the fee may go to escrow
	Prepare                        // first phase of an instance's round
	Commit                         // second phase
	FastCommit                     // settle, round 0: the only phase
	NewRound                       // leaves a round; Value is the hash of its justification
	Propose                        // the leader's value; Value is the hash of value and justification
)

var leafKindNames = [...]string{LockVote: "lock", Prepare: "prepare", Commit: "commit", FastCommit: "fast-commit", NewRound: "new-round", Propose: "propose"}

// String names the kind.
func (k LeafKind) String() string {
	if k >= LockVote && k <= Propose {
		return leafKindNames[k]
	}
	return fmt.Sprintf("leaf kind %d", uint8(k))
}

// Stage is one of the two agreements that each task runs after its lock.
type Stage uint8

// Stages of a task.
const (
	StageLock   Stage = iota // not an agreement: lock votes are counted, there is one possible value
	StageSeal                // agrees on the set S of score commitments
	StageSettle              // agrees on the outcome V
)

// String names the stage.
func (s Stage) String() string {
	return [...]string{"lock", "seal", "settle"}[min(s, StageSettle)]
}

// Leaf is one vote. A validator never signs two leaves that differ only in Value (I2).
type Leaf struct {
	Kind  LeafKind
	Task  TaskID
	Stage Stage
	Round uint32
	Value crypto.Hash // of what is voted for: the task, H(S) or H(V)
}

// LockLeaf is the one vote by which a task's fee is locked.
func LockLeaf(id TaskID) Leaf { return Leaf{Kind: LockVote, Task: id, Stage: StageLock, Value: id} }

const leafSize = 1 + 32 + 1 + 4 + 32

func (l Leaf) append(b []byte) []byte {
	b = append(b, byte(l.Kind))
	b = append(b, l.Task[:]...)
	b = append(b, byte(l.Stage))
	b = binary.BigEndian.AppendUint32(b, l.Round)
	return append(b, l.Value[:]...)
}

func readLeaf(r *crypto.Reader) Leaf {
	return Leaf{LeafKind(r.Uint8()), r.Hash(), Stage(r.Uint8()), r.Uint32(), r.Hash()}
}

func (l Leaf) check() error {
	ok := false
	switch l.Kind {
	case LockVote:
		ok = l.Stage == StageLock && l.Round == 0 && l.Value == l.Task
	case FastCommit:
		ok = l.Stage == StageSettle && l.Round == 0
	case Prepare, Commit:
		ok = l.Stage == StageSeal || l.Stage == StageSettle && l.Round > 0
	case NewRound, Propose:
		ok = (l.Stage == StageSeal || l.Stage == StageSettle) && l.Round > 0
	}
	if !ok {
		return malformed("%v vote of stage %d and round %d", l.Kind, l.Stage, l.Round)
	}
	return nil
}

// decides says why votes for l do not decide a stage of a task with a value, if they do not.
func (l Leaf) decides(s Stage, task TaskID, value crypto.Hash) error {
	kind := l.Kind == Commit
	switch s {
	case StageLock:
		kind = l.Kind == LockVote
	case StageSettle:
		kind = kind || l.Kind == FastCommit
	}
	switch {
	case !kind || l.Stage != s:
		return malformed("%v votes of the %v stage do not decide the %v stage", l.Kind, l.Stage, s)
	case l.Task != task:
		return malformed("the votes are about task %s, this is task %s", l.Task.Short(), task.Short())
	case l.Value != value:
		return malformed("the votes are for the value %s, what is shown here has %s", l.Value.Short(), value.Short())
	}
	return nil
}

// Limits of a bundle.
const (
	MaxBundleLeaves = 1024
	maxPath         = 10 // log2(MaxBundleLeaves)
)

// BundleHeader is what a validator signs for a batch of its votes. Two headers of one validator
// with one sequence number prove that it equivocates.
type BundleHeader struct {
	Validator uint16
	Seq       uint64      // counts the validator's bundles of an epoch from 0
	Previous  crypto.Hash // of the header at Seq-1; zero at 0
	Root      crypto.Hash // Merkle root of the leaves
	Count     uint32      // number of leaves
}

const headerSize = 2 + 8 + 32 + 32 + 4

func (BundleHeader) kind() crypto.Kind { return kindBundle }
func (h BundleHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.Validator)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = append(append(b, h.Previous[:]...), h.Root[:]...)
	return binary.BigEndian.AppendUint32(b, h.Count)
}
func (h *BundleHeader) read(r *crypto.Reader) {
	h.Validator, h.Seq, h.Previous, h.Root, h.Count = r.Uint16(), r.Uint64(), r.Hash(), r.Hash(), r.Uint32()
}
func (h BundleHeader) signer(g *Genesis) (crypto.PublicKey, error) { return memberKey(g, h.Validator) }
func (h BundleHeader) check(*Genesis) error {
	if h.Count == 0 || h.Count > MaxBundleLeaves {
		return malformed("bundle of %d leaves, want 1 to %d", h.Count, MaxBundleLeaves)
	}
	return nil
}

// Hash identifies the header; the next bundle names it.
func (h BundleHeader) Hash(d crypto.Domain) crypto.Hash { return d.Hash(kindBundle, h.append(nil)) }

// EncodeHeader returns the canonical bytes of a signed header.
func EncodeHeader(h Signed[BundleHeader]) []byte { return h.append(make([]byte, 0, headerSize+64)) }

// DecodeHeader reads what [EncodeHeader] wrote. It checks no signature.
func DecodeHeader(data []byte) (*Signed[BundleHeader], error) {
	r := crypto.NewReader(data)
	h := readSigned[BundleHeader](r)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("bundle header: %w", err)
	}
	return &h, nil
}

// Bundle is a signed, hash-chained batch of votes of one validator.
type Bundle struct {
	Header Signed[BundleHeader]
	Leaves []Leaf
	tree   merkleTree // of a bundle that was verified: a validator asks for the proof of each leaf
}

// NewBundle fills in the header for a batch of 1 to MaxBundleLeaves leaves, yet unsigned.
func NewBundle(validator uint16, seq uint64, previous crypto.Hash, leaves []Leaf) Bundle {
	h := BundleHeader{Validator: validator, Seq: seq, Previous: previous, Root: newMerkleTree(leaves).root(), Count: uint32(len(leaves))}
	return Bundle{Header: Signed[BundleHeader]{Statement: h}, Leaves: leaves}
}

func (u Bundle) append(b []byte) []byte {
	b = u.Header.append(b)
	for _, l := range u.Leaves {
		b = l.append(b)
	}
	return b
}

func readBundle(r *crypto.Reader) (u Bundle) {
	u.Header = readSigned[BundleHeader](r)
	n := u.Header.Statement.Count
	if n > MaxBundleLeaves {
		r.Fail()
	}
	if r.Failed() {
		return u
	}
	u.Leaves = make([]Leaf, n)
	for i := range u.Leaves {
		u.Leaves[i] = readLeaf(r)
	}
	return u
}

// Proof returns what proves leaf i without the other leaves.
func (u Bundle) Proof(i int) VoteProof {
	if u.tree == nil {
		u.tree = newMerkleTree(u.Leaves)
	}
	return VoteProof{Header: u.Header, Index: uint16(i), Path: u.tree.path(i)}
}

// VoteProof proves that a leaf is in a validator's signed bundle. Path is empty when the bundle
// holds one leaf.
type VoteProof struct {
	Header Signed[BundleHeader]
	Index  uint16
	Path   []crypto.Hash // siblings, from the leaf up
}

func (p VoteProof) append(b []byte) []byte {
	b = p.Header.append(b)
	b = binary.BigEndian.AppendUint16(b, p.Index)
	b = crypto.AppendCount(b, len(p.Path))
	for _, h := range p.Path {
		b = append(b, h[:]...)
	}
	return b
}

func readVoteProof(r *crypto.Reader) (p VoteProof) {
	p.Header, p.Index = readSigned[BundleHeader](r), r.Uint16()
	for range r.Count(maxPath, crypto.HashSize) {
		p.Path = append(p.Path, r.Hash())
	}
	return p
}

// proves says why p does not lead from the leaf to the header's root, if it does not.
func (p VoteProof) proves(l Leaf) error {
	h := p.Header.Statement
	root, fits := rootOf(leafHash(l), int(p.Index), int(h.Count), p.Path)
	switch {
	case !fits:
		return malformed("path of %d hashes does not lead to leaf %d of the %d in bundle %d of validator %d", len(p.Path), p.Index, h.Count, h.Seq, h.Validator)
	case root != h.Root:
		return malformed("bundle %d of validator %d does not hold the %v vote", h.Seq, h.Validator, l.Kind)
	}
	return nil
}

// The Merkle tree is that of RFC 6962 §2.1: leaves and inner nodes are hashed with different
// prefixes, and a list is split at the largest power of two below its length.

func leafHash(l Leaf) crypto.Hash {
	return crypto.Sum(l.append(append(make([]byte, 0, 1+leafSize), 0))) // on the stack
}

func nodeHash(left, right crypto.Hash) crypto.Hash {
	var b [1 + 2*crypto.HashSize]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+crypto.HashSize:], right[:])
	return crypto.Sum(b[:])
}

func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }

// merkleTree has the levels of a tree, leaves first. The last node of a level with an odd number of them moves up as it is, which
// splits lists where RFC 6962 does.
type merkleTree [][]crypto.Hash

func newMerkleTree(leaves []Leaf) merkleTree {
	level := make([]crypto.Hash, len(leaves))
	for i, l := range leaves {
		level[i] = leafHash(l)
	}
	t := merkleTree{level}
	for len(level) > 1 {
		up := make([]crypto.Hash, 0, (len(level)+1)/2)
		for pair := range slices.Chunk(level, 2) {
			if len(pair) == 2 {
				up = append(up, nodeHash(pair[0], pair[1]))
			} else {
				up = append(up, pair[0])
			}
		}
		t, level = append(t, up), up
	}
	return t
}

func (t merkleTree) root() crypto.Hash { return t[len(t)-1][0] }

// path returns the siblings of leaf i and of the nodes above it.
func (t merkleTree) path(i int) (path []crypto.Hash) {
	for _, level := range t[:len(t)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			path = append(path, level[sibling])
		}
		i /= 2
	}
	return path
}

// rootOf climbs from leaf i of n; ok is false if the path has the wrong length.
func rootOf(leaf crypto.Hash, i, n int, path []crypto.Hash) (root crypto.Hash, ok bool) {
	if i < 0 || i >= n {
		return root, false
	}
	if n == 1 {
		return leaf, len(path) == 0
	}
	if len(path) == 0 {
		return root, false
	}
	top := path[len(path)-1]
	rest := path[:len(path)-1]
	k := split(n)
	if i < k {
		root, ok = rootOf(leaf, i, k, rest)
		return nodeHash(root, top), ok
	}
	root, ok = rootOf(leaf, i-k, n-k, rest)
	return nodeHash(top, root), ok
}
