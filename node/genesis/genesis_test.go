package genesis

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/keystore"
)

var update = flag.Bool("update", false, "write the golden files anew")

// validator makes a validator from a name.
func validator(t testing.TB, name string) ledger.Validator {
	t.Helper()
	id, err := keystore.New(rand.NewChaCha8([32]byte(crypto.Sum([]byte(name)))), true)
	if err != nil {
		t.Fatal(err)
	}
	v, err := id.Validator(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func sample(t testing.TB) *ledger.Genesis {
	t.Helper()
	v := validator(t, "berlin")
	return &ledger.Genesis{
		Network: "home", Epoch: 1, Judge: crypto.Sum([]byte("judge")), MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()},
		Validators: []ledger.Validator{v}, Accounts: []ledger.GenesisAccount{{ID: v.Account, Name: "berlin", Balance: ledger.Credit}},
	}
}

// The file is read by people and by other programs.
func TestFileStaysAsItIs(t *testing.T) {
	path := filepath.Join("testdata", "genesis.json")
	dir := filepath.Join(t.TempDir(), "peer")
	if err := Put(dir, sample(t)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(got) != string(want) {
		t.Errorf("the file changed; if that is meant, run the test with -update\n%s(%v)", got, err)
	}
	if g, err := Read(path); err != nil || g.Chain() != sample(t).Chain() {
		t.Errorf("read back: %v", err)
	}
}

func TestPeerIDThatIsNoneIsFoundWhenTheFileIsRead(t *testing.T) {
	g := sample(t)
	g.Validators[0].Peer = "12D3KooW"
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "genesis.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	for _, err := range []error{err, Put(t.TempDir(), g)} {
		if got != nil || err == nil || !strings.Contains(err.Error(), `validator 1 "berlin": peer id 12D3KooW`) {
			t.Errorf("got %v", err)
		}
	}
}

func TestDirectoryKeepsItsGenesis(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	g := sample(t)
	for range 2 {
		if err := Put(dir, g); err != nil {
			t.Fatal(err)
		}
	}
	other := sample(t)
	other.MinFee = 2000
	err := Put(dir, other)
	if !errors.Is(err, ErrOther) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{g.Chain().Short(), other.Chain().Short(), "the minimum fee: 0.002000 credits, not 0.001000 credits", Path(dir)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q says nothing of %q", err, want)
		}
	}
	if got, err := Read(Path(dir)); err != nil || got.Chain() != g.Chain() {
		t.Errorf("after that: %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("files left: %v, %v", list, err)
	}
}

func TestGenesisOfALedgerIsNotChanged(t *testing.T) {
	for _, name := range []string{"ledger", "votes", "validator-1/ledger"} {
		dir := filepath.Join(t.TempDir(), "peer")
		g, other := sample(t), sample(t)
		other.MinFee++
		if err := errors.Join(Change(dir, other), Change(dir, g), os.MkdirAll(filepath.Join(dir, name), 0o700)); err != nil {
			t.Fatal(err)
		}
		if err := Change(dir, other); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := Read(Path(dir)); err != nil || got.Chain() != g.Chain() {
			t.Errorf("%s: it was changed (%v)", name, err)
		}
	}
}

func TestDraftIsReadAndSaidToBeOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "peer")
	g := sample(t)
	g.Validators = []ledger.Validator{}
	if err := Change(dir, g); err != nil {
		t.Fatal(err)
	}
	got, err := Read(Path(dir))
	if !errors.Is(err, ledger.ErrNoValidators) || got == nil || got.Network != "home" {
		t.Errorf("%v, %v", got, err)
	}
	if err := Put(dir, sample(t)); !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), `"berlin", not none`) {
		t.Errorf("a draft was replaced: %v", err)
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestLineOfAValidatorStaysAsItIs(t *testing.T) {
	path := filepath.Join("testdata", "lines.json")
	got := map[string]ledger.Validator{}
	for _, name := range []string{"berlin", "node-2.example_org"} {
		v := validator(t, name)
		line, err := Line(v)
		if err != nil {
			t.Fatal(err)
		}
		got[line] = v
		if len(strings.Fields(line)) != 1 || strings.ContainsAny(line, "'\"\\$`!*?()[]{}<>|&;~# ") {
			t.Errorf("a shell would change %s", line)
		}
		for _, text := range []string{line, "  " + line + "\r\n", line[:70] + "\n" + line[70:]} {
			if back, err := ParseLine(text); err != nil || back != v {
				t.Errorf("%q: read back %+v, %v", text, back, err)
			}
		}
	}
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, append(data, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != string(data)+"\n" {
		t.Errorf("the lines changed; if that is meant, run the test with -update\n%s(%v)", data, err)
	}
}

func TestLineThatIsNotWholeIsRefused(t *testing.T) {
	line, err := Line(validator(t, "berlin"))
	if err != nil {
		t.Fatal(err)
	}
	body := line[:strings.LastIndexByte(line, ':')]
	resum := func(s string) string { return s + ":" + sum(s) }
	for name, c := range map[string]struct {
		line string
		want error
	}{
		"empty":        {"", ErrNoLine},
		"a join token": {"poq1AAAA", ErrNoLine},
		"a file name":  {"validator.txt", ErrNoLine},
		"newer":        {strings.Replace(line, "-1:", "-2:", 1), ErrNewer},
		"newer still":  {"poq-validator-12:anything", ErrNewer},
		"no sum":       {body, ErrDamaged},
		"two":          {line + line, ErrDamaged},
		"upper case":   {resum(strings.Replace(body, body[25:90], strings.ToUpper(body[25:90]), 1)), ErrDamaged},
	} {
		if _, err := ParseLine(c.line); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for cut := range len(line) {
		if _, err := ParseLine(line[:cut]); err == nil {
			t.Errorf("taken when cut to %s", line[:cut])
		}
		changed := []byte(line)
		changed[cut] ^= 1
		if v, err := ParseLine(string(changed)); err == nil {
			t.Errorf("taken when changed to %s: %+v", changed, v)
		}
	}
	if _, err := ParseLine(resum(strings.Replace(body, "12D3KooW", "13D3KooW", 1))); err == nil || !strings.Contains(err.Error(), "peer id 13D3") {
		t.Errorf("a peer id that is none: %v", err)
	}
	for _, name := range []string{"", "a b", "a:b", "é", strings.Repeat("x", 65)} {
		v := validator(t, "berlin")
		v.Name = name
		if line, err := Line(v); err == nil {
			t.Errorf("a line for the name %q: %s", name, line)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	for _, name := range []string{"berlin", "paris"} {
		line, err := Line(validator(f, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
		f.Add(line[:100])
	}
	f.Add("poq-validator-2:")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseLine(s)
		if err != nil {
			return
		}
		again, err := Line(v)
		if err != nil || again != strings.Join(strings.Fields(s), "") {
			t.Errorf("%q is read as %+v, whose line is %q (%v)", s, v, again, err)
		}
		if !strings.HasPrefix(v.Peer, "12D3KooW") {
			t.Errorf("peer id %s of no ed25519 key", v.Peer)
		}
	})
}
