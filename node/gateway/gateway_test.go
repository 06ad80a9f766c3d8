package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/gateway"
	"github.com/poqmesh/poq/quality"
)

// lengthJudge likes long answers.
type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length")) }
func (lengthJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(min(10000, 3000+100*len(answer))), nil
}

// engine answers with a function.
type engine func(ctx context.Context, prompt string) (string, error)

func (engine) Name() string     { return "test" }
func (engine) Models() []string { return []string{"test"} }
func (e engine) Generate(ctx context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	text, err := e(ctx, r.Prompt)
	if err != nil {
		return nil, err
	}
	return &llm.Answer{Text: text, Stop: llm.StopEnd}, nil
}

// after answers with what it is asked, after a text.
func after(text string) engine {
	return func(_ context.Context, prompt string) (string, error) { return text + prompt, nil }
}

// network starts a real network of one validator.
func network(t testing.TB, engines ...llm.Engine) *node.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := devnet.Start(ctx, devnet.Config{Dir: t.TempDir(), Validators: 1, Engines: engines, Judge: lengthJudge{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d.Payer().Node
}

// serve serves the gateway on loopback.
func serve(t testing.TB, n gateway.Asker, opts ...gateway.Option) *gateway.Server {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", n, opts...)
}

func serveAt(t testing.TB, addr string, n gateway.Asker, opts ...gateway.Option) *gateway.Server {
	t.Helper()
	s, err := gateway.Serve(addr, n, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func post(t testing.TB, ctx context.Context, url, body string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	return c.Do(r)
}

// answer is what tests read of a response.
type answer struct {
	ID, Object, Model string
	Choices           []struct {
		Index        int
		Text         string
		Message      struct{ Role, Content string }
		Delta        struct{ Role, Content string }
		FinishReason string `json:"finish_reason"`
	}
	Usage map[string]int
	PoQ   *struct {
		Task, Outcome string
		Fee           int
		Winner        node.Party
		Score         int
		Candidates    []struct {
			Rank, Score, Paid int
			Worker            node.Party
		}
		Timeline node.Timeline
		Receipt  string
		Ignored  []string
	}
	Error *struct {
		Message, Type, Param, Code string
		PoQ                        *struct{ Task string }
	}
}

func ask(t testing.TB, url, body string) (status int, header http.Header, a answer) {
	t.Helper()
	r, err := post(t, t.Context(), url, body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return r.StatusCode, r.Header, a
}

func TestChatIsAnsweredWithTheWinnerAndHowItWasSettled(t *testing.T) {
	t.Parallel()
	url := serve(t, network(t, after("a"), after("the longest of all: "), after("bb"))).URL()
	status, header, a := ask(t, url+"/chat/completions", `{"model":"poq-best","messages":[{"role":"user","content":"Who?"}],"temperature":0.5,"logit_bias":{},"best_of":null,"user":"x","poq":{"fee":2000000}}`)
	if status != http.StatusOK || a.Object != "chat.completion" || a.Model != "poq-best" || len(a.Choices) != 1 {
		t.Fatalf("%d %+v", status, a)
	}
	if c := a.Choices[0]; c.Message.Role != "assistant" || c.Message.Content != "the longest of all: Who?" || c.FinishReason != "stop" {
		t.Errorf("choice: %+v", c)
	}
	if a.Usage["prompt_tokens"] != 1 || a.Usage["completion_tokens"] != 6 || a.Usage["total_tokens"] != 7 {
		t.Errorf("usage: %v", a.Usage)
	}
	p := a.PoQ
	if p == nil || p.Outcome != "PAID" || p.Fee != 2_000_000 || p.Winner.Account.IsZero() || len(p.Candidates) != 3 || p.Candidates[0].Score != p.Score || p.Candidates[0].Paid == 0 || p.Timeline.Settled == 0 {
		t.Fatalf("poq: %+v", p)
	}
	if len(p.Ignored) != 1 || p.Ignored[0] != "logit_bias" {
		t.Errorf("ignored: %v", p.Ignored)
	}
	for name, want := range map[string]string{"X-PoQ-Task": p.Task, "X-PoQ-Fee": "2000000", "X-PoQ-Winner": p.Winner.Account.String(), "X-PoQ-Outcome": "PAID"} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestSeveralChoicesAreTheRankedAnswersOfDifferentWorkers(t *testing.T) {
	t.Parallel()
	url := serve(t, network(t, after("a"), after("ccc"), after("bb"))).URL()
	_, _, a := ask(t, url+"/completions", `{"model":"poq-best","prompt":["! and more"],"n":3,"stop":" and"}`)
	var got []string
	for i, c := range a.Choices {
		if got = append(got, c.Text); c.Index != i {
			t.Errorf("choice %d has index %d", i, c.Index)
		}
	}
	if a.Object != "text_completion" || strings.Join(got, " ") != "ccc! bb! a!" {
		t.Errorf("%+v", a)
	}
}

func TestWinnerAmongEqualsIsTheOneThatIsShown(t *testing.T) {
	t.Parallel()
	url := serve(t, network(t, after("a"), after("a"), after("a"))).URL()
	_, header, a := ask(t, url+"/completions", `{"model":"poq-best","prompt":"X"}`)
	if p := a.PoQ; p == nil || len(p.Candidates) != 3 || p.Candidates[2].Rank != 1 || p.Winner != p.Candidates[0].Worker || header.Get("X-PoQ-Winner") != p.Winner.Account.String() {
		t.Errorf("%+v", p)
	}
}

func TestStreamJoinedIsTheAnswer(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("größer als ", 200)
	url := serve(t, network(t, after(long))).URL()
	for _, kind := range []string{"chat/completions", "completions"} {
		r, err := post(t, t.Context(), url+"/"+kind, `{"model":"poq-best","stream":true,"stream_options":{"include_usage":true},"prompt":"X","messages":[{"role":"user","content":"X"}]}`)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if ct := r.Header.Get("Content-Type"); ct != "text/event-stream" || r.Header.Get("X-PoQ-Task") == "" {
			t.Errorf("headers: %v", r.Header)
		}
		var text, finish, role string
		var chunks int
		var usage map[string]int
		var settled, done bool
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			if data == "[DONE]" {
				done = true
				continue
			}
			var a answer
			if err := json.Unmarshal([]byte(data), &a); err != nil || done {
				t.Fatalf("%s: %v", data, err)
			}
			for _, c := range a.Choices {
				chunks++
				text, finish, role = text+c.Delta.Content+c.Text, finish+c.FinishReason, role+c.Delta.Role
			}
			settled = settled || a.PoQ != nil
			if a.Usage != nil {
				usage = a.Usage
			}
		}
		if text != long+"X" || finish != "stop" || !done || !settled || chunks < 5 || usage["total_tokens"] == 0 {
			t.Errorf("%s: %d bytes in %d chunks, finish %q, done %v, settled %v, usage %v", kind, len(text), chunks, finish, done, settled, usage)
		}
		if want := map[string]string{"chat/completions": "assistant", "completions": ""}[kind]; role != want {
			t.Errorf("%s: role %q, want %q", kind, role, want)
		}
	}
}

func TestErrorsHaveTheirStatusAndNameTheParameter(t *testing.T) {
	t.Parallel()
	declines := engine(func(context.Context, string) (string, error) { return "", &llm.DeclineError{Reason: "not today"} })
	url := serve(t, network(t, declines)).URL()
	user := `"messages":[{"role":"user","content":"Who?"}]`
	for _, c := range []struct {
		path, body  string
		status      int
		param, code string
	}{
		{"/chat/completions", `{`, 400, "", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"n":"two"}`, 400, "n", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"n":17}`, 400, "n", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"temperature":2.5}`, 400, "temperature", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"temperature":"hot"}`, 400, "temperature", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"top_p":-1}`, 400, "top_p", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"seed":0.5}`, 400, "seed", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"max_tokens":0}`, 400, "max_tokens", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"max_completion_tokens":3000000000}`, 400, "max_completion_tokens", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"stop":["1","2","3","4","5"]}`, 400, "stop", ""},
		{"/completions", `{"model":"poq-best","prompt":"\u0000x"}`, 400, "prompt", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"tools":[{"type":"function"}]}`, 400, "tools", "unsupported_parameter"},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"response_format":{"type":"json_object"}}`, 400, "response_format", "unsupported_parameter"},
		{"/chat/completions", `{"model":"poq-best","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}`, 400, "messages[0].content[0].type", "unsupported_value"},
		{"/chat/completions", `{"model":"poq-best","messages":[{"role":"tool","content":"4"}]}`, 400, "messages[0].role", "unsupported_value"},
		{"/chat/completions", `{"model":"poq-best","messages":[]}`, 400, "messages", ""},
		{"/chat/completions", `{"model":"poq-best","messages":[{"role":"user","content":" "}]}`, 400, "messages", ""},
		{"/chat/completions", `{"model":"poq-best","messages":[{"role":"user","content":"` + strings.Repeat("x", 300<<10) + `"}]}`, 400, "messages", "context_length_exceeded"},
		{"/chat/completions", `{"model":"gpt-4o",` + user + `}`, 404, "model", "model_not_found"},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"poq":{"stream":"slowest"}}`, 400, "poq.stream", "unsupported_value"},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"poq":{"stream":"fastest"}}`, 400, "poq.stream", "unsupported_value"},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"stream":true,"n":2,"poq":{"stream":"fastest"}}`, 400, "n", "unsupported_value"},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"poq":{"fee":-1}}`, 400, "poq.fee", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"poq":{"max_answers":99}}`, 400, "poq", ""},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"poq":{"fee":5000000000}}`, 402, "", "insufficient_balance"},
		{"/chat/completions", `{"model":"poq-best",` + user + `,"tools":[],"tool_choice":"none","poq":{"max_answers":1,"answer_timeout_ms":3000}}`, 503, "", "no_workers"},
		{"/chat/completions", strings.Repeat(" ", 4<<20+1), 413, "", "request_too_large"},
		{"/completions", `{"model":"poq-best","prompt":["a","b"]}`, 400, "prompt", ""},
		{"/completions", `{"model":"poq-best","prompt":[1,2]}`, 400, "prompt", ""},
		{"/embeddings", `{}`, 404, "", "unknown_url"},
	} {
		status, header, a := ask(t, url+c.path, c.body)
		name := c.body[:min(len(c.body), 120)]
		if a.Error == nil || status != c.status || a.Error.Param != c.param || a.Error.Code != c.code || a.Error.Message == "" || a.Error.Type == "" {
			t.Errorf("%s: %d %+v, want %d %q %q", name, status, a.Error, c.status, c.param, c.code)
			continue
		}
		ordered := c.status == 503
		if retry := header.Get("X-Should-Retry"); (retry == "false") != ordered || (a.Error.PoQ != nil) != ordered {
			t.Errorf("%s: retry %q, %+v: who tries again pays again", name, retry, a.Error)
		}
		if ordered && !strings.Contains(a.Error.Message, "not today") {
			t.Errorf("the reason is not told: %s", a.Error.Message)
		}
	}
}

