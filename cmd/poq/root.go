package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// globals are the flags that every command has.
type globals struct{ json bool }

// version may be set when the program is linked.
var version = ""

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "poq",
		Short: "A mesh of peers that answer, judge and settle",
		Long: `poq runs a mesh in which peers answer prompts with language models, other peers
judge the answers with a small BERT model, and a quorum settles within
milliseconds who answered best and who is paid what.

The two commands that most people need, in two terminals:

  poq devnet                                  start a network on this machine
  poq ask "What is the capital of France?"    ask it, and see how the answers were judged and paid`,
		SilenceUsage: true, SilenceErrors: true,
		Version: versionText(),
		Args: func(c *cobra.Command, a []string) error {
			if len(a) == 0 {
				return nil
			}
			hint := ""
			if near := c.SuggestionsFor(a[0]); len(near) > 0 {
				hint = fmt.Sprintf(", did you mean %q?", strings.Join(near, `" or "`))
			}
			return usagef("unknown command %q%s; see poq --help", a[0], hint)
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().BoolVar(&g.json, "json", false, "print one JSON document instead of text")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(
		newUp(g), newInit(g), newKeys(g), newAPIKeys(g), newGenesis(g), newToken(g), newConfig(g),
		newStatus(g), newPeers(g), newPing(g), newTop(g), newDoctor(g), newEngines(g),
		newDevnet(g), newAsk(g), newLedger(g), newReceipt(g), newJudge(g), newBench(g), newPeer(), newSim(g), newVersion(g),
	)
	return root
}

// args wraps a rule for arguments so that breaking it counts as wrong usage.
func args(rule cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := rule(c, a); err != nil {
			return usagef("%w; see %s --help", err, c.CommandPath())
		}
		return nil
	}
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		return usagef("%s needs a subcommand; see %s --help", c.CommandPath(), c.CommandPath())
	}}
	c.AddCommand(commands...)
	return c
}

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		if g.json {
			return printJSON(c.OutOrStdout(), map[string]string{"version": versionText()})
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), versionText())
		return err
	}}
}

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
