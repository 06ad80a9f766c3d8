package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger/sim"
)

// simFlags say what is simulated.
type simFlags struct {
	config     sim.Config
	seed, from uint64
	runs       uint64
	faults     string
	workers    int
	verbose    bool
}

func newSim(g *globals) *cobra.Command {
	var f simFlags
	c := &cobra.Command{
		Use: "sim", Short: "Simulate the settlement with faults and adversaries, and check its invariants",
		Long: `Runs the real settlement core over a virtual network, clock and disks. Every run
is drawn from its seed: the committee, the tasks, what fails and who lies. During
and after every run the invariants of the protocol are checked at every honest peer.

A run that breaks one is shown with its seed and a trace of all that happened:
poq sim --seed N makes it again, event by event.`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().Uint64Var(&f.seed, "seed", 0, "make the run of this seed alone")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "with --seed: print the trace even if nothing breaks")
	c.Flags().Uint64Var(&f.runs, "runs", 1000, "number of runs")
	c.Flags().Uint64Var(&f.from, "from", 0, "seed of the first run")
	c.Flags().IntVarP(&f.config.Validators, "validators", "n", 0, "size of the committee, 1 to 16 (default: drawn)")
	c.Flags().StringVar(&f.faults, "faults", "", "none, all, or names separated by commas (default: drawn)")
	c.Flags().StringVar(&f.config.Adversary, "adversary", "", "none, or what all f Byzantine validators do (default: drawn)")
	c.Flags().IntVar(&f.workers, "workers", runtime.NumCPU(), "runs at a time")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.faults != "" {
			set, err := sim.ParseFaults(f.faults)
			if err != nil {
				return usagef("--faults: %w", err)
			}
			f.config.Faults = &set
		}
		if err := f.config.Validate(); err != nil {
			return usagef("%w", err)
		}
		if f.workers < 1 || f.runs < 1 {
			return usagef("--runs %d --workers %d: want positive numbers", f.runs, f.workers)
		}
		if c.Flags().Changed("seed") {
			return f.one(c.OutOrStdout(), g.json)
		}
		return f.many(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), g.json)
	}
	return c
}

// one makes the run of a seed. The trace is written by a second, identical run.
func (f *simFlags) one(out io.Writer, asJSON bool) error {
	f.config.Seed = f.seed
	r := sim.Run(f.config)
	if asJSON {
		if err := printJSON(out, r); err != nil {
			return err
		}
	} else {
		if f.verbose || len(r.Broken) > 0 {
			replay(out, f.config)
		}
		fmt.Fprintln(out, r)
	}
	if len(r.Broken) > 0 {
		return fmt.Errorf("seed %d breaks %v", r.Seed, r.Broken[0].Invariant)
	}
	return nil
}

func replay(out io.Writer, c sim.Config) {
	c.Trace = func(line string) { fmt.Fprintln(out, line) }
	sim.Run(c)
}

// simTotal sums up many runs.
type simTotal struct {
	From           uint64         `json:"from"`
	Runs           int            `json:"runs"`
	Failed         int            `json:"failed"`
	Seconds        float64        `json:"seconds"`
	RunsPerSecond  float64        `json:"runs_per_second"`
	VirtualSeconds float64        `json:"virtual_seconds"`
	ByValidators   map[int]int    `json:"by_validators"`
	ByFault        map[string]int `json:"by_fault"` // a run with several counts for each
	ByAdversary    map[string]int `json:"by_adversary"`
	Tasks          int            `json:"tasks"`
	Settled        int            `json:"settled"`
	Paid           int            `json:"paid"`
	Fast           int            `json:"fast"` // settled in the one phase without a leader
	Messages       int            `json:"messages"`
	Delivered      int            `json:"delivered"`
	MaxRound       int            `json:"max_round"`
	MaxLateRounds  int            `json:"max_late_rounds"` // that an instance took after the faults had stopped
	OtherSigners   int            `json:"other_signers"`   // certificates of one task with other signers at two peers
	Injected       map[string]int `json:"injected"`        // faults by kind
	Checked        map[string]int `json:"checked"`         // by invariant
	Failures       []sim.Result   `json:"failures"`        // the first ones
}

const shownFailures = 20

