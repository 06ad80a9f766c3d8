package node

import (
	"context"
	"errors"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
)

// Settlement tells how a task ended, derived anew from its receipt. Its JSON form is stable: fields
// are added, never changed. Amounts are µ-credits, scores basis points.
type Settlement struct {
	Task       ledger.TaskID         `json:"task"`
	Chain      crypto.Hash           `json:"chain"`
	Outcome    ledger.OutcomeKind    `json:"outcome"`
	Payer      Party                 `json:"payer"`
	Nonce      uint64                `json:"nonce"`
	Prompt     string                `json:"prompt"` // "" when the text is not kept any more
	Options    llm.Options           `json:"options,omitzero"`
	Fee        ledger.Amount         `json:"fee"`
	Refund     ledger.Amount         `json:"refund"`
	Burned     ledger.Amount         `json:"burned"`
	Answers    []SettledAnswer       `json:"answers"` // best first; answers that too few of the panel judged come last, with rank 0
	Validators []SettledValidator    `json:"validators"`
	Declined   []Declined            `json:"declined,omitempty"` // as this node heard it
	Credits    []ledger.CreditAmount `json:"credits"`
	Signers    []int                 `json:"signers"` // validators whose votes are in this copy of the certificate
	Timeline   *Timeline             `json:"timeline,omitempty"`
}

// Party is an account with the name that the genesis gives it, if any.
type Party struct {
	Account ledger.AccountID `json:"account"`
	Name    string           `json:"name,omitempty"`
}

// SettledAnswer is an answer with its scores and its pay.
type SettledAnswer struct {
	Rank   int            `json:"rank"`
	Worker Party          `json:"worker"`
	Hash   crypto.Hash    `json:"hash"`
	Text   string         `json:"text"`  // "" when the text is not kept any more
	Score  ledger.Score   `json:"score"` // lower median
	Scores []SettledScore `json:"scores"`
	Paid   ledger.Amount  `json:"paid"`
	Told                  // by the worker, if it was listened to
	// Changed: what the worker told while it wrote is another text than it committed to. False where it told nothing.
	Changed bool `json:"changed,omitempty"`
}

// SettledScore is one validator's score of one answer.
type SettledScore struct {
	Validator int           `json:"validator"`
	Score     ledger.Score  `json:"score"`
	InBand    bool          `json:"in_band"`
	Paid      ledger.Amount `json:"paid"`
}

// SettledValidator sums up a validator's part.
type SettledValidator struct {
	Index    int           `json:"index"`
	Name     string        `json:"name"`
	Account  Party         `json:"account"`
	Sealed   bool          `json:"sealed"`
	Revealed bool          `json:"revealed"`
	Judged   int           `json:"judged"`
	InBand   int           `json:"in_band"`
	Paid     ledger.Amount `json:"paid"`
	Burned   ledger.Amount `json:"burned"`
}

// Declined is a worker that did not answer.
type Declined struct {
	Worker Party  `json:"worker"`
	Reason string `json:"reason"`
}

// Timeline says when a task's steps happened at the node that asked, in µs since the order was given.
// A step that was not seen is 0.
type Timeline struct {
	Ordered    int64 `json:"ordered_us"`
	Locked     int64 `json:"locked_us"`
	Answered   int64 `json:"answered_us"` // the last answer
	Scored     int64 `json:"scored_us"`   // the last score commitment
	Sealed     int64 `json:"sealed_us"`
	Revealed   int64 `json:"revealed_us"` // the last reveal
	Settled    int64 `json:"settled_us"`
	Settlement int64 `json:"settlement_us"` // from the last reveal to the certificate
	declined   []ledger.Progress
}

func timeline(begin time.Time, events []Event) *Timeline {
	t := &Timeline{}
	steps := map[ledger.Step]*int64{
		ledger.Ordered: &t.Ordered, ledger.Locked: &t.Locked, ledger.Answered: &t.Answered, ledger.Scored: &t.Scored,
		ledger.Sealed: &t.Sealed, ledger.Revealed: &t.Revealed, ledger.Settled: &t.Settled,
	}
	for _, e := range events {
		if at, ok := steps[e.Step]; ok {
			*at = max(1, e.Time.Sub(begin).Microseconds())
		}
		if e.Step == ledger.Declined {
			t.declined = append(t.declined, e.Progress)
		}
	}
	if t.Revealed > 0 {
		t.Settlement = t.Settled - t.Revealed
	}
	return t
}

