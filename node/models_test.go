package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/pool"
	"github.com/poqmesh/poq/p2p"
)

// modelled is an engine with models, which it may have to look for.
type modelled struct {
	engine
	mu     sync.Mutex
	models []string
	find   func() ([]string, error)
}

func (m *modelled) Models() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.models
}

func (m *modelled) FindModels(context.Context) error {
	if m.find == nil {
		return nil
	}
	models, err := m.find()
	if err == nil {
		m.set(models...)
	}
	return err
}

func (m *modelled) set(models ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.models = models
}

func withModels(models ...string) *modelled {
	return &modelled{engine: says("an answer of " + strings.Join(models, " and ")), models: models}
}

// awaitModels waits until a node knows of these models, written as "a:1 b:2".
func awaitModels(t *testing.T, n *Node, want string) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond) // nothing tells of it
	defer look.Stop()
	for ctx := soon(t); ; {
		var got []string
		for _, m := range n.Models() {
			got = append(got, fmt.Sprintf("%s:%d", m.Model, m.Workers))
		}
		if strings.Join(got, " ") == want {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("got models %q, want %q", got, want)
		}
	}
}

func TestModelsOfWorkersAreKnownAndCounted(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, withModels("small", "b"), withModels("c", "small"), says("x"))
	const all = "b:1 c:1 small:2 test:1"
	awaitModels(t, s.payer.node, all)
	awaitModels(t, s.workers[0].node, all) // with its own
	st := s.payer.node.State()
	if !slices.Equal(st.Models, s.payer.node.Models()) {
		t.Errorf("the state has models %v", st.Models)
	}
	for _, p := range st.Peers {
		want := []string{}
		if p.ID == s.workers[1].node.Host().ID() {
			want = []string{"c", "small"}
		}
		if p.ID != s.workers[0].node.Host().ID() && p.ID != s.workers[2].node.Host().ID() && !slices.Equal(p.Offers, want) {
			t.Errorf("%s offers %q, want %q", p.ID, p.Offers, want)
		}
	}
}

func TestModelsThatAnEngineFindsLaterAreAnnounced(t *testing.T) {
	t.Parallel()
	serverIsUp := make(chan struct{})
	late := &modelled{engine: says("late"), find: func() ([]string, error) {
		select {
		case <-serverIsUp:
			return []string{"found"}, nil
		case <-time.After(time.Minute):
			return nil, errors.New("the test does not start the server")
		}
	}}
	down := &modelled{find: func() ([]string, error) { return nil, errors.New("the server is down") }}
	down.engine = func(context.Context, string) (string, error) {
		down.set("up again")
		return "an answer", nil
	}
	s := startSwarm(t, 1, pool.New(pool.Member{Engine: late, Aliases: []string{"alias"}}), down)
	awaitModels(t, s.payer.node, "alias:1")
	close(serverIsUp)
	awaitModels(t, s.payer.node, "alias:1 found:1")
	s.ask("q", AskOptions{MaxAnswers: 2})
	awaitModels(t, s.payer.node, "alias:1 found:1 up again:1")
}

func TestWorkerAnnouncesWhatAHelloHasRoomFor(t *testing.T) {
	t.Parallel()
	names := []string{"Модель", strings.Repeat("x", p2p.MaxOffer+1), "", "fits", "fits"}
	for i := range p2p.MaxOffers {
		names = append(names, fmt.Sprintf("model-%02d", i))
	}
	s := startSwarm(t, 1, withModels(names...))
	if got := s.payer.node.Models(); len(got) != p2p.MaxOffers-1 || got[0].Model != "fits" {
		t.Errorf("got %v", got)
	}
}

