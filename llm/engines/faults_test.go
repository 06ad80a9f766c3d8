package engines_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/engines"
)

const (
	goodPiece = `data: {"choices":[{"delta":{"content":"fine"}}]}` + "\n\n"
	goodEnd   = `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n"
)

// fakeServer speaks OpenAI's protocol, and misbehaves as it is told to.
type fakeServer struct {
	*httptest.Server
	behave atomic.Pointer[func(w http.ResponseWriter, r *http.Request)]
	asked  atomic.Int32
}

func newFakeServer(t *testing.T) *fakeServer {
	f := &fakeServer{}
	f.behaves(nil)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		io.Copy(io.Discard, r.Body) // else the server does not see that the client left
		if do := *f.behave.Load(); do != nil {
			do(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, goodPiece+goodEnd)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeServer) behaves(do func(w http.ResponseWriter, r *http.Request)) { f.behave.Store(&do) }

func status(code int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); io.WriteString(w, body) }
}

func TestServerThatMisbehavesIsLeftAloneForAWhile(t *testing.T) {
	endless := func(line string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, line); err != nil {
					return
				}
			}
		}
	}
	first := func(text string, then func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
			then(w, r)
		}
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for _, c := range []struct {
		name   string
		behave func(w http.ResponseWriter, r *http.Request)
		want   string
		rests  bool
	}{
		{"hangs", hang, "has sent nothing for 200ms", true},
		{"hangs in the middle", first(goodPiece, hang), "has sent nothing for 200ms", true},
		{"closes at once", cut, "EOF", true},
		{"closes in the middle", first(goodPiece, cut), "the answer breaks off", true},
		{"ends the stream early", first(goodPiece, func(http.ResponseWriter, *http.Request) {}), "the answer breaks off", true},
		{"sends JSON cut short", first("data: {\"choices\":[{\n\n", func(http.ResponseWriter, *http.Request) {}), "not the JSON the protocol asks for", true},
		{"sends a page", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>It works!</html>") }, "breaks off", true},
		{"500", status(500, `{"error":{"message":"CUDA out of memory"}}`), "500 Internal Server Error: CUDA out of memory", true},
		{"502 of a proxy", status(502, ""), "502 Bad Gateway", true},
		{"key refused", status(401, `{"error":{"message":"no"}}`), "it wants a key", true},
		{"says without end", endless(`data: {"choices":[{"delta":{"content":"` + strings.Repeat("word ", 200) + `"}}]}` + "\n\n"), "longer than allowed", true},
		{"one line without end", endless(strings.Repeat("x", 4096)), "breaks off", true},
		{"keeps alive without end", endless(strings.Repeat(": alive\n\n", 500)), "longer than allowed", true},
		{"finds fault with the prompt", status(400, `{"error":{"message":"odd prompt"}}`), "400 Bad Request: odd prompt", false},
		{"prompt too long", status(400, `{"error":{"message":"exceeds the context size"}}`), "declined: the prompt is too long for m", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeServer(t)
			timeout := "1m" // a busy machine has it
			if strings.Contains(c.want, "200ms") {
				timeout = "200ms"
			}
			e, err := engines.New("openai=" + f.URL + "/v1,model=m,timeout=" + timeout)
			if err != nil {
				t.Fatal(err)
			}
			f.behaves(c.behave)
			if _, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			asked := f.asked.Load()
			f.behaves(nil)
			a, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil)
			var d *llm.DeclineError
			switch {
			case !c.rests && (err != nil || a.Text != "fine"):
				t.Errorf("then %+v, %v", a, err)
			case c.rests && (!errors.As(err, &d) || !strings.HasPrefix(d.Reason, "openai is down, tried again in ") || f.asked.Load() != asked):
				t.Errorf("then %v, asked %d times", err, f.asked.Load()-asked)
			}
		})
	}
}

func TestNextEngineAnswersWhenAServerMisbehaves(t *testing.T) {
	f := newFakeServer(t)
	e, err := engines.New("openai="+f.URL+"/v1,model=m", "extract")
	if err != nil {
		t.Fatal(err)
	}
	if e.Name() != "openai+extract" || !slices.Equal(e.Models(), []string{"m", "extract-1", "extract"}) {
		t.Errorf("%s with %v", e.Name(), e.Models())
	}
	ask := func() string {
		a, err := e.Generate(context.Background(), llm.Request{Prompt: "Who built it?\n\nIt was built by Ada Marsh in 1871."}, nil)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(a.Model, ": ", a.Text)
	}
	const first, second = "m: fine", "extract-1: It was built by Ada Marsh in 1871."
	if got := ask(); got != first {
		t.Errorf("well: %s", got)
	}
	f.behaves(status(500, ""))
	for range 3 {
		if got := ask(); got != second {
			t.Errorf("broken: %s", got)
		}
	}
	if n := f.asked.Load(); n != 2 {
		t.Errorf("the broken server was asked %d times, want once", n-1)
	}
}
