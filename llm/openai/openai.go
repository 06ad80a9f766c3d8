package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/poqmesh/poq/llm"
)

const (
	// DefaultMaxTokens is the length of an answer unless asked otherwise.
	DefaultMaxTokens = 256

	maxTextBytes   = 256 << 10 // of an answer
	maxStreamBytes = 16 << 20  // of a response in all: each token comes in some 200 bytes of JSON
	maxErrorBytes  = 16 << 10  // of a response that is an error
	maxModelsBytes = 4 << 20   // of the list of models
	maxAttempts    = 4
)

// Options say which server and model to ask.
type Options struct {
	// BaseURL is what the protocol's paths are added to: "http://127.0.0.1:11434/v1".
	BaseURL string

	// Model is the name the server knows it by. If it is empty and the server has just one, that one is used.
	Model string

	// KeyEnv is the name of the environment variable that holds the key; empty if the server wants none.
	KeyEnv string

	// MaxTokens is the length of an answer where the request sets none; zero stands for [DefaultMaxTokens].
	MaxTokens int

	// Timeout is how long the server may send nothing before it is given up; zero stands for 2 minutes, since models that must be
	// loaded first take long.
	Timeout time.Duration
}

// Engine asks a server. Make one with [New]. It is safe for concurrent use and keeps no connection open between requests.
type Engine struct {
	base, keyEnv, key string
	maxTokens         int
	http              *http.Client
	limits            limits

	mu    sync.Mutex
	model string // as configured, or found on the server
}

var _ llm.Engine = (*Engine)(nil)

// limits are the times the client waits.
type limits struct {
	connect  time.Duration // for a connection
	silence  time.Duration // for the first byte, and then for each next one
	backoff  time.Duration // before the second attempt; doubled for each further one
	patience time.Duration // the longest wait a server may ask for
}

var defaultLimits = limits{connect: 5 * time.Second, silence: 2 * time.Minute, backoff: 500 * time.Millisecond, patience: 30 * time.Second}

// New returns a client. It asks the server nothing yet, and fails if the options make no sense or the key is not in the environment.
func New(o Options) (*Engine, error) {
	u, err := url.Parse(o.BaseURL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("server address %q is no URL like http://127.0.0.1:11434/v1", o.BaseURL)
	case u.User != nil:
		return nil, errors.New("the server address has a password in it: put the key into an environment variable and name that")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("server address %q has a query: leave it out", o.BaseURL)
	case o.Timeout < 0:
		return nil, fmt.Errorf("timeout is %s, want more than nothing", o.Timeout)
	case o.MaxTokens < 0:
		return nil, fmt.Errorf("max-tokens is %d, want 1 or more", o.MaxTokens)
	}
	e := &Engine{base: strings.TrimRight(o.BaseURL, "/"), model: o.Model, keyEnv: o.KeyEnv, maxTokens: o.MaxTokens, limits: defaultLimits}
	if e.maxTokens == 0 {
		e.maxTokens = DefaultMaxTokens
	}
	if o.Timeout > 0 {
		e.limits.silence = o.Timeout
	}
	if o.KeyEnv != "" {
		if e.key = strings.TrimSpace(os.Getenv(o.KeyEnv)); e.key == "" {
			return nil, fmt.Errorf("environment variable %s holds no key: set it to the key of %s", o.KeyEnv, e.base)
		}
	}
	e.http = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: e.limits.connect}).DialContext,
			TLSHandshakeTimeout: e.limits.connect,
			ForceAttemptHTTP2:   true,
			// An answer takes far longer than a connection, so none is kept, and none is left to close.
			DisableKeepAlives: true,
		},
		// A key must not follow a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return e, nil
}

// Name returns "openai".
func (*Engine) Name() string { return "openai" }

// Models returns the model in use; nothing, if none was named and no request has found one yet.
func (e *Engine) Models() []string {
	if m := e.current(); m != "" {
		return []string{m}
	}
	return nil
}

// FindModels asks the server for its model if none was named.
func (e *Engine) FindModels(ctx context.Context) error {
	if _, err := e.choose(ctx); err != nil {
		return fmt.Errorf("openai: %w", err)
	}
	return nil
}

func (e *Engine) current() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.model
}

