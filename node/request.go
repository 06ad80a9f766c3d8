package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

// ErrNulPrompt: a prompt that begins so would be taken for one with options.
var ErrNulPrompt = errors.New("the prompt begins with a NUL byte")

// A block of options with a prompt begins with these bytes: a NUL, with which no prompt begins, and the version of what follows.
var optionBlock = []byte{0, 1}

// Bits for options whose zero is a wish too.
const (
	hasTemperature = 1 << iota
	hasTopP
	hasSeed
)

const thousand = 1000 // parts of one in which temperature and top_p travel

// EncodePrompt returns the bytes that an order names by their SHA-256: the prompt as it stands, or a block with the options that it
// is ordered with. docs/protocol.md has its layout. One request has one encoding. The error is [ErrNulPrompt], or an
// *[llm.OptionError].
func EncodePrompt(q llm.Request) ([]byte, error) {
	if len(q.Prompt) > 0 && q.Prompt[0] == 0 {
		return nil, ErrNulPrompt
	}
	if err := q.Check(); err != nil {
		return nil, err
	}
	var given uint8
	var temperature, topP uint16
	var seed uint64
	if q.Temperature != nil {
		given, temperature = given|hasTemperature, thousandths(*q.Temperature)
	}
	if q.TopP != nil {
		given, topP = given|hasTopP, thousandths(*q.TopP)
	}
	if q.Seed != nil {
		given, seed = given|hasSeed, uint64(*q.Seed)
	}
	if given == 0 && q.MaxTokens == 0 && q.Model == "" && len(q.Stop) == 0 {
		return []byte(q.Prompt), nil
	}
	b := append(bytes.Clone(optionBlock), given)
	b = binary.BigEndian.AppendUint16(b, temperature)
	b = binary.BigEndian.AppendUint16(b, topP)
	b = binary.BigEndian.AppendUint64(b, seed)
	b = binary.BigEndian.AppendUint32(b, uint32(q.MaxTokens))
	b = crypto.AppendBytes(b, q.Model)
	b = crypto.AppendCount(b, len(q.Stop))
	for _, s := range q.Stop {
		b = crypto.AppendBytes(b, s)
	}
	return crypto.AppendBytes(b, q.Prompt), nil
}

// thousandths rounds half away from zero: the same on every machine, as the product of two doubles is.
func thousandths(v float64) uint16 { return uint16(math.Round(v * thousand)) }

// decodePrompt reads what EncodePrompt writes, and nothing else. The error wraps [crypto.ErrEncoding].
func decodePrompt(blob []byte) (q llm.Request, err error) {
	if len(blob) == 0 || blob[0] != optionBlock[0] {
		return llm.Request{Prompt: string(blob)}, nil
	}
	r := crypto.NewReader(blob)
	r.Fixed(make([]byte, len(optionBlock)))
	given, temperature, topP, seed := r.Uint8(), r.Uint16(), r.Uint16(), r.Uint64()
	if given&hasTemperature != 0 {
		q.Temperature = new(float64(temperature) / thousand)
	}
	if given&hasTopP != 0 {
		q.TopP = new(float64(topP) / thousand)
	}
	if given&hasSeed != 0 {
		q.Seed = new(int64(seed))
	}
	q.MaxTokens = int(r.Uint32())
	q.Model = string(r.Bytes(llm.MaxModelName))
	for range r.Count(llm.MaxStops, 4) {
		q.Stop = append(q.Stop, string(r.Bytes(llm.MaxStop)))
	}
	q.Prompt = string(r.Bytes(ledger.MaxPrompt))
	if err := r.End(); err != nil {
		return llm.Request{}, err
	}
	// What can be written in one way only is read in that one only.
	if again, err := EncodePrompt(q); err != nil || !bytes.Equal(again, blob) {
		return llm.Request{}, fmt.Errorf("%w: options of a prompt", crypto.ErrEncoding)
	}
	return q, nil
}

// request returns what an order asks for, from a peer if need be. The error wraps [crypto.ErrEncoding] if the payer made no sense.
func (c *content) request(ctx context.Context, o ledger.Order) (llm.Request, error) {
	blob, err := c.get(ctx, o.Prompt, ledger.MaxPrompt)
	if err != nil {
		return llm.Request{}, fmt.Errorf("prompt: %w", err)
	}
	q, err := decodePrompt(blob)
	if err != nil {
		return llm.Request{}, fmt.Errorf("prompt: %w", err)
	}
	return q, nil
}
