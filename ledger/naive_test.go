package ledger

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/poqmesh/poq/crypto"
	plain "github.com/poqmesh/poq/ledger/internal/naive"
)

// testKeys remembers keys, which take longer to make than to use.
var testKeys = func() (keys [MaxValidators]crypto.PrivateKey) {
	for i := range keys {
		keys[i] = testKey("validator", i)
	}
	return keys
}()

// anyCase draws a settlement that may be anything the rules allow: committees of 1 to 16, any split, ties,
// identical answers, two answers of one worker, validators that share an account with each other, a worker or
// the payer, missing commitments and reveals, fees from 1 to 2^63-1.
func anyCase(r *rand.Rand) *settleCase {
	n := 1 + r.IntN(16)
	weight := func() uint32 {
		switch r.IntN(4) {
		case 0:
			return 0
		case 1:
			return r.Uint32() >> 5 // sixteen of them still fit 32 bits
		}
		return r.Uint32N(100)
	}
	split := Split{ID: r.Uint32(), Workers: weight(), Validators: weight(), Floor: Score(r.IntN(10001)), Band: Score(r.IntN(300)), UnpaidBurn: uint32(r.IntN(10001))}
	if split.Workers+split.Validators == 0 {
		split.Workers = 1
	}
	for range 1 + r.IntN(maxRanks) {
		split.Ranks = append(split.Ranks, weight())
	}
	split.Ranks[r.IntN(len(split.Ranks))] |= 1
	if r.IntN(3) == 0 {
		split = DefaultSplit()
	}
	payer := testKey("payer", 0)
	c := &settleCase{genesis: &Genesis{Network: "any", Epoch: r.Uint64(), MinFee: 1, Splits: []Split{split}}}
	c.genesis.Accounts = []GenesisAccount{{ID: payer.Public(), Name: "payer", Balance: math.MaxInt64}}
	for i := range n {
		account := testKey("validator account", i).Public()
		switch r.IntN(12) {
		case 0:
			account = testKey("validator account", 0).Public()
		case 1:
			account = testKey("worker", r.IntN(3)).Public()
		case 2:
			account = payer.Public()
		}
		c.genesis.Validators = append(c.genesis.Validators, Validator{Name: fmt.Sprint("v", i), Consensus: testKeys[i].Public(), Account: account, Peer: fmt.Sprint("p", i)})
	}
	fee := []Amount{1, 2, 99, Credit, math.MaxInt64, 1 + r.Uint64N(1<<uint(1+r.IntN(62)))}[r.IntN(6)]
	d := Domain(c.genesis)
	c.order = Order{Payer: payer.Public(), Fee: fee, Split: split.ID, MaxAnswers: 16, AnswerDeadline: 100, ScoreDeadline: 200}
	c.task = OrderID(d, c.order)
	known := map[AnswerID]bool{}
	named := r.IntN(MaxAnswers + 1)
	if r.IntN(6) == 0 {
		named = 60 // members that name other answers each
	}
	for range named {
		a := AnswerID{testKey("worker", r.IntN(8)).Public(), crypto.Sum([]byte{byte(r.IntN(6))})}
		if !known[a] {
			known[a] = true
			c.answers = append(c.answers, a)
		}
	}
	sortAnswerIDs(c.answers)
	blind, spread := r.IntN(6), []int{1, 3, 150, 10001}[r.IntN(4)]
	for member := range n {
		var ids []AnswerID
		o := Opening{Salt: crypto.Sum([]byte{byte(member)})}
		from := 0
		if named > MaxAnswers {
			from = r.IntN(len(c.answers))
		}
		for j := range c.answers {
			i := (j + from) % len(c.answers)
			a := c.answers[i]
			if r.IntN(6) >= blind && len(ids) < MaxAnswers {
				ids = append(ids, a)
				o.Scores = append(o.Scores, Score((i*r.IntN(2)*97+5000+r.IntN(spread))%10001))
			}
		}
		sortAnswerIDs(ids)
		if r.IntN(8) == 0 {
			continue
		}
		c.seal = append(c.seal, Signed[ScoreCommit]{Statement: CommitScores(d, c.task, uint16(member), ids, o)})
		if r.IntN(8) > 0 {
			c.reveals = append(c.reveals, RevealedOpening{uint16(member), o})
		}
	}
	return c
}

