package smol

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"

	"github.com/poqmesh/poq/llm"
)

// ModelName is the model of every [Engine] of this package, as it stands in [llm.Answer].
const ModelName = "SmolLM2-135M-Instruct-Q4_1"

const (
	// ContextTokens is the room for a prompt with its answer. The model could take 8192, but reading takes 6 ms a token on a core
	// and each token 46 KB of memory. Of a prompt that is longer the middle is left out.
	ContextTokens = 2048

	// MaxAnswerTokens is the most an answer can have.
	MaxAnswerTokens = 1024

	// DefaultMaxTokens is the length of an answer unless asked otherwise: some seventy words.
	DefaultMaxTokens = 96

	// DefaultTopP is the share of probability that is drawn from.
	DefaultTopP = 0.95

	// maxRequests bounds the memory of requests at work, 94 MB each at most. Others wait.
	maxRequests = 4
)

// Options are the settings of an engine, for requests that wish nothing else. The zero value is good: greedy answers.
type Options struct {
	// Temperature, from 0 to 2, is how freely tokens are drawn. At zero each is the likeliest one, and the same prompt
	// gets the same answer on every machine.
	Temperature float64

	// TopP, in (0,1], limits the draw to the likeliest tokens that together have this probability; zero stands for [DefaultTopP].
	TopP float64

	// Seed makes drawn answers reproducible: they depend on it and the prompt alone. Zero stands for a new seed for each request.
	Seed uint64

	// MaxTokens, up to [MaxAnswerTokens], is the length of an answer where the request sets none; zero stands for [DefaultMaxTokens].
	MaxTokens int

	// Threads is the number of goroutines that compute one answer; zero stands for GOMAXPROCS. The answer does not depend on it.
	// They block rather than spin when there is nothing to do, so engines and a judge can share a few cores at the default; two
	// engines that answer at the same time are then each half as fast.
	Threads int
}

// Engine answers with SmolLM2-135M-Instruct. Make one with [New].
type Engine struct {
	opts  Options
	slots chan struct{}
}

var _ llm.Engine = (*Engine)(nil)

