package sim

import (
	"testing"
)

func TestNoSeedBreaksAnInvariant(t *testing.T) {
	seeds := uint64(3000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		if r := Run(Config{Seed: seed}); len(r.Broken) > 0 {
			t.Fatalf("seed %d (n=%d, faults %v, adversaries %v): %v", seed, r.Validators, r.Faults, r.Adversaries, r.Broken)
		}
	}
}
