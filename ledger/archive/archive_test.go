package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

func genesis(t testing.TB) *ledger.Genesis {
	t.Helper()
	k, err := crypto.GenerateKey(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return &ledger.Genesis{
		Network: "test", Epoch: 1, MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()},
		Validators: []ledger.Validator{{Consensus: k.Public(), Account: k.Public(), Peer: "peer"}},
		Accounts:   []ledger.GenesisAccount{{ID: k.Public(), Balance: 5}},
	}
}

// records are well formed and prove nothing: an archive does not ask.
func records(n int) (list []ledger.Message) {
	for i := range n {
		task := crypto.Sum([]byte{byte(i)})
		r := &ledger.Receipt{Settle: ledger.Certificate{Vote: ledger.Leaf{Task: task, Value: crypto.Sum(task[:])}}}
		r.Outcome.Task = task
		list = append(list, r)
	}
	return append(list,
		&ledger.LockCert{Order: ledger.Signed[ledger.Order]{Statement: ledger.Order{Nonce: 7}}},
		&ledger.Evidence{Offence: ledger.TwoOrders, Orders: [2]ledger.Signed[ledger.Order]{{Statement: ledger.Order{Nonce: 1}}, {Statement: ledger.Order{Nonce: 2}}}})
}

func write(t testing.TB, h Head, list []ledger.Message) ([]byte, Totals) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if err := w.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	totals, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), totals
}

func sample(t testing.TB, n int) (data []byte, h Head, list []ledger.Message, totals Totals) {
	h = Head{genesis(t), Counts{uint64(n), 1, 1}}
	list = records(n)
	data, totals = write(t, h, list)
	return data, h, list, totals
}

// readAll returns what comes before an error, which is nil at the end of a whole archive.
func readAll(data []byte) (r *Reader, list []ledger.Message, err error) {
	if r, err = NewReader(bytes.NewReader(data)); err != nil {
		return nil, nil, err
	}
	for {
		m, err := r.Next()
		if errors.Is(err, io.EOF) {
			if _, again := r.Next(); !errors.Is(again, io.EOF) {
				err = fmt.Errorf("after the end: %w", again)
				return r, list, err
			}
			return r, list, nil
		}
		if err != nil {
			return r, list, err
		}
		list = append(list, m)
	}
}

func TestArchiveIsReadAsItWasWritten(t *testing.T) {
	for _, n := range []int{0, 1, 40} {
		data, h, list, totals := sample(t, n)
		r, got, err := readAll(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, list) || r.Totals() != totals || r.Head().Counts != h.Counts || r.Head().Genesis.Chain() != h.Genesis.Chain() {
			t.Errorf("%d receipts: read %v of %v", n, r.Totals(), totals)
		}
		sums := ledger.NewSums(ledger.Domain(h.Genesis))
		for _, m := range list {
			if r, ok := m.(*ledger.Receipt); ok {
				sums.Add(r.Task(), r.Settle.Vote.Value)
			}
		}
		if totals.Digest != sums.Digest().Sum {
			t.Errorf("digest %s", totals.Digest)
		}
	}
}

func TestArchiveCutAnywhereGivesWhatIsWhole(t *testing.T) {
	data, _, list, _ := sample(t, 3)
	most := 0
	for n := range data {
		_, got, err := readAll(data[:n])
		if !errors.Is(err, ErrTruncated) && (n >= 12 || !errors.Is(err, ErrFormat)) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(data), err)
		}
		if len(got) < most || !reflect.DeepEqual(got, list[:len(got):len(got)]) && len(got) > 0 {
			t.Fatalf("cut to %d bytes: %d records, before that %d", n, len(got), most)
		}
		most = len(got)
	}
	if most != len(list) {
		t.Errorf("without the trailer %d of %d records are read", most, len(list))
	}
}

func TestNoByteOfAnArchiveCanBeChanged(t *testing.T) {
	data, _, list, _ := sample(t, 3)
	for i := range data {
		broken := bytes.Clone(data)
		broken[i] ^= 1 << (i % 8)
		_, got, err := readAll(broken)
		if err == nil {
			t.Fatalf("byte %d of %d changed: nothing was noticed", i, len(data))
		}
		if !reflect.DeepEqual(got, list[:len(got):len(got)]) && len(got) > 0 {
			t.Fatalf("byte %d changed: something else is read", i)
		}
	}
	if _, _, err := readAll(append(bytes.Clone(data), 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

// frame makes a record with a checksum that holds.
func frame(typ byte, payload []byte) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), typ)
	return append(binary.BigEndian.AppendUint32(b, checksum(b, payload)), payload...)
}

