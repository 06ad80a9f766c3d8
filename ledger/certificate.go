package ledger

import (
	"errors"
	"fmt"

	"github.com/poqmesh/poq/crypto"
)

// Certificate proves that a quorum of the committee cast one vote. Which members it names differs
// from peer to peer, so nothing may depend on them (I15).
type Certificate struct {
	Vote   Leaf
	Proofs []VoteProof // ascending by validator, each once
}

func (c Certificate) append(b []byte) []byte {
	b = c.Vote.append(b)
	b = crypto.AppendCount(b, len(c.Proofs))
	for _, p := range c.Proofs {
		b = p.append(b)
	}
	return b
}

func readCertificate(r *crypto.Reader) Certificate {
	c := Certificate{Vote: readLeaf(r)}
	for range r.Count(MaxValidators, headerSize+64+2+2) {
		c.Proofs = append(c.Proofs, readVoteProof(r))
	}
	return c
}

// Signers returns the indices of the validators that signed.
func (c Certificate) Signers() []int {
	s := make([]int, len(c.Proofs))
	for i, p := range c.Proofs {
		s[i] = int(p.Header.Statement.Validator)
	}
	return s
}

// LockCert moves a fee to escrow.
type LockCert struct {
	Order Signed[Order]
	Votes Certificate
}

// SealCert closes the set S of score commitments.
type SealCert struct {
	Value SealValue
	Votes Certificate
}

func (l *LockCert) append(b []byte) []byte { return l.Votes.append(l.Order.append(b)) }

func readLockCert(r *crypto.Reader) *LockCert {
	return &LockCert{readSigned[Order](r), readCertificate(r)}
}

func (s SealCert) append(b []byte) []byte { return s.Votes.append(s.Value.append(b)) }

func readSealCert(r *crypto.Reader) SealCert { return SealCert{readSealValue(r), readCertificate(r)} }

// Encode returns the canonical bytes of the certificate, in which a lock is stored while its task is open.
func (l *LockCert) Encode() []byte { return l.append(nil) }

// DecodeLock reads what [LockCert.Encode] wrote. It checks no signature.
func DecodeLock(data []byte) (*LockCert, error) {
	rd := crypto.NewReader(data)
	l := readLockCert(rd)
	if err := rd.End(); err != nil {
		return nil, fmt.Errorf("lock certificate: %w", err)
	}
	return l, nil
}

// ErrNoQuorum is wrapped when a certificate's votes are too few.
var ErrNoQuorum = errors.New("no quorum")

// certificateClaims returns the signatures on which c rests, once its votes are counted and lie in
// the bundles that they name.
func (v *Verifier) certificateClaims(c Certificate) ([]crypto.Claim, error) {
	if err := c.Vote.check(); err != nil {
		return nil, err
	}
	if q := v.genesis.Quorum(); len(c.Proofs) < q {
		return nil, fmt.Errorf("%w: %d votes to %v, want %d", ErrNoQuorum, len(c.Proofs), c.Vote.Kind, q)
	}
	claims := make([]crypto.Claim, len(c.Proofs))
	for i, p := range c.Proofs {
		h := p.Header.Statement
		if i > 0 && h.Validator == c.Proofs[i-1].Header.Statement.Validator {
			return nil, malformed("validator %d votes twice in a certificate", h.Validator)
		}
		if i > 0 && h.Validator < c.Proofs[i-1].Header.Statement.Validator {
			return nil, malformed("votes of a certificate do not ascend by validator: %d after %d", h.Validator, c.Proofs[i-1].Header.Statement.Validator)
		}
		var err error
		if claims[i], err = v.voteClaim(p, c.Vote); err != nil {
			return nil, err
		}
	}
	return claims, nil
}
