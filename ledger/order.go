package ledger

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// Bounds of an order's deadlines.
const (
	MinDeadline = 10 * time.Millisecond
	MaxDeadline = 10 * time.Minute
)

// Order asks for answers to a prompt and offers a fee for them. Its hash is the task id.
type Order struct {
	Payer      AccountID
	Nonce      uint64 // counts the payer's orders from 0
	Previous   TaskID // the payer's order at Nonce-1; zero at 0
	Fee        Amount
	Split      uint32      // how the fee is divided
	Prompt     crypto.Hash // of the prompt's bytes
	Judge      crypto.Hash // the evaluator whose scores count
	MaxAnswers uint8       // 1..16
	// Deadlines in ms, measured by each node from when it applied the lock: until AnswerDeadline
	// workers may commit to answers, until ScoreDeadline the panel scores.
	AnswerDeadline, ScoreDeadline uint32
}

func (Order) kind() crypto.Kind { return kindOrder }

func (o Order) append(b []byte) []byte {
	b = append(b, o.Payer[:]...)
	b = binary.BigEndian.AppendUint64(b, o.Nonce)
	b = append(b, o.Previous[:]...)
	b = binary.BigEndian.AppendUint64(b, o.Fee)
	b = binary.BigEndian.AppendUint32(b, o.Split)
	b = append(b, o.Prompt[:]...)
	b = append(b, o.Judge[:]...)
	b = append(b, o.MaxAnswers)
	b = binary.BigEndian.AppendUint32(b, o.AnswerDeadline)
	return binary.BigEndian.AppendUint32(b, o.ScoreDeadline)
}

func (o *Order) read(r *crypto.Reader) {
	o.Payer, o.Nonce, o.Previous, o.Fee = r.Key(), r.Uint64(), r.Hash(), r.Uint64()
	o.Split, o.Prompt, o.Judge, o.MaxAnswers = r.Uint32(), r.Hash(), r.Hash(), r.Uint8()
	o.AnswerDeadline, o.ScoreDeadline = r.Uint32(), r.Uint32()
}

func (o Order) signer(*Genesis) (crypto.PublicKey, error) { return o.Payer, nil }

func (o Order) check(g *Genesis) error {
	if _, ok := g.Split(o.Split); !ok {
		return malformed("order names split %d, which the genesis does not have", o.Split)
	}
	deadlines := MinDeadline.Milliseconds() <= int64(o.AnswerDeadline) && o.AnswerDeadline <= o.ScoreDeadline &&
		int64(o.ScoreDeadline) <= MaxDeadline.Milliseconds()
	switch {
	case o.Payer == Burned:
		return malformed("order of the account for what is burned")
	case (o.Nonce == 0) != o.Previous.IsZero():
		return malformed("order %d: only the first order has no previous one", o.Nonce)
	case o.Fee < g.MinFee:
		return malformed("fee %d is below the network's minimum of %d", o.Fee, g.MinFee)
	case o.Fee > math.MaxInt64:
		return malformed("fee %d is above all there can be", o.Fee)
	case o.Judge != g.Judge:
		return malformed("order names judge %s, the network's is %s", o.Judge.Short(), g.Judge.Short())
	case o.MaxAnswers == 0 || o.MaxAnswers > MaxAnswers:
		return malformed("order wants %d answers, 1 to %d can be judged", o.MaxAnswers, MaxAnswers)
	case !deadlines:
		return malformed("deadlines of %d and %d ms: want %v to %v in this order", o.AnswerDeadline, o.ScoreDeadline, MinDeadline, MaxDeadline)
	}
	return nil
}
