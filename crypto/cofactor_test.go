package crypto

import (
	stded25519 "crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"testing"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// order8 is a point of order 8 (RFC 8032's curve has eight points of small order).
const order8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"

// A malicious signer can add a point of small order to its signature's R. The cofactorless rule of
// the standard library refuses the result and every batch accepts it: a network that used both would
// split. Here all ways must agree.
func TestSignatureWithTorsionIsJudgedAlikeAloneAndInABatch(t *testing.T) {
	k := keyFrom(t, 9)
	message := Domain{}.SigningBytes("order", []byte("split"))
	h := sha512.Sum512(k.Bytes()[:32])
	h[0] &= 248
	h[31] = h[31]&127 | 64
	secret := must(scalar.NewFromBits(h[:32]))
	nonce := scalar.NewFromUint64(123456789)
	torsion := new(curve.EdwardsPoint)
	raw, _ := hex.DecodeString(order8)
	if err := torsion.UnmarshalBinary(raw); err != nil {
		t.Fatal(err)
	}
	point := curve.NewEdwardsPoint().MulBasepoint(curve.ED25519_BASEPOINT_TABLE, nonce)
	r := must(point.Add(point, torsion).MarshalBinary())
	public := k.Public()
	challenge := sha512.Sum512(append(append(r[:len(r):len(r)], public[:]...), message...))
	s := scalar.New().Mul(must(scalar.NewFromBytesModOrderWide(challenge[:])), secret)
	sBytes := must(s.Add(s, nonce).MarshalBinary())
	sig := Signature(append(r, sBytes...))

	if stded25519.Verify(public[:], message, sig[:]) {
		t.Fatal("the signature is not the crafted one: the cofactorless rule accepts it")
	}
	claim := Claim{public, message, sig}
	if !NewVerifier().Verify(public, message, sig) {
		t.Error("refused alone")
	}
	for n := 1; n <= 8; n++ {
		claims := make([]Claim, n)
		for i := range claims {
			claims[i] = claim
		}
		if bad := NewVerifier().VerifyAll(claims); bad != nil {
			t.Errorf("%d at a time: %v refused", n, bad)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
