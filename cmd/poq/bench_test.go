//go:build unix

package main

import (
	"io"
	"runtime"
	"syscall"
	"testing"
)

// cpuTime is the processor time that the process has used, in ms. On a busy machine it tells more
// than the clock does.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// BenchmarkSettle is `poq bench settle`, for profiles. Loading the judge is part of cpu-ms/task.
func BenchmarkSettle(b *testing.B) {
	for b.Loop() {
		begin := cpuTime(b)
		s := &settleBench{Cores: runtime.NumCPU(), Validators: 4, Workers: 3, Tasks: 300, Concurrency: 1}
		if err := s.run(b.Context(), io.Discard); err != nil {
			b.Fatal(err)
		}
		for _, span := range s.Spans {
			b.Logf("%-45s p50 %.1f ms p99 %.1f ms", span.Name, float64(span.P50)/1000, float64(span.P99)/1000)
		}
		b.ReportMetric(float64(s.PerSecond), "tasks/s")
		b.ReportMetric((cpuTime(b)-begin)/float64(s.Tasks), "cpu-ms/task")
	}
}
