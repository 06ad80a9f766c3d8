package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// HighestHeader returns the header with the highest sequence number that a validator signed, of those
// in the certificates that were applied; nil if there is none. It must not be changed.
func (s *Store) HighestHeader(validator int) *ledger.Signed[ledger.BundleHeader] {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.headers[validator]
}

// see notes the headers in certificates of which none was seen yet. If the latest certificate comes
// first, the others add nothing.
func (s *Store) see(w *write, certificates ...ledger.Certificate) {
	for _, c := range certificates {
		for i := range c.Proofs {
			h := &c.Proofs[i].Header
			v := int(h.Statement.Validator)
			if old := s.headers[v]; old == nil || h.Statement.Seq > old.Statement.Seq {
				s.headers[v] = new(*h) // no more than that is kept
				w.set(headerKey(v), ledger.EncodeHeader(*h))
			}
		}
	}
}

// readHeaders reads the highest headers.
func (s *Store) readHeaders(txn *badger.Txn) error {
	for e, err := range scan(txn, prefixHeader) {
		if err != nil {
			return err
		}
		h, err := ledger.DecodeHeader(e.value)
		if err != nil || len(e.key) != 2 {
			return fmt.Errorf("header of validator %x: %w", e.key, errors.Join(err, crypto.ErrEncoding))
		}
		s.headers[int(binary.BigEndian.Uint16(e.key))] = h
	}
	return nil
}

// findHeaders finds the highest headers in all certificates.
func (s *Store) findHeaders(txn *badger.Txn) error {
	for r, err := range receipts(txn) {
		if err != nil {
			return err
		}
		s.see(new(write), r.Settle, r.Seal.Votes, r.Lock)
	}
	for l, err := range openLocks(txn) {
		if err != nil {
			return err
		}
		s.see(new(write), l.Votes)
	}
	return nil
}

// PutEvidence keeps a verified proof that somebody contradicted itself. It does not wait.
func (s *Store) PutEvidence(e *ledger.Evidence) error {
	id := e.ID(ledger.Domain(s.genesis))
	return s.change(func(w *write) error {
		w.set(evidenceKey(id), e.Encode())
		return nil
	})
}

// HasEvidence reports whether a proof with an id is kept.
func (s *Reader) HasEvidence(id crypto.Hash) bool {
	return s.get(evidenceKey(id), func([]byte) error { return nil }) == nil
}

// Evidence returns what is kept, ascending by id.
func (s *Reader) Evidence() (all []*ledger.Evidence, err error) {
	err = s.view(func(txn *badger.Txn) error {
		for e, err := range evidence(txn) {
			if err != nil {
				return err
			}
			all = append(all, e)
		}
		return nil
	})
	return all, err
}

func evidence(txn *badger.Txn) iter.Seq2[*ledger.Evidence, error] {
	return func(yield func(*ledger.Evidence, error) bool) {
		for e, err := range scan(txn, prefixEvidence) {
			var p *ledger.Evidence
			if err == nil {
				p, err = ledger.DecodeEvidence(e.value)
			}
			if err != nil {
				err = fmt.Errorf("evidence %x: %w", e.key, err)
			}
			if !yield(p, err) {
				return
			}
		}
	}
}
