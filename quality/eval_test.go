package quality_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/quality"
)

// lengthJudge prefers long answers: ten basis points a byte.
type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length")) }

func (lengthJudge) Score(ctx context.Context, _, answer string) (quality.Score, error) {
	return min(quality.Score(len(answer))*10, quality.MaxScore), ctx.Err()
}

func TestEvaluateCountsAsTheCardSays(t *testing.T) {
	input := `
{"prompt":"a","answers":[{"text":"` + strings.Repeat("x", 900) + `","quality":0.9,"kind":"good"},{"text":"x","quality":0.1,"kind":"wrong"}]}

{"prompt":"b","answers":[{"text":"xx","quality":0.8,"kind":"good"},{"text":"xxxx","quality":0.1,"kind":"wrong"},{"text":"xx","quality":0.2,"kind":"evasive"}]}
{"prompt":"c","answers":[{"text":"same","quality":0.7,"kind":"partial"},{"text":"same","quality":0.8,"kind":"good"}]}
`
	var seen []int
	got, err := quality.Evaluate(t.Context(), lengthJudge{}, strings.NewReader(input), func(n int) { seen = append(seen, n) })
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []int{1, 2, 3}) {
		t.Errorf("progress %v", seen)
	}
	if got.Judge != (lengthJudge{}).ID() || got.Prompts != 3 || got.Answers != 7 {
		t.Errorf("%+v", got)
	}
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s %v, want %v", what, got, want)
		}
	}
	// a: right. b: wrong and a tie. c: too close to make a pair, and two favourites of which one is good.
	if got.Pairs.Count != 3 {
		t.Errorf("%d pairs", got.Pairs.Count)
	}
	near("right", got.Pairs.Right, 1.5/3)
	want := map[string]quality.Accuracy{"wrong": {Count: 2, Right: 0.5}, "evasive": {Count: 1, Right: 0.5}}
	if !maps.Equal(got.ByKind, want) {
		t.Errorf("by kind %v, want %v", got.ByKind, want)
	}
	near("favourite", got.FavouriteGood, 1.5/3)
	near("chance", got.Chance, (1.0/2+1.0/3+1.0/2)/3)
	near("error", got.MeanAbsoluteError, (0+0.099+0.798+0.096+0.198+0.696+0.796)/7)

	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
}

func TestEvaluateNamesTheLineOfAnError(t *testing.T) {
	const good = `{"prompt":"a","answers":[{"text":"x","quality":1,"kind":"good"},{"text":"y","quality":0,"kind":"wrong"}]}` + "\n"
	for name, test := range map[string]struct{ input, want string }{
		"no JSON":         {good + "{", "line 2: "},
		"after JSON":      {good + strings.TrimSpace(good) + "}", "line 2: "},
		"wrong type":      {good + "\n" + `{"prompt":1}`, "line 3: "},
		"no prompt":       {`{"answers":[]}`, `line 1: "prompt" is empty`},
		"one answer":      {`{"prompt":"a","answers":[{"text":"x","quality":1}]}`, "line 1: \"answers\" has 1"},
		"quality":         {strings.Replace(good, ":1,", ":1.5,", 1), `line 1: answer 1: "quality" is 1.5`},
		"line too long":   {good + `{"prompt":"` + strings.Repeat("x", 1<<20), "line 2: longer than"},
		"nothing":         {"\n\n", "no labelled prompts"},
		"no UTF-8 around": {good + "\xff", "line 2: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := quality.Evaluate(t.Context(), lengthJudge{}, strings.NewReader(test.input), nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := quality.Evaluate(ctx, lengthJudge{}, strings.NewReader(good), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzEvaluate(f *testing.F) {
	f.Add(`{"prompt":"a","answers":[{"text":"x","quality":1,"kind":"good"},{"text":"y","quality":0,"kind":"wrong"}]}`)
	f.Add(`{"prompt":"a","answers":[{"quality":1e-400},{"quality":1}]}` + "\n[]")
	f.Fuzz(func(t *testing.T, input string) {
		e, err := quality.Evaluate(t.Context(), lengthJudge{}, strings.NewReader(input), nil)
		if err != nil {
			return
		}
		for _, share := range []float64{e.Pairs.Right, e.FavouriteGood, e.Chance, e.MeanAbsoluteError} {
			if !(share >= 0 && share <= 1+1e-9) {
				t.Errorf("%+v", e)
			}
		}
		if _, err := json.Marshal(e); err != nil {
			t.Error(err)
		}
	})
}
