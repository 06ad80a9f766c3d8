package main

import (
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

func TestStreamShowsTheTextThatBeginsFirstAndWhatCameOfIt(t *testing.T) {
	anna, ben := ledger.AccountID{1}, ledger.AccountID{2}
	text := func(id ledger.AccountID, name, text string) control.Step {
		return control.Step{Step: "text", Account: id, Worker: name, Text: text}
	}
	steps := []control.Step{
		{Step: "locked"}, text(anna, "anna", "I \x1b["), {Step: "committed"}, text(ben, "ben", "You"), text(anna, "anna", "do."),
	}
	answer := func(id ledger.AccountID, rank int, text string) node.SettledAnswer {
		return node.SettledAnswer{Worker: node.Party{Account: id, Name: map[ledger.AccountID]string{anna: "anna", ben: "ben"}[id]}, Rank: rank, Text: text}
	}
	const whole = "I \x1b[do."
	changed := answer(anna, 1, "We do.")
	changed.Changed = true
	for name, c := range map[string]struct {
		answers   []node.SettledAnswer
		told      string
		want, err string
	}{
		"it won":         {[]node.SettledAnswer{answer(anna, 1, whole), answer(ben, 2, "You")}, "", "the text above won", ""},
		"another won":    {[]node.SettledAnswer{answer(ben, 1, "You"), answer(anna, 2, whole)}, "", "the text above is anna's, ranked 2; ben won: poq ledger task ab", ""},
		"not judged":     {[]node.SettledAnswer{answer(anna, 0, whole)}, "", "", "too few validators judged the text above"},
		"another text":   {[]node.SettledAnswer{changed}, "", "", "anna has committed to another one"},
		"cut off":        {[]node.SettledAnswer{answer(anna, 1, whole+" More.")}, "", "", "is not whole"},
		"failed":         {[]node.SettledAnswer{answer(ben, 1, "You")}, "the engine failed", "", "anna did not finish it (the engine failed); poq ledger task ab"},
		"too late":       {[]node.SettledAnswer{answer(ben, 1, "You")}, "", "", "anna did not finish it (too late); poq ledger task ab"},
		"nobody answers": {nil, "busy", "", "anna did not finish it (busy); nobody else answered"},
	} {
		var out, errs strings.Builder
		s := newStreamed(&out, newStageLine(&errs, 1, 2, time.Second))
		for _, step := range append(steps, control.Step{Step: "told", Account: anna, Reason: c.told}) {
			s.step(step)
		}
		s.end()
		err := s.verdict(&errs, &node.Settlement{Task: ledger.TaskID{0xab}, Answers: c.answers})
		if out.String() != "I \uFFFD[do.\n" {
			t.Errorf("%s: shown is %q", name, out.String())
		}
		if stages := errs.String(); !strings.Contains(stages, "locked") || strings.Contains(stages, "answers 1") || !strings.Contains(stages, c.want) {
			t.Errorf("%s: %s", name, stages)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
	}
}
