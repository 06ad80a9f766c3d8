package smol

import (
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/gomlx/go-huggingface/models/gguf"
)

// reference computes the same network in the plainest way: weights dequantised by the library to float32, no cache, no kernels,
// sums in float64. It shares no code with the package.
type reference struct {
	t    *testing.T
	file *gguf.Model
}

func newReference(t *testing.T) *reference {
	f, err := gguf.NewFromFile("model/SmolLM2-135M-Instruct.Q4_1.gguf")
	if err != nil {
		t.Fatal(err)
	}
	return &reference{t: t, file: f}
}

func (r *reference) tensor(name string) (out []float32) {
	r.t.Helper()
	v, err := r.file.GetTensor(nil, name)
	if err != nil {
		r.t.Fatal(err)
	}
	v.Tensor.ConstFlatData(func(flat any) { out = append(out, flat.([]float32)...) })
	return out
}

// times multiplies each row of x with each row of w.
func times(x [][]float64, w []float32) [][]float64 {
	cols := len(x[0])
	rows := len(w) / cols
	y := make([][]float64, len(x))
	var wg sync.WaitGroup
	for i := range x {
		y[i] = make([]float64, rows)
	}
	const parts = 4
	for p := range parts {
		wg.Go(func() {
			for r := p * rows / parts; r < (p+1)*rows/parts; r++ {
				row := w[r*cols : (r+1)*cols]
				for i := range x {
					var sum float64
					for j, v := range x[i] {
						sum += v * float64(row[j])
					}
					y[i][r] = sum
				}
			}
		})
	}
	wg.Wait()
	return y
}

func rmsNorm(x [][]float64, w []float32) [][]float64 {
	y := make([][]float64, len(x))
	for i, row := range x {
		var sum float64
		for _, v := range row {
			sum += v * v
		}
		k := 1 / math.Sqrt(sum/float64(len(row))+1e-5)
		for j, v := range row {
			y[i] = append(y[i], v*k*float64(w[j]))
		}
	}
	return y
}

func plus(x, y [][]float64) {
	for i := range x {
		for j := range x[i] {
			x[i][j] += y[i][j]
		}
	}
}

// logits are those after each token of each sequence from the given one on.
func (r *reference) logits(sequences [][]int32, from []int) [][][]float64 {
	const dim, heads, kvHeads, head, hidden, layers, base = 576, 9, 3, 64, 1536, 30, 100000.0
	embed := r.tensor("token_embd.weight")
	var x [][]float64 // all sequences, one after the other
	var start, position []int
	for _, ids := range sequences {
		for i, id := range ids {
			row := make([]float64, dim)
			for j := range row {
				row[j] = float64(embed[int(id)*dim+j])
			}
			x, start, position = append(x, row), append(start, len(x)-i), append(position, i)
		}
	}
	for l := range layers {
		weights := func(part string) []float32 { return r.tensor(fmt.Sprintf("blk.%d.%s.weight", l, part)) }
		h := rmsNorm(x, weights("attn_norm"))
		q, k, v := times(h, weights("attn_q")), times(h, weights("attn_k")), times(h, weights("attn_v"))
		for i := range x {
			for _, row := range [][]float64{q[i], k[i]} {
				for j := 0; j < len(row); j += 2 {
					sin, cos := math.Sincos(float64(position[i]) * math.Pow(base, -float64(j%head)/head))
					row[j], row[j+1] = row[j]*cos-row[j+1]*sin, row[j]*sin+row[j+1]*cos
				}
			}
		}
		for i := range x {
			out := make([]float64, dim)
			for hd := range heads {
				at := hd / (heads / kvHeads) * head
				scores, sum := make([]float64, i+1), 0.0
				for p := start[i]; p <= i; p++ {
					for j := range head {
						scores[p] += q[i][hd*head+j] * k[p][at+j]
					}
					scores[p] = math.Exp(scores[p] / 8) // the root of 64
					sum += scores[p]
				}
				for p := start[i]; p <= i; p++ {
					for j := range head {
						out[hd*head+j] += scores[p] / sum * v[p][at+j]
					}
				}
			}
			h[i] = out
		}
		plus(x, times(h, weights("attn_output")))
		h = rmsNorm(x, weights("ffn_norm"))
		gate, up := times(h, weights("ffn_gate")), times(h, weights("ffn_up"))
		for i := range gate {
			for j, g := range gate[i] {
				gate[i][j] = g / (1 + math.Exp(-g)) * up[i][j]
			}
		}
		plus(x, times(gate, weights("ffn_down")))
	}
	x = rmsNorm(x, r.tensor("output_norm.weight"))
	var out [][][]float64
	for i, ids := range sequences {
		out = append(out, times(x[from[i]:len(ids)], embed))
		x = x[len(ids):]
	}
	return out
}

// tolerance is the most that a logit may differ from the reference. Logits span some 40; activations of 15 bits cost about 0.01,
// and ones of 8 bits would cost 0.3.
const tolerance = 0.05

func TestLogitsAreThoseOfTheFloatReference(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("computes 60 tokens with plain loops: 10 s, and minutes under the race detector")
	}
	m := embedded(t)
	var sequences [][]int32
	var from []int
	var ours [][][]float32
	for _, c := range []struct {
		prompt string
		n      int
	}{{"What is the capital of France?", 6}, {"Name a fish.", 8}, {"2 + 2 =", 6}} {
		ids := append([]int32{m.tokens.control[tokenStart]}, m.tokens.encode(nil, "user\n"+c.prompt)...)
		ids = append(ids, m.tokens.afterPrompt()...)
		s := newSession(m.model, 2, len(ids)+c.n)
		s.read(t.Context(), ids)
		from = append(from, len(ids)-1)
		var rows [][]float32
		for range c.n {
			rows = append(rows, append([]float32(nil), s.head()...))
			next := argmax(s.head())
			ids = append(ids, next)
			s.advance([]int32{next})
		}
		sequences, ours = append(sequences, ids[:len(ids)-1]), append(ours, rows)
	}
	worst := 0.0
	for i, rows := range newReference(t).logits(sequences, from) {
		for j, want := range rows {
			best := 0
			for k, v := range want {
				worst = max(worst, math.Abs(v-float64(ours[i][j][k])))
				if v > want[best] {
					best = k
				}
			}
			if got := argmax(ours[i][j]); int(got) != best {
				t.Errorf("prompt %d, token %d: chose %d, the reference %d", i, j, got, best)
			}
		}
	}
	t.Logf("logits differ by %.4f at most", worst)
	if worst > tolerance {
		t.Errorf("logits differ by %.4f, want at most %.2f", worst, tolerance)
	}
}
