package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/devnet"
)

type devnetFlags struct {
	workers, validators int
	dir, engine, model  string
	workerEngines       []string
	seed                uint64
	asks                []string
	verbose             bool
}

// startTimeout is how long a network may take to come up: loading models takes the most of it.
const startTimeout = 2 * time.Minute

func newDevnet(g *globals) *cobra.Command {
	var f devnetFlags
	c := &cobra.Command{
		Use:   "devnet",
		Short: "Run a whole network in this process",
		Long: `Runs validators, workers and a payer with 1000 credits, each with its own libp2p
host, keys and ledger, in this process. Nothing is simulated. Ctrl-C ends it.

Without --dir the network is forgotten when it ends. With --dir, a second start
finds accounts and ledger as they were.`,
		Example: `  poq devnet
  poq devnet --dir ./net --workers 2 --engine smol
  poq devnet --worker-engine 1=openai=http://127.0.0.1:11434/v1,model=llama3.2
  poq devnet --ask "What is the capital of France?"`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().IntVar(&f.workers, "workers", 3, "number of workers, which answer")
	c.Flags().IntVar(&f.validators, "validators", 4, "number of validators, which judge and settle")
	c.Flags().StringVar(&f.dir, "dir", "", "directory to keep the network in")
	c.Flags().Uint64Var(&f.seed, "seed", 0, "make the keys from this number, for networks that look the same every time")
	c.Flags().StringVar(&f.engine, "engine", "", "answer engine of all workers: smol, extract or openai=URL, with options")
	c.Flags().StringArrayVar(&f.workerEngines, "worker-engine", nil, "answer engine of one worker, as N=SPEC; may be repeated")
	c.Flags().StringVar(&f.model, "judge-model", "", "directory of another judge model instead of the one in the binary")
	c.Flags().StringArrayVar(&f.asks, "ask", nil, "ask this, print the settlement, verify the ledgers and exit; may be repeated")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what the peers do to stderr")
	c.RunE = func(c *cobra.Command, _ []string) error { return runDevnet(c, g, f) }
	return c
}

func runDevnet(c *cobra.Command, g *globals, f devnetFlags) (err error) {
	switch {
	case f.validators < 1 || f.validators > ledger.MaxValidators:
		return usagef("--validators %d: want 1 to %d", f.validators, ledger.MaxValidators)
	case f.workers < 1 || f.workers > devnet.MaxWorkers:
		return usagef("--workers %d: want 1 to %d", f.workers, devnet.MaxWorkers)
	}
	for _, a := range f.asks {
		if strings.TrimSpace(a) == "" {
			return usagef("--ask: %w", node.ErrEmptyPrompt)
		}
	}
	engines, err := workerEngines(f.workers, f.engine, f.workerEngines)
	if err != nil {
		return err
	}
	dir := f.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "poq-devnet-"); err != nil {
			return fmt.Errorf("making a directory for the network: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	progress := func(format string, a ...any) { fmt.Fprintf(c.ErrOrStderr(), format+"\n", a...) }
	progress("loading the judge and starting %d validators, %d workers and a payer ...", f.validators, f.workers)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(c.Context(), startTimeout)
	defer cancel()
	judge, closeJudge, err := loadJudge(ctx, f.model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeJudge()) }()
	conf := devnet.Config{Dir: dir, Validators: f.validators, Engines: engines, Judge: judge, Logger: newLogger(c.ErrOrStderr(), f.verbose)}
	if c.Flags().Changed("seed") {
		conf.Seed = &f.seed
	}
	d, err := devnet.Start(ctx, conf)
	if err != nil {
		return err
	}
	defer func() {
		if e := d.Close(); err == nil { // else it only says once more why a peer failed
			err = e
		}
	}()
	var peers []control.Peer
	for _, p := range d.Peers {
		peers = append(peers, control.Peer{Name: p.Name, Role: string(p.Role), Node: p.Node})
	}
	server, err := control.Serve(versionText(), dir, peers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	debug.FreeOSMemory() // loading took more than running does
	card := server.Status()
	progress("ready in %.1f s", time.Since(begin).Seconds())
	if len(f.asks) > 0 {
		return askDevnet(c, g, f, d, card)
	}
	if g.json {
		err = printJSON(c.OutOrStdout(), card)
	} else {
		printCard(c.OutOrStdout(), card, f.dir == "")
	}
	if err != nil {
		return err
	}
	return waitDevnet(c.Context(), d, progress)
}

// waitDevnet returns when the user or a failing peer ends the network.
func waitDevnet(ctx context.Context, d *devnet.Devnet, progress func(string, ...any)) error {
	failed := make(chan error, len(d.Peers))
	for _, p := range d.Peers {
		go func() {
			<-p.Node.Done()
			if err := p.Node.Err(); err != nil {
				failed <- fmt.Errorf("%s stopped: %w", p.Name, err)
			}
		}()
	}
	select {
	case <-ctx.Done():
		progress("stopping ...")
		return nil
	case err := <-failed:
		return err
	}
}

func newLogger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// askDevnet asks each question in turn, shows how it was settled and verifies all ledgers.
func askDevnet(c *cobra.Command, g *globals, f devnetFlags, d *devnet.Devnet, card control.Status) error {
	var settlements []*node.Settlement
	out := c.OutOrStdout()
	for _, prompt := range f.asks {
		line := newStageLine(c.ErrOrStderr(), f.validators)
		if !g.json {
			fmt.Fprintf(out, "\n>>> %s\n", strings.ReplaceAll(strings.TrimSpace(prompt), "\n", "\n    "))
		}
		names := node.Names(d.Genesis)
		begin := time.Now()
		s, err := d.Payer().Node.Ask(c.Context(), prompt, node.AskOptions{MaxAnswers: min(f.workers, ledger.MaxAnswers), OnEvent: func(e node.Event) {
			line.step(control.NewStep(e, begin, names))
		}})
		line.end()
		if err != nil {
			return err
		}
		settlements = append(settlements, s)
		if !g.json {
			printSettlement(out, s)
		}
	}
	results, err := verifyAll(c.Context(), d)
	if err != nil {
		return err
	}
	if g.json {
		return errors.Join(printJSON(out, struct {
			Devnet      control.Status             `json:"devnet"`
			Settlements []*node.Settlement         `json:"settlements"`
			Ledgers     []control.PeerVerification `json:"ledgers"`
		}{card, settlements, results}), failedVerification(results))
	}
	fmt.Fprintln(out)
	printVerification(out, results)
	return failedVerification(results)
}

// verifyAll waits until every peer has every task, then verifies all ledgers.
func verifyAll(ctx context.Context, d *devnet.Devnet) (results []control.PeerVerification, err error) {
	if err := d.WaitEqual(ctx); err != nil {
		return nil, err
	}
	for _, p := range d.Peers {
		if err := p.Node.Ledger().Flush(); err != nil {
			return nil, err
		}
		results = append(results, control.Verify(p.Name, p.Node.Ledger()))
	}
	return results, nil
}

func printCard(w io.Writer, s control.Status, forgotten bool) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nNetwork %s   chain %s   judge %s\n\n", s.Network, s.Chain.Short(), s.Judge.Short())
	fmt.Fprintln(t, "PEER\tBALANCE\tACCOUNT\tENGINE\tADDRESS")
	for _, p := range s.Peers {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Name, formatAmount(p.Balance), p.Account.Short(), p.Engine, p.Addrs[0])
	}
	t.Flush()
	kept := ""
	if forgotten {
		kept = "   (removed at the end; --dir keeps it)"
	}
	fmt.Fprintf(w, `
Data            %s%s
Control socket  %s

Now, in another terminal:
  poq ask "Who wrote Pride and Prejudice, and when was it published?"
  cat article.txt | poq ask --file - "Summarise this article in two sentences."
  poq ledger accounts
  poq ledger verify

Every peer of the network can read what is asked. Ctrl-C ends the network.
`, s.Dir, kept, s.Socket)
}
