package control

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
)

// Status tells who runs in a process.
type Status struct {
	Version string      `json:"version"`
	PID     int         `json:"pid"`
	Dir     string      `json:"dir"`
	Socket  string      `json:"socket"`
	Started time.Time   `json:"started"`
	Network string      `json:"network"`
	Chain   crypto.Hash `json:"chain"`
	Judge   crypto.Hash `json:"judge"`
	// Validators is the size of the committee.
	Validators int        `json:"validators"`
	Peers      []PeerInfo `json:"peers"`
}

// PeerInfo is one node of the process, or of a process of its own. Of one that is down, the balance is what was
// last seen.
type PeerInfo struct {
	Name    string           `json:"name"`
	Role    string           `json:"role"`
	Account ledger.AccountID `json:"account"`
	Balance int64            `json:"balance"` // µ-credits
	PeerID  string           `json:"peer_id"`
	Addrs   []string         `json:"addrs"`
	Engine  string           `json:"engine,omitempty"` // a worker's
	API     string           `json:"api,omitempty"`    // base URL for clients of OpenAI, where it is served
	State   devnet.State     `json:"state"`
	PID     int              `json:"pid,omitempty"`     // 0 when it is down
	Reason  string           `json:"reason,omitempty"`  // why it is down
	Refusal string           `json:"refusal,omitempty"` // why a validator signs nothing any more
}

// AskRequest asks for answers. Zero values stand for the node's defaults.
type AskRequest struct {
	Prompt          string        `json:"prompt"`
	Fee             ledger.Amount `json:"fee,omitempty"`
	MaxAnswers      int           `json:"max_answers,omitempty"`
	AnswerTimeoutMS int64         `json:"answer_timeout_ms,omitempty"`
	ScoreTimeoutMS  int64         `json:"score_timeout_ms,omitempty"`
	Stream          bool          `json:"stream,omitempty"` // steps tell what workers write, too: "text" and "told"
	llm.Options
}

// AskUpdate is a line of the answer to AskRequest: steps, and at last a settlement or an error.
type AskUpdate struct {
	Step       *Step            `json:"step,omitempty"`
	Settlement *node.Settlement `json:"settlement,omitempty"`
	Error      *Error           `json:"error,omitempty"`
}

// Step is a step of a task as the asking node saw it, or a piece of what a worker writes.
type Step struct {
	Task    ledger.TaskID    `json:"task"`
	Step    string           `json:"step"`
	TimeUS  int64            `json:"time_us"` // since the request
	Worker  string           `json:"worker,omitempty"`
	Reason  string           `json:"reason,omitempty"` // of declining; of "told": why there is no answer
	Account ledger.AccountID `json:"account,omitzero"` // the worker's, of "text" and "told"
	Text    string           `json:"text,omitempty"`   // of "text": what follows on the worker's last piece
}

// NewStep describes an event of a request that began at a moment; names are those of accounts.
func NewStep(e node.Event, begin time.Time, names map[ledger.AccountID]string) Step {
	s := Step{Task: e.Task, Step: e.Step.String(), TimeUS: e.Time.Sub(begin).Microseconds(), Reason: e.Reason}
	if !e.Worker.IsZero() {
		if s.Worker = names[e.Worker]; s.Worker == "" {
			s.Worker = e.Worker.Short()
		}
	}
	return s
}

// newPiece describes a piece of a worker's text, or its end.
func newPiece(task ledger.TaskID, p node.Piece, begin time.Time) Step {
	s := Step{Task: task, Step: "text", TimeUS: time.Since(begin).Microseconds(), Worker: p.Worker.Name, Account: p.Worker.Account, Text: p.Text, Reason: p.Failed}
	if s.Worker == "" {
		s.Worker = p.Worker.Account.Short()
	}
	if p.Last {
		s.Step = "told"
	}
	return s
}

// Accounts is a ledger's accounts at one moment.
type Accounts struct {
	Peer     string        `json:"peer,omitempty"` // whose ledger it is
	Chain    crypto.Hash   `json:"chain"`
	Tasks    int           `json:"tasks"`
	Open     int           `json:"open"`
	Escrow   ledger.Amount `json:"escrow"`
	Supply   ledger.Amount `json:"supply"`
	Accounts []Account     `json:"accounts"`
}

// Account is one account.
type Account struct {
	Account ledger.AccountID `json:"account"`
	Name    string           `json:"name,omitempty"`
	Balance int64            `json:"balance"`
	Orders  uint64           `json:"orders"` // locked so far
}

// Task is a settled task in a list.
type Task struct {
	Task    ledger.TaskID      `json:"task"`
	Settled time.Time          `json:"settled"`
	Outcome ledger.OutcomeKind `json:"outcome"`
	Fee     ledger.Amount      `json:"fee"`
	Answers int                `json:"answers"`
}

// Orders are those of a peer's own account, by nonce.
type Orders struct {
	Account ledger.AccountID `json:"account"`
	Next    uint64           `json:"next"` // nonce of the order that comes next
	Orders  []Order          `json:"orders"`
}

