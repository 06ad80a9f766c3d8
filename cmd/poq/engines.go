package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/engines"
	"github.com/poqmesh/poq/llm/openai"
	"github.com/poqmesh/poq/quality"
	"github.com/poqmesh/poq/quality/crossencoder"
)

// defaultEngine returns what worker i answers with unless it is told otherwise: a careful and a bold
// language model, and one that only quotes.
func defaultEngine(i int) string {
	switch i {
	case 0:
		return "smol"
	case 2:
		return "extract"
	}
	return "smol,temperature=0.9,seed=" + strconv.Itoa(i)
}

// workerEngines makes the engines of n workers, and returns the specs that each was made from. each, by N=SPEC with N from 1, stands
// for one worker in the place of all.
func workerEngines(n int, all, each []string) (specs [][]string, list []llm.Engine, err error) {
	specs = make([][]string, n)
	for _, e := range each {
		number, spec, ok := strings.Cut(e, "=")
		i, err := strconv.Atoi(number)
		if !ok || err != nil || i < 1 || i > n {
			return nil, nil, usagef("--worker-engine %s: want N=SPEC with N from 1 to %d", e, n)
		}
		specs[i-1] = append(specs[i-1], spec)
	}
	made := map[string]llm.Engine{} // workers with equal specs share engines: their memory, or their servers with the bounds on work
	list = make([]llm.Engine, n)
	for i := range specs {
		switch {
		case len(specs[i]) > 0:
		case len(all) > 0:
			specs[i] = all
		default:
			specs[i] = []string{defaultEngine(i)}
		}
		key := strings.Join(specs[i], "\n")
		if made[key] == nil {
			e, err := engines.New(specs[i]...)
			if err != nil {
				return nil, nil, usageError{err}
			}
			made[key] = e
		}
		list[i] = made[key]
	}
	return specs, list, nil
}

// loadJudge loads the judge in a directory, or the one in the binary if it is "", behind a pool that
// all validators of the process share.
func loadJudge(ctx context.Context, dir string) (*quality.Pool, func() error, error) {
	j, err := crossencoder.New(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	pool := quality.NewPool(j, quality.PoolOptions{})
	return pool, func() error {
		if err := pool.Close(); err != nil {
			return err
		}
		return j.Close()
	}, nil
}

func newEngines(g *globals) *cobra.Command {
	return group("engines", "Find what a worker can answer with", enginesDetect(g))
}

// detected is a model server with the setting that uses it.
type detected struct {
	openai.Server
	Engine string `json:"engine,omitempty"` // empty if it has no model to answer with
}

func enginesDetect(g *globals) *cobra.Command {
	var at []string
	c := &cobra.Command{
		Use: "detect", Short: "Find the model servers that run here", Args: args(cobra.NoArgs),
		Long: `Asks the usual ports of Ollama (11434), llama.cpp (8080), vLLM (8000) and LM Studio
(1234) on this machine for their models, and prints the --engine that uses each. It
sends no prompt. The exit code is 1 if there is none.`,
		Example: `  poq engines detect
  poq engines detect --at gpu.example --at 127.0.0.1:9000 --json`,
	}
	c.Flags().StringArrayVar(&at, "at", []string{"127.0.0.1"}, "where to look instead: HOST, HOST:PORT or URL; may be repeated")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var urls []string
		for _, a := range at {
			u, err := openai.DetectURLs(a)
			if err != nil {
				return usagef("--at: %w", err)
			}
			urls = append(urls, u...)
		}
		list := []detected{}
		for _, s := range openai.Detect(c.Context(), urls) {
			list = append(list, detected{s, s.Spec()})
		}
		err := showDetected(c, g, list)
		if err == nil && len(list) == 0 {
			err = errors.New("no model server at " + strings.Join(urls, ", ") + ": start one, or say where it is with --at HOST:PORT")
		}
		return err
	}
	return c
}

func showDetected(c *cobra.Command, g *globals, list []detected) error {
	w := c.OutOrStdout()
	if g.json {
		return printJSON(w, list)
	}
	if len(list) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVER\tADDRESS\tMODELS")
	for _, s := range list {
		models := s.Problem
		if models == "" {
			models = strings.Join(s.Models, ", ")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Kind, s.URL, models)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, s := range list {
		if s.Engine != "" {
			fmt.Fprintf(w, "poq up --roles worker --engine %s\n", s.Engine)
		}
	}
	return nil
}
