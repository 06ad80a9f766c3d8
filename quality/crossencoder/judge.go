package crossencoder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/gomlx/compute"
	_ "github.com/gomlx/compute/gobackend" // registers the backend "go"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/onnx-gomlx/onnx"
	"github.com/gomlx/onnx-gomlx/onnx/parser"
	"github.com/knights-analytics/hugot/backends"
	"github.com/knights-analytics/hugot/options"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/quality"
)

// ErrClosed is returned by [Judge.Score] after [Judge.Close].
var ErrClosed = errors.New("the judge is closed")

// Judge is a BERT cross-encoder. It is safe for concurrent use, and one is enough for a process: runs share the weights.
type Judge struct {
	id        crypto.Hash
	tokenizer *tokenizer
	pipeline  *backends.BasePipeline

	closing sync.RWMutex // held for reading while a pair is scored
	closed  bool
}

var _ quality.Judge = (*Judge)(nil)

// New loads the judge of the binary, or if directory isn't empty the one in there, which takes the files model.onnx, tokenizer.json and
// config.json of the same format (see doc.go). Nothing is written and nothing is fetched.
func New(ctx context.Context, directory string) (*Judge, error) {
	files, err := read(directory)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j := &Judge{id: files.id()}
	if err := files.config.check(); err != nil {
		return nil, files.broken(configFile, err)
	}
	if j.tokenizer, err = newTokenizer(files.tokenizer); err != nil {
		return nil, files.broken(tokenizerFile, err)
	}
	if j.pipeline, err = newPipeline(files.model); err != nil {
		return nil, files.broken(modelFile, err)
	}
	return j, nil
}

// newPipeline builds what hugot's session would build from a directory, from memory.
func newPipeline(content []byte) (_ *backends.BasePipeline, err error) {
	defer func() { // the parser panics on some malformed graphs
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	network, err := parser.Parse(content)
	if err != nil {
		return nil, err
	}
	m := &backends.Model{ID: "judge"}
	if m.InputsMeta, err = describe(network.Inputs, "input_ids", "attention_mask", "token_type_ids"); err != nil {
		return nil, err
	}
	if m.OutputsMeta, err = describe(network.Outputs, "logits"); err != nil {
		return nil, err
	}
	if m.GoMLXModel, err = newGoMLX(network, m.InputsMeta); err != nil {
		return nil, err
	}
	config := backends.PipelineConfig[backends.Pipeline]{Name: m.ID}
	o := options.Defaults()
	o.Backend = "GO"
	return backends.NewBasePipeline(context.Background(), config, o, m)
}

func newGoMLX(network onnx.Model, inputs []backends.InputOutputInfo) (*backends.GoMLXModel, error) {
	store := model.NewStore()
	scope := store.RootScope()
	if err := network.VariablesToScope(scope); err != nil {
		return nil, err
	}
	backend, err := compute.NewWithConfig("go")
	if err != nil {
		return nil, err
	}
	call := func(scope *model.Scope, nodes []*graph.Node) []*graph.Node {
		byName := make(map[string]*graph.Node, len(nodes))
		for i, input := range inputs {
			byName[input.Name] = nodes[i]
		}
		return network.CallGraph(scope, nodes[0].Graph(), byName, "logits")
	}
	exec, err := model.NewExec(backend, store, call)
	if err != nil {
		return nil, err
	}
	exec.SetMaxCache(-1)
	return &backends.GoMLXModel{
		Backend: backend, OnnxModel: network, Scope: scope, Store: store, Exec: exec, Call: call, MaxCache: -1,
		Destroy: func() { exec.Finalize(); store.Finalize(); backend.Finalize() },
	}, nil
}

// ID is a hash over the model, its tokenizer and configuration, and the preparation rules of this package.
func (j *Judge) ID() crypto.Hash { return j.id }

// Score implements [quality.Judge]. A run that has begun isn't interrupted when ctx ends: it takes at most a second on one core.
func (j *Judge) Score(ctx context.Context, prompt, answer string) (quality.Score, error) {
	j.closing.RLock()
	defer j.closing.RUnlock()
	if j.closed {
		return 0, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	pair, ok := j.tokenizer.prepare(prompt, answer)
	if !ok {
		return 0, nil
	}
	logit, err := j.run(pair)
	if err != nil {
		return 0, fmt.Errorf("judge a pair of %d tokens: %w", len(pair.ids), err)
	}
	quality10k := 10000 / (1 + math.Exp(-float64(logit)))
	return quality.Score(math.Floor(quality10k + 0.5)), nil
}

// run sends one pair through the network.
func (j *Judge) run(p pair) (float32, error) {
	input := backends.TokenizedInput{
		TokenIDs:      p.ids,
		TypeIDs:       make([]uint32, len(p.ids)),
		AttentionMask: make([]uint32, len(p.ids)),
	}
	for i := range p.ids {
		input.AttentionMask[i] = 1
		if i >= p.answer {
			input.TypeIDs[i] = 1
		}
	}
	batch := backends.NewBatch(1)
	batch.Input = []backends.TokenizedInput{input}
	batch.MaxSequenceLength = len(p.ids)
	if err := backends.CreateInputTensors(batch, j.pipeline.Model, j.pipeline.Runtime); err != nil {
		return 0, err
	}
	// Not the caller's context: hugot would return while the run goes on and free what it reads.
	err := backends.RunSessionOnBatch(context.Background(), batch, j.pipeline)
	if err := errors.Join(err, batch.Destroy()); err != nil {
		return 0, err
	}
	logits, ok := batch.OutputValues[0].([][]float32)
	if !ok || len(logits) != 1 || len(logits[0]) != 1 || math.IsNaN(float64(logits[0][0])) {
		return 0, fmt.Errorf("the network returned %v, want one number", batch.OutputValues[0])
	}
	return logits[0][0], nil
}

// Close waits for pairs that are being scored and frees the weights. It may be called more than once.
func (j *Judge) Close() error {
	j.closing.Lock()
	defer j.closing.Unlock()
	if !j.closed {
		j.closed = true
		j.pipeline.Model.GoMLXModel.Destroy()
		j.pipeline = nil
	}
	return nil
}
