package crypto

import (
	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519/extra/cache"
)

// rule is the one set of options by which every signature is judged: cofactored, as in
// ZIP 215, with which single and batch verification cannot disagree. The standard library's
// crypto/ed25519.Verify is cofactorless: a malicious signer can make a signature that is
// valid there and not here, so it is forbidden in this module (a test enforces it).
var rule = &ed25519.Options{Verify: ed25519.VerifyOptionsZIP_215}

// keyCacheSize bounds the expanded public keys that a Verifier keeps (about 1.3 kB each):
// a committee has at most 64, the rest serves busy payers and workers.
const keyCacheSize = 256

// Verifier verifies signatures and remembers the expanded form of keys it met, which saves a
// third of the work. It is safe for concurrent use.
type Verifier struct{ cache *cache.Verifier }

// NewVerifier returns an empty Verifier.
func NewVerifier() *Verifier {
	return &Verifier{cache.NewVerifier(cache.NewLRUCache(keyCacheSize))}
}

// Verify reports whether sig is key's signature of message.
func (v *Verifier) Verify(key PublicKey, message []byte, sig Signature) bool {
	return v.cache.VerifyWithOptions(key[:], message, sig[:], rule)
}

// Claim says that a key signed a message.
type Claim struct {
	Key     PublicKey
	Message []byte
	Sig     Signature
}

// minBatch is the number of signatures from which a batch beats checking them one by one.
const minBatch = 4

// VerifyAll returns the indices of the claims that do not hold, in ascending order: none if all
// signatures are valid. It accepts exactly what [Verifier.Verify] accepts.
func (v *Verifier) VerifyAll(claims []Claim) (bad []int) {
	if len(claims) < minBatch {
		for i, c := range claims {
			if !v.Verify(c.Key, c.Message, c.Sig) {
				bad = append(bad, i)
			}
		}
		return bad
	}
	batch := ed25519.NewBatchVerifierWithCapacity(len(claims))
	for _, c := range claims {
		v.cache.AddWithOptions(batch, c.Key[:], c.Message, c.Sig[:], rule)
	}
	// nil: the system's randomness weighs the equations. It can't change a verdict.
	if ok, each := batch.Verify(nil); !ok {
		for i, good := range each {
			if !good {
				bad = append(bad, i)
			}
		}
	}
	return bad
}
