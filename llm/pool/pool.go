// Package pool makes one engine of several: the first that is well and takes the prompt answers. It bounds how many prompts each has
// at a time and how many wait, and leaves an engine alone for a while that has failed.
//
//	a model is asked for             only engines that have it, or an alias of that name, are asked
//	an engine declines               the next is asked
//	an engine fails                  the next is asked; this one rests 5 s, and twice as long after each further failure, at most 2 minutes
//	no text for 10 s, then out of time   counts as a failure too: the server hangs
//	after its rest                   it gets one prompt, and all again once it has answered or declined that
//	all are at work                  the prompt waits for the engine with most room in its queue
//	all queues are full              declined as busy, at once
//	all rest                         declined with the time until one is tried again
//
// A failure that is the prompt's alone makes no engine rest: an error says so with a method OfPrompt() bool. Else whoever
// sends odd prompts could silence a worker.
package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poqmesh/poq/llm"
)

const (
	// DefaultConcurrency is the number of prompts that an engine has at a time unless told otherwise: it uses the cores that there are.
	DefaultConcurrency = 1
	// DefaultQueue is the number of prompts that wait for an engine unless told otherwise.
	DefaultQueue = 64

	firstRest = 5 * time.Second
	longRest  = 2 * time.Minute
	patience  = 10 * time.Second // with an engine that has said nothing yet
)

// Member is one engine of a pool.
type Member struct {
	Engine llm.Engine

	// Aliases are names besides its own models' by which it may be asked for: one that several workers give to theirs is a class of
	// models, like "small". The engine itself does not get to see them.
	Aliases []string

	// Concurrency is how many prompts it has at a time; zero stands for [DefaultConcurrency].
	Concurrency int

	// Queue is how many prompts may wait for it besides; zero stands for [DefaultQueue], and a negative number for none.
	Queue int
}

// Pool asks its members, in their order. Make one with [New]. It is safe for concurrent use.
type Pool struct {
	members []*member
	log     *slog.Logger
}

var _ llm.Engine = (*Pool)(nil)

type member struct {
	llm.Engine
	aliases []string
	slots   chan struct{} // holds a token for each prompt at work
	queue   int64
	waiting atomic.Int64

	mu       sync.Mutex
	failures int       // one after another
	failed   time.Time // the last of them
	rests    time.Time // until then
}

// New makes a pool of at least one member.
func New(members ...Member) *Pool {
	if len(members) == 0 {
		panic("pool: no members")
	}
	p := &Pool{log: slog.New(slog.DiscardHandler)}
	for _, m := range members {
		if m.Concurrency == 0 {
			m.Concurrency = DefaultConcurrency
		}
		if m.Queue == 0 {
			m.Queue = DefaultQueue
		}
		p.members = append(p.members, &member{Engine: m.Engine, aliases: m.Aliases, slots: make(chan struct{}, m.Concurrency), queue: int64(max(m.Queue, 0))})
	}
	return p
}

// SetLogger has failures of members logged, which the answer of another hides. Call it before the first prompt.
func (p *Pool) SetLogger(log *slog.Logger) { p.log = log }

// Engines returns the members' engines, in the order in which they are asked.
func (p *Pool) Engines() []llm.Engine {
	var list []llm.Engine
	for _, m := range p.members {
		list = append(list, m.Engine)
	}
	return list
}

