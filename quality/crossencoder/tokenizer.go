package crossencoder

import (
	"fmt"

	"github.com/gomlx/go-huggingface/tokenizers/api"
	"github.com/gomlx/go-huggingface/tokenizers/hftokenizer"
)

// tokenizer is hugot's WordPiece tokenizer. It holds no state between calls.
type tokenizer struct {
	hf            *hftokenizer.Tokenizer
	cls, sep, unk uint32
	continuing    []bool // by id: the token goes on a word
}

func newTokenizer(content []byte) (*tokenizer, error) {
	hf, err := hftokenizer.NewFromContent(nil, content)
	if err != nil {
		return nil, err
	}
	if err := hf.With(api.EncodeOptions{}); err != nil { // no special tokens: prepare adds them
		return nil, err
	}
	if kind := hf.GetTokenizerType(); kind != "WordPiece" {
		return nil, fmt.Errorf("its model is %q, want WordPiece", kind)
	}
	t := &tokenizer{hf: hf}
	vocabulary := hf.GetVocab()
	for token, id := range map[string]*uint32{"[CLS]": &t.cls, "[SEP]": &t.sep, "[UNK]": &t.unk} {
		n, ok := vocabulary[token]
		if !ok {
			return nil, fmt.Errorf("it has no token %s", token)
		}
		*id = uint32(n)
	}
	for token, id := range vocabulary {
		if id < 0 || id > 1<<24 {
			return nil, fmt.Errorf("token %q has id %d", token, id)
		}
		if id >= len(t.continuing) {
			t.continuing = append(t.continuing, make([]bool, id+1-len(t.continuing))...)
		}
		t.continuing[id] = len(token) > 2 && token[:2] == "##"
	}
	return t, nil
}

// continues reports whether token id goes on the word of the token before it.
func (t *tokenizer) continues(id uint32) bool { return t.continuing[id] }

// encode appends the tokens of one piece of [split].
func (t *tokenizer) encode(ids []uint32, piece string) []uint32 {
	if len(piece) <= pieceBytes+wordBytes {
		return t.append(ids, piece)
	}
	// One run without a place to cut. Normalising may shorten it (accents) or show places to cut (a sign whose accent was its difference
	// to punctuation); what is still long after that is one word, and the tokenizer knows no word of more than 100 bytes.
	for _, piece := range split(t.hf.Normalize(piece)) {
		if len(piece) > pieceBytes+wordBytes {
			ids = append(ids, t.unk)
		} else {
			ids = t.append(ids, piece)
		}
	}
	return ids
}

func (t *tokenizer) append(ids []uint32, text string) []uint32 {
	for _, id := range t.hf.Encode(text) {
		if id < 0 || id >= len(t.continuing) { // a file with two ids for one token
			id = int(t.unk)
		}
		ids = append(ids, uint32(id))
	}
	return ids
}
