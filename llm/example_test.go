package llm_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/poqmesh/poq/llm"
)

// backwards is an engine: it says the prompt from its end.
type backwards struct{}

func (backwards) Name() string     { return "backwards" }
func (backwards) Models() []string { return []string{"backwards"} }

func (backwards) Generate(ctx context.Context, r llm.Request, emit func(string)) (*llm.Answer, error) {
	if len(r.Prompt) > 1000 {
		return nil, &llm.DeclineError{Reason: "too long for me"}
	}
	words := strings.Fields(r.Prompt)
	out := llm.TextStream{Emit: emit} // whole characters, no space around the text
	for i := len(words) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out.Write(words[i] + " ")
	}
	return &llm.Answer{Text: out.Text(), Model: "backwards", Stop: llm.StopEnd}, nil
}

// An engine of one's own has three methods. Generate gives the text in pieces, as it is made, and whole at the end.
func ExampleEngine() {
	var e llm.Engine = backwards{}
	a, err := e.Generate(context.Background(), llm.Request{Prompt: "first second third"}, func(piece string) { fmt.Printf("%q\n", piece) })
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(a.Text)
	// Output:
	// "third"
	// " second"
	// " first"
	// third second first
}
