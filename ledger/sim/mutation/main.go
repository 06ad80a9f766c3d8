package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger/sim"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

// packagePath is what is built anew for each mutation: this program, with the mutated core in it.
const packagePath = "./ledger/sim/mutation"

// defaultSeeds bounds the runs that may pass before a mutation must have been noticed.
const defaultSeeds = 5000

// runTime bounds one build and its runs, in case that a mutated core does not come to an end.
const runTime = 5 * time.Minute

// verdict is what came of one mutation.
type verdict struct {
	Mutation string `json:"mutation"` // empty: the core as it is
	Why      string `json:"why,omitempty"`
	Profile  string `json:"profile,omitempty"`
	finding
	Seconds float64 `json:"seconds"` // with the build
	OK      bool    `json:"ok"`
	Problem string  `json:"problem,omitempty"`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == probeCommand {
		if err := probe(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "mutation probe:", err)
			os.Exit(exitFailure)
		}
		return
	}
	match := flag.String("run", "", "only mutations whose names match this regular expression")
	seeds := flag.Uint64("seeds", defaultSeeds, "runs within which a mutation must be noticed")
	workers := flag.Int("workers", 2, "mutations at a time")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	chosen, err := regexp.Compile(*match)
	if err != nil || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "mutation: want flags alone, and -run with a regular expression:", err)
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	verdicts, err := gate(ctx, chosen, *seeds, *workers)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
		os.Exit(exitFailure)
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(verdicts)
	} else {
		err = table(verdicts)
	}
	if err != nil || slices.ContainsFunc(verdicts, func(v verdict) bool { return !v.OK }) {
		os.Exit(exitFailure)
	}
}

// gate tries the mutations, and then the core as it is, with the seeds that each profile took.
func gate(ctx context.Context, chosen *regexp.Regexp, seeds uint64, workers int) ([]verdict, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "poq-mutation-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	var jobs []job
	for _, m := range mutations {
		if chosen.MatchString(m.name) {
			jobs = append(jobs, job{m, seeds})
		}
	}
	mutated, err := try(ctx, root, filepath.Join(dir, "mutated"), jobs, workers)
	if err != nil {
		return nil, err
	}
	var core []job
	for i, v := range mutated {
		p := jobs[i].profile
		k := slices.IndexFunc(core, func(j job) bool { return j.profile == p })
		if k < 0 {
			k, core = len(core), append(core, job{mutation: mutation{profile: p}})
		}
		core[k].seeds = max(core[k].seeds, v.Seeds)
	}
	whole, err := try(ctx, root, filepath.Join(dir, "core"), core, workers)
	return append(mutated, whole...), err
}

// job is a mutation and the seeds within which it must be noticed. Without a name it is the core as it is, which
// must pass them all.
type job struct {
	mutation
	seeds uint64
}

