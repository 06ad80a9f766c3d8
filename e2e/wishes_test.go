package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
)

// modelRequest is what a model server is asked.
type modelRequest struct {
	llm.Options
	Messages []struct{ Content string }
}

// notingServer is a model server that answers "noted, and more" and passes on what it is asked.
func notingServer(t *testing.T) (url string, asked <-chan modelRequest) {
	requests := make(chan modelRequest, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q modelRequest
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/v1/chat/completions" {
			http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
			return
		}
		requests <- q
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":"noted, and more"},"finish_reason":"stop"}]}`)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1", requests
}

func TestWishesReachTheModelServerOfAWorker(t *testing.T) {
	t.Parallel()
	server, asked := notingServer(t)
	u := newUser(t)
	n := u.devnet("--validators", "1", "--workers", "1", "--engine", "openai="+server+",model=m")
	want := llm.Options{Model: "m", MaxTokens: 7, Temperature: new(0.0), TopP: new(0.5), Seed: new(int64(-3)), Stop: []string{", and"}}
	ordered := want
	ordered.Model = "" // the worker's own
	check := func(who, prompt string) {
		t.Helper()
		if q := <-asked; len(q.Messages) != 1 || q.Messages[0].Content != prompt || !reflect.DeepEqual(q.Options, want) {
			t.Errorf("%s: the server is asked %+v, want %+v", who, q, want)
		}
	}

	flags := []string{"--temperature", "0", "--top-p", "0.5", "--seed", "-3", "--max-tokens", "7", "--stop", ", and"}
	s := n.ask(append(flags, "Who?")...)
	check("poq ask", "Who?")
	if len(s.Answers) != 1 || s.Answers[0].Text != "noted" || !reflect.DeepEqual(s.Options, ordered) {
		t.Errorf("settled with %+v and %+v", s.Answers, s.Options)
	}
	task := decode[node.TaskStatus](u.poq("ledger", "task", s.Task.String(), "--json", "--dir", n.card.Dir)).Settlement
	if task == nil || task.Prompt != "Who?" || !reflect.DeepEqual(task.Options, ordered) {
		t.Errorf("the ledger shows %+v", task)
	}

	// The receipt names the prompt together with its options.
	receipt := u.poq("receipt", "get", s.Task.String(), "--dir", n.card.Dir).ok().stdout
	prompt := writeFile(t, filepath.Join(t.TempDir(), "prompt.txt"), "Who?")
	verify := []string{"receipt", "verify", "-", "--genesis", filepath.Join(n.card.Dir, "genesis.json"), "--prompt", prompt}
	u.poqIn(receipt, append(verify, flags...)...).ok()
	u.poqIn(receipt, verify...).fails(1, "give the options that it was ordered with")

	lines := `{"prompt": "Where?", "seed": -3, "stop": [", and"]}` + "\n"
	u.poqIn(lines, "ask", "--dir", n.card.Dir, "--batch", "-", "--temperature", "0", "--top-p", "0.5", "--max-tokens", "7", "--seed", "9").ok()
	check("a batch", "Where?")

	c := n.client()
	got, err := c.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{
		Model: "poq-best", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("When?")},
		Temperature: openai.Float(0), TopP: openai.Float(0.5), Seed: openai.Int(-3), MaxCompletionTokens: openai.Int(7),
		Stop: openai.ChatCompletionNewParamsStopUnion{OfStringArray: []string{", and"}},
	})
	if err != nil || got.Choices[0].Message.Content != "noted" || strings.Contains(got.RawJSON(), `"ignored"`) {
		t.Fatalf("%v, %s", err, got.RawJSON())
	}
	check("the API", "When?")
	n.stop()
}

func TestSameSeedGivesTheSameAnswer(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	n := u.devnet("--validators", "1", "--workers", "1", "--engine", "smol")
	answers := map[string]bool{}
	for _, seed := range []string{"7", "7", "8", "9"} {
		s := n.ask("--temperature", "1.5", "--seed", seed, "--max-tokens", "12", "Tell me a story.")
		if len(s.Answers) != 1 || s.Answers[0].Text == "" {
			t.Fatalf("seed %s: %+v", seed, s.Answers)
		}
		answers[s.Answers[0].Text] = true
	}
	if len(answers) < 2 || len(answers) > 3 {
		t.Errorf("three seeds, one of them twice, gave %d answers: %v", len(answers), answers)
	}
	n.stop()
}
