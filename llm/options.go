package llm

import (
	"fmt"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"
)

// Options are wishes for one answer, named as OpenAI's API names them. The zero value has none: the engine does as it is set. Engines
// follow those that mean something to them; package extract, for one, draws nothing.
type Options struct {
	// Model is the model to answer with, by the name that stands in [Engine.Models]; "" stands for any. Up to [MaxModelName] bytes
	// of printable text.
	Model string `json:"model,omitempty"`

	// MaxTokens bounds the length of the answer, in tokens of the engine's model. Zero stands for the engine's default;
	// an engine may lower what it is asked for to what it can do.
	MaxTokens int `json:"max_tokens,omitempty"`

	// Temperature, 0 to 2, is how freely tokens are drawn; at 0 each is the likeliest one. Nil stands for the engine's default.
	// It travels in thousandths.
	Temperature *float64 `json:"temperature,omitempty"`

	// TopP, 0 to 1, limits the draw to the likeliest tokens that together have this probability. Nil stands for the engine's
	// default. It travels in thousandths.
	TopP *float64 `json:"top_p,omitempty"`

	// Seed makes what is drawn reproducible: an engine that has one gives the same answer to the same request. Nil stands for the
	// engine's default.
	Seed *int64 `json:"seed,omitempty"`

	// Stop has texts before the first of which an answer ends: up to [MaxStops] of 1 to [MaxStop] bytes of UTF-8.
	Stop []string `json:"stop,omitempty"`
}

// Limits of Options.
const (
	MaxModelName = 128 // bytes
	MaxStops     = 4
	MaxStop      = 256 // bytes

	maxTokens      = math.MaxInt32
	maxTemperature = 2
	maxTopP        = 1
)

// OptionError says that an option is out of its range.
type OptionError struct {
	Option string // as in JSON: "top_p"
	Reason string // "is 3, want 0 to 1"
}

// Error names the option and its range.
func (e *OptionError) Error() string { return e.Option + " " + e.Reason }

// Check returns an *[OptionError] about the first option that is out of its range, or nil.
func (o Options) Check() error {
	bad := func(option, format string, a ...any) error { return &OptionError{option, fmt.Sprintf(format, a...)} }
	within := func(v *float64, most float64) bool { return v == nil || *v >= 0 && *v <= most } // not a NaN
	switch {
	case len(o.Model) > MaxModelName || !printable(o.Model):
		return bad("model", "is no name of up to %d printable bytes", MaxModelName)
	case o.MaxTokens < 0 || o.MaxTokens > maxTokens:
		return bad("max_tokens", "is %d, want 1 to %d", o.MaxTokens, maxTokens)
	case !within(o.Temperature, maxTemperature):
		return bad("temperature", "is %v, want 0 to %d", *o.Temperature, maxTemperature)
	case !within(o.TopP, maxTopP):
		return bad("top_p", "is %v, want 0 to %d", *o.TopP, maxTopP)
	case len(o.Stop) > MaxStops:
		return bad("stop", "has %d texts, want at most %d", len(o.Stop), MaxStops)
	case slices.ContainsFunc(o.Stop, func(s string) bool { return s == "" || len(s) > MaxStop || !utf8.ValidString(s) }):
		return bad("stop", "has a text that is not 1 to %d bytes of UTF-8", MaxStop)
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
