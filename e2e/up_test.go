package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/node/token"
	"github.com/poqmesh/poq/quality/crossencoder"
)

// machines is a network whose peers have directories of their own, as if on several machines.
type machines struct {
	user    *user
	dir     string
	genesis *ledger.Genesis
}

// newMachines makes the keys of validators and of a payer, and a genesis in each directory.
func newMachines(t *testing.T, validators int) *machines {
	t.Helper()
	judge, err := crossencoder.Identity("")
	if err != nil {
		t.Fatal(err)
	}
	m := &machines{newUser(t), t.TempDir(), &ledger.Genesis{Network: "hamlet", Epoch: 1, Judge: judge, MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()}}}
	names := []string{"payer"}
	for i := range validators {
		names = append(names, fmt.Sprintf("validator-%d", i+1))
	}
	for _, name := range names {
		a := ledger.GenesisAccount{Name: name}
		if name == "payer" {
			a.Balance = 1000 * ledger.Credit
		}
		dir := m.path(name)
		if _, err := keystore.Create(dir, name != "payer", nil); err != nil {
			t.Fatal(err)
		}
		id, err := keystore.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a.ID = id.Account.Public(); name != "payer" {
			v, err := id.Validator(name)
			if err != nil {
				t.Fatal(err)
			}
			m.genesis.Validators = append(m.genesis.Validators, v)
		}
		m.genesis.Accounts = append(m.genesis.Accounts, a)
	}
	slices.SortFunc(m.genesis.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	for _, name := range names {
		m.putGenesis(name, m.genesis)
	}
	return m
}

func (m *machines) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machines) putGenesis(name string, g *ledger.Genesis) {
	m.user.t.Helper()
	data, err := json.Marshal(g)
	if err == nil {
		err = os.MkdirAll(m.path(name), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(m.path(name), "genesis.json"), data, 0o600)
	}
	if err != nil {
		m.user.t.Fatal(err)
	}
}

// args are those with which a peer runs beside others on one machine.
func (m *machines) args(name string, more ...string) []string {
	return append([]string{"up", "--json", "--dir", m.path(name), "--bind", "127.0.0.1", "--port", "0", "--mdns=false", "--port-map=false"}, more...)
}

// up starts a peer and waits for its card.
func (m *machines) up(name string, more ...string) *network {
	m.user.t.Helper()
	n, err := m.user.launch(m.args(name, more...)...)
	if err != nil {
		m.user.t.Fatal(err)
	}
	return n
}

// fails starts a peer that does not come up.
func (m *machines) fails(name string, code int, words []string, more ...string) {
	m.user.t.Helper()
	m.user.poq(m.args(name, more...)...).fails(code, words...)
}