// watched tells how following a task ends.
type watched struct {
	gateway.Asker
	returned chan error
}

func (w watched) Order(ctx context.Context, prompt string, o node.AskOptions) (*node.Task, error) {
	task, err := w.Asker.Order(ctx, prompt, o)
	if err == nil {
		go func() {
			_, err := task.Wait()
			w.returned <- err
		}()
	}
	return task, err
}

// slow is an engine that answers when it is told to.
func slow() (e engine, asked chan struct{}, let chan struct{}) {
	asked, let = make(chan struct{}, 8), make(chan struct{})
	return func(ctx context.Context, _ string) (string, error) {
		asked <- struct{}{}
		select {
		case <-let:
		case <-ctx.Done():
		}
		return "late", ctx.Err()
	}, asked, let
}

func TestClientThatLeavesEndsItsRequest(t *testing.T) {
	t.Parallel()
	e, asked, let := slow()
	defer close(let)
	w := watched{network(t, e), make(chan error, 1)}
	url := serve(t, w).URL()
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if r, err := post(t, ctx, url+"/completions", `{"model":"poq-best","prompt":"Who?","stream":true}`); err == nil {
			r.Body.Close()
			t.Errorf("answered with %d", r.StatusCode)
		}
	}()
	<-asked
	leave()
	<-gone
	select {
	case err := <-w.returned:
		if err == nil {
			t.Error("the request was settled")
		}
	case <-time.After(time.Minute):
		t.Fatal("the request runs on")
	}
}