// ServerModels asks the server which models it has.
func (e *Engine) ServerModels(ctx context.Context) ([]string, error) {
	list, _, err := e.list(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, m := range list.Data {
		if m.ID != "" {
			ids = append(ids, m.ID)
		}
	}
	return ids, nil
}

// modelList is what a server answers to GET /models.
type modelList struct {
	Object string `json:"object"`
	Data   []struct {
		ID    string `json:"id"`
		Owner string `json:"owned_by"`
	} `json:"data"`
}

// list asks the server for its models, and returns the header of its response too.
func (e *Engine) list(ctx context.Context) (list modelList, header http.Header, err error) {
	ctx, alive, done := e.guard(ctx)
	defer done()
	resp, err := e.do(ctx, http.MethodGet, "/models", nil)
	if err != nil {
		return list, nil, err
	}
	alive()
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return list, nil, e.statusError(resp)
	}
	if err := decodeBounded(resp, &list); err != nil {
		return list, nil, e.readError(ctx, fmt.Errorf("%s/models: not the list of models the protocol asks for: %w", e.base, err))
	}
	return list, resp.Header, nil
}

// decodeBounded reads one JSON document of a bounded size, and closes the body.
func decodeBounded(resp *http.Response, into any) error {
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, maxModelsBytes)).Decode(into)
}

// choose returns the model to ask.
func (e *Engine) choose(ctx context.Context) (string, error) {
	if m := e.current(); m != "" {
		return m, nil
	}
	have, err := e.ServerModels(ctx)
	if err != nil {
		return "", fmt.Errorf("no model named, and asking for them failed: %w", err)
	}
	if len(have) != 1 {
		return "", fmt.Errorf("no model named: %s, choose one with model=NAME", inventory(have))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.model = have[0]
	return e.model, nil
}

func inventory(models []string) string {
	const most = 12
	switch n := len(models); {
	case n == 0:
		return "server has none"
	case n > most:
		return fmt.Sprintf("server has %s and %d more", strings.Join(models[:most], ", "), n-most)
	}
	return "server has " + strings.Join(models, ", ")
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatRequest struct {
	Model         string          `json:"model"`
	Messages      []message       `json:"messages"`
	MaxTokens     int             `json:"max_tokens"`
	Temperature   *float64        `json:"temperature,omitempty"`
	TopP          *float64        `json:"top_p,omitempty"`
	Seed          *int64          `json:"seed,omitempty"`
	Stop          []string        `json:"stop,omitempty"`
	Stream        bool            `json:"stream"`
	StreamOptions map[string]bool `json:"stream_options"`
}

// Generate implements [llm.Engine]. It declines an empty prompt, one that the server finds too long, and one its filter refuses.
func (e *Engine) Generate(ctx context.Context, req llm.Request, emit func(string)) (*llm.Answer, error) {
	if strings.TrimSpace(req.Prompt) == "" {
		return nil, &llm.DeclineError{Reason: "the prompt is empty"}
	}
	answer, err := e.generate(ctx, req, emit)
	if decline := (*llm.DeclineError)(nil); err != nil && !errors.As(err, &decline) {
		return nil, fmt.Errorf("openai: %w", err)
	}
	return answer, err
}

func (e *Engine) generate(ctx context.Context, req llm.Request, emit func(string)) (*llm.Answer, error) {
	model, err := e.choose(ctx)
	if err != nil {
		return nil, err
	}
	most := e.maxTokens
	if req.MaxTokens > 0 {
		most = req.MaxTokens
	}
	body, err := json.Marshal(chatRequest{
		Model: model, Messages: []message{{"user", req.Prompt}}, MaxTokens: most,
		Temperature: req.Temperature, TopP: likeliest(req.TopP), Seed: req.Seed, Stop: req.Stop, Stream: true, StreamOptions: map[string]bool{"include_usage": true},
	})
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		answer, wait, err := e.attempt(ctx, model, body, llm.TextStream{Emit: emit, Stop: req.Stop})
		if wait < 0 || attempt == maxAttempts {
			return answer, err
		}
		if wait == 0 {
			wait = e.limits.backoff << (attempt - 1)
		}
		if wait > e.limits.patience {
			return nil, fmt.Errorf("%w; it asks to come back in %s", err, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped while waiting to try again: %w; last: %w", context.Cause(ctx), err)
		}
	}
}

// likeliest is a top_p that all servers take: some refuse 0, of which the least that is not zero means the same.
func likeliest(topP *float64) *float64 {
	if topP != nil && *topP == 0 {
		return new(0.001)
	}
	return topP
}

// attempt asks once. If it is worth another try, wait is how long to wait first, zero if the server did not say; else negative.
func (e *Engine) attempt(ctx context.Context, model string, body []byte, out llm.TextStream) (a *llm.Answer, wait time.Duration, err error) {
	ctx, alive, done := e.guard(ctx)
	defer done()
	resp, err := e.do(ctx, http.MethodPost, "/chat/completions", body)
	if err != nil {
		return nil, -1, err
	}
	defer resp.Body.Close()
	alive()
	switch resp.StatusCode {
	case http.StatusOK:
		a, err := readAnswer(resp, alive, e.words, out)
		if err != nil {
			return nil, -1, e.readError(ctx, err)
		}
		a.Model = model
		return a, -1, nil
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return nil, retryAfter(resp.Header.Get("Retry-After"), time.Now()), e.statusError(resp)
	}
	failure := e.statusError(resp)
	switch {
	case failure.about("context_length", "context length", "context size", "maximum context"):
		return nil, -1, &llm.DeclineError{Reason: "the prompt is too long for " + model}
	case failure.Status == http.StatusNotFound || failure.about("model_not_found"):
		if have, err := e.ServerModels(ctx); err == nil && !slices.Contains(have, model) {
			return nil, -1, fmt.Errorf("model %s not found: %s", model, inventory(have))
		}
	}
	return nil, -1, failure
}

var errSilent = errors.New("silent")

// guard returns a context that also ends if alive is not called within the allowed silence.
func (e *Engine) guard(parent context.Context) (ctx context.Context, alive, done func()) {
	ctx, cancel := context.WithCancelCause(parent)
	timer := time.AfterFunc(e.limits.silence, func() { cancel(errSilent) })
	return ctx, func() { timer.Reset(e.limits.silence) }, func() { timer.Stop(); cancel(nil) }
}

func (e *Engine) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, e.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "text/event-stream, application/json")
	}
	if e.key != "" {
		req.Header.Set("Authorization", "Bearer "+e.key)
	}
	resp, err := e.http.Do(req)
	if err == nil {
		return resp, nil
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil {
		return nil, fmt.Errorf("cannot reach %s: is the server running? (%w)", e.base, op.Err)
	}
	return nil, e.readError(ctx, err)
}

