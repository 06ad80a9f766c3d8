package ledger

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// Offence is a contradiction that two signatures of one key prove.
type Offence uint8

// Offences. Each is proven by two statements of the culprit.
const (
	TwoOrders    Offence = iota + 1 // of a payer with one nonce (§4): its account is frozen
	TwoCommits                      // of a panel member to scores of one task (§5): neither counts
	TwoBundles                      // of a validator with one number (I2)
	BrokenChain                     // a validator's bundle names another one before it than it signed (§3)
	TwoVotes                        // of a validator on one ballot (I2)
	VoteAfterEnd                    // of a validator in a round that it had left in an earlier bundle (I3)
)

var offenceNames = [...]string{TwoOrders: "two orders", TwoCommits: "two score commitments", TwoBundles: "two bundles",
	BrokenChain: "broken chain", TwoVotes: "two votes", VoteAfterEnd: "vote after round end"}

// String names the offence.
func (o Offence) String() string {
	if o >= TwoOrders && o <= VoteAfterEnd {
		return offenceNames[o]
	}
	return fmt.Sprintf("offence %d", uint8(o))
}

// MarshalText implements [encoding.TextMarshaler].
func (o Offence) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (o *Offence) UnmarshalText(text []byte) error {
	i := slices.Index(offenceNames[:], string(text))
	if i < int(TwoOrders) {
		return fmt.Errorf("no offence is called %q", text)
	}
	*o = Offence(i)
	return nil
}

// Evidence proves to anybody that a key contradicted itself. The fields of the offence are set, in
// canonical order: that of the statements' bytes, or the earlier one first where they are in sequence.
type Evidence struct {
	Offence Offence
	Orders  [2]Signed[Order]        // TwoOrders
	Commits [2]Signed[ScoreCommit]  // TwoCommits
	Bundles [2]Signed[BundleHeader] // TwoBundles, BrokenChain
	Votes   [2]ProvenVote           // TwoVotes; VoteAfterEnd: NewRound, then the vote
}

// ProvenVote is a vote with its proof.
type ProvenVote struct {
	Vote  Leaf
	Proof VoteProof
}

func (p ProvenVote) append(b []byte) []byte { return p.Proof.append(p.Vote.append(b)) }

func readProvenVote(r *crypto.Reader) ProvenVote { return ProvenVote{readLeaf(r), readVoteProof(r)} }

func (e *Evidence) append(b []byte) []byte {
	b = append(b, byte(e.Offence))
	for i := range 2 {
		switch e.Offence {
		case TwoOrders:
			b = e.Orders[i].append(b)
		case TwoCommits:
			b = e.Commits[i].append(b)
		case TwoBundles, BrokenChain:
			b = e.Bundles[i].append(b)
		case TwoVotes, VoteAfterEnd:
			b = e.Votes[i].append(b)
		}
	}
	return b
}

func readEvidence(r *crypto.Reader) *Evidence {
	e := &Evidence{Offence: Offence(r.Uint8())}
	for i := range 2 {
		switch e.Offence {
		case TwoOrders:
			e.Orders[i] = readSigned[Order](r)
		case TwoCommits:
			e.Commits[i] = readSigned[ScoreCommit](r)
		case TwoBundles, BrokenChain:
			e.Bundles[i] = readSigned[BundleHeader](r)
		case TwoVotes, VoteAfterEnd:
			e.Votes[i] = readProvenVote(r)
		default:
			r.Fail()
		}
	}
	return e
}

// Encode returns the canonical bytes of the evidence.
func (e *Evidence) Encode() []byte { return e.append(nil) }

// DecodeEvidence reads what [Evidence.Encode] wrote. It checks no signature: see [Verifier.Verify].
func DecodeEvidence(data []byte) (*Evidence, error) {
	r := crypto.NewReader(data)
	e := readEvidence(r)
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return e, nil
}

