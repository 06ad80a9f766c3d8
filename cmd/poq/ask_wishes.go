package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/llm"
)

// wishFlags are the flags of poq ask that say how answers are to be made. Each is named as its option, with a dash for "_".
type wishFlags struct {
	temperature, topP float64
	seed              int64
	maxTokens         int
	model             string
	stop              []string
}

func (w *wishFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&w.model, "model", "", "only workers that have this model, or give this name to theirs, shall answer; poq status lists them (default any)")
	c.Flags().Float64Var(&w.temperature, "temperature", 0, "how freely engines draw their words, 0 to 2; at 0 they take the likeliest (default as each engine is set)")
	c.Flags().Float64Var(&w.topP, "top-p", 0, "draw from the likeliest words that together have this probability, 0 to 1 (default as each engine is set)")
	c.Flags().Int64Var(&w.seed, "seed", 0, "draw the same each time (default as each engine is set)")
	c.Flags().IntVar(&w.maxTokens, "max-tokens", 0, "bound the length of answers, in tokens of each engine's model (default as each engine is set)")
	c.Flags().StringArrayVar(&w.stop, "stop", nil, fmt.Sprintf("end answers before this text; may be repeated, up to %d times", llm.MaxStops))
}

// options returns the wishes that were given.
func (w *wishFlags) options(c *cobra.Command) (o llm.Options, err error) {
	given := c.Flags().Changed
	if given("temperature") {
		o.Temperature = &w.temperature
	}
	if given("top-p") {
		o.TopP = &w.topP
	}
	if given("seed") {
		o.Seed = &w.seed
	}
	if given("max-tokens") && w.maxTokens < 1 {
		return o, usagef("--max-tokens %d: want 1 or more", w.maxTokens)
	}
	o.Model, o.MaxTokens, o.Stop = w.model, w.maxTokens, w.stop
	var bad *llm.OptionError
	if errors.As(o.Check(), &bad) {
		return o, usagef("--%s %s", strings.ReplaceAll(bad.Option, "_", "-"), bad.Reason)
	}
	return o, nil
}

// above returns the wishes of a line where it has some, and else those of its batch.
func above(batch, line llm.Options) llm.Options {
	o := batch
	if line.Model != "" {
		o.Model = line.Model
	}
	if line.MaxTokens != 0 {
		o.MaxTokens = line.MaxTokens
	}
	if line.Temperature != nil {
		o.Temperature = line.Temperature
	}
	if line.TopP != nil {
		o.TopP = line.TopP
	}
	if line.Seed != nil {
		o.Seed = line.Seed
	}
	if line.Stop != nil {
		o.Stop = line.Stop
	}
	return o
}
