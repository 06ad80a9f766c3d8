package openai

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/poqmesh/poq/llm"
)

// completion is a whole answer, or an event of a streamed one.
type completion struct {
	Choices []struct {
		Delta        message `json:"delta"`
		Message      message `json:"message"`
		FinishReason string  `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// readAnswer reads the body of a response with status 200: events, or one document from a server that does not stream.
// Words makes what the server says fit for an error.
func readAnswer(resp *http.Response, alive func(), words func(string) string, out llm.TextStream) (*llm.Answer, error) {
	r := &answerReader{text: out, words: words}
	body := &boundedReader{r: resp.Body, left: maxStreamBytes, alive: alive}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var err error
	if kind == "application/json" {
		err = r.document(body)
	} else {
		err = r.events(body)
	}
	if err != nil {
		return nil, err
	}
	if r.filtered {
		return nil, &llm.DeclineError{Reason: "the server's content filter refused"}
	}
	r.answer.Text = r.text.Text()
	if r.answer.Text == "" {
		return nil, &llm.DeclineError{Reason: "the model had nothing to say"}
	}
	return &r.answer, nil
}

type answerReader struct {
	answer   llm.Answer
	text     llm.TextStream
	size     int // bytes of text, with what the stream holds back
	filtered bool
	stopped  bool // nothing that comes is of use
	words    func(string) string
}

func (r *answerReader) document(body io.Reader) error {
	var c completion
	if err := json.NewDecoder(body).Decode(&c); err != nil {
		return fmt.Errorf("not the JSON the protocol asks for: %w", err)
	}
	if err := r.add(&c); err != nil {
		return err
	}
	if r.answer.Stop == "" {
		r.answer.Stop = llm.StopEnd
	}
	return nil
}

// events reads server-sent events up to the one that ends the answer.
func (r *answerReader) events(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4<<10), maxTextBytes*2)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue // comments that keep the connection open, names of events, empty lines
		}
		data = strings.TrimSpace(data)
		if data == "[DONE]" {
			if r.answer.Stop == "" {
				r.answer.Stop = llm.StopEnd
			}
			return nil
		}
		var c completion
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			return fmt.Errorf("an event is not the JSON the protocol asks for: %w", err)
		}
		if err := r.add(&c); err != nil || r.stopped {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the answer breaks off: %w", err)
	}
	if r.answer.Stop == "" { // some servers leave [DONE] out
		return fmt.Errorf("the answer breaks off: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

func (r *answerReader) add(c *completion) error {
	if len(c.Error) > 0 && string(c.Error) != "null" {
		return fmt.Errorf("the server fails while answering: %s", r.words(string(c.Error)))
	}
	if c.Usage != nil {
		r.answer.PromptTokens, r.answer.AnswerTokens = c.Usage.PromptTokens, c.Usage.CompletionTokens
	}
	if len(c.Choices) == 0 {
		return nil
	}
	choice := c.Choices[0]
	text := choice.Delta.Content + choice.Message.Content
	if r.size += len(text); r.size > maxTextBytes {
		return errTooLong
	}
	if !r.text.Write(text) { // the server goes on where it was asked to stop
		r.answer.Stop, r.stopped = llm.StopEnd, true
		return nil
	}
	switch choice.FinishReason {
	case "":
	case "length":
		r.answer.Stop = llm.StopLength
	case "content_filter":
		r.answer.Stop, r.filtered = llm.StopEnd, true
	default:
		r.answer.Stop = llm.StopEnd
	}
	return nil
}

var errTooLong = errors.New("the answer is longer than allowed: 256 KB of text, 16 MB as sent")

// boundedReader fails after so many bytes, and tells of each read that the server lives.
type boundedReader struct {
	r     io.Reader
	left  int
	alive func()
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errTooLong
	}
	if n > 0 {
		b.alive()
	}
	return n, err
}