func TestArchiveThatContradictsItselfIsRefused(t *testing.T) {
	data, h, list, totals := sample(t, 2)
	begin := data[:12]
	chain := h.Genesis.Chain()
	headSize := frameSize + int(binary.BigEndian.Uint32(data[12:]))
	head, json := data[12:12+headSize], data[12+frameSize+56:12+headSize]
	body := data[12+headSize : len(data)-frameSize-56]
	other := totals
	other.Digest[0]++
	huge := append([]byte{0xff, 0xff, 0xff, 0xff, typeReceipt}, make([]byte, 4)...)
	for name, c := range map[string]struct {
		parts [][]byte
		err   error
		want  string
	}{
		"other magic":      {[][]byte{[]byte("notaledger!!"), head, body}, ErrFormat, "begin"},
		"later version":    {[][]byte{[]byte(magic), {0, 0, 0, 9}, head, body}, ErrFormat, "newer poq"},
		"no head":          {[][]byte{begin, body}, ErrDamaged, "no head"},
		"short head":       {[][]byte{begin, frame(typeHead, chain[:])}, ErrDamaged, "no head"},
		"another chain":    {[][]byte{begin, frame(typeHead, append(make([]byte, 56), json...))}, ErrDamaged, "chain id"},
		"no genesis":       {[][]byte{begin, frame(typeHead, append(h.append(chain[:]), "{}"...))}, ErrDamaged, "genesis"},
		"no JSON":          {[][]byte{begin, frame(typeHead, append(h.append(chain[:]), "x"...))}, ErrDamaged, "genesis"},
		"second head":      {[][]byte{begin, head, head}, ErrDamaged, "no type 1"},
		"unknown type":     {[][]byte{begin, head, frame(9, nil)}, ErrDamaged, "no type 9"},
		"no certificate":   {[][]byte{begin, head, frame(typeReceipt, []byte{1})}, ErrDamaged, "canonical"},
		"no evidence":      {[][]byte{begin, head, frame(typeEvidence, []byte{99})}, ErrDamaged, "record 2"},
		"record too large": {[][]byte{begin, head, huge}, ErrDamaged, "at most"},
		"other digest":     {[][]byte{begin, head, body, frame(typeTrailer, other.append(nil))}, ErrDamaged, "otherwise"},
		"fewer than it says": {[][]byte{begin, head, frame(typeTrailer, Totals{Digest: ledger.NewSums(ledger.Domain(h.Genesis)).Digest().Sum}.append(nil))},
			ErrDamaged, "otherwise"},
	} {
		if _, _, err := readAll(bytes.Join(c.parts, nil)); !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	w, err := NewWriter(io.Discard, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(list[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err == nil {
		t.Error("an archive with fewer records than its head says was closed")
	}
	if err := w.Write(&ledger.Query{}); err == nil {
		t.Error("a query was written")
	}
}

// repair makes the checksums of all frames hold, or a fuzzer would never get behind them.
func repair(data []byte) []byte {
	data = bytes.Clone(data)
	for rest := data[min(12, len(data)):]; len(rest) >= frameSize; {
		n := uint64(binary.BigEndian.Uint32(rest))
		if n > uint64(len(rest)-frameSize) {
			break
		}
		binary.BigEndian.PutUint32(rest[5:], checksum(rest[:5], rest[frameSize:frameSize+n]))
		rest = rest[frameSize+n:]
	}
	return data
}

func FuzzReader(f *testing.F) {
	data, _, _, _ := sample(f, 2)
	f.Add(data)
	f.Add(data[:len(data)-20])
	f.Add(append(bytes.Clone(data[:12]), frame(typeHead, make([]byte, 60))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := readAll(data); err == nil && !bytes.Equal(repair(data), data) {
			t.Fatal("a checksum that does not hold was accepted")
		}
		r, list, err := readAll(repair(data))
		if err != nil {
			return
		}
		again, totals := write(t, r.Head(), list)
		if totals != r.Totals() {
			t.Fatalf("read %v, wrote %v", r.Totals(), totals)
		}
		if _, back, err := readAll(again); err != nil || !reflect.DeepEqual(back, list) {
			t.Fatalf("does not survive: %v", err)
		}
	})
}
