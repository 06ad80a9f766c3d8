package llm_test

import (
	"os/exec"
	"strings"
	"testing"
)

func TestOnlyEnginesCarriesTheWeights(t *testing.T) {
	const module = "github.com/poqmesh/poq/"
	for pkg, want := range map[string][]string{
		"llm":         nil,
		"llm/smol":    {"llm"},
		"llm/extract": {"llm"},
		"llm/openai":  {"llm"},
		"llm/pool":    {"llm"},
		"llm/engines": {"llm", "llm/extract", "llm/openai", "llm/pool", "llm/smol"},
	} {
		out, err := exec.Command("go", "list", "-deps", module+pkg).Output()
		if err != nil {
			t.Fatalf("%s: %v", pkg, err)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			if own, ok := strings.CutPrefix(strings.TrimSpace(line), module); ok && own != pkg {
				got = append(got, own)
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s imports %v of this module, want %v", pkg, got, want)
		}
	}
}