// naive returns the case as the second implementation reads it.
func (c *settleCase) naive(t *testing.T) (*plain.Genesis, plain.Order, []plain.Commitment, []plain.Reveal) {
	t.Helper()
	g, err := plain.ParseGenesis(c.genesis.Encode())
	if err != nil {
		t.Fatal(err)
	}
	o, err := g.ParseOrder(string(c.order.append(nil)))
	if err != nil {
		t.Fatal(err)
	}
	var s []plain.Commitment
	for _, m := range c.seal {
		n := plain.Commitment{Member: int(m.Statement.Member), Hash: string(m.Statement.Commitment[:])}
		for _, a := range m.Statement.Answers {
			n.Answers = append(n.Answers, string(a.append(nil)))
		}
		s = append(s, n)
	}
	var reveals []plain.Reveal
	for _, r := range c.reveals {
		v := plain.Reveal{Member: int(r.Member), Salt: string(r.Opening.Salt[:])}
		for _, x := range r.Opening.Scores {
			v.Scores = append(v.Scores, int(x))
		}
		reveals = append(reveals, v)
	}
	return g, o, s, reveals
}

// checkAgainstNaive asserts that both implementations settle a case alike, to the byte.
func checkAgainstNaive(t *testing.T, c *settleCase) {
	t.Helper()
	g, o, s, reveals := c.naive(t)
	if want := string(c.task[:]); o.Task != want {
		t.Fatalf("the task is %x, naively %x", want, o.Task)
	}
	v := c.derive()
	if want := g.HashS(o.Task, s); string(v.Outcome.Seal[:]) != want {
		t.Fatalf("H(S) is %x, naively %x", v.Outcome.Seal, want)
	}
	got, want := v.Outcome.append(nil), g.Settle(o, s, reveals)
	if string(got) != want {
		n := readOutcome(crypto.NewReader([]byte(want)))
		t.Fatalf("Settle gives\n%+v\nnaively\n%+v", v.Outcome, n)
	}
	if h := v.Outcome.Hash(Domain(c.genesis)); string(h[:]) != g.HashV(want) {
		t.Fatal("H(V) differs")
	}
}

