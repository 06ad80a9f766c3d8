package quality

import (
	"context"
	"fmt"

	"github.com/poqmesh/poq/crypto"
)

// Score is the quality of an answer in basis points: 0 is worthless, [MaxScore] could not be better.
// It is a grade for ranking, not a probability of being right.
type Score uint16

// MaxScore is the highest [Score].
const MaxScore Score = 10000

// String writes s as a share of one with four digits, such as 0.8731.
func (s Score) String() string { return fmt.Sprintf("%d.%04d", s/MaxScore, s%MaxScore) }

// A Judge grades answers. It is safe for concurrent use, and the same pair always gets the same score from judges of one [Judge.ID] on
// one machine; on another machine the score may differ by a basis point or two, which is what the tolerance of the agreement is for.
type Judge interface {
	// ID names everything that decides a score: the model, its tokenizer and how the texts are prepared.
	ID() crypto.Hash
	// Score grades answer as a reply to prompt. The texts may be hostile and of any size; the time taken is bounded but for a share
	// linear in their length. It returns an error only when ctx has ended or the judge is closed or broken, never on account of a text.
	Score(ctx context.Context, prompt, answer string) (Score, error)
}
