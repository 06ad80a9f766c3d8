package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/quality"
)

func newBench(g *globals) *cobra.Command {
	return group("bench", "Measure this machine", benchSettle(g), benchReceipt(g), benchApply(g), benchSync(g), benchVotelog(g), benchGossip(g), benchGateway(g))
}

// benchmark measures something and shows what it measured.
type benchmark interface {
	run(ctx context.Context, progress io.Writer) error
	print(w io.Writer)
}

func measure(c *cobra.Command, g *globals, b benchmark) error {
	if err := b.run(c.Context(), c.ErrOrStderr()); err != nil {
		return err
	}
	if g.json {
		return printJSON(c.OutOrStdout(), b)
	}
	b.print(c.OutOrStdout())
	return nil
}

// settleBench is what bench settle measured. Times are µs.
type settleBench struct {
	Cores       int           `json:"cores"`
	Validators  int           `json:"validators"`
	Down        int           `json:"down"` // validators that were stopped before
	Workers     int           `json:"workers"`
	Tasks       int           `json:"tasks"`
	Concurrency int           `json:"concurrency"`
	PerSecond   int           `json:"tasks_per_second"`
	Spans       []benchedSpan `json:"spans"`
}

type benchedSpan struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	P50   int64  `json:"p50_us"`
	P99   int64  `json:"p99_us"`
}

func benchSettle(g *globals) *cobra.Command {
	var validators, down, workers, tasks, concurrency int
	c := &cobra.Command{
		Use: "settle", Short: "Time the agreement: real hosts, gossip and Badger, instant answers, scores from the judge's cache",
		Args: args(cobra.NoArgs),
	}
	c.Flags().IntVar(&validators, "validators", 4, "size of the committee")
	c.Flags().IntVar(&down, "down", 0, "validators that are stopped before the tasks are given")
	c.Flags().IntVar(&workers, "workers", 3, "number of workers")
	c.Flags().IntVar(&tasks, "tasks", 500, "tasks to settle")
	c.Flags().IntVar(&concurrency, "concurrency", 1, "tasks under way at a time")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if validators < 1 || validators > ledger.MaxValidators || workers < 1 || workers > ledger.MaxAnswers || tasks < 1 || concurrency < 1 {
			return usagef("want 1 to %d validators, 1 to %d workers, and positive numbers", ledger.MaxValidators, ledger.MaxAnswers)
		}
		if f := (validators - 1) / 3; down < 0 || down > f {
			return usagef("--down %d: of %d validators at most %d may be down", down, validators, f)
		}
		if ledger.Amount(tasks)*1000 > devnet.PayerBalance {
			return usagef("--tasks %d: the payer can't pay for more than %d", tasks, devnet.PayerBalance/1000)
		}
		b := &settleBench{Cores: runtime.NumCPU(), Validators: validators, Down: down, Workers: workers, Tasks: tasks, Concurrency: concurrency}
		return measure(c, g, b)
	}
	return c
}

func (b *settleBench) print(w io.Writer) {
	fmt.Fprintf(w, "%d validators (%d of them down), %d workers, a payer; %d tasks, %d at a time; %d cores: %d tasks/s\n\n", b.Validators, b.Down, b.Workers, b.Tasks, b.Concurrency, b.Cores, b.PerSecond)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SPAN\tCOUNT\tP50\tP99")
	for _, s := range b.Spans {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", s.Name, s.Count, ms(s.P50), ms(s.P99))
	}
	t.Flush()
}

// instant answers at once, in its own words.
type instant string

func (i instant) Name() string     { return "instant" }
func (i instant) Models() []string { return []string{"instant"} }
func (i instant) text(prompt string) string {
	return fmt.Sprintf("Worker %s says this of %s.", string(i), prompt)
}

func (i instant) Generate(_ context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	return &llm.Answer{Text: i.text(r.Prompt), Model: "instant", Stop: llm.StopEnd}, nil
}

// spans collects the times of tasks as the validators and the payer see them.
type spans struct {
	mu     sync.Mutex
	tasks  map[ledger.TaskID]map[string]passage
	values map[string][]time.Duration
}

// passage is when a task's steps last came to one peer.
type passage map[ledger.Step]time.Time