// readError says why a request or response broke off.
func (e *Engine) readError(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, errSilent):
		return fmt.Errorf("%s has sent nothing for %s", e.base, e.limits.silence)
	default:
		return fmt.Errorf("stopped: %w", cause)
	}
}

// StatusError is a response of the server that is no answer.
type StatusError struct {
	// Status is the one of HTTP.
	Status int
	// Message is the server's, or the advice that fits the status.
	Message string

	code, url string
	shaped    bool // it came in the protocol's form
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answers %d %s: %s", e.url, e.Status, http.StatusText(e.Status), e.Message)
}

// OfPrompt says whether the server found fault with the prompt only, and may be well.
func (e *StatusError) OfPrompt() bool {
	return e.Status == http.StatusBadRequest || e.Status == http.StatusRequestEntityTooLarge || e.Status == http.StatusUnprocessableEntity
}

func (e *StatusError) about(words ...string) bool {
	for _, w := range words {
		if e.code == w || strings.Contains(strings.ToLower(e.code+" "+e.Message), w) {
			return true
		}
	}
	return false
}

func (e *Engine) statusError(resp *http.Response) *StatusError {
	s := &StatusError{Status: resp.StatusCode, url: resp.Request.URL.Redacted()}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	var doc struct {
		Error json.RawMessage `json:"error"`
	}
	var object struct {
		Message string `json:"message"`
		Code    any    `json:"code"`
	}
	if s.shaped = json.Unmarshal(b, &doc) == nil && len(doc.Error) > 0; s.shaped {
		if json.Unmarshal(doc.Error, &object) == nil {
			s.Message = object.Message
			s.code, _ = object.Code.(string)
		} else {
			_ = json.Unmarshal(doc.Error, &s.Message) // some servers send a bare string
		}
	} else {
		s.Message = string(b)
	}
	s.Message = e.words(s.Message)
	switch {
	case s.Status == http.StatusUnauthorized || s.Status == http.StatusForbidden:
		if e.keyEnv == "" {
			s.Message = "it wants a key; name the variable that holds it with key-env=NAME"
		} else {
			s.Message = "it refuses the key in " + e.keyEnv
		}
	case s.Status >= 300 && s.Status < 400:
		s.Message = "it has moved; use the address it names: " + e.words(resp.Header.Get("Location"))
	case s.Message == "":
		s.Message = "no reason given"
	}
	return s
}

// words makes what the server says fit for an error: short, printable, on one line, and without the key.
func (e *Engine) words(s string) string {
	const most = 200
	if e.key != "" {
		s = strings.ReplaceAll(s, e.key, "***")
	}
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "..."
	}
	return s
}

// retryAfter reads the header of that name, in seconds or as a date; zero if there is none that makes sense.
func retryAfter(header string, now time.Time) time.Duration {
	if header == "" {
		return 0
	}
	if d, err := time.ParseDuration(strings.TrimSpace(header) + "s"); err == nil {
		return max(d, time.Millisecond)
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), time.Millisecond)
	}
	return 0
}
