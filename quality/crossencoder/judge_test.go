package crossencoder

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/knights-analytics/hugot"

	"github.com/poqmesh/poq/quality"
)

// hugot's own session reads the directory, joins the texts, tokenises and runs the graph of the file node by node.
func TestScoresMatchHugotsPipeline(t *testing.T) {
	if raceDetector {
		t.Skip("takes long under the race detector")
	}
	session, err := hugot.NewGoSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := session.Destroy(); err != nil {
			t.Error(err)
		}
	}()
	pipeline, err := hugot.NewPipeline(session, hugot.CrossEncoderConfig{ModelPath: "model", Name: "reference", OnnxFilename: modelFile})
	if err != nil {
		t.Fatal(err)
	}
	j := open(t)
	for _, g := range short(goldens(t), 120, 15) {
		if g.Tokens == 0 {
			continue
		}
		out, err := pipeline.RunPipeline(t.Context(), neutralise(g.Prompt), []string{neutralise(g.Answer)})
		if err != nil {
			t.Fatal(err)
		}
		s, err := j.Score(t.Context(), g.Prompt, g.Answer)
		if err != nil {
			t.Fatal(err)
		}
		if theirs := 10000 * float64(out.Results[0].Score); math.Abs(float64(s)-theirs) > 1 {
			t.Errorf("%.60q: %d, hugot's pipeline %.2f", g.Answer, s, theirs)
		}
	}
}

func TestJudgeOfADirectoryIsTheBuiltInOneIfItsFilesAre(t *testing.T) {
	if raceDetector {
		t.Skip("takes long under the race detector")
	}
	builtin := open(t)
	j, err := New(t.Context(), "model")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if id, err := Identity("model"); err != nil || id != builtin.ID() {
		t.Errorf("identity without loading: %v, %v", id, err)
	}
	if j.ID() != builtin.ID() || j.ID().IsZero() {
		t.Errorf("identities %v and %v", j.ID(), builtin.ID())
	}
	g := goldens(t)[0]
	a, errA := j.Score(t.Context(), g.Prompt, g.Answer)
	b, errB := builtin.Score(t.Context(), g.Prompt, g.Answer)
	if a != b || errA != nil || errB != nil {
		t.Error(a, b, errA, errB)
	}
}

func TestEveryFileIsPartOfTheIdentity(t *testing.T) {
	original := files{model: []byte("m"), tokenizer: []byte("t"), rawConfig: []byte("c")}
	ids := map[string]bool{original.id().String(): true}
	for _, other := range []files{
		{model: []byte("x"), tokenizer: []byte("t"), rawConfig: []byte("c")},
		{model: []byte("m"), tokenizer: []byte("x"), rawConfig: []byte("c")},
		{model: []byte("m"), tokenizer: []byte("t"), rawConfig: []byte("x")},
		{model: []byte("mt"), tokenizer: []byte(""), rawConfig: []byte("c")},
	} {
		ids[other.id().String()] = true
	}
	if len(ids) != 5 {
		t.Errorf("%d identities of 5 judges", len(ids))
	}
}

