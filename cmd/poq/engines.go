package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/engines"
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

// workerEngines makes the engines of n workers, and returns the specs that each was made from. each
// overrides all, by N=SPEC with N from 1.
func workerEngines(n int, all string, each []string) (specs []string, list []llm.Engine, err error) {
	specs = make([]string, n)
	for i := range specs {
		if specs[i] = all; all == "" {
			specs[i] = defaultEngine(i)
		}
	}
	for _, e := range each {
		number, spec, ok := strings.Cut(e, "=")
		i, err := strconv.Atoi(number)
		if !ok || err != nil || i < 1 || i > n {
			return nil, nil, usagef("--worker-engine %s: want N=SPEC with N from 1 to %d", e, n)
		}
		specs[i-1] = spec
	}
	made := map[string]llm.Engine{} // equal specs share an engine's memory
	list = make([]llm.Engine, n)
	for i, s := range specs {
		if made[s] == nil {
			e, err := engines.New(s)
			if err != nil {
				return nil, nil, usageError{err}
			}
			made[s] = e
		}
		list[i] = made[s]
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
