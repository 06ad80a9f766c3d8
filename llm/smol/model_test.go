package smol

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/go-huggingface/models/gguf"
)

// file is a GGUF file in the making: a model of one layer with random weights, small enough to try many wrong ones.
type file struct {
	keys    []string
	values  map[string]any // uint32, float32, string, []string or []int32
	tensors []tensor
}

type tensor struct {
	name  string
	typ   gguf.TensorType
	shape []uint64
	data  []byte
	at    uint64 // offset, if it is not to be the next free one
}

// The small model's measures: 2 heads of 16 columns, one of them with keys.
const tinyDim, tinyHidden, tinyVocab = 32, 64, 264

func tiny() *file {
	f := &file{values: map[string]any{}}
	names, types := []string{"<|endoftext|>", tokenStart, tokenEnd}, []int32{3, 3, 3}
	letters := make([]string, 256)
	for r, b := range byteLetters() {
		letters[b] = string(r)
	}
	for _, l := range letters {
		names, types = append(names, l), append(types, 1)
	}
	names, types = append(names, "th", "the", "<a>", "<b>", "<c>"), append(types, 1, 1, 3, 3, 3)
	for _, kv := range []struct {
		key   string
		value any
	}{
		{"general.architecture", "llama"},
		{"llama.block_count", uint32(1)},
		{"llama.embedding_length", uint32(tinyDim)},
		{"llama.feed_forward_length", uint32(tinyHidden)},
		{"llama.attention.head_count", uint32(2)},
		{"llama.attention.head_count_kv", uint32(1)},
		{"llama.rope.freq_base", float32(10000)},
		{"llama.rope.dimension_count", uint32(16)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"tokenizer.ggml.model", "gpt2"},
		{"tokenizer.ggml.pre", "smollm"},
		{"tokenizer.ggml.tokens", names},
		{"tokenizer.ggml.token_type", types},
		{"tokenizer.ggml.merges", []string{"t h", "th e"}},
	} {
		f.set(kv.key, kv.value)
	}
	r := rand.New(rand.NewPCG(5, 6))
	q4 := func(name string, cols, rows int) {
		data, _ := randomQ4(r, rows, cols)
		f.tensors = append(f.tensors, tensor{name: name, typ: gguf.TensorTypeQ4_1, shape: []uint64{uint64(cols), uint64(rows)}, data: data})
	}
	f32 := func(name string, n int) {
		var data []byte
		for range n {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(1))
		}
		f.tensors = append(f.tensors, tensor{name: name, typ: gguf.TensorTypeF32, shape: []uint64{uint64(n)}, data: data})
	}
	data, _ := randomQ8(r, tinyVocab, tinyDim)
	f.tensors = append(f.tensors, tensor{name: "token_embd.weight", typ: gguf.TensorTypeQ8_0, shape: []uint64{tinyDim, tinyVocab}, data: data})
	f32("blk.0.attn_norm.weight", tinyDim)
	f32("blk.0.ffn_norm.weight", tinyDim)
	q4("blk.0.attn_q.weight", tinyDim, tinyDim)
	q4("blk.0.attn_k.weight", tinyDim, 16)
	q4("blk.0.attn_v.weight", tinyDim, 16)
	q4("blk.0.attn_output.weight", tinyDim, tinyDim)
	q4("blk.0.ffn_gate.weight", tinyDim, tinyHidden)
	q4("blk.0.ffn_up.weight", tinyDim, tinyHidden)
	q4("blk.0.ffn_down.weight", tinyHidden, tinyDim)
	f32("output_norm.weight", tinyDim)
	return f
}

func (f *file) set(key string, value any) {
	if _, ok := f.values[key]; !ok {
		f.keys = append(f.keys, key)
	}
	f.values[key] = value
}

func (f *file) drop(key string) {
	f.keys = slices.DeleteFunc(f.keys, func(k string) bool { return k == key })
}

func (f *file) tensor(name string) *tensor {
	return &f.tensors[slices.IndexFunc(f.tensors, func(t tensor) bool { return t.name == name })]
}

