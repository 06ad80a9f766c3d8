package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

// streamed shows what the worker writes that begins first, and how far the task is until then.
type streamed struct {
	out    io.Writer
	line   *stageLine
	worker ledger.AccountID
	name   string
	text   strings.Builder
	failed string
}

func newStreamed(out io.Writer, line *stageLine) *streamed { return &streamed{out: out, line: line} }

func (t *streamed) begun() bool { return !t.worker.IsZero() }

func (t *streamed) step(s control.Step) {
	switch {
	case s.Step == "text" && !t.begun():
		t.line.end() // from here on stages would stand in the text
		t.worker, t.name = s.Account, s.Worker
		t.show(s.Text)
	case s.Step == "text" && s.Account == t.worker:
		t.show(s.Text)
	case s.Step == "told" && s.Account == t.worker:
		t.failed = s.Reason
	case !t.begun():
		t.line.step(s)
	default:
		t.line.task = s.Task
	}
}

func (t *streamed) show(text string) {
	t.text.WriteString(text)
	fmt.Fprint(t.out, printable(text))
}

// end ends the last line.
func (t *streamed) end() {
	if t.begun() {
		fmt.Fprintln(t.out)
	} else {
		t.line.end()
	}
}

// verdict tells what came of the text that was shown. It is an error if that was no answer.
func (t *streamed) verdict(w io.Writer, s *node.Settlement) error {
	fmt.Fprintln(w)
	printVerdict(w, s)
	see := fmt.Sprintf("poq ledger task %s shows what was answered", s.Task.Short())
	if len(s.Answers) == 0 {
		see = "nobody else answered"
	}
	for _, a := range s.Answers {
		switch {
		case a.Worker.Account != t.worker:
		case a.Changed:
			return fmt.Errorf("the text above is no answer: %s has committed to another one; %s", t.name, see)
		case a.Text != "" && a.Text != t.text.String():
			return fmt.Errorf("the text above is not whole: %s was cut off; %s", t.name, see)
		case a.Rank == 0:
			return errors.New("too few validators judged the text above")
		case a.Rank == 1:
			fmt.Fprintln(w, "the text above won")
			return nil
		default:
			fmt.Fprintf(w, "the text above is %s's, ranked %d; %s won: poq ledger task %s shows its answer\n", t.name, a.Rank, partyName(s.Answers[0].Worker), s.Task.Short())
			return nil
		}
	}
	return fmt.Errorf("the text above is no answer: %s did not finish it (%s); %s", t.name, cmp.Or(t.failed, "too late"), see)
}
