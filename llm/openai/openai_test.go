package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/poqmesh/poq/llm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server speaks the protocol; chat answers POST /v1/chat/completions.
type server struct {
	*httptest.Server
	chat   func(w http.ResponseWriter, r *http.Request, body chatRequest)
	models []string
	asked  atomic.Int32
}

func serve(t *testing.T, chat func(w http.ResponseWriter, r *http.Request, body chatRequest)) *server {
	s := &server{chat: chat, models: []string{"small", "large"}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, r *http.Request) {
		type entry struct {
			ID string `json:"id"`
		}
		var list struct {
			Data []entry `json:"data"`
		}
		for _, m := range s.models {
			list.Data = append(list.Data, entry{m})
		}
		json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		var body chatRequest
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Errorf("request: %v", err)
		}
		s.chat(w, r, body)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *server) engine(t *testing.T, o Options) *Engine {
	t.Helper()
	o.BaseURL = s.URL + "/v1/"
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	e.limits.backoff = time.Millisecond
	return e
}

// events sends server-sent events, each flushed.
func events(w http.ResponseWriter, data ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, d := range data {
		fmt.Fprintf(w, "data: %s\n\n", d)
		w.(http.Flusher).Flush()
	}
}

func piece(text string) string {
	b, _ := json.Marshal(text)
	return fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}]}`, b)
}

const (
	finished = `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	cutOff   = `{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}`
	usage    = `{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3}}`
	done     = "[DONE]"
)

func fail(w http.ResponseWriter, status int, message, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": message, "type": "invalid_request_error", "code": code}})
}

func TestAnswerIsStreamed(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request, body chatRequest) {
		if body.Model != "small" || !body.Stream || body.MaxTokens != 7 || len(body.Messages) != 1 || body.Messages[0] != (message{"user", "Hi?"}) {
			t.Errorf("request %+v", body)
		}
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("authorization %q without a key", got)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, ": keep-alive\n\nevent: message\n")
		events(w, `{"choices":[{"delta":{"role":"assistant","content":""}}]}`, piece("\nPa"), piece("ris"), piece(" is old. "), finished, usage, done)
	})
	var pieces []string
	a, err := s.engine(t, Options{Model: "small"}).Generate(t.Context(), llm.Request{Prompt: "Hi?", Options: llm.Options{MaxTokens: 7}}, func(p string) { pieces = append(pieces, p) })
	if err != nil {
		t.Fatal(err)
	}
	if want := (llm.Answer{Text: "Paris is old.", Model: "small", PromptTokens: 11, AnswerTokens: 3, Stop: llm.StopEnd}); *a != want {
		t.Errorf("got %+v, want %+v", *a, want)
	}
	if want := []string{"Pa", "ris", " is old."}; !slices.Equal(pieces, want) {
		t.Errorf("emitted %q, want %q", pieces, want)
	}
}

func TestWishesGoToTheServer(t *testing.T) {
	wishes := llm.Options{MaxTokens: 7, Temperature: new(0.0), TopP: new(0.25), Seed: new(int64(-1)), Stop: []string{"\n", "User:"}}
	for _, c := range []struct {
		options llm.Options
		want    string // what the body has of them
	}{
		{wishes, `{"max_tokens":7,"temperature":0,"top_p":0.25,"seed":-1,"stop":["\n","User:"]}`},
		{llm.Options{}, `{"max_tokens":256}`},
		{llm.Options{TopP: new(0.0)}, `{"max_tokens":256,"top_p":0.001}`}, // some servers refuse 0
	} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request, body chatRequest) {
			got, err := json.Marshal(struct {
				MaxTokens   int      `json:"max_tokens"`
				Temperature *float64 `json:"temperature,omitempty"`
				TopP        *float64 `json:"top_p,omitempty"`
				Seed        *int64   `json:"seed,omitempty"`
				Stop        []string `json:"stop,omitempty"`
			}{body.MaxTokens, body.Temperature, body.TopP, body.Seed, body.Stop})
			if err != nil || string(got) != c.want {
				t.Errorf("asked with %s (%v), want %s", got, err, c.want)
			}
			events(w, piece("ok"), finished, done)
		})
		if _, err := s.engine(t, Options{Model: "small"}).Generate(t.Context(), llm.Request{Prompt: "Hi?", Options: c.options}, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestServerThatDoesNotStopIsLeft(t *testing.T) {
	left := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request, _ chatRequest) {
		events(w, piece("Paris. "), piece("Us"), piece("er: and"))
		<-r.Context().Done()
		close(left)
	})
	var said strings.Builder
	req := llm.Request{Prompt: "Hi?", Options: llm.Options{Stop: []string{"User:"}}}
	a, err := s.engine(t, Options{Model: "small"}).Generate(t.Context(), req, func(p string) { said.WriteString(p) })
	if want := (llm.Answer{Text: "Paris.", Model: "small", Stop: llm.StopEnd}); err != nil || *a != want || said.String() != want.Text {
		t.Errorf("got %+v, %v, emitted %q", a, err, said.String())
	}
	<-left
}

func TestServersDifferInHowTheyAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		chat func(w http.ResponseWriter)
		want llm.Answer
	}{
		{"no [DONE]", func(w http.ResponseWriter) { events(w, piece("ok"), finished) }, llm.Answer{Text: "ok", Stop: llm.StopEnd}},
		{"no finish_reason", func(w http.ResponseWriter) { events(w, piece("ok"), done) }, llm.Answer{Text: "ok", Stop: llm.StopEnd}},
		{"no space after data:", func(w http.ResponseWriter) { io.WriteString(w, "data:"+piece("ok")+"\n\ndata:[DONE]\n\n") }, llm.Answer{Text: "ok", Stop: llm.StopEnd}},
		{"lines end in CRLF", func(w http.ResponseWriter) { io.WriteString(w, "data: "+piece("ok")+"\r\n\r\ndata: [DONE]\r\n\r\n") }, llm.Answer{Text: "ok", Stop: llm.StopEnd}},
		{"length reached", func(w http.ResponseWriter) { events(w, piece("ok"), cutOff, done) }, llm.Answer{Text: "ok", Stop: llm.StopLength}},
		{"one document", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}`)
		}, llm.Answer{Text: "ok", Stop: llm.StopEnd, PromptTokens: 2, AnswerTokens: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request, _ chatRequest) { c.chat(w) })
			a, err := s.engine(t, Options{Model: "small"}).Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Model = "small"
			if *a != c.want {
				t.Errorf("got %+v, want %+v", *a, c.want)
			}
		})
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	const key = "sk-very-secret"
	t.Setenv("POQ_TEST_KEY", key)
	endless := strings.Repeat("word ", 2000)
	for _, c := range []struct {
		name, want string
		decline    bool
		chat       func(w http.ResponseWriter)
	}{
		{"unknown model", "model tiny not found: server has small, large", false, func(w http.ResponseWriter) { fail(w, 404, "The model `tiny` does not exist", "model_not_found") }},
		{"no body", "502 Bad Gateway: no reason given", false, func(w http.ResponseWriter) { w.WriteHeader(502) }},
		{"wrong key", "it refuses the key in POQ_TEST_KEY", false, func(w http.ResponseWriter) { fail(w, 401, "Incorrect API key provided: "+key, "invalid_api_key") }},
		{"key in the message", "400 Bad Request: bad key ***", false, func(w http.ResponseWriter) { fail(w, 400, "bad key "+key, "") }},
		{"message of many lines", "500 Internal Server Error: out of memory", false, func(w http.ResponseWriter) { w.WriteHeader(500); io.WriteString(w, "out\n\tof\x00 memory\n") }},
		{"error that is a string", "500 Internal Server Error: boom", false, func(w http.ResponseWriter) { w.WriteHeader(500); io.WriteString(w, `{"error":"boom"}`) }},
		{"moved", "use the address it names: https://elsewhere.example/v1", false, func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://elsewhere.example/v1")
			w.WriteHeader(307)
		}},
		{"stream cut", "the answer breaks off: unexpected EOF", false, func(w http.ResponseWriter) { events(w, piece("Par")) }},
		{"connection cut", "the answer breaks off", false, func(w http.ResponseWriter) { events(w, piece("Par")); panic(http.ErrAbortHandler) }},
		{"events that are no JSON", "an event is not the JSON the protocol asks for", false, func(w http.ResponseWriter) { events(w, piece("Par"), "<html>") }},
		{"page instead of an answer", "the answer breaks off", false, func(w http.ResponseWriter) { io.WriteString(w, "<html>hello</html>") }},
		{"document that is no JSON", "not the JSON the protocol asks for", false, func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, "hello")
		}},
		{"failure in the stream", `the server fails while answering: {"message":"GPU fell off, key ***"}`, false, func(w http.ResponseWriter) {
			events(w, piece("Par"), `{"error":{"message":"GPU fell off, key `+key+`"}}`)
		}},
		{"endless answer", "longer than allowed", false, func(w http.ResponseWriter) {
			for range 100 {
				events(w, piece(endless))
			}
		}},
		{"endless space", "longer than allowed", false, func(w http.ResponseWriter) {
			for range 100 {
				events(w, piece(strings.Repeat(" ", 10000)))
			}
		}},
		{"endless line", "breaks off", false, func(w http.ResponseWriter) {
			for range 100 {
				io.WriteString(w, endless)
			}
		}},
		{"endless comments", "longer than allowed", false, func(w http.ResponseWriter) {
			for range 20 {
				io.WriteString(w, strings.Repeat(": still here\n\n", 1<<16))
			}
		}},
		{"prompt too long", "the prompt is too long for tiny", true, func(w http.ResponseWriter) {
			fail(w, 400, "This model's maximum context length is 4096 tokens.", "context_length_exceeded")
		}},
		{"filter", "content filter refused", true, func(w http.ResponseWriter) {
			events(w, `{"choices":[{"delta":{"content":""},"finish_reason":"content_filter"}]}`, done)
		}},
		{"empty answer", "the model had nothing to say", true, func(w http.ResponseWriter) { events(w, piece(" \n"), finished, done) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request, _ chatRequest) {
				if r.Header.Get("Authorization") != "Bearer "+key {
					t.Error("no key")
				}
				c.chat(w)
			})
			a, err := s.engine(t, Options{Model: "tiny", KeyEnv: "POQ_TEST_KEY"}).Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || a != nil {
				t.Fatalf("got %v, %v, want %q", a, err, c.want)
			}
			var d *llm.DeclineError
			if errors.As(err, &d) != c.decline || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), key) {
				t.Errorf("got %#v: %q", err, err)
			}
			if n := s.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestBusyServerIsAskedAgain(t *testing.T) {
	for _, c := range []struct {
		name, retryAfter string
		status, refusals int
		want             int    // requests
		fails            string // empty if an answer comes at last
	}{
		{"429 with seconds", "0", 429, 2, 3, ""},
		{"503 with a date gone by", "Mon, 02 Jan 2006 15:04:05 GMT", 503, 1, 2, ""},
		{"429 without advice", "", 429, 3, 4, ""},
		{"advice that makes no sense", "soon", 503, 1, 2, ""},
		{"always busy", "0", 429, 99, maxAttempts, "429 Too Many Requests: slow down"},
		{"busy for long", "3600", 503, 99, 1, "it asks to come back in 1h0m0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s *server
			s = serve(t, func(w http.ResponseWriter, _ *http.Request, _ chatRequest) {
				if int(s.asked.Load()) <= c.refusals {
					w.Header().Set("Retry-After", c.retryAfter)
					fail(w, c.status, "slow down", "rate_limit_exceeded")
					return
				}
				events(w, piece("ok"), finished, done)
			})
			a, err := s.engine(t, Options{Model: "small"}).Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil)
			if n := int(s.asked.Load()); n != c.want {
				t.Errorf("asked %d times, want %d", n, c.want)
			}
			switch status := (*StatusError)(nil); {
			case c.fails == "" && (err != nil || a.Text != "ok"):
				t.Errorf("got %+v, %v", a, err)
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || !errors.As(err, &status) || status.Status != c.status):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRetryAfterIsReadInBothForms(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		" 7":                            7 * time.Second,
		"0":                             time.Millisecond,
		"-3":                            time.Millisecond,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:00:00 GMT": time.Millisecond,
		"tomorrow":                      0,
		"99999999999999999999":          0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

func TestCancelClosesTheConnection(t *testing.T) {
	for _, when := range []string{"before the first byte", "in the middle", "while waiting to try again"} {
		t.Run(when, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("the payer left")
			closed := make(chan struct{})
			s := serve(t, func(w http.ResponseWriter, r *http.Request, _ chatRequest) {
				defer close(closed)
				switch when {
				case "before the first byte":
					cancel(reason)
				case "in the middle":
					events(w, piece("Par"))
				default:
					w.Header().Set("Retry-After", "20")
					fail(w, 429, "slow down", "")
					return
				}
				<-r.Context().Done()
			})
			e := s.engine(t, Options{Model: "small"})
			if when == "while waiting to try again" {
				go func() { <-closed; cancel(reason) }()
			}
			_, err := e.Generate(ctx, llm.Request{Prompt: "Hi?"}, func(string) { cancel(reason) })
			if !errors.Is(err, reason) {
				t.Errorf("got %v", err)
			}
			<-closed
		})
	}
}

func TestSilentServerIsGivenUp(t *testing.T) {
	for _, first := range []string{"", "Par"} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request, _ chatRequest) {
			if first != "" {
				events(w, piece(first))
			}
			<-r.Context().Done()
		})
		e := s.engine(t, Options{Model: "small"})
		e.limits.silence = 50 * time.Millisecond
		if _, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil); err == nil || !strings.Contains(err.Error(), "has sent nothing for 50ms") {
			t.Errorf("got %v", err)
		}
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	s := serve(t, nil)
	e := s.engine(t, Options{Model: "small"})
	s.Close()
	_, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil)
	if want := "cannot reach " + s.URL + "/v1: is the server running?"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestOnlyModelNeedsNoName(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request, body chatRequest) {
		events(w, piece(body.Model), finished, done)
	})
	e := s.engine(t, Options{})
	if _, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil); err == nil || !strings.Contains(err.Error(), "server has small, large, choose one with model=NAME") {
		t.Errorf("two models: %v", err)
	}
	s.models = nil
	if _, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil); err == nil || !strings.Contains(err.Error(), "server has none") {
		t.Errorf("no model: %v", err)
	}
	if got := e.Models(); len(got) != 0 {
		t.Errorf("models before one is known: %v", got)
	}
	s.models = []string{"only"}
	if a, err := e.Generate(t.Context(), llm.Request{Prompt: "Hi?"}, nil); err != nil || a.Text != "only" || a.Model != "only" {
		t.Errorf("one model: %+v, %v", a, err)
	}
	if got := e.Models(); !slices.Equal(got, []string{"only"}) {
		t.Errorf("models: %v", got)
	}
}

func TestEmptyPromptIsDeclined(t *testing.T) {
	s := serve(t, nil)
	var d *llm.DeclineError
	if _, err := s.engine(t, Options{Model: "small"}).Generate(t.Context(), llm.Request{Prompt: "\n"}, nil); !errors.As(err, &d) {
		t.Errorf("got %v", err)
	}
}

func TestKeyIsReadWhenTheEngineIsMade(t *testing.T) {
	t.Setenv("POQ_TEST_KEY", " ")
	_, err := New(Options{BaseURL: "http://127.0.0.1:1/v1", KeyEnv: "POQ_TEST_KEY"})
	if err == nil || !strings.Contains(err.Error(), "environment variable POQ_TEST_KEY holds no key") {
		t.Errorf("got %v", err)
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add("text/event-stream", "data: "+piece("ok")+"\n\ndata: [DONE]\n\n")
	f.Add("application/json", `{"choices":[{"message":{"content":"ok"}}]}`)
	f.Add("", "data: {\"error\":1}\n")
	f.Fuzz(func(t *testing.T, kind, body string) {
		var emitted strings.Builder
		resp := &http.Response{Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body))}
		a, err := readAnswer(resp, func() {}, strings.ToUpper, llm.TextStream{Emit: func(s string) { emitted.WriteString(s) }, Stop: []string{"stop"}})
		if (a == nil) == (err == nil) || a != nil && (a.Text == "" || a.Text != emitted.String() || a.Stop == "") {
			t.Errorf("got %+v, %v, emitted %q", a, err, emitted.String())
		}
	})
}
