package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/keystore"
)

// peerDir returns a place for a peer's directory, which is not there yet.
func peerDir(t *testing.T) string { return filepath.Join(t.TempDir(), "peer") }

// line returns what poq says in one line.
func (u *user) line(args ...string) string {
	u.t.Helper()
	out := u.poq(args...).ok().stdout
	if strings.Count(out, "\n") != 1 {
		u.t.Errorf("poq %q printed %q, want one line", args, out)
	}
	return strings.TrimSpace(out)
}

func mustWriteFile(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// peerCard is what poq init --json prints.
type peerCard struct {
	Dir           string          `json:"dir"`
	Made          []keystore.Kind `json:"made"`
	Encrypted     bool            `json:"encrypted"`
	PeerID        string          `json:"peer_id"`
	Account       string          `json:"account"`
	Consensus     string          `json:"consensus"`
	ValidatorLine string          `json:"validator_line"`
}

func TestInitMakesKeysOnceAndForTheirOwnerAlone(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	worker := decode[peerCard](u.poq("init", "--json", "--dir", dir))
	if !slices.Equal(worker.Made, []keystore.Kind{keystore.Peer, keystore.Account}) || worker.Consensus != "" || worker.ValidatorLine != "" || worker.Encrypted {
		t.Errorf("a worker's card: %+v", worker)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "peer.key"): 0o600, filepath.Join(dir, "account.key"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %o (%v)", path, info.Mode(), want, err)
		}
	}
	again := u.poq("init", "--dir", dir).ok()
	if !strings.Contains(again.stderr, "nothing was made") || !strings.Contains(again.stdout, worker.Account) {
		t.Errorf("a second init says %q and %q", again.stderr, again.stdout)
	}
	validator := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--roles", "worker,validator", "--name", "berlin"))
	if !slices.Equal(validator.Made, []keystore.Kind{keystore.Consensus}) || validator.PeerID != worker.PeerID || validator.Account != worker.Account {
		t.Errorf("a worker that became a validator: %+v", validator)
	}
	v, err := genesis.ParseLine(validator.ValidatorLine)
	if err != nil || v.Name != "berlin" || v.Peer != worker.PeerID || v.Account.String() != worker.Account || v.Consensus.String() != validator.Consensus {
		t.Errorf("its line: %+v, %v", v, err)
	}
	for key, want := range map[string]string{"peer": worker.PeerID, "account": worker.Account, "consensus": validator.Consensus} {
		if got := u.line("keys", "show", key, "--dir", dir); got != want {
			t.Errorf("keys show %s: %s, want %s", key, got, want)
		}
	}
	if got := u.line("keys", "show", "validator", "--name", "berlin", "--dir", dir); got != validator.ValidatorLine {
		t.Errorf("keys show validator: %s", got)
	}
	list := decode[[]keystore.Entry](u.poq("keys", "list", "--json", "--dir", dir))
	if len(list) != 3 || list[0].PeerID.String() != worker.PeerID || list[1].Public.String() != worker.Account {
		t.Errorf("keys list: %+v", list)
	}
	shown := u.poq("keys", "list", "--dir", dir).ok().stdout
	for _, want := range []string{worker.PeerID, worker.Account, validator.Consensus, filepath.Join(dir, "consensus.key")} {
		if !strings.Contains(shown, want) {
			t.Errorf("keys list does not show %s:\n%s", want, shown)
		}
	}
	for _, r := range []*result{again, u.poq("keys", "list", "--dir", dir)} {
		if strings.Contains(r.stdout+r.stderr, "PRIVATE") {
			t.Error("a secret was shown")
		}
	}
}

func TestDirectoryOfTheEnvironmentIsUsed(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	u.env = append(u.env, "POQ_DIR="+dir)
	if card := decode[peerCard](u.poq("init", "--json")); card.Dir != dir {
		t.Errorf("made in %s, want %s", card.Dir, dir)
	}
	other := peerDir(t)
	if card := decode[peerCard](u.poq("init", "--json", "--dir", other)); card.Dir != other {
		t.Errorf("made in %s, want %s", card.Dir, other)
	}
}

