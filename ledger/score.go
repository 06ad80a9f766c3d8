package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// Score is a grade in basis points, 0..10000.
type Score uint16

// MaxScore is the best grade.
const MaxScore Score = 10_000

// ScoreCommit binds a panel member to its scores before it sees those of others.
type ScoreCommit struct {
	Task       TaskID
	Member     uint16     // index in the committee
	Answers    []AnswerID // what it scored, ascending, each once; may be empty
	Commitment crypto.Hash
}

func (ScoreCommit) kind() crypto.Kind { return kindScoreCommit }
func (c ScoreCommit) append(b []byte) []byte {
	b = slices.Grow(b, 2*32+2*2+len(c.Answers)*answerIDSize)
	b = append(b, c.Task[:]...)
	b = binary.BigEndian.AppendUint16(b, c.Member)
	b = crypto.AppendCount(b, len(c.Answers))
	for _, a := range c.Answers {
		b = a.append(b)
	}
	return append(b, c.Commitment[:]...)
}
func (c *ScoreCommit) read(r *crypto.Reader) {
	c.Task, c.Member = r.Hash(), r.Uint16()
	if n := r.Count(MaxAnswers, answerIDSize); n > 0 {
		c.Answers = make([]AnswerID, n)
		for i := range c.Answers {
			c.Answers[i] = readAnswerID(r)
		}
	}
	c.Commitment = r.Hash()
}
func (c ScoreCommit) signer(g *Genesis) (crypto.PublicKey, error) { return memberKey(g, c.Member) }
func (c ScoreCommit) check(*Genesis) error {
	for i, a := range c.Answers {
		if i > 0 && a.Compare(c.Answers[i-1]) <= 0 {
			return malformed("answers of a score commitment do not ascend")
		}
		if err := checkWorker(a.Worker); err != nil {
			return err
		}
	}
	return nil
}

func memberKey(g *Genesis, member uint16) (crypto.PublicKey, error) {
	if int(member) >= len(g.Validators) {
		return crypto.PublicKey{}, malformed("no validator %d in a committee of %d", member, len(g.Validators))
	}
	return g.Validators[member].Consensus, nil
}

// Opening is the secret behind a ScoreCommit.
type Opening struct {
	Scores []Score // one for each of the commitment's answers, in their order
	Salt   [32]byte
}

func (o Opening) append(b []byte) []byte {
	b = crypto.AppendCount(b, len(o.Scores))
	for _, s := range o.Scores {
		b = binary.BigEndian.AppendUint16(b, uint16(s))
	}
	return append(b, o.Salt[:]...)
}

func (o *Opening) read(r *crypto.Reader) {
	if n := r.Count(MaxAnswers, 2); n > 0 {
		o.Scores = make([]Score, n)
		for i := range o.Scores {
			o.Scores[i] = Score(r.Uint16())
		}
	}
	r.Fixed(o.Salt[:])
}

// CommitScores makes the statement that o opens.
func CommitScores(d crypto.Domain, task TaskID, member uint16, answers []AnswerID, o Opening) ScoreCommit {
	c := ScoreCommit{Task: task, Member: member, Answers: answers}
	c.Commitment = o.commitment(d, c)
	return c
}

// commitment is H("sc", chain, task, member, answers, scores, salt).
func (o Opening) commitment(d crypto.Domain, c ScoreCommit) crypto.Hash {
	c.Commitment = crypto.Hash{}
	return d.Hash(kindScoreOpening, o.append(c.append(nil)))
}

// Opens reports whether o is the secret behind c (I12), and one that counts: with a score of at most
// MaxScore for each answer. A member that committed to anything else can't open its commitment.
func (o Opening) Opens(d crypto.Domain, c ScoreCommit) bool { return o.opens(d, c) == nil }

// opens says why o does not open c.
func (o Opening) opens(d crypto.Domain, c ScoreCommit) error {
	if len(o.Scores) != len(c.Answers) {
		return fmt.Errorf("reveal of member %d has %d scores of %d answers", c.Member, len(o.Scores), len(c.Answers))
	}
	for _, s := range o.Scores {
		if s > MaxScore {
			return fmt.Errorf("reveal of member %d has the score %d, the best is %d", c.Member, s, MaxScore)
		}
	}
	if o.commitment(d, c) != c.Commitment {
		return fmt.Errorf("reveal of member %d does not open its commitment", c.Member)
	}
	return nil
}

// Reveal opens a ScoreCommit. It leaves an honest node only after the SealCert (I13).
type Reveal struct {
	Task    TaskID
	Member  uint16
	Opening Opening
}

func (Reveal) kind() crypto.Kind { return kindReveal }
func (v Reveal) append(b []byte) []byte {
	return v.Opening.append(binary.BigEndian.AppendUint16(append(b, v.Task[:]...), v.Member))
}
func (v *Reveal) read(r *crypto.Reader) {
	v.Task, v.Member = r.Hash(), r.Uint16()
	v.Opening.read(r)
}
func (v Reveal) signer(g *Genesis) (crypto.PublicKey, error) { return memberKey(g, v.Member) }
func (v Reveal) check(*Genesis) error {
	if slices.ContainsFunc(v.Opening.Scores, func(s Score) bool { return s > MaxScore }) {
		return malformed("score above %d", MaxScore)
	}
	return nil
}

// SealValue is S: the score commitments that count, ascending by member, each member once.
// Its signatures are proof for whoever looks; its hash does not depend on them.
type SealValue []Signed[ScoreCommit]

// Hash is H(S).
func (s SealValue) Hash(d crypto.Domain) crypto.Hash {
	return d.Hash(kindSealValue, s.appendStatements(nil))
}

func (s SealValue) appendStatements(b []byte) []byte {
	b = crypto.AppendCount(b, len(s))
	for _, c := range s {
		b = c.Statement.append(b)
	}
	return b
}

func (s SealValue) append(b []byte) []byte {
	b = crypto.AppendCount(b, len(s))
	for _, c := range s {
		b = c.append(b)
	}
	return b
}

func readSealValue(r *crypto.Reader) (s SealValue) {
	n := r.Count(MaxValidators, 32+2+2+32+64)
	for range n {
		s = append(s, readSigned[ScoreCommit](r))
	}
	return s
}

// check tells whether s is well formed for a task, signatures aside.
func (s SealValue) check(g *Genesis, task TaskID) error {
	for i, c := range s {
		switch {
		case c.Statement.Task != task:
			return malformed("sealed score commitment of another task")
		case i > 0 && c.Statement.Member <= s[i-1].Statement.Member:
			return malformed("sealed score commitments do not ascend by member")
		}
		if err := c.Statement.check(g); err != nil {
			return err
		}
	}
	return nil
}

// EncodeOpening returns the bytes in which a validator logs a commitment with its secret.
func EncodeOpening(c ScoreCommit, o Opening) []byte { return o.append(c.append(nil)) }

// DecodeOpening reads what [EncodeOpening] wrote.
func DecodeOpening(data []byte) (c ScoreCommit, o Opening, err error) {
	r := crypto.NewReader(data)
	c.read(r)
	o.read(r)
	return c, o, r.End()
}
