package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The flags of poq up are the settings of a peer: each may also come from the environment or from config.toml.

const (
	configFile = "config.toml"
	envPrefix  = "POQ_"
)

// Where a setting comes from, beside the name of a variable or a file.
const (
	fromDefault = "default"
	fromFlag    = "flag"
)

// notInFile are flags that make no sense in the file: it lies in the directory, and a peer joins once.
var notInFile = []string{"dir", "join"}

// setting is a flag with its value.
type setting struct {
	Key     string `json:"key"`
	Value   any    `json:"value"` // string, or list of strings
	From    string `json:"from"`
	Default any    `json:"default"`
	Type    string `json:"type"`
	Env     string `json:"env"`
	Usage   string `json:"usage"`
}

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// eachSetting calls f for every flag that is a setting.
func eachSetting(flags *pflag.FlagSet, f func(*pflag.Flag)) {
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "help" && flag.Name != "json" {
			f(flag)
		}
	})
}

// configure gives every setting that no flag set its value from the environment, or else from the file in the peer's
// directory, and returns where each comes from.
func configure(flags *pflag.FlagSet) (from map[string]string, err error) {
	from = map[string]string{}
	eachSetting(flags, func(f *pflag.Flag) {
		from[f.Name] = fromDefault
		value, ok := os.LookupEnv(envName(f.Name))
		switch {
		case f.Changed:
			from[f.Name] = fromFlag
		case ok:
			from[f.Name] = envName(f.Name)
			if e := setFlag(f, value); e != nil {
				err = cmp.Or(err, usagef("%s=%s: %w", envName(f.Name), value, e))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	dir, err := flags.GetString("dir")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, configFile)
	values, err := readConfig(flags, path)
	if errors.Is(err, fs.ErrNotExist) {
		return from, nil
	}
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		f := flags.Lookup(key)
		set := from[key] == fromDefault
		if !set {
			f = newUp(&globals{}).Flags().Lookup(key) // a value that is not used must be right all the same
		}
		if err := setFlag(f, values[key]); err != nil {
			return nil, usagef("%s: %s: %w", path, key, err)
		}
		if set {
			from[key] = path
		}
	}
	return from, nil
}

// setFlag sets a flag from text, or from what TOML has.
func setFlag(f *pflag.Flag, value any) error {
	list, isList := f.Value.(pflag.SliceValue)
	switch v := value.(type) {
	case []any:
		if !isList {
			return fmt.Errorf("want one value, not a list")
		}
		var all []string
		for _, e := range v {
			all = append(all, fmt.Sprint(e))
		}
		return list.Replace(all)
	case string:
		if !isList {
			return f.Value.Set(v)
		}
		if f.Name == "engine" { // its options follow after commas
			return list.Replace(strings.Split(v, ";"))
		}
		return list.Replace(strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' }))
	case bool, int64, float64:
		if isList {
			return list.Replace([]string{fmt.Sprint(v)})
		}
		return f.Value.Set(fmt.Sprint(v))
	default:
		return fmt.Errorf("want text, a number, true or false, or a list")
	}
}

// readConfig reads a file of settings. All its keys are known ones.
func readConfig(flags *pflag.FlagSet, path string) (map[string]any, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return nil, usagef("%s, line %d, column %d: %w", path, line, column, err)
		}
		return nil, usagef("%s: %w", path, err)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if slices.Contains(notInFile, key) {
			return nil, usagef("%s: %s can't stand in a file: use --%s or %s", path, key, key, envName(key))
		}
		if f, err := findSetting(flags, key); err != nil {
			return nil, usagef("%s: %w", path, err)
		} else if f.Name != key {
			return nil, usagef("%s: %q is written %s", path, key, f.Name)
		}
	}
	return values, nil
}

// findSetting finds a setting by its name, which may be that of its variable.
func findSetting(flags *pflag.FlagSet, key string) (*pflag.Flag, error) {
	name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(key, envPrefix), "--"), "_", "-"))
	var found *pflag.Flag
	var near []string
	eachSetting(flags, func(f *pflag.Flag) {
		switch {
		case f.Name == name:
			found = f
		case distance(f.Name, name) <= 2 || len(name) > 2 && strings.HasPrefix(f.Name, name):
			near = append(near, f.Name)
		}
	})
	if found != nil {
		return found, nil
	}
	hint := ""
	if len(near) > 0 {
		hint = ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return nil, usagef("unknown setting %q%s; see poq config show", key, hint)
}