func (f *file) bytes() []byte {
	b := bytes.NewBuffer(f.header())
	for _, t := range f.tensors {
		b.Write(t.data)
		pad(b)
	}
	return b.Bytes()
}

func pad(b *bytes.Buffer) { b.Write(make([]byte, (32-b.Len()%32)%32)) }

// header is all that comes before the tensors' data.
func (f *file) header() []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	str := func(s string) { put(uint64(len(s))); b.WriteString(s) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(len(f.tensors)))
	put(uint64(len(f.keys)))
	for _, k := range f.keys {
		str(k)
		switch v := f.values[k].(type) {
		case uint32:
			put(uint32(4))
			put(v)
		case float32:
			put(uint32(6))
			put(v)
		case string:
			put(uint32(8))
			str(v)
		case []string:
			put([]uint32{9, 8})
			put(uint64(len(v)))
			for _, s := range v {
				str(s)
			}
		case []int32:
			put([]uint32{9, 5})
			put(uint64(len(v)))
			put(v)
		}
	}
	var at uint64
	for _, t := range f.tensors {
		str(t.name)
		put(uint32(len(t.shape)))
		put(t.shape)
		put(uint32(t.typ))
		if t.at > 0 {
			put(t.at)
		} else {
			put(at)
		}
		at += uint64(len(t.data)+31) / 32 * 32
	}
	pad(&b)
	return b.Bytes()
}

