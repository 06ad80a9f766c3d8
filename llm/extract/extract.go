package extract

import (
	"context"
	"fmt"
	"strings"

	"github.com/poqmesh/poq/llm"
)

// ModelName is what stands in [llm.Answer]; it changes when the rules do.
const ModelName = "extract-1"

// Engine picks sentences. It has no state.
type Engine struct{}

var _ llm.Engine = (*Engine)(nil)

// New returns an engine.
func New() *Engine { return &Engine{} }

// Name returns "extract".
func (*Engine) Name() string { return "extract" }

// Models returns [ModelName].
func (*Engine) Models() []string { return []string{ModelName} }

// Generate implements [llm.Engine]. It declines a prompt without a passage, a task that is neither a question nor a summary, and a
// question that shares no word with the passage. Where [llm.Options.MaxTokens] is set, an answer has at most so many words. It
// draws nothing, so temperature, top_p and seed change nothing.
func (*Engine) Generate(ctx context.Context, req llm.Request, emit func(string)) (*llm.Answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("extract: stopped: %w", context.Cause(ctx))
	}
	task, passage, ok := split(strings.ToValidUTF8(req.Prompt, "\uFFFD"))
	if !ok {
		return nil, &llm.DeclineError{Reason: "no passage to extract from"}
	}
	want := understand(task)
	if want.declined != "" {
		return nil, &llm.DeclineError{Reason: want.declined}
	}
	sentences := sentencesOf(passage)
	if len(sentences) == 0 {
		return nil, &llm.DeclineError{Reason: "no sentence in the passage"}
	}
	var picked []int
	if want.summary {
		picked = summarise(sentences, want)
	} else if picked = answer(sentences, task, want); len(picked) == 0 {
		return nil, &llm.DeclineError{Reason: "no sentence of the passage shares a word with the question"}
	}
	text, stop := compose(sentences, picked, want, req.MaxTokens)
	out := llm.TextStream{Emit: emit, Stop: req.Stop}
	if !out.Write(text) {
		stop = llm.StopEnd
	}
	if text = out.Text(); text == "" {
		return nil, &llm.DeclineError{Reason: "the answer begins with the text to stop at"}
	}
	return &llm.Answer{Text: text, Model: ModelName, Stop: stop}, nil
}

// compose joins sentences, cut where the words run out.
func compose(sentences []sentence, picked []int, want wish, most int) (string, llm.StopReason) {
	if want.words > 0 && (most == 0 || want.words < most) {
		most = want.words
	}
	var b strings.Builder
	left := most
	for i, at := range picked {
		switch {
		case want.points:
			b.WriteString(map[bool]string{true: "- ", false: "\n- "}[i == 0])
		case i > 0:
			b.WriteByte(' ')
		}
		text := sentences[at].text
		words := strings.Fields(text)
		if most > 0 && len(words) > left {
			b.WriteString(strings.TrimRight(strings.Join(words[:left], " "), ",;:-") + "...")
			return b.String(), llm.StopLength
		}
		left -= len(words)
		b.WriteString(text)
		if most > 0 && left == 0 && i+1 < len(picked) {
			return b.String(), llm.StopLength
		}
	}
	return b.String(), llm.StopEnd
}
