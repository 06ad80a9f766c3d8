package sim

import (
	"runtime"
	"slices"
	"strings"
	"testing"
)

// run makes the run of a seed, and shows its trace if it breaks something.
func run(t *testing.T, c Config) Result {
	t.Helper()
	r := Run(c)
	if len(r.Broken) > 0 {
		var trace []string
		c.Trace = func(line string) { trace = append(trace, line) }
		Run(c)
		const most = 400
		t.Fatalf("%v\nThe last of %d lines of its trace (poq sim --seed %d shows all):\n%s", r, len(trace), c.Seed, strings.Join(trace[max(0, len(trace)-most):], "\n"))
	}
	return r
}

// seeds returns how many runs a test makes.
func seeds(most uint64) uint64 {
	if testing.Short() {
		return most / 10
	}
	return most
}

func TestInvariantsHoldWhateverIsDrawn(t *testing.T) {
	settled, injected := 0, [faultKinds]int{}
	checked := [invariants]int{}
	for seed := range seeds(1500) {
		r := run(t, Config{Seed: seed})
		settled += r.Settled
		for i, n := range r.Injected {
			injected[i] += n
		}
		for i, n := range r.Checked {
			checked[i] += n
		}
	}
	if settled == 0 {
		t.Error("nothing was settled")
	}
	for i, n := range injected {
		if n == 0 {
			t.Errorf("fault %s never happened", faultNames[i])
		}
	}
	for i, n := range checked {
		// These two are counted only when they break.
		if inv := Invariant(i); n == 0 && inv.String() != "" && !slices.Contains([]Invariant{0, 14, LogOpens, Refused, Size}, inv) {
			t.Errorf("%v was never checked", inv)
		}
	}
}

func TestInvariantsHoldInEveryCommitteeAgainstEveryAdversary(t *testing.T) {
	for _, name := range Adversaries {
		for i, n := range Sizes[1:] {
			t.Run(name, func(t *testing.T) {
				for seed := range seeds(10) {
					run(t, Config{Seed: 10_000*uint64(i) + seed, Validators: n, Adversary: name})
				}
			})
		}
	}
}

func TestInvariantsHoldUnderAllFaultsAtOnce(t *testing.T) {
	all, err := ParseFaults("all")
	if err != nil {
		t.Fatal(err)
	}
	for seed := range seeds(300) {
		run(t, Config{Seed: seed, Faults: &all})
	}
}

func TestSeedGivesTheSameRunAgain(t *testing.T) {
	trace := func(seed uint64) (Result, []string) {
		var lines []string
		r := Run(Config{Seed: seed, Trace: func(line string) { lines = append(lines, line) }})
		return r, lines
	}
	for seed := range seeds(60) {
		first, lines := trace(seed)
		if plain := Run(Config{Seed: seed}); plain.Hash != first.Hash {
			t.Errorf("seed %d runs otherwise without a trace", seed)
		}
		old := runtime.GOMAXPROCS(1 + int(seed%4))
		_, again := trace(seed)
		runtime.GOMAXPROCS(old)
		for i := range max(len(lines), len(again)) {
			if i >= len(lines) || i >= len(again) || lines[i] != again[i] {
				t.Fatalf("seed %d: line %d differs:\n%s\n%s", seed, i, lines[min(i, len(lines)-1)], again[min(i, len(again)-1)])
			}
		}
	}
}

func TestFaultsAreReadAsTheyAreWritten(t *testing.T) {
	for f := range allFaults + 1 {
		if got, err := ParseFaults(f.String()); err != nil || got != f {
			t.Fatalf("%v: %v, %v", f, got, err)
		}
	}
	if _, err := ParseFaults("loss,typo"); err == nil {
		t.Error("an unknown fault is taken")
	}
}
