package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
)

// writer is an engine that is given emit.
type writer func(ctx context.Context, emit func(string)) (*llm.Answer, error)

func (writer) Name() string     { return "test" }
func (writer) Models() []string { return []string{"test"} }
func (w writer) Generate(ctx context.Context, _ llm.Request, emit func(string)) (*llm.Answer, error) {
	return w(ctx, emit)
}

// wait waits for a channel to be closed.
func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reading is a stream as a client reads it.
type reading struct {
	status       int
	header       http.Header
	text, finish string
	usage        map[string]int
	verdict      *verdict
	err          *failure
	done         bool
}

type verdict struct {
	Task     string
	Outcome  string
	Winner   node.Party
	Streamed *struct {
		Worker node.Party
		Rank   int
		Won    bool
	}
	Candidates []struct {
		Rank  int
		Model string
	}
}

type failure struct {
	Message, Code string
	PoQ           *verdict
}

// read asks for so many answers and reads a stream; piece is called with the text so far at each piece of it.
func read(t *testing.T, url string, most int, more string, piece func(string)) (r reading) {
	t.Helper()
	resp, err := post(t, t.Context(), url+"/completions", `{"model":"poq-best","prompt":"Who?","stream":true,"stream_options":{"include_usage":true},"poq":{"stream":"fastest","max_answers":`+fmt.Sprint(most)+`}`+more+`}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r.status, r.header = resp.StatusCode, resp.Header
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
			continue
		case data == "[DONE]":
			r.done = true
			continue
		}
		var e struct {
			Choices []struct {
				Text   string
				Finish string `json:"finish_reason"`
			}
			Usage map[string]int
			PoQ   *verdict
			Error *failure
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil || r.done || r.err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		for _, c := range e.Choices {
			r.text, r.finish = r.text+c.Text, r.finish+c.Finish
			if c.Text != "" && piece != nil {
				piece(r.text)
			}
		}
		r.err = e.Error
		if e.PoQ != nil {
			r.verdict = e.PoQ
		}
		if e.Usage != nil {
			r.usage = e.Usage
		}
	}
	return r
}

func TestFastestIsStreamedBeforeItIsJudgedAndTheVerdictFollows(t *testing.T) {
	t.Parallel()
	begun, read1 := make(chan struct{}), make(chan struct{})
	short := writer(func(ctx context.Context, emit func(string)) (*llm.Answer, error) {
		emit("I")
		close(begun)
		if err := wait(ctx, read1); err != nil { // the client has the beginning before there is an answer
			return nil, err
		}
		emit(" do.")
		return &llm.Answer{Text: "I do.", Model: "short", Stop: llm.StopLength, PromptTokens: 3, AnswerTokens: 4}, nil
	})
	long := writer(func(ctx context.Context, emit func(string)) (*llm.Answer, error) {
		if err := wait(ctx, read1); err != nil {
			return nil, err
		}
		return &llm.Answer{Text: "I have always done so.", Model: "long", Stop: llm.StopEnd}, nil
	})
	url := serve(t, network(t, short, long)).URL()
	r := read(t, url, 2, "", func(text string) {
		if text == "I" {
			close(read1)
		}
	})
	if r.text != "I do." || r.finish != "length" || !r.done || r.usage["prompt_tokens"] != 3 || r.usage["completion_tokens"] != 4 || r.usage["total_tokens"] != 7 {
		t.Errorf("%+v", r)
	}
	v := r.verdict
	if v == nil || v.Outcome != "PAID" || v.Streamed == nil || v.Streamed.Won || v.Streamed.Rank != 2 || v.Winner == v.Streamed.Worker || r.header.Get("X-PoQ-Task") != v.Task || r.header.Get("X-PoQ-Winner") != "" {
		t.Fatalf("verdict: %+v, header %v", v, r.header)
	}
	if len(v.Candidates) != 2 || v.Candidates[0].Model != "long" || v.Candidates[1].Model != "short" {
		t.Errorf("candidates: %+v", v.Candidates)
	}
}

func TestFastestStopsAtATextAcrossPieces(t *testing.T) {
	t.Parallel()
	url := serve(t, network(t, writer(func(_ context.Context, emit func(string)) (*llm.Answer, error) {
		for _, p := range []string{"one E", "NTER two", " E", "N", "D three END", " four"} {
			emit(p)
		}
		return &llm.Answer{Text: "one ENTER two END three END four", Stop: llm.StopLength, AnswerTokens: 9}, nil
	}))).URL()
	if r := read(t, url, 1, `,"stop":["END"]`, nil); r.text != "one ENTER two" || r.finish != "stop" || !r.done || !r.verdict.Streamed.Won || r.usage["completion_tokens"] != 4 {
		t.Errorf("%+v", r)
	}
}

func TestFastestThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	type work func(ctx context.Context, emit func(string), read <-chan struct{}) (*llm.Answer, error)
	soon := func(ctx context.Context, _ func(string), read <-chan struct{}) (*llm.Answer, error) {
		return &llm.Answer{Text: "An answer."}, wait(ctx, read)
	}
	for name, c := range map[string]struct {
		worker, other work
		code          string
	}{
		"fails": {func(ctx context.Context, emit func(string), read <-chan struct{}) (*llm.Answer, error) {
			emit("I")
			return nil, errors.Join(wait(ctx, read), errors.New("cut off"))
		}, nil, "worker_failed"},
		"is too late": {func(ctx context.Context, emit func(string), _ <-chan struct{}) (*llm.Answer, error) {
			emit("I")
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}, soon, "worker_failed"},
		"commits to another text": {func(ctx context.Context, emit func(string), read <-chan struct{}) (*llm.Answer, error) {
			emit("I")
			return &llm.Answer{Text: "You do."}, wait(ctx, read)
		}, nil, "text_changed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			had := make(chan struct{})
			var engines []llm.Engine
			for _, w := range []work{c.worker, c.other} {
				if w != nil {
					engines = append(engines, writer(func(ctx context.Context, emit func(string)) (*llm.Answer, error) { return w(ctx, emit, had) }))
				}
			}
			url := serve(t, network(t, engines...)).URL()
			r := read(t, url, 1, "", func(string) { close(had) })
			if r.status != http.StatusOK || r.text != "I" || r.finish != "" || r.done || r.err == nil || r.err.Code != c.code || r.err.PoQ == nil || r.err.PoQ.Task != r.header.Get("X-PoQ-Task") {
				t.Errorf("%+v, %+v", r, r.err)
			}
		})
	}
}

func TestFastestThatFailsUnseenMakesRoomForAnother(t *testing.T) {
	t.Parallel()
	failed := make(chan struct{})
	fails := writer(func(_ context.Context, emit func(string)) (*llm.Answer, error) {
		defer close(failed)
		emit("EN") // is held back: it may be where to stop
		return nil, errors.New("cut off")
	})
	writes := writer(func(ctx context.Context, emit func(string)) (*llm.Answer, error) {
		if err := wait(ctx, failed); err != nil {
			return nil, err
		}
		emit("I do.")
		return &llm.Answer{Text: "I do."}, nil
	})
	url := serve(t, network(t, fails, writes)).URL()
	if r := read(t, url, 2, `,"stop":"END"`, nil); r.text != "I do." || r.finish != "stop" || !r.done || !r.verdict.Streamed.Won {
		t.Errorf("%+v", r)
	}
}

func TestFastestIsAnsweredWithAStatusWhenNobodyBegins(t *testing.T) {
	t.Parallel()
	declines := engine(func(context.Context, string) (string, error) { return "", &llm.DeclineError{Reason: "not today"} })
	url := serve(t, network(t, declines)).URL()
	if r := read(t, url, 1, `,"poq":{"answer_timeout_ms":500}`, nil); r.status != http.StatusServiceUnavailable || r.header.Get("X-PoQ-Task") == "" {
		t.Errorf("%+v", r)
	}
}

func TestFinishReasonAndUsageAreWhatTheWinnerTold(t *testing.T) {
	t.Parallel()
	url := serve(t, network(t, writer(func(context.Context, func(string)) (*llm.Answer, error) {
		return &llm.Answer{Text: "I do, and more.", Model: "m", Stop: llm.StopLength, PromptTokens: 5, AnswerTokens: 6}, nil
	}))).URL()
	for more, want := range map[string]struct {
		finish string
		tokens int
	}{"": {"length", 6}, `,"stream":false,"stop":", and"`: {"stop", 1}} {
		_, _, a := ask(t, url+"/completions", `{"model":"poq-best","prompt":"Who?"`+more+`}`)
		if len(a.Choices) != 1 || a.Choices[0].FinishReason != want.finish || a.Usage["prompt_tokens"] != 5 || a.Usage["completion_tokens"] != want.tokens {
			t.Errorf("%+v", a)
		}
	}
}
