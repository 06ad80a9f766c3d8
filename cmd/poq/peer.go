package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/llm/engines"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/gateway"
	"github.com/poqmesh/poq/quality/crossencoder"
)

// peerFlags are those of one peer's process, which poq devnet --processes starts.
type peerFlags struct {
	dir, name, socket, model, api string
	engines                       []string
	look                          devnet.Look
	verbose                       bool
}

func newPeer() *cobra.Command {
	var f peerFlags
	run := &cobra.Command{Use: "run", Short: "Run one peer until stdin ends", Args: args(cobra.NoArgs)}
	run.Flags().StringVar(&f.dir, "dir", "", "directory of the network")
	run.Flags().StringVar(&f.name, "name", "", "the peer's name")
	run.Flags().StringVar(&f.socket, "socket", "", "where to serve the control socket")
	run.Flags().IntVar(&f.look.Others, "others", 0, "how many peers to look for")
	run.Flags().DurationVar(&f.look.Most, "look", 0, "how long to look for them before it is ready all the same")
	run.Flags().StringArrayVar(&f.engines, "engine", nil, "answer engine of a worker; may be repeated")
	run.Flags().StringVar(&f.model, "judge-model", "", "judge of a validator: a directory, or nothing for the one in the binary")
	run.Flags().StringVar(&f.api, "api", "", "where a payer serves an API for clients of OpenAI")
	run.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what the peer does to stderr")
	run.RunE = func(c *cobra.Command, _ []string) error { return runPeer(c, f) }
	c := group("peer", "Run one peer of a network of processes", run)
	c.Hidden = true
	return c
}

// arguments returns the arguments of poq that start a peer with these flags.
func (f peerFlags) arguments(role devnet.Role) []string {
	a := []string{"peer", "run", "--dir", f.dir, "--name", f.name, "--socket", f.socket, "--others", strconv.Itoa(f.look.Others), "--look", f.look.Most.String()}
	switch role {
	case devnet.Validator:
		a = append(a, "--judge-model="+f.model)
	case devnet.Worker:
		for _, e := range f.engines {
			a = append(a, "--engine="+e)
		}
	case devnet.Payer:
		a = append(a, "--api="+f.api)
	}
	if f.verbose {
		a = append(a, "-v")
	}
	return a
}

func runPeer(c *cobra.Command, f peerFlags) (err error) {
	ctx, cancel := devnet.Parent(c.Context(), c.InOrStdin())
	defer cancel()
	registry, recent := control.NewRegistry(versionText()), &control.Log{}
	opts := []node.Option{node.WithVersion(versionText()), node.WithRegisterer(registry)}
	if c.Flags().Changed("judge-model") {
		judge, closeJudge, e := loadJudge(ctx, f.model)
		if e != nil {
			return e
		}
		defer func() { err = errors.Join(err, closeJudge()) }()
		opts = append(opts, node.WithJudge(judge))
	}
	if len(f.engines) > 0 {
		e, err := engines.New(f.engines...)
		if err != nil {
			return usageError{err}
		}
		opts = append(opts, node.WithEngine(e))
	}
	level := slog.LevelError
	if f.verbose {
		level = slog.LevelDebug
	}
	log := newLogger(io.MultiWriter(c.ErrOrStderr(), recent), level)
	p, err := devnet.StartPeer(ctx, f.dir, f.name, log, opts...)
	if err != nil {
		return err
	}
	defer func() {
		if p.Node.Err() == nil { // else it ends like in a crash, and writes nothing more
			err = errors.Join(err, p.Node.Close())
		}
	}()
	peer := control.Peer{Name: p.Name, Role: string(p.Role), Node: p.Node, Metrics: registry, Log: recent}
	if f.api != "" {
		api, e := gateway.Serve(f.api, p.Node, gateway.WithKeys(filepath.Join(f.dir, f.name)))
		if e != nil {
			return usagef("--api: %w", e)
		}
		defer func() { err = errors.Join(err, api.Close()) }()
		if err := registry.Register(api); err != nil {
			return fmt.Errorf("metrics of the API: %w", err)
		}
		peer.API = api.URL()
	}
	server, err := control.ServePeer(versionText(), f.dir, f.socket, peer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	debug.FreeOSMemory() // loading took more than running does
	if err := p.Announce(ctx, f.look, c.OutOrStdout()); err != nil {
		log.Debug("not all peers are seen yet", "error", err)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-p.Node.Done():
		return p.Node.Err()
	}
}

// runProcesses runs a network whose peers are processes of their own, until the user ends it.
func runProcesses(c *cobra.Command, g *globals, f devnetFlags, dir string, specs [][]string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program to start peers with: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	judge, err := crossencoder.Identity(f.model)
	if err != nil {
		return err
	}
	name, err := control.Reserve()
	if err != nil {
		return err
	}
	progress := func(format string, a ...any) { fmt.Fprintf(c.ErrOrStderr(), format+"\n", a...) }
	progress("starting %d validators, %d workers and a payer, each in a process of its own ...", f.validators, f.workers)
	begin := time.Now()
	conf := devnet.ProcessConfig{
		Dir: dir, Validators: f.validators, Workers: f.workers, Judge: judge, Stderr: c.ErrOrStderr(),
		Command: func(p devnet.Peer, look devnet.Look) *exec.Cmd {
			flags := peerFlags{dir: dir, name: p.Name, socket: name.Peer(p.Name), model: f.model, api: f.api, look: look, verbose: f.verbose}
			if p.Role == devnet.Worker {
				flags.engines = specs[p.Index]
			}
			return exec.CommandContext(context.Background(), self, flags.arguments(p.Role)...) //nolint:gosec // this program; its network ends it
		},
		Died: func(p devnet.Process) {
			progress("%s is down: %s; start it with poq devnet start %s", p.Name, p.Reason, p.Name)
		},
	}
	if c.Flags().Changed("seed") {
		conf.Seed = &f.seed
	}
	ctx, cancel := context.WithTimeout(c.Context(), startTimeout)
	defer cancel()
	d, err := devnet.StartProcesses(ctx, conf)
	if err != nil {
		return errors.Join(err, name.Release())
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	server, err := control.ServeProcesses(versionText(), dir, name, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	progress("ready in %.1f s", time.Since(begin).Seconds())
	card := server.Status()
	if g.json {
		err = printJSON(c.OutOrStdout(), card)
	} else {
		printCard(c.OutOrStdout(), card, f.dir == "")
	}
	if err != nil {
		return err
	}
	<-c.Context().Done()
	progress("stopping ...")
	return nil
}
