package store

import (
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Verification says what [Reader.Verify] found to hold.
type Verification struct {
	Chain     crypto.Hash   `json:"chain"`
	Digest    ledger.Digest `json:"digest"`
	Tasks     int           `json:"tasks"` // settled: every signature checked, Settle run again
	Open      int           `json:"open"`  // in escrow
	Accounts  int           `json:"accounts"`
	Supply    ledger.Amount `json:"supply"`
	Escrow    ledger.Amount `json:"escrow"`
	Burned    ledger.Amount `json:"burned"`
	ElapsedMS int64         `json:"elapsed_ms"`
}

// Verify replays the ledger on disk from genesis and compares the result with every stored account,
// index and digest. The error says where it fails. What is applied meanwhile is not looked at.
func (s *Reader) Verify() (*Verification, error) {
	begin := time.Now()
	v := &Verification{Chain: s.genesis.Chain(), Supply: s.genesis.Supply()}
	err := s.view(func(txn *badger.Txn) error {
		again, err := ledger.Replay(s.genesis, receipts(txn), openLocks(txn))
		if err != nil {
			return err
		}
		stored := map[ledger.AccountID]bool{}
		for e, err := range scan(txn, prefixAccount) {
			if err != nil {
				return err
			}
			a, err := decodeAccount(e.value)
			if err != nil {
				return fmt.Errorf("account %x: %w", e.key, err)
			}
			id := ledger.AccountID(e.key)
			if want := again.Account(id); a != want {
				return fmt.Errorf("account %s is stored with balance %d and nonce %d, its certificates give %d and %d", id, a.Balance, a.Nonce, want.Balance, want.Nonce)
			}
			stored[id] = true
		}
		for _, id := range again.Accounts() {
			if !stored[id] && again.Account(id) != (ledger.Account{}) {
				return fmt.Errorf("account %s is missing, its certificates give it %d", id, again.Account(id).Balance)
			}
		}
		digest, err := readCheckpoint(txn, s.genesis)
		if err != nil {
			return err
		}
		index := 0
		for e, err := range settledTasks(txn) {
			if err != nil {
				return err
			}
			if outcome, ok := again.Settled(e.task); !ok || outcome != e.outcome {
				return fmt.Errorf("task %s is stored as settled with outcome %s, its receipt says otherwise", e.task, e.outcome)
			}
			digest.add(e)
			index++
		}
		if index != again.Tasks() {
			return fmt.Errorf("the index lists %d settled tasks, there are %d receipts", index, again.Tasks())
		}
		for i := range ledger.Buckets {
			if got, want := digest.sums.BucketDigest(i), again.BucketDigest(i); got != want {
				return fmt.Errorf("bucket %d has the stored digest %s of %d tasks, its receipts give %s of %d", i, got.Sum, got.Tasks, want.Sum, want.Tasks)
			}
		}
		v.Digest = again.Digest()
		v.Tasks, v.Accounts, v.Burned = again.Tasks(), len(again.Accounts()), ledger.Amount(again.Account(ledger.Burned).Balance)
		v.Open, v.Escrow = again.Escrowed()
		return nil
	})
	if err != nil {
		return nil, err
	}
	v.ElapsedMS = time.Since(begin).Milliseconds()
	return v, nil
}
