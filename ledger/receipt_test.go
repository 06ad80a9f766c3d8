package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

// made is a receipt of what each member gave to each answer (unseen: did not score it), the same every time. Who is
// in silent does not reveal, rows that are nil are not sealed; then the votes are commits of round 1 and 2.
func (s *swarm) made(scores [][]int, silent ...int) *Receipt {
	id, order := s.order(0, TaskID{}, Credit, 3)
	r := &Receipt{Order: order.Order, Lock: s.certificate(LockLeaf(id))}
	var answers []AnswerID
	for i, k := range s.workers {
		answers = append(answers, AnswerID{k.Public(), crypto.Sum(fmt.Appendf(nil, "answer %d", i+1))})
	}
	sortAnswerIDs(answers)
	var reveals []RevealedOpening
	seal, last := Leaf{Commit, id, StageSeal, 0, crypto.Hash{}}, Leaf{FastCommit, id, StageSettle, 0, crypto.Hash{}}
	if len(silent) > 0 {
		last.Kind, last.Round = Commit, 2
	}
	for member, row := range scores {
		if row == nil {
			seal.Round = 1
			continue
		}
		var ids []AnswerID
		o := Opening{Salt: crypto.Sum(fmt.Appendf(nil, "salt %d", member))}
		for i, x := range row {
			if x != unseen {
				ids, o.Scores = append(ids, answers[i]), append(o.Scores, Score(x))
			}
		}
		r.Seal.Value = append(r.Seal.Value, Sign(s.domain, s.keys[member], CommitScores(s.domain, id, uint16(member), ids, o)))
		if !slices.Contains(silent, member) {
			reveals = append(reveals, RevealedOpening{uint16(member), o})
		}
	}
	seal.Value = r.Seal.Value.Hash(s.domain)
	r.Seal.Votes = s.certificate(seal)
	r.Outcome = Settle(s.genesis, s.domain, id, order.Order.Statement, r.Seal.Value, reveals)
	last.Value = r.Outcome.Hash(s.domain)
	r.Settle = s.certificate(last)
	return r
}

// receiptVectors are valid receipts of all kinds, by committee and name.
func receiptVectors(t testing.TB) (swarms map[string]*swarm, receipts map[string]*Receipt) {
	one, four := newSwarm(t, 1, 1), newSwarm(t, 4, 1)
	receipts = map[string]*Receipt{
		"n1-paid":       one.made([][]int{{8000, 3000, 5000}}),
		"n1-no-answers": one.made([][]int{{}}),
	}
	for name, r := range four.madeOfAllKinds() {
		receipts["n4-"+name] = r
	}
	return map[string]*swarm{"n1": one, "n4": four}, receipts
}

// madeOfAllKinds are receipts of a committee of four.
func (s *swarm) madeOfAllKinds() map[string]*Receipt {
	full := [][]int{{8000, 3000, 5000}, {8001, 3001, 5001}, {7990, 3000, 5000}, {8002, 2990, 5300}}
	return map[string]*Receipt{
		"paid":       s.made(full),
		"no-answers": s.made([][]int{{}, {}, {}, {}}),
		"unscored":   s.made([][]int{{8000, unseen, unseen}, {unseen, 3000, unseen}, {unseen, 3000, unseen}, {}}),
		"withheld":   s.made(full, 2),                                    // a reveal is missing; decided by commits of round 2
		"unsealed":   s.made([][]int{full[0], full[1], nil, full[3]}),    // a commitment is missing; sealed in round 1
		"both":       s.made([][]int{nil, full[1], full[2], full[3]}, 1), // no answer is judged by enough
	}
}

// golden compares a file of testdata/receipts with what it should hold.
func golden(t *testing.T, name string, want []byte) {
	t.Helper()
	path := filepath.Join("testdata", "receipts", name)
	if *update {
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s changed; if that is meant, run the test with -update", path)
	}
}

