package quality

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/crypto"
)

// What [Evaluate] counts, as in the judge's card.
const (
	clearlyBetter = 0.2     // answers whose labels differ by more than this make a pair
	goodAnswer    = 0.8     // an answer labelled with at least this is a good one
	maxLine       = 1 << 20 // bytes of one labelled prompt
	maxAnswers    = 64      // to one labelled prompt
)

// Labelled is a prompt with answers of known quality: one line of what [Evaluate] reads.
type Labelled struct {
	Prompt  string           `json:"prompt"`
	Answers []LabelledAnswer `json:"answers"`
}

// LabelledAnswer is an answer, its quality in 0..1 and, in a word, what kind of answer it is: "good", or how it fails.
type LabelledAnswer struct {
	Text    string  `json:"text"`
	Quality float64 `json:"quality"`
	Kind    string  `json:"kind"`
}

func (l *Labelled) check() error {
	if l.Prompt == "" {
		return errors.New(`"prompt" is empty`)
	}
	if n := len(l.Answers); n < 2 || n > maxAnswers {
		return fmt.Errorf(`"answers" has %d entries, want 2 to %d`, n, maxAnswers)
	}
	for i, a := range l.Answers {
		if !(a.Quality >= 0 && a.Quality <= 1) {
			return fmt.Errorf(`answer %d: "quality" is %v, want 0 to 1`, i+1, a.Quality)
		}
	}
	return nil
}

// Evaluation is how a judge did on labelled answers. Shares are in 0..1; those without a case are 0.
type Evaluation struct {
	Judge   crypto.Hash `json:"judge"`
	Prompts int         `json:"prompts"`
	Answers int         `json:"answers"`

	// Pairs are two answers to one prompt whose labels differ by more than 0.2; the judge is right about one if the better answer gets
	// the higher score, and half right if the scores are equal.
	Pairs Accuracy `json:"pairs"`
	// ByKind sorts the pairs by the kind of the worse answer.
	ByKind map[string]Accuracy `json:"by_kind"`

	// FavouriteGood is the share of prompts whose best-scored answer is a good one, labelled 0.8 or more, and Chance what a judge
	// gets who picks blindly.
	FavouriteGood float64 `json:"favourite_good"`
	Chance        float64 `json:"favourite_good_by_chance"`

	// MeanAbsoluteError is that of the score, as a share of [MaxScore], against the label.
	MeanAbsoluteError float64 `json:"mean_absolute_error"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
}

// Accuracy is a number of pairs and the share of them the judge is right about.
type Accuracy struct {
	Count int     `json:"count"`
	Right float64 `json:"right"`
}

// add counts one more pair.
func (a Accuracy) add(right float64) Accuracy {
	a.Count++
	a.Right += (right - a.Right) / float64(a.Count)
	return a
}

// Evaluate lets judge score the labelled prompts of r, JSON documents of type [Labelled] one a line, and compares. Answers to one prompt
// are scored side by side. After each prompt it calls progress, unless that is nil, with the number of prompts done. An error in r names
// the line; what was evaluated until then is lost.
func Evaluate(ctx context.Context, judge Judge, r io.Reader, progress func(prompts int)) (*Evaluation, error) {
	start := time.Now()
	e := &Evaluation{Judge: judge.ID(), ByKind: make(map[string]Accuracy)}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	number := 0
	for lines.Scan() {
		number++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var l Labelled
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		scores, err := scoreAll(ctx, judge, &l)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		e.add(&l, scores)
		if progress != nil {
			progress(e.Prompts)
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("line %d: longer than %d bytes", number+1, maxLine)
	} else if err != nil {
		return nil, fmt.Errorf("line %d: %w", number+1, err)
	}
	if e.Prompts == 0 {
		return nil, errors.New(`no labelled prompts: want lines like {"prompt":"...","answers":[{"text":"...","quality":0.9,"kind":"good"},...]}`)
	}
	e.FavouriteGood /= float64(e.Prompts)
	e.Chance /= float64(e.Prompts)
	e.MeanAbsoluteError /= float64(e.Answers)
	e.Seconds = time.Since(start).Seconds()
	return e, nil
}

// scoreAll returns the scores of the answers as shares of MaxScore.
func scoreAll(ctx context.Context, judge Judge, l *Labelled) ([]float64, error) {
	scores := make([]float64, len(l.Answers))
	group, ctx := errgroup.WithContext(ctx)
	for i, a := range l.Answers {
		group.Go(func() error {
			score, err := judge.Score(ctx, l.Prompt, a.Text)
			scores[i] = float64(score) / float64(MaxScore)
			return err
		})
	}
	return scores, group.Wait()
}

// add counts one prompt. The shares are sums until the end.
func (e *Evaluation) add(l *Labelled, scores []float64) {
	e.Prompts++
	e.Answers += len(l.Answers)

	best := -1.0
	var favourites, goodFavourites, good float64
	for i, a := range l.Answers {
		e.MeanAbsoluteError += math.Abs(scores[i] - a.Quality)
		isGood := 0.0
		if a.Quality >= goodAnswer {
			isGood = 1
		}
		good += isGood
		switch {
		case scores[i] > best:
			best, favourites, goodFavourites = scores[i], 1, isGood
		case scores[i] == best:
			favourites, goodFavourites = favourites+1, goodFavourites+isGood
		}
		for j, worse := range l.Answers {
			if a.Quality-worse.Quality <= clearlyBetter {
				continue
			}
			right := 0.0
			switch {
			case scores[i] > scores[j]:
				right = 1
			case scores[i] == scores[j]:
				right = 0.5
			}
			e.Pairs = e.Pairs.add(right)
			e.ByKind[worse.Kind] = e.ByKind[worse.Kind].add(right)
		}
	}
	e.FavouriteGood += goodFavourites / favourites
	e.Chance += good / float64(len(l.Answers))
}
