package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestBenchVotelogCountsDurableVotesOfBothLogs(t *testing.T) {
	var out, progress bytes.Buffer
	c := newRoot()
	c.SetArgs([]string{"bench", "votelog", "--json", "--time", "100ms", "--writers", "4", "--dir", t.TempDir()})
	c.SetOut(&out)
	c.SetErr(&progress)
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	var b votelogBench
	if err := json.Unmarshal(out.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	if len(b.Runs) != 4 {
		t.Fatalf("%d runs: %s", len(b.Runs), out.Bytes())
	}
	for _, r := range b.Runs {
		if r.PerSecond == 0 || r.P99 < r.P50 {
			t.Errorf("%+v", r)
		}
	}
}
