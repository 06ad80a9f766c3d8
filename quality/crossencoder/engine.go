package crossencoder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/gomlx/compute"
	_ "github.com/gomlx/compute/gobackend" // registers the backend "go"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/onnx-gomlx/onnx/parser"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/knights-analytics/hugot/backends"
	"github.com/knights-analytics/hugot/options"
)

// keptLengths is for how many lengths the compiled network is kept, at half a megabyte each. Compiling takes a few milliseconds.
const keptLengths = 64

// engine runs pairs through the network, in hugot with GoMLX's Go backend. What hugot's session would read from a directory is put
// together here from memory. It is safe for concurrent use: runs share the weights and hold nothing else in common.
type engine struct {
	backend         compute.Backend
	weights         *model.Store
	build           graphFunc
	inputs, outputs []backends.InputOutputInfo

	mu      sync.Mutex
	lengths *lru.Cache[int, *backends.BasePipeline]
}

// graphFunc makes the network for inputs of one shape and returns its logits.
type graphFunc func(scope *model.Scope, inputs map[string]*graph.Node) *graph.Node

// newEngine loads the weights, for a tokenizer of so many words, and lets [bert] build the network. The file's own graph isn't kept, but
// that of a file from elsewhere is asked once: what bert makes of the tensors must be what the file says itself.
func newEngine(f *files, words int) (_ *engine, err error) {
	defer func() { // the parser panics on some malformed files
		if r := recover(); r != nil {
			err = fmt.Errorf("it isn't a network in ONNX format: %v", r)
		}
	}()
	file, err := parser.Parse(f.model)
	if err != nil {
		return nil, fmt.Errorf("it isn't a network in ONNX format: %w", err)
	}
	e := &engine{weights: model.NewStore()}
	if e.inputs, err = describe(file.Inputs, "input_ids", "attention_mask", "token_type_ids"); err != nil {
		return nil, err
	}
	if e.outputs, err = describe(file.Outputs, "logits"); err != nil {
		return nil, err
	}
	if e.backend, err = compute.NewWithConfig("go"); err != nil {
		return nil, err
	}
	if e.lengths, err = lru.New[int, *backends.BasePipeline](keptLengths); err != nil {
		return nil, err
	}
	if err := file.VariablesToScope(e.weights.RootScope()); err != nil {
		return nil, err
	}
	if err := f.config.check(e.weights, words); err != nil {
		return nil, err
	}
	e.build = f.config.build
	got, err := e.run(probe)
	if err != nil || f.directory == "" {
		return e, err
	}

	e.lengths.Purge()
	e.build = func(scope *model.Scope, inputs map[string]*graph.Node) *graph.Node {
		return file.CallGraph(scope, inputs["input_ids"].Graph(), inputs, "logits")[0]
	}
	want, err := e.run(probe)
	if err != nil {
		return nil, err
	}
	if math.Abs(float64(got-want)) > 1e-3 {
		return nil, fmt.Errorf("its graph isn't the one its tensors are named for: a logit of %v instead of %v", want, got)
	}
	e.lengths.Purge()
	e.build = f.config.build
	return e, nil
}

// probe is a pair of tokens that every vocabulary has.
var probe = pair{ids: []uint32{2, 1, 0, 1, 2, 0, 1, 2}, answer: 5}

// pipeline returns hugot's pipeline for pairs of a length. GoMLX compiles a network for each length in its first run, and refuses new
// ones when its cache is full; a pipeline of its own for each length lets the least recently used go. One that still runs is kept by
// its run, so nothing is finalised here: it's all Go memory.
func (e *engine) pipeline(tokens int) (*backends.BasePipeline, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.lengths.Get(tokens); ok {
		return p, nil
	}
	exec, err := model.NewExec(e.backend, e.weights, func(scope *model.Scope, nodes []*graph.Node) *graph.Node {
		inputs := make(map[string]*graph.Node, len(nodes))
		for i, input := range e.inputs {
			inputs[input.Name] = nodes[i]
		}
		return e.build(scope, inputs)
	})
	if err != nil {
		return nil, err
	}
	m := &backends.Model{
		InputsMeta:  e.inputs,
		OutputsMeta: e.outputs,
		GoMLXModel:  &backends.GoMLXModel{Backend: e.backend, Store: e.weights, Exec: exec, MaxCache: -1}, // -1: no padding
	}
	o := options.Defaults()
	o.Backend = "GO"
	p, err := backends.NewBasePipeline(context.Background(), backends.PipelineConfig[backends.Pipeline]{Name: "judge"}, o, m)
	if err != nil {
		return nil, err
	}
	e.lengths.Add(tokens, p)
	return p, nil
}

// run sends one pair through the network. Pairs aren't batched: padding changes the last bits of a score.
func (e *engine) run(p pair) (logit float32, err error) {
	pipeline, err := e.pipeline(len(p.ids))
	if err != nil {
		return 0, err
	}
	input := backends.TokenizedInput{
		TokenIDs:      p.ids,
		TypeIDs:       make([]uint32, len(p.ids)),
		AttentionMask: slices.Repeat([]uint32{1}, len(p.ids)),
	}
	for i := p.answer; i < len(p.ids); i++ {
		input.TypeIDs[i] = 1
	}
	batch := backends.NewBatch(1)
	batch.Input = []backends.TokenizedInput{input}
	batch.MaxSequenceLength = len(p.ids)
	if err := backends.CreateInputTensors(batch, pipeline.Model, pipeline.Runtime); err != nil {
		return 0, err
	}
	// Not under the caller's context: when that ends hugot returns while the run goes on, and the run's input is freed under it.
	err = backends.RunSessionOnBatch(context.Background(), batch, pipeline)
	if err := errors.Join(err, batch.Destroy()); err != nil {
		return 0, err
	}
	logits, ok := batch.OutputValues[0].([][]float32)
	if !ok || len(logits) != 1 || len(logits[0]) != 1 || math.IsNaN(float64(logits[0][0])) {
		return 0, fmt.Errorf("the network returned %v, want one number", batch.OutputValues[0])
	}
	return logits[0][0], nil
}

// close frees the weights. No run may be going on.
func (e *engine) close() {
	e.lengths.Purge()
	e.weights.Finalize()
	e.backend.Finalize()
}

// describe turns GoMLX's description of a network's inputs or outputs into hugot's and checks the names.
func describe(get func() ([]string, []shapes.Shape), want ...string) ([]backends.InputOutputInfo, error) {
	names, dims := get()
	if !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(want))) {
		return nil, fmt.Errorf("it has %v where a cross-encoder has %v", names, want)
	}
	infos := make([]backends.InputOutputInfo, len(names))
	for i, name := range names {
		infos[i].Name = name
		for _, d := range dims[i].Dimensions {
			infos[i].Dimensions = append(infos[i].Dimensions, int64(d))
		}
	}
	return infos, nil
}
