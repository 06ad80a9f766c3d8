package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
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
	answers   []answer // best first
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

// answer is a text as the client gets it, and what its worker told of it.
type answer struct {
	text string
	cut  bool // at a text to stop at
	told node.Told
}

func newAnswer(whole string, told node.Told, q *request) answer {
	text := llm.Cut(whole, q.Stop)
	return answer{text, len(text) < len(whole), told}
}

// finish says why the text ends.
func (a answer) finish() string {
	if a.told.Stop == llm.StopLength && !a.cut {
		return "length"
	}
	return "stop"
}

func (c *completion) envelope(object string) envelope {
	return envelope{ID: c.ID, Object: object, Created: c.Created, Model: c.Model, Choices: []choice{}}
}

// whole is the completion in one piece.
func (c *completion) whole() envelope {
	e := c.envelope(c.kind.object)
	e.Usage, e.PoQ = &c.usage, c.poq
	for i, a := range c.answers {
		ch := choice{Index: i, Finish: new(a.finish())}
		if c.kind.chat {
			ch.Message = &said{"assistant", &a.text}
		} else {
			ch.Text = &a.text
		}
		e.Choices = append(e.Choices, ch)
	}
	return e
}

// pieceBytes is about how much of a text goes into one chunk.
const pieceBytes = 256

// events sends a completion in chunks, as server-sent events. Once the client does not take them nothing more is sent.
type events struct {
	completion
	w     http.ResponseWriter
	begun bool         // the header is sent
	roles map[int]bool // choices that have their role
	err   error
}

// send sends an event. Who does not take it for long loses the stream.
func (s *events) send(v any) {
	if s.err != nil {
		return
	}
	_ = http.NewResponseController(s.w).SetWriteDeadline(time.Now().Add(writeTime)) // a writer that has no deadlines is one of a test
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("Cache-Control", "no-cache")
		s.w.WriteHeader(http.StatusOK)
	}
	s.err = event(s.w, v)
}

func (s *events) flush() {
	if s.err == nil {
		s.err = http.NewResponseController(s.w).Flush()
	}
}

func (s *events) choice(ch choice, o *outcome) {
	e := s.envelope(s.kind.chunk)
	e.Choices, e.PoQ = append(e.Choices, ch), o
	s.send(e)
}

// text sends a part of an answer.
func (s *events) text(i int, text string) {
	for len(text) > 0 && s.err == nil {
		n := pieceEnd(text)
		role := ""
		if !s.roles[i] {
			s.roles[i], role = true, "assistant"
		}
		s.choice(s.piece(i, role, new(text[:n])), nil)
		s.flush()
		text = text[n:]
	}
}

// end ends an answer.
func (s *events) end(i int, finish string, o *outcome) {
	last := s.piece(i, "", nil)
	last.Finish = &finish
	s.choice(last, o)
}

// done ends the stream.
func (s *events) done(withUsage bool) {
	if withUsage {
		end := s.envelope(s.kind.chunk)
		end.Usage = &s.usage
		s.send(end)
	}
	if s.err == nil {
		_, s.err = io.WriteString(s.w, "data: [DONE]\n\n")
	}
	s.flush()
}

// fail ends the stream with an error.
func (s *events) fail(err error) {
	s.send(struct {
		Error *apiError `json:"error"`
	}{asAPIError(err)})
	s.flush()
}

// stream sends a completion that is whole.
func (s *events) stream(withUsage bool) {
	for i, a := range s.answers {
		s.text(i, a.text)
		var o *outcome // in the last chunk with a choice: many clients read no other
		if i == len(s.answers)-1 {
			o = s.poq
		}
		s.end(i, a.finish(), o)
	}
	s.done(withUsage)
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
