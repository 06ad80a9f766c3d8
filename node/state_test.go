package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/poqmesh/poq/p2p"
)

func TestStateTellsWhatANodeIsAndDoes(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4, says("one"), says("three"))
	registry := prometheus.NewRegistry()
	s.validators[0].opts = append(s.validators[0].opts, WithRegisterer(registry), WithVersion("v9"))
	s.start(s.all()...)
	const tasks = 3
	for range tasks {
		got := s.ask("a question", AskOptions{MaxAnswers: 2})
		s.await(got.Task, s.all()...)
	}
	v := s.validators[0].node
	st := v.State()
	if st.Ledger.Tasks != tasks || st.Ledger.Open != 0 || st.Ledger.Digest != v.Ledger().Digest().Sum || st.Ledger.LastSettled.IsZero() {
		t.Errorf("ledger: %+v", st.Ledger)
	}
	if st.Validator == nil || st.Validator.Index != 0 || !st.Validator.Signing || st.Validator.Scored != 2*tasks || st.Validator.SettleMS <= 0 || st.Worker != nil {
		t.Errorf("validator: %+v, worker: %+v", st.Validator, st.Worker)
	}
	if len(st.Peers) != len(s.all())-1 || len(st.Committee) != 4 || !st.Committee[0].Self {
		t.Errorf("peers: %+v\ncommittee: %+v", st.Peers, st.Committee)
	}
	for _, m := range st.Committee[1:] {
		if m.Gone || !m.Link || m.Heard.IsZero() {
			t.Errorf("validator %d: %+v", m.Index, m)
		}
	}
	for _, p := range st.Peers {
		if v := s.genesis.ValidatorByPeer(p.ID.String()); v >= 0 && p.Name != s.genesis.Validators[v].Name {
			t.Errorf("validator %d is called %q", v, p.Name)
		}
	}
	w := s.workers[0].node.State()
	if w.Worker == nil || w.Worker.Answered != tasks || w.Validator != nil {
		t.Errorf("worker: %+v", w.Worker)
	}
	if i := slices.IndexFunc(w.Peers, func(p PeerState) bool { return p.ID == v.Host().ID() }); i < 0 || w.Peers[i].Agent != "poq/v9" {
		t.Errorf("the worker does not know which version validator 0 runs: %+v", w.Peers)
	}
	v.PingPeers(soon(t))
	for _, p := range v.State().Peers {
		if p.LatencyUS <= 0 {
			t.Errorf("no latency of %s", p.ID)
		}
	}
	for _, c := range v.Compare(soon(t)) {
		if !c.Equal || c.Tasks != tasks || c.Error != "" {
			t.Errorf("compared: %+v", c)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			counts[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"poq_ledger_settled_tasks": tasks, "poq_task_settled_total PAID": tasks, "poq_task_span_seconds order_to_settle": tasks,
		"poq_task_span_seconds lock_to_seal": tasks, "poq_judge_score_seconds ok": 2 * tasks, "poq_vote_decided_round settle": tasks,
		"poq_vote_signing": 1, "poq_vote_refusing": 0, "poq_link_up_peers votes": 3,
	} {
		if counts[name] != want {
			t.Errorf("%s is %v, want %v", name, counts[name], want)
		}
	}
	for _, name := range []string{"poq_votelog_sync_seconds", "poq_votelog_bytes", "poq_engine_messages_total bundle"} {
		if counts[name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
	s.stop(s.validators[0])
	if families, err = registry.Gather(); err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "poq_") {
			t.Errorf("%s of a closed node is still registered", f.GetName())
		}
	}
}

func TestNodeIsReadyOnceItMetAPeerAndComparedLedgers(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	a, b := s.validators[0], s.validators[1]
	s.launch(a)
	st := a.node.State()
	if st.Ready || !strings.Contains(said(st.Problems), "no other peer is connected") {
		t.Errorf("a lonely node: ready %v, problems %q", st.Ready, st.Problems)
	}
	s.launch(b)
	for limit := soon(t); !a.node.State().Ready; {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limit.Done():
			t.Fatalf("not ready: %q", a.node.State().Problems)
		}
	}
	if st := a.node.State(); !strings.Contains(said(st.Problems), "2 of 4 validators are away") {
		t.Errorf("half a committee: problems %q", st.Problems)
	}
}

func TestReadinessFollowsWhatANodeSees(t *testing.T) {
	s := newSwarm(t, 4)
	s.launch(s.validators[0])
	n, now := s.validators[0].node, time.Now()
	well := func() State {
		st := State{Validator: &ValidatorState{Signing: true}, Committee: make([]Member, 4), Peers: []PeerState{{}}}
		st.Ledger.CaughtUp = now.Add(-time.Minute)
		return st
	}
	for name, c := range map[string]struct {
		change func(*State)
		ready  bool
		say    string
	}{
		"all is well":              {func(*State) {}, true, ""},
		"peers that are gone":      {func(s *State) { s.Peers[0].Gone = true }, false, "no other peer"},
		"not compared for long":    {func(s *State) { s.Ledger.CaughtUp = now.Add(-time.Hour) }, false, "has not been compared"},
		"a validator that refuses": {func(s *State) { s.Validator.Signing, s.Validator.Refusal = false, "lost its log" }, false, "lost its log"},
		"one validator away":       {func(s *State) { s.Committee[1].Gone = true }, true, ""},
		"two validators away":      {func(s *State) { s.Committee[1].Gone, s.Committee[2].Gone = true, true }, true, "2 of 4 validators are away"},
		"lost gossip":              {func(s *State) { s.Gossip = p2p.Stats{Unsent: 3} }, true, "3 gossip messages were lost"},
		"an engine that fails":     {func(s *State) { s.Worker = &WorkerState{Failed: 7, Declined: 2} }, true, "failed at 7 of 9"},
		"an engine that declines":  {func(s *State) { s.Worker = &WorkerState{Failed: 2, Declined: 9} }, true, ""},
		"a double":                 {func(s *State) { s.Double = "/ip4/1.2.3.4/tcp/5" }, true, "/ip4/1.2.3.4/tcp/5"},
		"little space":             {func(s *State) { s.Ledger.DiskFree = 100 << 20 }, true, "100 MiB"},
	} {
		st := well()
		c.change(&st)
		ready, problems := n.judgeState(st, now)
		if text := said(problems); ready != c.ready || !strings.Contains(text, c.say) || c.say == "" && text != "" {
			t.Errorf("%s: ready %v, problems %q", name, ready, problems)
		}
	}
}

func said(problems []Problem) (text string) {
	for _, p := range problems {
		text += p.What + "\n"
		if p.Mend == "" {
			text += "(nobody knows what to do)\n"
		}
	}
	return text
}
