package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
)

// request is the body of a request: what is read of it. Other fields are ignored.
type request struct {
	Model         string    `json:"model"`
	Messages      []message `json:"messages"` // of chat completions
	Prompt        texts     `json:"prompt"`   // of completions
	N             *int      `json:"n"`
	MaxTokens     *int      `json:"max_tokens"`
	MaxCompletion *int      `json:"max_completion_tokens"` // the same, by its newer name
	Temperature   *float64  `json:"temperature"`
	TopP          *float64  `json:"top_p"`
	Seed          *int64    `json:"seed"`
	Stop          texts     `json:"stop"`
	Stream        bool      `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	PoQ struct {
		Fee             ledger.Amount `json:"fee"` // µ-credits
		MaxAnswers      int           `json:"max_answers"`
		AnswerTimeoutMS int64         `json:"answer_timeout_ms"`
		ScoreTimeoutMS  int64         `json:"score_timeout_ms"`
		Stream          string        `json:"stream"`
	} `json:"poq"`

	wishes  llm.Options // for the engines
	ignored []string    // fields that were given and have no effect
}

// message is one of a chat.
type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a text, or parts of one.
type content struct{ parts []part }

type part struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// UnmarshalJSON implements [json.Unmarshaler].
func (c *content) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, &c.parts)
	}
	c.parts = []part{{Type: "text"}}
	return json.Unmarshal(data, &c.parts[0].Text)
}

// texts is a list of strings, or one string.
type texts []string

// UnmarshalJSON implements [json.Unmarshaler].
func (t *texts) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*t = make(texts, 1)
		return json.Unmarshal(data, &(*t)[0])
	}
	return json.Unmarshal(data, (*[]string)(t))
}

// withoutEffect are fields that clients send out of habit: an order does not carry them to the workers.
var withoutEffect = []string{"best_of", "frequency_penalty", "logit_bias", "presence_penalty", "reasoning_effort"}

// refused are fields that change what an answer is, so that an answer without them would be a wrong one. The values listed are
// those that ask for nothing.
var refused = map[string][]string{
	"audio":           {`null`},
	"echo":            {`null`, `false`},
	"function_call":   {`null`, `"none"`, `"auto"`},
	"functions":       {`null`, `[]`},
	"logprobs":        {`null`, `false`},
	"modalities":      {`null`, `["text"]`},
	"response_format": {`null`, `{"type":"text"}`},
	"suffix":          {`null`, `""`},
	"tool_choice":     {`null`, `"none"`, `"auto"`},
	"tools":           {`null`, `[]`},
}

// parse reads a body and checks what does not depend on the kind of request.
func parse(body []byte) (*request, error) {
	q := new(request)
	var fields map[string]json.RawMessage
	err := json.Unmarshal(body, &fields)
	if err == nil {
		err = json.Unmarshal(body, q)
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return nil, badRequest(wrong.Field, "", "%s can't be a %s", cmp.Or(wrong.Field, "the request"), wrong.Value)
	}
	if err != nil {
		return nil, badRequest("", "", "the request is not JSON: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		var v bytes.Buffer
		if raw, given := fields[name]; !given || json.Compact(&v, raw) == nil && slices.Contains(refused[name], v.String()) {
			continue
		}
		return nil, badRequest(name, "unsupported_parameter", "%s is not supported: the network answers in plain text, and knows no tools", name)
	}
	for _, name := range withoutEffect {
		if raw, given := fields[name]; given && string(raw) != "null" {
			q.ignored = append(q.ignored, name)
		}
	}
	switch {
	case q.Model == "":
		return nil, badRequest("model", "", "the request names no model: use %s", Model)
	case q.N != nil && (*q.N < 1 || *q.N > ledger.MaxAnswers):
		return nil, badRequest("n", "", "n is %d, want 1 to %d", *q.N, ledger.MaxAnswers)
	case q.PoQ.Stream != "" && q.PoQ.Stream != "settled" && !q.fastest():
		return nil, badRequest("poq.stream", "unsupported_value", "poq.stream is %q, want \"settled\" or \"fastest\"", q.PoQ.Stream)
	case q.fastest() && !q.Stream:
		return nil, badRequest("poq.stream", "unsupported_value", "poq.stream is \"fastest\": that needs \"stream\": true")
	case q.fastest() && q.choices() != 1:
		return nil, badRequest("n", "unsupported_value", "n is %d: the fastest answer is one; ask with poq.stream \"settled\" for several", q.choices())
	}
	for name, ms := range map[string]int64{"poq.answer_timeout_ms": q.PoQ.AnswerTimeoutMS, "poq.score_timeout_ms": q.PoQ.ScoreTimeoutMS} {
		if ms < 0 || ms > ledger.MaxDeadline.Milliseconds() {
			return nil, badRequest(name, "", "%s is %d, want %d to %d", name, ms, ledger.MinDeadline.Milliseconds(), ledger.MaxDeadline.Milliseconds())
		}
	}
	return q, q.wish()
}

// wish puts together what the client wishes of the engines.
func (q *request) wish() error {
	q.wishes = llm.Options{Temperature: q.Temperature, TopP: q.TopP, Seed: q.Seed, Stop: q.Stop}
	if q.Model != Model {
		q.wishes.Model = q.Model
	}
	tokens, most := "max_completion_tokens", q.MaxCompletion
	if most == nil {
		tokens, most = "max_tokens", q.MaxTokens
	}
	if most != nil {
		if *most < 1 { // else it would stand for none
			return badRequest(tokens, "", "%s is %d, want 1 or more", tokens, *most)
		}
		q.wishes.MaxTokens = *most
	}
	var bad *llm.OptionError
	if errors.As(q.wishes.Check(), &bad) {
		name := bad.Option
		if name == "max_tokens" {
			name = tokens
		}
		return badRequest(name, "", "%s %s", name, bad.Reason)
	}
	return nil
}

// fastest says whether the client wants the text that begins first.
func (q *request) fastest() bool { return q.PoQ.Stream == "fastest" }

// choices is how many answers the client wants.
func (q *request) choices() int {
	if q.N == nil {
		return 1
	}
	return *q.N
}

// options are the terms of the order. Whoever wants several answers asks for as many; else the node knows how many are worth
// waiting for.
func (q *request) options() node.AskOptions {
	o := node.AskOptions{
		Listen: true,
		Fee:    q.PoQ.Fee, MaxAnswers: q.PoQ.MaxAnswers,
		AnswerTimeout: time.Duration(q.PoQ.AnswerTimeoutMS) * time.Millisecond,
		ScoreTimeout:  time.Duration(q.PoQ.ScoreTimeoutMS) * time.Millisecond,
		Options:       q.wishes,
	}
	if n := q.choices(); n > 1 && o.MaxAnswers == 0 {
		o.MaxAnswers = n
	}
	return o
}

// Names of turns in a rendered conversation.
var speakers = map[string]string{"user": "User", "assistant": "Assistant"}

// render makes one prompt of a chat. A single message of the user is the prompt as it stands. Else system messages come first, in
// their order, then the turns, all apart by an empty line. Where there is more than one turn, each begins with "User: " or
// "Assistant: ". The last turn is the user's. So the judge, which reads beginning and end of what is long, sees what the answers
// must obey and what was asked.
func render(messages []message) (string, error) {
	var rules, turns, who []string
	for i, m := range messages {
		text, err := m.text(i)
		if err != nil {
			return "", err
		}
		switch m.Role {
		case "system", "developer":
			rules = append(rules, text)
		case "user", "assistant":
			turns, who = append(turns, text), append(who, m.Role)
		case "tool", "function":
			return "", badRequest(fmt.Sprintf("messages[%d].role", i), "unsupported_value", "messages of tools are not supported")
		default:
			return "", badRequest(fmt.Sprintf("messages[%d].role", i), "", "role %q, want system, developer, user or assistant", m.Role)
		}
	}
	if len(turns) == 0 || who[len(who)-1] != "user" {
		return "", badRequest("messages", "", "the last message must be one of the user")
	}
	if strings.TrimSpace(turns[len(turns)-1]) == "" {
		return "", badRequest("messages", "", "the last message is empty")
	}
	if len(turns) > 1 {
		for i := range turns {
			turns[i] = speakers[who[i]] + ": " + turns[i]
		}
	}
	return strings.Join(append(rules, turns...), "\n\n"), nil
}

// text joins the parts of a message.
func (m message) text(i int) (string, error) {
	var parts []string
	for j, p := range m.Content.parts {
		if p.Type != "text" {
			return "", badRequest(fmt.Sprintf("messages[%d].content[%d].type", i, j), "unsupported_value", "content of type %q is not supported: the network reads text alone", p.Type)
		}
		parts = append(parts, p.Text)
	}
	return strings.Join(parts, "\n\n"), nil
}

// chatPrompt is the prompt of a chat completion.
func chatPrompt(q *request) (string, error) { return render(q.Messages) }

// textPrompt is the prompt of a completion.
func textPrompt(q *request) (string, error) {
	switch {
	case len(q.Prompt) != 1:
		return "", badRequest("prompt", "", "%d prompts, want one text", len(q.Prompt))
	case strings.TrimSpace(q.Prompt[0]) == "":
		return "", badRequest("prompt", "", "the prompt is empty")
	}
	return q.Prompt[0], nil
}

// apiError is an error in the shape that clients of OpenAI know.
type apiError struct {
	status  int
	ordered bool // a client that tries again pays again

	Message string   `json:"message"`
	Type    string   `json:"type"`
	Param   *string  `json:"param"`
	Code    *string  `json:"code"`
	PoQ     *outcome `json:"poq,omitempty"`
}

// Error returns the message.
func (e *apiError) Error() string { return e.Message }

func asAPIError(err error) *apiError {
	var e *apiError
	if !errors.As(err, &e) {
		e = newError(http.StatusInternalServerError, "server_error", "", "%v", err)
	}
	return e
}

func newError(status int, kind, code, format string, a ...any) *apiError {
	e := &apiError{status: status, Type: kind, Message: fmt.Sprintf(format, a...)}
	if code != "" {
		e.Code = &code
	}
	return e
}

func badRequest(param, code, format string, a ...any) *apiError {
	e := newError(http.StatusBadRequest, "invalid_request_error", code, format, a...)
	if param != "" {
		e.Param = &param
	}
	return e
}

func noModel(err *node.ModelError) error {
	e := badRequest("model", "model_not_found", "%v; or use %s", err, Model)
	e.status = http.StatusNotFound
	return e
}
