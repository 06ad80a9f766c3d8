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
	log      *Log
	domain   crypto.Domain
	seq      uint64      // of the next bundle
	previous crypto.Hash // header at seq − 1
	hashes   map[uint64]crypto.Hash
	marked   map[int]bool // validators that have said what they saw
	refused  error

	// what the engine decided since the last flush
	basis    []ledger.Message
	openings []opening
	leaves   []ledger.Leaf
	reveals  []ledger.Reveal
	outgoing []func(Network)
}

type opening struct {
	commit  ledger.ScoreCommit
	opening ledger.Opening
}

// Config says whose outbox it is.
type Config struct {
	Genesis  *ledger.Genesis
	Verifier *ledger.Verifier
	Engine   *ledger.Engine
	Self     int               // index in the committee; -1 for a peer that only follows, which needs no key and no disk
	Key      crypto.PrivateKey // the consensus key
	Disk     Disk
}

// Network takes what leaves an outbox, in its order.
type Network interface {
	// Send sends over the direct streams, to one validator or with [ledger.Everyone] to all others.
	Send(to int, m ledger.Message)
	// Gossip publishes to all peers, this one among them.
	Gossip(m ledger.Message)
}

// ErrBehind is wrapped when a peer saw more of this validator's votes than its log holds.
var ErrBehind = errors.New("the vote log lacks votes that were sent: it was restored or lost; this validator signs nothing more in this epoch: give it a new consensus key in the next one")

// maxHashes bounds the headers that are remembered to be compared with marks.
const maxHashes = 4096

// NewOutbox opens the validator's log and restores the engine from it, before anything else is called
// on the engine.
func NewOutbox(c Config) (*Outbox, error) {
	o := &Outbox{Config: c, domain: ledger.Domain(c.Genesis), hashes: map[uint64]crypto.Hash{}, marked: map[int]bool{}}
	if c.Self < 0 {
		return o, nil
	}
	var err error
	o.log, err = Open(c.Disk, Replayer{
		Message: c.Engine.Restore,
		Bundle: func(u *ledger.Bundle) {
			o.chain(u.Header.Statement)
			for _, leaf := range u.Leaves {
				c.Engine.RestoreVote(leaf)
			}
		},
		Opening: c.Engine.RestoreOpening,
	})
	return o, err
}

// chain notes the last own header.
func (o *Outbox) chain(h ledger.BundleHeader) {
	o.seq, o.previous = h.Seq+1, h.Hash(o.domain)
	o.hashes[h.Seq] = o.previous
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
// have been verified.
func (o *Outbox) Mark(from int, m *ledger.Mark) error {
	if o.silent() || from == o.Self || int(m.Validator) != o.Self {
		return nil
	}
	if m.Header != nil {
		h := m.Header.Statement
		own, known := o.hashes[h.Seq]
		if h.Seq >= o.seq || known && own != h.Hash(o.domain) {
			o.refused = fmt.Errorf("validator %d saw bundle %d of this one, the log ends before %d: %w", from, h.Seq, o.seq, ErrBehind)
			o.basis, o.openings, o.leaves, o.reveals = nil, nil, nil, nil
			return o.refused
		}
	}
	o.marked[from] = true
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
	if !o.silent() && !slices.Contains(o.leaves, l) {
		o.leaves = append(o.leaves, l)
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
// Flush returns when there is nothing left. After an error the process must stop: it must not vote
// without a record.
func (o *Outbox) Flush(n Network) error {
	for {
		signing, _ := o.Signing()
		own := signing && len(o.basis)+len(o.openings)+len(o.leaves)+len(o.reveals) > 0
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
		u := ledger.NewBundle(uint16(o.Self), o.seq, o.previous, part)
		u.Sign(o.domain, o.Key)
		ledger.Trust(o.Verifier, u.Header)
		o.chain(u.Header.Statement)
		o.log.Bundle(&u)
		bundles = append(bundles, &u)
	}
	if err := o.log.Sync(); err != nil {
		return nil, nil, err
	}
	for _, s := range o.openings {
		c := ledger.Sign(o.domain, o.Key, s.commit)
		ledger.Trust(o.Verifier, c)
		signed = append(signed, func(n Network) { n.Gossip(&c) })
	}
	for _, r := range o.reveals {
		v := ledger.Sign(o.domain, o.Key, r)
		ledger.Trust(o.Verifier, v)
		signed = append(signed, func(n Network) { n.Gossip(&v) })
	}
	o.basis, o.openings, o.leaves, o.reveals = nil, nil, nil, nil
	return signed, bundles, nil
}
