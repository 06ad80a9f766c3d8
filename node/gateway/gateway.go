package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/apikeys"
)

// Model is the model that the network as a whole is: the answer that its judges rank first.
const Model = "poq-best"

// Limits of a request.
const (
	maxBody   = 4 << 20 // bytes: a prompt in JSON, escaped, with room
	readTime  = 30 * time.Second
	writeTime = 30 * time.Second
)

// Asker is what the gateway needs of a [node.Node].
type Asker interface {
	Order(ctx context.Context, prompt string, o node.AskOptions) (*node.Task, error)
	Status(ctx context.Context, task ledger.TaskID) (*node.TaskStatus, error)
	Ledger() *store.Reader
	Models() []node.ModelCount
}

// Handler answers requests with tasks that n orders. A request that ends early leaves nothing behind here; its order stands. It asks
// no caller who it is: see [Serve].
func Handler(n Asker) http.Handler {
	g := &gateway{node: n, created: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", g.models)
	mux.HandleFunc("GET /v1/models/{model...}", g.model)
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { g.complete(w, r, chat) })
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { g.complete(w, r, text) })
	mux.HandleFunc("GET /v1/poq/tasks/{id}", g.task)
	mux.HandleFunc("GET /v1/poq/receipts/{id}", g.receipt)
	mux.HandleFunc("GET /v1/poq/accounts", g.accounts)
	mux.HandleFunc("GET /v1/poq/accounts/{account}", g.account)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reject(w, newError(http.StatusNotFound, "invalid_request_error", "unknown_url", "there is no %s %s here: see docs/gateway.md", r.Method, r.URL.Path))
	})
	return mux
}

type gateway struct {
	node    Asker
	created time.Time
	pace    pace
}

// modelInfo describes a model.
type modelInfo struct {
	ID      string      `json:"id"`
	Object  string      `json:"object"`
	Created int64       `json:"created"` // when the gateway was: nobody tells when a model was
	OwnedBy string      `json:"owned_by"`
	PoQ     *modelExtra `json:"poq,omitempty"`
}

// modelExtra is what the network adds to a model that workers have.
type modelExtra struct {
	Workers int `json:"workers"`
}

// list returns the models, first the one that stands for all workers.
func (g *gateway) list() []modelInfo {
	list := []modelInfo{{ID: Model, Object: "model", Created: g.created.Unix(), OwnedBy: "poq"}}
	for _, m := range g.node.Models() {
		if m.Model != Model { // no worker takes that name
			list = append(list, modelInfo{m.Model, "model", g.created.Unix(), "workers", &modelExtra{m.Workers}})
		}
	}
	return list
}

func (g *gateway) models(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, struct {
		Object string      `json:"object"`
		Data   []modelInfo `json:"data"`
	}{"list", g.list()})
}

func (g *gateway) model(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("model")
	list := g.list()
	i := slices.IndexFunc(list, func(m modelInfo) bool { return m.ID == name })
	if i < 0 {
		reject(w, noModel(&node.ModelError{Model: name, Have: g.node.Models()}))
		return
	}
	reply(w, http.StatusOK, list[i])
}

// outcome is what the network adds to an answer, under "poq". Amounts are µ-credits, scores basis points.
type outcome struct {
	Task       ledger.TaskID      `json:"task"`
	Outcome    ledger.OutcomeKind `json:"outcome,omitzero"` // not there while the task is open
	Fee        ledger.Amount      `json:"fee,omitzero"`
	Refund     ledger.Amount      `json:"refund"`
	Winner     *node.Party        `json:"winner,omitempty"`
	Score      ledger.Score       `json:"score"`
	Candidates []candidate        `json:"candidates"`
	Streamed   *streamed          `json:"streamed,omitempty"` // with "fastest"
	Declined   []node.Declined    `json:"declined,omitempty"`
	Timeline   *node.Timeline     `json:"timeline,omitempty"`
	Receipt    string             `json:"receipt,omitempty"` // where it can be fetched, from the root of the gateway
	Ignored    []string           `json:"ignored,omitempty"` // fields of the request that had no effect
}