// token returns the line with which others join a peer that runs.
func (n *network) token() string {
	n.user.t.Helper()
	r := n.user.poq("token", "--dir", n.card.Dir).ok()
	if !strings.Contains(r.stderr, "this machine only") {
		n.user.t.Errorf("the token of a peer on loopback is called usable elsewhere: %s", r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

func TestPeersOnSeveralMachinesSettle(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator")
	invitation := validator.token()
	validator.stderr.await(t, "this peer knows no other", "--join TOKEN")
	worker := m.up("worker", "--roles", "worker", "--engine", "extract", "--join", invitation)
	payer := m.up("payer", "--join", invitation)
	if p := payer.card.Peers[0]; len(payer.card.Peers) != 1 || p.Name != "payer" || p.Role != "observer" {
		t.Errorf("the payer's card: %+v", payer.card)
	}

	s := payer.ask("When was the lighthouse built?\n\n" + passage)
	payer.checkSettlement(s)
	if len(s.Answers) != 1 || !strings.Contains(s.Answers[0].Text, "1871") {
		t.Errorf("the answers are %+v", s.Answers)
	}
	// The log has all that matters of the task in one line.
	payer.stderr.await(t, "msg=settled task="+s.Task.Short()+" outcome=PAID fee=1.000000 answers=1 winner="+s.Answers[0].Worker.Account.Short(), " ms=")
	// Every command finds the peer without being told a name.
	for _, n := range []*network{validator, worker, payer} {
		n.waitSettled(1)
		dir := n.card.Dir
		for _, c := range []string{"accounts", "tasks", "task " + s.Task.Short(), "verify", "digest", "evidence", "export " + filepath.Join(t.TempDir(), "x")} {
			m.user.poq(append(append([]string{"ledger"}, strings.Fields(c)...), "--dir", dir)...).ok()
		}
		m.user.poq("receipt", "get", s.Task.Short(), "--dir", dir).ok()
	}
	m.user.poq("ledger", "diff", "validator-1", "--dir", payer.card.Dir).ok()
	m.user.poq("ledger", "accounts").fails(1, "several", "--dir")

	// The ledgers of peers that ended are read from disk.
	archive := filepath.Join(t.TempDir(), "ledger.poq")
	m.user.poq("ledger", "export", archive, "--dir", payer.card.Dir).ok()
	for _, n := range []*network{payer, worker} {
		n.stop()
		dir := n.card.Dir
		for _, c := range []string{"accounts", "tasks", "task " + s.Task.Short(), "verify", "digest", "evidence", "import " + archive} {
			r := m.user.poq(append(append([]string{"ledger"}, strings.Fields(c)...), "--dir", dir)...).ok()
			if c == "accounts" && !strings.Contains(r.stdout, "ledger of "+filepath.Base(dir)) {
				t.Errorf("poq ledger accounts says %s", r.stdout)
			}
		}
	}
	// A peer that starts again needs no token: it remembers whom it joined.
	again := m.up("payer")
	if strings.Contains(again.stderr.String(), "knows no other") {
		t.Error("a peer that joined before says that it knows nobody")
	}
	again.ask("Who tended the lamp?\n\n"+passage, "--answer-timeout", "2s")
	again.stop()
	validator.stop()
}

func TestTokenThatDoesNotFitIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	v := m.up("validator-1", "--roles", "validator")
	line := v.token()
	m.fails("new", 2, []string{"--join", "damaged", "copy it whole"}, "--join", line[:len(line)-9])
	m.fails("new", 2, []string{"--join", "no join token", "poq1"}, "--join", "https://example.org/join")
	m.fails("new", 2, []string{"--join", "newer version"}, "--join", "poq2"+line[4:])
	if _, err := os.Stat(m.path("new")); !os.IsNotExist(err) {
		t.Errorf("a token that is refused left a directory: %v", err)
	}
	m.fails("new", 1, []string{"genesis.json", "--join TOKEN"})

	// Another network, and another genesis of the same one.
	other := *m.genesis
	other.MinFee++
	m.putGenesis("elsewhere", &other)
	before, err := os.ReadFile(filepath.Join(m.path("elsewhere"), "genesis.json"))
	if err != nil {
		t.Fatal(err)
	}
	m.fails("elsewhere", 1, []string{m.genesis.Chain().Short(), other.Chain().Short(), "minimum fee", "nothing was changed"}, "--join", line)
	after, err := os.ReadFile(filepath.Join(m.path("elsewhere"), "genesis.json"))
	if err != nil || string(after) != string(before) {
		t.Errorf("the genesis was changed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.path("elsewhere"), "token")); !os.IsNotExist(err) {
		t.Errorf("the token of another network was kept: %v", err)
	}
}

func TestGenesisIsFetchedWhenTheTokenHasNone(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	v := m.up("validator-1", "--roles", "validator")
	full, err := token.Parse(v.token())
	if err != nil {
		t.Fatal(err)
	}
	full.Genesis = nil
	p := m.up("new", "--join", full.String())
	if p.card.Chain != m.genesis.Chain() {
		t.Errorf("the peer follows chain %s, want %s", p.card.Chain, m.genesis.Chain())
	}
	// With nobody there to ask, that is said, and it goes on.
	v.stop()
	c := m.user.command(m.args("newer", "--join", full.String())...)
	stderr := newRecord()
	c.Stderr = stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.await(t, "no peer gave the genesis; trying again", "nothing listens there: the peer is down")
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || c.ProcessState.ExitCode() != 1 {
		t.Errorf("interrupted while it looks for the genesis: %v", err)
	}
	stderr.await(t, "poq: interrupted")
	full.Addresses = nil
	m.fails("newest", 1, []string{"neither the genesis nor the address", "--bootstrap"}, "--join", full.String())
}

func TestRoleThatThePeerCannotHaveIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	m.putGenesis("stranger", m.genesis)
	p := m.up("stranger", "--roles", "validator")
	if p.card.Peers[0].Role != "observer" {
		t.Errorf("a validator that is not in the committee runs as %s", p.card.Peers[0].Role)
	}
	id, err := keystore.Open(m.path("stranger"), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.stderr.await(t, "not in the committee of network hamlet", "runs as observer", id.Consensus.Public().String(), id.Account.Public().String(), p.card.Peers[0].PeerID)

	v := m.up("validator-1")
	if v.card.Peers[0].Role != "observer" {
		t.Errorf("a validator started without its role runs as %s", v.card.Peers[0].Role)
	}
	v.stderr.await(t, "validator-1 in the committee", "without --roles validator", "does not vote")
	m.fails("stranger", 2, []string{"--roles judge", "worker, validator"}, "--roles", "judge")
	m.fails("stranger", 2, []string{"--engine", "smul", "smol"}, "--roles", "worker", "--engine", "smul")
}

func TestWhoIsInTheWayIsNamed(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	m.putGenesis("second", m.genesis)
	first := m.up("payer")
	m.fails("payer", 1, []string{fmt.Sprintf("process %d", first.card.PID), m.path("payer"), "--dir"})

	taken := first.port()
	m.fails("second", 1, []string{"port " + taken + " is taken", m.path("payer"), fmt.Sprintf("process %d", first.card.PID), "--port 0"}, "--port", taken)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	m.fails("second", 1, []string{"port " + port + " is taken by another program", "--port 0"}, "--port", port)
	m.fails("second", 2, []string{"--bind nowhere", "multiaddr"}, "--bind", "nowhere")
	m.fails("second", 2, []string{"--bootstrap", "/p2p/ID"}, "--bootstrap", "/ip4/127.0.0.1/tcp/4777")

	// What a killed process leaves is in nobody's way.
	if err := first.signal(syscall.SIGKILL); err == nil {
		t.Error("a killed peer ended well")
	}
	m.up("payer").stop()
}

// port is the port that a peer listens on.
func (n *network) port() string {
	for _, a := range n.card.Peers[0].Addrs {
		if _, after, ok := strings.Cut(a, "/tcp/"); ok {
			port, _, _ := strings.Cut(after, "/")
			return port
		}
	}
	n.user.t.Fatal("the peer has no TCP port")
	return ""
}

func TestSettingsComeFromFlagsThenEnvironmentThenFile(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	dir := m.path("payer")
	file := filepath.Join(dir, "config.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("roles = [\"worker\"]\nengine = \"extract\"\nlog-format = \"json\"\nport = 5\n")
	m.user.env = append(m.user.env, "POQ_LOG_LEVEL=debug", "POQ_ENGINE=smol,seed=3")
	p := m.up("payer", "--engine", "extract")
	if got := p.card.Peers[0]; got.Role != "worker" || got.Engine != "extract" {
		t.Errorf("the peer is %+v, want the role of the file and the engine of the flag", got)
	}
	p.stderr.await(t, `"level":"INFO","msg":"peer is up"`)
	p.stop()

	type setting struct {
		Key, From, Type, Env, Usage string
		Value, Default              any
	}
	from := map[string]setting{}
	for _, s := range decode[[]setting](m.user.poq("config", "show", "--json", "--dir", dir)) {
		from[s.Key] = s
	}
	for key, want := range map[string][2]string{
		"roles": {"[worker]", file}, "engine": {"[smol,seed=3]", "POQ_ENGINE"}, "port": {"5", file}, "log-level": {"debug", "POQ_LOG_LEVEL"}, "bind": {"[]", "default"}, "dir": {dir, "flag"},
	} {
		if s := from[key]; fmt.Sprint(s.Value) != want[0] || s.From != want[1] {
			t.Errorf("%s is %v from %s, want %s from %s", key, s.Value, s.From, want[0], want[1])
		}
	}
	if r := m.user.poq("config", "explain", "POQ_PORT").ok(); !strings.Contains(r.stdout, "port to listen on") || !strings.Contains(r.stdout, "Default   4777") {
		t.Errorf("poq config explain says %s", r.stdout)
	}
	m.user.poq("config", "explain", "prot").fails(2, "prot", "did you mean port")
	m.user.poq("config", "validate", file).ok()
	for text, words := range map[string][]string{
		"prot = 1":              {"prot", "did you mean port"},
		"port = \"many\"":       {"port", "many"},
		"port = 70000":          {"port", "70000"},
		"port = [1, 2]":         {"port", "not a list"},
		"roles = [\"boss\"]":    {"boss", "worker, validator"},
		"log_level = \"info\"":  {"log_level", "is written log-level"},
		"join = \"poq1\"":       {"join", "--join"},
		"dir = \"x\"":           {"dir", "POQ_DIR"},
		"port = 1\nport = ":     {"line 2"},
		"engine = \"smul\"":     {"smul", "smol"},
		"bind = \"10.0.0.300\"": {"--bind", "10.0.0.300"},
		"[net]\nport = 3":       {"net"},
	} {
		write(text)
		m.user.poq("config", "validate", file).fails(2, append(words, "config.toml")...)
		if !strings.HasPrefix(text, "engine") && !strings.HasPrefix(text, "bind") { // which variable and flag set otherwise
			m.fails("payer", 2, words)
		}
	}
	m.user.poq("config", "validate", filepath.Join(dir, "nowhere.toml")).fails(1, "nowhere.toml")
}

// TestPeersStopInTheMiddleOfATask: the worker is computing, the validator waits, the payer's user looks on.
func TestPeersStopInTheMiddleOfATask(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator")
	invitation := validator.token()
	worker := m.up("worker", "--roles", "worker", "--engine", "smol,max-tokens=512", "--join", invitation)
	payer := m.up("payer", "--join", invitation)
	ask := m.user.command("ask", "--dir", payer.card.Dir, "--max-answers", "1", "Tell the whole history of Rome, at great length.")
	stderr := newRecord()
	ask.Stderr = stderr
	if err := ask.Start(); err != nil {
		t.Fatal(err)
	}
	stderr.await(t, "workers are answering")
	for _, n := range []*network{worker, validator, payer} {
		begin := time.Now()
		n.stop()
		t.Logf("%s ended in %v", n.card.Peers[0].Name, time.Since(begin).Round(time.Millisecond))
	}
	if err := ask.Wait(); err == nil || ask.ProcessState.ExitCode() != 1 {
		t.Errorf("poq ask ended with %v\n%s", err, stderr)
	}
	stderr.await(t, "poq ledger task")
}
