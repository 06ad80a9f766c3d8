package crossencoder

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/quality"
)

// ErrClosed is returned by [Judge.Score] after [Judge.Close].
var ErrClosed = errors.New("the judge is closed")

// Judge is a BERT cross-encoder. It is safe for concurrent use, and one is enough for a process: runs share the weights.
type Judge struct {
	id        crypto.Hash
	tokenizer *tokenizer
	engine    *engine

	closing sync.RWMutex // held for reading while a pair is scored
	closed  bool
}

var _ quality.Judge = (*Judge)(nil)

// New loads the judge of the binary, or if directory isn't empty the one in there (see doc.go). Nothing is written and nothing is fetched.
// It takes about a third of a second, and no less if ctx ends meanwhile.
func New(ctx context.Context, directory string) (*Judge, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := read(directory)
	if err != nil {
		return nil, err
	}
	j := &Judge{id: f.id()}
	if j.tokenizer, err = newTokenizer(f.tokenizer); err != nil {
		return nil, f.broken(tokenizerFile, err)
	}
	if j.engine, err = newEngine(f, len(j.tokenizer.continuing)); err != nil {
		return nil, f.broken(modelFile, err)
	}
	return j, nil
}

// Identity returns the [Judge.ID] that New(ctx, directory) gives, without loading the judge.
func Identity(directory string) (crypto.Hash, error) {
	f, err := read(directory)
	if err != nil {
		return crypto.Hash{}, err
	}
	return f.id(), nil
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
	p, ok := j.tokenizer.prepare(prompt, answer)
	if !ok {
		return 0, nil
	}
	logit, err := j.engine.run(p)
	if err != nil {
		return 0, fmt.Errorf("judge a pair of %d tokens: %w", len(p.ids), err)
	}
	share := 1 / (1 + math.Exp(-float64(logit)))
	return quality.Score(math.Floor(float64(quality.MaxScore)*share + 0.5)), nil
}

// Close waits for pairs that are being scored and frees the weights. It may be called more than once.
func (j *Judge) Close() error {
	j.closing.Lock()
	defer j.closing.Unlock()
	if !j.closed {
		j.closed = true
		j.engine.close()
	}
	return nil
}
