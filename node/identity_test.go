package node

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

func same(a, b Identity) bool {
	return a.Peer.Equals(b.Peer) && a.Account.Public() == b.Account.Public() && a.Consensus.Public() == b.Consensus.Public()
}

func TestSavedKeysAreReadBackAndForTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	id := testIdentity(t, "x")
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(dir)
	if err != nil || !same(got, id) {
		t.Fatalf("read back %v, %v", got, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || checkMode && info.Mode() != 0o600 {
			t.Errorf("%s has mode %v (%v)", f.Name(), info.Mode(), err)
		}
	}
	if err := testIdentity(t, "y").Save(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("keys were replaced: %v", err)
	}
	if got, err := LoadIdentity(dir); err != nil || !same(got, id) {
		t.Errorf("after that: %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 3 {
		t.Errorf("a failed save leaves %d files", len(files))
	}
}

func TestKeysThatOthersMayReadAreRefused(t *testing.T) {
	if !checkMode {
		t.Skip("no file modes here")
	}
	for _, name := range []string{peerFile, accountFile, consensusFile} {
		dir := t.TempDir()
		if err := testIdentity(t, "x").Save(dir); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := loadOrCreateIdentity(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSourceOfKeysDecidesThem(t *testing.T) {
	a, b, c := testIdentity(t, "x"), testIdentity(t, "x"), testIdentity(t, "y")
	if !same(a, b) || same(a, c) {
		t.Error("keys don't depend on their source alone")
	}
	var r [2]Identity
	for i := range r {
		var err error
		if r[i], err = NewIdentity(nil); err != nil {
			t.Fatal(err)
		}
	}
	if same(r[0], r[1]) || r[0].Account.Public() == r[0].Consensus.Public() {
		t.Error("random keys are the same")
	}
	if _, err := NewIdentity(strings.NewReader("too short")); err == nil {
		t.Error("made keys out of nothing")
	}
}

func TestKeysOfAKilledStartAreCompleted(t *testing.T) {
	for _, missing := range []string{peerFile, accountFile, consensusFile} {
		dir := t.TempDir()
		id := testIdentity(t, "x")
		if err := id.Save(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, missing)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("loaded without %s: %v", missing, err)
		}
		got, err := loadOrCreateIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		if kept := map[string]bool{peerFile: got.Peer.Equals(id.Peer), accountFile: got.Account.Public() == id.Account.Public(), consensusFile: got.Consensus.Public() == id.Consensus.Public()}; kept[missing] || len(kept) != 3 {
			t.Errorf("without %s: %v were kept", missing, kept)
		} else {
			for name, ok := range kept {
				if name != missing && !ok {
					t.Errorf("without %s, %s was replaced", missing, name)
				}
			}
		}
		again, err := loadOrCreateIdentity(dir)
		if err != nil || !same(again, got) {
			t.Errorf("the next start has other keys (%v)", err)
		}
	}
}

func TestNodeMakesItsKeysOnce(t *testing.T) {
	s := newSwarm(t, 1)
	dir := t.TempDir()
	var account [2]string
	for i := range account {
		n, err := New(soon(t), WithDataDir(dir), WithGenesis(s.genesis))
		if err != nil {
			t.Fatal(err)
		}
		account[i] = n.Account().String() + n.Host().ID().String()
		if n.Validator() != -1 {
			t.Errorf("it is validator %d", n.Validator())
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if account[0] != account[1] {
		t.Error("it has other keys after a restart")
	}
}

func FuzzLoadKey(f *testing.F) {
	k, err := crypto.GenerateKey(rand.NewChaCha8([32]byte{}))
	if err != nil {
		f.Fatal(err)
	}
	pem, err := k.MarshalPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem)
	f.Add(pem[:len(pem)-2])
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), "a.key")
	f.Fuzz(func(t *testing.T, data []byte) {
		mustWrite(t, path, data, 0o600)
		got, err := loadKey(path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		again, err := got.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		if k, err := crypto.ParsePEM(again); err != nil || k.Public() != got.Public() {
			t.Errorf("%q is read as a key that can't be written back (%v)", data, err)
		}
	})
}
