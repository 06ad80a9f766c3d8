package smol

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gomlx/go-huggingface/models/gguf"
)

// tokenizer is a byte-level BPE with the pre-tokenizer that llama.cpp calls "smollm": the one of GPT-2, with each digit alone.
// It is immutable.
type tokenizer struct {
	bytes   []string         // what each token stands for; of a control token, its name
	control map[string]int32 // tokens that structure a conversation, such as <|im_end|>; text never encodes to one of them
	base    [256]int32       // tokens of the single bytes
	merges  map[pair]merge
}

type pair struct{ left, right int32 }

type merge struct {
	rank  int // lower ones first
	token int32
}

const (
	typeControl = 3 // of a token, in GGUF
	maxTokens   = 1 << 20
	// maxWord bounds the bytes that are merged as one word, because merging takes quadratic time. No token of the vocabulary is
	// longer; only a word that is longer itself can come out in other tokens than elsewhere.
	maxWord = 256
)

func newTokenizer(f *gguf.File) (*tokenizer, error) {
	get := func(key string) gguf.Value { kv, _ := f.GetKeyValue("tokenizer.ggml." + key); return kv.Value }
	if m, pre := get("model").String(), get("pre").String(); m != "gpt2" || pre != "smollm" {
		return nil, fmt.Errorf("tokenizer is %q with %q, want \"gpt2\" with \"smollm\"", m, pre)
	}
	names, types := get("tokens").Strings(), get("token_type").Int64s()
	if len(names) == 0 || len(names) > maxTokens || len(types) != len(names) {
		return nil, fmt.Errorf("vocabulary has %d tokens with %d types, want as many types and at most %d", len(names), len(types), maxTokens)
	}
	t := &tokenizer{bytes: make([]string, len(names)), control: map[string]int32{}, merges: map[pair]merge{}}
	ids := make(map[string]int32, len(names))
	letters := byteLetters()
	var b []byte
	for i, name := range names {
		if _, twice := ids[name]; twice {
			return nil, fmt.Errorf("token %q stands twice in the vocabulary", name)
		}
		ids[name] = int32(i)
		if types[i] == typeControl {
			t.control[name], t.bytes[i] = int32(i), name
			continue
		}
		b = b[:0]
		for _, r := range name {
			c, ok := letters[r]
			if !ok {
				return nil, fmt.Errorf("token %q has a letter that stands for no byte", name)
			}
			b = append(b, c)
		}
		t.bytes[i] = string(b)
	}
	for _, name := range []string{tokenStart, tokenEnd} {
		if _, ok := t.control[name]; !ok {
			return nil, fmt.Errorf("control token %s is not in the vocabulary", name)
		}
	}
	for r, c := range letters {
		id, ok := ids[string(r)]
		if !ok {
			id = -1
		}
		t.base[c] = id
	}
	for rank, m := range get("merges").Strings() {
		left, right, ok := strings.Cut(m, " ")
		l, okL := ids[left]
		r, okR := ids[right]
		both, okB := ids[left+right]
		if !ok || !okL || !okR || !okB {
			return nil, fmt.Errorf("merge %q is not of tokens in the vocabulary", m)
		}
		if _, twice := t.merges[pair{l, r}]; !twice {
			t.merges[pair{l, r}] = merge{rank, both}
		}
	}
	return t, nil
}

// byteLetters maps the letters that stand for bytes in a vocabulary of GPT-2's kind: printable ones stand for themselves, the others
// are numbered from 256 on.
func byteLetters() map[rune]byte {
	letters, next := make(map[rune]byte, 256), rune(256)
	for b := range 256 {
		r := rune(b)
		if b <= ' ' || '~' < b && b <= 0xA0 || b == 0xAD {
			r = next
			next++
		}
		letters[r] = byte(b)
	}
	return letters
}

// encode appends the tokens of text. A control token's name in it is text like any other, so a prompt can't forge one.
func (t *tokenizer) encode(ids []int32, text string) []int32 {
	for text != "" {
		n := wordLen(text)
		for word := text[:n]; word != ""; {
			k := min(len(word), maxWord)
			ids = t.merge(ids, word[:k])
			word = word[k:]
		}
		text = text[n:]
	}
	return ids
}

// merge appends the tokens of one word: its bytes, of which the pair with the lowest rank is merged as long as there is one.
// Bytes that the vocabulary lacks are left out.
func (t *tokenizer) merge(ids []int32, word string) []int32 {
	start := len(ids)
	for i := range len(word) {
		if id := t.base[word[i]]; id >= 0 {
			ids = append(ids, id)
		}
	}
	for {
		best, at := merge{}, -1
		for i := start; i+1 < len(ids); i++ {
			if m, ok := t.merges[pair{ids[i], ids[i+1]}]; ok && (at < 0 || m.rank < best.rank) {
				best, at = m, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = best.token
		ids = append(ids[:at+1], ids[at+2:]...)
	}
}

var contractions = []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}

// wordLen is the length of the first word of text, which is not empty, by the pattern
//
//	\p{N} | 's|'t|'re|'ve|'m|'ll|'d | ?\p{L}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
//
// where a number ends the text before it.
func wordLen(text string) int {
	for _, c := range contractions {
		if strings.HasPrefix(text, c) {
			return len(c)
		}
	}
	first, n := utf8.DecodeRuneInString(text)
	kind := kindOf(first)
	if kind == kindNumber {
		return n
	}
	if first == ' ' {
		next, k := utf8.DecodeRuneInString(text[n:])
		if nk := kindOf(next); k > 0 && (nk == kindLetter || nk == kindOther) {
			kind, n = nk, n+k
		}
	}
	last := 0 // where the last rune of the word begins
	for n < len(text) {
		r, k := utf8.DecodeRuneInString(text[n:])
		nk := kindOf(r)
		if nk != kind {
			if kind == kindSpace && nk != kindNumber && last > 0 {
				return last // the last space goes with the word after it
			}
			break
		}
		last, n = n, n+k
	}
	return n
}

type runeKind int

const (
	kindSpace runeKind = iota
	kindLetter
	kindNumber
	kindOther
)

func kindOf(r rune) runeKind {
	switch {
	case unicode.IsLetter(r):
		return kindLetter
	case unicode.IsSpace(r):
		return kindSpace
	case unicode.IsNumber(r):
		return kindNumber
	}
	return kindOther
}

// text is what tokens stand for, joined. It need not be valid UTF-8.
func (t *tokenizer) text(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(t.bytes[id])
	}
	return b.String()
}

func (t *tokenizer) isControl(id int32) bool {
	c, ok := t.control[t.bytes[id]]
	return ok && c == id
}

// endsSentence tells whether a sentence ends after tokens if next comes then. A number with a point does not end one: it may be that
// of the next item in a list.
func (t *tokenizer) endsSentence(tokens []int32, next int32) bool {
	tail, follows := t.text(tokens[max(0, len(tokens)-3):]), t.bytes[next]
	if strings.HasSuffix(tail, "\n") {
		return strings.TrimSpace(tail) != ""
	}
	if len(tail) < 2 || follows == "" || !unicode.IsSpace(rune(follows[0])) {
		return false
	}
	mark, before := tail[len(tail)-1], rune(tail[len(tail)-2])
	return mark == '!' || mark == '?' || mark == '.' && !unicode.IsDigit(before)
}
