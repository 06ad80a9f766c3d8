package node

import (
	"fmt"
	"slices"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

// Policy says which tasks a worker takes; the zero value: all. It declines the others with the reason. That hides no
// prompt from it: prompts reach every peer.
type Policy struct {
	MinFee ledger.Amount      // of the whole order; what the worker earns of it depends on the others
	Payers []ledger.AccountID // whom it serves; none: everybody
}

// check returns why a worker does not take an order, or nil.
func (p Policy) check(o ledger.Order) error {
	switch {
	case len(p.Payers) > 0 && !slices.Contains(p.Payers, o.Payer):
		return &llm.DeclineError{Reason: "payer not served"}
	case o.Fee < p.MinFee:
		return &llm.DeclineError{Reason: fmt.Sprintf("fee too low: %s, this worker takes %s or more", ledger.FormatAmount(int64(o.Fee)), ledger.FormatAmount(int64(p.MinFee)))}
	}
	return nil
}
