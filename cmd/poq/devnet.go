package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/gateway"
)

type devnetFlags struct {
	workers, validators int
	dir, model, api     string
	engines             []string
	workerEngines       []string
	seed                uint64
	asks                []string
	verbose, processes  bool
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
finds accounts and ledger as they were.

With --processes every peer is a process of its own, which you can kill and start
again to see what the others make of it:

  poq devnet status
  poq devnet kill validator-2
  poq ask "Is anybody there?"
  poq devnet start validator-2`,
		Example: `  poq devnet
  poq devnet --dir ./net --workers 2 --engine smol
  poq devnet --worker-engine 1=openai=http://127.0.0.1:11434/v1,model=llama3.2 --worker-engine 1=extract
  poq devnet --ask "What is the capital of France?"
  poq devnet --processes`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().IntVar(&f.workers, "workers", 3, "number of workers, which answer")
	c.Flags().IntVar(&f.validators, "validators", 4, "number of validators, which judge and settle")
	c.Flags().StringVar(&f.dir, "dir", "", "directory to keep the network in")
	c.Flags().Uint64Var(&f.seed, "seed", 0, "make the keys from this number, for networks that look the same every time")
	c.Flags().StringArrayVar(&f.engines, "engine", nil, "answer engine of all workers: smol, extract or openai=URL, with options; if repeated, the first that is well and takes the task answers")
	c.Flags().StringArrayVar(&f.workerEngines, "worker-engine", nil, "answer engine of one worker instead, as N=SPEC; may be repeated, for one worker too")
	c.Flags().StringVar(&f.model, "judge-model", "", "directory of another judge model instead of the one in the binary")
	c.Flags().StringArrayVar(&f.asks, "ask", nil, "ask this, print the settlement, verify the ledgers and exit; may be repeated")
	c.Flags().StringVar(&f.api, "api", "127.0.0.1:0", "where the payer serves an API for clients of OpenAI, as HOST:PORT; port 0 takes a free one, \"\" serves none")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what the peers do to stderr")
	c.Flags().BoolVar(&f.processes, "processes", false, "run every peer in a process of its own")
	c.RunE = func(c *cobra.Command, _ []string) error { return runDevnet(c, g, f) }
	c.AddCommand(devnetStatus(g), devnetOrder(g, "start", "Start peers that are down", (*control.Client).Start),
		devnetOrder(g, "stop", "Ask peers to end", (*control.Client).Stop),
		devnetOrder(g, "kill", "End peers as a crash does (SIGKILL)", (*control.Client).Kill))
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
	if f.processes && len(f.asks) > 0 {
		return usagef("--ask does not go with --processes: use poq ask when the network is ready")
	}
	specs, engines, err := workerEngines(f.workers, f.engines, f.workerEngines)
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
	if f.processes {
		return runProcesses(c, g, f, dir, specs)
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
	level := slog.LevelWarn
	if f.verbose {
		level = slog.LevelDebug
	}
	conf := devnet.Config{Dir: dir, Validators: f.validators, Engines: engines, Judge: judge, Version: versionText(), Logger: newLogger(c.ErrOrStderr(), level)}
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
	if f.api != "" && len(f.asks) == 0 {
		api, e := gateway.Serve(f.api, d.Payer().Node, gateway.WithKeys(filepath.Join(dir, d.Payer().Name)))
		if e != nil {
			return usagef("--api: %w", e)
		}
		defer func() { err = errors.Join(err, api.Close()) }()
		peers[len(peers)-1].API = api.URL()
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

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// askDevnet asks each question in turn, shows how it was settled and verifies all ledgers.
func askDevnet(c *cobra.Command, g *globals, f devnetFlags, d *devnet.Devnet, card control.Status) error {
	var settlements []*node.Settlement
	out := c.OutOrStdout()
	for _, prompt := range f.asks {
		line := newStageLine(c.ErrOrStderr(), f.validators, f.workers, node.DefaultAnswerTimeout)
		if !g.json {
			fmt.Fprintf(out, "\n>>> %s\n", strings.ReplaceAll(strings.TrimSpace(prompt), "\n", "\n    "))
		}
		names := node.Names(d.Genesis)
		begin := time.Now()
		task, err := d.Payer().Node.Order(c.Context(), prompt, node.AskOptions{MaxAnswers: min(f.workers, ledger.MaxAnswers)})
		if err != nil {
			return err
		}
		for e := range task.Events() {
			line.step(control.NewStep(e, begin, names))
		}
		line.end()
		s, err := task.Wait()
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
	fmt.Fprintf(w, "\nNetwork %s   chain %s   judge %s\n\n", s.Network, s.Chain.Short(), s.Judge.Short())
	printPeers(w, s)
	kept := ""
	if forgotten {
		kept = "   (removed at the end; --dir keeps it)"
	}
	fmt.Fprintf(w, `
Data            %s%s
Control socket  %s
API             %s

Now, in another terminal:
  poq ask "Who wrote Pride and Prejudice, and when was it published?"
  cat article.txt | poq ask --file - "Summarise this article in two sentences."
  poq ledger accounts
  poq ledger verify

Every peer of the network can read what is asked. Ctrl-C ends the network.
`, s.Dir, kept, s.Socket, cmp.Or(s.Peers[len(s.Peers)-1].API, "none"))
}

// printPeers shows each peer on a line; those that are processes of their own with number and state.
func printPeers(w io.Writer, s control.Status) {
	processes := slices.ContainsFunc(s.Peers, func(p control.PeerInfo) bool { return p.PID != s.PID })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "PEER")
	if processes {
		fmt.Fprint(t, "\tPID\tSTATE")
	}
	fmt.Fprintln(t, "\tBALANCE\tACCOUNT\tENGINE\tADDRESS")
	for _, p := range s.Peers {
		fmt.Fprint(t, p.Name)
		if processes {
			pid := "-"
			if p.PID != 0 {
				pid = fmt.Sprint(p.PID)
			}
			fmt.Fprintf(t, "\t%s\t%s", pid, p.State)
		}
		fmt.Fprintf(t, "\t%s\t%s\t%s\t%s\n", formatAmount(p.Balance), p.Account.Short(), p.Engine, p.Addrs[0])
	}
	t.Flush()
	for _, p := range s.Peers {
		if p.Reason != "" {
			fmt.Fprintf(w, "%s is down: %s\n", p.Name, p.Reason)
		}
		if p.Refusal != "" {
			fmt.Fprintf(w, "%s signs nothing: %s\n", p.Name, p.Refusal)
		}
	}
}

func devnetStatus(g *globals) *cobra.Command {
	var dir string
	c := &cobra.Command{Use: "status", Short: "Show the peers of the running network", Args: args(cobra.NoArgs)}
	c.Flags().StringVar(&dir, "dir", "", "directory of the network, if several run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := dial(c, dir)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), client.Status)
		}
		printPeers(c.OutOrStdout(), client.Status)
		return nil
	}
	return c
}

// devnetOrder makes a command that starts or ends peers with processes of their own, all at once.
func devnetOrder(g *globals, what, short string, order func(*control.Client, context.Context, string) (control.PeerInfo, error)) *cobra.Command {
	var dir string
	c := &cobra.Command{Use: what + " PEER...", Short: short + "; needs poq devnet --processes", Args: args(cobra.MinimumNArgs(1))}
	c.Flags().StringVar(&dir, "dir", "", "directory of the network, if several run")
	c.RunE = func(c *cobra.Command, names []string) error {
		client, err := dial(c, dir)
		if err != nil {
			return err
		}
		peers, errs := make([]control.PeerInfo, len(names)), make([]error, len(names))
		var all sync.WaitGroup
		for i, name := range names {
			all.Go(func() { peers[i], errs[i] = order(client, c.Context(), name) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), peers)
		}
		for _, p := range peers {
			fmt.Fprintf(c.OutOrStdout(), "%s is %s\n", p.Name, p.State)
		}
		return nil
	}
	return c
}
