package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

// Errors of a bad request: nothing was ordered.
var (
	ErrEmptyPrompt = errors.New("the prompt is empty")
	ErrBadOption   = errors.New("option out of range")
)

// PromptSizeError says that a prompt, with its options, is too long. Sizes are in bytes.
type PromptSizeError struct{ Size, Limit int }

// Error names both sizes.
func (e *PromptSizeError) Error() string {
	return fmt.Sprintf("the prompt has %d bytes, the limit is %d: shorten it", e.Size, e.Limit)
}

// FundsError says that a fee is more than the account can spend.
type FundsError struct {
	Fee       ledger.Amount
	Available int64 // balance less the fees of own orders that are not locked yet
}

// Error names fee and balance.
func (e *FundsError) Error() string {
	return fmt.Sprintf("a fee of %s credits is above the available balance of %s: lower the fee", ledger.FormatAmount(int64(e.Fee)), ledger.FormatAmount(e.Available))
}

// Defaults of AskOptions.
const (
	DefaultFee           = ledger.Credit
	DefaultMaxAnswers    = 3
	DefaultAnswerTimeout = 30 * time.Second
	DefaultScoreTimeout  = 60 * time.Second
)

// AskOptions are the terms of an order. Zero values stand for the defaults.
type AskOptions struct {
	Fee           ledger.Amount
	MaxAnswers    int           // 1..16; by default the workers that the node is connected to, at most DefaultMaxAnswers
	AnswerTimeout time.Duration // from the lock until commitments to answers close
	ScoreTimeout  time.Duration // from the lock until the panel commits to what it has scored
	Split         uint32        // of the genesis; the first one by default
	llm.Options                 // for the engines
	Listen        bool          // have workers tell what they write while they write it: see [Task.Text] and [Told]. It tells them whose account this is
}

// Ask orders answers to a prompt and waits for the settlement: [Node.Order] and [Task.Wait] in one.
func (n *Node) Ask(ctx context.Context, prompt string, o AskOptions) (*Settlement, error) {
	t, err := n.Order(ctx, prompt, o)
	if err != nil {
		return nil, err
	}
	return t.Wait()
}

// Order orders answers to a prompt. It returns the task once the order is on disk, and the node follows it until ctx ends; the order stays in
// force then. An error says that nothing was ordered.
func (n *Node) Order(ctx context.Context, prompt string, o AskOptions) (*Task, error) {
	m, err := n.newOrder(prompt, o)
	if err != nil {
		return nil, err
	}
	t := n.follow(ctx, m.Order.Statement, o.Listen)
	n.lifeMu.Lock()
	if !n.closed {
		n.tasks.Go(func() { n.publishOwn(m) })
	}
	n.lifeMu.Unlock()
	return t, nil
}

// newOrder checks and signs an order, and keeps it before anybody sees it: a payer that forgot one
// would sign another with its nonce and freeze its own account.
func (n *Node) newOrder(prompt string, o AskOptions) (*ledger.OrderMessage, error) {
	if strings.TrimSpace(prompt) == "" {
		return nil, ErrEmptyPrompt
	}
	blob, err := EncodePrompt(llm.Request{Prompt: prompt, Options: o.Options})
	switch {
	case errors.Is(err, ErrNulPrompt):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBadOption, err)
	case len(blob) > ledger.MaxPrompt:
		return nil, &PromptSizeError{len(blob), ledger.MaxPrompt}
	}
	if o.Fee == 0 {
		o.Fee = max(DefaultFee, n.genesis.MinFee)
	}
	if o.MaxAnswers == 0 {
		o.MaxAnswers = n.likelyAnswers(o.Model)
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = DefaultAnswerTimeout
	}
	if o.ScoreTimeout == 0 {
		o.ScoreTimeout = min(max(DefaultScoreTimeout, 2*o.AnswerTimeout), ledger.MaxDeadline)
	}
	if o.Split == 0 {
		o.Split = n.genesis.Splits[0].ID
	}
	_, split := n.genesis.Split(o.Split)
	switch {
	case !split:
		return nil, fmt.Errorf("%w: the network has no split %d", ErrBadOption, o.Split)
	case o.MaxAnswers < 1 || o.MaxAnswers > ledger.MaxAnswers:
		return nil, fmt.Errorf("%w: %d answers, want 1 to %d", ErrBadOption, o.MaxAnswers, ledger.MaxAnswers)
	case o.Fee < n.genesis.MinFee:
		return nil, fmt.Errorf("%w: a fee of %s credits, the network takes %s or more", ErrBadOption, ledger.FormatAmount(int64(o.Fee)), ledger.FormatAmount(int64(n.genesis.MinFee)))
	case o.AnswerTimeout < ledger.MinDeadline || o.AnswerTimeout > o.ScoreTimeout || o.ScoreTimeout > ledger.MaxDeadline:
		return nil, fmt.Errorf("%w: deadlines of %v and %v, want %v to %v in this order", ErrBadOption, o.AnswerTimeout, o.ScoreTimeout, ledger.MinDeadline, ledger.MaxDeadline)
	}
	if err := n.checkModel(o.Model); err != nil {
		return nil, err
	}
	m, err := n.signOrder(blob, o)
	if err != nil {
		return nil, err
	}
	if err := n.store.Flush(); err != nil { // orders that are given at the same time share a write to disk
		return nil, fmt.Errorf("keeping the order: %w", err)
	}
	return m, nil
}

