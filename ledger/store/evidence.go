package store

import (
	"encoding/binary"
	"errors"
	"fmt"

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
		for _, p := range c.Proofs {
			v := int(p.Header.Statement.Validator)
			if old := s.headers[v]; old == nil || p.Header.Statement.Seq > old.Statement.Seq {
				s.headers[v] = &p.Header
				w.set(headerKey(v), ledger.EncodeHeader(p.Header))
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

// PutEvidence keeps the proof that somebody broke the rules, under an id of its own. It does not wait.
func (s *Store) PutEvidence(id crypto.Hash, data []byte) error {
	return s.change(func(w *write) error {
		w.set(evidenceKey(id), data)
		return nil
	})
}

// Evidence returns what PutEvidence kept, ascending by id.
func (s *Store) Evidence() (all [][]byte, err error) {
	err = s.view(func(txn *badger.Txn) error {
		for e, err := range scan(txn, prefixEvidence) {
			if err != nil {
				return err
			}
			all = append(all, e.value)
		}
		return nil
	})
	return all, err
}
