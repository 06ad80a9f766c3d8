package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

// settleCase is a settlement in short: what each panel member gave to each answer.
type settleCase struct {
	genesis *Genesis
	order   Order
	task    TaskID
	seal    SealValue
	reveals []RevealedOpening
	answers []AnswerID
}

const (
	unseen = -1 // the member did not score this answer
)

// newCase seals and reveals scores[member][answer]. texts names the answers' texts, one a worker; a
// member in silent does not reveal, one in absent is not sealed.
func newCase(scores [][]int, texts []string, fee Amount, silent, absent []int) *settleCase {
	c := &settleCase{genesis: &Genesis{Network: "t", Epoch: 1, MinFee: 1, Splits: []Split{DefaultSplit()}}}
	for i := range scores {
		c.genesis.Validators = append(c.genesis.Validators, Validator{Consensus: testKey("validator", i).Public(), Account: testKey("validator account", i).Public(), Peer: fmt.Sprint("p", i)})
	}
	d := Domain(c.genesis)
	c.order = Order{Payer: testKey("payer", 0).Public(), Fee: fee, Split: 1}
	c.task = OrderID(d, c.order)
	for i, text := range texts {
		c.answers = append(c.answers, AnswerID{testKey("worker", i).Public(), crypto.Sum([]byte(text))})
	}
	for member, row := range scores {
		var ids []AnswerID
		given := map[AnswerID]Score{}
		for i, s := range row {
			if s != unseen {
				ids = append(ids, c.answers[i])
				given[c.answers[i]] = Score(s)
			}
		}
		sortAnswerIDs(ids)
		o := Opening{Salt: crypto.Sum([]byte{byte(member)})}
		for _, id := range ids {
			o.Scores = append(o.Scores, given[id])
		}
		if slices.Contains(absent, member) {
			continue
		}
		c.seal = append(c.seal, Signed[ScoreCommit]{Statement: CommitScores(d, c.task, uint16(member), ids, o)})
		if !slices.Contains(silent, member) {
			c.reveals = append(c.reveals, RevealedOpening{uint16(member), o})
		}
	}
	return c
}

func (c *settleCase) derive() *Derivation {
	return Derive(c.genesis, Domain(c.genesis), c.task, c.order, c.seal, c.reveals)
}

// pay returns what each worker, each validator, the payer and the fire get.
func (c *settleCase) pay(o Outcome) (workers, validators []Amount, payer, burned Amount) {
	of := func(id AccountID) Amount {
		for _, e := range o.Credits {
			if e.Account == id {
				return e.Amount
			}
		}
		return 0
	}
	for _, a := range c.answers {
		workers = append(workers, of(a.Worker))
	}
	for _, v := range c.genesis.Validators {
		validators = append(validators, of(v.Account))
	}
	return workers, validators, of(c.order.Payer), of(Burned)
}

