package ledger

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// Account is what the ledger knows of an account.
type Account struct {
	Balance int64  // µ-credits; below zero only while certificates that pay it are still missing here
	Nonce   uint64 // of its next order
	Last    TaskID // its order at Nonce-1; zero at 0
}

// Escrow is the fee of an open task.
type Escrow struct {
	Payer AccountID
	Fee   Amount
}

// State is a ledger in memory: a sum over locks and outcomes that comes out the same in whatever
// order they are applied (I10), each once (I8). It is not safe for concurrent use.
type State struct {
	supply   Amount
	accounts map[AccountID]Account
	nonces   map[nonce]TaskID
	escrow   map[TaskID]Escrow
	settled  map[TaskID]crypto.Hash // H(V)
	sums     *Sums                  // over settled

	// running sums, for I6
	balances int64
	escrowed Amount
}

type nonce struct {
	payer AccountID
	n     uint64
}

// ErrConflict is wrapped when a certificate contradicts one that was applied, which takes more than
// f Byzantine validators.
var ErrConflict = errors.New("certificate contradicts an applied one")

// ErrInvariant is wrapped when an invariant of protocol §9 does not hold.
var ErrInvariant = errors.New("invariant violated")

// NewState returns the state at genesis.
func NewState(g *Genesis) *State {
	s := EmptyState(g)
	for _, a := range g.Accounts {
		s.RestoreAccount(a.ID, Account{Balance: int64(a.Balance)})
	}
	return s
}

// EmptyState returns a state to be filled with the Restore methods from what a store kept.
func EmptyState(g *Genesis) *State {
	return &State{
		supply:   g.Supply(),
		accounts: map[AccountID]Account{},
		nonces:   map[nonce]TaskID{},
		escrow:   map[TaskID]Escrow{},
		settled:  map[TaskID]crypto.Hash{},
		sums:     NewSums(Domain(g)),
	}
}

// RestoreAccount puts an account back.
func (s *State) RestoreAccount(id AccountID, a Account) { s.set(id, a) }

// RestoreNonce puts back which order a payer's nonce was locked for.
func (s *State) RestoreNonce(payer AccountID, n uint64, task TaskID) {
	s.nonces[nonce{payer, n}] = task
}

// RestoreEscrow puts an open task back.
func (s *State) RestoreEscrow(task TaskID, e Escrow) {
	s.escrow[task] = e
	s.escrowed += e.Fee
}

// RestoreSettled puts back that a task was settled, but for the digest: see RestoreSums.
func (s *State) RestoreSettled(task TaskID, outcome crypto.Hash) { s.settled[task] = outcome }

// RestoreSums puts back the sums over all settled tasks. The state goes on with them: they are not to be
// changed by anybody else.
func (s *State) RestoreSums(sums *Sums) { s.sums = sums }

func (s *State) set(id AccountID, a Account) {
	s.balances += a.Balance - s.accounts[id].Balance
	s.accounts[id] = a
}

func (s *State) add(id AccountID, amount int64) {
	a := s.accounts[id]
	a.Balance += amount
	s.set(id, a)
}

// Account returns an account; one that was never credited is zero.
func (s *State) Account(id AccountID) Account { return s.accounts[id] }

// Accounts returns the ids of all accounts, ascending. The burned amount is among them, under [Burned].
func (s *State) Accounts() []AccountID {
	return slices.SortedFunc(maps.Keys(s.accounts), AccountID.Compare)
}

// CopyAccounts returns a copy of all accounts, the burned amount among them. It takes a fraction of the time of [State.Accounts].
func (s *State) CopyAccounts() map[AccountID]Account { return maps.Clone(s.accounts) }

// Escrow returns the fee that is locked for an open task.
func (s *State) Escrow(task TaskID) (Escrow, bool) {
	e, ok := s.escrow[task]
	return e, ok
}

// Escrowed returns the number of open tasks and the sum of their fees.
func (s *State) Escrowed() (tasks int, fees Amount) { return len(s.escrow), s.escrowed }

// Settled returns the hash of a task's outcome.
func (s *State) Settled(task TaskID) (outcome crypto.Hash, ok bool) {
	outcome, ok = s.settled[task]
	return outcome, ok
}