func TestLooseModesAreRefusedByEveryCommand(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	u.poq("init", "--dir", dir, "--roles", "validator").ok()
	file := filepath.Join(dir, "account.key")
	commands := [][]string{
		{"init"}, {"keys", "list"}, {"keys", "show", "account"}, {"keys", "export", "account", "-"}, {"keys", "sign", file},
		{"keys", "show", "validator"}, {"up", "--port", "0"},
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	genesisOf(u, dir)
	for _, c := range commands {
		u.poq(append(c, "--dir", dir)...).fails(1, file, "mode 644", "chmod 600 "+file)
	}
	if err := errors.Join(os.Chmod(file, 0o600), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range append(commands, []string{"keys", "new", "peer"}) {
		if r := u.poq(append(c, "--dir", dir)...); !slices.Equal(c, []string{"keys", "new", "peer"}) {
			r.fails(1, dir, "mode 755", "chmod 700 "+dir)
		} else {
			r.fails(1, dir)
		}
	}
}

// genesisOf makes a genesis with the validator of a directory.
func genesisOf(u *user, dir string) *ledger.Genesis {
	u.t.Helper()
	v, err := genesis.ParseLine(u.validatorLine())
	if err != nil {
		u.t.Fatal(err)
	}
	g := &ledger.Genesis{Network: "other", Epoch: 1, MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()}, Validators: []ledger.Validator{v}}
	if err := genesis.Put(dir, g); err != nil {
		u.t.Fatal(err)
	}
	return g
}

// validatorLine makes a validator and returns its line.
func (u *user) validatorLine(args ...string) string {
	u.t.Helper()
	return decode[peerCard](u.poq(append([]string{"init", "--json", "--roles", "validator", "--dir", peerDir(u.t)}, args...)...)).ValidatorLine
}

func TestKeysAreNeverReplaced(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	before := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--roles", "validator"))
	copied := filepath.Join(t.TempDir(), "copy.key")
	u.poq("keys", "export", "account", copied, "--dir", dir).ok()
	for _, kind := range []string{"peer", "account", "consensus"} {
		u.poq("keys", "new", kind, "--dir", dir).fails(1, filepath.Join(dir, kind+".key"), "is there already", "move it away")
		u.poq("keys", "import", kind, copied, "--dir", dir).fails(1, filepath.Join(dir, kind+".key"), "is there already")
	}
	u.poq("keys", "export", "peer", copied, "--dir", dir).fails(1, copied, "is there already")
	u.poq("keys", "export", "peer", filepath.Join(dir, "account.key"), "--dir", dir).fails(1, "is there already")
	after := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--roles", "validator"))
	before.Made = []keystore.Kind{}
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the keys are %+v, were %+v", after, before)
	}
	if files, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(files) > 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
}

