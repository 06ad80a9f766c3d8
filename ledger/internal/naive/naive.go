// Package naive is a second implementation of Settle and of what makes a receipt valid, written from docs/protocol.md alone.
// It is slow and plain on purpose: big integers, maps, strings of bytes, one signature at a time. Tests of package
// ledger compare the real implementation with it. It shares no code with package ledger; from package crypto it takes
// the verification of a signature and the names of hash and key. Nothing but tests and the simulator may import it.
package naive

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"sort"

	"github.com/poqmesh/poq/crypto"
)

// Genesis holds what receipts are checked against.
type Genesis struct {
	Chain      [32]byte
	Epoch      uint64
	Judge      string
	MinimumFee uint64
	Splits     map[uint32]Split
	Validators []Validator
}

// Validator is a member of the committee: who signs, and who is paid.
type Validator struct{ Key, Account string }

// Split holds the parameters of a division of fees.
type Split struct {
	Workers, Validators, Floor, Band, UnpaidBurn uint32
	Ranks                                        []uint32
}

// Order is what a payer asks for.
type Order struct {
	Payer, Previous, Prompt, Judge  string
	Nonce, Fee                      uint64
	Split                           uint32
	MaxAnswers                      byte
	AnswerDeadline, ScoringDeadline uint32
	Task                            string
}

// Commitment is one element of S. Answers are ids of 64 bytes.
type Commitment struct {
	Member  int
	Answers []string
	Hash    string
}

// Reveal opens the commitment of a member.
type Reveal struct {
	Member int
	Scores []int
	Salt   string
}

// reader takes fields from the front of bytes. It panics with malformed, which decode turns into an error.
type reader struct{ rest string }

type malformed string

func decode(do func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m, ok := p.(malformed)
			if !ok {
				panic(p)
			}
			err = errors.New(string(m))
		}
	}()
	do()
	return nil
}

func must(ok bool, format string, args ...any) {
	if !ok {
		panic(malformed(fmt.Sprintf(format, args...)))
	}
}

func (r *reader) take(n int) string {
	must(n >= 0 && n <= len(r.rest), "%d bytes wanted, %d left", n, len(r.rest))
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) number(width int) (v uint64) {
	for _, b := range []byte(r.take(width)) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (r *reader) count(least, most int) int {
	n := int(r.number(2))
	must(n >= least && n <= most, "a list of %d", n)
	return n
}

func (r *reader) text() string {
	n := r.number(4)
	must(n <= uint64(len(r.rest)), "a string of %d bytes", n)
	return r.take(int(n))
}

func (r *reader) end() { must(r.rest == "", "%d bytes left over", len(r.rest)) }

func u16(v int) string    { return string(binary.BigEndian.AppendUint16(nil, uint16(v))) }
func u64(v uint64) string { return string(binary.BigEndian.AppendUint64(nil, v)) }

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return string(h[:])
}

func tagged(kind string, chain [32]byte, epoch uint64, body string) string {
	padded := kind
	for len(padded) < 9 {
		padded += "\x00"
	}
	return "poq/v1/" + padded + string(chain[:]) + u64(epoch) + body
}

func (g *Genesis) tagged(kind, body string) string { return tagged(kind, g.Chain, g.Epoch, body) }
func (g *Genesis) hash(kind, body string) string   { return sum(g.tagged(kind, body)) }

var zero = string(make([]byte, 32))

