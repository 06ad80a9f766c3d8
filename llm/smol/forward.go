package smol

import "math"

// chunk is how many tokens of a prompt go through the layers at once: more would push the repeated activations out of the L2 cache.
const chunk = 16

// session is one sequence of tokens on its way through a model, with its key-value cache. It is for one goroutine.
type session struct {
	m       *model
	threads int
	pos     int // tokens so far
	limit   int // tokens it has room for

	// keys and values are those of all layers, one after the other, with room for limit tokens each.
	keys, values []float32

	// Room for one chunk; scores is what each head of each token gives to the tokens before.
	acts                                               *activations
	x, h, qkv, scores, gateUp, gated, rotation, logits []float32
}

func newSession(m *model, threads, limit int) *session {
	room := func(n int) []float32 { return make([]float32, n) }
	cache := len(m.layers) * limit * m.kvDim()
	return &session{
		m: m, threads: threads, limit: limit,
		keys: room(cache), values: room(cache),
		acts: newActivations(chunk, max(m.dim, m.hidden)),
		x:    room(chunk * m.dim), h: room(chunk * m.dim),
		qkv: room(chunk * (m.dim + 2*m.kvDim())), scores: room(chunk * m.heads * limit), rotation: room(chunk * m.headDim),
		gateUp: room(chunk * 2 * m.hidden), gated: room(chunk * m.hidden),
		logits: room(m.vocab()),
	}
}

// cached returns the keys and values of a layer.
func (s *session) cached(layer int) (keys, values []float32) {
	n := s.limit * s.m.kvDim()
	return s.keys[layer*n : (layer+1)*n], s.values[layer*n : (layer+1)*n]
}

// resume copies what another session has seen into this new one.
func (s *session) resume(from *session) {
	n := from.pos * s.m.kvDim()
	for i := range s.m.layers {
		keys, values := s.cached(i)
		k, v := from.cached(i)
		copy(keys, k[:n])
		copy(values, v[:n])
	}
	s.pos = from.pos
}

// advance takes up to chunk tokens, for which there must be room, through the layers.
func (s *session) advance(tokens []int32) {
	m, n := s.m, len(tokens)
	x, h, ff := s.x[:n*m.dim], s.h[:n*m.dim], s.gated[:n*m.hidden]
	width := m.dim + 2*m.kvDim()
	qkv, gateUp := s.qkv[:n*width], s.gateUp[:n*2*m.hidden]
	for i, t := range tokens {
		m.embed.row(x[i*m.dim:(i+1)*m.dim], int(t))
	}
	s.rotations(n)
	for i := range m.layers {
		l := &m.layers[i]
		s.norm(h, x, l.attnNorm)
		s.mul(qkv, &l.qkv, h)
		keys, values := s.cached(i)
		for j := range n {
			row, at := qkv[j*width:(j+1)*width], (s.pos+j)*m.kvDim()
			rotate(row[:m.dim+m.kvDim()], s.rotation[j*m.headDim:(j+1)*m.headDim])
			copy(keys[at:], row[m.dim:m.dim+m.kvDim()])
			copy(values[at:], row[m.dim+m.kvDim():])
		}
		s.attend(h, qkv, keys, values, n)
		s.mul(h, &l.attnOut, h)
		add(x, h)

		s.norm(h, x, l.ffnNorm)
		s.mul(gateUp, &l.gateUp, h)
		parallel(s.threads, n, 1, func(from, to int) {
			for j := from; j < to; j++ {
				swiglu(ff[j*m.hidden:(j+1)*m.hidden], gateUp[j*2*m.hidden:(j+1)*2*m.hidden])
			}
		})
		s.mul(h, &l.down, ff)
		add(x, h)
	}
	copy(s.x, x[(n-1)*m.dim:]) // head works on the last token
	s.pos += n
}

// head returns the logits after the last token. They are overwritten by the next call.
func (s *session) head() []float32 {
	m := s.m
	h := s.h[:m.dim]
	s.norm(h, s.x[:m.dim], m.norm)
	s.acts.set(h, m.dim)
	mulQ8(&m.kernels, s.threads, s.logits, &m.embed, s.acts)
	return s.logits
}

func (s *session) mul(y []float32, w *q4Matrix, x []float32) {
	s.acts.set(x, w.cols)
	mulQ4(&s.m.kernels, s.threads, y, w, s.acts)
}

// norm divides rows by their root mean square and multiplies with weights.
func (s *session) norm(y, x, weights []float32) {
	n := s.m.dim
	for i := 0; i < len(x); i += n {
		row := x[i : i+n]
		mean := s.m.kernels.dot(row, row) / float32(n)
		k := 1 / float32(math.Sqrt(float64(mean+s.m.eps)))
		for j, v := range row {
			y[i+j] = v * k * weights[j]
		}
	}
}

// rotations fills in cosine and sine of the angle of each pair of columns for the next n tokens.
func (s *session) rotations(n int) {
	for j := range n {
		row := s.rotation[j*s.m.headDim:]
		for i, f := range s.m.rotations {
			sin, cos := math.Sincos(float64(s.pos+j) * f)
			row[2*i], row[2*i+1] = float32(cos), float32(sin)
		}
	}
}

// rotate turns each pair of columns of the heads in row. GGUF stores llama's queries and keys so that pairs are neighbours.
func rotate(row, rotation []float32) {
	for len(row) > 0 {
		head := row[:len(rotation)]
		for i := 0; i < len(head); i += 2 {
			a, b, cos, sin := head[i], head[i+1], rotation[i], rotation[i+1]
			head[i], head[i+1] = float32(a*cos)-float32(b*sin), float32(a*sin)+float32(b*cos)
		}
		row = row[len(rotation):]
	}
}

// attend sets out to the values of earlier tokens, weighted by how well their keys match the queries of the n new ones.
func (s *session) attend(out, qkv, keys, values []float32, n int) {
	m := s.m
	width, kvDim := m.dim+2*m.kvDim(), m.kvDim()
	scale := float32(1 / math.Sqrt(float64(m.headDim)))
	parallel(s.threads, n*m.heads, m.heads/m.kvHeads, func(from, to int) {
		for i := from; i < to; i++ {
			token, head := i/m.heads, i%m.heads
			q := qkv[token*width+head*m.headDim:][:m.headDim]
			at := head / (m.heads / m.kvHeads) * m.headDim // where the keys of this head are
			seen := s.scores[i*s.limit:][:s.pos+token+1]
			peak := float32(math.Inf(-1))
			for p := range seen {
				seen[p] = m.kernels.dot(q, keys[p*kvDim+at:][:m.headDim]) * scale
				peak = max(peak, seen[p])
			}
			var sum float32
			for p, v := range seen {
				seen[p] = float32(math.Exp(float64(v - peak)))
				sum += seen[p]
			}
			o := out[token*m.dim+head*m.headDim:][:m.headDim]
			clear(o)
			for p, v := range seen {
				m.kernels.axpy(o, v/sum, values[p*kvDim+at:][:m.headDim])
			}
		}
	})
}

// swiglu sets y to silu(gate)*up.
func swiglu(y, gateUp []float32) {
	gate, up := gateUp[:len(y)], gateUp[len(y):]
	for i, g := range gate {
		y[i] = g / (1 + float32(math.Exp(float64(-g)))) * up[i]
	}
}

func add(x, y []float32) {
	for i, v := range y {
		x[i] += v
	}
}