// Tasks returns the number of settled tasks.
func (s *State) Tasks() int { return len(s.settled) }

// Digest stands for all settled tasks with their outcomes. It does not depend on the order in which they
// were applied (I10).
func (s *State) Digest() Digest { return s.sums.Digest() }

// BucketDigest stands for the settled tasks of a bucket, 0 to Buckets-1.
func (s *State) BucketDigest(i int) Digest { return s.sums.BucketDigest(i) }

// LockedAt returns the task for which a payer's nonce was locked.
func (s *State) LockedAt(payer AccountID, n uint64) (TaskID, bool) {
	t, ok := s.nonces[nonce{payer, n}]
	return t, ok
}

// Lock moves an order's fee to escrow. It reports false if that was done before.
func (s *State) Lock(task TaskID, o Order) (applied bool, err error) {
	if known, ok := s.nonces[nonce{o.Payer, o.Nonce}]; ok {
		if known != task {
			return false, fmt.Errorf("%w: orders %s and %s are both locked at nonce %d of %s (I8)", ErrConflict, known.Short(), task.Short(), o.Nonce, o.Payer.Short())
		}
		return false, nil
	}
	s.nonces[nonce{o.Payer, o.Nonce}] = task
	a := s.accounts[o.Payer]
	a.Balance -= int64(o.Fee)
	if o.Nonce >= a.Nonce {
		a.Nonce, a.Last = o.Nonce+1, task
	}
	s.set(o.Payer, a)
	s.RestoreEscrow(task, Escrow{o.Payer, o.Fee})
	return true, nil
}

// Settle pays out an open task, and locks it first if its lock was missed. It reports false if that
// was done before. Nothing is changed when it returns an error.
func (s *State) Settle(task TaskID, o Order, v Outcome, outcome crypto.Hash) (applied bool, err error) {
	if known, ok := s.settled[task]; ok {
		if known != outcome {
			return false, fmt.Errorf("%w: task %s has two outcomes, %s and %s (I1)", ErrConflict, task.Short(), known.Short(), outcome.Short())
		}
		return false, nil
	}
	sum := Amount(0)
	for _, c := range v.Credits {
		if c.Amount > o.Fee-sum {
			return false, fmt.Errorf("%w: task %s pays out more than its fee (I7)", ErrInvariant, task.Short())
		}
		sum += c.Amount
	}
	if sum != o.Fee {
		return false, fmt.Errorf("%w: task %s pays out %d of a fee of %d (I7)", ErrInvariant, task.Short(), sum, o.Fee)
	}
	if _, err := s.Lock(task, o); err != nil {
		return false, err
	}
	delete(s.escrow, task)
	s.escrowed -= o.Fee
	for _, c := range v.Credits {
		s.add(c.Account, int64(c.Amount))
	}
	s.settled[task] = outcome
	s.sums.Add(task, outcome)
	return true, nil
}

// Check asserts I6 from running sums: nothing was made or lost.
func (s *State) Check() error {
	if s.balances+int64(s.escrowed) != int64(s.supply) {
		return fmt.Errorf("%w: balances of %d and escrow of %d do not make the supply of %d (I6)", ErrInvariant, s.balances, s.escrowed, s.supply)
	}
	return nil
}

// CheckComplete asserts, over everything, what holds of a ledger that misses no certificate: the sums
// added up anew (I6) and no balance below zero (I9).
func (s *State) CheckComplete() error {
	balances, escrowed := int64(0), Amount(0)
	for _, id := range s.Accounts() {
		b := s.accounts[id].Balance
		if b < 0 {
			return fmt.Errorf("%w: account %s holds %d (I9)", ErrInvariant, id.Short(), b)
		}
		balances += b
	}
	for _, e := range s.escrow {
		escrowed += e.Fee
	}
	if balances != s.balances || escrowed != s.escrowed {
		return fmt.Errorf("%w: accounts add up to %d and escrow to %d, their running sums say %d and %d (I6)", ErrInvariant, balances, escrowed, s.balances, s.escrowed)
	}
	return s.Check()
}
