package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/quality"
)

func newJudge(g *globals) *cobra.Command {
	var model string
	c := group("judge", "Score answers, and measure the judge", judgeScore(g, &model), judgeEval(g, &model))
	c.PersistentFlags().StringVar(&model, "model", "", "directory of another judge model instead of the one in the binary")
	return c
}

func judgeScore(g *globals, model *string) *cobra.Command {
	var prompt, answer string
	c := &cobra.Command{
		Use: "score", Short: "Score one answer to a prompt", Args: args(cobra.NoArgs),
		Example: `  poq judge score --prompt "What is the capital of France?" --answer "Paris."`,
	}
	c.Flags().StringVar(&prompt, "prompt", "", "what was asked")
	c.Flags().StringVar(&answer, "answer", "", "what was answered")
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if prompt == "" || !c.Flags().Changed("answer") {
			return usagef("want --prompt and --answer; see %s --help", c.CommandPath())
		}
		judge, closeJudge, err := loadJudge(c.Context(), *model)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeJudge()) }()
		begin := time.Now()
		score, err := judge.Score(c.Context(), prompt, answer)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), map[string]any{"score": score, "judge": judge.ID(), "elapsed_ms": time.Since(begin).Milliseconds()})
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), score)
		return err
	}
	return c
}

func judgeEval(g *globals, model *string) *cobra.Command {
	return &cobra.Command{
		Use: "eval FILE", Short: "Compare the judge with labelled answers", Args: args(cobra.ExactArgs(1)),
		Long: `Scores the answers in a file with one JSON document a line,
  {"prompt": "...", "answers": [{"text": "...", "quality": 0.9, "kind": "good"}, ...]}
and tells how often the judge prefers the better one of two.`,
		RunE: func(c *cobra.Command, a []string) (err error) {
			f, err := os.Open(a[0])
			if err != nil {
				return fmt.Errorf("reading the labelled answers: %w", err)
			}
			defer f.Close()
			judge, closeJudge, err := loadJudge(c.Context(), *model)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, closeJudge()) }()
			e, err := quality.Evaluate(c.Context(), judge, f, func(prompts int) {
				if prompts%10 == 0 {
					fmt.Fprintf(c.ErrOrStderr(), "%d prompts\n", prompts)
				}
			})
			if err != nil {
				return fmt.Errorf("%s: %w", a[0], err)
			}
			if g.json {
				return printJSON(c.OutOrStdout(), e)
			}
			w := c.OutOrStdout()
			fmt.Fprintf(w, "judge %s: %d prompts, %d answers in %.1f s\n\n", e.Judge.Short(), e.Prompts, e.Answers, e.Seconds)
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "WORSE ANSWER IS\tPAIRS\tRIGHT ORDER")
			fmt.Fprintf(t, "anything\t%d\t%.2f\n", e.Pairs.Count, e.Pairs.Right)
			for _, kind := range slices.Sorted(maps.Keys(e.ByKind)) {
				fmt.Fprintf(t, "%s\t%d\t%.2f\n", kind, e.ByKind[kind].Count, e.ByKind[kind].Right)
			}
			fmt.Fprintf(t, "\nfavourite is a good answer\t%.2f\t(by chance %.2f)\n", e.FavouriteGood, e.Chance)
			fmt.Fprintf(t, "mean distance of score and label\t%.2f\n", e.MeanAbsoluteError)
			return t.Flush()
		},
	}
}