func TestSettlePaysByRanksAndBand(t *testing.T) {
	three := []string{"a", "b", "c"}
	for _, c := range []struct {
		name       string
		scores     [][]int // by member
		texts      []string
		fee        Amount
		silent     []int
		absent     []int
		kind       OutcomeKind
		ranks      []int // by answer, 0: not eligible
		workers    []Amount
		validators []Amount
		payer      Amount
		burned     Amount
	}{
		{
			"all honest", [][]int{{9000, 5000, 3000}, {9000, 5000, 3000}, {9000, 5000, 3000}, {9000, 5000, 3000}}, three, 12000, nil, nil,
			Paid, []int{1, 2, 3}, []Amount{6720, 1920, 960}, []Amount{600, 600, 600, 600}, 0, 0,
		}, {
			"one below the floor: its part returns to the payer", [][]int{{9000, 5000, 2499}, {9000, 5000, 2499}, {9000, 5000, 2499}, {9000, 5000, 2499}}, three, 12000, nil, nil,
			Paid, []int{1, 2, 3}, []Amount{6720, 1920, 0}, []Amount{600, 600, 600, 600}, 960, 0,
		}, {
			"all below the floor: validators are paid all the same", [][]int{{100, 50}, {100, 50}, {100, 50}, {100, 50}}, three[:2], 1000, nil, nil,
			Paid, []int{1, 2}, []Amount{0, 0}, []Amount{50, 50, 50, 50}, 800, 0,
		}, {
			"one answer takes rank 1 alone", [][]int{{7000}, {7000}, {7000}, {7000}}, three[:1], 1000, nil, nil,
			Paid, []int{1}, []Amount{560}, []Amount{50, 50, 50, 50}, 240, 0,
		}, {
			"a liar is out of the band and moves nothing", [][]int{{9000, 3000}, {9050, 3000}, {8950, 3000}, {0, 10000}}, three[:2], 8000, nil, nil,
			Paid, []int{1, 2}, []Amount{4480, 1280}, []Amount{400, 400, 400, 0}, 640, 400,
		}, {
			"distance τ is within the band, τ+1 is not", [][]int{{5000}, {5000}, {5100}, {5101}}, three[:1], 1000, nil, nil,
			// without itself: member 2 sees 5000 5000 5101, member 3 sees 5000 5000 5100
			Paid, []int{1}, []Amount{560}, []Amount{50, 50, 50, 0}, 240, 50,
		}, {
			"a withheld reveal burns its part only", [][]int{{9000}, {9000}, {9000}, {9000}}, three[:1], 1000, []int{2}, nil,
			Paid, []int{1}, []Amount{560}, []Amount{50, 50, 0, 50}, 240, 50,
		}, {
			"a member outside of S burns its part only", [][]int{{9000}, {9000}, {9000}, {9000}}, three[:1], 1000, nil, []int{0},
			Paid, []int{1}, []Amount{560}, []Amount{0, 50, 50, 50}, 240, 50,
		}, {
			"2b members are too few, 2b+1 are enough", [][]int{{9000, 8000}, {9000, 8000}, {9000, unseen}, {unseen, unseen}}, three[:2], 1000, nil, nil,
			Paid, []int{1, 0}, []Amount{560, 0}, []Amount{50, 50, 50, 0}, 240, 50,
		}, {
			"nobody reveals", [][]int{{9000}, {9000}, {9000}, {9000}}, three[:1], 1000, []int{0, 1, 2, 3}, nil,
			Unscored, []int{0}, []Amount{0}, []Amount{0, 0, 0, 0}, 990, 10,
		}, {
			"no answers", [][]int{{}, {}, {}, {}}, nil, 50, nil, nil,
			NoAnswers, nil, nil, []Amount{0, 0, 0, 0}, 49, 1,
		}, {
			"a fee of one can be burned whole", [][]int{{}, {}, {}, {}}, nil, 1, nil, nil,
			NoAnswers, nil, nil, []Amount{0, 0, 0, 0}, 0, 1,
		}, {
			"identical answers share the place, the next one follows", [][]int{{9000, 9000, 5000}, {9000, 9000, 5000}, {9000, 9000, 5000}, {9000, 9000, 5000}}, []string{"same", "same", "other"}, 12000, nil, nil,
			Paid, []int{1, 1, 2}, []Amount{3360, 3360, 1920}, []Amount{600, 600, 600, 600}, 960, 0,
		}, {
			"a lone validator is its own measure", [][]int{{4000}}, three[:1], 1000, nil, nil,
			Paid, []int{1}, []Amount{560}, []Amount{200}, 240, 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newCase(c.scores, c.texts, c.fee, c.silent, c.absent)
			v := s.derive()
			workers, validators, payer, burned := s.pay(v.Outcome)
			var ranks []int
			for _, id := range s.answers {
				i := slices.IndexFunc(v.Answers, func(a AnswerResult) bool { return a.Answer == id })
				if i < 0 {
					ranks = append(ranks, 0)
				} else {
					ranks = append(ranks, v.Answers[i].Rank)
				}
			}
			if v.Outcome.Kind != c.kind || !slices.Equal(ranks, c.ranks) {
				t.Errorf("got %v with ranks %v, want %v with %v", v.Outcome.Kind, ranks, c.kind, c.ranks)
			}
			if !slices.Equal(workers, c.workers) || !slices.Equal(validators, c.validators) || payer != c.payer || burned != c.burned {
				t.Errorf("got workers %v validators %v payer %d burned %d,\nwant %v %v %d %d", workers, validators, payer, burned, c.workers, c.validators, c.payer, c.burned)
			}
			if v.Refund != c.payer || v.Burned != c.burned {
				t.Errorf("derivation says refund %d, burned %d", v.Refund, v.Burned)
			}
		})
	}
}

func TestTiesAreBrokenByHashAndNotByWorker(t *testing.T) {
	first := map[int]int{}
	for i := range 40 {
		c := newCase([][]int{{5000, 5000}, {5000, 5000}, {5000, 5000}, {5000, 5000}}, []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}, 1000, nil, nil)
		first[slices.Index(c.answers, c.derive().Outcome.Ranking[0].Answer)]++
	}
	if first[0] < 8 || first[1] < 8 {
		t.Errorf("of 40 ties the workers won %d and %d", first[0], first[1])
	}
}

func TestMedianStaysBetweenHonestScoresWithUpToBLiars(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for range 2000 {
		b := 1 + r.IntN(3)
		var row []MemberScore
		low, high := MaxScore, Score(0)
		for i := range 3*b + 1 {
			s := Score(r.IntN(10001))
			if i < b {
				s = []Score{0, MaxScore}[r.IntN(2)]
			} else {
				low, high = min(low, s), max(high, s)
			}
			row = append(row, MemberScore{i, s, false, 0})
		}
		if m := lowerMedian(row, -1); m < low || m > high {
			t.Fatalf("median %d of %v is outside of the honest %d..%d", m, row, low, high)
		}
	}
}

