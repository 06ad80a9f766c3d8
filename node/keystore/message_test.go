package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

var update = flag.Bool("update", false, "write the golden files anew")

// vector is a signed message, for other implementations.
type vector struct {
	Seed      string           `json:"seed"`
	PublicKey crypto.PublicKey `json:"public_key"`
	Message   string           `json:"message"` // hex
	Signed    string           `json:"signing_bytes"`
	Signature string           `json:"signature"`
}

func TestSignaturesOfMessagesStayAsTheyAre(t *testing.T) {
	path := filepath.Join("testdata", "message.json")
	var vectors []vector
	for i, message := range []string{"", "hello\n", strings.Repeat("\xff\x00", 40)} {
		seed := bytes.Repeat([]byte{byte(i + 1)}, 32)
		k, err := crypto.GenerateKey(bytes.NewReader(seed))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Sign(k, strings.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := messageBytes(strings.NewReader(message))
		if err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, vector{hex.EncodeToString(seed), k.Public(), hex.EncodeToString([]byte(message)), hex.EncodeToString(signed), hex.EncodeToString(s[:])})
		if ok, err := Verify(k.Public(), s, strings.NewReader(message)); err != nil || !ok {
			t.Errorf("message %d does not verify (%v)", i, err)
		}
	}
	got, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("signatures changed; if that is meant, run the test with -update\n%s(%v)", got, err)
	}
}

func TestSignatureHoldsForItsKeyAndMessageAlone(t *testing.T) {
	k, other := testKey(t, "x"), testKey(t, "y")
	s, err := Sign(k, strings.NewReader("pay 5"))
	if err != nil {
		t.Fatal(err)
	}
	bad := s
	bad[40] ^= 1
	for name, c := range map[string]struct {
		key       crypto.PublicKey
		signature crypto.Signature
		message   string
	}{
		"another key":       {other.Public(), s, "pay 5"},
		"another message":   {k.Public(), s, "pay 50"},
		"another signature": {k.Public(), bad, "pay 5"},
		"nothing":           {k.Public(), s, ""},
	} {
		if ok, err := Verify(c.key, c.signature, strings.NewReader(c.message)); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	failed := errors.New("disk")
	if _, err := Sign(k, iotest.ErrReader(failed)); !errors.Is(err, failed) {
		t.Errorf("signed what could not be read: %v", err)
	}
	if ok, err := Verify(k.Public(), s, iotest.ErrReader(failed)); ok || !errors.Is(err, failed) {
		t.Errorf("verified what could not be read: %v", err)
	}
}

// A person may be talked into signing anything, even the very bytes of an order.
func TestSignedMessageIsNoStatementOfTheProtocol(t *testing.T) {
	k := testKey(t, "payer")
	g := &ledger.Genesis{
		Network: "n", Judge: crypto.Sum([]byte("judge")), MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()},
		Validators: []ledger.Validator{{Consensus: testKey(t, "v").Public(), Account: k.Public(), Peer: "p"}},
	}
	o := ledger.Order{Payer: k.Public(), Fee: 5, Split: 1, Prompt: crypto.Sum([]byte("q")), Judge: g.Judge, MaxAnswers: 1, AnswerDeadline: 1000, ScoreDeadline: 1000}
	honest := &ledger.OrderMessage{Order: ledger.Sign(ledger.Domain(g), k, o), Prompt: []byte("q")}
	v := ledger.NewVerifier(g)
	if _, err := v.Verify(honest); err != nil {
		t.Fatal(err)
	}
	_, data := ledger.Encode(honest)
	body := data[1:][:157]
	for name, text := range map[string][]byte{
		"its body":          body,
		"its signing bytes": ledger.Domain(g).SigningBytes("order", body),
	} {
		s, err := Sign(k, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		forged := *honest
		forged.Order.Sig = s
		if _, err := v.Verify(&forged); err == nil {
			t.Errorf("who signed %s has ordered", name)
		}
	}
}
