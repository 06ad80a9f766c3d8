package crossencoder

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/poqmesh/poq/quality"
)

// pairOf returns texts that make a pair of exactly n tokens, half of them the answer's. Every word is one token.
func pairOf(tb testing.TB, t *tokenizer, n int) (prompt, answer string) {
	tb.Helper()
	words := strings.Fields("the quick brown fox jumps over the old dog while seven people look on from a bridge")
	text := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, words[i%len(words)])
		}
		return strings.Join(all, " ")
	}
	half := (n - frameTokens) / 2
	prompt, answer = text(n-frameTokens-half), text(half)
	if p, _ := t.prepare(prompt, answer); len(p.ids) != n {
		tb.Fatalf("made a pair of %d tokens, want %d", len(p.ids), n)
	}
	return prompt, answer
}

// BenchmarkScore measures pairs of four lengths, one after the other and two side by side. ms/pair is time divided by pairs.
func BenchmarkScore(b *testing.B) {
	j := open(b)
	for _, side := range []int{1, 2} {
		for _, n := range []int{64, 128, 256, 512} {
			b.Run(fmt.Sprintf("tokens=%d/side-by-side=%d", n, side), func(b *testing.B) {
				prompt, answer := pairOf(b, j.tokenizer, n)
				score := func() {
					if _, err := j.Score(b.Context(), prompt, answer); err != nil {
						b.Error(err)
					}
				}
				score()
				b.ReportAllocs()
				b.ResetTimer()
				var next atomic.Int64
				var wg sync.WaitGroup
				for range side {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							score()
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/pair")
			})
		}
	}
}

// BenchmarkFirstOfLength measures the first pair of each length in a new judge, which compiles, against the second.
func BenchmarkFirstOfLength(b *testing.B) {
	for _, n := range []int{64, 128, 256, 512} {
		b.Run(fmt.Sprintf("tokens=%d", n), func(b *testing.B) {
			var first, second time.Duration
			for range b.N {
				b.StopTimer()
				j := open(b)
				prompt, answer := pairOf(b, j.tokenizer, n)
				b.StartTimer()
				start := time.Now()
				if _, err := j.Score(b.Context(), prompt, answer); err != nil {
					b.Fatal(err)
				}
				first += time.Since(start)
				b.StopTimer()
				start = time.Now()
				if _, err := j.Score(b.Context(), prompt, answer); err != nil {
					b.Fatal(err)
				}
				second += time.Since(start)
				if err := j.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(first.Microseconds())/1000/float64(b.N), "first-ms")
			b.ReportMetric(float64(second.Microseconds())/1000/float64(b.N), "second-ms")
		})
	}
}

// BenchmarkEchoBesideTheJudge measures how long a datagram on the loopback takes there and back while a pool scores pairs without
// a pause: what a peer's gossip feels of the judge.
func BenchmarkEchoBesideTheJudge(b *testing.B) {
	j := open(b)
	prompt, answer := pairOf(b, j.tokenizer, 256)
	for workers := range runtime.GOMAXPROCS(0) + 1 {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			var conns [2]net.PacketConn
			for i := range conns {
				c, err := net.ListenPacket("udp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				conns[i] = c
			}
			go func() {
				buffer := make([]byte, 64)
				for {
					n, from, err := conns[1].ReadFrom(buffer)
					if err != nil {
						return
					}
					if _, err := conns[1].WriteTo(buffer[:n], from); err != nil {
						return
					}
				}
			}()
			pool := quality.NewPool(j, quality.PoolOptions{Workers: max(workers, 1)})
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for worker := range workers {
				wg.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						_, _ = pool.Score(ctx, prompt, fmt.Sprint(answer, worker, n))
					}
				})
			}
			var times []time.Duration
			buffer := make([]byte, 64)
			for b.Loop() {
				time.Sleep(2 * time.Millisecond)
				start := time.Now()
				if _, err := conns[0].WriteTo(buffer, conns[1].LocalAddr()); err != nil {
					b.Fatal(err)
				}
				if _, _, err := conns[0].ReadFrom(buffer); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(start))
			}
			stop()
			wg.Wait()
			if err := pool.Close(); err != nil {
				b.Fatal(err)
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// BenchmarkNew measures loading the judge.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		j, err := New(b.Context(), "")
		if err != nil {
			b.Fatal(err)
		}
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