func try(ctx context.Context, root, dir string, jobs []job, workers int) ([]verdict, error) {
	verdicts := make([]verdict, len(jobs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i, j := range jobs {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			start := time.Now()
			v := j.try(ctx, root, filepath.Join(dir, fmt.Sprint(i)), j.seeds)
			v.Seconds = time.Since(start).Seconds()
			verdicts[i] = v
			fmt.Fprintf(os.Stderr, "%3d of %d  %s\n", i+1, len(jobs), v)
			return nil
		})
	}
	return verdicts, group.Wait()
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// apply returns the edited files of the core by their paths in the module.
func (m mutation) apply(root string) (map[string]string, error) {
	files := map[string]string{}
	for _, e := range m.edits {
		text, ok := files[e.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s: the text to be replaced occurs %d times, want once: bring the mutation up to date: %q", e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// overlay writes the edited files and the file that tells the go command of them.
func (m mutation) overlay(root, dir string) (string, error) {
	files, err := m.apply(root)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, text := range files {
		edited := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(edited, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, name)] = edited
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, data, 0o600)
}

// try builds this program with the mutated core and has it run seeds until one breaks an invariant.
func (m mutation) try(ctx context.Context, root, dir string, seeds uint64) verdict {
	v := verdict{Mutation: m.name, Why: m.why, Profile: m.profile.String()}
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	fail := func(format string, args ...any) verdict {
		v.Problem = fmt.Sprintf(format, args...)
		return v
	}
	overlay, err := m.overlay(root, dir)
	if err != nil {
		return fail("%v", err)
	}
	program := filepath.Join(dir, "probe")
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", program, packagePath) //nolint:gosec // a temporary directory of its own
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fail("does not compile: %v\n%s", err, out)
	}
	defer func() { _ = os.Remove(program) }()
	run := exec.CommandContext(ctx, program, append([]string{probeCommand, "-breaks", strings.Join(m.breaks, ",")}, m.profile.args(seeds)...)...) //nolint:gosec // what was just built
	run.Stderr = os.Stderr
	out, err := run.Output()
	if err != nil {
		return fail("the runs came to no end: %v", errors.Join(err, ctx.Err()))
	}
	if err := json.Unmarshal(out, &v.finding); err != nil {
		return fail("the probe's output: %v", err)
	}
	switch {
	case m.name == "" && v.First != "":
		return fail("the core as it is breaks %s with seed %d: %s", v.First, v.FirstSeed, v.Text)
	case m.name == "" || v.Broken != "":
		v.OK = true
	case v.First != "":
		return fail("breaks %s with seed %d, not %s: %s", v.First, v.FirstSeed, strings.Join(m.breaks, " or "), v.Text)
	default:
		return fail("survives")
	}
	return v
}

// String is one line.
func (v verdict) String() string {
	name := cmp.Or(v.Mutation, "(the core as it is)")
	if !v.OK {
		return fmt.Sprintf("FAIL  %s: %s", name, v.Problem)
	}
	return fmt.Sprintf("ok    %s: %s after %d seeds", name, cmp.Or(v.Broken, "nothing broken"), v.Seeds)
}

func table(verdicts []verdict) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MUTATION\tPROFILE\tBROKE\tSEEDS\tFIRST SIGN\tSECONDS\t")
	caught, mutated := 0, 0
	for _, v := range verdicts {
		if v.Mutation != "" {
			mutated++
			if v.OK {
				caught++
			}
		}
		problem := ""
		if !v.OK {
			problem = "FAIL: " + v.Problem
		}
		first := "-"
		if v.First != "" {
			first = fmt.Sprintf("%s at %d", v.First, v.FirstSeed)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%.1f\t%s\n", cmp.Or(v.Mutation, "(none)"), v.Profile, cmp.Or(v.Broken, "-"), v.Seeds, first, v.Seconds, problem)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Printf("%d of %d mutations are caught\n", caught, mutated)
	return err
}

// profile makes some situations likely; its zero value leaves all to the seed.
type profile struct {
	validators int
	faults     string // as [sim.ParseFaults] reads them
	adversary  string
}

// String names what is not left to the seed.
func (p profile) String() string {
	var parts []string
	if p.validators > 0 {
		parts = append(parts, fmt.Sprintf("n=%d", p.validators))
	}
	for _, s := range []string{p.faults, p.adversary} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}

func (p profile) args(seeds uint64) []string {
	return []string{
		"-seeds", fmt.Sprint(seeds), "-n", fmt.Sprint(p.validators), "-faults", p.faults, "-adversary", p.adversary,
	}
}

// finding is what the probe prints.
type finding struct {
	Seeds     uint64 `json:"seeds"`            // that were run
	Broken    string `json:"broken,omitempty"` // the invariant that was expected to break, and did with the last seed
	First     string `json:"first,omitempty"`  // the first that broke at all
	FirstSeed uint64 `json:"first_seed,omitempty"`
	Text      string `json:"text,omitempty"` // of the last violation
}

// probeCommand is the first argument with which this program runs seeds.
const probeCommand = "probe"

// probe runs seeds from 1 until one breaks an invariant of those that are named, or any if none is, and prints
// what it found.
func probe(args []string) error {
	flags := flag.NewFlagSet(probeCommand, flag.ContinueOnError)
	seeds := flags.Uint64("seeds", defaultSeeds, "how many")
	breaks := flags.String("breaks", "", "invariants")
	n := flags.Int("n", 0, "validators; 0: by seed")
	faultNames := flags.String("faults", "", "empty: by seed")
	adversary := flags.String("adversary", "", "empty: by seed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c := sim.Config{Validators: *n, Adversary: *adversary}
	if *faultNames != "" {
		f, err := sim.ParseFaults(*faultNames)
		if err != nil {
			return err
		}
		c.Faults = &f
	}
	var f finding
	for f.Seeds < *seeds && f.Broken == "" {
		f.Seeds++
		c.Seed = f.Seeds
		for _, v := range runSeed(c) {
			if f.First == "" {
				f.First, f.FirstSeed, f.Text = v.invariant, f.Seeds, v.text
			}
			if f.Broken == "" && slices.Contains(strings.Split(*breaks, ","), v.invariant) {
				f.Broken, f.Text = v.invariant, v.text
			}
		}
		if *breaks == "" && f.First != "" {
			break
		}
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// panicked stands for the invariant that a run breaks by a panic of the core.
const panicked = "panic"

type violation struct{ invariant, text string }

func runSeed(c sim.Config) (list []violation) {
	defer func() {
		if p := recover(); p != nil {
			list = []violation{{panicked, fmt.Sprint(p)}}
		}
	}()
	for _, v := range sim.Run(c).Broken {
		list = append(list, violation{v.Invariant.String(), v.String()})
	}
	return list
}
