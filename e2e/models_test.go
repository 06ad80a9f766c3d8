package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

func TestTaskIsAnsweredByTheWorkersWithItsModel(t *testing.T) {
	u := newUser(t)
	n := u.devnet("--validators", "1", "--workers", "3", "--worker-engine", "1=extract,alias=small",
		"--worker-engine", "2=openai=http://127.0.0.1:9/v1,model=Qwen/Qwen2.5-0.5B", "--worker-engine", "2=extract,alias=large,alias=small", "--engine", "extract")
	prompt := "Who built the lighthouse on Gull Rock?\n\n" + passage
	who := func(s *node.Settlement) string {
		var names []string
		for _, a := range s.Answers {
			names = append(names, a.Worker.Name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	ask := func(args ...string) *node.Settlement {
		s := decode[node.Settlement](u.poq(append([]string{"ask", "--json", "--dir", n.card.Dir, prompt}, args...)...))
		return &s
	}
	for model, want := range map[string]string{"small": "worker-1 worker-2", "large": "worker-2", "extract-1": "worker-1 worker-2 worker-3"} {
		if s := ask("--model", model); who(s) != want || s.Options.Model != model {
			t.Errorf("%s is answered by %s, want %s", model, who(s), want)
		}
	}
	const none = "no such model: tiny; there are Qwen/Qwen2.5-0.5B, extract, extract-1, large, small"
	u.poq("ask", "--dir", n.card.Dir, "--model", "tiny", prompt).fails(1, none)
	batch := writeFile(t, u.runtimeDir+"/batch.jsonl", fmt.Sprintf(`{"prompt": %s, "model": "large"}`, about("When was it built?")), fmt.Sprintf(`{"prompt": %s, "model": "tiny"}`, about("When?")))
	r := u.poq("ask", "--dir", n.card.Dir, "--batch", batch)
	if results := batchResults(t, r.stdout); r.code != 1 || results[1].Worker.Name != "worker-2" || results[2].Error != none || !results[2].Task.IsZero() {
		t.Errorf("exit code %d, results %+v", r.code, results)
	}

	state := u.poq("status", "--dir", n.card.Dir, "--peer", "payer").ok().stdout
	if !strings.Contains(state, "extract (3), extract-1 (3), small (2), Qwen/Qwen2.5-0.5B (1), large (1)\n") {
		t.Errorf("the status does not show the models:\n%s", state)
	}
	for _, p := range decode[[]node.PeerState](u.poq("peers", "--json", "--dir", n.card.Dir, "--peer", "payer")) {
		if p.Name == "worker-1" && !slices.Equal(p.Offers, []string{"extract", "extract-1", "small"}) {
			t.Errorf("%s offers %q", p.Name, p.Offers)
		}
	}

	c, ctx := n.client(), t.Context()
	models, err := c.Models.List(ctx)
	var ids []string
	for _, m := range models.Data {
		ids = append(ids, m.ID)
	}
	if err != nil || !slices.Equal(ids, []string{"poq-best", "Qwen/Qwen2.5-0.5B", "extract", "extract-1", "large", "small"}) {
		t.Errorf("models %q, %v", ids, err)
	}
	if m, err := c.Models.Get(ctx, "Qwen/Qwen2.5-0.5B"); err != nil || m.ID != "Qwen/Qwen2.5-0.5B" || !strings.Contains(m.RawJSON(), `"poq":{"workers":1}`) {
		t.Errorf("model %+v, %v", m, err)
	}
	q := aboutPassage("Who built the lighthouse on Gull Rock?")
	q.Model = "large"
	got, err := c.Chat.Completions.New(ctx, q)
	if err != nil || got.Model != "large" || readExtra(t, got.RawJSON()).Winner.Name != "worker-2" {
		t.Errorf("completion %+v, %v", got, err)
	}
	q.Model = "tiny"
	var missing *openai.Error
	if _, err := c.Chat.Completions.New(ctx, q); !errors.As(err, &missing) || missing.StatusCode != http.StatusNotFound || missing.Code != "model_not_found" || missing.Param != "model" {
		t.Errorf("a model that nobody has: %v", err)
	}
	n.checkLedgers(5) // nothing else was ordered
}

func TestAskShowsThatWorkersLackTheModel(t *testing.T) {
	u := newUser(t)
	// The second worker can't say what it has: its server is down.
	n := u.devnet("--processes", "--validators", "1", "--workers", "2", "--worker-engine", "1=extract", "--worker-engine", "2=openai=http://127.0.0.1:9/v1", "--worker-engine", "2=openai=http://127.0.0.1:9/v1")
	r := u.poq("ask", "--dir", n.card.Dir, "--model", "small", "--answer-timeout", "5s", "Who?").ok()
	for _, w := range []string{"worker-1", "worker-2"} {
		if why := w + " declined: no such model: small"; !strings.Contains(r.stderr, why) || !strings.Contains(r.stdout, why) {
			t.Errorf("%q is not shown:\n%s%s", why, r.stderr, r.stdout)
		}
	}
	tasks := decode[[]control.Task](u.poq("ledger", "tasks", "--json", "--dir", n.card.Dir))
	if len(tasks) != 1 || tasks[0].Outcome != ledger.NoAnswers {
		t.Errorf("tasks %+v", tasks)
	}
}
