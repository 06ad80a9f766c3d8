package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poqmesh/poq/llm"
)

// engine is an llm.Engine made of a function.
type engine struct {
	name  string
	asked atomic.Int32
	model *atomic.Pointer[string] // what it was last asked for, if set
	do    func(ctx context.Context, prompt string, emit func(string)) error
}

func (e *engine) Name() string     { return e.name }
func (e *engine) Models() []string { return []string{e.name + "-1", "shared"} }
func (e *engine) Generate(ctx context.Context, req llm.Request, emit func(string)) (*llm.Answer, error) {
	e.asked.Add(1)
	if e.model != nil {
		e.model.Store(&req.Model)
	}
	if e.do != nil {
		if err := e.do(ctx, req.Prompt, emit); err != nil {
			return nil, err
		}
	}
	emit(e.name)
	return &llm.Answer{Text: e.name, Model: e.name + "-1", Stop: llm.StopEnd}, nil
}

// answerOf is the text of the answer, or what went wrong, with a star before what was declined.
func answerOf(a *llm.Answer, err error) string {
	var d *llm.DeclineError
	switch {
	case err == nil:
		return a.Text
	case errors.As(err, &d):
		return "*" + d.Reason
	}
	return err.Error()
}

func ask(ctx context.Context, p *Pool, prompt string) string {
	return answerOf(p.Generate(ctx, llm.Request{Prompt: prompt}, nil))
}

type oddPrompt struct{}

func (oddPrompt) Error() string  { return "400: odd prompt" }
func (oddPrompt) OfPrompt() bool { return true }

func TestFirstThatTakesThePromptAnswers(t *testing.T) {
	declines := func(reason string) func(context.Context, string, func(string)) error {
		return func(context.Context, string, func(string)) error { return &llm.DeclineError{Reason: reason} }
	}
	fails := func(context.Context, string, func(string)) error { return errors.New("out of memory") }
	for _, c := range []struct {
		name         string
		first, other func(context.Context, string, func(string)) error
		want, again  string
	}{
		{"both well", nil, nil, "a", "a"},
		{"first declines", declines("no"), nil, "b", "b"},
		{"first fails", fails, nil, "b", "b"},
		{"both decline", declines("no"), declines("too long"), "*no; too long", "*no; too long"},
		{"both decline alike", declines("no"), declines("no"), "*no", "*no"},
		{"both fail", fails, fails, "out of memory\nout of memory", "*a is down, tried again in 5 s; b is down, tried again in 5 s"},
		{"first fails, other declines", fails, declines("no"), "out of memory", "*a is down, tried again in 5 s; no"},
		{"fault of the prompt", func(context.Context, string, func(string)) error { return fmt.Errorf("a: %w", oddPrompt{}) }, declines("no"), "a: 400: odd prompt", "a: 400: odd prompt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := New(Member{Engine: &engine{name: "a", do: c.first}}, Member{Engine: &engine{name: "b", do: c.other}})
				if got := ask(t.Context(), p, "q"); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if got := ask(t.Context(), p, "q"); got != c.again {
					t.Errorf("then %q, want %q", got, c.again)
				}
			})
		})
	}
}

func TestEngineThatFailedRestsLongerEachTimeAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := true
		e := &engine{name: "a", do: func(context.Context, string, func(string)) error {
			if broken {
				return errors.New("boom")
			}
			return nil
		}}
		p := New(Member{Engine: e})
		asked := int32(0)
		for _, rest := range []time.Duration{5, 10, 20, 40, 80, 120, 120} {
			rest *= time.Second
			asked++
			if got := ask(t.Context(), p, "q"); got != "boom" {
				t.Fatalf("after its rest: %q", got)
			}
			time.Sleep(rest - time.Millisecond) //nolint:forbidigo // virtual time
			if got := ask(t.Context(), p, "q"); got != "*a is down, tried again in 1 s" {
				t.Fatalf("just before %s are over: %q", rest, got)
			}
			if n := e.asked.Load(); n != asked {
				t.Fatalf("asked %d times, want %d", n, asked)
			}
			time.Sleep(time.Millisecond) //nolint:forbidigo // virtual time
		}
		broken = false
		if got := ask(t.Context(), p, "q"); got != "a" {
			t.Errorf("mended: %q", got)
		}
		broken = true
		ask(t.Context(), p, "q")
		if got := ask(t.Context(), p, "q"); got != "*a is down, tried again in 5 s" {
			t.Errorf("it does not begin anew: %q", got)
		}
	})
}

func TestOnlyOnePromptTriesAnEngineThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan error)
		e := &engine{name: "a", do: func(context.Context, string, func(string)) error { return <-hold }}
		p := New(Member{Engine: e, Concurrency: 3})
		got := make(chan string, 3)
		for range 3 {
			go func() { got <- ask(t.Context(), p, "q") }()
		}
		synctest.Wait()
		time.Sleep(time.Second) //nolint:forbidigo // virtual time
		for range 3 {           // three failures at once count as one
			hold <- errors.New("boom")
			<-got
		}
		if s := ask(t.Context(), p, "q"); s != "*a is down, tried again in 5 s" {
			t.Fatal(s)
		}
		time.Sleep(5 * time.Second) //nolint:forbidigo // virtual time
		go func() { got <- ask(t.Context(), p, "trial") }()
		synctest.Wait()
		if s := ask(t.Context(), p, "q"); s != "*a is down, tried again in 5 s" {
			t.Errorf("while it is tried: %q", s)
		}
		hold <- nil
		if s := <-got; s != "a" {
			t.Error(s)
		}
		go func() { hold <- nil }()
		if s := ask(t.Context(), p, "q"); s != "a" {
			t.Errorf("after the trial: %q", s)
		}
	})
}

func TestTrialThatIsCancelledIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{name: "a", do: func(ctx context.Context, prompt string, _ func(string)) error {
			switch prompt {
			case "fail":
				return errors.New("boom")
			case "wait":
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		p := New(Member{Engine: e})
		ask(t.Context(), p, "fail")
		time.Sleep(5 * time.Second) //nolint:forbidigo // virtual time
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ask(ctx, p, "wait")
		if got := ask(t.Context(), p, "q"); got != "a" {
			t.Errorf("got %q", got)
		}
	})
}

func TestEngineThatHangsRests(t *testing.T) {
	for _, c := range []struct {
		name    string
		emits   bool
		timeout time.Duration
		want    string
	}{
		{"silent for long", false, 30 * time.Second, "*a is down, tried again in 5 s"},
		{"not silent", true, 30 * time.Second, "a"},
		{"stopped early", false, 3 * time.Second, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &engine{name: "a", do: func(ctx context.Context, prompt string, emit func(string)) error {
					if prompt != "hang" {
						return nil
					}
					if c.emits {
						emit("Par")
					}
					<-ctx.Done()
					return context.Cause(ctx)
				}}
				p := New(Member{Engine: e})
				ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
				defer cancel()
				if _, err := p.Generate(ctx, llm.Request{Prompt: "hang"}, nil); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("hang: %v", err)
				}
				if got := ask(t.Context(), p, "q"); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

func TestWorkAndQueueAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var atWork, most atomic.Int32
		hold := make(chan struct{})
		do := func(context.Context, string, func(string)) error {
			n := atWork.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-hold
			atWork.Add(-1)
			return nil
		}
		a, b := &engine{name: "a", do: do}, &engine{name: "b", do: do}
		p := New(Member{Engine: a, Concurrency: 2, Queue: 3}, Member{Engine: b, Queue: -1})
		var mu sync.Mutex
		got := map[string]int{}
		var wg sync.WaitGroup
		for range 6 { // 2 and 1 at work, 3 waiting
			wg.Go(func() {
				s := ask(t.Context(), p, "q")
				mu.Lock()
				defer mu.Unlock()
				got[s]++
			})
		}
		synctest.Wait()
		if n := most.Load(); n != 3 {
			t.Errorf("%d at work, want 3", n)
		}
		if s := ask(t.Context(), p, "q"); s != "*busy: 3 at work, 3 waiting" {
			t.Errorf("one too many: %q", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s := ask(ctx, p, "q"); s != "*busy: 3 at work, 3 waiting" {
			t.Errorf("one too many that is cancelled: %q", s)
		}
		close(hold)
		wg.Wait()
		if got["a"]+got["b"] != 6 || got["b"] != 1 || most.Load() != 3 {
			t.Errorf("answers %v, at most %d at work", got, most.Load())
		}
		if s := ask(t.Context(), p, "q"); s != "a" {
			t.Errorf("afterwards: %q", s)
		}
	})
}

func TestPromptThatWaitsMayBeCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := New(Member{Engine: &engine{name: "a", do: func(context.Context, string, func(string)) error { <-hold; return nil }}, Queue: 1})
		done := make(chan string, 1)
		go func() { done <- ask(t.Context(), p, "q") }()
		synctest.Wait()
		for range 3 { // each leaves its place to the next
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := p.Generate(ctx, llm.Request{Prompt: "q"}, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			cancel()
		}
		close(hold)
		if s := <-done; s != "a" {
			t.Error(s)
		}
	})
}

