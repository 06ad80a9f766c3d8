package smol

import (
	"context"
	"testing"
	"time"

	"github.com/poqmesh/poq/llm"
)

func TestTry(t *testing.T) {
	e, _ := New(Options{})
	for _, p := range []string{"What is the capital of France?", "Who wrote Pride and Prejudice, and when was it published?", "Why is the sky blue?", "Summarise this article in two sentences.\n\nThe town of Harrow Bay opened its new tidal power station on Monday. The plant, built over six years at a cost of 240 million euros, will supply about 40,000 homes. Engineers lowered the last of its twelve turbines into the channel in March. Local fishers had opposed the project, fearing for the herring that spawn in the bay, and the operator agreed to stop the turbines for three weeks each spring. The mayor said the station would pay for itself within fifteen years."} {
		t0 := time.Now()
		a, err := e.Generate(context.Background(), llm.Request{Prompt: p}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v %+v", time.Since(t0), *a)
	}
}
