package crossencoder

import (
	"bufio"
	"encoding/json"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/poqmesh/poq/quality"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// raceDetector is set under the race detector, where the network takes many times as long.
var raceDetector bool

// checkNetwork skips a test that would crash. The race detector brings checkptr with it, which stops the program at a pointer that
// GoMLX's matrix product moves past the end of a matrix and doesn't read.
func checkNetwork(tb testing.TB) {
	tb.Helper()
	const flag = "-gcflags=github.com/gomlx/compute/...=-d=checkptr=0"
	if !raceDetector {
		return
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-gcflags" && strings.Contains(s.Value, "checkptr=0") {
				return
			}
		}
	}
	tb.Skip("needs go test -race " + flag)
}

// golden is a pair and what the reference says of it.
type golden struct {
	Prompt string `json:"prompt"`
	Answer string `json:"answer"`
	Score  int    `json:"score_bps"`
	Tokens int    `json:"tokens"`
}

func goldens(tb testing.TB) []golden {
	tb.Helper()
	f, err := os.Open("testdata/golden.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var all []golden
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var g golden
		if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
			tb.Fatal(err)
		}
		all = append(all, g)
	}
	if lines.Err() != nil {
		tb.Fatal(lines.Err())
	}
	return all
}

// short returns every step-th of the short pairs.
func short(all []golden, tokens, step int) []golden {
	all = slices.DeleteFunc(slices.Clone(all), func(g golden) bool { return g.Tokens > tokens })
	var some []golden
	for i := 0; i < len(all); i += step {
		some = append(some, all[i])
	}
	return some
}

// open loads the built-in judge and closes it at the end of the test.
func open(tb testing.TB) *Judge {
	tb.Helper()
	checkNetwork(tb)
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

func TestPairsHaveTheTokensOfTheReference(t *testing.T) {
	tok := loadTokenizer(t)
	for i, g := range goldens(t) {
		if p, _ := tok.prepare(g.Prompt, g.Answer); len(p.ids) != g.Tokens {
			t.Errorf("pair %d: %d tokens, want %d", i, len(p.ids), g.Tokens)
		}
	}
}

func TestScoresMatchTheReference(t *testing.T) {
	pairs := goldens(t)
	switch {
	case raceDetector:
		pairs = short(pairs, 24, 3)
	case testing.Short():
		pairs = append(short(pairs, 160, 6), pairs[len(pairs)-1])
	}
	j := open(t)
	worst, exact := 0, 0
	for i, g := range pairs {
		s, err := j.Score(t.Context(), g.Prompt, g.Answer)
		if err != nil {
			t.Fatal(err)
		}
		d := max(int(s)-g.Score, g.Score-int(s))
		if d > 2 {
			t.Errorf("pair %d (%d tokens, %.60q): %d, want %d", i, g.Tokens, g.Answer, s, g.Score)
		}
		if d == 0 {
			exact++
		}
		worst = max(worst, d)
	}
	t.Logf("%d pairs, %d to the basis point, largest difference %d", len(pairs), exact, worst)
}

func TestScoresAreTheSameWhateverRunsBeside(t *testing.T) {
	step, rounds := 12, 3
	if raceDetector {
		step, rounds = 30, 2
	}
	pairs := short(goldens(t), 100, step)
	j := open(t)
	alone := make([]quality.Score, len(pairs))
	for i, g := range pairs {
		var err error
		if alone[i], err = j.Score(t.Context(), g.Prompt, g.Answer); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := range rounds * len(pairs) {
				i := (n*(worker+1) + worker) % len(pairs)
				if s, err := j.Score(t.Context(), pairs[i].Prompt, pairs[i].Answer); s != alone[i] || err != nil {
					t.Errorf("pair %d: %d beside others, %d alone, %v", i, s, alone[i], err)
				}
			}
		})
	}
	wg.Wait()
}