func TestKeyGoesFromOnePeerToAnother(t *testing.T) {
	u, from, to := newUser(t), peerDir(t), peerDir(t)
	account := decode[peerCard](u.poq("init", "--json", "--dir", from)).Account
	file := filepath.Join(t.TempDir(), "account.key")
	if got := u.poq("keys", "export", "account", file, "--dir", from).ok().stdout; !strings.Contains(got, account) || !strings.Contains(got, file) {
		t.Errorf("export says %q", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the copy has mode %v (%v)", info.Mode(), err)
	}
	if got := u.line("keys", "import", "account", file, "--dir", to); got != account {
		t.Errorf("imported %s, want %s", got, account)
	}
	third := peerDir(t)
	pem := u.poq("keys", "export", "account", "-", "--dir", from).ok().stdout
	if r := u.poqIn(pem, "keys", "import", "account", "-", "--dir", third).ok(); strings.TrimSpace(r.stdout) != account {
		t.Errorf("imported %s, want %s", r.stdout, account)
	}
	if made := decode[peerCard](u.poq("init", "--json", "--dir", third)); made.Account != account || !slices.Equal(made.Made, []keystore.Kind{keystore.Peer}) {
		t.Errorf("completed to %+v", made)
	}
}

func TestKeysOfOtherToolsAreTakenAndReadByThem(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not here")
	}
	u, dir, file := newUser(t), peerDir(t), filepath.Join(t.TempDir(), "key.pem")
	if out, err := exec.Command(openssl, "genpkey", "-algorithm", "ed25519", "-out", file).CombinedOutput(); err != nil {
		t.Skipf("openssl makes no ed25519 keys: %v %s", err, out)
	}
	account := u.line("keys", "import", "account", file, "--dir", dir)
	out, err := exec.Command(openssl, "pkey", "-in", filepath.Join(dir, "account.key"), "-pubout", "-outform", "DER").Output()
	if err != nil || !strings.HasSuffix(fmt.Sprintf("%x", out), account) {
		t.Errorf("openssl reads %x, want %s (%v)", out, account, err)
	}
	rsa := filepath.Join(t.TempDir(), "rsa.pem")
	if out, err := exec.Command(openssl, "genpkey", "-algorithm", "rsa", "-out", rsa).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	u.poq("keys", "import", "peer", rsa, "--dir", dir).fails(1, rsa, "want ed25519")
}

func TestEncryptedKeysNeedTheirPassphrase(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	right := mustWriteFile(t, filepath.Join(t.TempDir(), "right"), "correct horse\nignored\n", 0o600)
	wrong := mustWriteFile(t, filepath.Join(t.TempDir(), "wrong"), "battery staple\n", 0o600)
	empty := mustWriteFile(t, filepath.Join(t.TempDir(), "empty"), "\n", 0o600)
	account := filepath.Join(dir, "account.key")
	card := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--passphrase-file", right))
	if !card.Encrypted {
		t.Errorf("%+v", card)
	}
	if data, err := os.ReadFile(account); err != nil || strings.Contains(string(data), "BEGIN PRIVATE KEY") {
		t.Errorf("the key is not encrypted (%v)", err)
	}
	// Public parts need no passphrase.
	if got := u.line("keys", "show", "account", "--dir", dir); got != card.Account {
		t.Errorf("account %s, want %s", got, card.Account)
	}
	if list := u.poq("keys", "list", "--dir", dir).ok().stdout; strings.Count(list, "yes") != 2 {
		t.Errorf("keys list:\n%s", list)
	}
	sign := []string{"keys", "sign", right, "--dir", dir}
	signature := u.line(append(sign, "--passphrase-file", right)...)
	u.poq("keys", "verify", card.Account, signature, right).ok()
	u.poq(append(sign, "--passphrase-file", wrong)...).fails(1, account, "wrong passphrase")
	u.poq(append(sign, "--passphrase-file", empty)...).fails(1, empty, "empty")
	u.poq(append(sign, "--passphrase-file", right+"x")...).fails(1, "reading the passphrase", right+"x")
	u.poq(sign...).fails(1, "no terminal", "--passphrase-file", "POQ_PASSPHRASE_FILE")
	u.poq("init", "--roles", "validator", "--dir", dir).fails(1, "no terminal")
	u.poq("init", "--roles", "validator", "--dir", dir, "--passphrase-file", wrong).fails(1, "wrong passphrase")
	u.poq("init", "--encrypt", "--dir", peerDir(t)).fails(1, "no terminal")

	env := *u
	env.env = append(slices.Clone(u.env), "POQ_PASSPHRASE_FILE="+right)
	if got := env.line(sign...); got != signature {
		t.Errorf("signed %s, want %s", got, signature)
	}
	if made := decode[peerCard](env.poq("init", "--json", "--roles", "validator", "--dir", dir)); !slices.Equal(made.Made, []keystore.Kind{keystore.Consensus}) {
		t.Errorf("made %v", made.Made)
	}
	if list := u.poq("keys", "list", "--dir", dir).ok().stdout; strings.Count(list, "yes") != 3 {
		t.Errorf("keys list:\n%s", list)
	}

	// A copy is encrypted like the key, unless it is to be in clear text.
	out := t.TempDir()
	u.poq("keys", "export", "account", filepath.Join(out, "sealed"), "--dir", dir).ok()
	u.poq("keys", "export", "account", filepath.Join(out, "plain"), "--decrypt", "--dir", dir, "--passphrase-file", wrong).fails(1, "wrong passphrase")
	u.poq("keys", "export", "account", filepath.Join(out, "plain"), "--decrypt", "--dir", dir, "--passphrase-file", right).ok()
	u.poq("keys", "export", "account", filepath.Join(out, "twice"), "--encrypt", "--dir", dir).fails(1, "encrypted already")
	u.poq("keys", "export", "account", filepath.Join(out, "both"), "--encrypt", "--decrypt", "--dir", dir).fails(2, "contradict")
	u.poq("keys", "import", "account", filepath.Join(out, "sealed"), "--dir", peerDir(t), "--passphrase-file", wrong).fails(1, "wrong passphrase")
	for name, sealed := range map[string]bool{"sealed": true, "plain": false} {
		to := peerDir(t)
		args := []string{"keys", "import", "account", filepath.Join(out, name), "--dir", to}
		if sealed {
			args = append(args, "--passphrase-file", right)
		}
		if got := u.line(args...); got != card.Account {
			t.Errorf("%s: imported %s, want %s", name, got, card.Account)
		}
		if list := decode[[]keystore.Entry](u.poq("keys", "list", "--json", "--dir", to)); list[0].Encrypted != sealed {
			t.Errorf("%s: %+v", name, list)
		}
		if name == "plain" {
			u.poq("keys", "export", "account", filepath.Join(out, "clear"), "--decrypt", "--dir", to).fails(1, "not encrypted")
			u.poq("init", "--encrypt", "--dir", to).fails(1, "not encrypted")
		}
	}
}

