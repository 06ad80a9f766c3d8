package pool

import (
	"testing"

	"github.com/poqmesh/poq/llm"
)

// What a pool adds to an engine that answers at once.
func BenchmarkGenerate(b *testing.B) {
	e := &engine{name: "a"}
	for _, c := range []struct {
		name string
		llm.Engine
	}{{"engine", e}, {"pool of 1", New(Member{Engine: e})}, {"pool of 3", New(Member{Engine: e}, Member{Engine: e}, Member{Engine: e})}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Generate(b.Context(), llm.Request{Prompt: "q"}, func(string) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
