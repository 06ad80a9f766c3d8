package crypto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func keyFrom(t testing.TB, seed byte) PrivateKey {
	t.Helper()
	k, err := GenerateKey(bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type signingVector struct {
	Kind      Kind   `json:"kind"`
	Chain     Hash   `json:"chain"`
	Epoch     uint64 `json:"epoch"`
	Body      string `json:"body"`
	Bytes     string `json:"signing_bytes"`
	Hash      Hash   `json:"hash"`
	Seed      string `json:"seed"`
	Key       string `json:"public_key"`
	Signature string `json:"signature"`
}

// A change of these bytes breaks every signature ever made.
func TestSigningBytesStayAsTheyAre(t *testing.T) {
	var vectors []signingVector
	for i, kind := range []Kind{"order", "reveal", "anscommit"} {
		d := Domain{Chain: Sum([]byte("chain")), Epoch: uint64(i) * 1000}
		body := bytes.Repeat([]byte{byte(i + 1)}, 5*i)
		k := keyFrom(t, byte(i+7))
		message := d.SigningBytes(kind, body)
		if got := KindOf(message); got != kind {
			t.Errorf("kind %q is read as %q", kind, got)
		}
		sig := k.Sign(message)
		vectors = append(vectors, signingVector{kind, d.Chain, d.Epoch, hex.EncodeToString(body), hex.EncodeToString(message), d.Hash(kind, body),
			hex.EncodeToString(k.Bytes()[:32]), k.Public().String(), hex.EncodeToString(sig[:])})
	}
	got, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "signing.json")
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got)+"\n" {
		t.Errorf("signing bytes changed:\n%s", got)
	}
}

func TestSigningBytesDifferWithEveryPartOfTheDomain(t *testing.T) {
	a := Domain{Chain: Sum([]byte("a")), Epoch: 1}
	seen := map[string]bool{}
	for _, d := range []Domain{a, {Sum([]byte("b")), 1}, {a.Chain, 2}} {
		for _, k := range []Kind{"order", "orders", "seal"} {
			for _, body := range []string{"", "x", "\x00"} {
				s := string(d.SigningBytes(k, []byte(body)))
				if seen[s] || !strings.HasPrefix(s, Protocol+string(k)) {
					t.Errorf("%v %s %q: %x", d, k, body, s)
				}
				seen[s] = true
			}
		}
	}
}

func TestKindThatDoesNotFitTheTagPanics(t *testing.T) {
	for _, k := range []Kind{"", "tenletters"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("kind %q was accepted", k)
				}
			}()
			Domain{}.SigningBytes(k, nil)
		}()
	}
}

func TestBatchAcceptsExactlyWhatSingleVerificationAccepts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		claims := make([]Claim, 1+r.IntN(12))
		var want []int
		for i := range claims {
			k := keyFrom(t, byte(r.IntN(5)))
			c := Claim{Key: k.Public(), Message: fmt.Appendf(nil, "message %d", r.IntN(3))}
			c.Sig = k.Sign(c.Message)
			if r.IntN(6) == 0 {
				c.Sig[r.IntN(64)] ^= 1 << r.IntN(8)
			}
			claims[i] = c
			if !NewVerifier().Verify(c.Key, c.Message, c.Sig) {
				want = append(want, i)
			}
		}
		v := NewVerifier()
		for range 2 { // the second time most are remembered
			if got := v.VerifyAll(claims); !slices.Equal(got, want) {
				t.Fatalf("round %d: batch finds %v invalid, one by one it is %v", round, got, want)
			}
		}
	}
}

func TestKeysSurvivePEMAndNeverPrint(t *testing.T) {
	k := keyFrom(t, 3)
	data, err := k.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePEM(data)
	if err != nil || again.Public() != k.Public() {
		t.Errorf("got %v, %v", again.Public(), err)
	}
	if raw, err := KeyFromBytes(k.Bytes()); err != nil || raw.Public() != k.Public() {
		t.Errorf("got %v, %v", raw.Public(), err)
	}
	secret := hex.EncodeToString(k.Bytes()[:32])
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, k); strings.Contains(s, secret) || strings.Contains(s, "0x3") || strings.Contains(s, "[3 3") {
			t.Errorf("%s prints the key: %s", format, s)
		}
	}
	for _, bad := range []string{"", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParsePEM([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	broken := k.Bytes()
	broken[40] ^= 1
	if _, err := KeyFromBytes(broken); err == nil {
		t.Error("a key that does not belong to its public half was accepted")
	}
}

func TestTextFormsAreStrict(t *testing.T) {
	h := Sum([]byte("x"))
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "00", h.String() + "00", strings.Repeat("g", 64)} {
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("hash %q was accepted", bad)
		}
		if err := new(PublicKey).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("key %q was accepted", bad)
		}
	}
}

func TestReaderRefusesCountsBeyondItsInput(t *testing.T) {
	for _, c := range []struct {
		data       []byte
		most, size int
		want       int
	}{
		{[]byte{0, 2, 1, 1}, 4, 1, 2},
		{[]byte{0, 2, 1}, 4, 1, 0},
		{[]byte{0xff, 0xff, 1}, 4, 1, 0},
		{[]byte{0, 5, 1, 1, 1, 1, 1}, 4, 1, 0},
		{[]byte{0}, 4, 1, 0},
	} {
		r := NewReader(c.data)
		if got := r.Count(c.most, c.size); got != c.want || r.Failed() != (c.want == 0) {
			t.Errorf("%v: got %d, failed %v", c.data, got, r.Failed())
		}
	}
	r := NewReader(AppendBytes(nil, "hello"))
	if r.Bytes(4) != nil || r.End() == nil {
		t.Error("a string over its limit was read")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 'x'}, uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, most uint8) {
		r := NewReader(data)
		b := r.Bytes(int(most))
		if len(b) > int(most) {
			t.Fatal("over the limit")
		}
		r.Uint8()
		r.Uint16()
		n := r.Count(int(most), 3)
		if n > int(most) || n*3 > len(data) {
			t.Fatal("count beyond the input")
		}
		r.Hash()
		if r.End() == nil && len(data) != 4+len(b)+1+2+2+32 {
			t.Fatal("bytes left over")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	k := keyFrom(b, 1)
	for _, n := range []int{1, 3, 11, 43} {
		var claims []Claim
		for i := range n {
			m := append(make([]byte, 200), byte(i))
			claims = append(claims, Claim{k.Public(), m, k.Sign(m)})
		}
		v := NewVerifier()
		check := func(b *testing.B) {
			if v.VerifyAll(claims) != nil {
				b.Fatal("invalid")
			}
		}
		b.Run(fmt.Sprintf("new/%d", n), func(b *testing.B) {
			for b.Loop() {
				v.proven.Purge()
				check(b)
			}
		})
		b.Run(fmt.Sprintf("again/%d", n), func(b *testing.B) {
			for b.Loop() {
				check(b)
			}
		})
	}
}
