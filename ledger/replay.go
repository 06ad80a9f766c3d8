package ledger

import (
	"fmt"
	"iter"
)

// ReplayError tells at which task a ledger does not hold.
type ReplayError struct {
	Index int // of the task in the order of replay, from 0
	Task  TaskID
	Err   error
}

// Error names the task and what is wrong with it.
func (e *ReplayError) Error() string {
	return fmt.Sprintf("task %s (number %d of the ledger): %v", e.Task, e.Index+1, e.Err)
}

// Unwrap returns the cause.
func (e *ReplayError) Unwrap() error { return e.Err }

// Replay rebuilds a ledger from genesis out of its certificates: every signature is verified,
// [Settle] is run again for every task, and all invariants are checked at the end. It trusts nothing
// but the genesis. Receipts and locks may come in any order. An error about one certificate is a
// [ReplayError].
func Replay(g *Genesis, receipts iter.Seq2[*Receipt, error], open iter.Seq2[*LockCert, error]) (*State, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	v, s, i := NewVerifier(g), NewState(g), 0
	for r, err := range receipts {
		if err != nil {
			return nil, err
		}
		if err := v.Receipt(r); err != nil {
			return nil, &ReplayError{i, r.Task(), err}
		}
		if _, err := s.Settle(r.Task(), r.Order.Statement, r.Outcome, r.Settle.Vote.Value); err != nil {
			return nil, &ReplayError{i, r.Task(), err}
		}
		i++
	}
	for l, err := range open {
		if err != nil {
			return nil, err
		}
		if err := v.lock(l); err != nil {
			return nil, &ReplayError{i, l.Votes.Vote.Task, err}
		}
		if _, err := s.Lock(l.Votes.Vote.Task, l.Order.Statement); err != nil {
			return nil, &ReplayError{i, l.Votes.Vote.Task, err}
		}
		i++
	}
	return s, s.CheckComplete()
}
