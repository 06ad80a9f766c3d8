package main

import (
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

func TestAskWarnsOnlyBelowAQuorum(t *testing.T) {
	here, away := node.Member{Connected: true}, node.Member{}
	for _, c := range []struct {
		committee []node.Member
		want      string
	}{
		{[]node.Member{{Self: true}}, ""},
		{[]node.Member{here, here, away, here}, ""},
		{[]node.Member{here, {Self: true}, away, away}, "connected to 2 of 4 validators; it takes 3"},
		{[]node.Member{away}, "connected to 0 of 1 validators; it takes 1"},
	} {
		if got := quorumNote(c.committee); got == "" != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %q, want %q", c.committee, got, c.want)
		}
	}
}

func TestAskTellsWhenNoConnectedWorkerAnswers(t *testing.T) {
	decline := func(seconds int64, worker string) control.Step {
		return control.Step{Step: "declined", Task: ledger.TaskID{0xab}, TimeUS: seconds * 1e6, Worker: worker, Reason: "busy"}
	}
	locked := control.Step{Step: "locked", TimeUS: 1e6}
	const due = "no connected worker answers; if no other one does, the outcome is due in "
	for _, c := range []struct {
		workers int
		steps   []control.Step
		want    string
	}{
		{2, []control.Step{locked, decline(2, "anna")}, ""},
		{2, []control.Step{locked, decline(2, "anna"), decline(4, "ben")}, due + "27s"},
		{2, []control.Step{locked, decline(40, "anna"), decline(40, "ben"), decline(40, "cleo")}, due + "0s"},
		{2, []control.Step{locked, {Step: "committed", TimeUS: 2e6}, decline(2, "anna"), decline(4, "ben")}, ""},
		{0, []control.Step{locked, decline(2, "anna")}, ""}, // it is behind others, where there may be more
	} {
		var out strings.Builder
		l := newStageLine(&out, 1, c.workers, 30*time.Second)
		for _, s := range c.steps {
			l.step(s)
		}
		_, told, _ := strings.Cut(out.String(), due)
		if want, _ := strings.CutPrefix(c.want, due); (told == "") != (want == "") || !strings.HasPrefix(told, want) || strings.Contains(told, due) {
			t.Errorf("%d workers: %s, want %q once", c.workers, out.String(), c.want)
		}
	}
}
