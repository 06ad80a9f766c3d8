package smol

import (
	"strings"
)

// The conversation format the model was trained on, ChatML.
const (
	tokenStart = "<|im_start|>"
	tokenEnd   = "<|im_end|>"
)

// system is what the model is told before every prompt. Of ten sentences tried on questions of fact and on passages, with greedy
// answers, this one gave the most right ones. The sentence the model was trained with makes it ramble.
const system = "You are a helpful assistant. Give a short and correct answer."

// beforePrompt is what every conversation begins with.
func (t *tokenizer) beforePrompt() []int32 {
	ids := t.encode([]int32{t.control[tokenStart]}, "system\n"+system)
	ids = t.encode(append(ids, t.control[tokenEnd]), "\n")
	return t.encode(append(ids, t.control[tokenStart]), "user\n")
}

// afterPrompt is what makes the model answer.
func (t *tokenizer) afterPrompt() []int32 {
	ids := t.encode([]int32{t.control[tokenEnd]}, "\n")
	return t.encode(append(ids, t.control[tokenStart]), "assistant\n")
}

// prompt encodes a prompt into at most limit tokens. Of a longer one the middle is cut out, since the question stands at an end.
func (t *tokenizer) prompt(text string, limit int) []int32 {
	text = strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD")
	// Don't spend time on text that can't stay: hardly a token is longer than this.
	if most := limit * 16; len(text) > most {
		text = strings.ToValidUTF8(text[:most/2], "") + strings.ToValidUTF8(text[len(text)-most/2:], "")
	}
	ids := t.encode(nil, text)
	if len(ids) <= limit {
		return ids
	}
	gap := t.encode(nil, "\n...\n")
	head := (limit - len(gap)) / 2
	tail := limit - len(gap) - head
	return append(append(ids[:head:head], gap...), ids[len(ids)-tail:]...)
}