func (t *simTotal) add(r sim.Result) {
	t.Runs++
	t.ByValidators[r.Validators]++
	for _, name := range r.Faults.Names() {
		t.ByFault[name]++
	}
	if r.Faults == 0 {
		t.ByFault["none"]++
	}
	for _, name := range slices.Compact(slices.Clone(r.Adversaries)) {
		t.ByAdversary[name]++
	}
	if len(r.Adversaries) == 0 {
		t.ByAdversary["none"]++
	}
	t.Tasks += r.Tasks
	t.Settled += r.Settled
	t.Paid += r.Paid
	t.Fast += r.Fast
	t.MaxLateRounds = max(t.MaxLateRounds, r.LateRounds)
	t.Messages += r.Messages
	t.Delivered += r.Delivered
	t.MaxRound = max(t.MaxRound, r.Rounds)
	t.OtherSigners += r.OtherSigners
	t.VirtualSeconds += r.Virtual.Seconds()
	for name, n := range r.Injections() {
		t.Injected[name] += n
	}
	for name, n := range r.Checks() {
		t.Checked[name] += n
	}
	if len(r.Broken) > 0 {
		t.Failed++
		if len(t.Failures) < shownFailures {
			t.Failures = append(t.Failures, r)
		}
	}
}

// many makes runs side by side and sums them up. It tells of progress on stderr.
func (f *simFlags) many(ctx context.Context, out, progress io.Writer, asJSON bool) error {
	t := &simTotal{
		From: f.from, ByValidators: map[int]int{}, ByFault: map[string]int{}, ByAdversary: map[string]int{}, Injected: map[string]int{}, Checked: map[string]int{},
	}
	seeds, results := make(chan uint64), make(chan sim.Result)
	go func() {
		defer close(seeds)
		for i := range f.runs {
			select {
			case seeds <- f.from + i:
			case <-ctx.Done():
				return
			}
		}
	}()
	var running sync.WaitGroup
	for range f.workers {
		running.Go(func() {
			for seed := range seeds {
				c := f.config
				c.Seed = seed
				results <- sim.Run(c)
			}
		})
	}
	go func() {
		running.Wait()
		close(results)
	}()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a run makes much garbage and keeps little
	begin := time.Now()
	told := begin
	for r := range results {
		t.add(r)
		if len(r.Broken) > 0 && t.Failed <= shownFailures {
			fmt.Fprintf(progress, "FAILED %v\n", r)
		}
		if now := time.Now(); now.Sub(told) >= 5*time.Second {
			told = now
			fmt.Fprintf(progress, "%d runs, %d failed, %.0f runs/s\n", t.Runs, t.Failed, float64(t.Runs)/now.Sub(begin).Seconds())
		}
	}
	t.Seconds = time.Since(begin).Seconds()
	t.RunsPerSecond = float64(t.Runs) / t.Seconds
	slices.SortFunc(t.Failures, func(a, b sim.Result) int { return cmp.Compare(a.Seed, b.Seed) })
	if asJSON {
		if err := printJSON(out, t); err != nil {
			return err
		}
	} else {
		t.print(out)
		if t.Failed > 0 {
			c := f.config
			c.Seed = t.Failures[0].Seed
			fmt.Fprintf(out, "\nThe run of seed %d:\n\n", c.Seed)
			replay(out, c)
			fmt.Fprintf(out, "\n%v\n", t.Failures[0])
		}
	}
	switch {
	case t.Failed > 0:
		return fmt.Errorf("%d of %d runs broke an invariant", t.Failed, t.Runs)
	case ctx.Err() != nil:
		return fmt.Errorf("stopped after %d of %d runs: %w", t.Runs, f.runs, ctx.Err())
	}
	return nil
}

func (t *simTotal) print(w io.Writer) {
	fmt.Fprintf(w, "%d runs from seed %d, %d failed; %.0f runs/s, %.0f s for %.0f s of virtual time\n", t.Runs, t.From, t.Failed, t.RunsPerSecond, t.Seconds, t.VirtualSeconds)
	fmt.Fprintf(w, "%d tasks, %d settled, %d of them paid, %d without rounds; %d messages, delivered %d times\n", t.Tasks, t.Settled, t.Paid, t.Fast, t.Messages, t.Delivered)
	fmt.Fprintf(w, "highest round %d, at most %d after the faults had stopped; %d certificates of one task by other signers\n\n", t.MaxRound, t.MaxLateRounds, t.OtherSigners)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	counts(tab, "runs by validators", t.ByValidators)
	counts(tab, "runs by fault", t.ByFault)
	counts(tab, "runs by adversary", t.ByAdversary)
	counts(tab, "faults injected", t.Injected)
	counts(tab, "checks made", t.Checked)
	tab.Flush()
}

func counts[K cmp.Ordered](w io.Writer, what string, m map[K]int) {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%v %d", k, m[k]))
	}
	fmt.Fprintf(w, "%s\t%s\n", what, strings.Join(parts, ", "))
}