func TestTaskIsAnsweredByWorkersThatHaveTheModel(t *testing.T) {
	t.Parallel()
	wrong := &modelled{engine: func(context.Context, string) (string, error) { return "asked for a model that it has not", nil }, models: []string{"other"}}
	second := pool.New(pool.Member{Engine: wrong}, pool.Member{Engine: withModels("b"), Aliases: []string{"small"}})
	s := startSwarm(t, 1, withModels("a", "small"), second, wrong)
	for _, c := range []struct {
		model   string
		answers []string
	}{
		{"a", []string{"an answer of a and small"}},
		{"b", []string{"an answer of b"}},
		{"small", []string{"an answer of a and small", "an answer of b"}},
	} {
		got := s.ask("for "+c.model, AskOptions{Options: llm.Options{Model: c.model}, AnswerTimeout: ledger.MaxDeadline, ScoreTimeout: ledger.MaxDeadline})
		var answers []string
		for _, a := range got.Answers {
			answers = append(answers, a.Text)
		}
		slices.Sort(answers)
		if !slices.Equal(answers, c.answers) || got.Options.Model != c.model {
			t.Errorf("%s: answers %q, declined %v", c.model, answers, got.Declined)
		}
		for _, d := range got.Declined { // some may decline too late to be heard
			if d.Reason != "no such model: "+c.model {
				t.Errorf("%s declined: %s", d.Worker.Name, d.Reason)
			}
		}
	}
}

func TestOrderForAModelAsksForAsManyAnswersAsWorkersHaveIt(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, withModels("a", "small"), withModels("b", "small"), withModels("c"))
	for model, want := range map[string]int{"": 3, "small": 2, "c": 1, "d": DefaultMaxAnswers} {
		if got := s.payer.node.likelyAnswers(model); got != want {
			t.Errorf("for model %q: %d answers, want %d", model, got, want)
		}
	}
}

func TestNothingIsOrderedFromAModelThatNobodyHas(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, withModels("small"), withModels("b", "small"))
	var missing *ModelError
	_, err := s.payer.node.Ask(soon(t), "q", AskOptions{Options: llm.Options{Model: "tiny"}})
	if !errors.Is(err, ErrNoModel) || !errors.As(err, &missing) || missing.Model != "tiny" || !slices.Equal(missing.Have, []ModelCount{{"b", 1}, {"small", 2}}) {
		t.Errorf("got %v", err)
	}
	if err == nil || err.Error() != "no such model: tiny; there are b, small" {
		t.Errorf("got %v", err)
	}
	if _, err := s.payer.node.Ask(soon(t), "q", AskOptions{Options: llm.Options{Model: "ti\nny"}}); !errors.Is(err, ErrBadOption) {
		t.Errorf("a name of two lines: %v", err)
	}
	if own, err := s.payer.node.Ledger().OwnOrders(); err != nil || len(own) > 0 {
		t.Errorf("%d orders were given (%v)", len(own), err)
	}
}

func TestWorkerThatHasYetToFindItsModelsIsAsked(t *testing.T) {
	t.Parallel()
	up := make(chan struct{})
	late := &modelled{engine: says("an answer"), find: func() ([]string, error) {
		select {
		case <-up:
			return []string{"found"}, nil
		default:
			return nil, errors.New("the server is down")
		}
	}}
	s := startSwarm(t, 1, late)
	ask := func() *Settlement {
		return s.ask("q", AskOptions{Options: llm.Options{Model: "found"}, MaxAnswers: 1, AnswerTimeout: 3 * time.Second, ScoreTimeout: time.Minute})
	}
	if got := ask(); len(got.Declined) != 1 || got.Declined[0].Reason != "no such model: found" {
		t.Errorf("before: %+v", got.Declined)
	}
	close(up)
	if got := ask(); len(got.Answers) != 1 {
		t.Errorf("after: %+v", got.Declined)
	}
	awaitModels(t, s.payer.node, "found:1")
}

func TestErrorNamesSomeOfManyModels(t *testing.T) {
	e := &ModelError{Model: "x"}
	for i := range maxModelsNamed + 2 {
		e.Have = append(e.Have, ModelCount{fmt.Sprint(i), 1})
	}
	if text := e.Error(); !strings.HasPrefix(text, "no such model: x; there are 0, 1, ") || !strings.HasSuffix(text, ", 15 and 2 more") {
		t.Error(text)
	}
}
