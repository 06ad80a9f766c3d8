package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
)

// Export writes everything that was applied before the call, as it is at one moment. Settlement may go
// on meanwhile. Receipts come in the order in which they were settled here.
func (s *Reader) Export(w io.Writer) (totals archive.Totals, err error) {
	if err := s.Flush(); err != nil {
		return totals, err
	}
	err = s.view(func(txn *badger.Txn) error {
		head := archive.Head{Genesis: s.genesis, Counts: archive.Counts{
			Receipts: count(txn, prefixSeq), Locks: count(txn, prefixOpen), Evidence: count(txn, prefixEvidence),
		}}
		a, err := archive.NewWriter(w, head)
		if err != nil {
			return err
		}
		for e, err := range scan(txn, prefixSeq) {
			if err != nil {
				return err
			}
			if len(e.value) != 40 {
				return fmt.Errorf("task list: %w", crypto.ErrEncoding)
			}
			data, err := value(txn, receiptKey(ledger.TaskID(e.value[:32])))
			if err != nil {
				return fmt.Errorf("receipt of task %x: %w", e.value[:32], err)
			}
			r, err := ledger.DecodeReceipt(data)
			if err != nil {
				return err
			}
			if err := a.Write(r); err != nil {
				return err
			}
		}
		for l, err := range openLocks(txn) {
			if err != nil {
				return err
			}
			if err := a.Write(l); err != nil {
				return err
			}
		}
		for e, err := range evidence(txn) {
			if err != nil {
				return err
			}
			if err := a.Write(e); err != nil {
				return err
			}
		}
		totals, err = a.Close()
		return err
	})
	if err != nil {
		return totals, fmt.Errorf("exporting the ledger in %s: %w", s.dir, err)
	}
	return totals, nil
}

// count returns the number of keys with a prefix.
func count(txn *badger.Txn, prefix byte) (n uint64) {
	o := badger.DefaultIteratorOptions
	o.Prefix, o.PrefetchValues = []byte{prefix}, false
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		n++
	}
	return n
}

// Imported says what an import did.
type Imported struct {
	Archive archive.Totals `json:"archive"` // as far as it was read
	New     archive.Counts `json:"new"`     // of these, what the ledger had not
	Ledger  ledger.Digest  `json:"ledger"`  // afterwards
	Equal   bool           `json:"equal"`   // the ledger holds what the archive holds and no other settled task
}

// Import applies an archive. Every certificate is verified before it is applied, on all cores, but for
// those that the ledger has. All that comes before an error, of the archive or of ctx, is applied and
// durable, and an import that ended early goes on when it is run again. The result is never nil. Errors
// wrap those of package archive, of [ledger.Verifier.Verify] or [ledger.ErrConflict]; ErrGenesis if the
// archive is of another ledger.
func (s *Store) Import(ctx context.Context, a *archive.Reader) (*Imported, error) {
	result := &Imported{}
	if err := sameGenesis(s.genesis, a.Head().Genesis); err != nil {
		return result, err
	}
	empty := s.Digest().Tasks == 0
	err := s.importAll(ctx, a, result)
	err = errors.Join(err, s.Flush())
	result.Archive, result.Ledger = a.Totals(), s.Digest()
	if err != nil {
		return result, err
	}
	result.Equal = result.Ledger.Sum == result.Archive.Digest
	if empty && !result.Equal {
		return result, fmt.Errorf("%w: its receipts make the digest %s, it says %s", archive.ErrDamaged, result.Ledger.Sum, result.Archive.Digest)
	}
	return result, nil
}

// checked is something that was read and is being verified.
type checked struct {
	message ledger.Message
	known   bool
	result  chan error
}

func (s *Store) importAll(ctx context.Context, a *archive.Reader, result *Imported) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cores := runtime.GOMAXPROCS(0)
	queue := make(chan checked, 8*cores) // bounds what is held in memory
	var readErr error
	go func() {
		defer close(queue)
		readErr = s.readAll(ctx, a, queue, cores)
	}()
	var applyErr error
	for c := range queue { // to its end, so that the reader ends too
		err := <-c.result
		if err == nil && applyErr == nil && !c.known {
			err = s.take(c.message, &result.New)
		}
		if err != nil && applyErr == nil {
			applyErr = err
			cancel()
		}
	}
	if applyErr != nil {
		return applyErr
	}
	return readErr
}

// readAll reads an archive into a queue, in its order, and verifies it beside that.
func (s *Store) readAll(ctx context.Context, a *archive.Reader, queue chan<- checked, cores int) error {
	v := ledger.NewVerifier(s.genesis)
	var workers errgroup.Group
	workers.SetLimit(cores)
	defer func() { _ = workers.Wait() }() // what fails is in the results
	for {
		m, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c := checked{m, s.knows(m), make(chan error, 1)}
		if c.known {
			c.result <- nil
		} else {
			workers.Go(func() error {
				_, err := v.Verify(m)
				if err != nil {
					err = fmt.Errorf("task %s: %w", v.Task(m), err)
				}
				c.result <- err
				return nil
			})
		}
		select {
		case queue <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// knows reports whether the ledger has a message that came out of an archive.
func (s *Store) knows(m ledger.Message) bool {
	switch m := m.(type) {
	case *ledger.Receipt:
		s.mu.RLock()
		defer s.mu.RUnlock()
		outcome, ok := s.state.Settled(m.Task())
		return ok && outcome == m.Settle.Vote.Value
	case *ledger.LockCert:
		return s.IsLocked(m.Votes.Vote.Task)
	case *ledger.Evidence:
		return s.HasEvidence(m.ID(ledger.Domain(s.genesis)))
	}
	return false
}

// take applies a verified message that came out of an archive.
func (s *Store) take(m ledger.Message, n *archive.Counts) error {
	switch m := m.(type) {
	case *ledger.Receipt:
		n.Receipts++
		return s.Settle(m)
	case *ledger.LockCert:
		n.Locks++
		return s.Lock(m)
	case *ledger.Evidence:
		n.Evidence++
		return s.PutEvidence(m)
	}
	return nil
}
