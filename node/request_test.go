package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

// everyOption is a request that leaves nothing out.
func everyOption() llm.Request {
	return llm.Request{Prompt: "Who?", Options: llm.Options{
		Model: "m", MaxTokens: 5, Temperature: new(0.7), TopP: new(1.0), Seed: new(int64(-2)), Stop: []string{"\n", "User:"},
	}}
}

func TestRequestIsEncodedAsDocumented(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		request llm.Request
		want    string // hex
	}{
		{llm.Request{Prompt: "Who?"}, hex.EncodeToString([]byte("Who?"))},
		{everyOption(), "0001" + "07" + "02bc" + "03e8" + "fffffffffffffffe" + "00000005" + "00000001" + "6d" +
			"0002" + "00000001" + "0a" + "00000005" + "557365723a" + "00000004" + "57686f3f"},
		{llm.Request{Prompt: "Who?", Options: llm.Options{Temperature: new(0.0)}}, "0001" + "01" + "0000" + "0000" + "0000000000000000" + "00000000" + "00000000" + "0000" + "00000004" + "57686f3f"},
	} {
		got, err := EncodePrompt(c.request)
		if err != nil || hex.EncodeToString(got) != c.want {
			t.Errorf("%+v: %x, %v, want %s", c.request, got, err, c.want)
		}
	}
	if _, err := EncodePrompt(llm.Request{Prompt: "\x00\x01"}); !errors.Is(err, ErrNulPrompt) {
		t.Errorf("a prompt with a NUL first: %v", err)
	}
}

