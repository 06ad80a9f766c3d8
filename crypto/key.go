package crypto

import (
	"bytes"
	stded25519 "crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// PublicKey is an ed25519 public key. It names an account, and a validator by its
// consensus key. Its text form is 64 lower-case hex digits.
type PublicKey [ed25519.PublicKeySize]byte

// Compare orders keys by their bytes.
func (k PublicKey) Compare(o PublicKey) int { return bytes.Compare(k[:], o[:]) }

// IsZero reports whether k is all zero, which is no key that anybody can sign for.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// String returns all 64 hex digits.
func (k PublicKey) String() string { return hex.EncodeToString(k[:]) }

// Short returns the first 12 hex digits, for people.
func (k PublicKey) Short() string { return hex.EncodeToString(k[:6]) }

// MarshalText implements [encoding.TextMarshaler].
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *PublicKey) UnmarshalText(text []byte) error { return unhex(k[:], text, "public key") }

// Signature is an ed25519 signature. Its bytes never identify anything: a signer can
// make any number of valid signatures of one statement.
type Signature [ed25519.SignatureSize]byte

// PrivateKey signs. It is safe for concurrent use. The zero value is no key.
type PrivateKey struct{ key ed25519.PrivateKey }

// GenerateKey makes a key from random, or from the system's source if random is nil.
func GenerateKey(random io.Reader) (PrivateKey, error) {
	if random == nil {
		random = rand.Reader
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return PrivateKey{}, fmt.Errorf("reading randomness for a key: %w", err)
	}
	return PrivateKey{ed25519.NewKeyFromSeed(seed)}, nil
}

// IsZero reports whether k is no key.
func (k PrivateKey) IsZero() bool { return k.key == nil }

// Public returns the key that verifies k's signatures.
func (k PrivateKey) Public() (p PublicKey) {
	copy(p[:], k.key[ed25519.SeedSize:])
	return p
}

// Sign signs message, which must begin with a tag made by [Domain.SigningBytes].
func (k PrivateKey) Sign(message []byte) (s Signature) {
	copy(s[:], ed25519.Sign(k.key, message))
	return s
}

// String hides the key, so that no log line can show it.
func (k PrivateKey) String() string { return "private key (hidden)" }

// GoString is String: %#v hides the key too.
func (k PrivateKey) GoString() string { return k.String() }

const pemType = "PRIVATE KEY"

// MarshalPEM returns k as PKCS #8 in PEM, which other tools read too. It is a secret:
// write it with mode 0600.
func (k PrivateKey) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(stded25519.PrivateKey(k.key))
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// ParsePEM reads what [PrivateKey.MarshalPEM] wrote.
func ParsePEM(data []byte) (PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return PrivateKey{}, errors.New("not a private key: want one PEM block of type " + pemType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("decoding a private key: %w", err)
	}
	std, ok := key.(stded25519.PrivateKey)
	if !ok {
		return PrivateKey{}, fmt.Errorf("private key is a %T, want ed25519", key)
	}
	return PrivateKey{ed25519.PrivateKey(std)}, nil
}

// Bytes returns the 64 bytes of k: the seed and the public key. It is a secret.
func (k PrivateKey) Bytes() []byte { return bytes.Clone(k.key) }

// KeyFromBytes reads what [PrivateKey.Bytes] returned.
func KeyFromBytes(b []byte) (PrivateKey, error) {
	if len(b) != ed25519.PrivateKeySize {
		return PrivateKey{}, fmt.Errorf("private key of %d bytes, want %d", len(b), ed25519.PrivateKeySize)
	}
	k := PrivateKey{ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])}
	if !bytes.Equal(k.key, b) {
		return PrivateKey{}, errors.New("private key does not belong to its public key")
	}
	return k, nil
}
