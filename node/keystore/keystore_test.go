package keystore

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/poqmesh/poq/crypto"
)

// lowWork makes tests quick where the strength of a passphrase is not what they are about.
const lowWork = 4

func testIdentity(t testing.TB, name string) Identity {
	t.Helper()
	id, err := New(rand.NewChaCha8([32]byte(crypto.Sum([]byte(name)))), true)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testKey(t testing.TB, name string) crypto.PrivateKey {
	t.Helper()
	return testIdentity(t, name).Account
}

func same(a, b Identity) bool {
	return a.Peer.Equals(b.Peer) && a.Account.Public() == b.Account.Public() && a.Consensus.IsZero() == b.Consensus.IsZero() &&
		(a.Consensus.IsZero() || a.Consensus.Public() == b.Consensus.Public())
}

func says(passphrase string) Passphrase {
	return func() ([]byte, error) { return []byte(passphrase), nil }
}

// saved returns a directory with keys.
func saved(t testing.TB, id Identity) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "peer")
	if err := id.Save(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sealed returns a directory with keys that have a passphrase.
func sealed(t testing.TB, id Identity, passphrase string) string {
	t.Helper()
	dir := saved(t, id)
	for _, kind := range Kinds() {
		k, err := Read(dir, kind, nil)
		if err != nil {
			t.Fatal(err)
		}
		data, err := marshal(k, []byte(passphrase), lowWork)
		if err == nil {
			err = os.WriteFile(kind.Path(dir), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

func TestSavedKeysAreReadBackAndForTheirOwnerAlone(t *testing.T) {
	id := testIdentity(t, "x")
	dir := saved(t, id)
	got, err := Open(dir, nil)
	if err != nil || !same(got, id) {
		t.Fatalf("read back %v, %v", got, err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"account.key", "consensus.key", "peer.key"}) {
		t.Errorf("files: %v", got)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700 | fs.ModeDir, Peer.Path(dir): 0o600, Account.Path(dir): 0o600, Consensus.Path(dir): 0o600} {
		info, err := os.Stat(path)
		if err != nil || checkMode && info.Mode() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, info.Mode(), want, err)
		}
	}
	for range 2 {
		if err := testIdentity(t, "y").Save(dir); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("keys were replaced: %v", err)
		}
	}
	if got, err := Open(dir, nil); err != nil || !same(got, id) {
		t.Errorf("after that: %v", err)
	}
	if n := len(files(t, dir)); n != 3 {
		t.Errorf("a failed save leaves %d files", n)
	}
}

func TestLooseModesAreRefusedWithTheirMend(t *testing.T) {
	if !checkMode {
		t.Skip("no file modes here")
	}
	for _, kind := range Kinds() {
		dir := saved(t, testIdentity(t, "x"))
		path := kind.Path(dir)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, nil); !errors.Is(err, ErrLoose) || !strings.HasSuffix(err.Error(), "has mode 640: run chmod 600 "+path) {
			t.Errorf("%s: %v", kind, err)
		}
		if problems := Check(dir); len(problems) != 1 || problems[0].Path != path || problems[0].Mend != "chmod 600 "+path {
			t.Errorf("%s: %+v", kind, problems)
		}
	}
	dir := saved(t, testIdentity(t, "x"))
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	_, open := Open(dir, nil)
	_, create := Create(dir, true, nil)
	_, list := List(dir)
	for name, err := range map[string]error{"open": open, "create": create, "list": list, "add": Add(dir, Peer, testKey(t, "y"), nil)} {
		if !errors.Is(err, ErrLoose) || !strings.HasSuffix(err.Error(), "run chmod 700 "+dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if problems := Check(dir); len(problems) != 1 || problems[0].Mend != "chmod 700 "+dir {
		t.Errorf("%+v", problems)
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
		if r[i], err = New(nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if same(r[0], r[1]) || r[0].Account.Public() == r[0].Consensus.Public() {
		t.Error("random keys are the same")
	}
	if _, err := New(strings.NewReader("too short"), false); err == nil {
		t.Error("made keys out of nothing")
	}
}

func TestOnlyAValidatorHasAConsensusKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	if made, err := Create(dir, false, nil); err != nil || !slices.Equal(made, []Kind{Peer, Account}) {
		t.Fatalf("made %v, %v", made, err)
	}
	worker, err := Open(dir, nil)
	if err != nil || !worker.Consensus.IsZero() {
		t.Fatalf("a worker's keys: %v", err)
	}
	if made, err := Create(dir, true, nil); err != nil || !slices.Equal(made, []Kind{Consensus}) {
		t.Fatalf("made %v, %v", made, err)
	}
	validator, err := Open(dir, nil)
	if err != nil || validator.Consensus.IsZero() || validator.Account.Public() != worker.Account.Public() || !validator.Peer.Equals(worker.Peer) {
		t.Errorf("a worker that became a validator has other keys (%v)", err)
	}
}

func TestCreationThatWasKilledIsCompletedAndNoKeyIsLost(t *testing.T) {
	for _, missing := range Kinds() {
		id := testIdentity(t, "x")
		dir := saved(t, id)
		if err := os.Remove(missing.Path(dir)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, nil); missing != Consensus && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("opened without %s: %v", missing, err)
		}
		if made, err := Create(dir, true, nil); err != nil || !slices.Equal(made, []Kind{missing}) {
			t.Fatalf("without %s: made %v, %v", missing, made, err)
		}
		got, err := Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		for kind, kept := range map[Kind]bool{Peer: got.Peer.Equals(id.Peer), Account: got.Account.Public() == id.Account.Public(), Consensus: got.Consensus.Public() == id.Consensus.Public()} {
			if kept == (kind == missing) {
				t.Errorf("without %s, %s kept: %v", missing, kind, kept)
			}
		}
		if made, err := Create(dir, true, nil); err != nil || len(made) > 0 {
			t.Errorf("made %v again, %v", made, err)
		}
	}
}

func TestPeerWithALedgerGetsNoOtherIdentityUnasked(t *testing.T) {
	for _, missing := range Kinds() {
		dir := saved(t, testIdentity(t, "x"))
		if err := errors.Join(os.Remove(missing.Path(dir)), os.Mkdir(filepath.Join(dir, "ledger"), 0o700)); err != nil {
			t.Fatal(err)
		}
		made, err := Create(dir, true, nil)
		if missing == Consensus { // a peer may become a validator later
			if err != nil || len(made) != 1 {
				t.Errorf("made %v, %v", made, err)
			}
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) || len(made) > 0 || !strings.Contains(err.Error(), missing.Path(dir)) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("made %v, %v", made, err)
		}
		if err := Add(dir, missing, testKey(t, "y"), nil); err != nil { // who says so gets one
			t.Error(err)
		}
	}
}

func TestEncryptedKeysOpenWithTheirPassphraseAlone(t *testing.T) {
	id := testIdentity(t, "x")
	dir := sealed(t, id, "correct horse")
	asked := 0
	got, err := Open(dir, func() ([]byte, error) { asked++; return []byte("correct horse"), nil })
	if err != nil || !same(got, id) || asked != 1 {
		t.Fatalf("opened after %d questions: %v", asked, err)
	}
	if _, err := Open(dir, nil); !errors.Is(err, ErrEncrypted) {
		t.Errorf("without a passphrase: %v", err)
	}
	if _, err := Open(dir, says("correct horsf")); !errors.Is(err, ErrPassphrase) || !strings.Contains(err.Error(), Peer.Path(dir)) {
		t.Errorf("with another one: %v", err)
	}
	failed := errors.New("no terminal")
	if _, err := Open(dir, func() ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("with none to be had: %v", err)
	}
	entries, err := List(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("listed %v, %v", entries, err)
	}
	peerID, err := id.PeerID()
	if err != nil {
		t.Fatal(err)
	}
	if e := entries[0]; e.Kind != Peer || !e.Encrypted || e.PeerID != peerID {
		t.Errorf("listed %+v", e)
	}
	if e := entries[1]; e.Kind != Account || e.Public != id.Account.Public() || e.PeerID != "" {
		t.Errorf("listed %+v", e)
	}
	for _, kind := range Kinds() {
		data, err := os.ReadFile(kind.Path(dir))
		if err != nil || bytes.Contains(data, []byte("BEGIN PRIVATE KEY")) {
			t.Errorf("%s is not encrypted (%v)", kind, err)
		}
	}
	if problems := Check(dir); len(problems) > 0 {
		t.Errorf("%+v", problems)
	}
}

func TestCreatedKeysAreEncryptedWithAPassphraseThatIsAskedForOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	asked := 0
	ask := func() ([]byte, error) { asked++; return []byte("p"), nil }
	for range 2 { // the second time there is nothing to make
		if _, err := Create(dir, false, ask); err != nil || asked != 1 {
			t.Fatalf("created after %d questions: %v", asked, err)
		}
	}
	if e, err := List(dir); err != nil || len(e) != 2 || !e[0].Encrypted || !e[1].Encrypted {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := Read(dir, Account, says("p")); err != nil {
		t.Error(err)
	}
	failed := errors.New("no terminal")
	if _, err := Create(dir, true, func() ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("without a passphrase: %v", err)
	}
}

func TestKeysOfADirectoryHaveOnePassphrase(t *testing.T) {
	key := testKey(t, "x")
	plain, closed := saved(t, testIdentity(t, "x")), sealed(t, testIdentity(t, "x"), "a")
	for _, dir := range []string{plain, closed} {
		if err := os.Remove(Consensus.Path(dir)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		dir        string
		passphrase []byte
		want       string
	}{
		"one for plain keys":       {plain, []byte("a"), "not encrypted"},
		"none for encrypted ones":  {closed, nil, "are encrypted"},
		"another for encrypted":    {closed, []byte("b"), "wrong passphrase"},
		"an empty one for a fresh": {filepath.Join(t.TempDir(), "fresh"), []byte{}, "passphrase"},
	} {
		if err := Add(c.dir, Consensus, key, c.passphrase); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(Consensus.Path(c.dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a key (%v)", name, err)
		}
	}
	if err := Add(closed, Consensus, key, []byte("a")); err != nil {
		t.Error(err)
	}
}

func TestKeyInAnotherEnvelopeIsRefused(t *testing.T) {
	a, err := marshal(testKey(t, "a"), []byte("p"), lowWork)
	if err != nil {
		t.Fatal(err)
	}
	b, err := marshal(testKey(t, "b"), []byte("p"), lowWork)
	if err != nil {
		t.Fatal(err)
	}
	inner, _ := pem.Decode(b)
	forged, _ := pem.Decode(a)
	forged.Bytes = inner.Bytes
	if k, err := Parse(pem.EncodeToMemory(forged), says("p")); err == nil || !k.IsZero() || !strings.Contains(err.Error(), "public key") {
		t.Errorf("b's key passes for a's: %v", err)
	}
	damaged, _ := pem.Decode(a)
	damaged.Bytes[len(damaged.Bytes)-1] ^= 1
	if _, err := Parse(pem.EncodeToMemory(damaged), says("p")); err == nil || errors.Is(err, ErrPassphrase) {
		t.Errorf("a damaged file: %v", err)
	}
}

// Who has the passphrase needs no poq: the documentation promises a file of age.
func TestEncryptedKeyIsAFileOfAgeAroundPKCS8(t *testing.T) {
	key := testKey(t, "x")
	data, err := marshal(key, []byte("p"), lowWork)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(data)
	if block == nil || len(rest) > 0 || len(data) > 800 {
		t.Fatalf("%d bytes: %q", len(data), data)
	}
	identity, err := age.NewScryptIdentity("p")
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(block.Bytes), identity)
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if k, err := crypto.ParsePEM(plain.Bytes()); err != nil || k.Public() != key.Public() {
		t.Errorf("%q: %v", plain.Bytes(), err)
	}
}

func TestFilesThatAreNoKeysAreRefusedByName(t *testing.T) {
	key, err := marshal(testKey(t, "x"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"empty":  "",
		"cut":    string(key[:len(key)-10]),
		"text":   "hello",
		"long":   string(key) + strings.Repeat("\n", MaxFile),
		"no key": string(pem.EncodeToMemory(&pem.Block{Type: sealedType, Bytes: []byte("x")})),
	} {
		dir := saved(t, testIdentity(t, "x"))
		path := Account.Path(dir)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if problems := Check(dir); len(problems) != 1 || problems[0].Path != path || problems[0].Mend == "" {
			t.Errorf("%s: %+v", name, problems)
		}
	}
	dir := saved(t, testIdentity(t, "x"))
	path := Consensus.Path(dir)
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), path+" is no regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer's")
	if problems := Check(dir); len(problems) != 1 || !strings.Contains(problems[0].Mend, "poq init") {
		t.Errorf("no directory: %+v", problems)
	}
	if err := testIdentity(t, "x").Save(dir); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "peer.key.123")
	if err := errors.Join(os.Remove(Peer.Path(dir)), os.WriteFile(left, []byte("-----BEGIN PRIV"), 0o600)); err != nil {
		t.Fatal(err)
	}
	// Copies that somebody made are never called rubbish.
	for _, name := range []string{"account.key.1", "account.key.bak", "consensus.key.away"} {
		if err := os.Link(Account.Path(dir), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	problems := Check(dir)
	if len(problems) != 2 || problems[0].Path != Peer.Path(dir) || problems[1].Path != left {
		t.Fatalf("%+v", problems)
	}
	quoted := strings.ReplaceAll(left, "'", `'\''`)
	if want := "rm '" + quoted + "'"; problems[1].Mend != want {
		t.Errorf("mend: %s, want %s", problems[1].Mend, want)
	}
}

func TestPeerIDAndPublicKeyAreOneAnother(t *testing.T) {
	for i := range 20 {
		key := testKey(t, fmt.Sprint(i)).Public()
		id, err := PeerID(key)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := PublicKey(id); err != nil || back != key {
			t.Errorf("%s is of %s, %v", id, back, err)
		}
	}
	if k, err := PublicKey("nonsense"); err == nil {
		t.Errorf("nonsense is of %s", k)
	}
}

func FuzzParse(f *testing.F) {
	key := testKey(f, "x")
	for _, passphrase := range [][]byte{nil, []byte("p")} {
		data, err := marshal(key, passphrase, lowWork)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)-2])
	}
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN POQ ENCRYPTED PRIVATE KEY-----\n-----END POQ ENCRYPTED PRIVATE KEY-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		// A work factor that the fuzzer raised would take minutes.
		if block, _ := pem.Decode(data); block != nil && block.Type == sealedType && !bytes.Contains(block.Bytes, []byte(fmt.Sprintf(" %d\n", lowWork))) {
			t.Skip()
		}
		got, err := Parse(data, says("p"))
		public, encrypted, inspected := Inspect(data)
		if err != nil {
			return
		}
		if inspected != nil || public != got.Public() {
			t.Errorf("inspected %s, %v; it is %s", public, inspected, got.Public())
		}
		var passphrase []byte
		if encrypted {
			passphrase = []byte("p")
		}
		again, err := marshal(got, passphrase, lowWork)
		if err != nil {
			t.Fatal(err)
		}
		if k, err := Parse(again, says("p")); err != nil || k.Public() != got.Public() {
			t.Errorf("%q is read as a key that can't be written back (%v)", data, err)
		}
	})
}