// ParseGenesis reads the canonical bytes of a genesis.
func ParseGenesis(data []byte) (g *Genesis, err error) {
	g = &Genesis{Splits: map[uint32]Split{}}
	err = decode(func() {
		r := &reader{string(data)}
		r.text()
		g.Epoch = r.number(8)
		g.Judge = r.take(32)
		g.MinimumFee = r.number(8)
		for range r.count(1, 64) {
			id := uint32(r.number(4))
			s := Split{
				Workers: uint32(r.number(4)), Validators: uint32(r.number(4)), Floor: uint32(r.number(4)),
				Band: uint32(r.number(4)), UnpaidBurn: uint32(r.number(4)),
			}
			for range r.count(1, 16) {
				s.Ranks = append(s.Ranks, uint32(r.number(4)))
			}
			g.Splits[id] = s
		}
		for range r.count(1, 64) {
			r.text()
			g.Validators = append(g.Validators, Validator{Key: r.take(32), Account: r.take(32)})
			r.text()
		}
		for range r.count(0, 32768) {
			r.take(32)
			r.text()
			r.take(8)
		}
		r.end()
	})
	g.Chain = sha256.Sum256([]byte(tagged("genesis", [32]byte{}, 0, string(data))))
	return g, err
}

func (g *Genesis) faulty() int { return (len(g.Validators) - 1) / 3 }
func (g *Genesis) quorum() int { return len(g.Validators) - g.faulty() }

// ParseOrder reads and checks the 157 bytes of an order.
func (g *Genesis) ParseOrder(body string) (o Order, err error) {
	err = decode(func() { o = g.order(&reader{body}) })
	return o, err
}

func (g *Genesis) order(r *reader) (o Order) {
	body := r.rest
	o.Payer = r.take(32)
	o.Nonce = r.number(8)
	o.Previous = r.take(32)
	o.Fee = r.number(8)
	o.Split = uint32(r.number(4))
	o.Prompt = r.take(32)
	o.Judge = r.take(32)
	o.MaxAnswers = r.take(1)[0]
	o.AnswerDeadline = uint32(r.number(4))
	o.ScoringDeadline = uint32(r.number(4))
	o.Task = g.hash("order", body[:157])
	must(o.Payer != zero, "an order of the zero account")
	must((o.Nonce == 0) == (o.Previous == zero), "nonce and previous order do not fit")
	must(o.Fee >= g.MinimumFee && o.Fee < 1<<63, "a fee of %d", o.Fee)
	_, known := g.Splits[o.Split]
	must(known, "split %d", o.Split)
	must(o.Judge == g.Judge, "another judge")
	must(o.MaxAnswers >= 1 && o.MaxAnswers <= 16, "%d answers wanted", o.MaxAnswers)
	must(10 <= o.AnswerDeadline && o.AnswerDeadline <= o.ScoringDeadline && o.ScoringDeadline <= 600000, "deadlines")
	return o
}

// commitment reads a ScoreCommit without its signature.
func (g *Genesis) commitment(r *reader, task string) (c Commitment, body string) {
	all := r.rest
	must(r.take(32) == task, "commitment of another task")
	c.Member = int(r.number(2))
	must(c.Member < len(g.Validators), "commitment of member %d", c.Member)
	for i := range r.count(0, 16) {
		c.Answers = append(c.Answers, r.take(64))
		must(i == 0 || c.Answers[i-1] < c.Answers[i], "answers do not ascend")
		must(c.Answers[i][:32] != zero, "answer of the zero account")
	}
	c.Hash = r.take(32)
	return c, all[:len(all)-len(r.rest)]
}

func (c Commitment) body(task string) string {
	b := task + u16(c.Member) + u16(len(c.Answers))
	for _, a := range c.Answers {
		b += a
	}
	return b + c.Hash
}

func opening(r *reader) (v Reveal) {
	for range r.count(0, 16) {
		v.Scores = append(v.Scores, int(r.number(2)))
	}
	v.Salt = r.take(32)
	return v
}

func (v Reveal) opening() string {
	b := u16(len(v.Scores))
	for _, s := range v.Scores {
		b += u16(s)
	}
	return b + v.Salt
}

// Commit returns the hash that commits a member to an opening.
func (g *Genesis) Commit(task string, member int, answers []string, v Reveal) string {
	return g.hash("scoopen", Commitment{Member: member, Answers: answers, Hash: zero}.body(task)+v.opening())
}