func TestSmallModelLoadsAndRuns(t *testing.T) {
	m, err := load(tiny().bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got := m.tokens.encode(nil, "the th"); len(got) != 3 {
		t.Errorf("merges: got %v", got)
	}
	run(t, m)
}

// run takes a few tokens through a model, whatever its weights are.
func run(t *testing.T, m *model) {
	ids := append(m.tokens.beforePrompt(), m.tokens.afterPrompt()...)
	s := newSession(m, 1, len(ids)+4)
	s.read(context.Background(), ids)
	if _, _, err := s.write(context.Background(), 3, newSampler(1, 0.9, 1, ""), func(int32) bool { return true }); err != nil {
		t.Error(err)
	}
}

func TestFileThatDoesNotFitIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(*file)
	}{
		{"another architecture", "architecture", func(f *file) { f.set("general.architecture", "gemma") }},
		{"no measure", "llama.embedding_length", func(f *file) { f.drop("llama.embedding_length") }},
		{"measure of another type", "llama.embedding_length", func(f *file) { f.set("llama.embedding_length", "32") }},
		{"no heads", "head_count", func(f *file) { f.set("llama.attention.head_count", uint32(0)) }},
		{"heads that don't divide", "don't divide", func(f *file) { f.set("llama.attention.head_count", uint32(3)) }},
		{"heads too small", "don't divide", func(f *file) { f.set("llama.attention.head_count", uint32(8)) }},
		{"more keys than heads", "don't divide", func(f *file) { f.set("llama.attention.head_count_kv", uint32(4)) }},
		{"layers beyond reason", "block_count", func(f *file) { f.set("llama.block_count", uint32(1<<31)) }},
		{"one layer too many", "blk.1.attn_norm", func(f *file) { f.set("llama.block_count", uint32(2)) }},
		{"hidden layer of another size", "ffn_gate", func(f *file) { f.set("llama.feed_forward_length", uint32(96)) }},
		{"rotation of part of a head", "rotated", func(f *file) { f.set("llama.rope.dimension_count", uint32(8)) }},
		{"infinite rotation", "freq_base", func(f *file) { f.set("llama.rope.freq_base", float32(math.Inf(1))) }},
		{"no number as epsilon", "epsilon", func(f *file) { f.set("llama.attention.layer_norm_rms_epsilon", float32(math.NaN())) }},
		{"another tokenizer", "tokenizer", func(f *file) { f.set("tokenizer.ggml.model", "llama") }},
		{"no vocabulary", "vocabulary", func(f *file) { f.drop("tokenizer.ggml.tokens") }},
		{"fewer types than tokens", "vocabulary", func(f *file) { f.set("tokenizer.ggml.token_type", []int32{3, 3, 3}) }},
		{"a token twice", "twice", func(f *file) { f.values["tokenizer.ggml.tokens"].([]string)[9] = "!" }},
		{"a token that is no bytes", "stands for no byte", func(f *file) { f.values["tokenizer.ggml.tokens"].([]string)[9] = "\u2603" }},
		{"no end of turn", tokenEnd, func(f *file) { f.values["tokenizer.ggml.tokens"].([]string)[2] = "<end>" }},
		{"merge of unknown tokens", "merge", func(f *file) { f.set("tokenizer.ggml.merges", []string{"t h", "z zz"}) }},
		{"merge of one token", "merge", func(f *file) { f.set("tokenizer.ggml.merges", []string{"th"}) }},
		{"tensor missing", "output_norm", func(f *file) { f.tensor("output_norm.weight").name = "x" }},
		{"tensor of another type", "attn_q", func(f *file) { f.tensor("blk.0.attn_q.weight").typ = gguf.TensorTypeQ8_0 }},
		{"tensor of a type unknown", "attn_q", func(f *file) { f.tensor("blk.0.attn_q.weight").typ = 999 }},
		{"tensor of another shape", "attn_q", func(f *file) { f.tensor("blk.0.attn_q.weight").shape = []uint64{32, 16} }},
		{"tensor with huge shape", "attn_q", func(f *file) { f.tensor("blk.0.attn_q.weight").shape = []uint64{1 << 40, 1 << 40} }},
		{"tensor with one dimension", "ffn_up", func(f *file) { f.tensor("blk.0.ffn_up.weight").shape = []uint64{32 * 64} }},
		{"norm of another length", "ffn_norm", func(f *file) { f.tensor("blk.0.ffn_norm.weight").shape = []uint64{16} }},
		{"tensor behind the end", "beyond the end", func(f *file) { f.tensor("blk.0.ffn_up.weight").at = 1 << 20 }},
		{"tensor at an offset that wraps", "beyond the end", func(f *file) { f.tensor("blk.0.ffn_up.weight").at = math.MaxUint64 - 31 }},
		{"vocabulary and embedding differ", "token_embd", func(f *file) {
			f.values["tokenizer.ggml.tokens"] = f.values["tokenizer.ggml.tokens"].([]string)[:256]
			f.values["tokenizer.ggml.token_type"] = f.values["tokenizer.ggml.token_type"].([]int32)[:256]
			f.drop("tokenizer.ggml.merges")
		}},
		{"alignment beyond reason", "", func(f *file) { f.set("general.alignment", uint32(math.MaxUint32)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := tiny()
			c.spoil(f)
			if m, err := load(f.bytes()); err == nil || !strings.Contains(err.Error(), c.want) || m != nil {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
}

func TestOverlappingTensorsAreRefused(t *testing.T) {
	f := tiny()
	const layers = 1 << 10
	f.set("llama.block_count", uint32(layers))
	first := slices.Clone(f.tensors)
	for i := 1; i < layers; i++ { // all in the place of the vocabulary
		for _, t := range first {
			if part, ok := strings.CutPrefix(t.name, "blk.0."); ok {
				f.tensors = append(f.tensors, tensor{name: fmt.Sprintf("blk.%d.%s", i, part), typ: t.typ, shape: t.shape, at: 32})
			}
		}
	}
	if _, err := load(f.bytes()); err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("got %v", err)
	}
}

func TestCutFileIsRefused(t *testing.T) {
	whole := tiny().bytes()
	for n := 0; n < len(whole)-32; n += 997 {
		if _, err := load(whole[:n]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(whole))
		}
	}
}

// FuzzLoad makes up headers; all data that tensors can have is good, and a short input is far quicker to work on.
func FuzzLoad(f *testing.F) {
	header := tiny().header()
	data := tiny().bytes()[len(header):]
	f.Add(header)
	f.Add(header[:len(header)/2])
	f.Add([]byte("GGUF\x03\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, header []byte) {
		b := bytes.NewBuffer(slices.Clone(header))
		pad(b)
		b.Write(data)
		if m, err := load(b.Bytes()); err == nil {
			run(t, m)
		}
	})
}
