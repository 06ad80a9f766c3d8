package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/scale"
)

// gossipBench is what bench gossip measured.
type gossipBench struct {
	Cores      int             `json:"cores"`
	Processes  bool            `json:"processes"` // one for each peer
	Peers      int             `json:"peers"`
	Validators int             `json:"validators"`
	Answers    int             `json:"answers"`
	Degree     int             `json:"degree"`
	Tasks      int             `json:"tasks"`
	Stacks     []scale.Figures `json:"stacks"`

	conf scale.Config
}

func benchGossip(g *globals) *cobra.Command {
	var conf scale.Config
	var processes bool
	c := &cobra.Command{
		Use: "gossip", Short: "Tell what gossip costs among many peers, beside bare gossipsub with the same messages",
		Long: `Starts many hosts on loopback and has them gossip what settled tasks say: order, certificates,
commitments, answers, scores and receipts, in the order of a task. Then the same over bare
gossipsub, with the same mesh and as the library sets it up. All hosts share this machine's cores,
so with many of them delivery takes as long as the cores need. In virtual time, over
simulated links: make bench-scale.`,
		Example: `  poq bench gossip --peers 100 --tasks 10
  poq bench gossip --peers 12 --degree 0
  poq bench gossip --peers 50 --processes`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().IntVar(&conf.Peers, "peers", 50, "number of hosts")
	c.Flags().IntVar(&conf.Validators, "validators", 4, "how many of them are validators")
	c.Flags().IntVar(&conf.Answers, "answers", 3, "answers to each task")
	c.Flags().IntVar(&conf.Degree, "degree", 5, "others that each host dials; 0 connects all with all")
	c.Flags().IntVar(&conf.Tasks, "tasks", 20, "tasks to play")
	c.Flags().BoolVar(&processes, "processes", false, "run every host in a process of its own")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := conf.Validate(); err != nil {
			return usagef("%w", err)
		}
		if conf.Validators > ledger.MaxValidators || conf.Answers > ledger.MaxAnswers {
			return usagef("want at most %d validators and %d answers", ledger.MaxValidators, ledger.MaxAnswers)
		}
		if processes {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program: %w", err)
			}
			conf.Command = []string{self, "bench", "gossip", "peer"}
		}
		return measure(c, g, &gossipBench{
			Cores: runtime.NumCPU(), Processes: processes, Peers: conf.Peers, Validators: conf.Validators, Answers: conf.Answers, Degree: conf.Degree, Tasks: conf.Tasks, conf: conf,
		})
	}
	peer := &cobra.Command{Use: "peer STACK", Short: "Run one host until stdin ends", Args: args(cobra.ExactArgs(1)), Hidden: true}
	peer.RunE = func(c *cobra.Command, a []string) error {
		if !slices.Contains(scale.Stacks(), scale.Stack(a[0])) {
			return usagef("%q: want one of %q", a[0], scale.Stacks())
		}
		return scale.ServePeer(c.Context(), scale.Stack(a[0]), c.InOrStdin(), c.OutOrStdout())
	}
	c.AddCommand(peer)
	return c
}

func (b *gossipBench) run(ctx context.Context, progress io.Writer) error {
	for _, s := range scale.Stacks() {
		fmt.Fprintf(progress, "%s: %d tasks among %d peers ...\n", s, b.Tasks, b.Peers)
		f, err := b.conf.Measure(ctx, s)
		if err != nil {
			return err
		}
		b.Stacks = append(b.Stacks, f)
	}
	return nil
}

func (b *gossipBench) print(w io.Writer) {
	where := "in one process"
	if b.Processes {
		where = "each in a process of its own"
	}
	fmt.Fprintf(w, "%d peers, %s; %d cores, TCP on loopback; %d tasks, one after another\n", b.Peers, where, b.Cores, b.Tasks)
	messages, size, text := scale.Describe(b.Validators, b.Answers)
	fmt.Fprintf(w, "a task is %d messages of %d B: %s\n\n", messages, size, text)
	scale.Print(w, b.Stacks)
}