// Settlement returns how a settled task ended. The error wraps store.ErrNotFound for a task that is
// open or unknown.
func (n *Node) Settlement(ctx context.Context, task ledger.TaskID) (*Settlement, error) {
	r, err := n.store.Receipt(task)
	if errors.Is(err, store.ErrNotFound) && n.store.IsSettled(task) { // just now
		if err := n.store.Flush(); err != nil {
			return nil, err
		}
		r, err = n.store.Receipt(task)
	}
	if err != nil {
		return nil, err
	}
	return n.settlement(ctx, r, nil), nil
}

func (n *Node) settlement(ctx context.Context, r *ledger.Receipt, t *Timeline) *Settlement {
	return Describe(n.genesis, r, t, func(h crypto.Hash) string {
		text, err := n.content.get(ctx, h, ledger.MaxPrompt)
		if err != nil {
			return ""
		}
		return string(text)
	})
}

// Describe derives a settlement from its receipt, which must have been verified. text finds by their hash what is kept of
// prompts and answers, and returns "" for what it can't find; t may be nil. A prompt that is malformed is shown as "".
func Describe(g *ledger.Genesis, r *ledger.Receipt, t *Timeline, text func(crypto.Hash) string) *Settlement {
	d, o := ledger.Domain(g), r.Order.Statement
	v := ledger.Derive(g, d, r.Task(), o, r.Seal.Value, r.Outcome.Reveals)
	names := Names(g)
	q, _ := decodePrompt([]byte(text(o.Prompt)))
	party := func(id ledger.AccountID) Party { return Party{id, names[id]} }
	s := &Settlement{
		Task: r.Task(), Chain: d.Chain, Outcome: v.Outcome.Kind, Payer: party(o.Payer), Nonce: o.Nonce, Prompt: q.Prompt, Options: q.Options,
		Fee: o.Fee, Refund: v.Refund, Burned: v.Burned, Credits: v.Outcome.Credits, Signers: r.Settle.Signers(), Timeline: t,
		Answers: []SettledAnswer{},
	}
	for _, a := range v.Answers {
		out := SettledAnswer{Rank: a.Rank, Worker: party(a.Answer.Worker), Hash: a.Answer.Text, Text: text(a.Answer.Text), Score: a.Score, Paid: a.Pay}
		for _, m := range a.Scores {
			out.Scores = append(out.Scores, SettledScore{m.Member, m.Score, m.InBand, m.Pay})
		}
		s.Answers = append(s.Answers, out)
	}
	for i, m := range v.Members {
		val := g.Validators[i]
		s.Validators = append(s.Validators, SettledValidator{i, val.Name, party(val.Account), m.Sealed, m.Revealed, m.Judged, m.InBand, m.Pay, m.Burned})
	}
	if t != nil {
		for _, p := range t.declined {
			s.Declined = append(s.Declined, Declined{party(p.Worker), p.Reason})
		}
	}
	return s
}

// Names returns the names that a genesis gives to accounts.
func Names(g *ledger.Genesis) map[ledger.AccountID]string {
	names := map[ledger.AccountID]string{ledger.Burned: "(burned)"}
	for _, v := range g.Validators {
		names[v.Account] = v.Name
	}
	for _, a := range g.Accounts {
		if a.Name != "" {
			names[a.ID] = a.Name
		}
	}
	return names
}

// TaskStatus is what a node knows of a task.
type TaskStatus struct {
	Task       ledger.TaskID `json:"task"`
	Open       bool          `json:"open"` // the fee is in escrow; there is no outcome yet
	Settlement *Settlement   `json:"settlement,omitempty"`
}

// Status returns what the ledger knows of a task, store.ErrNotFound if nothing.
func (n *Node) Status(ctx context.Context, task ledger.TaskID) (*TaskStatus, error) {
	if n.store.IsSettled(task) {
		s, err := n.Settlement(ctx, task)
		return &TaskStatus{Task: task, Settlement: s}, err
	}
	if n.store.IsLocked(task) {
		return &TaskStatus{Task: task, Open: true}, nil
	}
	return nil, store.ErrNotFound
}
