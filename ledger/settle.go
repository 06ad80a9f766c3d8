package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// OutcomeKind says how a task ended.
type OutcomeKind uint8

// Outcomes (protocol §7).
const (
	Paid      OutcomeKind = iota + 1 // at least one answer was judged by enough of the panel
	NoAnswers                        // no sealed commitment names an answer
	Unscored                         // answers were named, but none was judged by enough of the panel
)

var outcomeNames = [...]string{Paid: "PAID", NoAnswers: "NO_ANSWERS", Unscored: "UNSCORED"}

// String returns the outcome's name in capitals.
func (k OutcomeKind) String() string {
	if k >= Paid && k <= Unscored {
		return outcomeNames[k]
	}
	return fmt.Sprintf("outcome %d", uint8(k))
}

// MarshalText implements [encoding.TextMarshaler].
func (k OutcomeKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *OutcomeKind) UnmarshalText(text []byte) error {
	i := slices.Index(outcomeNames[:], string(text))
	if i < int(Paid) {
		return fmt.Errorf("unknown outcome %q", text)
	}
	*k = OutcomeKind(i)
	return nil
}

// Outcome is V, the value on which the settle instance agrees.
type Outcome struct {
	Task    TaskID
	Seal    crypto.Hash       // H(S)
	Reveals []RevealedOpening // that were counted, ascending by member
	Kind    OutcomeKind
	Ranking []Ranked       // eligible answers, best first
	Credits []CreditAmount // ascending by account, each above zero; they sum to the fee (I7)
}

// RevealedOpening is a panel member's opened commitment.
type RevealedOpening struct {
	Member  uint16
	Opening Opening
}

// Ranked is an eligible answer with its place.
type Ranked struct {
	Answer AnswerID `json:"answer"`
	Score  Score    `json:"score"` // lower median
	Rank   uint16   `json:"rank"`  // from 1; byte-identical answers share one
}

// CreditAmount is what an account receives out of the fee.
type CreditAmount struct {
	Account AccountID `json:"account"`
	Amount  Amount    `json:"amount"`
}

func (o Outcome) append(b []byte) []byte {
	b = append(append(b, o.Task[:]...), o.Seal[:]...)
	b = append(appendReveals(b, o.Reveals), byte(o.Kind))
	b = crypto.AppendCount(b, len(o.Ranking))
	for _, r := range o.Ranking {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(r.Answer.append(b), uint16(r.Score)), r.Rank)
	}
	b = crypto.AppendCount(b, len(o.Credits))
	for _, c := range o.Credits {
		b = binary.BigEndian.AppendUint64(append(b, c.Account[:]...), c.Amount)
	}
	return b
}

// maxRanking bounds the eligible answers: k members name at most k·MaxAnswers answers, and each
// eligible one takes 2b+1 of them. That is most at k = 3, where b = 0.
const maxRanking = 3 * MaxAnswers

// maxCredits bounds the accounts paid: workers, validators, payer, and what is burned.
const maxCredits = maxRanking + MaxValidators + 2

func readOutcome(r *crypto.Reader) (o Outcome) {
	o.Task, o.Seal, o.Reveals = r.Hash(), r.Hash(), readReveals(r)
	o.Kind = OutcomeKind(r.Uint8())
	for range r.Count(maxRanking, answerIDSize+4) {
		o.Ranking = append(o.Ranking, Ranked{readAnswerID(r), Score(r.Uint16()), r.Uint16()})
	}
	for range r.Count(maxCredits, 40) {
		o.Credits = append(o.Credits, CreditAmount{r.Key(), r.Uint64()})
	}
	return o
}

func appendReveals(b []byte, reveals []RevealedOpening) []byte {
	b = crypto.AppendCount(b, len(reveals))
	for _, r := range reveals {
		b = r.Opening.append(binary.BigEndian.AppendUint16(b, r.Member))
	}
	return b
}

func readReveals(r *crypto.Reader) (reveals []RevealedOpening) {
	for range r.Count(MaxValidators, 2+2+32) {
		v := RevealedOpening{Member: r.Uint16()}
		v.Opening.read(r)
		reveals = append(reveals, v)
	}
	return reveals
}

// Hash is H(V).
func (o Outcome) Hash(d crypto.Domain) crypto.Hash { return d.Hash(kindOutcome, o.append(nil)) }

// Derivation is a settlement with every step shown: what each member gave to each answer, and why
// who is paid what.
type Derivation struct {
	Outcome Outcome
	Answers []AnswerResult // every answer that S names: eligible ones by rank, then the others by id
	Members []MemberResult // the whole panel
	Refund  Amount         // of the fee, back to the payer
	Burned  Amount
}