func (s *spans) observe(p *devnet.Peer, e node.Event) {
	if p.Role == devnet.Worker {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[e.Task] == nil {
		s.tasks[e.Task] = map[string]passage{}
	}
	if s.tasks[e.Task][p.Name] == nil {
		s.tasks[e.Task][p.Name] = passage{}
	}
	s.tasks[e.Task][p.Name][e.Step] = e.Time
}

func (s *spans) add(name string, from, to time.Time) {
	if !from.IsZero() && !to.IsZero() {
		s.values[name] = append(s.values[name], max(0, to.Sub(from)))
	}
}

// Names of the spans, in the order in which they are shown.
const (
	spanLock     = "order -> lock"
	spanAnswers  = "lock -> last answer"
	spanScores   = "last answer -> last score commitment"
	spanSeal     = "last score commitment -> sealed"
	spanReveals  = "sealed -> last reveal"
	spanSettle   = "last reveal -> certificate (each validator)"
	spanTask     = "order -> certificate (first validator)"
	spanTaskLast = "order -> certificate (payer)"
)

func (s *spans) collect() (out []benchedSpan) {
	s.values = map[string][]time.Duration{}
	for _, peers := range s.tasks {
		payer := peers["payer"]
		if payer == nil {
			continue
		}
		var first time.Time
		for name, t := range peers {
			if name == "payer" {
				continue
			}
			s.add(spanLock, payer[ledger.Ordered], t[ledger.Locked])
			s.add(spanAnswers, t[ledger.Locked], t[ledger.Answered])
			s.add(spanScores, t[ledger.Answered], t[ledger.Scored])
			s.add(spanSeal, t[ledger.Scored], t[ledger.Sealed])
			s.add(spanReveals, t[ledger.Sealed], t[ledger.Revealed])
			s.add(spanSettle, t[ledger.Revealed], t[ledger.Settled])
			if first.IsZero() || !t[ledger.Settled].IsZero() && t[ledger.Settled].Before(first) {
				first = t[ledger.Settled]
			}
		}
		s.add(spanTask, payer[ledger.Ordered], first)
		s.add(spanTaskLast, payer[ledger.Ordered], payer[ledger.Settled])
	}
	for _, name := range []string{spanLock, spanAnswers, spanScores, spanSeal, spanReveals, spanSettle, spanTask, spanTaskLast} {
		if v := s.values[name]; len(v) > 0 {
			out = append(out, newSpan(name, v))
		}
	}
	return out
}

func (b *settleBench) run(ctx context.Context, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "poq-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	judge, closeJudge, err := loadJudge(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeJudge()) }()
	var engines []llm.Engine
	for i := range b.Workers {
		engines = append(engines, instant(fmt.Sprint(i+1)))
	}
	prompts := make([]string, b.Tasks+warmUp)
	for i := range prompts {
		prompts[i] = fmt.Sprintf("question number %d %s", i, strings.Repeat("with some more words ", 4))
		for j, e := range engines {
			judge.Put(prompts[i], e.(instant).text(prompts[i]), quality.Score(9000-100*j))
		}
	}
	s := &spans{tasks: map[ledger.TaskID]map[string]passage{}}
	d, err := devnet.Start(ctx, devnet.Config{Dir: dir, Validators: b.Validators, Engines: engines, Judge: judge, Logger: newLogger(progress, slog.LevelWarn), Observe: s.observe})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	ask := func(prompts []string) error {
		var g errgroup.Group
		g.SetLimit(b.Concurrency)
		for _, p := range prompts {
			g.Go(func() error {
				_, err := d.Payer().Node.Ask(ctx, p, node.AskOptions{Fee: 1000, MaxAnswers: b.Workers})
				return err
			})
		}
		return g.Wait()
	}
	fmt.Fprintf(progress, "settling %d tasks ...\n", b.Tasks)
	if err := ask(prompts[:warmUp]); err != nil {
		return err
	}
	if err := d.WaitEqual(ctx); err != nil {
		return err
	}
	for range b.Down { // the last of the committee
		i := slices.IndexFunc(d.Peers, func(p *devnet.Peer) bool { return p.Role != devnet.Validator }) - 1
		if err := d.Peers[i].Node.Close(); err != nil {
			return fmt.Errorf("%s: %w", d.Peers[i].Name, err)
		}
		d.Peers = slices.Delete(d.Peers, i, i+1)
	}
	s.mu.Lock()
	clear(s.tasks)
	s.mu.Unlock()
	begin := time.Now()
	if err := ask(prompts[warmUp:]); err != nil {
		return err
	}
	b.PerSecond = int(float64(b.Tasks) / time.Since(begin).Seconds())
	results, err := verifyAll(ctx, d)
	if err == nil {
		err = failedVerification(results)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Spans = s.collect()
	return err
}

// warmUp tasks are not measured.
const warmUp = 20
