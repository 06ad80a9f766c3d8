package smol

import (
	"context"
	"testing"
)

func implementations() []kernels {
	if k := fastest(); k.name != plain.name {
		return []kernels{k, plain}
	}
	return []kernels{plain}
}

func with(m *prepared, k kernels) *model {
	c := *m.model
	c.kernels = k
	return &c
}

// BenchmarkDecode makes tokens one after the other on one core, at positions 40 to 140.
func BenchmarkDecode(b *testing.B) {
	for _, k := range implementations() {
		b.Run(k.name, func(b *testing.B) {
			m := with(embedded(b), k)
			s := newSession(m, 1, 140)
			text := tokens(m, 40)
			s.read(context.Background(), text)
			n := 0
			for b.Loop() {
				if s.pos == s.limit {
					s.pos = len(text)
				}
				s.advance([]int32{argmax(s.head())})
				n++
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// BenchmarkPrefill reads 128 tokens on one core.
func BenchmarkPrefill(b *testing.B) {
	for _, k := range implementations() {
		b.Run(k.name, func(b *testing.B) {
			m := with(embedded(b), k)
			const length = 128
			s, text := newSession(m, 1, length), tokens(m, length)
			n := 0
			for b.Loop() {
				s.pos = 0
				s.read(context.Background(), text)
				n += length
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// BenchmarkLoad prepares the embedded weights, as the first request does.
func BenchmarkLoad(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := load(weights); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	t := embedded(b).tokens
	b.SetBytes(int64(len(article)))
	for b.Loop() {
		t.encode(nil, article)
	}
}

// tokens are the first n of a text.
func tokens(m *model, n int) []int32 {
	ids := m.tokens.encode(nil, article)
	for len(ids) < n {
		ids = append(ids, ids...)
	}
	return ids[:n]
}