func TestAllocationGivesAllOfItByLargestRemainder(t *testing.T) {
	for _, c := range []struct {
		total   Amount
		weights []uint32
		want    []Amount
	}{
		{10, []uint32{1, 1, 1}, []Amount{4, 3, 3}},
		{11, []uint32{1, 1, 1}, []Amount{4, 4, 3}},
		{0, []uint32{5, 1}, []Amount{0, 0}},
		{7, []uint32{70, 20, 10}, []Amount{5, 1, 1}}, // 4.9 1.4 0.7: the remainders .9 and .7 win
		{1, []uint32{0, 1}, []Amount{0, 1}},
		{1<<64 - 1, []uint32{1 << 31, 1 << 31}, []Amount{1 << 63, 1<<63 - 1}},
	} {
		if got := allocate(c.total, c.weights); !slices.Equal(got, c.want) {
			t.Errorf("allocate(%d, %v) = %v, want %v", c.total, c.weights, got, c.want)
		}
	}
}

// randomCase draws a settlement from a seed: any committee, any scores, members that are silent or
// absent, identical texts, fees of all sizes.
func randomCase(seed uint64) *settleCase {
	r := rand.New(rand.NewPCG(seed, 77))
	k, m := 1+r.IntN(10), r.IntN(6)
	texts := make([]string, m)
	for i := range texts {
		texts[i] = fmt.Sprint(r.IntN(4))
	}
	scores := make([][]int, k)
	var silent, absent []int
	for i := range scores {
		for range m {
			s := r.IntN(10001)
			if r.IntN(3) > 0 {
				s = 5000 + r.IntN(200)
			}
			if r.IntN(6) == 0 {
				s = unseen
			}
			scores[i] = append(scores[i], s)
		}
		switch r.IntN(8) {
		case 0:
			silent = append(silent, i)
		case 1:
			absent = append(absent, i)
		}
	}
	return newCase(scores, texts, 1+r.Uint64N(1<<uint(1+r.IntN(62))), silent, absent)
}

// checkSettle asserts what must hold of every settlement.
func checkSettle(t *testing.T, c *settleCase, shuffle uint64) {
	t.Helper()
	d := Domain(c.genesis)
	v := c.derive()
	sum := Amount(0)
	for i, e := range v.Outcome.Credits {
		sum += e.Amount
		if e.Amount == 0 || i > 0 && e.Account.Compare(v.Outcome.Credits[i-1].Account) <= 0 {
			t.Fatalf("credits are not ascending and above zero: %v", v.Outcome.Credits)
		}
	}
	if sum != c.order.Fee {
		t.Fatalf("credits sum to %d of a fee of %d (I7)", sum, c.order.Fee)
	}
	r := rand.New(rand.NewPCG(shuffle, 3))
	other := slices.Clone(c.reveals)
	r.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
	other = append(other, RevealedOpening{Member: uint16(r.IntN(70)), Opening: Opening{Salt: [32]byte{1}}}) // opens nothing
	if again := Settle(c.genesis, d, c.task, c.order, c.seal, other); again.Hash(d) != v.Outcome.Hash(d) {
		t.Fatal("the order of reveals, or one that opens nothing, changed the outcome")
	}
	data := v.Outcome.append(nil)
	rd := crypto.NewReader(data)
	back := readOutcome(rd)
	if err := rd.End(); err != nil || back.Hash(d) != v.Outcome.Hash(d) {
		t.Fatalf("the outcome does not survive encoding: %v", err)
	}
}

func TestSettleKeepsItsInvariantsOnRandomInput(t *testing.T) {
	for seed := range uint64(3000) {
		checkSettle(t, randomCase(seed), seed)
	}
}

func FuzzSettle(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, seed, shuffle uint64) {
		checkSettle(t, randomCase(seed), shuffle)
		c := anyCase(rand.New(rand.NewPCG(seed, shuffle)))
		checkSettle(t, c, shuffle)
		checkAgainstNaive(t, c)
	})
}

func BenchmarkSettle(b *testing.B) {
	c := newCase([][]int{{9000, 5000, 3000}, {9001, 5000, 3000}, {9000, 5002, 3000}, {9000, 5000, 3000}}, []string{"a", "b", "c"}, 12000, nil, nil)
	d := Domain(c.genesis)
	b.ReportAllocs()
	for b.Loop() {
		Settle(c.genesis, d, c.task, c.order, c.seal, c.reveals)
	}
}

// A committee of three bears no fault, so one score makes an answer eligible, and each may name others.
func TestThreeValidatorsThatNameOtherAnswersEachAreEncoded(t *testing.T) {
	var scores [][]int
	var texts []string
	for i := range 3 {
		row := slices.Repeat([]int{unseen}, 3*MaxAnswers)
		for j := range MaxAnswers {
			row[i*MaxAnswers+j] = 9000 - j
			texts = append(texts, fmt.Sprint(i, j))
		}
		scores = append(scores, row)
	}
	c := newCase(scores, texts, Credit, nil, nil)
	checkSettle(t, c, 1)
	if n := len(c.derive().Outcome.Ranking); n != 3*MaxAnswers {
		t.Errorf("%d answers ranked", n)
	}
}
