package votelog

import (
	"errors"
	"fmt"
	"slices"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Outbox is where the decisions of an engine wait until they may leave. It alone has the validator's
// consensus key, and it signs nothing but what stands in its synced log: a vote that was not logged
// cannot be sent, since there is no such vote (I5). It is one half of a [ledger.Host]; the other
// half, the network, gets what Flush hands out. It is not safe for concurrent use.
//
// After a start it holds back whatever the validator would sign until q − 1 others have said how much
// they saw of it: see [Outbox.Mark].
type Outbox struct {
	Config
	log     *Log
	domain  crypto.Domain
	hashes  map[uint64]crypto.Hash // of the latest own headers
	marked  map[int]bool           // validators that have said what they saw
	refused error
	failed  error

	// what the engine decided since the last flush, or since the start while the outbox is held back
	basis    []ledger.Message
	openings []opening
	leaves   []ledger.Leaf
	queued   map[ledger.Leaf]bool // these
	reveals  []ledger.Reveal
	outgoing []func(Network)
	enough   int // so much may wait before what is settled is dropped
}

// Config says whose outbox it is.
type Config struct {
	Genesis  *ledger.Genesis
	Verifier *ledger.Verifier
	Engine   *ledger.Engine
	Self     int               // index in the committee; -1 for a peer that only follows, which needs no key, disk or ledger
	Key      crypto.PrivateKey // the consensus key
	Disk     Disk
	Ledger   Ledger // nil: nothing is ever purged from the log
	Segment  int64  // bytes of a segment of the log, 0 for SegmentSize; with small ones the simulator rotates often
}

// Network takes what leaves an outbox, in its order.
type Network interface {
	// Send sends over the direct streams, to one validator or with [ledger.Everyone] to all others.
	Send(to int, m ledger.Message)
	// Gossip publishes to all peers, this one among them.
	Gossip(m ledger.Message)
}

// Errors a caller may branch on: why a validator does not sign.
var (
	// ErrBehind is wrapped when a peer saw more of this validator's votes than its log holds.
	ErrBehind = errors.New("the vote log lacks votes that were sent: it was restored or lost; this validator signs nothing more in this epoch: give it a new consensus key in the next one")
	// ErrLedgerBehind is wrapped when the ledger misses tasks whose votes were purged from the log.
	ErrLedgerBehind = errors.New("the ledger was restored or lost: this validator signs nothing until its ledger has caught up with the others' and it is started again")
)

const (
	// maxHashes bounds the headers that are remembered to be compared with marks.
	maxHashes = 4096
	// minHeld is how much waits, at least, before it is looked through.
	minHeld = 1024
)

// NewOutbox opens the validator's log and restores the engine from it, before anything else is called
// on the engine. The outbox closes the disk, at the latest when it is closed.
func NewOutbox(c Config) (*Outbox, error) {
	o := &Outbox{
		Config: c, domain: ledger.Domain(c.Genesis), hashes: map[uint64]crypto.Hash{}, marked: map[int]bool{}, queued: map[ledger.Leaf]bool{}, enough: minHeld,
	}
	if c.Self < 0 {
		return o, nil
	}
	var err error
	o.log, err = Open(c, Replayer{
		Message: func(m ledger.Message) {
			if mark, ok := m.(*ledger.Mark); ok {
				o.refused = fmt.Errorf("another bundle %d of this one was seen before it started again: %w", mark.Header.Statement.Seq, ErrBehind)
			} else {
				c.Engine.Restore(m)
			}
		},
		Bundle: func(u *ledger.Bundle) {
			o.note(u.Header.Statement)
			for _, leaf := range u.Leaves {
				c.Engine.RestoreVote(leaf)
			}
		},
		Opening: c.Engine.RestoreOpening,
	})
	if err != nil {
		return nil, err
	}
	if t := o.log.tip; t.seq > 0 {
		o.hashes[t.seq-1] = t.previous
	}
	if purged := o.log.header.settled; o.refused == nil && c.Ledger != nil && uint64(c.Ledger.Digest().Tasks) < purged {
		o.refused = fmt.Errorf("the ledger holds %d settled tasks, but held %d when votes were purged: %w", c.Ledger.Digest().Tasks, purged, ErrLedgerBehind)
	}
	return o, nil
}

// note remembers an own header.
func (o *Outbox) note(h ledger.BundleHeader) {
	o.hashes[h.Seq] = h.Hash(o.domain)
	if h.Seq >= maxHashes {
		delete(o.hashes, h.Seq-maxHashes)
	}
}

// Close syncs and closes the log.
func (o *Outbox) Close() error {
	if o.log == nil {
		return nil
	}
	return o.log.Close()
}

// Mark takes what another validator saw of this one's bundles. Only when q − 1 have told, so that with
// this one a quorum knows, does the outbox begin to sign. If one of them saw a bundle that the log does
// not hold, the outbox never signs again, and Mark returns an error that wraps [ErrBehind]. Marks must
// have been verified. What this validator's own ledger saw may be given, too: it is none of the q − 1.
func (o *Outbox) Mark(from int, m *ledger.Mark) error {
	if o.silent() || int(m.Validator) != o.Self {
		return nil
	}
	if m.Header != nil {
		h := m.Header.Statement
		own, known := o.hashes[h.Seq]
		if end := o.log.tip.seq; h.Seq >= end {
			o.refused = fmt.Errorf("validator %d saw bundle %d of this one, the log ends before %d: %w", from, h.Seq, end, ErrBehind)
		} else if known && own != h.Hash(o.domain) {
			o.refused = fmt.Errorf("validator %d saw another bundle %d of this one than its log holds: %w", from, h.Seq, ErrBehind)
		}
	}
	if o.refused != nil {
		// Whoever saw it may have forgotten by the next start: what refuses stays in the log.
		o.clear()
		o.log.Message(m)
		return errors.Join(o.refused, o.log.Sync())
	}
	if from != o.Self {
		o.marked[from] = true
	}
	return nil
}

// silent reports whether the peer never signs.
func (o *Outbox) silent() bool { return o.Self < 0 || o.refused != nil }

// Signing reports whether the validator signs by now; err tells why it never will.
func (o *Outbox) Signing() (ok bool, err error) {
	return !o.silent() && len(o.marked) >= o.Genesis.Quorum()-1, o.refused
}

// Log implements [ledger.Host].
func (o *Outbox) Log(m ledger.Message) {
	if !o.silent() {
		o.basis = append(o.basis, m)
	}
}

// Vote implements [ledger.Host].
func (o *Outbox) Vote(l ledger.Leaf) {
	if !o.silent() && !o.queued[l] {
		o.leaves = append(o.leaves, l)
		o.queued[l] = true
	}
}

// CommitScores implements [ledger.Host].
func (o *Outbox) CommitScores(c ledger.ScoreCommit, s ledger.Opening) {
	if !o.silent() {
		o.openings = append(o.openings, opening{c, s})
	}
}

// Reveal implements [ledger.Host].
func (o *Outbox) Reveal(r ledger.Reveal) {
	if !o.silent() {
		o.reveals = append(o.reveals, r)
	}
}

// Publish implements [ledger.Host].
func (o *Outbox) Publish(m ledger.Message) {
	o.outgoing = append(o.outgoing, func(n Network) { n.Gossip(m) })
}

// Send implements [ledger.Host].
func (o *Outbox) Send(to int, m ledger.Message) {
	o.outgoing = append(o.outgoing, func(n Network) { n.Send(to, m) })
}

// Flush carries out what the engine decided: what the validator is about to sign is logged and synced
// first, and only then does anything leave. The own bundles go to the engine, which may decide more;
// Flush returns when there is nothing left. After an error the process must stop: nothing leaves any more,
// since it must not vote without a record.
func (o *Outbox) Flush(n Network) error {
	if o.failed == nil {
		o.failed = o.flush(n)
	}
	return o.failed
}

func (o *Outbox) flush(n Network) error {
	for {
		signing, _ := o.Signing()
		if !signing && o.waiting() > o.enough {
			o.forgetSettled()
		}
		own := signing && o.waiting() > 0
		if !own && len(o.outgoing) == 0 {
			return nil
		}
		outgoing := o.outgoing
		o.outgoing = nil
		var signed []func(Network)
		var bundles []*ledger.Bundle
		if own {
			var err error
			if signed, bundles, err = o.sign(); err != nil {
				return err
			}
		}
		for _, u := range bundles {
			n.Send(ledger.Everyone, u)
		}
		for _, f := range append(signed, outgoing...) {
			f(n)
		}
		for _, u := range bundles {
			v, err := o.Verifier.Verify(u)
			if err != nil {
				return fmt.Errorf("own bundle: %w", err)
			}
			o.Engine.Receive(v)
		}
	}
}

// sign logs and syncs what waits, and only then returns it signed.
func (o *Outbox) sign() (signed []func(Network), bundles []*ledger.Bundle, err error) {
	for _, m := range o.basis {
		o.log.Message(m)
	}
	for _, s := range o.openings {
		o.log.Opening(s.commit, s.opening)
	}
	for part := range slices.Chunk(o.leaves, ledger.MaxBundleLeaves) {
		u := ledger.NewBundle(uint16(o.Self), o.log.tip.seq, o.log.tip.previous, part)
		u.Header = *ledger.SignTrusted(o.Verifier, o.Key, u.Header.Statement)
		o.log.Bundle(&u)
		o.note(u.Header.Statement)
		bundles = append(bundles, &u)
	}
	if err := o.log.Sync(); err != nil {
		return nil, nil, err
	}
	for _, s := range o.openings {
		c := ledger.SignTrusted(o.Verifier, o.Key, s.commit)
		signed = append(signed, func(n Network) { n.Gossip(c) })
	}
	for _, r := range o.reveals {
		v := ledger.SignTrusted(o.Verifier, o.Key, r)
		signed = append(signed, func(n Network) { n.Gossip(v) })
	}
	o.clear()
	return signed, bundles, nil
}

func (o *Outbox) clear() {
	o.basis, o.openings, o.leaves, o.reveals = nil, nil, nil, nil
	clear(o.queued)
}

// waiting is how much waits to be signed.
func (o *Outbox) waiting() int {
	return len(o.basis) + len(o.openings) + len(o.leaves) + len(o.reveals)
}

// forgetSettled drops what nobody needs any more, so that an outbox that is held back for long keeps no
// more than the open tasks ask for.
func (o *Outbox) forgetSettled() {
	if o.Ledger == nil {
		return
	}
	settled := o.Ledger.IsSettled
	o.basis = slices.DeleteFunc(o.basis, func(m ledger.Message) bool { return settled(taskOf(m, o.domain)) })
	o.openings = slices.DeleteFunc(o.openings, func(p opening) bool { return settled(p.commit.Task) })
	o.reveals = slices.DeleteFunc(o.reveals, func(r ledger.Reveal) bool { return settled(r.Task) })
	o.leaves = slices.DeleteFunc(o.leaves, func(l ledger.Leaf) bool {
		gone := settled(l.Task)
		if gone {
			delete(o.queued, l)
		}
		return gone
	})
	o.enough = max(minHeld, 2*o.waiting())
}
