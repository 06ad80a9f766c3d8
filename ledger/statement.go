package ledger

import (
	"errors"
	"fmt"

	"github.com/poqmesh/poq/crypto"
)

// Kinds of signed statements and of hashes; each stands in its own domain.
const (
	kindOrder        crypto.Kind = "order"
	kindAnswerCommit crypto.Kind = "anscommit"
	kindAnswer       crypto.Kind = "answer"
	kindDecline      crypto.Kind = "decline"
	kindScoreCommit  crypto.Kind = "scocommit"
	kindReveal       crypto.Kind = "reveal"
	kindBundle       crypto.Kind = "bundle"

	kindAnswerOpening crypto.Kind = "ansopen"
	kindScoreOpening  crypto.Kind = "scoopen"
	kindSealValue     crypto.Kind = "sealval"
	kindOutcome       crypto.Kind = "outcome"
	kindTieBreak      crypto.Kind = "tie"
	kindRoundChange   crypto.Kind = "newround"
	kindLeader        crypto.Kind = "leader"
	kindEvidence      crypto.Kind = "evidence"
	kindSettled       crypto.Kind = "settled"
)

// statement is what a peer signs: fixed-width canonical bytes, a signer, and rules that hold
// whatever the state of the ledger.
type statement interface {
	kind() crypto.Kind
	append(b []byte) []byte
	signer(g *Genesis) (crypto.PublicKey, error)
	check(g *Genesis) error
}

// Signed is a statement with its signature. The bytes that travel are the statement's canonical
// bytes and the signature; the bytes that are signed carry the chain id and epoch in front.
type Signed[S statement] struct {
	Statement S
	Sig       crypto.Signature
}

func (s Signed[S]) append(b []byte) []byte {
	return append(s.Statement.append(b), s.Sig[:]...)
}

// readSigned reads what Signed.append wrote.
func readSigned[S statement, P interface {
	*S
	read(r *crypto.Reader)
}](r *crypto.Reader) (s Signed[S]) {
	P(&s.Statement).read(r)
	s.Sig = r.Signature()
	return s
}

// Errors that verification gives. ErrMalformed and ErrSignature are the sender's fault; a
// statement that is merely out of date or unknown here never gives one of them.
var (
	ErrMalformed = errors.New("malformed statement")
	ErrSignature = errors.New("signature does not hold")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}