// signOrder signs the next order of the own account, of a prompt as it is encoded, and puts it into the store, where it is not durable yet.
func (n *Node) signOrder(blob []byte, o AskOptions) (*ledger.OrderMessage, error) {
	n.askMu.Lock()
	defer n.askMu.Unlock()
	account, unlocked := n.accountAndUnlockedFees()
	if account.Nonce >= n.ownNext {
		n.ownNext, n.ownLast = account.Nonce, account.Last
	}
	if available := account.Balance - unlocked; int64(min(o.Fee, 1<<62)) > available {
		return nil, &FundsError{o.Fee, available}
	}
	order := ledger.Order{
		Payer: n.Account(), Nonce: n.ownNext, Previous: n.ownLast, Fee: o.Fee, Split: o.Split,
		Prompt: crypto.Sum(blob), Judge: n.genesis.Judge, MaxAnswers: uint8(o.MaxAnswers),
		AnswerDeadline: uint32(o.AnswerTimeout.Milliseconds()), ScoreDeadline: uint32(o.ScoreTimeout.Milliseconds()),
	}
	m := &ledger.OrderMessage{Order: ledger.Sign(n.domain, n.identity.Account, order)}
	if len(blob) <= ledger.MaxInline {
		m.Prompt = blob
	}
	n.content.keep(blob)
	if err := n.store.PutOwn(order.Nonce, m); err != nil {
		return nil, fmt.Errorf("keeping the order: %w", err)
	}
	task := ledger.OrderID(n.domain, order)
	n.ownNext, n.ownLast = order.Nonce+1, task
	n.ownFees[task] = o.Fee
	return m, nil
}

// likelyAnswers is how many answers are worth waiting for: a task that asks for more than there are workers stays open
// until its answer deadline. One that asks for fewer has them race for the places, and those that validators see in
// another order may be judged by too few.
func (n *Node) likelyAnswers(model string) int {
	offers, all := n.workersInSight()
	if model != "" {
		offers = slices.DeleteFunc(offers, func(names []string) bool { return !slices.Contains(names, model) })
	}
	if !all || len(offers) == 0 { // or they may be behind others
		return DefaultMaxAnswers
	}
	return min(len(offers), DefaultMaxAnswers)
}

// accountAndUnlockedFees returns the own account, and the fees of own orders that have not been taken
// from it yet, as they stood at one moment: a lock that is applied between the two reads must neither
// count twice nor not at all.
func (n *Node) accountAndUnlockedFees() (a ledger.Account, unlocked int64) {
	for {
		unlocked = n.unlockedFees()
		a = n.store.Account(n.Account())
		if unlocked == n.unlockedFees() {
			return a, unlocked
		}
	}
}

// unlockedFees sums up own orders whose fee is not in escrow yet, and forgets the others.
func (n *Node) unlockedFees() (sum int64) {
	for task, fee := range n.ownFees {
		if n.store.IsLocked(task) {
			delete(n.ownFees, task)
		} else {
			sum += int64(fee)
		}
	}
	return sum
}

// restoreOwn reads the own orders that are not settled: whatever is ordered next must follow them.
func (n *Node) restoreOwn() error {
	orders, err := n.store.OwnOrders()
	if err != nil {
		return fmt.Errorf("reading own orders: %w", err)
	}
	for _, m := range orders { // by nonce
		o := m.Order.Statement
		task := ledger.OrderID(n.domain, o)
		if n.store.IsSettled(task) {
			if err := n.store.DeleteOwn(o.Nonce); err != nil {
				return err
			}
			continue
		}
		n.ownNext, n.ownLast = o.Nonce+1, task
		n.ownFees[task] = o.Fee
		n.ownOpen = append(n.ownOpen, m)
	}
	return nil
}

// publishOwn gossips an own order as soon as a peer listens: gossip to nobody is lost.
func (n *Node) publishOwn(m *ledger.OrderMessage) {
	orders := n.topics[ledger.TopicOrder]
	if len(orders.Peers()) > 0 || orders.WaitForPeers(n.ctx, 1) == nil {
		n.loop.gossip(m)
	}
}
