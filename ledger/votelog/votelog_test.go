package votelog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// recorder keeps what a log replays, in order.
type recorder struct{ seen []string }

func (r *recorder) replayer() Replayer {
	return Replayer{
		Message: func(m ledger.Message) { r.seen = append(r.seen, fmt.Sprintf("%T", m)) },
		Bundle:  func(u *ledger.Bundle) { r.seen = append(r.seen, fmt.Sprint("bundle ", u.Header.Statement.Seq)) },
		Opening: func(c ledger.ScoreCommit, o ledger.Opening) {
			r.seen = append(r.seen, fmt.Sprint("opening ", c.Member, o.Scores))
		},
	}
}

func disk(path string) Disk {
	d, err := Dir(path)
	if err != nil {
		panic(err)
	}
	return d
}

func bundle(seq uint64) *ledger.Bundle {
	u := ledger.NewBundle(1, seq, crypto.Hash{}, []ledger.Leaf{{Kind: ledger.FastCommit, Stage: ledger.StageSettle}})
	return &u
}

// fill writes a log of bundles and returns the file's bytes after each.
func fill(t *testing.T, path string, bundles int) (sizes []int64) {
	t.Helper()
	l, err := Open(disk(filepath.Dir(path)), (&recorder{}).replayer())
	if err != nil {
		t.Fatal(err)
	}
	for i := range bundles {
		l.Bundle(bundle(uint64(i)))
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, info.Size())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return sizes
}

func TestLogReplaysWhatWasSyncedInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.log")
	l, err := Open(disk(filepath.Dir(path)), (&recorder{}).replayer())
	if err != nil {
		t.Fatal(err)
	}
	l.Message(&ledger.OrderMessage{})
	l.Bundle(bundle(0))
	l.Opening(ledger.ScoreCommit{Member: 3, Answers: make([]ledger.AnswerID, 2)}, ledger.Opening{Scores: []ledger.Score{1, 2}})
	l.Message(&ledger.SealCert{})
	l.Bundle(bundle(1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var r recorder
	l, err = Open(disk(filepath.Dir(path)), r.replayer())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := []string{"*ledger.OrderMessage", "bundle 0", "opening 3 [1 2]", "*ledger.SealCert", "bundle 1"}
	if !reflect.DeepEqual(r.seen, want) {
		t.Errorf("got %v, want %v", r.seen, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestTornTailIsCutAndTheLogGoesOn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "votes.log")
	sizes := fill(t, path, 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := sizes[1] + 1; cut < sizes[2]; cut += 13 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		var r recorder
		l, err := Open(disk(filepath.Dir(path)), r.replayer())
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		l.Bundle(bundle(7))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if len(r.seen) != 2 {
			t.Fatalf("cut at %d: replayed %v", cut, r.seen)
		}
		r = recorder{}
		l, err = Open(disk(filepath.Dir(path)), r.replayer())
		if err != nil || len(r.seen) != 3 || r.seen[2] != "bundle 7" {
			t.Fatalf("cut at %d: after going on %v, %v", cut, r.seen, err)
		}
		l.Close()
	}
}

func TestDamageBeforeTheEndStopsTheValidator(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes.log")
	sizes := fill(t, path, 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := sizes[0]; i < sizes[1]; i += 3 { // the second of three records
		broken := bytes.Clone(whole)
		broken[i] ^= 0x10
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := Open(disk(filepath.Dir(path)), (&recorder{}).replayer()); !errors.Is(err, ErrCorrupt) {
			if err == nil {
				l.Close()
			}
			t.Fatalf("byte %d: %v", i, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, broken) {
			t.Fatal("a damaged log was changed")
		}
	}
}

func TestLogThatFailedRefusesEverything(t *testing.T) {
	l, err := Open(disk(t.TempDir()), (&recorder{}).replayer())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.file.Close(); err != nil {
		t.Fatal(err)
	}
	l.Bundle(bundle(0))
	if err := l.Sync(); err == nil {
		t.Fatal("synced into a closed file")
	}
	l.Bundle(bundle(1))
	if err := l.Sync(); err == nil {
		t.Error("went on after a failure")
	}
}

func FuzzOpen(f *testing.F) {
	var l Log
	l.Bundle(bundle(0))
	l.Opening(ledger.ScoreCommit{}, ledger.Opening{})
	l.Message(&ledger.OrderMessage{})
	f.Add(l.buf)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "votes.log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var first, second recorder
		l, err := Open(disk(filepath.Dir(path)), first.replayer())
		if err != nil {
			return
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l, err = Open(disk(filepath.Dir(path)), second.replayer())
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("first %v, then %v, %v", first, second, err)
		}
		l.Close()
	})
}

func BenchmarkSync(b *testing.B) {
	l, err := Open(disk(b.TempDir()), (&recorder{}).replayer())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		l.Bundle(bundle(0))
		if err := l.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}