func TestSignatureHoldsForItsFileAndKeyAlone(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	card := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--roles", "validator"))
	text := mustWriteFile(t, filepath.Join(t.TempDir(), "text"), "I am ada\n", 0o644)
	other := mustWriteFile(t, filepath.Join(t.TempDir(), "other"), "I am eve\n", 0o644)
	for key, public := range map[string]string{"account": card.Account, "peer": card.PeerID, "consensus": card.Consensus} {
		signature := u.line("keys", "sign", text, "--key", key, "--dir", dir)
		if got := u.poqIn("I am ada\n", "keys", "sign", "-", "--key", key, "--dir", dir).ok().stdout; strings.TrimSpace(got) != signature {
			t.Errorf("%s signs stdin as %s", key, got)
		}
		if got := u.poq("keys", "verify", public, signature, text).ok().stdout; !strings.Contains(got, "VALID: signed by "+public) {
			t.Errorf("verify says %q", got)
		}
		u.poqIn("I am ada\n", "keys", "verify", public, signature, "-").ok()
		u.poq("keys", "verify", public, signature, other).fails(1, "does not hold")
		if key != "account" {
			u.poq("keys", "verify", card.Account, signature, text).fails(1, "does not hold")
		}
	}
	signed := decode[struct{ Kind, Public, Signature string }](u.poq("keys", "sign", text, "--json", "--dir", dir))
	if signed.Kind != "account" || signed.Public != card.Account || len(signed.Signature) != 128 {
		t.Errorf("%+v", signed)
	}
	bad := u.poq("keys", "verify", card.Account, signed.Signature, other, "--json")
	if bad.code != 1 || !strings.Contains(bad.stdout, `"valid": false`) || bad.stderr != "" {
		t.Errorf("exit code %d, %q, %q", bad.code, bad.stdout, bad.stderr)
	}
	u.poq("keys", "verify", "ada", signed.Signature, text).fails(2, `"ada" is no public key`)
	u.poq("keys", "verify", card.Account, signed.Signature[1:], text).fails(2, "no signature", "128 hex digits")
	u.poq("keys", "verify", card.Account, signed.Signature, text+"x").fails(1, text+"x")
	u.poq("keys", "verify", card.Account, signed.Signature).fails(2, "3 arg")
}

