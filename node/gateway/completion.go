package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"
)

// kind is what sets chat completions and completions apart.
type kind struct {
	prefix, object, chunk string // of ids, and names of objects
	param                 string // the field with the text
	prompt                func(*request) (string, error)
	chat                  bool
}

var (
	chat = kind{"chatcmpl-", "chat.completion", "chat.completion.chunk", "messages", chatPrompt, true}
	text = kind{"cmpl-", "text_completion", "text_completion", "prompt", textPrompt, false}
)

// completion is what a request is answered with.
type completion struct {
	ID, Model string
	Created   int64
	kind      kind
	answers   []string // best first
	usage     usage
	poq       *outcome
}

// envelope is a whole completion or a chunk of one, as JSON.
type envelope struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
	PoQ     *outcome `json:"poq,omitempty"`
}

// choice is one answer, or a piece of it. Chats have Message or Delta, completions Text.
type choice struct {
	Index    int     `json:"index"`
	Message  *said   `json:"message,omitempty"`
	Delta    *said   `json:"delta,omitempty"`
	Text     *string `json:"text,omitempty"`
	LogProbs *string `json:"logprobs"` // always null
	Finish   *string `json:"finish_reason"`
}

// said is a message of the assistant.
type said struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

var stopped = "stop"

func (c *completion) envelope(object string) envelope {
	return envelope{ID: c.ID, Object: object, Created: c.Created, Model: c.Model, Choices: []choice{}}
}

// whole is the completion in one piece.
func (c *completion) whole() envelope {
	e := c.envelope(c.kind.object)
	e.Usage, e.PoQ = &c.usage, c.poq
	for i, a := range c.answers {
		ch := choice{Index: i, Finish: &stopped}
		if c.kind.chat {
			ch.Message = &said{"assistant", &a}
		} else {
			ch.Text = &a
		}
		e.Choices = append(e.Choices, ch)
	}
	return e
}

// pieceBytes is about how much of a text goes into one chunk.
const pieceBytes = 256

// stream sends the completion in chunks as server-sent events. It stops when the client does not take them.
func (c *completion) stream(w http.ResponseWriter, withUsage bool) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	send := func(ch choice, o *outcome) error {
		e := c.envelope(c.kind.chunk)
		e.Choices, e.PoQ = append(e.Choices, ch), o
		return event(w, e)
	}
	for i, a := range c.answers {
		role := "assistant"
		for len(a) > 0 {
			n := pieceEnd(a)
			piece := a[:n]
			a = a[n:]
			if send(c.piece(i, role, &piece), nil) != nil || flush() != nil {
				return
			}
			role = ""
		}
		last := c.piece(i, role, nil)
		last.Finish = &stopped
		var o *outcome // in the last chunk with a choice: many clients read no other
		if i == len(c.answers)-1 {
			o = c.poq
		}
		if send(last, o) != nil {
			return
		}
	}
	if withUsage {
		end := c.envelope(c.kind.chunk)
		end.Usage = &c.usage
		if event(w, end) != nil {
			return
		}
	}
	if _, err := io.WriteString(w, "data: [DONE]\n\n"); err == nil {
		_ = flush()
	}
}

// piece is a piece of an answer as a choice; text is nil at the end.
func (c *completion) piece(i int, role string, text *string) choice {
	if c.kind.chat {
		return choice{Index: i, Delta: &said{role, text}}
	}
	if text == nil {
		text = new(string)
	}
	return choice{Index: i, Text: text}
}

// pieceEnd is where the first piece of a text ends: never within a character.
func pieceEnd(text string) int {
	if len(text) <= pieceBytes {
		return len(text)
	}
	n := pieceBytes
	for n > pieceBytes-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// event writes a server-sent event. JSON has no line breaks, so it takes one line.
func event(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(w, "data: %s\n\n", data)
	}
	return err
}