// open returns why the reveal does not open its commitment in S.
func (g *Genesis) open(task string, s []Commitment, v Reveal) error {
	for _, c := range s {
		if c.Member != v.Member {
			continue
		}
		if len(v.Scores) != len(c.Answers) {
			return fmt.Errorf("member %d reveals %d scores of %d", v.Member, len(v.Scores), len(c.Answers))
		}
		for _, x := range v.Scores {
			if x > 10000 {
				return fmt.Errorf("member %d gives a score of %d", v.Member, x)
			}
		}
		if g.Commit(task, v.Member, c.Answers, v) != c.Hash {
			return fmt.Errorf("member %d does not open its commitment", v.Member)
		}
		return nil
	}
	return fmt.Errorf("member %d is not in S", v.Member)
}

// HashS returns H(S).
func (g *Genesis) HashS(task string, s []Commitment) string {
	b := u16(len(s))
	for _, c := range s {
		b += c.body(task)
	}
	return g.hash("sealval", b)
}

// HashV returns H(V) of the canonical bytes of an outcome.
func (g *Genesis) HashV(outcome string) string { return g.hash("outcome", outcome) }

// divide divides an amount by weights: largest remainder, ties to the lower index.
func divide(amount *big.Int, weights []uint32) []*big.Int {
	total := new(big.Int)
	for _, w := range weights {
		total.Add(total, big.NewInt(int64(w)))
	}
	parts, remainders, order := make([]*big.Int, len(weights)), make([]*big.Int, len(weights)), make([]int, len(weights))
	left := new(big.Int).Set(amount)
	for i, w := range weights {
		product := new(big.Int).Mul(amount, big.NewInt(int64(w)))
		parts[i], remainders[i] = new(big.Int).QuoRem(product, total, new(big.Int))
		left.Sub(left, parts[i])
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return remainders[order[a]].Cmp(remainders[order[b]]) > 0 })
	for _, i := range order {
		if left.Sign() == 0 {
			break
		}
		parts[i].Add(parts[i], big.NewInt(1))
		left.Sub(left, big.NewInt(1))
	}
	return parts
}

func equal(n int) (weights []uint32) {
	for range n {
		weights = append(weights, 1)
	}
	return weights
}

func lowerMedian(scores []int) int {
	sorted := append([]int(nil), scores...)
	sort.Ints(sorted)
	return sorted[(len(sorted)+1)/2-1]
}

