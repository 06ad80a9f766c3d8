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