// candidate is an answer that was judged. Rank 0 says that too few validators did.
type candidate struct {
	Rank   int           `json:"rank"`
	Worker node.Party    `json:"worker"`
	Model  string        `json:"model,omitempty"` // as the worker says
	Score  ledger.Score  `json:"score"`
	Paid   ledger.Amount `json:"paid"`
	Hash   string        `json:"hash"`
}

func newOutcome(s *node.Settlement, ignored []string) *outcome {
	o := &outcome{Task: s.Task, Outcome: s.Outcome, Fee: s.Fee, Refund: s.Refund, Declined: s.Declined, Timeline: s.Timeline, Receipt: receiptLink(s.Task), Ignored: ignored, Candidates: []candidate{}}
	for _, a := range s.Answers {
		o.Candidates = append(o.Candidates, candidate{a.Rank, a.Worker, a.Model, a.Score, a.Paid, a.Hash.String()})
		if a.Rank == 1 && o.Winner == nil { // of several with the best score, the first is shown
			o.Winner, o.Score = &a.Worker, a.Score
		}
	}
	return o
}

// complete orders a task and answers with how it was settled.
func (g *gateway) complete(w http.ResponseWriter, r *http.Request, k kind) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTime)) // a writer that has no deadlines is one of a test
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = control.SetReadDeadline(time.Time{}) // from now on it would end the request while the network works
	if err != nil {
		reject(w, unread(err))
		return
	}
	q, err := parse(body)
	if err != nil {
		reject(w, err)
		return
	}
	prompt, err := k.prompt(q)
	if err != nil {
		reject(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := &events{completion: completion{Created: time.Now().Unix(), Model: q.Model, kind: k}, w: w, roles: map[int]bool{}}
	l := newLive(out, q, k, prompt, cancel)
	wait := (*node.Task).Wait
	if q.fastest() {
		wait = l.follow
	}
	s, err := g.ask(ctx, prompt, q.options(), wait)
	if out.begun {
		l.settle(s, err)
		return
	}
	if err != nil {
		reject(w, notSettled(err, k))
		return
	}
	o := newOutcome(s, q.ignored)
	answers, err := ranked(s, q, o)
	announce(w.Header(), o)
	if err != nil {
		reject(w, err)
		return
	}
	out.ID, out.answers, out.usage, out.poq = k.prefix+s.Task.String(), answers, count(prompt, answers), o
	if q.Stream {
		out.stream(q.StreamOptions.IncludeUsage)
		return
	}
	_ = control.SetWriteDeadline(time.Now().Add(writeTime))
	reply(w, http.StatusOK, out.whole())
}

// announce tells the outcome to who reads headers only.
func announce(h http.Header, o *outcome) {
	h.Set("X-PoQ-Task", o.Task.String())
	h.Set("X-PoQ-Outcome", o.Outcome.String())
	h.Set("X-PoQ-Fee", strconv.FormatUint(o.Fee, 10))
	h.Set("X-PoQ-Refund", strconv.FormatUint(o.Refund, 10))
	if o.Winner != nil {
		h.Set("X-PoQ-Winner", o.Winner.Account.String())
		h.Set("X-PoQ-Score", strconv.Itoa(int(o.Score)))
	}
}

// ranked returns the texts of the best answers, at most as many as the client wants, or why there are none.
func ranked(s *node.Settlement, q *request, o *outcome) (answers []answer, err error) {
	fail := func(code, message string) error {
		e := newError(http.StatusServiceUnavailable, "server_error", code, "%s", message)
		e.ordered, e.PoQ = true, o
		return e
	}
	switch s.Outcome {
	case ledger.NoAnswers:
		message := "no worker answered in time"
		for _, d := range s.Declined {
			message += fmt.Sprintf("; %s declined: %s", d.Worker.Account.Short(), d.Reason)
		}
		return nil, fail("no_workers", message)
	case ledger.Unscored:
		return nil, fail("unscored", "too few validators judged the answers in time")
	}
	for _, a := range s.Answers {
		if a.Rank > 0 && a.Text == "" {
			return nil, fail("text_missing", fmt.Sprintf("the text of the answer ranked %d is not here yet: look later with poq ledger task %s", a.Rank, s.Task.Short()))
		}
		if a.Rank > 0 && len(answers) < q.choices() {
			answers = append(answers, newAnswer(a.Text, a.Told, q))
		}
	}
	return answers, nil
}

// unread says why a body could not be read.
func unread(err error) error {
	var size *http.MaxBytesError
	if errors.As(err, &size) {
		e := badRequest("", "request_too_large", "the request has more than %d bytes", size.Limit)
		e.status = http.StatusRequestEntityTooLarge
		return e
	}
	e := badRequest("", "", "reading the request: %v", err)
	e.status = http.StatusRequestTimeout
	return e
}

// notSettled turns an error of Ask into one for the client.
func notSettled(err error, k kind) error {
	var funds *node.FundsError
	var size *node.PromptSizeError
	var pending *node.PendingError
	var limit *apikeys.LimitError
	var model *node.ModelError
	switch {
	case errors.As(err, &limit):
		return newError(http.StatusPaymentRequired, "insufficient_quota", "insufficient_quota", "%v", err)
	case errors.As(err, &model):
		return noModel(model)
	case errors.As(err, &funds):
		return newError(http.StatusPaymentRequired, "insufficient_quota", "insufficient_balance", "%v", err)
	case errors.As(err, &size):
		return badRequest(k.param, "context_length_exceeded", "%v", err)
	case errors.Is(err, node.ErrEmptyPrompt), errors.Is(err, node.ErrNulPrompt):
		return badRequest(k.param, "", "%v", err)
	case errors.Is(err, node.ErrBadOption):
		return badRequest("poq", "", "%v", err)
	case errors.Is(err, errEnding):
		return newError(http.StatusServiceUnavailable, "server_error", "ending", "%v", err)
	case errors.As(err, &pending):
		e := newError(http.StatusGatewayTimeout, "server_error", "deadline", "%v", err)
		e.ordered, e.PoQ = true, &outcome{Task: pending.Task, Candidates: []candidate{}}
		return e
	}
	return newError(http.StatusInternalServerError, "server_error", "", "%v", err)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that left reads nothing
}

// reject answers with an error.
func reject(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	if e.ordered { // OpenAI's clients try again by themselves after 5xx, unless they are told not to
		w.Header().Set("X-Should-Retry", "false")
	}
	reply(w, e.status, struct {
		Error *apiError `json:"error"`
	}{e})
}

// bytesPerToken is OpenAI's rule of thumb for English text.
const bytesPerToken = 4

// More tokens than a text has bytes are not believed, but for what models are given around a prompt, and end an answer with.
const (
	tokensAround = 1024
	tokensAfter  = 16
)

// usage counts tokens: as the workers tell, each by its own tokenizer, or else, and where a text is cut, four bytes begun for one.
type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

func count(prompt string, answers []answer) (u usage) {
	tokens := func(text string, told, more int) int {
		if told > 0 && told <= len(text)+more {
			return told
		}
		return (len(text) + bytesPerToken - 1) / bytesPerToken
	}
	for i, a := range answers {
		if i == 0 {
			u.Prompt = tokens(prompt, a.told.PromptTokens, tokensAround)
		}
		told := a.told.AnswerTokens
		if a.cut {
			told = 0
		}
		u.Completion += tokens(a.text, told, tokensAfter)
	}
	u.Total = u.Prompt + u.Completion
	return u
}

// requestID names a response in logs of clients.
func requestID() string { return "req_" + rand.Text() }
