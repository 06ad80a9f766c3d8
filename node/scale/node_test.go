package scale

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/marcopolo/simnet"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/quality"
)

// lengthJudge likes long answers.
type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length")) }
func (lengthJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(min(10000, 3000+10*len(answer))), nil
}

// thinker takes between half a second and five to answer, another time for each prompt, as language models do.
type thinker string

func (thinker) Name() string     { return "thinker" }
func (thinker) Models() []string { return []string{"thinker"} }
func (w thinker) Generate(ctx context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	drawn := crypto.Sum([]byte(string(w) + r.Prompt))
	select {
	case <-time.After(500*time.Millisecond + 4500*time.Millisecond*time.Duration(binary.BigEndian.Uint16(drawn[:]))/(1<<16)):
		return &llm.Answer{Text: string(w) + " says this of " + r.Prompt, Model: "thinker", Stop: llm.StopEnd}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// steps notes when each peer saw which step of a task last.
type steps struct {
	mu   sync.Mutex
	seen map[ledger.TaskID]map[ledger.Step]map[int]time.Time
}

func (s *steps) observe(peer int, e node.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	task := s.seen[e.Task]
	if task == nil {
		task = map[ledger.Step]map[int]time.Time{}
		s.seen[e.Task] = task
	}
	if task[e.Step] == nil {
		task[e.Step] = map[int]time.Time{}
	}
	task[e.Step][peer] = e.Time
}

// TestTasksSettleAtEveryPeerOfALargeNetwork runs whole nodes, with their ledgers on disk, on simulated links in
// virtual time: 4 validators, who know each other, workers and a payer, who dial 5 others each.
func TestTasksSettleAtEveryPeerOfALargeNetwork(t *testing.T) {
	sizes := []int{50}
	switch {
	case large:
		sizes = append(sizes, 100)
	case testing.Short():
		sizes = []int{12}
	}
	for _, peers := range sizes {
		t.Run(fmt.Sprint(peers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { settleAmong(t, peers) })
		})
	}
}

func settleAmong(t *testing.T, peers int) {
	const validators, tasks, degree = 4, 5, 5
	sim := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(latency)}
	sim.Start()
	defer sim.Close()
	ctx, dir := t.Context(), t.TempDir()
	g := &ledger.Genesis{Network: "scale", Epoch: 1, Judge: lengthJudge{}.ID(), MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()}}
	ids := make([]keystore.Identity, peers)
	for i := range ids {
		var err error
		if ids[i], err = keystore.New(rand.NewChaCha8(ledgertest.Key(fmt.Sprint("peer ", i)).Public()), i < validators); err != nil {
			t.Fatal(err)
		}
		account := ledger.GenesisAccount{ID: ids[i].Account.Public(), Name: fmt.Sprint("peer-", i)}
		if i == peers-1 {
			account.Balance = ledger.Credit
		}
		g.Accounts = append(g.Accounts, account)
		if i < validators {
			v, err := ids[i].Validator(fmt.Sprint("validator-", i+1))
			if err != nil {
				t.Fatal(err)
			}
			g.Validators = append(g.Validators, v)
		}
	}
	slices.SortFunc(g.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	seen := &steps{seen: map[ledger.TaskID]map[ledger.Step]map[int]time.Time{}}
	nodes := make([]*node.Node, peers)
	for i, id := range ids {
		h, err := simulated(sim, libp2p.Identity(id.Peer))(i)
		if err != nil {
			t.Fatal(err)
		}
		opts := []node.Option{
			node.WithDataDir(filepath.Join(dir, fmt.Sprint(i))), node.WithGenesis(g), node.WithIdentity(id), node.WithHost(h),
			node.WithLogger(slog.New(slog.DiscardHandler)),
		}
		switch {
		case i < validators:
			opts = append(opts, node.WithJudge(lengthJudge{}))
		case i < peers-1:
			opts = append(opts, node.WithEngine(thinker(fmt.Sprint("Worker ", i))))
		}
		if nodes[i], err = node.New(ctx, opts...); err != nil {
			t.Fatal(err)
		}
		defer nodes[i].Close()
		events := nodes[i].Events(ctx)
		go func() {
			for e := range events {
				seen.observe(i, e)
			}
		}()
	}
	c := Config{Peers: peers, Validators: validators, Degree: degree}
	begin := time.Now()
	neighbours := make([]int, peers)
	for i, to := range c.topology() {
		for _, j := range to {
			if err := nodes[i].Host().Keep(nodes[j].Host().Addrs()...); err != nil {
				t.Fatal(err)
			}
			neighbours[i]++
			neighbours[j]++
		}
	}
	for _, n := range nodes {
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range nodes {
		if err := n.WaitReady(ctx, neighbours[i]); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d peers meshed in %v", peers, time.Since(begin))
	<-time.After(settling)
	traffic, used := sum(nodes), CPU()
	var took []time.Duration
	answers := 0
	for i := range tasks {
		ordered := time.Now()
		s, err := nodes[peers-1].Ask(ctx, fmt.Sprint("Question number ", i), node.AskOptions{Fee: 1000, MaxAnswers: 3})
		if err != nil {
			t.Fatal(err)
		}
		if s.Outcome != ledger.Paid {
			t.Errorf("settled as %v with %d answers", s.Outcome, len(s.Answers))
		}
		took = append(took, time.Since(ordered))
		answers += len(s.Answers)
	}
	<-time.After(2 * time.Second) // the last receipt is gossiped, or fetched by who missed it
	used = (CPU() - used) / tasks
	after := sum(nodes)
	settled := seen.spans(ledger.Answered, ledger.Settled, peers)
	orders := seen.spans(ledger.Ordered, ledger.Ordered, peers)
	if len(settled) != peers*tasks {
		t.Errorf("%d settlements seen, want %d at each of %d peers", len(settled), tasks, peers)
	}
	for i, n := range nodes {
		if d, first := n.Ledger().Digest(), nodes[0].Ledger().Digest(); d != first {
			t.Errorf("peer %d holds %v, the first one %v", i, d, first)
		}
		if lost := n.Host().Stats().Lost(); lost > 0 {
			t.Errorf("peer %d lost %d messages", i, lost)
		}
	}
	slices.Sort(took)
	delivered := after.Delivered - traffic.Delivered
	t.Logf("per task and peer: %.1f messages and %.1f kB sent; %.2f copies of each", float64(after.MessagesSent-traffic.MessagesSent)/float64(tasks*peers),
		float64(after.BytesSent-traffic.BytesSent)/float64(1000*tasks*peers), 1+float64(after.Duplicates-traffic.Duplicates)/float64(delivered))
	t.Logf("order at another peer: p50 %v, p99 %v, last %v", orders[len(orders)/2], orders[len(orders)*99/100], orders[len(orders)-1])
	t.Logf("%.1f answers to a task; ask: p50 %v; last answer at the payer to receipt at all peers: p50 %v, p99 %v, last %v; processor time %v per task",
		float64(answers)/tasks, took[len(took)/2], settled[len(settled)/2], settled[len(settled)*99/100], settled[len(settled)-1], used)
}

func sum(nodes []*node.Node) (t p2p.Traffic) {
	for _, n := range nodes {
		add(&t, n.Host().Traffic())
	}
	return t
}

// spans returns how long after the payer, the last peer, took a task's first step the peers took the other, ascending.
func (s *steps) spans(from, to ledger.Step, peers int) (list []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range s.seen {
		for _, at := range task[to] {
			list = append(list, at.Sub(task[from][peers-1]))
		}
	}
	slices.Sort(list)
	return list
}
