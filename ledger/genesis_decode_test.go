package ledger_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
)

func sampleGenesis(t testing.TB) *ledger.Genesis {
	t.Helper()
	g, _ := ledgertest.NewGenesis("somewhere", 4, ledgertest.NewPayer(ledgertest.Key("a")), ledgertest.NewPayer(ledgertest.Key("b")))
	s := ledger.DefaultSplit()
	s.ID, s.Ranks = 7, []uint32{1}
	g.Splits = append(g.Splits, s)
	return g
}

func TestGenesisReadsBackAsWritten(t *testing.T) {
	want := sampleGenesis(t)
	got, err := ledger.DecodeGenesis(want.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if got.Chain() != want.Chain() {
		t.Error("it has another chain id")
	}
}

func TestGenesisCutShortOrProlongedIsRefused(t *testing.T) {
	data := sampleGenesis(t).Encode()
	for i := range data {
		if _, err := ledger.DecodeGenesis(data[:i]); err == nil {
			t.Fatalf("cut off after %d bytes of %d: no error", i, len(data))
		}
	}
	if _, err := ledger.DecodeGenesis(append(data, 0)); err == nil {
		t.Error("a byte too many: no error")
	}
}

func FuzzDecodeGenesis(f *testing.F) {
	f.Add(sampleGenesis(f).Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := ledger.DecodeGenesis(data)
		if err != nil {
			return
		}
		if !bytes.Equal(g.Encode(), data) {
			t.Errorf("%x has two encodings", data)
		}
	})
}
