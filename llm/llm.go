package llm

import "context"

// Engine answers prompts. It is safe for concurrent use.
type Engine interface {
	// Name is short and stable, for tables: "smol", "extract", "openai".
	Name() string

	// Models lists the names that it may be asked for: the models it answers with, as they stand in [Answer.Model], and other names
	// for them. The list may change, as when a server is asked for its models.
	Models() []string

	// Generate answers one prompt.
	//
	// If emit is not nil, it gets the text in pieces as they are made, in order, from the calling goroutine. Each piece is valid UTF-8
	// and not empty, and all pieces joined are Answer.Text. After an error the pieces emitted so far are not an answer.
	//
	// The error is a *[DeclineError] if the engine can't or won't take this prompt, and wraps [context.Cause] of ctx if ctx ended
	// first. Any other error is a failure of the engine.
	Generate(ctx context.Context, req Request, emit func(text string)) (*Answer, error)
}

// Request is one prompt to answer.
type Request struct {
	// Prompt is the question, with the passage it is about, if any, after an empty line.
	Prompt string

	Options
}

// Answer is what an engine made of a prompt.
type Answer struct {
	// Text is the answer: valid UTF-8, not empty, without space around it.
	Text string

	// Model is the one that answered, as listed by [Engine.Models].
	Model string

	// PromptTokens and AnswerTokens count tokens of the model, and are zero where the engine knows no such number.
	PromptTokens, AnswerTokens int

	// Stop says why the text ends where it ends.
	Stop StopReason
}

// StopReason says why an answer ends.
type StopReason string

const (
	// StopEnd: the answer is complete.
	StopEnd StopReason = "end"
	// StopLength: the limit on tokens was reached.
	StopLength StopReason = "length"
	// StopRepetition: the model had begun to repeat itself.
	StopRepetition StopReason = "repetition"
)

// DeclineError says that an engine can't or won't take a prompt. Another engine may.
type DeclineError struct {
	// Reason is one short line, shown to who asked: "no passage to extract from".
	Reason string
}

func (e *DeclineError) Error() string { return "declined: " + e.Reason }
