package node

import (
	"errors"
	"fmt"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
)

// OwnOrder is an order of the node's own account.
type OwnOrder struct {
	Task   ledger.TaskID
	Nonce  uint64
	Fee    ledger.Amount
	Prompt string // "" when the text is not kept any more, and there are no options then
	llm.Options
}

// OwnOrders returns the orders of the node's account that have the nonce from or a higher one, whatever has become of them, by nonce,
// and the nonce of the order that comes next. Whoever notes the latter before it asks, and is cut off before it hears what task that
// is, finds the task later.
func (n *Node) OwnOrders(from uint64) (orders []OwnOrder, next uint64, err error) {
	signed, next, err := n.ordersSince(from)
	if err != nil {
		return nil, 0, err
	}
	for _, o := range signed {
		blob, err := n.content.local(o.Prompt)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, 0, fmt.Errorf("prompt of an own order: %w", err)
		}
		q, err := decodePrompt(blob)
		if err != nil {
			return nil, 0, fmt.Errorf("prompt of an own order: %w", err)
		}
		orders = append(orders, OwnOrder{ledger.OrderID(n.domain, o), o.Nonce, o.Fee, q.Prompt, q.Options})
	}
	return orders, next, nil
}

func (n *Node) ordersSince(from uint64) (orders []ledger.Order, next uint64, err error) {
	n.askMu.Lock()
	defer n.askMu.Unlock()
	if err := n.store.Flush(); err != nil { // nobody may see an order before it is durable
		return nil, 0, fmt.Errorf("keeping own orders: %w", err)
	}
	kept, err := n.store.OwnOrders() // before the ledger, where one stands that is settled meanwhile
	if err != nil {
		return nil, 0, fmt.Errorf("reading own orders: %w", err)
	}
	unlocked := map[uint64]ledger.Order{}
	for _, m := range kept {
		unlocked[m.Order.Statement.Nonce] = m.Order.Statement
	}
	next = max(n.ownNext, n.store.Account(n.Account()).Nonce)
	for nonce := from; nonce < next; nonce++ {
		if task, ok := n.store.LockedAt(n.Account(), nonce); ok {
			if o, ok := n.store.SignedOrder(task); ok {
				orders = append(orders, o.Statement)
				continue
			}
		}
		if o, ok := unlocked[nonce]; ok {
			orders = append(orders, o)
		}
	}
	return orders, next, nil
}