func TestRequestThatRunsAtTheEndIsToldItsTask(t *testing.T) {
	t.Parallel()
	e, asked, let := slow()
	defer close(let)
	s := serve(t, network(t, e))
	closed := make(chan error)
	go func() {
		<-asked
		closed <- s.Close()
	}()
	status, header, a := ask(t, s.URL()+"/completions", `{"model":"poq-best","prompt":"Who?"}`)
	if status != http.StatusGatewayTimeout || a.Error == nil || a.Error.Code != "deadline" || a.Error.PoQ == nil || len(a.Error.PoQ.Task) != 64 || header.Get("X-Should-Retry") != "false" {
		t.Errorf("%d %+v", status, a.Error)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// having is an engine with models, the last of which it answers with.
type having []string

func (having) Name() string       { return "having" }
func (h having) Models() []string { return h }
func (h having) Generate(_ context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	return &llm.Answer{Text: "an answer of " + h[len(h)-1], Stop: llm.StopEnd}, nil
}

func TestModelsAreListedAndAskedFor(t *testing.T) {
	t.Parallel()
	url := serve(t, network(t, having{"small", "Qwen/Qwen2.5-0.5B"}, having{"small", "poq-best", "b:1"})).URL()
	get := func(path string, into any) int {
		t.Helper()
		r, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if err := json.NewDecoder(r.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
		return r.StatusCode
	}
	type model struct {
		ID, Object string
		OwnedBy    string `json:"owned_by"`
		PoQ        *struct{ Workers int }
	}
	var list struct {
		Object string
		Data   []model
	}
	get("/models", &list)
	var ids []string
	for i, m := range list.Data {
		want := 1
		if m.ID == "small" {
			want = 2
		}
		if m.Object != "model" || m.OwnedBy == "" || (i == 0) != (m.PoQ == nil) || i > 0 && m.PoQ.Workers != want {
			t.Errorf("model %+v", m)
		}
		ids = append(ids, m.ID)
		var one model
		if status := get("/models/"+m.ID, &one); status != http.StatusOK || one.ID != m.ID || one.Object != "model" {
			t.Errorf("%s: %d %+v", m.ID, status, one)
		}
	}
	if list.Object != "list" || !slices.Equal(ids, []string{"poq-best", "Qwen/Qwen2.5-0.5B", "b:1", "small"}) {
		t.Errorf("%s of %q", list.Object, ids)
	}
	var none answer
	if status := get("/models/tiny", &none); status != http.StatusNotFound || none.Error.Code != "model_not_found" || none.Error.Param != "model" || !strings.Contains(none.Error.Message, "b:1, poq-best, small") {
		t.Errorf("%d %+v", status, none.Error)
	}

	for model, answers := range map[string][]string{"small": {"an answer of Qwen/Qwen2.5-0.5B", "an answer of b:1"}, "b:1": {"an answer of b:1"}, "Qwen/Qwen2.5-0.5B": {"an answer of Qwen/Qwen2.5-0.5B"}} {
		status, _, a := ask(t, url+"/completions", fmt.Sprintf(`{"model":%q,"prompt":"Who?","n":%d}`, model, len(answers)))
		if status != http.StatusOK || a.Model != model || len(a.Choices) != len(answers) {
			t.Errorf("%s: %d %+v", model, status, a)
			continue
		}
		var got []string
		for _, c := range a.Choices {
			got = append(got, c.Text)
		}
		slices.Sort(got)
		if !slices.Equal(got, answers) {
			t.Errorf("%s: %q, want %q", model, got, answers)
		}
	}
	status, header, a := ask(t, url+"/completions", `{"model":"gpt-4o","prompt":"Who?"}`)
	if status != http.StatusNotFound || a.Error.Code != "model_not_found" || a.Error.Param != "model" || !strings.Contains(a.Error.Message, "no such model: gpt-4o; there are Qwen/Qwen2.5-0.5B, b:1, poq-best, small; or use poq-best") || header.Get("X-PoQ-Task") != "" {
		t.Errorf("%d %+v", status, a.Error)
	}
	if status, _, a := ask(t, url+"/completions", `{"model":"two\nlines","prompt":"Who?"}`); status != http.StatusBadRequest || a.Error.Param != "model" {
		t.Errorf("%d %+v", status, a.Error)
	}
	if status, _, a := ask(t, url+"/completions", `{"model":"poq-best","prompt":"Who?"}`); status != http.StatusOK || a.Model != "poq-best" || len(a.PoQ.Candidates) != 2 {
		t.Errorf("%d %+v", status, a)
	}
}

func TestOnlyThisMachineIsServed(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.org:80", "nonsense", "127.0.0.1:x"} {
		if s, err := gateway.Serve(addr, nil); err == nil {
			s.Close()
			t.Errorf("serves at %s", addr)
		}
	}
}

func TestWebPagesOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for name, c := range map[string]struct {
		method, host string
		header       http.Header
		status       int
	}{
		"a page elsewhere":       {http.MethodPost, "", http.Header{"Origin": {"https://evil.example"}}, 403},
		"a browser that says so": {http.MethodPost, "", http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		"a name that leads here": {http.MethodGet, "evil.example", nil, 403},
		"a program":              {http.MethodPost, "localhost:80", nil, 400},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, s.URL()+"/chat/completions", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		for k, v := range c.header {
			r.Header[k] = v
		}
		got, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, got.Body)
		got.Body.Close()
		if got.StatusCode != c.status || got.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d, want %d", name, got.StatusCode, c.status)
		}
	}
}

