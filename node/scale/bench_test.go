package scale

import "testing"

// BenchmarkTask is `poq bench gossip`, for profiles.
func BenchmarkTask(b *testing.B) {
	for _, s := range Stacks() {
		b.Run(string(s), func(b *testing.B) {
			f, err := Config{Peers: 20, Validators: 4, Answers: 3, Degree: 5, Tasks: max(b.N, 1)}.Measure(b.Context(), s)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(f.CPU.Microseconds()), "cpu-µs/task")
			b.ReportMetric(f.Bytes, "B/task/peer")
			b.ReportMetric(f.Sent, "messages/task/peer")
		})
	}
}