func TestReceiptVectorsVerifyAndStayAsTheyAre(t *testing.T) {
	swarms, receipts := receiptVectors(t)
	for name, s := range swarms {
		data, err := json.MarshalIndent(s.genesis, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+"-genesis.json", append(data, '\n'))
	}
	kinds := map[OutcomeKind]bool{}
	for name, r := range receipts {
		committee, _, _ := strings.Cut(name, "-")
		s := swarms[committee]
		data, err := EncodeReceiptFile(s.domain.Chain, r)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", data)
		got, err := s.verifier.ReceiptFile(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.Encode(), r.Encode()) {
			t.Errorf("%s does not survive its file", name)
		}
		if err := s.naively(t, r.Encode()); err != nil {
			t.Errorf("%s: naively %v", name, err)
		}
		kinds[r.Outcome.Kind] = true
		for other, o := range swarms {
			if _, err := o.verifier.ReceiptFile(data); other != committee && !errors.Is(err, ErrMalformed) {
				t.Errorf("%s with the genesis of %s: %v", name, other, err)
			}
		}
	}
	if len(kinds) != 3 {
		t.Errorf("the vectors end %v", kinds)
	}
}

// naively is the second implementation's opinion on a receipt.
func (s *swarm) naively(t testing.TB, data []byte) error {
	t.Helper()
	_, naively := (&settleCase{genesis: s.genesis}).judge(t, data)
	return naively
}

// tampering is a change of a receipt that must be noticed. Change works on the receipt, file on its file form.
type tampering struct {
	change func(*swarm, *Receipt)
	file   func(text string) string
	want   error
}

// resign has a quorum vote for whatever the receipt now says, and the members sign their commitments anew, as only more
// than f Byzantine validators could.
func (s *swarm) resign(r *Receipt) {
	id := OrderID(s.domain, r.Order.Statement)
	r.Lock = s.certificate(LockLeaf(id))
	for i, c := range r.Seal.Value {
		r.Seal.Value[i] = Sign(s.domain, s.keys[c.Statement.Member], c.Statement)
	}
	r.Seal.Votes = s.certificate(Leaf{Commit, id, StageSeal, 0, r.Seal.Value.Hash(s.domain)})
	r.Outcome.Seal = r.Seal.Votes.Vote.Value
	r.Settle = s.certificate(Leaf{FastCommit, id, StageSettle, 0, r.Outcome.Hash(s.domain)})
}

// resignOrder has the payer sign the order anew.
func (s *swarm) resignOrder(r *Receipt, change func(*Order)) {
	change(&r.Order.Statement)
	r.Order = Sign(s.domain, s.payer, r.Order.Statement)
	s.resign(r)
}

// recommit has a member commit to another opening and reveal it.
func (s *swarm) recommit(r *Receipt, member int, change func(*ScoreCommit, *Opening)) {
	c, o := r.Seal.Value[member].Statement, r.Outcome.Reveals[member].Opening
	change(&c, &o)
	r.Seal.Value[member].Statement = CommitScores(s.domain, c.Task, c.Member, c.Answers, o)
	r.Outcome.Reveals[member].Opening = o
	s.resign(r)
}

func (s *swarm) otherDomain() crypto.Domain {
	return crypto.Domain{Chain: s.domain.Chain, Epoch: s.domain.Epoch + 1}
}

// canonical edits the bytes within a file.
func canonical(change func([]byte) []byte) func(string) string {
	return func(text string) string {
		var f receiptFile
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			panic(err)
		}
		return strings.Replace(text, base64.StdEncoding.EncodeToString(f.Receipt), base64.StdEncoding.EncodeToString(change(f.Receipt)), 1)
	}
}

func replace(old, with string) func(string) string {
	return func(text string) string { return strings.Replace(text, old, with, 1) }
}

