package keystore

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/poqmesh/poq/crypto"
)

// messageKind is that of bytes that a person signs. No statement of the protocol has it, and its chain id and epoch are
// zero, so such a signature can never be passed off as an order, a vote or anything else that a peer signs.
const messageKind crypto.Kind = "message"

// Sign signs all that r gives: the SHA-256 of it, in a domain of its own (docs/protocol.md).
func Sign(k crypto.PrivateKey, r io.Reader) (s crypto.Signature, err error) {
	signed, err := messageBytes(r)
	if err != nil {
		return s, err
	}
	return k.Sign(signed), nil
}

// Verify reports whether s is the signature that [Sign] makes with the private half of key over all that r gives.
func Verify(key crypto.PublicKey, s crypto.Signature, r io.Reader) (bool, error) {
	signed, err := messageBytes(r)
	if err != nil {
		return false, err
	}
	return crypto.NewVerifier().Verify(key, signed, s), nil
}

func messageBytes(r io.Reader) ([]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return nil, fmt.Errorf("reading what is to be signed: %w", err)
	}
	return crypto.Domain{}.SigningBytes(messageKind, h.Sum(nil)), nil
}