func TestWhatWasSaidIsNotSaidAgainByAnother(t *testing.T) {
	half := func(_ context.Context, _ string, emit func(string)) error { emit("Par"); return errors.New("cut") }
	p := New(Member{Engine: &engine{name: "a", do: half}}, Member{Engine: &engine{name: "b"}})
	var said string
	if got := answerOf(p.Generate(t.Context(), llm.Request{Prompt: "q"}, func(s string) { said += s })); got != "cut" || said != "Par" {
		t.Errorf("got %q, said %q", got, said)
	}
	p = New(Member{Engine: &engine{name: "a", do: half}}, Member{Engine: &engine{name: "b"}})
	if got := ask(t.Context(), p, "q"); got != "b" {
		t.Errorf("nobody listened: %q", got)
	}
}

func TestPoolAsksMembersThatHaveTheModel(t *testing.T) {
	var got atomic.Pointer[string]
	named := func(name string, do func(context.Context, string, func(string)) error) *engine {
		return &engine{name: name, do: do, model: &got}
	}
	fails := func(context.Context, string, func(string)) error { return errors.New("out of memory") }
	for _, c := range []struct{ model, want, own string }{
		{"", "a", ""},
		{"a-1", "a", "a-1"},
		{"b-1", "b", "b-1"},
		{"shared", "a", "shared"},
		{"class", "b", ""},
		{"fast", "a", ""},
		{"broken", "out of memory", ""},
		{"none", "*no such model: none", "unasked"},
		{"CLASS", "*no such model: CLASS", "unasked"},
	} {
		p := New(Member{Engine: named("a", nil), Aliases: []string{"fast"}}, Member{Engine: named("b", nil), Aliases: []string{"class"}},
			Member{Engine: named("c", nil), Aliases: []string{"class", "fast"}}, Member{Engine: named("d", fails), Aliases: []string{"broken"}})
		unasked := "unasked"
		got.Store(&unasked)
		answer := answerOf(p.Generate(t.Context(), llm.Request{Prompt: "q", Options: llm.Options{Model: c.model}}, nil))
		if answer != c.want || *got.Load() != c.own {
			t.Errorf("%q: got %q from an engine asked for %q, want %q, %q", c.model, answer, *got.Load(), c.want, c.own)
		}
	}
}

func TestPoolGoesByTheNamesOfItsMembers(t *testing.T) {
	p := New(Member{Engine: &engine{name: "a"}, Aliases: []string{"x", "b-1"}}, Member{Engine: &engine{name: "b"}, Aliases: []string{"x"}}, Member{Engine: &engine{name: "a"}})
	if p.Name() != "a+b" || fmt.Sprint(p.Models()) != "[a-1 shared x b-1]" || len(p.Engines()) != 3 {
		t.Errorf("%s, %v, %d", p.Name(), p.Models(), len(p.Engines()))
	}
}