// tamperings of n4-paid, but for those of the file form, in the order of docs/protocol.md.
var tamperings = map[string]tampering{
	"file of an unknown version":      {file: replace(ReceiptFormat, "poq-receipt/2"), want: ErrMalformed},
	"file with a field twice":         {file: replace("{", `{"task": "00",`), want: ErrMalformed},
	"file with another field":         {file: replace("{", `{"note": "paid in full",`), want: ErrMalformed},
	"file without a field":            {file: replace(`"task"`, `"Task"`), want: ErrMalformed},
	"file with something behind":      {file: func(text string) string { return text + text }, want: ErrMalformed},
	"file that is no object":          {file: func(text string) string { return "[" + text + "]" }, want: ErrMalformed},
	"file that is too long":           {file: func(text string) string { return text + strings.Repeat(" ", MaxReceiptFile) }, want: ErrMalformed},
	"file of another chain":           {file: replace(`"chain": "`, `"chain": "00`), want: ErrMalformed},
	"file with another task id":       {file: replace(`"task": "`, `"task": "00`), want: ErrMalformed},
	"file with broken base64":         {file: replace(`"receipt": "`, `"receipt": "\n`), want: ErrMalformed},
	"bytes left over":                 {file: canonical(func(b []byte) []byte { return append(b, 0) }), want: ErrMalformed},
	"bytes cut off":                   {file: canonical(func(b []byte) []byte { return b[:len(b)-1] }), want: ErrMalformed},
	"order with another fee":          {change: func(_ *swarm, r *Receipt) { r.Order.Statement.Fee++ }, want: ErrMalformed},
	"order with no fee, signed":       {change: func(s *swarm, r *Receipt) { s.resignOrder(r, func(o *Order) { o.Fee = 0 }) }, want: ErrMalformed},
	"order for another judge, signed": {change: func(s *swarm, r *Receipt) { s.resignOrder(r, func(o *Order) { o.Judge[0]++ }) }, want: ErrMalformed},
	"order that another account signed": {change: func(s *swarm, r *Receipt) {
		r.Order.Sig = Sign(s.domain, s.workers[0], r.Order.Statement).Sig
	}, want: ErrSignature},
	"lock votes below a quorum": {change: func(_ *swarm, r *Receipt) { r.Lock.Proofs = r.Lock.Proofs[:2] }, want: ErrNoQuorum},
	"lock votes of another epoch": {change: func(s *swarm, r *Receipt) {
		r.Lock.Proofs[1].Header = Sign(s.otherDomain(), s.keys[1], r.Lock.Proofs[1].Header.Statement)
	}, want: ErrSignature},
	"lock votes of another chain": {change: func(s *swarm, r *Receipt) {
		r.Lock.Proofs[0].Header = Sign(crypto.Domain{Chain: crypto.Hash{1}, Epoch: s.domain.Epoch}, s.keys[0], r.Lock.Proofs[0].Header.Statement)
	}, want: ErrSignature},
	"lock of another task": {change: func(s *swarm, r *Receipt) { r.Lock = s.certificate(LockLeaf(TaskID{7})) }, want: ErrMalformed},
	"seal by prepare votes": {change: func(s *swarm, r *Receipt) {
		vote := r.Seal.Votes.Vote
		vote.Kind = Prepare
		r.Seal.Votes = s.certificate(vote)
	}, want: ErrMalformed},
	"seal of another task": {change: func(s *swarm, r *Receipt) {
		vote := r.Seal.Votes.Vote
		vote.Task = TaskID{8}
		r.Seal.Votes = s.certificate(vote)
	}, want: ErrMalformed},
	"seal votes below a quorum":   {change: func(_ *swarm, r *Receipt) { r.Seal.Votes.Proofs = r.Seal.Votes.Proofs[1:] }, want: ErrNoQuorum},
	"voters that do not ascend":   {change: func(_ *swarm, r *Receipt) { slices.Reverse(r.Seal.Votes.Proofs) }, want: ErrMalformed},
	"voter twice":                 {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[1] = r.Settle.Proofs[0] }, want: ErrMalformed},
	"voter outside the committee": {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[2].Header.Statement.Validator = 9 }, want: ErrMalformed},
	"bundle whose path is cut":    {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[0].Path = nil }, want: ErrMalformed},
	"bundle without the vote":     {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[1].Index = 0 }, want: ErrMalformed},
	"bundle with another number":  {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[1].Header.Statement.Seq++ }, want: ErrSignature},
	"bundle of more leaves":       {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[2].Header.Statement.Count = 5 }, want: ErrMalformed},
	"commitment left out":         {change: func(_ *swarm, r *Receipt) { r.Seal.Value = r.Seal.Value[1:] }, want: ErrMalformed},
	"commitment signed by another": {change: func(s *swarm, r *Receipt) {
		r.Seal.Value[3].Sig = Sign(s.domain, s.keys[0], r.Seal.Value[3].Statement).Sig
	}, want: ErrSignature},
	"commitments that don't ascend": {change: func(s *swarm, r *Receipt) { slices.Reverse(r.Seal.Value); s.resign(r) }, want: ErrMalformed},
	"commitment of another task": {change: func(s *swarm, r *Receipt) {
		r.Seal.Value[1].Statement.Task[0]++
		s.resign(r)
	}, want: ErrMalformed},
	"commitment to answers in disorder": {change: func(s *swarm, r *Receipt) {
		s.recommit(r, 0, func(c *ScoreCommit, _ *Opening) { slices.Reverse(c.Answers) })
	}, want: ErrMalformed},
	"commitment to an answer of nobody": {change: func(s *swarm, r *Receipt) {
		s.recommit(r, 0, func(c *ScoreCommit, _ *Opening) { c.Answers[0].Worker = Burned })
	}, want: ErrMalformed},
	"outcome of another task":       {change: func(s *swarm, r *Receipt) { r.Outcome.Task[0]++; s.resign(r) }, want: ErrOutcome},
	"outcome of another sealed set": {change: func(_ *swarm, r *Receipt) { r.Outcome.Seal[0]++ }, want: ErrOutcome},
	"reveals swapped": {change: func(s *swarm, r *Receipt) {
		v := r.Outcome.Reveals
		v[0].Opening, v[1].Opening = v[1].Opening, v[0].Opening
		s.resign(r)
	}, want: ErrOutcome},
	"reveal with another salt":    {change: func(s *swarm, r *Receipt) { r.Outcome.Reveals[2].Opening.Salt[0]++; s.resign(r) }, want: ErrOutcome},
	"reveal with another score":   {change: func(s *swarm, r *Receipt) { r.Outcome.Reveals[1].Opening.Scores[0]++; s.resign(r) }, want: ErrOutcome},
	"reveal with a score less":    {change: func(s *swarm, r *Receipt) { v := &r.Outcome.Reveals[1].Opening; v.Scores = v.Scores[1:]; s.resign(r) }, want: ErrOutcome},
	"reveal of who is not sealed": {change: func(s *swarm, r *Receipt) { r.Seal.Value = r.Seal.Value[:3]; s.resign(r) }, want: ErrOutcome},
	"reveals that do not ascend":  {change: func(s *swarm, r *Receipt) { slices.Reverse(r.Outcome.Reveals); s.resign(r) }, want: ErrOutcome},
	"reveal left out":             {change: func(s *swarm, r *Receipt) { r.Outcome.Reveals = r.Outcome.Reveals[:3]; s.resign(r) }, want: ErrOutcome},
	"score above 10000, committed to": {change: func(s *swarm, r *Receipt) {
		s.recommit(r, 3, func(_ *ScoreCommit, o *Opening) { o.Scores[2] = MaxScore + 1 })
	}, want: ErrOutcome},
	"another kind of outcome":      {change: func(s *swarm, r *Receipt) { r.Outcome.Kind = Unscored; s.resign(r) }, want: ErrOutcome},
	"ranking in another order":     {change: func(s *swarm, r *Receipt) { slices.Reverse(r.Outcome.Ranking); s.resign(r) }, want: ErrOutcome},
	"ranking with another score":   {change: func(s *swarm, r *Receipt) { r.Outcome.Ranking[1].Score++; s.resign(r) }, want: ErrOutcome},
	"ranking without an answer":    {change: func(s *swarm, r *Receipt) { r.Outcome.Ranking = r.Outcome.Ranking[:2]; s.resign(r) }, want: ErrOutcome},
	"credits moved":                {change: func(s *swarm, r *Receipt) { c := r.Outcome.Credits; c[1].Amount--; c[2].Amount++; s.resign(r) }, want: ErrOutcome},
	"credits above the fee":        {change: func(s *swarm, r *Receipt) { r.Outcome.Credits[0].Amount++; s.resign(r) }, want: ErrOutcome},
	"votes for another outcome":    {change: func(s *swarm, r *Receipt) { r.Settle.Vote.Value[0]++ }, want: ErrMalformed},
	"votes to leave the round":     {change: func(s *swarm, r *Receipt) { r.Settle.Vote.Kind = NewRound }, want: ErrMalformed},
	"commits in round 0 of settle": {change: func(s *swarm, r *Receipt) { l := r.Settle.Vote; l.Kind = Commit; r.Settle = s.certificate(l) }, want: ErrMalformed},
	"settle votes below a quorum":  {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs = r.Settle.Proofs[:1] }, want: ErrNoQuorum},
	"vote with a broken signature": {change: func(_ *swarm, r *Receipt) { r.Settle.Proofs[2].Header.Sig[0] ^= 1 }, want: ErrSignature},
}