func TestUnusableDirectoryNamesTheFile(t *testing.T) {
	if raceDetector {
		t.Skip("takes long under the race detector")
	}
	complete := map[string][]byte{modelFile: builtinModel, tokenizerFile: builtinTokenizer, configFile: builtinConfig}
	replace := func(old, new string) []byte { return []byte(strings.Replace(string(builtinConfig), old, new, 1)) }
	for name, test := range map[string]struct {
		file    string
		content []byte // nil: no such file
		blamed  string
		want    string
	}{
		"no model":          {modelFile, nil, modelFile, ""},
		"no tokenizer":      {tokenizerFile, nil, tokenizerFile, ""},
		"no config":         {configFile, nil, configFile, ""},
		"model cut off":     {modelFile, builtinModel[:1<<20], modelFile, "ONNX format"},
		"not a model":       {modelFile, []byte("version https://git-lfs.github.com/spec/v1\n"), modelFile, "ONNX format"},
		"empty model":       {modelFile, []byte{}, modelFile, "ONNX format"},
		"tokenizer cut off": {tokenizerFile, builtinTokenizer[:1000], tokenizerFile, "JSON"},
		"other tokenizer":   {tokenizerFile, []byte(`{"model":{"type":"BPE"}}`), tokenizerFile, "WordPiece"},
		"bigger vocabulary": {tokenizerFile, bytes.Replace(builtinTokenizer, []byte(`"[PAD]": 0`), []byte(`"[PAD]": 0, "qqqq": 40000`), 1), modelFile, "40001"},
		"config no JSON":    {configFile, []byte("x"), configFile, "invalid"},
		"few positions":     {configFile, replace(`"max_position_embeddings": 512`, `"max_position_embeddings": 128`), configFile, "at least 512"},
		"other activation":  {configFile, replace(`"gelu"`, `"relu"`), configFile, "hidden_act"},
		"other heads":       {configFile, replace(`"num_attention_heads": 12`, `"num_attention_heads": 6`), modelFile, "graph"},
		"more layers":       {configFile, replace(`"num_hidden_layers": 6`, `"num_hidden_layers": 7`), modelFile, "layer.6"},
		"wider":             {configFile, replace(`"hidden_size": 384`, `"hidden_size": 396`), modelFile, "word.q [30522 384], want [30522 396]"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			content := maps.Clone(complete)
			if test.content != nil {
				content[test.file] = test.content
			} else {
				delete(content, test.file)
			}
			for file, bytes := range content {
				if err := os.WriteFile(filepath.Join(dir, file), bytes, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			j, err := New(t.Context(), dir)
			if err == nil {
				j.Close()
				t.Fatal("it can be used")
			}
			if message := err.Error(); !strings.Contains(message, filepath.Join(dir, test.blamed)) || !strings.Contains(message, test.want) ||
				strings.Contains(message, "\n") || len(message) > 500 {
				t.Error(message)
			}
			if missing := test.content == nil; missing != errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		})
	}
	if _, err := New(t.Context(), filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestJudgeKeepsNoMoreThanSomeLengths(t *testing.T) {
	if raceDetector || testing.Short() {
		t.Skip("compiles many networks")
	}
	j := open(t)
	score := func(n int) quality.Score {
		prompt, answer := pairOf(t, j.tokenizer, n)
		s, err := j.Score(t.Context(), prompt, answer)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := score(10)
	for n := range keptLengths + 5 {
		score(11 + n)
	}
	if n := j.engine.lengths.Len(); n != keptLengths {
		t.Errorf("%d lengths are kept", n)
	}
	if again := score(10); again != first {
		t.Errorf("%d, compiled again %d", first, again)
	}
}

func TestClosedJudgeSaysSo(t *testing.T) {
	j := open(t)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Score(canceled, "a", "b"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for range 2 {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := j.Score(t.Context(), "a", "b"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := New(canceled, ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestJudgeTellsLabelledAnswersApart(t *testing.T) {
	labelled, err := os.ReadFile("testdata/labelled.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	rows := slices.Collect(strings.Lines(string(labelled)))
	switch {
	case raceDetector:
		rows = rows[1:3]
	case testing.Short():
		rows = rows[:10]
	default:
		rows = rows[:40]
	}
	e, err := quality.Evaluate(t.Context(), quality.NewPool(open(t), quality.PoolOptions{}), strings.NewReader(strings.Join(rows, "")), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *e)
	if e.Prompts != len(rows) || e.Pairs.Count == 0 {
		t.Errorf("%+v", *e)
	}
	if !raceDetector && e.Pairs.Right < 0.6 { // 0.72 over all, by the card
		t.Errorf("right about %.2f of %d pairs", e.Pairs.Right, e.Pairs.Count)
	}
}
