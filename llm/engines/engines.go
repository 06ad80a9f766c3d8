package engines

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/extract"
	"github.com/poqmesh/poq/llm/openai"
	"github.com/poqmesh/poq/llm/pool"
	"github.com/poqmesh/poq/llm/smol"
)

// Usage lists the specs that [New] takes, a line each.
const Usage = `smol[,temperature=T][,seed=N][,top-p=P][,max-tokens=N][,threads=N]
extract
openai=URL[,model=NAME][,key-env=VARIABLE][,max-tokens=N][,timeout=DURATION]

and each with [,alias=NAME]...[,concurrency=N][,queue=N]`

// SpecError says what is wrong with a spec and what could stand there instead.
type SpecError struct {
	Spec string // with stars for a password in an address
	Err  error
}

func (e *SpecError) Error() string { return fmt.Sprintf("engine %q: %v", e.Spec, e.Err) }

func (e *SpecError) Unwrap() error { return e.Err }

// New makes a pool of the engines that the specs describe, at least one; see [Usage]. It prepares no weights and asks no server yet.
// Every error is a *[SpecError].
func New(specs ...string) (*pool.Pool, error) {
	if len(specs) == 0 {
		return nil, &SpecError{Err: errors.New("no engine named")}
	}
	var members []pool.Member
	for _, spec := range specs {
		m, err := build(spec)
		if err != nil {
			return nil, &SpecError{Spec: password.ReplaceAllString(spec, "//***@"), Err: err}
		}
		members = append(members, m)
	}
	return pool.New(members...), nil
}

var password = regexp.MustCompile(`//[^/,]*@`)

func build(spec string) (m pool.Member, err error) {
	fields := strings.Split(spec, ",")
	name, argument, hasArgument := strings.Cut(strings.TrimSpace(fields[0]), "=")
	k, ok := kinds()[name]
	switch {
	case !ok:
		return m, fmt.Errorf("no such engine, %s", instead(name, slices.Collect(maps.Keys(kinds()))))
	case k.argument == "" && hasArgument:
		return m, fmt.Errorf("%s takes no value; options follow after a comma", name)
	case k.argument != "" && argument == "":
		return m, fmt.Errorf("%s needs a value: %s=%s", name, name, k.argument)
	}
	m.Aliases = slices.Clone(k.aliases)
	options := map[string]func(string) error{"alias": alias(&m.Aliases), "concurrency": atMost(&m.Concurrency, maxConcurrency), "queue": atMost(&m.Queue, maxQueue)}
	maps.Copy(options, k.options)
	seen := map[string]bool{}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		set, ok := options[key]
		switch {
		case !ok:
			return m, fmt.Errorf("no such option %q, %s", key, instead(key, slices.Collect(maps.Keys(options))))
		case seen[key] && key != "alias":
			return m, fmt.Errorf("option %s stands twice", key)
		case value == "":
			return m, fmt.Errorf("option %s needs a value, %s=VALUE", key, key)
		}
		seen[key] = true
		if err := set(value); err != nil {
			return m, fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	m.Engine, err = k.make(argument)
	return m, err
}

// kind is how one engine is made.
type kind struct {
	argument string   // an example of what stands after "name=", empty if nothing does
	aliases  []string // that it has in any case
	options  map[string]func(value string) error
	make     func(argument string) (llm.Engine, error)
}

func kinds() map[string]kind {
	var s smol.Options
	var o openai.Options
	return map[string]kind{
		"smol": {
			aliases: []string{"smol"},
			options: map[string]func(string) error{
				"temperature": number(&s.Temperature),
				"top-p":       positive(&s.TopP),
				"seed":        seed(&s.Seed),
				"max-tokens":  count(&s.MaxTokens),
				"threads":     count(&s.Threads),
			},
			make: func(string) (llm.Engine, error) { return smol.New(s) },
		},
		"extract": {
			aliases: []string{"extract"},
			make:    func(string) (llm.Engine, error) { return extract.New(), nil },
		},
		"openai": {
			argument: "http://127.0.0.1:11434/v1",
			options: map[string]func(string) error{
				"model":      text(&o.Model),
				"key-env":    text(&o.KeyEnv),
				"max-tokens": count(&o.MaxTokens),
				"timeout":    duration(&o.Timeout),
			},
			make: func(url string) (llm.Engine, error) { o.BaseURL = url; return openai.New(o) },
		},
	}
}

func text(to *string) func(string) error {
	return func(v string) error { *to = v; return nil }
}

// The bounds of aliases are those of what workers announce.
const (
	maxAliases = 16
	maxAlias   = 128
)

func alias(to *[]string) func(string) error {
	return func(v string) error {
		switch {
		case len(v) > maxAlias || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }):
			return fmt.Errorf("want up to %d letters, digits and marks of ASCII", maxAlias)
		case len(*to) == maxAliases:
			return fmt.Errorf("more than %d names", maxAliases)
		case !slices.Contains(*to, v):
			*to = append(*to, v)
		}
		return nil
	}
}

func number(to *float64) func(string) error {
	return func(v string) (err error) {
		if *to, err = strconv.ParseFloat(v, 64); err != nil {
			return errors.New("want a number")
		}
		return nil
	}
}

func positive(to *float64) func(string) error {
	return func(v string) error {
		if err := number(to)(v); err != nil || !(*to > 0) {
			return errors.New("want a number above 0")
		}
		return nil
	}
}

func count(to *int) func(string) error {
	return func(v string) (err error) {
		if *to, err = strconv.Atoi(v); err != nil || *to < 1 {
			return errors.New("want a whole number, 1 or more")
		}
		return nil
	}
}

// What a worker can make use of: a task's fee is lost on an answer that comes too late.
const (
	maxConcurrency = 256
	maxQueue       = 4096
)

func atMost(to *int, most int) func(string) error {
	return func(v string) error {
		if err := count(to)(v); err != nil || *to > most {
			return fmt.Errorf("want a whole number from 1 to %d", most)
		}
		return nil
	}
}

func duration(to *time.Duration) func(string) error {
	return func(v string) (err error) {
		if *to, err = time.ParseDuration(v); err != nil || *to <= 0 {
			return errors.New("want a time like 30s")
		}
		return nil
	}
}

func seed(to *uint64) func(string) error {
	return func(v string) (err error) {
		if *to, err = strconv.ParseUint(v, 10, 64); err != nil || *to == 0 {
			return errors.New("want a whole number, 1 or more")
		}
		return nil
	}
}

// instead says what there is, and first of all what was probably meant.
func instead(got string, have []string) string {
	slices.Sort(have)
	all := "have " + strings.Join(have, ", ")
	best := slices.MinFunc(have, func(a, b string) int { return distance(got, a) - distance(got, b) })
	if d := distance(got, best); got != "" && d <= 2 && d < len(best)/2 {
		return fmt.Sprintf("did you mean %q? (%s)", best, all)
	}
	return all
}

// distance is the number of letters to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
