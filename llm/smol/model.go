package smol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/gomlx/go-huggingface/models/gguf"
)

// model is a loaded language model of the llama architecture. It is immutable and shared by all requests.
type model struct {
	dim, heads, kvHeads, headDim, hidden int

	eps       float32   // of the norms
	rotations []float64 // frequency of each pair of columns in a head
	embed     q8Matrix  // of the vocabulary; also the output layer
	norm      []float32
	layers    []layer
	tokens    *tokenizer
	kernels   kernels
}

type layer struct {
	attnNorm, ffnNorm []float32
	qkv               q4Matrix // query, key and value, stacked
	attnOut           q4Matrix
	gateUp            q4Matrix // gate and up projection, stacked
	down              q4Matrix
}

// vocab is the number of tokens.
func (m *model) vocab() int { return m.embed.rows }

// kvDim is the number of floats a layer keeps of a token as key, and as value.
func (m *model) kvDim() int { return m.kvHeads * m.headDim }

// maxHeader bounds what comes before the tensors in a GGUF file: metadata with the vocabulary, here 1.8 MB.
const maxHeader = 8 << 20

// load reads a model from the bytes of a GGUF file. Nothing in data is trusted: whatever does not fit gives an error.
func load(data []byte) (*model, error) {
	file, err := readHeader(data)
	if err != nil {
		return nil, err
	}
	if arch := file.Architecture(); arch != "llama" {
		return nil, fmt.Errorf("architecture is %q, want \"llama\"", arch)
	}
	r := newReader(file, data)

	m := &model{
		dim:     r.integer("llama.embedding_length", blockSize, 1<<14),
		heads:   r.integer("llama.attention.head_count", 1, 1<<10),
		kvHeads: r.integer("llama.attention.head_count_kv", 1, 1<<10),
		hidden:  r.integer("llama.feed_forward_length", blockSize, 1<<16),
		eps:     float32(r.number("llama.attention.layer_norm_rms_epsilon", 0, 1)),
		kernels: fastest(),
	}
	blocks := r.integer("llama.block_count", 1, 1<<10)
	base := r.number("llama.rope.freq_base", 1, 1e9)
	if r.err != nil {
		return nil, r.err
	}
	if m.dim%m.heads != 0 || m.heads%m.kvHeads != 0 || m.dim/m.heads%lanes != 0 {
		return nil, fmt.Errorf("%d columns don't divide into %d heads, %d of them with keys", m.dim, m.heads, m.kvHeads)
	}
	m.headDim = m.dim / m.heads
	if n := r.integer("llama.rope.dimension_count", 1, 1<<14); r.err == nil && n != m.headDim {
		return nil, fmt.Errorf("%d of %d columns of a head are rotated, want all", n, m.headDim)
	}
	for i := 0; i < m.headDim; i += 2 {
		m.rotations = append(m.rotations, math.Pow(base, -float64(i)/float64(m.headDim)))
	}

	if m.tokens, err = newTokenizer(file); err != nil {
		return nil, err
	}
	m.embed = newQ8Matrix(m.dim, r.tensor("token_embd.weight", gguf.TensorTypeQ8_0, m.dim, len(m.tokens.bytes)))
	for i := range blocks {
		name := func(part string) string { return fmt.Sprintf("blk.%d.%s.weight", i, part) }
		q4 := func(part string, cols, rows int) []byte { return r.tensor(name(part), gguf.TensorTypeQ4_1, cols, rows) }
		m.layers = append(m.layers, layer{
			attnNorm: r.floats(name("attn_norm"), m.dim),
			ffnNorm:  r.floats(name("ffn_norm"), m.dim),
			qkv: newQ4Matrix(m.dim, q4("attn_q", m.dim, m.dim), q4("attn_k", m.dim, m.kvDim()),
				q4("attn_v", m.dim, m.kvDim())),
			attnOut: newQ4Matrix(m.dim, q4("attn_output", m.dim, m.dim)),
			gateUp:  newQ4Matrix(m.dim, q4("ffn_gate", m.dim, m.hidden), q4("ffn_up", m.dim, m.hidden)),
			down:    newQ4Matrix(m.hidden, q4("ffn_down", m.hidden, m.dim)),
		})
		if r.err != nil {
			return nil, r.err
		}
	}
	if m.norm = r.floats("output_norm.weight", m.dim); r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// readHeader parses metadata and the list of tensors. The library reads only from a path, so the header takes the way over a
// temporary file that is gone on return; the tensors, the bulk, are read where they lie.
func readHeader(data []byte) (*gguf.File, error) {
	f, err := os.CreateTemp("", "poq-smol-*.gguf")
	if err != nil {
		return nil, fmt.Errorf("the header needs a writable temporary directory (set TMPDIR): %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // what is left of it is the system's to clear
	_, err = f.Write(data[:min(len(data), maxHeader)])
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("the header needs %d MB in the temporary directory (set TMPDIR): %w", maxHeader>>20, err)
	}
	return gguf.Open(f.Name())
}

// reader takes checked values and tensors out of a GGUF file, and remembers the first thing that was wrong.
type reader struct {
	file    *gguf.File
	tensors map[string]gguf.TensorInfo
	bytes   []byte // of the tensors
	left    int64  // bytes that tensors may still take: overlapping ones can't make a small file fill the memory
	err     error
}

func newReader(file *gguf.File, data []byte) *reader {
	r := &reader{file: file, tensors: make(map[string]gguf.TensorInfo, len(file.TensorInfos)), left: int64(len(data))}
	// The library's own look-up by name gives the wrong tensor if the file does not list them by offset: it sorts the list behind
	// the back of its index (go-huggingface v0.4.1).
	for _, info := range file.TensorInfos {
		r.tensors[info.Name] = info
	}
	if off := file.DataOffset(); off > 0 && off <= int64(len(data)) {
		r.bytes = data[off:]
	}
	return r
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// integer is the value at key; one out of range is an error.
func (r *reader) integer(key string, low, high int64) int {
	kv, ok := r.file.GetKeyValue(key)
	if v := kv.Int64(); ok && low <= v && v <= high {
		return int(v)
	}
	r.fail("%s is %v, want a whole number from %d to %d", key, kv.Raw(), low, high)
	return 1
}

func (r *reader) number(key string, low, high float64) float64 {
	kv, ok := r.file.GetKeyValue(key)
	if v := kv.Float64(); ok && low <= v && v <= high {
		return v
	}
	r.fail("%s is %v, want a number from %g to %g", key, kv.Raw(), low, high)
	return 1
}

// tensor is the data of a matrix that must have just this type and shape, in whole blocks and groups.
// It is nil if that is not so.
func (r *reader) tensor(name string, typ gguf.TensorType, cols, rows int) []byte {
	info, ok := r.tensors[name]
	switch {
	case r.err != nil:
		return nil
	case !ok:
		r.fail("tensor %s is missing", name)
		return nil
	case info.Type != typ:
		r.fail("tensor %s is of type %s, want %s", name, info.Type, typ)
		return nil
	case len(info.Shape) != 2 || info.Shape[0] != uint64(cols) || info.Shape[1] != uint64(rows):
		r.fail("tensor %s has shape %v, want [%d %d]", name, info.Shape, cols, rows)
		return nil
	case cols%blockSize != 0 || rows%lanes != 0:
		r.fail("tensor %s has shape %v, want multiples of %d and %d", name, info.Shape, blockSize, lanes)
		return nil
	}
	return r.data(info)
}

func (r *reader) floats(name string, n int) []float32 {
	info, ok := r.tensors[name]
	if !ok || info.Type != gguf.TensorTypeF32 || len(info.Shape) != 1 || info.Shape[0] != uint64(n) {
		r.fail("tensor %s is missing or not %d numbers of type F32", name, n)
		return nil
	}
	b := r.data(info)
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func (r *reader) data(info gguf.TensorInfo) []byte {
	n, have := uint64(info.NumBytes()), uint64(len(r.bytes))
	if r.err == nil && (info.Offset > have || n > have-info.Offset) {
		r.fail("tensor %s lies beyond the end of the file", info.Name)
	}
	if r.left -= int64(n); r.err == nil && r.left < 0 {
		r.fail("tensors overlap")
	}
	if r.err != nil {
		return nil
	}
	return r.bytes[info.Offset:][:n]
}
