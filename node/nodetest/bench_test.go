package nodetest

import "testing"

// A swarm of 4 validators, 3 workers and a payer: up, and up and down again.
func BenchmarkNewSwarm(b *testing.B) {
	for b.Loop() {
		s := NewSwarm(b, Validators(4), Workers(3))
		b.StopTimer()
		s.close()
		b.StartTimer()
	}
}