func TestGenesisIsMadeFromTheLinesOfItsValidators(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	own := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--roles", "validator", "--name", "berlin"))
	payer := u.line("keys", "show", "account", "--dir", decode[peerCard](u.poq("init", "--json", "--dir", peerDir(t))).Dir)
	first := u.poq("genesis", "new", "home", "--min-fee", "0.01", "--account", own.Account+"=2.5", "--dir", dir).ok()
	if !strings.Contains(first.stdout, "add-validator") {
		t.Errorf("genesis new says %q", first.stdout)
	}
	if got := u.poq("genesis", "show", "--dir", dir).ok().stdout; !strings.Contains(got, "no validators yet") {
		t.Errorf("a draft is shown as\n%s", got)
	}
	u.poq("genesis", "hash", "--dir", dir).fails(1, "not complete", "add-validator")

	file := mustWriteFile(t, filepath.Join(t.TempDir(), "lines"), "# from the others\n\n"+u.validatorLine("--name", "paris")+"\n"+u.validatorLine("--name", "rome")+"\n", 0o644)
	u.poq("genesis", "add-validator", own.ValidatorLine, file, "--dir", dir).ok()
	u.poqIn(u.validatorLine(), "genesis", "add-validator", "-", "--name", "oslo", "--dir", dir).ok()
	if got := u.poq("genesis", "add-account", payer, "1000", "--name", "ada", "--dir", dir).ok().stdout; !strings.Contains(got, "1002.500000") {
		t.Errorf("add-account says %q", got)
	}

	shown := decode[struct {
		Chain          string
		Quorum, Faults int
		Supply         ledger.Amount
		Genesis        ledger.Genesis
	}](u.poq("genesis", "show", "--json", "--dir", dir))
	g := shown.Genesis
	var names []string
	for _, v := range g.Validators {
		names = append(names, v.Name)
	}
	if !slices.Equal(names, []string{"berlin", "paris", "rome", "oslo"}) || shown.Quorum != 3 || shown.Faults != 1 {
		t.Errorf("%+v", shown)
	}
	if g.Network != "home" || g.MinFee != 10000 || shown.Supply != 1002500000 || len(g.Accounts) != 2 || g.Chain().String() != shown.Chain {
		t.Errorf("%+v", shown)
	}
	text := u.poq("genesis", "show", "--dir", dir).ok().stdout
	for _, want := range append(names, "home", shown.Chain, "the one in this binary", "3 are a quorum, 1 may fail", "ada", payer, "1000.000000", own.PeerID) {
		if !strings.Contains(text, want) {
			t.Errorf("genesis show does not tell %q:\n%s", want, text)
		}
	}
	copied := filepath.Join(t.TempDir(), "genesis.json")
	data, err := os.ReadFile(genesis.Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	mustWriteFile(t, copied, string(data), 0o644)
	if got := u.line("genesis", "hash", copied); got != shown.Chain {
		t.Errorf("the copy has hash %s, want %s", got, shown.Chain)
	}
	if got := u.poq("genesis", "diff", copied, "--dir", dir).ok().stdout; !strings.Contains(got, "equal") || !strings.Contains(got, shown.Chain) {
		t.Errorf("genesis diff says %q of a copy", got)
	}
	mustWriteFile(t, copied, strings.Replace(string(data), `"min_fee": 10000`, `"min_fee": 20000`, 1), 0o644)
	u.poq("genesis", "diff", copied, "--dir", dir).fails(1, copied, genesis.Path(dir), "the minimum fee: 0.020000 credits, not 0.010000 credits")
	if r := u.poq("genesis", "diff", copied, "--dir", dir, "--json"); r.code != 1 || !strings.Contains(r.stdout, `"equal": false`) || !strings.Contains(r.stdout, "the minimum fee") {
		t.Errorf("exit code %d: %s", r.code, r.stdout)
	}
}

func TestGenesisThatCannotBeIsNotWritten(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	u.poq("genesis", "show", "--dir", dir).fails(1, genesis.Path(dir), "poq genesis new")
	u.poq("genesis", "add-validator", u.validatorLine(), "--dir", dir).fails(1, "poq genesis new")
	account := u.line("keys", "show", "account", "--dir", decode[peerCard](u.poq("init", "--json", "--dir", peerDir(t))).Dir)
	for _, c := range []struct {
		words []string
		args  []string
	}{
		{[]string{"a/b", "letters"}, []string{"new", "a/b"}},
		{[]string{"1 arg"}, []string{"new"}},
		{[]string{"--min-fee", "amount"}, []string{"new", "home", "--min-fee", "0"}},
		{[]string{"ACCOUNT=CREDITS"}, []string{"new", "home", "--account", account}},
		{[]string{"64 hex digits"}, []string{"new", "home", "--account", "ada=5"}},
		{[]string{"each once"}, []string{"new", "home", "--account", account + "=5", "--account", account + "=6"}},
	} {
		u.poq(append(append([]string{"genesis"}, c.args...), "--dir", dir)...).fails(2, c.words...)
	}
	u.poq("genesis", "new", "home", "--judge-model", filepath.Join(dir, "none"), "--dir", dir).fails(1, "none")
	if _, err := os.Stat(genesis.Path(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("something was written (%v)", err)
	}
	u.poq("genesis", "new", "home", "--dir", dir).ok()
	u.poq("genesis", "new", "home", "--dir", dir).fails(1, genesis.Path(dir), "already")
	if got := u.poq("genesis", "show", "--dir", dir).ok().stdout; !strings.Contains(got, "nobody can ever pay") {
		t.Errorf("a network without credits is shown as\n%s", got)
	}
	line := u.validatorLine("--name", "berlin")
	u.poq("genesis", "add-validator", line, "--dir", dir).ok()
	u.poq("genesis", "add-account", account, "5", "--dir", dir).ok()
	before, err := os.ReadFile(genesis.Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	damaged := mustWriteFile(t, filepath.Join(t.TempDir(), "lines"), u.validatorLine()+"\n"+line[:80]+"\n", 0o600)
	for _, c := range []struct {
		code  int
		words []string
		args  []string
	}{
		{1, []string{"berlin", "has the consensus key"}, []string{"add-validator", line}},
		{1, []string{"another validator berlin", "--name"}, []string{"add-validator", u.validatorLine("--name", "berlin")}},
		{2, []string{"damaged", "copy it whole"}, []string{"add-validator", line[:len(line)-1]}},
		{1, []string{damaged, "line 2", "damaged"}, []string{"add-validator", damaged}},
		{2, []string{"newer version"}, []string{"add-validator", strings.Replace(line, "-1:", "-2:", 1)}},
		{2, []string{"is no file", "poq-validator-1:"}, []string{"add-validator", "poq1AAAA"}},
		{1, []string{"no validator's line"}, []string{"add-validator", mustWriteFile(t, filepath.Join(t.TempDir(), "empty"), "# none\n", 0o600)}},
		{2, []string{"one validator"}, []string{"add-validator", u.validatorLine(), u.validatorLine(), "--name", "x"}},
		{2, []string{`name "a b"`}, []string{"add-validator", u.validatorLine(), "--name", "a b"}},
		{1, []string{"already", "5.000000"}, []string{"add-account", account, "6"}},
		{1, []string{"63 bits"}, []string{"add-account", strings.Repeat("11", 32), "9223372036854"}},
		{1, []string{"zero account"}, []string{"add-account", strings.Repeat("00", 32), "6"}},
		{2, []string{"64 hex digits"}, []string{"add-account", "ada", "6"}},
		{2, []string{"six decimals"}, []string{"add-account", account, "0.0000001"}},
	} {
		u.poq(append(append([]string{"genesis"}, c.args...), "--dir", dir)...).fails(c.code, c.words...)
	}
	if after, err := os.ReadFile(genesis.Path(dir)); err != nil || string(after) != string(before) {
		t.Errorf("the genesis was changed (%v):\n%s", err, after)
	}
	for want, change := range map[string][2]string{
		`"min_fe"`:      {`"min_fee"`, `"min_fe"`},
		"min_fee":       {`"min_fee": 1000`, `"min_fee": 0`},
		"split 1":       {`"band": 100`, `"band": 20000`},
		"64 hex digits": {`"judge": "`, `"judge": "0`},
		"EOF":           {"\n}", ""},
		"peer id 13D3":  {`"peer": "12D3`, `"peer": "13D3`},
	} {
		broken := mustWriteFile(t, filepath.Join(t.TempDir(), "genesis.json"), strings.Replace(string(before), change[0], change[1], 1), 0o600)
		u.poq("genesis", "show", broken).fails(1, broken, want)
		u.poq("genesis", "hash", broken).fails(1, broken, want)
	}
	u.poq("genesis", "show", dir+"/nothing").fails(1, dir+"/nothing")
}

func TestGenesisOfALedgerIsKeptAndAChangedOneNamed(t *testing.T) {
	u, dir := newUser(t), filepath.Join(t.TempDir(), "net")
	n := u.devnet("--validators", "1", "--workers", "1", "--engine", "extract", "--dir", dir)
	n.stop()
	u.poq("genesis", "add-validator", u.validatorLine(), "--dir", dir).fails(1, "a ledger began with this genesis", "another network")
	u.poq("genesis", "add-account", strings.Repeat("11", 32), "6", "--dir", dir).fails(1, "a ledger began with this genesis")
	data, err := os.ReadFile(genesis.Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string][2]string{
		`validator 1 "validator-1": name: "validator-x", not "validator-1"`: {`"name": "validator-1"`, `"name": "validator-x"`},
		`"payer": balance: 1000000.000000 credits, not 1000.000000 credits`: {`"balance": 1000000000`, `"balance": 1000000000000`},
		"split 1: band: 99, not 100":                                        {`"band": 100`, `"band": 99`},
	} {
		mustWriteFile(t, genesis.Path(dir), strings.Replace(string(data), change[0], change[1], 1), 0o600)
		u.poq("devnet", "--validators", "1", "--workers", "1", "--engine", "extract", "--dir", dir).fails(1, "ledger of another genesis", want)
	}
}

func TestKeysThatAreNotThereAreSaidToBe(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	u.poq("keys", "list", "--dir", dir).fails(1, dir, "poq init")
	u.poq("keys", "show", "account", "--dir", dir).fails(1, filepath.Join(dir, "account.key"), "poq keys new account")
	u.poq("init", "--dir", dir).ok()
	u.poq("keys", "show", "validator", "--dir", dir).fails(1, filepath.Join(dir, "consensus.key"), "poq keys new consensus")
	public := u.line("keys", "new", "consensus", "--dir", dir)
	if got := u.line("keys", "show", "validator", "--dir", dir); !strings.Contains(got, ":"+public+":") {
		t.Errorf("the line %s has not the key %s", got, public)
	}
	u.poq("keys", "show", "spending", "--dir", dir).fails(2, `no key "spending"`, "peer, account or consensus")
	u.poq("keys", "show", "account", "--name", "x", "--dir", dir).fails(2, "--name")
	u.poq("keys", "--dir", dir).fails(2, "subcommand")
	u.poq("init", "--roles", "judge", "--dir", dir).fails(2, "judge", "worker, validator")
	u.poq("init", "--name", "x", "--dir", dir).fails(2, "--roles validator")
	u.poq("init", "--roles", "validator", "--name", "a:b", "--dir", dir).fails(2, `"a:b"`)
	u.poq("keys", "import", "account", filepath.Join(dir, "none"), "--dir", dir).fails(1, filepath.Join(dir, "none"))
	long := mustWriteFile(t, filepath.Join(t.TempDir(), "long"), strings.Repeat("x", keystore.MaxFile+1), 0o600)
	text := mustWriteFile(t, filepath.Join(t.TempDir(), "text"), "hello", 0o600)
	u.poq("keys", "import", "account", long, "--dir", peerDir(t)).fails(1, long, "too long")
	u.poq("keys", "import", "account", text, "--dir", peerDir(t)).fails(1, text, "not a private key")
	mustWriteFile(t, filepath.Join(dir, "account.key"), "hello", 0o600)
	u.poq("keys", "list", "--dir", dir).fails(1, filepath.Join(dir, "account.key"), "not a private key")
}

func TestPeerRunsWithKeysThatAreEncrypted(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	right := mustWriteFile(t, filepath.Join(t.TempDir(), "right"), "correct horse\n", 0o600)
	wrong := mustWriteFile(t, filepath.Join(t.TempDir(), "wrong"), "battery staple\n", 0o600)
	up := []string{"up", "--json", "--dir", dir, "--port", "0", "--bind", "127.0.0.1", "--passphrase-file"}
	own := decode[peerCard](u.poq("init", "--json", "--dir", dir, "--passphrase-file", right))
	genesisOf(u, dir)
	u.poq(append(up, wrong)...).fails(1, filepath.Join(dir, "peer.key"), "wrong passphrase")
	n, err := u.launch(append(up, right)...)
	if err != nil {
		t.Fatal(err)
	}
	if p := n.card.Peers[0]; p.PeerID != own.PeerID || p.Account.String() != own.Account {
		t.Errorf("it runs as %+v, want %+v", p, own)
	}
	n.stop()
	if strings.Contains(n.stderr.String(), "correct horse") {
		t.Error("the passphrase was logged")
	}
}

func TestValidatorThatLostItsConsensusKeyIsTold(t *testing.T) {
	m := newMachines(t, 1)
	path := keystore.Consensus.Path(m.path("validator-1"))
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	n := m.up("validator-1", "--roles", "validator")
	if n.card.Peers[0].Role != "observer" {
		t.Errorf("it runs as %s", n.card.Peers[0].Role)
	}
	n.stderr.await(t, "this peer is validator-1 in the committee", m.genesis.Validators[0].Consensus.Short(), path, "backup", "runs as observer")
	n.stop()
	if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
		t.Fatal(err)
	}
	n = m.up("validator-1", "--roles", "validator")
	if n.card.Peers[0].Role != "validator" {
		t.Errorf("with its key it runs as %s", n.card.Peers[0].Role)
	}
	n.stop()
}

func TestPeerThatLostItsAccountIsNotGivenAnotherUnasked(t *testing.T) {
	m := newMachines(t, 1)
	m.up("payer").stop()
	path := keystore.Account.Path(m.path("payer"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m.fails("payer", 1, []string{path, "backup", "poq keys new account"})
	m.user.poq("init", "--dir", m.path("payer")).fails(1, path, "backup")
	account := m.user.line("keys", "new", "account", "--dir", m.path("payer"))
	n := m.up("payer")
	if got := n.card.Peers[0].Account.String(); got != account {
		t.Errorf("it runs with account %s, want %s", got, account)
	}
	n.stop()
}