func TestEachTamperedReceiptIsRefusedForAReasonOfItsOwn(t *testing.T) {
	swarms, receipts := receiptVectors(t)
	s, good := swarms["n4"], receipts["n4-paid"].Encode()
	type vector struct{ Error, File string }
	vectors, reasons := map[string]vector{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(tamperings)) {
		c := tamperings[name]
		r, err := DecodeReceipt(good)
		if err != nil {
			t.Fatal(err)
		}
		if c.change != nil {
			c.change(s, r)
			if err := s.naively(t, r.Encode()); err == nil {
				t.Errorf("%s: naively it holds", name)
			}
		}
		data, err := EncodeReceiptFile(s.domain.Chain, r)
		if err != nil {
			t.Fatal(err)
		}
		if c.file != nil {
			data = []byte(c.file(string(data)))
		}
		_, err = s.verifier.ReceiptFile(data)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
			continue
		}
		if other, ok := reasons[err.Error()]; ok {
			t.Errorf("%s and %s give one reason: %v", name, other, err)
		}
		reasons[err.Error()] = name
		if len(data) < MaxReceiptFile {
			vectors[name] = vector{err.Error(), string(data)}
		}
	}
	data, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "tampered.json", append(data, '\n'))
}

// The reader of files must not see another receipt than a reader of JSON that takes the first of two fields, or
// the last, or any spelling.
func FuzzReceiptFile(f *testing.F) {
	swarms, receipts := receiptVectors(f)
	s := swarms["n4"]
	for _, r := range receipts {
		data, err := EncodeReceiptFile(s.domain.Chain, r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, c := range tamperings {
		if c.file != nil {
			data, err := EncodeReceiptFile(s.domain.Chain, receipts["n4-paid"])
			if err != nil {
				f.Fatal(err)
			}
			f.Add([]byte(c.file(string(data))))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := s.verifier.ReceiptFile(data)
		if err != nil {
			return
		}
		want, err := EncodeReceiptFile(s.domain.Chain, r)
		if err != nil {
			t.Fatal(err)
		}
		var got, canon map[string]string
		if json.Unmarshal(data, &got) != nil || json.Unmarshal(want, &canon) != nil || !maps.Equal(got, canon) {
			t.Fatalf("the file says more than its receipt:\n%s", data)
		}
	})
}

func BenchmarkVerifyReceipt(b *testing.B) {
	for _, n := range []int{4, 16, 64} {
		s := newSwarm(b, n, 1)
		r := s.made(slices.Repeat([][]int{{8000, 3000, 5000}}, n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := NewVerifier(s.genesis).Receipt(r); err != nil { // no signature is remembered
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(r.Encode())), "bytes")
		})
	}
}

func TestManyReceiptsHoldIfEachOneDoes(t *testing.T) {
	s := newSwarm(t, 4, 1)
	good := s.receipt()
	many := slices.Repeat([]*Receipt{good}, 5)
	verified, err := s.verifier.Receipts(many)
	if err != nil || len(verified) != 5 || verified[4].Message() != good || verified[4].Task() != good.Task() {
		t.Fatalf("%v, %v", verified, err)
	}
	if verified, err := s.verifier.Receipts(nil); err != nil || len(verified) != 0 {
		t.Errorf("none: %v, %v", verified, err)
	}
	for name, change := range map[string]func(r *Receipt){
		"signature": func(r *Receipt) { r.Settle.Proofs[1].Header.Sig[0]++ },
		"outcome":   func(r *Receipt) { r.Outcome.Kind = Unscored },
	} {
		bad, err := DecodeReceipt(good.Encode())
		if err != nil {
			t.Fatal(err)
		}
		change(bad)
		want := NewVerifier(s.genesis).Receipt(bad)
		many[3] = bad
		if _, err := s.verifier.Receipts(many); want == nil || err == nil || !strings.HasSuffix(err.Error(), want.Error()) {
			t.Errorf("%s: %v, one by one %v", name, err, want)
		}
	}
}