// inside tells how long each task takes.
type inside struct {
	gateway.Asker
	took chan time.Duration
}

func (i inside) Order(ctx context.Context, prompt string, o node.AskOptions) (*node.Task, error) {
	begin := time.Now()
	task, err := i.Asker.Order(ctx, prompt, o)
	if err == nil {
		go func() {
			for e := range task.Events() {
				if e.Step == ledger.Settled {
					i.took <- time.Since(begin)
				}
			}
		}()
	}
	return task, err
}

// BenchmarkOverhead tells what the gateway adds to a task with an instant engine: client, connection and JSON on both sides
// included.
func BenchmarkOverhead(b *testing.B) {
	n := inside{network(b, after("a")), make(chan time.Duration, 1)}
	url := serve(b, n).URL() + "/completions"
	var over, task []time.Duration
	for b.Loop() {
		begin := time.Now()
		if status, _, a := ask(b, url, `{"model":"poq-best","prompt":"X","poq":{"fee":1000}}`); status != http.StatusOK {
			b.Fatalf("%d %+v", status, a.Error)
		}
		all, took := time.Since(begin), <-n.took
		over, task = append(over, all-took), append(task, took)
	}
	for name, d := range map[string][]time.Duration{"overhead": over, "task": task} {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-us")
		b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), name+"-p99-us")
	}
}