// AnswerResult is one answer's way through a settlement.
type AnswerResult struct {
	Answer AnswerID
	Scores []MemberScore // of the members that scored and revealed it, ascending by member
	Score  Score         // lower median, 0 if not eligible
	Rank   int           // 0 if not eligible
	Pay    Amount        // to its worker
}

// MemberScore is one member's score of one answer.
type MemberScore struct {
	Member int
	Score  Score
	InBand bool   // within τ of the others' lower median; only eligible answers are paid for
	Pay    Amount // to the member
}

// MemberResult sums up a panel member.
type MemberResult struct {
	Sealed, Revealed bool
	Judged           int // eligible answers that it scored
	InBand           int // of these, those that it is paid for
	Pay, Burned      Amount
}

// Settle computes the outcome of a task from the sealed set S and the reveals that open it. It is
// pure: integers only, and the order of reveals changes nothing. Reveals that open no commitment
// of S are not counted. The order must have passed [Verifier] and S must be well formed for it.
func Settle(g *Genesis, d crypto.Domain, task TaskID, order Order, s SealValue, reveals []RevealedOpening) Outcome {
	return Derive(g, d, task, order, s, reveals).Outcome
}

// Derive is [Settle] with its steps (the numbers are those of protocol §7).
func Derive(g *Genesis, d crypto.Domain, task TaskID, order Order, s SealValue, reveals []RevealedOpening) *Derivation {
	panel := len(g.Validators)
	split, _ := g.Split(order.Split)
	v := &Derivation{Outcome: Outcome{Task: task, Seal: s.Hash(d)}, Members: make([]MemberResult, panel)}
	v.collect(d, s, reveals)
	v.rank(d, 2*((panel-1)/3)+1)

	eligible := v.Answers[:len(v.Outcome.Ranking)]
	credits := map[AccountID]Amount{}
	switch {
	case len(eligible) > 0:
		v.Outcome.Kind = Paid
		pools := allocate(order.Fee, []uint32{split.Workers, split.Validators})
		v.payWorkers(pools[0], split, eligible, credits)
		v.payPanel(pools[1], split, eligible, g, credits)
	case len(v.Answers) == 0:
		v.Outcome.Kind = NoAnswers
		v.Burned = unpaidBurn(order.Fee, split)
	default:
		v.Outcome.Kind = Unscored
		v.Burned = unpaidBurn(order.Fee, split)
	}
	v.Refund = order.Fee - v.Burned // (6) the rest goes back to the payer
	for _, a := range credits {
		v.Refund -= a
	}
	credits[Burned] += v.Burned
	credits[order.Payer] += v.Refund
	for account, amount := range credits {
		if amount > 0 {
			v.Outcome.Credits = append(v.Outcome.Credits, CreditAmount{account, amount})
		}
	}
	slices.SortFunc(v.Outcome.Credits, func(a, b CreditAmount) int { return a.Account.Compare(b.Account) })
	return v
}

// collect gathers the scores that count: of members in S whose reveal opens their commitment.
func (v *Derivation) collect(d crypto.Domain, s SealValue, reveals []RevealedOpening) {
	scores := map[AnswerID][]MemberScore{}
	for _, c := range s {
		c := c.Statement
		if int(c.Member) >= len(v.Members) {
			continue
		}
		m := &v.Members[c.Member]
		m.Sealed = true
		for _, a := range c.Answers {
			if _, ok := scores[a]; !ok {
				scores[a] = nil // named, even if nobody reveals a score of it
			}
		}
		i := slices.IndexFunc(reveals, func(r RevealedOpening) bool { return r.Member == c.Member && r.Opening.Opens(d, c) })
		if i < 0 {
			continue
		}
		m.Revealed = true
		o := reveals[i].Opening
		v.Outcome.Reveals = append(v.Outcome.Reveals, RevealedOpening{c.Member, o})
		for i, a := range c.Answers {
			scores[a] = append(scores[a], MemberScore{Member: int(c.Member), Score: o.Scores[i]})
		}
	}
	for a, list := range scores {
		v.Answers = append(v.Answers, AnswerResult{Answer: a, Scores: list})
	}
}

