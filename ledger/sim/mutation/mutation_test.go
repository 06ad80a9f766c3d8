package main

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestEveryMutationFitsTheCore(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mutations {
		if m.name == "" || m.why == "" || len(m.breaks) == 0 || len(m.edits) == 0 || slices.Contains(names, m.name) {
			t.Errorf("mutation %q has no name of its own, no reason, no invariant or no edit", m.name)
		}
		names = append(names, m.name)
		if _, err := m.apply(root); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for _, e := range m.edits {
			if e.old == e.new {
				t.Errorf("%s changes nothing in %s", m.name, e.file)
			}
		}
	}
}