// Settle returns the canonical bytes of the outcome V. S and the reveals may be in any order.
func (g *Genesis) Settle(o Order, s []Commitment, reveals []Reveal) string {
	n, b, split := len(g.Validators), g.faulty(), g.Splits[o.Split]
	s, reveals = append([]Commitment(nil), s...), append([]Reveal(nil), reveals...)
	sort.Slice(s, func(i, j int) bool { return s[i].Member < s[j].Member })
	sort.Slice(reveals, func(i, j int) bool { return reveals[i].Member < reveals[j].Member })
	hs := g.HashS(o.Task, s)

	// scores[answer][member]
	named, scores := false, map[string]map[int]int{}
	for _, c := range s {
		named = named || len(c.Answers) > 0
		for _, v := range reveals {
			if v.Member != c.Member {
				continue
			}
			for i, a := range c.Answers {
				if scores[a] == nil {
					scores[a] = map[int]int{}
				}
				scores[a][c.Member] = v.Scores[i]
			}
		}
	}
	var eligible []string
	medians := map[string]int{}
	for a, by := range scores {
		if len(by) >= 2*b+1 {
			eligible = append(eligible, a)
			var list []int
			for _, x := range by {
				list = append(list, x)
			}
			medians[a] = lowerMedian(list)
		}
	}
	sort.Strings(eligible)

	ranked := append([]string(nil), eligible...)
	sort.Slice(ranked, func(i, j int) bool {
		x, y := ranked[i], ranked[j]
		if medians[x] != medians[y] {
			return medians[x] > medians[y]
		}
		return g.hash("tie", hs+x) < g.hash("tie", hs+y)
	})
	places, best, next := map[string]int{}, map[int]int{}, 1 // by text; score of the best by place
	for _, a := range ranked {
		if text := a[32:]; places[text] == 0 {
			places[text], best[next] = next, medians[a]
			next++
		}
	}

	fee := new(big.Int).SetUint64(o.Fee)
	credits := map[string]*big.Int{}
	left := new(big.Int).Set(fee)
	pay := func(account string, amount *big.Int) {
		if credits[account] == nil {
			credits[account] = new(big.Int)
		}
		credits[account].Add(credits[account], amount)
		left.Sub(left, amount)
	}
	kind := 1
	if len(eligible) == 0 {
		kind = 2
		if named {
			kind = 3
		}
		burn := new(big.Int).Mul(fee, big.NewInt(int64(split.UnpaidBurn)))
		burn.Quo(burn, big.NewInt(10000))
		if burn.Sign() == 0 {
			burn.SetInt64(1)
		}
		if burn.Cmp(fee) > 0 {
			burn.Set(fee)
		}
		pay(zero, burn)
	} else {
		pools := divide(fee, []uint32{split.Workers, split.Validators})
		for i, part := range divide(pools[0], split.Ranks) {
			place := i + 1
			score, taken := best[place]
			if !taken || score < int(split.Floor) {
				continue
			}
			var group []string
			for _, a := range eligible {
				if places[a[32:]] == place {
					group = append(group, a)
				}
			}
			for j, share := range divide(part, equal(len(group))) {
				pay(group[j][:32], share)
			}
		}
		parts := divide(pools[1], equal(n*len(eligible)))
		for member := range n {
			for j, a := range eligible {
				part := parts[member*len(eligible)+j]
				own, scored := scores[a][member]
				var others []int
				for m, x := range scores[a] {
					if m != member {
						others = append(others, x)
					}
				}
				inside := len(others) == 0
				if !inside {
					d := own - lowerMedian(others)
					inside = -int(split.Band) <= d && d <= int(split.Band)
				}
				if scored && inside {
					pay(g.Validators[member].Account, part)
				} else {
					pay(zero, part)
				}
			}
		}
	}
	pay(o.Payer, new(big.Int).Set(left))

	v := o.Task + hs + u16(len(reveals))
	for _, r := range reveals {
		v += u16(r.Member) + r.opening()
	}
	v += string(rune(kind)) + u16(len(ranked))
	for _, a := range ranked {
		v += a + u16(medians[a]) + u16(places[a[32:]])
	}
	var accounts []string
	for account, amount := range credits {
		if amount.Sign() > 0 {
			accounts = append(accounts, account)
		}
	}
	sort.Strings(accounts)
	v += u16(len(accounts))
	for _, account := range accounts {
		v += account + u64(credits[account].Uint64())
	}
	return v
}

func key(s string) (k crypto.PublicKey) {
	copy(k[:], s)
	return k
}

func (g *Genesis) signed(v *crypto.Verifier, who, kind, body, sig string) bool {
	var s crypto.Signature
	copy(s[:], sig)
	return v.Verify(key(who), []byte(g.tagged(kind, body)), s)
}

// fold computes the Merkle root over count leaves from one of them, by the definition of RFC 6962, section 2.1.
func fold(leaf string, index, count int, path []string) string {
	if count == 1 {
		must(len(path) == 0, "the path is too long")
		return sum("\x00" + leaf)
	}
	must(len(path) > 0, "the path is too short")
	k := 1
	for 2*k < count {
		k *= 2
	}
	last := path[len(path)-1]
	if index < k {
		return sum("\x01" + fold(leaf, index, k, path[:len(path)-1]) + last)
	}
	return sum("\x01" + last + fold(leaf, index-k, count-k, path[:len(path)-1]))
}

