package smol

import (
	"cmp"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
)

// sampler picks the next token from logits. It is for one request.
type sampler struct {
	temperature, topP float64
	random            *rand.Rand
	candidates        []candidate
}

type candidate struct {
	token int32
	p     float64
}

// newSampler returns a greedy sampler if temperature is zero. What it draws depends on seed and prompt alone, so that an answer
// does not depend on what else the engine is asked.
func newSampler(temperature, topP float64, seed uint64, prompt string) *sampler {
	h := fnv.New64a()
	h.Write([]byte(prompt))
	return &sampler{temperature: temperature, topP: topP, random: rand.New(rand.NewPCG(seed, h.Sum64()))}
}

func (s *sampler) next(logits []float32) int32 {
	best := argmax(logits)
	if s.temperature == 0 {
		return best
	}
	// A token that is this much less likely than the best one can be left out: all of them together don't make a thousandth.
	const negligible = 18
	s.candidates = s.candidates[:0]
	var sum float64
	for i, v := range logits {
		if d := float64(v-logits[best]) / s.temperature; d > -negligible {
			p := math.Exp(d)
			sum += p
			s.candidates = append(s.candidates, candidate{int32(i), p})
		}
	}
	slices.SortFunc(s.candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.token, b.token))
	})
	var kept float64
	for i, c := range s.candidates {
		if kept += c.p; kept >= s.topP*sum {
			s.candidates = s.candidates[:i+1]
			break
		}
	}
	at := s.random.Float64() * kept
	for _, c := range s.candidates {
		if at -= c.p; at < 0 {
			return c.token
		}
	}
	return best
}

// argmax is the first of the highest values.
func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

// repeats tells whether tokens end with the same stretch twice over: one of at most 48 tokens, and 24 tokens in all at least.
func repeats(tokens []int32) bool {
	const shortest, longest = 24, 48
	for period := 1; period <= longest; period++ {
		n := max(shortest, 2*period)
		if n > len(tokens) {
			return false
		}
		tail := tokens[len(tokens)-n:]
		if slices.Equal(tail[period:], tail[:n-period]) {
			return true
		}
	}
	return false
}