func TestRequestIsDecodedAsItWasEncoded(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	sometimes := func(f func()) {
		if r.IntN(2) == 0 {
			f()
		}
	}
	for range 2000 {
		q := llm.Request{Prompt: strings.Repeat("ä ", r.IntN(5))}
		sometimes(func() { q.Model = "model-" + strings.Repeat("x", r.IntN(100)) })
		sometimes(func() { q.MaxTokens = int(r.Int32()) })
		sometimes(func() { q.Temperature = new(float64(r.IntN(2001)) / 1000) })
		sometimes(func() { q.TopP = new(float64(r.IntN(1001)) / 1000) })
		sometimes(func() { q.Seed = new(int64(r.Uint64())) })
		sometimes(func() {
			for range 1 + r.IntN(llm.MaxStops) {
				q.Stop = append(q.Stop, strings.Repeat("é", 1+r.IntN(llm.MaxStop/2)))
			}
		})
		b, err := EncodePrompt(q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		if got, err := decodePrompt(b); err != nil || !reflect.DeepEqual(got, q) {
			t.Fatalf("got %+v, %v, want %+v", got, err, q)
		}
	}
}

// malformed are blobs that begin like a block and are none.
func malformed(t testing.TB) (list [][]byte) {
	whole, err := EncodePrompt(everyOption())
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) {
		b := bytes.Clone(whole)
		b[at] = to
		list = append(list, b)
	}
	change(1, 2)                                                             // another version
	change(2, 0x0f)                                                          // an unknown option
	change(2, 0x06)                                                          // a temperature that is not given
	change(3, 0xff)                                                          // a temperature out of range
	change(15, 0xff)                                                         // too many tokens
	change(23, 0)                                                            // a name that can't be printed
	change(len(whole)-4, 0)                                                  // a prompt that would be a block
	list = append(list, whole[:len(whole)-1], append(whole, 'x'), []byte{0}) // cut short, left over
	none := append([]byte{0, 1}, make([]byte, 1+2+2+8+4+4+2)...)
	return append(list, crypto.AppendBytes(none, "Who?")) // no options: that is the prompt as it stands
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	for _, b := range malformed(t) {
		if q, err := decodePrompt(b); !errors.Is(err, crypto.ErrEncoding) {
			t.Errorf("%x: %+v, %v", b, q, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	whole, err := EncodePrompt(everyOption())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("Who?"))
	for _, b := range malformed(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		q, err := decodePrompt(blob)
		if err != nil {
			return
		}
		again, err := EncodePrompt(q)
		if err != nil || !bytes.Equal(again, blob) {
			t.Errorf("%x is read as %+v, which is written as %x, %v", blob, q, again, err)
		}
	})
}

// noting is an engine that tells what it is asked.
type noting struct {
	engine
	mu    sync.Mutex
	asked []llm.Request
}

func (n *noting) Models() []string { return []string{everyOption().Model} }

func (n *noting) Generate(ctx context.Context, q llm.Request, emit func(string)) (*llm.Answer, error) {
	n.mu.Lock()
	n.asked = append(n.asked, q)
	n.mu.Unlock()
	return n.engine.Generate(ctx, q, emit)
}

func TestOptionsReachTheEngineAndTheJudgeSeesTheTextAlone(t *testing.T) {
	t.Parallel()
	e := &noting{engine: says("an answer")}
	s := startSwarm(t, 1, e)
	want := everyOption()
	for _, prompt := range []string{want.Prompt, strings.Repeat("long ", ledger.MaxInline/4)} { // inline, and fetched
		want.Prompt = prompt
		got := s.ask(prompt, AskOptions{MaxAnswers: 1, Options: want.Options})
		if got.Outcome != ledger.Paid || got.Prompt != prompt || !reflect.DeepEqual(got.Options, want.Options) {
			t.Errorf("settled as %v, with %+v", got.Outcome, got.Options)
		}
		e.mu.Lock()
		asked := e.asked[len(e.asked)-1]
		e.mu.Unlock()
		if !reflect.DeepEqual(asked, want) {
			t.Errorf("the engine got %+v, want %+v", asked, want)
		}
		score, err := lengthJudge{}.Score(t.Context(), prompt, "an answer") // it counts the prompt's bytes
		if err != nil || got.Answers[0].Score != ledger.Score(score) {
			t.Errorf("judged with %d, want %d, %v", got.Answers[0].Score, score, err)
		}
	}
}

func TestWorkerCutsWhatItsEngineDoesNot(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("one, two"))
	stop := func(at string) llm.Request {
		return llm.Request{Prompt: "Count.", Options: llm.Options{Stop: []string{at}}}
	}
	got := s.ask("Count.", AskOptions{MaxAnswers: 1, Options: stop(", ").Options})
	if len(got.Answers) != 1 || got.Answers[0].Text != "one" {
		t.Errorf("answered with %+v", got.Answers)
	}
	var declined *llm.DeclineError
	if _, err := s.workers[0].node.worker.ask(soon(t), stop("one"), nil); !errors.As(err, &declined) || declined.Reason != "the answer came out empty" {
		t.Errorf("answered with %v", err)
	}
}

func TestMalformedPromptIsNeitherAnsweredNorScored(t *testing.T) {
	t.Parallel()
	e := &noting{engine: says("an answer")}
	s := startSwarm(t, 1, e)
	for _, blob := range malformed(t) {
		o := ledger.Order{Prompt: crypto.Sum(blob)}
		worker, validator := s.workers[0].node, s.validators[0].node
		worker.content.keep(blob)
		validator.content.keep(blob)
		var declined *llm.DeclineError
		if _, err := worker.worker.prepare(soon(t), worker.worker.teller.begin(o.Prompt, o.Payer), o); !errors.As(err, &declined) || declined.Reason != "the prompt is malformed" {
			t.Errorf("%x: the worker says %v", blob, err)
		}
		if _, err := validator.score(soon(t), o, ledger.AnswerID{}, []byte("an answer")); !errors.Is(err, crypto.ErrEncoding) {
			t.Errorf("%x: the judge says %v", blob, err)
		}
	}
	if len(e.asked) > 0 {
		t.Errorf("the engine got %+v", e.asked)
	}
}
