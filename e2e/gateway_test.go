package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/poqmesh/poq/node"
)

// client is OpenAI's own, for the API that the last peer of a card serves.
func (n *network) client() openai.Client {
	n.user.t.Helper()
	url := n.card.Peers[len(n.card.Peers)-1].API
	if url == "" {
		n.user.t.Fatal("the card names no API")
	}
	return openai.NewClient(option.WithBaseURL(url), option.WithAPIKey("none"))
}

// extra is what an answer says under "poq".
type extra struct {
	Task       string
	Winner     node.Party
	Receipt    string
	Candidates []struct{ Rank int }
	Streamed   *struct {
		Worker node.Party
		Won    bool
	}
}

func readExtra(t *testing.T, raw string) (e extra) {
	t.Helper()
	var body struct{ PoQ extra }
	if err := json.Unmarshal([]byte(raw), &body); err != nil {
		t.Fatal(err)
	}
	return body.PoQ
}

func aboutPassage(question string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: "poq-best", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question + "\n\n" + passage)}}
}

func TestClientOfOpenAIAsksTheNetwork(t *testing.T) {
	u := newUser(t)
	n := u.devnet("--engine", "extract", "--workers", "2")
	c, ctx := n.client(), t.Context()

	models, err := c.Models.List(ctx)
	if err != nil || len(models.Data) != 3 || models.Data[0].ID != "poq-best" || models.Data[1].ID != "extract" {
		t.Fatalf("models: %+v, %v", models, err)
	}
	got, err := c.Chat.Completions.New(ctx, aboutPassage("Who built the lighthouse on Gull Rock?"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.Choices[0].Message.Content, "Marta Lindqvist") || got.Choices[0].FinishReason != "stop" || got.Usage.TotalTokens == 0 {
		t.Errorf("answer: %s", got.RawJSON())
	}
	e := readExtra(t, got.RawJSON())
	task := decode[node.TaskStatus](u.poq("ledger", "task", e.Task, "--json", "--dir", n.card.Dir)).Settlement
	if len(e.Candidates) != 2 || task == nil || task.Answers[0].Worker != e.Winner || task.Answers[0].Text != got.Choices[0].Message.Content {
		t.Errorf("the ledger tells another story: %+v and %+v", e, task)
	}

	several := aboutPassage("How high is the lighthouse?")
	several.N = openai.Int(2)
	two, err := c.Chat.Completions.New(ctx, several)
	if err != nil || len(two.Choices) != 2 {
		t.Fatalf("two choices: %+v, %v", two, err)
	}

	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			stream := c.Chat.Completions.NewStreaming(ctx, aboutPassage("When was the lighthouse built?"))
			defer stream.Close()
			var all openai.ChatCompletionAccumulator
			for stream.Next() {
				if !all.AddChunk(stream.Current()) {
					t.Error("a chunk does not fit the others")
				}
			}
			if err := stream.Err(); err != nil || len(all.Choices) != 1 || !strings.Contains(all.Choices[0].Message.Content, "1871") {
				t.Errorf("stream: %+v, %v", all.Choices, err)
			}
		})
	}
	asking.Wait()

	live := c.Chat.Completions.NewStreaming(ctx, aboutPassage("What was the lighthouse built of?"), option.WithJSONSet("poq.stream", "fastest"))
	defer live.Close()
	text, verdict := "", extra{}
	for live.Next() {
		chunk := live.Current()
		text += chunk.Choices[0].Delta.Content
		if e := readExtra(t, chunk.RawJSON()); e.Task != "" {
			verdict = e
		}
	}
	if err := live.Err(); err != nil || text == "" || len(verdict.Candidates) != 2 || verdict.Streamed == nil || verdict.Streamed.Won != (verdict.Streamed.Worker == verdict.Winner) {
		t.Errorf("the fastest wrote %q, and the verdict is %+v: %v", text, verdict, err)
	}

	plain, err := c.Completions.New(ctx, openai.CompletionNewParams{Model: "poq-best", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("What is the tower today?\n\n" + passage)}})
	if err != nil || !strings.Contains(plain.Choices[0].Text, "museum") {
		t.Errorf("completion: %+v, %v", plain, err)
	}

	var bad *openai.Error
	_, err = c.Chat.Completions.New(ctx, aboutPassage("Who?"), option.WithJSONSet("poq.fee", 5_000_000_000))
	if !errors.As(err, &bad) || bad.StatusCode != http.StatusPaymentRequired || bad.Code != "insufficient_balance" {
		t.Errorf("a fee above the balance: %v", err)
	}
	// Nobody can answer without a passage. The library would try again, and pay again, if it were not told otherwise.
	tries := 0
	_, err = c.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "poq-best", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Who are you?")}},
		option.WithJSONSet("poq.answer_timeout_ms", 3000),
		option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			tries++
			return next(r)
		}))
	if !errors.As(err, &bad) || bad.StatusCode != http.StatusServiceUnavailable || bad.Code != "no_workers" || tries != 1 {
		t.Errorf("a question that nobody answers, after %d tries: %v", tries, err)
	}
	n.checkLedgers(13)
}

func TestPayerWithItsOwnProcessServesTheAPI(t *testing.T) {
	u := newUser(t)
	n := u.devnet("--processes", "--engine", "extract", "--workers", "1", "--validators", "1")
	c := n.client()
	got, err := c.Chat.Completions.New(t.Context(), aboutPassage("Who built the lighthouse on Gull Rock?"))
	if err != nil || !strings.Contains(got.Choices[0].Message.Content, "Marta Lindqvist") {
		t.Errorf("%+v, %v", got, err)
	}
	r := u.poq("ask", "--stream", "--dir", n.card.Dir, "When was the lighthouse built?\n\n"+passage).ok()
	if !strings.Contains(r.stdout, "1871") || strings.Contains(r.stdout, "RANK") || !strings.Contains(r.stderr, "RANK") || !strings.Contains(r.stderr, "the text above won") {
		t.Errorf("the text:\n%s\nthe rest:\n%s", r.stdout, r.stderr)
	}
}

func TestAPIIsServedToThisMachineAlone(t *testing.T) {
	u := newUser(t)
	u.poq("devnet", "--validators", "1", "--workers", "1", "--engine", "extract", "--api", "0.0.0.0:0").fails(2, "--api")
}

func TestPeerServesTheAPIWhenItIsToldTo(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator")
	if api := validator.card.Peers[0].API; api != "" {
		t.Errorf("an API is served that nobody asked for: %s", api)
	}
	invitation := validator.token()
	m.up("worker", "--roles", "worker", "--engine", "extract", "--join", invitation)
	c := m.up("payer", "--join", invitation, "--api", "127.0.0.1:0").client()
	got, err := c.Chat.Completions.New(t.Context(), aboutPassage("Who built the lighthouse on Gull Rock?"), option.WithJSONSet("poq.max_answers", 1)) // it may not have met the worker yet
	if err != nil || !strings.Contains(got.Choices[0].Message.Content, "Marta Lindqvist") {
		t.Errorf("%+v, %v", got, err)
	}
}
