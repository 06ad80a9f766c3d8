package crossencoder

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
)

type golden struct {
	Prompt string `json:"prompt"`
	Answer string `json:"answer"`
	Score  int    `json:"score_bps"`
	Tokens int    `json:"tokens"`
}

func goldens(t testing.TB) []golden {
	t.Helper()
	f, err := os.Open("testdata/golden.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []golden
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			if lines.Err() != nil {
				t.Fatal(lines.Err())
			}
			return all
		}
		var g golden
		if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
}

// open loads the built-in judge and closes it at the end of the test.
func open(tb testing.TB) *Judge {
	tb.Helper()
	j, err := New(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := j.Close(); err != nil {
			tb.Error(err)
		}
	})
	return j
}

func TestScoresMatchTheReference(t *testing.T) {
	j := open(t)
	worst := 0
	for i, g := range goldens(t) {
		p, _ := j.tokenizer.prepare(g.Prompt, g.Answer)
		if len(p.ids) != g.Tokens {
			t.Errorf("pair %d: %d tokens, want %d", i, len(p.ids), g.Tokens)
		}
		s, err := j.Score(t.Context(), g.Prompt, g.Answer)
		if err != nil {
			t.Fatal(err)
		}
		d := int(s) - g.Score
		worst = max(worst, d, -d)
		if d > 2 || d < -2 {
			t.Errorf("pair %d (%d tokens): %d, want %d", i, g.Tokens, s, g.Score)
		}
	}
	t.Logf("largest difference %d basis points", worst)
}