func TestBothImplementationsSettleAlike(t *testing.T) {
	cases := uint64(5000)
	if testing.Short() {
		cases = 500
	}
	kinds := map[OutcomeKind]int{}
	for seed := range cases {
		c := anyCase(rand.New(rand.NewPCG(seed, 5)))
		checkAgainstNaive(t, c)
		checkSettle(t, c, seed)
		kinds[c.derive().Outcome.Kind]++
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	for k := Paid; k <= Unscored; k++ {
		if kinds[k] < int(cases)/100 {
			t.Errorf("only %d of %d cases end %v", kinds[k], cases, k)
		}
	}
}

// sign makes the receipt of a case: votes of a random quorum, in bundles of any size, decided in any round.
func (c *settleCase) sign(r *rand.Rand) *Receipt {
	d := Domain(c.genesis)
	rc := &Receipt{Order: Sign(d, testKey("payer", 0), c.order)}
	for _, m := range c.seal {
		rc.Seal.Value = append(rc.Seal.Value, Sign(d, testKeys[m.Statement.Member], m.Statement))
	}
	rc.Outcome = c.derive().Outcome
	c.vote(r, rc)
	return rc
}

// vote has a quorum sign what the receipt says, whatever it is.
func (c *settleCase) vote(r *rand.Rand, rc *Receipt) {
	d := Domain(c.genesis)
	task := OrderID(d, rc.Order.Statement)
	rc.Lock = c.certificate(r, LockLeaf(task))
	rc.Seal.Votes = c.certificate(r, Leaf{Commit, task, StageSeal, r.Uint32N(3), rc.Seal.Value.Hash(d)})
	last := Leaf{FastCommit, task, StageSettle, 0, rc.Outcome.Hash(d)}
	if r.IntN(2) == 0 {
		last.Kind, last.Round = Commit, 1+r.Uint32N(5)
	}
	rc.Settle = c.certificate(r, last)
}

func (c *settleCase) certificate(r *rand.Rand, l Leaf) Certificate {
	n, q := len(c.genesis.Validators), c.genesis.Quorum()
	signers := r.Perm(n)[:q+r.IntN(n-q+1)]
	slices.Sort(signers)
	cert := Certificate{Vote: l}
	for _, i := range signers {
		leaves := make([]Leaf, 1+r.IntN(9)*r.IntN(2))
		for j := range leaves {
			leaves[j] = LockLeaf(TaskID{byte(j), 1})
		}
		at := r.IntN(len(leaves))
		leaves[at] = l
		u := NewBundle(uint16(i), r.Uint64(), crypto.Hash{1}, leaves)
		u.Sign(Domain(c.genesis), testKeys[i])
		cert.Proofs = append(cert.Proofs, u.Proof(at))
	}
	return cert
}

// damage changes a receipt in one place or a few, somewhere. A third of the changes are signed anew by a quorum.
func (c *settleCase) damage(r *rand.Rand, rc *Receipt) {
	cert := []*Certificate{&rc.Lock, &rc.Seal.Votes, &rc.Settle}[r.IntN(3)]
	switch r.IntN(24) {
	case 0:
		rc.Order.Statement.Fee += r.Uint64N(3) << (62 * r.IntN(2))
	case 1:
		rc.Order.Statement.Nonce ^= 1
	case 2:
		rc.Order.Statement.MaxAnswers = uint8(r.IntN(20))
	case 3:
		rc.Order.Statement.ScoreDeadline = r.Uint32N(700000)
	case 4:
		cert.Vote.Kind = LeafKind(r.IntN(8))
	case 5:
		cert.Vote.Stage = Stage(r.IntN(4))
	case 6:
		cert.Vote.Round = r.Uint32N(3)
	case 7:
		cert.Proofs = slices.Delete(cert.Proofs, 0, r.IntN(2))
	case 8:
		slices.Reverse(cert.Proofs)
	case 9:
		cert.Proofs[len(cert.Proofs)-1] = cert.Proofs[0]
	case 10:
		p := &cert.Proofs[r.IntN(len(cert.Proofs))]
		p.Index = uint16(r.IntN(9))
	case 11:
		p := &cert.Proofs[r.IntN(len(cert.Proofs))]
		p.Path = p.Path[:r.IntN(len(p.Path)+1)]
	case 12:
		*cert = c.certificate(r, Leaf{LeafKind(1 + r.IntN(6)), cert.Vote.Task, Stage(r.IntN(3)), r.Uint32N(2), cert.Vote.Value})
	}
	if len(rc.Seal.Value) > 0 {
		i := r.IntN(len(rc.Seal.Value))
		m := &rc.Seal.Value[i].Statement
		switch r.IntN(30) {
		case 0:
			rc.Seal.Value = slices.Delete(rc.Seal.Value, i, i+1)
		case 1:
			slices.Reverse(rc.Seal.Value)
		case 2:
			m.Member = uint16(r.IntN(18))
		case 3:
			m.Task[0] ^= 1
		case 4:
			slices.Reverse(m.Answers)
		case 5:
			if len(m.Answers) > 0 {
				m.Answers[0].Worker = Burned
			}
		case 6:
			rc.Seal.Value = append(rc.Seal.Value, rc.Seal.Value[i])
		case 7: // commits to a score that no judge gives
			o := Opening{Scores: make([]Score, len(m.Answers))}
			for j := range o.Scores {
				o.Scores[j] = MaxScore + Score(r.IntN(2))
			}
			*m = CommitScores(Domain(c.genesis), c.task, m.Member, m.Answers, o)
			if j := slices.IndexFunc(rc.Outcome.Reveals, func(v RevealedOpening) bool { return v.Member == m.Member }); j >= 0 {
				rc.Outcome.Reveals[j].Opening = o
			}
		}
	}
	if len(rc.Outcome.Reveals) > 0 {
		i := r.IntN(len(rc.Outcome.Reveals))
		v := &rc.Outcome.Reveals[i]
		switch r.IntN(30) {
		case 0:
			rc.Outcome.Reveals = slices.Delete(rc.Outcome.Reveals, i, i+1)
		case 1:
			v.Opening.Salt[3] ^= 1
		case 2:
			v.Opening.Scores = append(v.Opening.Scores, 1)
		case 3:
			slices.Reverse(rc.Outcome.Reveals)
		case 4:
			v.Member = uint16(r.IntN(18))
		case 5:
			rc.Outcome.Reveals = append(rc.Outcome.Reveals, *v)
		}
	}
	switch r.IntN(20) {
	case 0:
		rc.Outcome.Kind = OutcomeKind(r.IntN(5))
	case 1:
		rc.Outcome.Seal[0] ^= 1
	case 2:
		rc.Outcome.Task[0] ^= 1
	case 3:
		i := r.IntN(len(rc.Outcome.Credits))
		rc.Outcome.Credits[i].Amount++
	case 4:
		slices.Reverse(rc.Outcome.Credits)
	case 5:
		slices.Reverse(rc.Outcome.Ranking)
	case 6: // settled again: right, if what it settles is
		rc.Outcome = Settle(c.genesis, Domain(c.genesis), c.task, rc.Order.Statement, rc.Seal.Value, rc.Outcome.Reveals)
	}
	if r.IntN(3) == 0 {
		d := Domain(c.genesis)
		rc.Order = Sign(d, testKey("payer", 0), rc.Order.Statement)
		for i, m := range rc.Seal.Value {
			if int(m.Statement.Member) < len(c.genesis.Validators) {
				rc.Seal.Value[i] = Sign(d, testKeys[m.Statement.Member], m.Statement)
			}
		}
		if r.IntN(2) == 0 {
			rc.Outcome = Settle(c.genesis, d, OrderID(d, rc.Order.Statement), rc.Order.Statement, rc.Seal.Value, rc.Outcome.Reveals)
		}
		c.vote(r, rc)
	}
}

// judge gives both implementations' opinion on the bytes of a receipt.
func (c *settleCase) judge(t testing.TB, data []byte) (real, naively error) {
	t.Helper()
	g, err := plain.ParseGenesis(c.genesis.Encode())
	if err != nil {
		t.Fatal(err)
	}
	rc, real := DecodeReceipt(data)
	if real == nil {
		real = NewVerifier(c.genesis).Receipt(rc)
	}
	return real, g.CheckReceipt(data)
}

func TestBothImplementationsJudgeReceiptsAlike(t *testing.T) {
	seeds := uint64(1500)
	if testing.Short() {
		seeds = 100
	}
	valid, refused := 0, map[string]int{}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 6))
		c := anyCase(r)
		rc := c.sign(r)
		if real, naively := c.judge(t, rc.Encode()); real != nil || naively != nil {
			t.Fatalf("seed %d: a valid receipt: %v, naively %v", seed, real, naively)
		}
		c.damage(r, rc)
		data := rc.Encode()
		if r.IntN(8) == 0 {
			data[r.IntN(len(data))] ^= 1 << r.IntN(8)
		}
		real, naively := c.judge(t, data)
		if (real == nil) != (naively == nil) {
			t.Errorf("seed %d: %v, naively %v", seed, real, naively)
		}
		if naively == nil {
			valid++
			continue
		}
		refused[naively.Error()]++
	}
	if valid < int(seeds)/20 || len(refused) < 12 {
		t.Errorf("%d damaged receipts stay valid, the others fail for %d reasons: the test has lost its teeth", valid, len(refused))
	}
}

// Both implementations read what a peer may send: any bytes get one verdict, and what holds has one encoding.
func FuzzReceipt(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 7))
		c := anyCase(r)
		f.Add(seed, c.sign(r).Encode())
	}
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		c := anyCase(rand.New(rand.NewPCG(seed%8, 7)))
		real, naively := c.judge(t, data)
		if (real == nil) != (naively == nil) {
			t.Fatalf("%v, naively %v", real, naively)
		}
		if rc, err := DecodeReceipt(data); err == nil && !bytes.Equal(rc.Encode(), data) {
			t.Fatal("receipt has two encodings")
		}
	})
}