// Order is one of a peer's own, whatever has become of it.
type Order struct {
	Task   ledger.TaskID `json:"task"`
	Nonce  uint64        `json:"nonce"`
	Fee    ledger.Amount `json:"fee"`
	Prompt crypto.Hash   `json:"prompt"` // of the text alone; of "" if the text is not kept any more
	llm.Options
}

// PeerVerification is the result of verifying one peer's ledger.
type PeerVerification struct {
	Peer   string `json:"peer"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
	*store.Verification
}

// PeerDigest is the digest of one peer's ledger.
type PeerDigest struct {
	Peer string `json:"peer"`
	ledger.Digest
}

// Evidence is a proof that somebody contradicted itself.
type Evidence struct {
	Offence ledger.Offence   `json:"offence"`
	Culprit crypto.PublicKey `json:"culprit"` // a payer's account, or a validator's consensus key
	Name    string           `json:"name,omitempty"`
	Task    *ledger.TaskID   `json:"task,omitempty"`
	What    string           `json:"what"`  // in words
	Proof   []byte           `json:"proof"` // canonical bytes, docs/protocol.md
}

// LedgerDiff tells what sets the ledger of one peer apart from that of another.
type LedgerDiff struct {
	Peer string `json:"peer"` // whose ledger is "here"
	With string `json:"with"` // whose is "there"
	node.Difference
}

// Error is an error of a request.
type Error struct {
	Code    Code          `json:"code"`
	Message string        `json:"message"`
	Task    ledger.TaskID `json:"task,omitzero"` // with CodePending: the task that was ordered, if the request did so
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Code tells errors apart.
type Code string

// Codes.
const (
	CodeUsage    Code = "usage"     // the request can't be right
	CodeNotFound Code = "not_found" // no such task or peer
	CodeFunds    Code = "funds"     // the fee is above the balance
	CodeNoModel  Code = "no_model"  // no worker has the model that was asked for
	CodePending  Code = "pending"   // ordered, but not settled yet
	CodeDown     Code = "down"      // the peer does not run
	CodeFailed   Code = "failed"
)

// ReadAccounts returns the accounts in a peer's ledger.
func ReadAccounts(peer string, s *store.Reader) Accounts {
	g := s.Genesis()
	names, sum := node.Names(g), s.Summary()
	a := Accounts{Peer: peer, Chain: g.Chain(), Tasks: sum.Tasks, Open: sum.Open, Escrow: sum.Escrow, Supply: g.Supply()}
	for _, e := range sum.Accounts {
		a.Accounts = append(a.Accounts, Account{e.ID, names[e.ID], e.Balance, e.Nonce})
	}
	return a
}

// ReadTasks returns the last n settled tasks in a peer's ledger, newest first.
func ReadTasks(s *store.Reader, n int) ([]Task, error) {
	entries, err := s.Tasks(n)
	if err != nil {
		return nil, err
	}
	tasks := make([]Task, 0, len(entries))
	for _, e := range entries {
		r, err := s.Receipt(e.Task)
		if err != nil {
			return nil, fmt.Errorf("task %s: %w", e.Task.Short(), err)
		}
		tasks = append(tasks, Task{e.Task, e.Settled, r.Outcome.Kind, r.Order.Statement.Fee, len(r.Outcome.Ranking)})
	}
	return tasks, nil
}

// ReadEvidence returns the proofs of contradictions that are kept beside a ledger.
func ReadEvidence(s *store.Reader) ([]Evidence, error) {
	kept, err := s.Evidence()
	if err != nil {
		return nil, err
	}
	g := s.Genesis()
	d, names, list := ledger.Domain(g), node.Names(g), []Evidence{}
	for _, p := range kept {
		e := Evidence{Offence: p.Offence, What: p.Describe(d), Proof: p.Encode()}
		if e.Culprit, err = p.Culprit(g); err != nil {
			return nil, err
		}
		e.Name = names[e.Culprit]
		if v := p.Validator(); v >= 0 {
			e.Name = g.Validators[v].Name
		}
		if task := p.Task(d); !task.IsZero() {
			e.Task = &task
		}
		list = append(list, e)
	}
	return list, nil
}

// ReadReceipt returns the file form of the receipt of a settled task, whose id may be shortened.
func ReadReceipt(s *store.Reader, id string) (json.RawMessage, error) {
	task, err := s.Resolve(id)
	if err != nil {
		return nil, err
	}
	if !s.IsSettled(task) {
		return nil, &Error{Code: CodePending, Message: fmt.Sprintf("task %s is open: it has a receipt when it is settled", task.Short())}
	}
	r, err := s.Receipt(task)
	if err != nil {
		return nil, fmt.Errorf("receipt of task %s: %w", task.Short(), err)
	}
	return ledger.EncodeReceiptFile(s.Genesis().Chain(), r)
}

// Verify verifies a peer's ledger.
func Verify(peer string, s *store.Reader) PeerVerification {
	v, err := s.Verify()
	if err != nil {
		return PeerVerification{Peer: peer, Reason: err.Error()}
	}
	return PeerVerification{Peer: peer, OK: true, Verification: v}
}