// Culprit returns the key that contradicted itself: the payer's account, or a validator's consensus key.
func (e *Evidence) Culprit(g *Genesis) (crypto.PublicKey, error) {
	if e.Offence == TwoOrders {
		return e.Orders[0].Statement.Payer, nil
	}
	return memberKey(g, uint16(e.Validator()))
}

// Validator returns the index of the validator that contradicted itself, -1 if it was a payer.
func (e *Evidence) Validator() int {
	switch e.Offence {
	case TwoOrders:
		return -1
	case TwoCommits:
		return int(e.Commits[0].Statement.Member)
	case TwoBundles, BrokenChain:
		return int(e.Bundles[0].Statement.Validator)
	default:
		return int(e.Votes[0].Proof.Header.Statement.Validator)
	}
}

// ID names an offence of a culprit. One proof of each is enough, so that nobody fills the disks of
// others by contradicting itself over and over.
func (e *Evidence) ID(d crypto.Domain) crypto.Hash {
	if e.Offence == TwoOrders {
		payer := e.Orders[0].Statement.Payer
		return d.Hash(kindEvidence, append([]byte{byte(e.Offence)}, payer[:]...))
	}
	v := uint16(e.Validator())
	return d.Hash(kindEvidence, []byte{byte(e.Offence), byte(v >> 8), byte(v)})
}

// Task returns the task in which the contradiction was seen, zero if it is not of one.
func (e *Evidence) Task(d crypto.Domain) TaskID {
	switch e.Offence {
	case TwoOrders:
		return OrderID(d, e.Orders[1].Statement)
	case TwoCommits:
		return e.Commits[0].Statement.Task
	case TwoVotes, VoteAfterEnd:
		return e.Votes[0].Vote.Task
	}
	return TaskID{}
}

// Describe says in words what is proven.
func (e *Evidence) Describe(d crypto.Domain) string {
	switch e.Offence {
	case TwoOrders:
		a, b := e.Orders[0].Statement, e.Orders[1].Statement
		return fmt.Sprintf("payer %s signed two orders with nonce %d: %s and %s", a.Payer.Short(), a.Nonce, OrderID(d, a).Short(), OrderID(d, b).Short())
	case TwoCommits:
		c := e.Commits[0].Statement
		return fmt.Sprintf("validator %d committed to two sets of scores of task %s", c.Member, c.Task.Short())
	case TwoBundles:
		h := e.Bundles[0].Statement
		return fmt.Sprintf("validator %d signed two bundles with number %d", h.Validator, h.Seq)
	case BrokenChain:
		h := e.Bundles[1].Statement
		return fmt.Sprintf("validator %d signed a bundle with number %d that does not follow its bundle %d", h.Validator, h.Seq, h.Seq-1)
	case TwoVotes:
		l := e.Votes[0].Vote
		return fmt.Sprintf("validator %d signed two %v votes of round %d of the %v stage of task %s", e.Validator(), l.Kind, l.Round, l.Stage, l.Task.Short())
	case VoteAfterEnd:
		end, l := e.Votes[0].Vote, e.Votes[1].Vote
		return fmt.Sprintf("validator %d signed a %v vote of round %d of the %v stage of task %s after it had left for round %d", e.Validator(), l.Kind, l.Round, l.Stage, l.Task.Short(), end.Round)
	}
	return e.Offence.String()
}

// orders, commits, bundles and votes make evidence in canonical order.

func ordersEvidence(a, b Signed[Order]) *Evidence {
	if bytes.Compare(a.Statement.append(nil), b.Statement.append(nil)) > 0 {
		a, b = b, a
	}
	return &Evidence{Offence: TwoOrders, Orders: [2]Signed[Order]{a, b}}
}

func commitsEvidence(a, b Signed[ScoreCommit]) *Evidence {
	if bytes.Compare(a.Statement.append(nil), b.Statement.append(nil)) > 0 {
		a, b = b, a
	}
	return &Evidence{Offence: TwoCommits, Commits: [2]Signed[ScoreCommit]{a, b}}
}

