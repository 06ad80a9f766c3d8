package store

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

func TestGroupHoldsTheLastValueOfEachKeyAndFitsATransaction(t *testing.T) {
	s := openStore(t, t.TempDir(), newChain(t).genesis)
	for name, make := range map[string]func(i int) (w write){
		"one key": func(i int) (w write) {
			w.set([]byte("x key"), u64(uint64(i)))
			return w
		},
		"small values": func(i int) (w write) {
			for j := range 40 {
				w.set(fmt.Appendf(nil, "x%d %d", i, j), []byte{1})
			}
			return w
		},
		"just below the value log": func(i int) (w write) {
			w.set(fmt.Appendf(nil, "x%d", i), bytes.Repeat([]byte{1}, valueThreshold-1))
			return w
		},
		"large": func(i int) (w write) {
			w.set(fmt.Appendf(nil, "x%d", i), bytes.Repeat([]byte{1}, 200<<10))
			return w
		},
		"larger than a group": func(i int) (w write) {
			for j := range 3 {
				w.set(fmt.Appendf(nil, "x%d %d", i, j), bytes.Repeat([]byte{1}, maxGroupBytes/2))
			}
			return w
		},
		"deleted": func(i int) (w write) {
			w.set([]byte("x deleted"), u64(1))
			w.set([]byte("x deleted"), nil)
			return w
		},
	} {
		var pending []write
		last := map[string][]byte{}
		for i := range 3 * maxGroup / 2 {
			if i == 10 && name == "larger than a group" {
				break
			}
			w := make(i)
			pending = append(pending, w)
			for _, e := range w.entries {
				last[string(e.Key)] = e.Value
			}
		}
		groups := 0
		for len(pending) > 0 {
			g := newGroup(pending)
			if g.writes < 1 || g.writes > maxGroup || g.writes > 1 && g.bytes > maxGroupBytes {
				t.Fatalf("%s: a group of %d writes, %d bytes", name, g.writes, g.bytes)
			}
			pending = pending[g.writes:]
			must(t, s.db.Update(g.set))
			groups++
		}
		must(t, s.db.View(func(txn *badger.Txn) error {
			for k, want := range last {
				got, err := value(txn, []byte(k))
				if want == nil && err == badger.ErrKeyNotFound { //nolint:errorlint // it is this one
					continue
				}
				if err != nil || !bytes.Equal(got, want) {
					return fmt.Errorf("%s: %s: %w", name, k, err)
				}
			}
			return nil
		}))
		if groups > 2 && (name == "one key" || name == "deleted") {
			t.Errorf("%s: %d groups", name, groups)
		}
	}
}

// Texts that expired must not fill the disk.
func TestSpaceOfExpiredTextsIsGivenBack(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	files := func() int {
		found, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
		must(t, err)
		return len(found)
	}
	kept := bytes.Repeat([]byte("kept "), 1000)
	must(t, s.PutBlob(kept))
	for i := range 400 { // 80 MB: two files of the value log
		data := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 100<<10)
		must(t, s.change(func(w *write) error {
			e := badger.NewEntry(blobKey(crypto.Sum(data)), data)
			e.ExpiresAt = 1 // long ago
			w.entry(e)
			return nil
		}))
	}
	for i := range 6 { // so many tables in the tree's first level that they are merged
		must(t, s.PutBlob([]byte{byte(i)}), s.Close())
		s = openStore(t, dir, c.genesis)
	}
	before := files()
	must(t, s.db.Flatten(1))
	s.reclaim()
	if after := files(); before < 2 || after >= before {
		t.Errorf("%d files before, %d after", before, after)
	}
	if got, err := s.Blob(crypto.Sum(kept)); err != nil || !bytes.Equal(got, kept) {
		t.Errorf("a text that is to be kept: %v", err)
	}
	if _, err := s.Verify(); err != nil {
		t.Error(err)
	}
}

// What was acknowledged must be there after a crash, in the value log too.
func TestCrashTakesNothingThatWasFlushed(t *testing.T) {
	c, dir := newChain(t), t.TempDir()
	s := openStore(t, dir, c.genesis)
	want := ledger.NewSums(c.domain)
	for range 3 {
		for range 30 {
			_, r := c.next()
			must(t, s.Settle(r))
			want.Add(r.Task(), r.Settle.Vote.Value)
		}
		must(t, s.Flush())
		s = openStore(t, crash(t, dir), c.genesis)
		dir = s.dir
		if v, err := s.Verify(); err != nil || v.Digest != want.Digest() {
			t.Fatalf("after a crash: %+v, %v", v, err)
		}
	}
}