// New returns an engine. The weights, which all engines of a process share, are prepared by the first request: that takes
// half a second. New fails only if an option is out of range.
func New(o Options) (*Engine, error) {
	switch {
	case !(o.Temperature >= 0 && o.Temperature <= 2):
		return nil, fmt.Errorf("temperature is %v, want 0 to 2", o.Temperature)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return nil, fmt.Errorf("top-p is %v, want more than 0 and at most 1", o.TopP)
	case o.MaxTokens < 0 || o.MaxTokens > MaxAnswerTokens:
		return nil, fmt.Errorf("max-tokens is %d, want 1 to %d", o.MaxTokens, MaxAnswerTokens)
	case o.Threads < 0:
		return nil, fmt.Errorf("threads is %d, want 1 or more", o.Threads)
	}
	if o.TopP == 0 {
		o.TopP = DefaultTopP
	}
	if o.MaxTokens == 0 {
		o.MaxTokens = DefaultMaxTokens
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	return &Engine{opts: o, slots: make(chan struct{}, maxRequests)}, nil
}

// Name returns "smol".
func (*Engine) Name() string { return "smol" }

// Models returns [ModelName].
func (*Engine) Models() []string { return []string{ModelName} }

//go:embed model/SmolLM2-135M-Instruct.Q4_1.gguf
var weights []byte

// prepared is a model with what every conversation begins with already read.
type prepared struct {
	*model
	begun *session
}

// shared is the one model of the process. Nothing changes it once it is there.
var shared = sync.OnceValues(func() (*prepared, error) {
	m, err := load(weights)
	if err != nil {
		return nil, fmt.Errorf("the embedded weights can't be loaded: %w", err)
	}
	release(weights)
	return prepare(m, runtime.GOMAXPROCS(0)), nil
})

func prepare(m *model, threads int) *prepared {
	before := m.tokens.beforePrompt()
	begun := newSession(m, threads, len(before))
	_ = begun.read(context.Background(), before) // it fails only when its context ends
	return &prepared{m, begun}
}

// Generate implements [llm.Engine]. It declines an empty prompt.
func (e *Engine) Generate(ctx context.Context, req llm.Request, emit func(string)) (*llm.Answer, error) {
	if strings.TrimSpace(req.Prompt) == "" {
		return nil, &llm.DeclineError{Reason: "the prompt is empty"}
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return nil, stopped(ctx)
	}
	m, err := shared()
	if err != nil {
		return nil, fmt.Errorf("smol: %w", err)
	}
	return m.answer(ctx, e.opts, req, emit)
}

func stopped(ctx context.Context) error { return fmt.Errorf("smol: stopped: %w", context.Cause(ctx)) }

// answer runs one request from its tokens to its text.
func (m *prepared) answer(ctx context.Context, o Options, req llm.Request, emit func(string)) (*llm.Answer, error) {
	most := o.MaxTokens
	if req.MaxTokens > 0 {
		most = min(req.MaxTokens, MaxAnswerTokens)
	}
	after := m.tokens.afterPrompt()
	prompt := m.tokens.prompt(req.Prompt, ContextTokens-m.begun.pos-len(after)-most)
	prompt = append(prompt, after...)

	s := newSession(m.model, o.Threads, m.begun.pos+len(prompt)+most)
	s.resume(m.begun)
	if err := s.read(ctx, prompt); err != nil {
		return nil, err
	}
	answer := &llm.Answer{Model: ModelName, PromptTokens: s.pos}
	out := llm.TextStream{Emit: emit, Stop: req.Stop}
	var err error
	answer.AnswerTokens, answer.Stop, err = s.write(ctx, most, o.sampler(req), func(t int32) bool { return out.Write(m.tokens.bytes[t]) })
	if err != nil {
		return nil, err
	}
	answer.Text = out.Text()
	if answer.Text == "" {
		return nil, &llm.DeclineError{Reason: "the model had nothing to say"}
	}
	return answer, nil
}

// sampler returns what draws the tokens of one request: as it wishes, and else as the engine is set.
func (o Options) sampler(req llm.Request) *sampler {
	temperature, topP, seed := o.Temperature, o.TopP, o.Seed
	if req.Temperature != nil {
		temperature = *req.Temperature
	}
	if req.TopP != nil {
		topP = *req.TopP
	}
	switch {
	case req.Seed != nil:
		seed = uint64(*req.Seed)
	case seed == 0:
		seed = rand.Uint64()
	}
	return newSampler(temperature, topP, seed, req.Prompt)
}

// read takes all of tokens through the model.
func (s *session) read(ctx context.Context, tokens []int32) error {
	for len(tokens) > 0 {
		if ctx.Err() != nil {
			return stopped(ctx)
		}
		n := min(chunk, len(tokens))
		s.advance(tokens[:n])
		tokens = tokens[n:]
	}
	return nil
}

// write makes up to most tokens and passes each on, until pass wants no more; it returns their number.
func (s *session) write(ctx context.Context, most int, from *sampler, pass func(int32) bool) (int, llm.StopReason, error) {
	var made []int32
	for {
		next := from.next(s.head())
		if s.m.tokens.isControl(next) {
			return len(made), llm.StopEnd, nil
		}
		if len(made) >= most*3/4 && s.m.tokens.endsSentence(made, next) {
			return len(made), llm.StopLength, nil
		}
		made = append(made, next)
		switch more := pass(next); {
		case !more:
			return len(made), llm.StopEnd, nil
		case len(made) == most:
			return most, llm.StopLength, nil
		case repeats(made):
			return len(made), llm.StopRepetition, nil
		case ctx.Err() != nil:
			return 0, "", stopped(ctx)
		}
		s.advance([]int32{next})
	}
}
