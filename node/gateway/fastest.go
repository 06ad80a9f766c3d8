package gateway

import (
	"net/http"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
)

// live streams the text of the worker that begins first, while it is made and before anybody has judged it.
type live struct {
	out    *events
	q      *request
	kind   kind
	prompt string
	cancel func() // ends the request; the order stands

	texts  map[ledger.AccountID][]byte
	order  []ledger.AccountID // in which they began
	failed map[ledger.AccountID]bool
	whole  map[ledger.AccountID]bool

	chosen ledger.AccountID // whose text is shown; zero until one begins
	text   llm.TextStream   // of it, to the client: it ends at a text to stop at, whatever the worker does
	given  int              // bytes of it that text was given
	closed bool             // by an error
}

// streamed says what came of a text that was streamed before it was judged.
type streamed struct {
	Worker node.Party `json:"worker"`
	Rank   int        `json:"rank"`
	Won    bool       `json:"won"`
}

func newLive(out *events, q *request, k kind, prompt string, cancel func()) *live {
	return &live{out: out, q: q, kind: k, prompt: prompt, cancel: cancel, texts: map[ledger.AccountID][]byte{}, failed: map[ledger.AccountID]bool{}, whole: map[ledger.AccountID]bool{}}
}

// follow shows what workers tell until the task is settled, or the stream can't go on.
func (l *live) follow(t *node.Task) (*node.Settlement, error) {
	l.out.ID = l.kind.prefix + t.ID.String()
	l.out.w.Header().Set("X-PoQ-Task", t.ID.String())
	for p := range t.Text() {
		l.hear(t.ID, p)
		if l.closed || l.out.err != nil {
			l.cancel()
			break
		}
	}
	return t.Wait()
}

func (l *live) hear(task ledger.TaskID, p node.Piece) {
	id := p.Worker.Account
	if p.Text != "" {
		if l.texts[id] == nil {
			l.order = append(l.order, id)
		}
		l.texts[id] = append(l.texts[id], p.Text...)
	}
	l.failed[id], l.whole[id] = p.Last && p.Failed != "", p.Last && p.Failed == ""
	if l.failed[id] && id == l.chosen {
		if l.out.begun {
			l.fail(broken("worker_failed", &outcome{Task: task, Candidates: []candidate{}}, "the worker whose text was streamed has failed: %s; see later what others answered, in task %s", p.Failed, task.Short()))
			return
		}
		l.chosen, l.given = ledger.AccountID{}, 0 // the client has seen nothing of it
	}
	if l.chosen.IsZero() {
		l.choose()
	}
	l.show()
}

// choose chooses the first that began and has not failed.
func (l *live) choose() {
	for _, o := range l.order {
		if !l.failed[o] {
			l.chosen, l.given = o, 0
			l.text = llm.TextStream{Emit: func(text string) { l.out.text(0, text) }, Stop: l.q.Stop}
			return
		}
	}
}

// show shows what is there of the chosen text.
func (l *live) show() {
	if fresh := l.texts[l.chosen][l.given:]; len(fresh) > 0 {
		l.given += len(fresh)
		l.text.Write(string(fresh))
	}
}

// settle ends a stream that has begun with the verdict, or with why there is none.
func (l *live) settle(s *node.Settlement, err error) {
	if l.closed || l.out.err != nil {
		return
	}
	if err != nil {
		l.fail(notSettled(err, l.kind))
		return
	}
	o := newOutcome(s, l.q.ignored)
	var a *node.SettledAnswer
	for i := range s.Answers {
		if s.Answers[i].Worker.Account == l.chosen {
			a = &s.Answers[i]
			break
		}
	}
	if a == nil {
		l.fail(broken("worker_failed", o, "the worker whose text was streamed was too late: its text is not whole, and was not judged"))
		return
	}
	o.Streamed = &streamed{Worker: a.Worker, Rank: a.Rank, Won: o.Winner != nil && *o.Winner == a.Worker}
	text := a.Text
	switch {
	case a.Changed:
		l.fail(broken("text_changed", o, "the worker whose text was streamed has committed to another text"))
		return
	case text == "" && l.whole[l.chosen]:
		text = string(l.texts[l.chosen])
	case text == "":
		l.fail(broken("text_missing", o, "the rest of the text that was streamed is not here yet: look later with poq ledger task %s", s.Task.Short()))
		return
	}
	l.texts[l.chosen] = []byte(text)
	l.show()
	l.text.Text() // and what was held back
	got := newAnswer(text, a.Told, l.q)
	l.out.usage = count(l.prompt, []answer{got})
	l.out.end(0, got.finish(), o)
	l.out.done(l.q.StreamOptions.IncludeUsage)
}

// fail ends the stream with an error, as OpenAI's clients expect it.
func (l *live) fail(err error) {
	l.closed = true
	l.out.fail(err)
}

// broken is why a stream that has begun can't be gone on with.
func broken(code string, o *outcome, format string, a ...any) error {
	e := newError(http.StatusServiceUnavailable, "server_error", code, format, a...)
	e.ordered, e.PoQ = true, o
	return e
}
