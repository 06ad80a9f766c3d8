package crossencoder

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The budget of a pair: part of the judge's identity.
const (
	maxTokens    = 512 // the whole of [CLS] prompt [SEP] answer [SEP]
	frameTokens  = 3   // [CLS] and two [SEP]
	answerTokens = 256 // what an answer may take of it:
	answerTail   = 64  // its last tokens if it is longer, after its first ones
)

// rules names the way texts are prepared. Change it with every change of this file that can change a token.
const rules = "poq/crossencoder/prepare/1"

// pair is what the network reads: ids, and from which of them on the answer's segment begins.
type pair struct {
	ids    []uint32
	answer int
}

// specialText finds the bracket of a special token that stands in a text.
var specialText = regexp.MustCompile(`\[(CLS|SEP|PAD|UNK|MASK)\]`)

// neutralise drops control and format characters and U+FFFD (and so every byte that is not UTF-8), on which tokenizers differ, puts a
// space behind the bracket of a special token so that it stays text, and trims.
func neutralise(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r >= ' ' && r <= '~' || r == '\t' || r == '\n' || r == '\r':
			return r
		case r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf):
			return -1
		}
		return r
	}, text)
	return strings.TrimSpace(specialText.ReplaceAllString(text, "[ $1]"))
}

// prepare turns two texts into the network's input. It is false if the answer has no text, which scores 0 without being read.
//
// The segments are joined as token ids, not as text, so that nothing an answer says can end its segment.
func (t *tokenizer) prepare(prompt, answer string) (pair, bool) {
	prompt, answer = neutralise(prompt), neutralise(answer)
	if answer == "" {
		return pair{}, false
	}
	a := t.cut(answer, answerTokens-answerTail, answerTail)
	room := maxTokens - frameTokens - len(a)
	p := t.cut(prompt, room/2, room-room/2)

	ids := make([]uint32, 0, frameTokens+len(p)+len(a))
	ids = append(append(append(ids, t.cls), p...), t.sep)
	begin := len(ids)
	ids = append(append(ids, a...), t.sep)
	return pair{ids: ids, answer: begin}, true
}

// cut returns the tokens of text if they are at most head+tail, else at most head from its start and tail from its end, in whole words.
// It reads only as much of text as that takes.
func (t *tokenizer) cut(text string, head, tail int) []uint32 {
	pieces := split(text)
	var front []uint32
	for len(pieces) > 0 && len(front) <= head+tail {
		front = t.encode(front, pieces[0])
		pieces = pieces[1:]
	}
	if len(front) <= head+tail {
		return front
	}

	// The tail comes from what was not read yet, with front before it if that is too little.
	var back []uint32
	for len(pieces) > 0 && len(back) < tail {
		last := len(pieces) - 1
		back = append(t.encode(nil, pieces[last]), back...)
		pieces = pieces[:last]
	}
	if len(back) < tail {
		back = append(slices.Clone(front), back...)
	}
	for head > 0 && t.continues(front[head]) {
		head--
	}
	end := len(back) - tail
	for end < len(back) && t.continues(back[end]) {
		end++
	}
	return append(front[:head:head], back[end:]...)
}

const (
	pieceBytes = 256  // texts are tokenised in pieces of about this size
	wordBytes  = 1024 // what is longer without a place to cut is looked at apart
)

// split cuts text where the tokenizer would, between words, into pieces that can be tokenised one by one. The tokenizer's time grows
// with the square of what it is given, so a long text must not reach it in one piece. A piece longer than pieceBytes+wordBytes is one run
// of characters without a place to cut.
func split(text string) []string {
	var pieces []string
	start, last := 0, 0 // of the piece; the last place to cut
	boundary := func(at int) {
		if at-last > wordBytes && last > start {
			pieces = append(pieces, text[start:last])
			start = last
		}
		if at-start >= pieceBytes {
			pieces = append(pieces, text[start:at])
			start = at
		}
		last = at
	}
	for i, r := range text {
		if separates(r) {
			boundary(i)
			boundary(i + utf8.RuneLen(r))
		}
	}
	boundary(len(text))
	if start < len(text) {
		pieces = append(pieces, text[start:])
	}
	return pieces
}

// separates reports whether BERT's tokenizer never joins r with its neighbours: white space, punctuation, and the ideographs that it
// takes as words.
func separates(r rune) bool {
	switch {
	case r <= ' ', r >= '!' && r <= '/', r >= ':' && r <= '@', r >= '[' && r <= '`', r >= '{' && r <= '~':
		return true
	case r < 0x80:
		return false
	case r >= 0x4e00 && r <= 0x9fff, r >= 0x3400 && r <= 0x4dbf:
		return true
	}
	return unicode.IsPunct(r) || unicode.Is(unicode.Zs, r)
}
