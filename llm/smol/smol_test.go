package smol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/poqmesh/poq/llm"
)

var update = flag.Bool("update", false, "write the golden tokens anew")

const article = `The town of Harrow Bay opened its new tidal power station on Monday. The plant, built over six years at a cost of 240 million euros,
will supply about 40,000 homes. Engineers lowered the last of its twelve turbines into the channel in March. Local fishers had opposed the project,
fearing for the herring that spawn in the bay, and the operator agreed to stop the turbines for three weeks each spring. The mayor said the station
would pay for itself within fifteen years.`

func embedded(t testing.TB) *prepared {
	t.Helper()
	m, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newEngine(t *testing.T, o Options) *Engine {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func generate(t *testing.T, e *Engine, prompt string, most int) *llm.Answer {
	t.Helper()
	a, err := e.Generate(context.Background(), llm.Request{Prompt: prompt, Options: llm.Options{MaxTokens: most}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// golden is a greedy answer as tokens: the first ones, without regard to how a sentence ends.
type golden struct {
	Prompt string  `json:"prompt"`
	Tokens []int32 `json:"tokens"`
	Text   string  `json:"text"` // what the tokens stand for, for readers
}

const goldenFile = "testdata/greedy.json"

func readGolden(t *testing.T) []golden {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// greedy reads a prompt and makes up to n tokens.
func greedy(m *prepared, k kernels, threads int, prompt string, n int) []int32 {
	ids := append(m.tokens.prompt(prompt, ContextTokens/2), m.tokens.afterPrompt()...)
	s := newSession(with(m, k), threads, m.begun.pos+len(ids)+n)
	s.resume(m.begun)
	s.read(context.Background(), ids)
	var made []int32
	s.write(context.Background(), n, newSampler(0, 1, 1, prompt), func(t int32) bool { made = append(made, t); return true })
	return made
}

func TestGreedyAnswersAreReproducible(t *testing.T) {
	m, all := embedded(t), readGolden(t)
	if !*update && (raceDetector || testing.Short()) {
		all = all[:2]
	}
	for i, g := range all {
		got := greedy(m, fastest(), 2, g.Prompt, 24)
		if *update {
			all[i].Tokens, all[i].Text = got, m.tokens.text(got)
		} else if !slices.Equal(got, g.Tokens) {
			t.Errorf("%s\n got %v %q\nwant %v %q", g.Prompt, got, m.tokens.text(got), g.Tokens, g.Text)
		}
	}
	if *update {
		writeGolden(t, all)
	}
}

func writeGolden(t *testing.T, all []golden) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	sep := "["
	for _, g := range all {
		b.WriteString(sep)
		sep = ","
		if err := e.Encode(g); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString("]\n")
	if err := os.WriteFile(goldenFile, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLogitsDependNeitherOnThreadsNorKernelsNorPieces(t *testing.T) {
	m := embedded(t)
	text := tokens(m.model, 21)
	logits := func(k kernels, threads int, pieces ...int) []float32 {
		s, rest := newSession(with(m, k), threads, len(text)), text
		for _, n := range pieces {
			s.advance(rest[:n])
			rest = rest[n:]
		}
		s.read(context.Background(), rest)
		return slices.Clone(s.head())
	}
	want := logits(fastest(), 1)
	for _, c := range []struct {
		name   string
		k      kernels
		thread int
		pieces []int
	}{
		{"two threads", fastest(), 2, nil},
		{"seven threads", fastest(), 7, nil},
		{"pieces", fastest(), 2, []int{1, 3, 16}},
		{"plain kernels", plain, 2, nil},
	} {
		if c.k.name == plain.name && raceDetector {
			continue // takes long, and the kernels have a test of their own
		}
		if !slices.Equal(logits(c.k, c.thread, c.pieces...), want) {
			t.Errorf("%s: other logits", c.name)
		}
	}
}

func TestOneModelServesManyRequestsAtOnce(t *testing.T) {
	m := embedded(t)
	first, second := newEngine(t, Options{Threads: 2}), newEngine(t, Options{Temperature: 0.9, Seed: 7, Threads: 1})
	prompts := []string{"What is the capital of France?", "Name a color.", "What is 2 + 2?"}
	const most = 6
	type key struct{ engine, prompt int }
	want := map[key]string{}
	for i, e := range []*Engine{first, second} {
		for j, p := range prompts {
			want[key{i, j}] = generate(t, e, p, most).Text
		}
	}
	var wg sync.WaitGroup
	for k, text := range want {
		wg.Go(func() {
			e := []*Engine{first, second}[k.engine]
			a, err := e.Generate(context.Background(), llm.Request{Prompt: prompts[k.prompt], Options: llm.Options{MaxTokens: most}}, nil)
			if err != nil || a.Text != text {
				t.Errorf("engine %d, %s: got %v, %v, alone %q", k.engine, prompts[k.prompt], a, err, text)
			}
		})
	}
	wg.Wait()
	if again := embedded(t); again.model != m.model {
		t.Error("the weights were loaded twice")
	}
}

func TestAnswerIsWhatWasEmitted(t *testing.T) {
	var pieces []string
	e := newEngine(t, Options{})
	a, err := e.Generate(context.Background(), llm.Request{Prompt: "What is the capital of France?"}, func(s string) { pieces = append(pieces, s) })
	if err != nil {
		t.Fatal(err)
	}
	if a.Text != strings.Join(pieces, "") || len(pieces) < 3 {
		t.Errorf("answer %q, emitted %q", a.Text, pieces)
	}
	if !strings.Contains(a.Text, "Paris") || a.Stop != llm.StopEnd || a.Model != e.Models()[0] || a.AnswerTokens < len(pieces) || a.PromptTokens < 20 {
		t.Errorf("got %+v", a)
	}
}

func TestAnswerHasAtMostTheTokensAskedFor(t *testing.T) {
	e := newEngine(t, Options{MaxTokens: 5})
	for asked, most := range map[int]int{0: 5, 1: 1, 9: 9} {
		a := generate(t, e, "Why is the sky blue?", asked)
		if a.AnswerTokens != most || a.Stop != llm.StopLength {
			t.Errorf("asked for %d: got %+v", asked, a)
		}
	}
}

func TestSeedMakesDrawnAnswersReproducible(t *testing.T) {
	answers := map[string]bool{}
	for _, seed := range []uint64{7, 7, 8, 9} {
		answers[generate(t, newEngine(t, Options{Temperature: 1.2, Seed: seed}), "Tell me a story.", 10).Text] = true
	}
	if len(answers) < 2 || len(answers) > 3 {
		t.Errorf("three seeds, one of them twice, gave %d answers", len(answers))
	}
}

func TestRequestWishesHowItsAnswerIsDrawn(t *testing.T) {
	ask := func(e *Engine, o llm.Options) *llm.Answer {
		t.Helper()
		o.MaxTokens = 10
		a, err := e.Generate(t.Context(), llm.Request{Prompt: "Tell me a story.", Options: o}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	greedy, drawing := newEngine(t, Options{}), newEngine(t, Options{Temperature: 1.2, Seed: 7})
	plain, drawn := ask(greedy, llm.Options{}).Text, ask(drawing, llm.Options{}).Text
	if plain == drawn {
		t.Fatalf("drawn as the likeliest: %q", plain)
	}
	for name, c := range map[string]struct {
		engine  *Engine
		options llm.Options
		want    string
	}{
		"temperature and seed": {greedy, llm.Options{Temperature: new(1.2), Seed: new(int64(7))}, drawn},
		"temperature 0":        {drawing, llm.Options{Temperature: new(0.0)}, plain},
		"top_p 0":              {drawing, llm.Options{TopP: new(0.0)}, plain},
		"seed 7":               {newEngine(t, Options{Temperature: 1.2, Seed: 8}), llm.Options{Seed: new(int64(7))}, drawn},
	} {
		if got := ask(c.engine, c.options).Text; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// A seed of 0 is one, and not the wish for a new one each time.
	zero := llm.Options{Temperature: new(2.0), Seed: new(int64(0))}
	if a, b := ask(greedy, zero).Text, ask(greedy, zero).Text; a != b {
		t.Errorf("seed 0 gives %q and %q", a, b)
	}
}

func TestAnswerEndsAtATextToStopAt(t *testing.T) {
	var emitted strings.Builder
	const prompt = "What is the capital of France?"
	whole := generate(t, newEngine(t, Options{}), prompt, 0)
	req := llm.Request{Prompt: prompt, Options: llm.Options{Stop: []string{"Paris"}}}
	a, err := newEngine(t, Options{}).Generate(t.Context(), req, func(s string) { emitted.WriteString(s) })
	if err != nil {
		t.Fatal(err)
	}
	if want := llm.Cut(whole.Text, req.Stop); a.Text != want || want == whole.Text || emitted.String() != want || a.Stop != llm.StopEnd || a.AnswerTokens >= whole.AnswerTokens {
		t.Errorf("got %+v, emitted %q, want the text %q", a, emitted.String(), want)
	}
}

func TestCancelStopsBetweenTokens(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	reason := errors.New("the payer left")
	pieces := 0
	_, err := newEngine(t, Options{}).Generate(ctx, llm.Request{Prompt: "Why is the sky blue?"}, func(string) {
		if pieces++; pieces == 2 {
			cancel(reason)
		}
	})
	if !errors.Is(err, reason) || pieces != 2 {
		t.Errorf("got %v after %d pieces", err, pieces)
	}
}

// dying is a context that ends when it has been asked so many times.
type dying struct {
	context.Context
	left int
}

func (d *dying) Err() error {
	if d.left--; d.left < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

func TestCancelStopsBetweenChunksOfThePrompt(t *testing.T) {
	m := embedded(t)
	s := newSession(m.model, 2, 64)
	err := s.read(&dying{context.Background(), 2}, tokens(m.model, 64))
	if err == nil || s.pos != 2*chunk {
		t.Errorf("got %v at token %d", err, s.pos)
	}
}

func TestRequestsWaitForTheirTurn(t *testing.T) {
	e := newEngine(t, Options{})
	for range maxRequests {
		e.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Generate(ctx, llm.Request{Prompt: "Hello?"}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestEmptyPromptIsDeclined(t *testing.T) {
	var d *llm.DeclineError
	if _, err := newEngine(t, Options{}).Generate(context.Background(), llm.Request{Prompt: " \n"}, nil); !errors.As(err, &d) {
		t.Errorf("got %v", err)
	}
}

func TestLongPromptLosesItsMiddle(t *testing.T) {
	tk := embedded(t).tokens
	long := "Who was it? " + strings.Repeat("Nothing happened here. ", 4000) + "It was the gardener."
	for _, limit := range []int{40, 500, ContextTokens} {
		ids := tk.prompt(long, limit)
		text := tk.text(ids)
		if len(ids) != limit || !strings.HasPrefix(text, "Who was it?") || !strings.HasSuffix(text, "It was the gardener.") {
			t.Errorf("limit %d: %d tokens: %s", limit, len(ids), text)
		}
	}
	if ids := tk.prompt("Who was it?", 40); tk.text(ids) != "Who was it?" {
		t.Errorf("got %q", tk.text(ids))
	}
}

func TestLongAnswerStopsWhereASentenceEnds(t *testing.T) {
	tk := embedded(t).tokens
	for _, c := range []struct {
		text, next string
		want       bool
	}{
		{"It is old.", " The", true},
		{"Is it old?", "\n", true},
		{"It is old.", "com", false},
		{"It costs 3.", " 5", false},
		{"- Blue\n3.", " Red", false},
		{"- Blue\n", "-", true},
		{"It is", " old", false},
		{"", " The", false},
	} {
		if got := tk.endsSentence(tk.encode(nil, c.text), tk.encode(nil, c.next)[0]); got != c.want {
			t.Errorf("%q before %q: got %v", c.text, c.next, got)
		}
	}
}

func TestRepetitionIsNoticed(t *testing.T) {
	count := func(n, period int) (ids []int32) {
		for i := range n {
			ids = append(ids, int32(i%period))
		}
		return ids
	}
	for _, c := range []struct {
		name   string
		tokens []int32
		want   bool
	}{
		{"nothing", nil, false},
		{"one token 23 times", count(23, 1), false},
		{"one token 24 times", count(24, 1), true},
		{"a phrase of 7, four times", count(28, 7), true},
		{"a sentence of 30, not quite twice", count(59, 30), false},
		{"a sentence of 30, twice", count(60, 30), true},
		{"after other text", append(count(100, 100), count(24, 3)...), true},
		{"before other text", append(count(48, 3), 7, 8, 9), false},
	} {
		if repeats(c.tokens) != c.want {
			t.Errorf("%s: got %v", c.name, !c.want)
		}
	}
}

func TestDrawFollowsTheProbabilities(t *testing.T) {
	logits := make([]float32, 100)
	logits[3], logits[5], logits[7] = 5, 6, 5.5
	const draws = 20000
	count := func(temperature, topP float64) map[int32]int {
		n := map[int32]int{}
		s := newSampler(temperature, topP, 1, "")
		for range draws {
			n[s.next(logits)]++
		}
		return n
	}
	if n := count(0, 1); n[5] != draws {
		t.Errorf("greedy: %v", n)
	}
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v))
	}
	for token, n := range count(1, 1) {
		p := math.Exp(float64(logits[token])) / sum
		if deviation := math.Sqrt(draws * p * (1 - p)); math.Abs(float64(n)-draws*p) > 6*deviation {
			t.Errorf("token %d was drawn %d times, want %.0f and %.0f more or less at most", token, n, draws*p, 6*deviation)
		}
	}
	if n := count(1, 0.6); len(n) != 2 || n[5]+n[7] != draws {
		t.Errorf("with top-p 0.6: %v", n)
	}
	newSampler(1, 1, 1, "").next([]float32{float32(math.NaN()), 1}) // must not panic
}

func TestWeightsCanBeReadAgainAfterTheirRelease(t *testing.T) {
	before := sha256.Sum256(weights)
	release(weights)
	if sha256.Sum256(weights) != before {
		t.Error("the embedded weights have changed")
	}
	want, err := hex.DecodeString("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")
	if err != nil || !bytes.Equal(before[:], want) {
		t.Errorf("the embedded weights have sha256 %x", before)
	}
	release(weights[5:77]) // less than a page
	release(nil)
}