// certificate reads a certificate, checks its votes and returns the leaf.
func (g *Genesis) certificate(r *reader, v *crypto.Verifier) (leaf string) {
	leaf = r.take(70)
	last, votes := -1, r.count(0, 64)
	must(votes >= g.quorum(), "%d votes of %d", votes, g.quorum())
	for range votes {
		header := r.take(78)
		sig := r.take(64)
		index := int(r.number(2))
		var path []string
		for range r.count(0, 10) {
			path = append(path, r.take(32))
		}
		h := &reader{header}
		validator := int(h.number(2))
		h.take(8 + 32) // number and previous bundle: the chain of bundles proves nothing here
		root, count := h.take(32), int(h.number(4))
		must(validator < len(g.Validators), "vote of validator %d", validator)
		must(validator > last, "votes do not ascend")
		last = validator
		must(count >= 1 && count <= 1024 && index < count, "leaf %d of %d", index, count)
		must(fold(leaf, index, count, path) == root, "the path leads to another root")
		must(g.signed(v, g.Validators[validator].Key, "bundle", header, sig), "bundle of validator %d", validator)
	}
	return leaf
}

func leafOf(kind, stage byte, task string, round uint64, value string) string {
	return string([]byte{kind}) + task + string([]byte{stage}) + string(binary.BigEndian.AppendUint32(nil, uint32(round))) + value
}

// CheckReceipt says whether the bytes of a receipt, without the type of a message, prove an outcome.
func (g *Genesis) CheckReceipt(data []byte) error {
	return decode(func() {
		v := crypto.NewVerifier()
		r := &reader{string(data)}
		body := r.rest
		o := g.order(r)
		must(g.signed(v, o.Payer, "order", body[:157], r.take(64)), "order is not signed by its payer")
		must(g.certificate(r, v) == leafOf(1, 0, o.Task, 0, o.Task), "not the lock of this order")

		var s []Commitment
		for range r.count(0, 64) {
			c, body := g.commitment(r, o.Task)
			must(len(s) == 0 || s[len(s)-1].Member < c.Member, "members do not ascend")
			must(g.signed(v, g.Validators[c.Member].Key, "scocommit", body, r.take(64)), "commitment of %d", c.Member)
			s = append(s, c)
		}
		hs := g.HashS(o.Task, s)
		leaf := g.certificate(r, v)
		round := binary.BigEndian.Uint32([]byte(leaf[34:38]))
		must(leaf == leafOf(3, 1, o.Task, uint64(round), hs), "not the seal of S")

		start := r.rest
		must(r.take(32) == o.Task, "outcome of another task")
		must(r.take(32) == hs, "outcome of another S")
		var reveals []Reveal
		for i := range r.count(0, 64) {
			member := int(r.number(2))
			reveal := opening(r)
			reveal.Member = member
			must(i == 0 || reveals[i-1].Member < member, "reveals do not ascend")
			if err := g.open(o.Task, s, reveal); err != nil {
				panic(malformed(err.Error()))
			}
			reveals = append(reveals, reveal)
		}
		r.take(1)
		for range r.count(0, 48) {
			r.take(64 + 2 + 2)
		}
		for range r.count(0, 114) {
			r.take(32 + 8)
		}
		outcome := start[:len(start)-len(r.rest)]
		must(outcome == g.Settle(o, s, reveals), "Settle gives another outcome")
		hv := g.HashV(outcome)
		leaf = g.certificate(r, v)
		round = uint32((&reader{leaf[34:38]}).number(4))
		fast := leaf == leafOf(4, 2, o.Task, 0, hv)
		later := round > 0 && leaf == leafOf(3, 2, o.Task, uint64(round), hv)
		must(fast || later, "not a decision for this outcome")
		r.end()
	})
}