// rank finds the eligible answers (1), their scores (2) and places (3), and sorts v.Answers.
func (v *Derivation) rank(d crypto.Domain, need int) {
	tie := map[AnswerID]crypto.Hash{}
	for i := range v.Answers {
		a := &v.Answers[i]
		if len(a.Scores) >= need {
			a.Score = lowerMedian(a.Scores, -1)
			a.Rank = 1 // for now: eligible
		}
		tie[a.Answer] = d.Hash(kindTieBreak, a.Answer.append(v.Outcome.Seal[:]))
	}
	slices.SortFunc(v.Answers, func(a, b AnswerResult) int {
		if c := cmp.Compare(min(b.Rank, 1), min(a.Rank, 1)); c != 0 {
			return c
		}
		if a.Rank == 0 {
			return a.Answer.Compare(b.Answer)
		}
		x, y := tie[a.Answer], tie[b.Answer]
		return cmp.Or(cmp.Compare(b.Score, a.Score), bytes.Compare(x[:], y[:]))
	})
	places := map[crypto.Hash]int{} // by text: identical answers share the place of the best of them
	for i := range v.Answers {
		a := &v.Answers[i]
		if a.Rank == 0 {
			break
		}
		place, ok := places[a.Answer.Text]
		if !ok {
			place = len(places) + 1
			places[a.Answer.Text] = place
		}
		a.Rank = place
		v.Outcome.Ranking = append(v.Outcome.Ranking, Ranked{a.Answer, a.Score, uint16(place)})
	}
}

// payWorkers pays by rank from the floor on (4). Parts that nobody earned stay with the payer.
func (v *Derivation) payWorkers(pool Amount, split Split, eligible []AnswerResult, credits map[AccountID]Amount) {
	parts := allocate(pool, split.Ranks)
	for rank, part := range parts {
		var place []*AnswerResult
		best := Score(0)
		for i := range eligible {
			if a := &eligible[i]; a.Rank == rank+1 {
				place = append(place, a)
				best = max(best, a.Score)
			}
		}
		if len(place) == 0 || best < split.Floor {
			continue
		}
		slices.SortFunc(place, func(a, b *AnswerResult) int { return a.Answer.Compare(b.Answer) })
		for i, pay := range allocate(part, equal(len(place))) {
			place[i].Pay = pay
			credits[place[i].Answer.Worker] += pay
		}
	}
}

// payPanel pays an equal part for every (member, eligible answer) within the band (5) and burns the
// parts of members that were outside of it or silent (6).
func (v *Derivation) payPanel(pool Amount, split Split, eligible []AnswerResult, g *Genesis, credits map[AccountID]Amount) {
	byID := make([]*AnswerResult, len(eligible))
	for i := range eligible {
		byID[i] = &eligible[i]
	}
	slices.SortFunc(byID, func(a, b *AnswerResult) int { return a.Answer.Compare(b.Answer) })
	parts := allocate(pool, equal(len(v.Members)*len(byID)))
	for member := range v.Members {
		m := &v.Members[member]
		for i, a := range byID {
			part := parts[member*len(byID)+i]
			j := slices.IndexFunc(a.Scores, func(s MemberScore) bool { return s.Member == member })
			if j < 0 {
				m.Burned += part
				continue
			}
			m.Judged++
			s := &a.Scores[j]
			if s.InBand = len(a.Scores) == 1 || distance(s.Score, lowerMedian(a.Scores, j)) <= split.Band; !s.InBand {
				m.Burned += part
				continue
			}
			m.InBand++
			m.Pay += part
			s.Pay = part
		}
		v.Burned += m.Burned
		credits[g.Validators[member].Account] += m.Pay
	}
}

// unpaidBurn keeps free orders from being free spam; it never exceeds the fee.
func unpaidBurn(fee Amount, split Split) Amount {
	return min(fee, max(1, mulDiv(fee, uint64(split.UnpaidBurn), uint64(MaxScore)).quotient))
}

// lowerMedian is the score of rank ⌈m/2⌉ of m, leaving out the one at index skip (-1: none).
func lowerMedian(scores []MemberScore, skip int) Score {
	list := make([]Score, 0, len(scores))
	for i, s := range scores {
		if i != skip {
			list = append(list, s.Score)
		}
	}
	slices.Sort(list)
	return list[(len(list)-1)/2]
}

func distance(a, b Score) Score { return max(a, b) - min(a, b) }

func equal(n int) []uint32 { return slices.Repeat([]uint32{1}, n) }

type division struct{ quotient, remainder uint64 }

// mulDiv divides the 128-bit product a·b by c; the quotient must fit 64 bits.
func mulDiv(a, b, c uint64) division {
	hi, lo := bits.Mul64(a, b)
	q, r := bits.Div64(hi, lo, c)
	return division{q, r}
}

// allocate splits total by weights with the method of the largest remainder, ties to the lower
// index. The weights must not all be zero; their sum must fit 32 bits.
func allocate(total Amount, weights []uint32) []Amount {
	sum := uint64(0)
	for _, w := range weights {
		sum += uint64(w)
	}
	parts, order := make([]Amount, len(weights)), make([]int, len(weights))
	remainders := make([]uint64, len(weights))
	left := total
	for i, w := range weights {
		div := mulDiv(total, uint64(w), sum)
		parts[i], remainders[i], order[i] = div.quotient, div.remainder, i
		left -= div.quotient
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(remainders[b], remainders[a]) })
	for _, i := range order[:left] {
		parts[i]++
	}
	return parts
}