// Name returns the members' names with a plus between, each once: "openai+extract".
func (p *Pool) Name() string {
	var names []string
	for _, m := range p.members {
		if n := m.Name(); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return strings.Join(names, "+")
}

// Models returns the members' models and aliases, in the order in which they are asked, each once.
func (p *Pool) Models() []string {
	var models []string
	for _, m := range p.members {
		for _, name := range slices.Concat(m.Models(), m.aliases) {
			if !slices.Contains(models, name) {
				models = append(models, name)
			}
		}
	}
	return models
}

// FindModels has the members that can ask for their models do so.
func (p *Pool) FindModels(ctx context.Context) error {
	errs := make([]error, len(p.members))
	var all sync.WaitGroup
	for i, m := range p.members {
		if f, ok := m.Engine.(interface{ FindModels(context.Context) error }); ok {
			all.Go(func() { errs[i] = f.FindModels(ctx) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// Generate implements [llm.Engine]. If members failed and no other answered, the error joins their failures; if all of them
// declined, rest or are busy, it is a *[llm.DeclineError] with the reasons. A member that fails after it has emitted text is
// the last that is asked: what was said can't be taken back.
func (p *Pool) Generate(ctx context.Context, req llm.Request, emit func(string)) (*llm.Answer, error) {
	left := slices.DeleteFunc(slices.Clone(p.members), func(m *member) bool { return !m.has(req.Model) })
	if len(left) == 0 {
		return nil, &llm.DeclineError{Reason: "no such model: " + req.Model}
	}
	var reasons []string
	var failures []error
	for len(left) > 0 {
		m, why, err := take(ctx, &left)
		reasons = append(reasons, why...)
		if err != nil {
			return nil, err
		}
		if m == nil {
			break
		}
		begin, said := time.Now(), false
		a, err := m.Generate(ctx, m.own(req), func(text string) {
			said = true
			if emit != nil {
				emit(text)
			}
		})
		m.report(ctx, err, begin, said)
		<-m.slots
		var decline *llm.DeclineError
		switch {
		case err == nil:
			if len(failures) > 0 {
				p.log.Warn("engine failed, another answered", "answered", m.Name(), "error", errors.Join(failures...))
			}
			return a, nil
		case ctx.Err() != nil || said && emit != nil:
			return nil, err
		case errors.As(err, &decline):
			reasons = append(reasons, decline.Reason)
		default:
			failures = append(failures, err)
		}
	}
	if len(failures) > 0 {
		return nil, errors.Join(failures...)
	}
	slices.Sort(reasons)
	return nil, &llm.DeclineError{Reason: strings.Join(slices.Compact(reasons), "; ")}
}

// take takes a slot of the first member left that is well and free, or waits for one, and takes the member and those that rest off
// the list. It returns no member if none has room, with the reasons.
func take(ctx context.Context, left *[]*member) (m *member, reasons []string, err error) {
	for {
		*left = slices.DeleteFunc(*left, func(m *member) bool {
			rest := m.rest()
			if rest > 0 {
				reasons = append(reasons, fmt.Sprintf("%s is down, tried again in %d s", m.Name(), int((rest+time.Second-1)/time.Second)))
			}
			return rest > 0
		})
		if len(*left) == 0 {
			return nil, reasons, nil
		}
		for i, m := range *left {
			select {
			case m.slots <- struct{}{}:
				if m.begin() {
					*left = slices.Delete(*left, i, i+1)
					return m, reasons, nil
				}
				<-m.slots
			default:
			}
		}
		m := slices.MinFunc(*left, func(a, b *member) int { return cmp.Compare(b.room(), a.room()) })
		if m.waiting.Add(1) > m.queue {
			m.waiting.Add(-1)
			var atWork, waiting int64
			for _, m := range *left {
				atWork, waiting = atWork+int64(len(m.slots)), waiting+m.waiting.Load()
			}
			return nil, append(reasons, fmt.Sprintf("busy: %d at work, %d waiting", atWork, waiting)), nil
		}
		select {
		case m.slots <- struct{}{}:
			m.waiting.Add(-1)
			if m.begin() {
				*left = slices.DeleteFunc(*left, func(o *member) bool { return o == m })
				return m, reasons, nil
			}
			<-m.slots // it went down meanwhile
		case <-ctx.Done():
			m.waiting.Add(-1)
			return nil, nil, fmt.Errorf("stopped while waiting for %s: %w", m.Name(), context.Cause(ctx))
		}
	}
}

// has says whether the member may be asked for a model, any if it is "".
func (m *member) has(model string) bool {
	return model == "" || slices.Contains(m.aliases, model) || slices.Contains(m.Models(), model)
}

// own leaves an alias out of a request: the engine itself does not know it.
func (m *member) own(req llm.Request) llm.Request {
	if !slices.Contains(m.Models(), req.Model) {
		req.Model = ""
	}
	return req
}

func (m *member) room() int64 { return m.queue - m.waiting.Load() }

// rest is how long the member is left alone yet.
func (m *member) rest() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Until(m.rests)
}

// begin says whether the member may have a prompt now. One that comes back from its rest gets no second one until the first is
// done, or as long as its next rest would be.
func (m *member) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Before(m.rests) {
		return false
	}
	if m.failures > 0 {
		m.rests = now.Add(restAfter(m.failures))
	}
	return true
}

// report takes note of what came of a prompt that began then, and whether the engine said anything.
func (m *member) report(ctx context.Context, err error, begin time.Time, said bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	silent := !said && now.Sub(begin) >= patience
	var prompt interface{ OfPrompt() bool }
	switch {
	case err == nil, errors.As(err, new(*llm.DeclineError)), errors.As(err, &prompt) && prompt.OfPrompt():
		m.failures, m.rests = 0, time.Time{}
	case ctx.Err() != nil && !silent:
		if m.failures > 0 {
			m.rests = time.Time{} // the trial says nothing: the next prompt is one
		}
	case begin.Before(m.failed):
		// It failed together with one that counts already.
	default:
		m.failures++
		m.failed, m.rests = now, now.Add(restAfter(m.failures))
	}
}

func restAfter(failures int) time.Duration {
	return min(firstRest<<min(failures-1, 10), longRest)
}
