package crypto

import (
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519/extra/cache"
)

// rule is the one set of options by which every signature is judged: cofactored, as in
// ZIP 215, with which single and batch verification cannot disagree. The standard library's
// crypto/ed25519.Verify is cofactorless: a malicious signer can make a signature that is
// valid there and not here, so it is forbidden in this module (a test enforces it).
var rule = &ed25519.Options{Verify: ed25519.VerifyOptionsZIP_215}

const (
	// keyCacheSize bounds the expanded public keys that a Verifier keeps (about 1.3 kB each): a
	// committee has at most 64, the rest serves busy payers and workers.
	keyCacheSize = 256
	// provenSize bounds the signatures that it remembers to hold (about 100 B each).
	provenSize = 8192
)

// Verifier verifies signatures. It remembers those that hold, since a statement comes again within
// certificates, and the expanded form of keys, which saves a third of the work. It is safe for
// concurrent use.
type Verifier struct {
	cache  *cache.Verifier
	proven *lru.Cache[Hash, struct{}]
}

// NewVerifier returns an empty Verifier.
func NewVerifier() *Verifier {
	proven, err := lru.New[Hash, struct{}](provenSize)
	if err != nil {
		panic(err) // the size is positive
	}
	return &Verifier{cache.NewVerifier(cache.NewLRUCache(keyCacheSize)), proven}
}

// Verify reports whether sig is key's signature of message.
func (v *Verifier) Verify(key PublicKey, message []byte, sig Signature) bool {
	return v.VerifyAll([]Claim{{key, message, sig}}) == nil
}

// Claim says that a key signed a message.
type Claim struct {
	Key     PublicKey
	Message []byte
	Sig     Signature
}

// digest identifies a claim. Key and signature have fixed widths, so that no two claims share bytes.
func (c Claim) digest() Hash {
	b := make([]byte, 0, len(c.Key)+len(c.Sig)+len(c.Message))
	return Sum(append(append(append(b, c.Key[:]...), c.Sig[:]...), c.Message...))
}

// Trust remembers a signature that this process has just made with its own key, so that it need not be
// verified when it comes back within certificates.
func (v *Verifier) Trust(c Claim) { v.proven.Add(c.digest(), struct{}{}) }

// minBatch is the number of signatures from which a batch beats checking them one by one.
const minBatch = 4

// VerifyAll returns the indices of the claims that do not hold, in ascending order: none if all
// signatures are valid. It accepts exactly what [Verifier.Verify] accepts.
func (v *Verifier) VerifyAll(claims []Claim) (bad []int) {
	digests, open := make([]Hash, len(claims)), make([]int, 0, len(claims))
	holds := make(map[Hash]bool, len(claims)) // of those that are not proven; certificates repeat some
	for i, c := range claims {
		digests[i] = c.digest()
		if _, again := holds[digests[i]]; !again && !v.proven.Contains(digests[i]) {
			open = append(open, i)
			holds[digests[i]] = false
		}
	}
	for k, valid := range v.check(claims, open) {
		if holds[digests[open[k]]] = valid; valid {
			v.proven.Add(digests[open[k]], struct{}{})
		}
	}
	for i := range claims {
		if valid, checked := holds[digests[i]]; checked && !valid {
			bad = append(bad, i)
		}
	}
	return bad
}

// check verifies the claims with the given indices.
func (v *Verifier) check(claims []Claim, indices []int) []bool {
	if len(indices) < minBatch {
		valid := make([]bool, len(indices))
		for k, i := range indices {
			valid[k] = v.cache.VerifyWithOptions(claims[i].Key[:], claims[i].Message, claims[i].Sig[:], rule)
		}
		return valid
	}
	batch := ed25519.NewBatchVerifierWithCapacity(len(indices))
	for _, i := range indices {
		v.cache.AddWithOptions(batch, claims[i].Key[:], claims[i].Message, claims[i].Sig[:], rule)
	}
	// nil: the system's randomness weighs the equations. It can't change a verdict. On failure the
	// library checks the signatures one by one.
	_, valid := batch.Verify(nil)
	return valid
}