// distance is the Levenshtein distance of two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, last+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// settings lists the settings with their values.
func settings(flags *pflag.FlagSet, from map[string]string) (list []setting) {
	value := func(f *pflag.Flag, text string) any {
		if l, ok := f.Value.(pflag.SliceValue); ok {
			if text == f.DefValue { // of one word, if any
				return strings.Fields(strings.Trim(text, "[]"))
			}
			return append([]string{}, l.GetSlice()...)
		}
		return text
	}
	eachSetting(flags, func(f *pflag.Flag) {
		list = append(list, setting{f.Name, value(f, f.Value.String()), from[f.Name], value(f, f.DefValue), f.Value.Type(), envName(f.Name), f.Usage})
	})
	return list
}

func newConfig(g *globals) *cobra.Command {
	c := group("config", "Show, explain and check the settings of a peer", configShow(g), configExplain(g), configValidate(g))
	c.Long = `The flags of poq up are the settings of a peer. A setting comes from the flag, or else
from the environment (POQ_ and its name: POQ_PORT), or else from config.toml in the
peer's directory:

  roles = ["worker"]
  port = 4777
  engine = "openai=http://127.0.0.1:11434/v1,model=llama3.2"`
	return c
}

func configShow(g *globals) *cobra.Command {
	var dir string
	c := &cobra.Command{Use: "show", Short: "Show every setting, and where it comes from", Args: args(cobra.NoArgs)}
	c.Flags().StringVar(&dir, "dir", defaultDir(), "directory of the peer")
	c.RunE = func(c *cobra.Command, _ []string) error {
		flags := newUp(g).Flags()
		if c.Flags().Changed("dir") {
			if err := flags.Set("dir", dir); err != nil {
				return usagef("--dir: %w", err)
			}
		}
		from, err := configure(flags)
		if err != nil {
			return err
		}
		list := settings(flags, from)
		if g.json {
			return printJSON(c.OutOrStdout(), list)
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SETTING\tVALUE\tFROM")
		for _, s := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\n", s.Key, settingText(s.Value), s.From)
		}
		return t.Flush()
	}
	return c
}

// settingText shows a value.
func settingText(v any) string {
	text := fmt.Sprint(v)
	if l, ok := v.([]string); ok {
		text = strings.Join(l, ", ")
	}
	return cmp.Or(text, "-")
}

func configExplain(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "explain SETTING", Short: "Say what a setting does and how to set it", Args: args(cobra.ExactArgs(1)), Example: "  poq config explain port",
		RunE: func(c *cobra.Command, a []string) error {
			flags := newUp(g).Flags()
			f, err := findSetting(flags, a[0])
			if err != nil {
				return err
			}
			from, err := configure(flags)
			if err != nil {
				return err
			}
			list := settings(flags, from)
			s := list[slices.IndexFunc(list, func(s setting) bool { return s.Key == f.Name })]
			if g.json {
				return printJSON(c.OutOrStdout(), s)
			}
			explain(c.OutOrStdout(), s)
			return nil
		},
	}
}

func explain(w io.Writer, s setting) {
	fmt.Fprintf(w, "%s: %s\n\n", s.Key, s.Usage)
	fmt.Fprintf(w, "Value     %s (%s)\nDefault   %s\n\n", settingText(s.Value), s.From, settingText(s.Default))
	_, list := s.Value.([]string)
	example, inFile := "VALUE", "\"VALUE\""
	switch {
	case s.Type == "bool":
		example, inFile = "false", "false"
	case list:
		example, inFile = "A,B", `["A", "B"]`
	case strings.HasPrefix(s.Type, "int") || strings.HasPrefix(s.Type, "uint"):
		example, inFile = "N", "N"
	}
	fmt.Fprintf(w, "Flag      --%s=%s\nVariable  %s=%s\n", s.Key, strings.Split(example, ",")[0], s.Env, example)
	if list {
		fmt.Fprintln(w, "          the flag may be repeated")
	}
	if !slices.Contains(notInFile, s.Key) {
		fmt.Fprintf(w, "File      %s = %s\n", s.Key, inFile)
	}
}

func configValidate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "validate FILE", Short: "Check a config.toml", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, a []string) error {
			values, err := checkConfig(a[0])
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), struct {
					File     string         `json:"file"`
					Settings map[string]any `json:"settings"`
				}{a[0], values})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is right: %d settings\n", a[0], len(values))
			return err
		},
	}
}

// checkConfig reads a file and checks every value as poq up would.
func checkConfig(path string) (map[string]any, error) {
	var f upFlags
	flags := newUpWith(&globals{}, &f).Flags()
	values, err := readConfig(flags, path)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := setFlag(flags.Lookup(key), values[key]); err != nil {
			return nil, usagef("%s: %s: %w", path, key, err)
		}
	}
	if _, err := f.check(); err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	return values, nil
}