func bundlesEvidence(a, b Signed[BundleHeader]) *Evidence {
	if bytes.Compare(a.Statement.append(nil), b.Statement.append(nil)) > 0 {
		a, b = b, a
	}
	return &Evidence{Offence: TwoBundles, Bundles: [2]Signed[BundleHeader]{a, b}}
}

func votesEvidence(a, b ProvenVote) *Evidence {
	if bytes.Compare(a.Vote.Value[:], b.Vote.Value[:]) > 0 {
		a, b = b, a
	}
	return &Evidence{Offence: TwoVotes, Votes: [2]ProvenVote{a, b}}
}

// contradictions proves who voted in two certificates of one ballot with different values: with more than
// f Byzantine validators there can be such, and they name f+1 of them or more (§11).
func contradictions(a, b Certificate) (list []*Evidence) {
	if a.Vote.ballot() != b.Vote.ballot() || a.Vote.Value == b.Vote.Value {
		return nil
	}
	for _, p := range a.Proofs {
		for _, q := range b.Proofs {
			if p.Header.Statement.Validator == q.Header.Statement.Validator {
				list = append(list, votesEvidence(ProvenVote{a.Vote, p}, ProvenVote{b.Vote, q}))
			}
		}
	}
	return list
}

// evidence checks that the two statements contradict each other, and both signatures.
func (v *Verifier) evidence(e *Evidence) error {
	claims := make([]crypto.Claim, 2)
	for i := range claims {
		var err error
		switch e.Offence {
		case TwoOrders:
			claims[i], err = claim(v, e.Orders[i])
		case TwoCommits:
			claims[i], err = claim(v, e.Commits[i])
		case TwoBundles, BrokenChain:
			claims[i], err = claim(v, e.Bundles[i])
		case TwoVotes, VoteAfterEnd:
			claims[i], err = v.voteClaim(e.Votes[i].Proof, e.Votes[i].Vote)
		default:
			return malformed("evidence of unknown offence %d", e.Offence)
		}
		if err != nil {
			return err
		}
	}
	if !e.contradicts(v.domain) {
		return malformed("evidence of %v: the statements do not contradict each other, or are in the wrong order", e.Offence)
	}
	return v.verifyClaims(claims)
}

// contradicts reports whether no honest key signs both statements, and whether they are in order.
func (e *Evidence) contradicts(d crypto.Domain) bool {
	switch e.Offence {
	case TwoOrders:
		a, b := e.Orders[0].Statement, e.Orders[1].Statement
		return a.Payer == b.Payer && a.Nonce == b.Nonce && bytes.Compare(a.append(nil), b.append(nil)) < 0
	case TwoCommits:
		a, b := e.Commits[0].Statement, e.Commits[1].Statement
		return a.Member == b.Member && a.Task == b.Task && bytes.Compare(a.append(nil), b.append(nil)) < 0
	case TwoBundles:
		a, b := e.Bundles[0].Statement, e.Bundles[1].Statement
		return a.Validator == b.Validator && a.Seq == b.Seq && bytes.Compare(a.append(nil), b.append(nil)) < 0
	case BrokenChain:
		a, b := e.Bundles[0].Statement, e.Bundles[1].Statement
		return a.Validator == b.Validator && a.Seq+1 == b.Seq && b.Seq > 0 && b.Previous != a.Hash(d)
	}
	a, b := e.Votes[0], e.Votes[1]
	from, to := a.Proof.Header.Statement, b.Proof.Header.Statement
	if from.Validator != to.Validator {
		return false
	}
	if e.Offence == TwoVotes {
		return a.Vote.ballot() == b.Vote.ballot() && bytes.Compare(a.Vote.Value[:], b.Vote.Value[:]) < 0
	}
	return a.Vote.Kind == NewRound && a.Vote.Task == b.Vote.Task && a.Vote.Stage == b.Vote.Stage &&
		b.Vote.Round < a.Vote.Round && from.Seq < to.Seq
}
