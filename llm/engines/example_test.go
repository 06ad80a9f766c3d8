package engines_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/engines"
)

func ExampleNew() {
	engine, err := engines.New("extract")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, prompt := range []string{
		"Who built the lighthouse?\n\nThe lighthouse stands on a reef. It was built by Ada Marsh in 1871. Seals live below it.",
		"Who built the lighthouse?",
	} {
		answer, err := engine.Generate(context.Background(), llm.Request{Prompt: prompt}, nil)
		if decline := (*llm.DeclineError)(nil); errors.As(err, &decline) {
			fmt.Println("declined:", decline.Reason)
			continue
		} else if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(answer.Text)
	}
	// Output:
	// It was built by Ada Marsh in 1871.
	// declined: no passage to extract from
}
