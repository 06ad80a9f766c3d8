package llm_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/poqmesh/poq/llm"
)

func TestOptionsOutOfRangeAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		options llm.Options
		bad     string
	}{
		{llm.Options{}, ""},
		{llm.Options{Model: "ü:1b", MaxTokens: math.MaxInt32, Temperature: new(2.0), TopP: new(1.0), Seed: new(int64(-1)), Stop: []string{"a", "b", "\n\n", strings.Repeat("x", llm.MaxStop)}}, ""},
		{llm.Options{Temperature: new(0.0), TopP: new(0.0), Seed: new(int64(0))}, ""},
		{llm.Options{Model: strings.Repeat("x", llm.MaxModelName+1)}, "model"},
		{llm.Options{Model: "a\nb"}, "model"},
		{llm.Options{Model: "a\xff"}, "model"},
		{llm.Options{MaxTokens: -1}, "max_tokens"},
		{llm.Options{Temperature: new(2.001)}, "temperature"},
		{llm.Options{Temperature: new(-0.001)}, "temperature"},
		{llm.Options{Temperature: new(math.NaN())}, "temperature"},
		{llm.Options{TopP: new(1.001)}, "top_p"},
		{llm.Options{TopP: new(math.Inf(1))}, "top_p"},
		{llm.Options{Stop: []string{"a", "b", "c", "d", "e"}}, "stop"},
		{llm.Options{Stop: []string{"a", ""}}, "stop"},
		{llm.Options{Stop: []string{strings.Repeat("x", llm.MaxStop+1)}}, "stop"},
		{llm.Options{Stop: []string{"\xff"}}, "stop"},
	} {
		var e *llm.OptionError
		err := c.options.Check()
		if errors.As(err, &e) != (c.bad != "") || e != nil && (e.Option != c.bad || !strings.HasPrefix(e.Error(), c.bad+" ")) {
			t.Errorf("%+v: %v, want one about %q", c.options, err, c.bad)
		}
	}
}
