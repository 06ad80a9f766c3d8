package sim

import "testing"

// BenchmarkRun makes runs as they are drawn, and of the smallest committee that bears a fault.
func BenchmarkRun(b *testing.B) {
	for name, n := range map[string]int{"drawn": 0, "4": 4} {
		b.Run(name, func(b *testing.B) {
			seed := uint64(0)
			for b.Loop() {
				Run(Config{Seed: seed, Validators: n})
				seed++
			}
		})
	}
}
