package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/keystore"
)

// seen is a peer of several in the output of poq status --json.
type seen struct {
	Name  string
	Error string
	State *control.NodeState
}

func TestStatusPeersAndPingOfADevnet(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	for _, c := range []string{"status", "peers", "ping payer", "top"} {
		u.poq(strings.Fields(c)...).fails(1, "nothing is running", "poq up")
	}
	n := u.devnet("--validators", "4", "--workers", "1", "--engine", "extract")
	s := n.ask("When was the lighthouse built?\n\n" + passage)
	n.waitSettled(1)

	list := decode[[]seen](u.poq("status", "--json"))
	if len(list) != 6 {
		t.Fatalf("%d peers, want 6", len(list))
	}
	for _, p := range list {
		if p.Error != "" || !p.State.Ready || len(p.State.Problems) > 0 || p.State.Ledger.Tasks != 1 || p.State.Recent[0].Task != s.Task || len(p.State.Peers) != 5 || len(p.State.Compared) != 5 {
			t.Errorf("%s: %s %+v", p.Name, p.Error, p.State)
		}
		for _, c := range p.State.Compared {
			if !c.Equal {
				t.Errorf("%s: %+v", p.Name, c)
			}
		}
	}
	table := u.poq("status").ok().stdout
	for _, want := range []string{"validator-4", "worker-1", "payer", "yes", "5/5", n.card.Network} {
		if !strings.Contains(table, want) {
			t.Errorf("status does not show %q:\n%s", want, table)
		}
	}
	screen := u.poq("status", "--peer", "validator-2").ok().stdout
	for _, want := range []string{"validator-2 (validator), ready", "5 peers connected; validators: 4 of 4, links to 3 of 3", "1 settled, 0 open", "equal to those of 5 of 5 peers", "signs; settled in", "1 answer scored", "order ", "PAID"} {
		if !strings.Contains(screen, want) {
			t.Errorf("status of a validator does not show %q:\n%s", want, screen)
		}
	}
	if rows := strings.Count(screen, "\n"); rows > 30 {
		t.Errorf("status takes %d lines, more than a screen", rows)
	}
	if w := u.poq("status", "--peer", "worker-1").ok().stdout; !strings.Contains(w, "extract: 1 answered") {
		t.Errorf("status of a worker:\n%s", w)
	}
	u.poq("status", "--peer", "nobody").fails(1, `no peer "nobody"`, "worker-1")

	for _, p := range decode[[]node.PeerState](u.poq("peers", "--json", "--latency", "--peer", "worker-1")) {
		if p.Gone || p.LatencyUS <= 0 || p.Name == "" || time.Since(p.Heard) > time.Minute {
			t.Errorf("worker-1 says of a peer: %+v", p)
		}
	}
	if out := u.poq("peers", "--scores").ok().stdout; !strings.Contains(out, "SCORE") || !strings.Contains(out, "5 of 5 peers connected (seen by payer)") {
		t.Errorf("peers:\n%s", out)
	}

	type pings struct {
		PeerID, Name              string
		Sent, Answered            int
		Times                     []int64 `json:"times_us"`
		Least, Mean, Most, Spread int64
		Error                     string
	}
	var p pings
	if err := json.Unmarshal([]byte(u.poq("ping", "--json", "-n", "3", "--interval", "1ms", "validator-1").ok().stdout), &p); err != nil {
		t.Fatal(err)
	}
	if p.Sent != 3 || p.Answered != 3 || len(p.Times) != 3 || p.Name != "validator-1" {
		t.Errorf("%+v", p)
	}
	id := n.card.Peers[0].PeerID
	for _, to := range []string{id, id[len(id)-6:], n.card.Peers[0].Addrs[0]} {
		if out := u.poq("ping", "-n", "1", to).ok().stdout; !strings.Contains(out, "validator-1") || !strings.Contains(out, "1 sent, 1 answered") {
			t.Errorf("ping %s:\n%s", to, out)
		}
	}
	u.poq("ping", "payer").fails(2, "name another one")
	u.poq("ping", "nobody").fails(1, `knows no peer "nobody"`)
	u.poq("ping").fails(2, "arg")
	u.poq("ping", "-n", "0", "payer").fails(2, "--number")
	if r := u.poq("ping", "-n", "1", "--timeout", "2s", "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"); r.code != 1 || !strings.Contains(r.stdout, "1 sent, 0 answered") {
		t.Errorf("ping of nobody: %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	u.poq("top").fails(1, "needs a terminal", "poq status")
	if frame := decode[[]seen](u.poq("top", "--json")); len(frame) != 6 {
		t.Errorf("top --json shows %d peers", len(frame))
	}
}

func TestPeerThatStopsAnsweringIsShownAsGoneAndComesBack(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator")
	invitation := validator.token()
	payer := m.up("payer", "--join", invitation)
	quiet := m.up("quiet", "--join", invitation) // it says nothing of itself
	peers := func() map[string]bool {
		heard := map[string]bool{}
		for _, p := range decode[[]node.PeerState](m.user.poq("peers", "--json", "--dir", payer.card.Dir)) {
			heard[p.ID.String()] = !p.Gone
		}
		return heard
	}
	v, q := validator.card.Peers[0].PeerID, quiet.card.Peers[0].PeerID
	m.user.until("the payer hears both", func() bool { heard := peers(); return heard[v] && heard[q] })
	if err := validator.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m.user.until("the validator counts as gone", func() bool {
		heard := peers()
		if !heard[q] {
			t.Fatalf("a peer that says nothing counts as gone after %v", time.Since(begin))
		}
		return !heard[v]
	})
	s := decode[control.NodeState](m.user.poq("status", "--json", "--dir", payer.card.Dir))
	if !s.Committee[0].Gone {
		t.Errorf("committee %+v", s.Committee)
	}
	// Without the other one, too, nobody is left.
	quiet.stop()
	m.user.until("the payer is alone", func() bool { heard := peers(); return !heard[q] && !heard[v] })
	s = decode[control.NodeState](m.user.poq("status", "--json", "--dir", payer.card.Dir))
	if s.Ready || len(s.Problems) == 0 || !strings.Contains(s.Problems[0].What, "no other peer is connected") {
		t.Errorf("ready %v, problems %+v", s.Ready, s.Problems)
	}
	if r := m.user.poq("doctor", "--dir", payer.card.Dir); r.code != 1 || !strings.Contains(r.stdout, "no other peer is connected") || !strings.Contains(r.stdout, "-> ") {
		t.Errorf("doctor: %d\n%s", r.code, r.stdout)
	}
	if err := validator.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.user.until("the validator is back", func() bool { heard := peers(); return heard[v] })
}

func TestCommandOfAnotherVersionSaysSoOnce(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.devnet("--validators", "1", "--workers", "1", "--engine", "extract")
	newer := filepath.Join(t.TempDir(), "poq")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=v99.9.9", "-o", newer, "../cmd/poq")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"status"}, {"ledger", "accounts", "--json"}} {
		c := exec.CommandContext(t.Context(), newer, args...)
		c.Env = u.env
		var out, errs strings.Builder
		c.Stdout, c.Stderr = &out, &errs
		if err := c.Run(); err != nil {
			t.Fatalf("%v\n%s", err, errs.String())
		}
		if n := strings.Count(errs.String(), "v99.9.9"); n != 1 || strings.Contains(out.String(), "restart") {
			t.Errorf("%v says %d times that it is of another version: %s", args, n, errs.String())
		}
	}
	if r := u.poq("status").ok(); r.stderr != "" {
		t.Errorf("the same version: %s", r.stderr)
	}
}

// metric finds the names of metrics in a query.
var metric = regexp.MustCompile(`\b(poq|go|process|libp2p)_[a-z0-9_]+\b`)

// help finds the metrics of which a scrape has something to say.
var help = regexp.MustCompile(`(?m)^((?:poq|go|process|libp2p)_[a-z0-9_]+)[ {]`)

func TestEveryMetricOfTheBoardIsInAScrapeAndInTheDocs(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator", "--metrics", ":0")
	worker := m.up("worker", "--roles", "worker", "--engine", "extract", "--api", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--join", validator.token())
	payer := m.up("payer", "--join", validator.token())
	payer.ask("When was the lighthouse built?\n\n" + passage)
	validator.waitSettled(1)
	scraped := map[string]bool{}
	for _, n := range []*network{validator, worker} {
		base := n.monitor()
		m.user.until(n.card.Peers[0].Name+" is ready", func() bool { code, _ := get(t, base+"/readyz"); return code == http.StatusOK })
		if code, text := get(t, base+"/healthz"); code != http.StatusOK || text != "ok\n" {
			t.Errorf("healthz: %d %s", code, text)
		}
		code, text := get(t, base+"/metrics")
		if code != http.StatusOK {
			t.Fatalf("metrics: %d %s", code, text)
		}
		for _, name := range help.FindAllStringSubmatch(text, -1) {
			scraped[name[1]] = true
		}
		if n == validator && !regexp.MustCompile(`(?m)^poq_task_settled_total\{outcome="PAID"\} 1$`).MatchString(text) {
			t.Error("the validator has not counted its settlement")
		}
	}
	board, err := os.ReadFile("../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var queries []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if q, ok := v["expr"].(string); ok {
				queries = append(queries, q)
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	var parsed any
	if err := json.Unmarshal(board, &parsed); err != nil {
		t.Fatal(err)
	}
	walk(parsed)
	if len(queries) < 30 {
		t.Fatalf("the board has %d queries", len(queries))
	}
	for _, q := range queries {
		names := metric.FindAllString(q, -1)
		if len(names) == 0 {
			t.Errorf("no metric in %s", q)
		}
		for _, name := range names {
			if !scraped[name] {
				t.Errorf("%s is on the board and in no scrape", name)
			}
		}
	}
	docs, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range scraped {
		name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "poq_") && !strings.Contains(string(docs), "`"+name+"`") {
			t.Errorf("docs/operations.md does not list %s", name)
		}
	}
	m.fails("payer-2", 1, nil, "--metrics", "nowhere") // it has no genesis; the address is looked at first where it has
	worker.stop()
	m.fails("worker", 2, []string{"--metrics", "HOST:PORT"}, "--metrics", "nowhere")
}

// monitor returns the address of a peer's metrics.
func (n *network) monitor() string {
	n.user.t.Helper()
	n.stderr.await(n.user.t, "/metrics")
	found := regexp.MustCompile(`(http://[^/\s]+)/metrics`).FindStringSubmatch(n.stderr.String())
	if found == nil {
		n.user.t.Fatalf("no address of metrics in\n%s", n.stderr)
	}
	return found[1]
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

type finding struct{ Check, Peer, Result, Says, Mend string }

// doctor returns what is wrong, by check, and the exit code.
func (m *machines) doctor(name string, more ...string) (map[string]finding, int) {
	m.user.t.Helper()
	r := m.user.poq(append([]string{"doctor", "--json", "--dir", m.path(name)}, more...)...)
	var list []finding
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		m.user.t.Fatalf("doctor: %v\n%s%s", err, r.stdout, r.stderr)
	}
	bad := map[string]finding{}
	for _, f := range list {
		if f.Result == "WRONG" {
			bad[f.Check] = f
		}
		if f.Result == "WRONG" && f.Mend == "" {
			m.user.t.Errorf("doctor says not how to mend: %+v", f)
		}
	}
	if want := min(1, len(bad)); r.code != want {
		m.user.t.Errorf("doctor ends with %d and found %v", r.code, bad)
	}
	return bad, r.code
}

func TestDoctorFindsWhatIsWrongAndHowToMendIt(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	dir := m.path("payer")
	if bad, _ := m.doctor("payer"); len(bad) > 0 {
		t.Errorf("a peer that is well: %v", bad)
	}
	if bad, _ := m.doctor("nowhere"); !strings.Contains(bad["directory"].Mend, "poq up --join") {
		t.Errorf("no directory: %v", bad)
	}
	spoil := func(check, want string, harm, mend func() error) {
		t.Helper()
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if bad, _ := m.doctor("payer"); len(bad) != 1 || !strings.Contains(bad[check].Says+bad[check].Mend, want) {
			t.Errorf("%s: %v, want %q", check, bad, want)
		}
		if err := mend(); err != nil {
			t.Fatal(err)
		}
	}
	key, file, gen := keystore.Account.Path(dir), filepath.Join(dir, "config.toml"), filepath.Join(dir, "genesis.json")
	spoil("keys", "chmod 600", func() error { return os.Chmod(key, 0o644) }, func() error { return os.Chmod(key, 0o600) })
	spoil("settings", "did you mean", func() error { return os.WriteFile(file, []byte("prot = 5\n"), 0o600) }, func() error { return os.Remove(file) })
	old, err := os.ReadFile(gen)
	if err != nil {
		t.Fatal(err)
	}
	spoil("genesis", "copy it anew", func() error { return os.WriteFile(gen, old[:len(old)/2], 0o600) }, func() error { return os.WriteFile(gen, old, 0o600) })
	// A worker whose model server is away, and a bootstrap that nobody runs.
	spoil("engine", "model server", func() error {
		return os.WriteFile(file, []byte("roles = [\"worker\"]\nengine = \"openai=http://127.0.0.1:1/v1\"\nport = 0\n"), 0o600)
	}, func() error { return os.Remove(file) })
	spoil("bootstraps", "none of 1 address", func() error {
		return os.WriteFile(file, []byte("bootstrap = [\"/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp\"]\nport = 0\n"), 0o600)
	}, func() error { return os.Remove(file) })
	// The wrong judge for a validator.
	other := *m.genesis
	other.Judge[0]++
	m.putGenesis("validator-1", &other)
	if err := os.WriteFile(filepath.Join(m.path("validator-1"), "config.toml"), []byte("roles = [\"validator\"]\nport = 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bad, _ := m.doctor("validator-1"); !strings.Contains(bad["judge"].Says, m.genesis.Judge.Short()) {
		t.Errorf("another judge: %v", bad)
	}
	m.putGenesis("validator-1", m.genesis)

	// While it runs: a port in the way of nobody, a lonely peer, and then a healthy one.
	validator := m.up("validator-1", "--roles", "validator")
	if bad, _ := m.doctor("validator-1"); !strings.Contains(bad["peer"].Says, "no other peer is connected") {
		t.Errorf("a lonely peer: %v", bad)
	}
	payer := m.up("payer", "--join", validator.token())
	m.user.until("both are well", func() bool {
		v, _ := m.doctor("validator-1")
		p, _ := m.doctor("payer")
		return len(v)+len(p) == 0
	})
	text := m.user.poq("doctor", "--dir", payer.card.Dir).ok().stdout
	for _, want := range []string{"ok     process", "ok     clock", "ok     versions", "the ledger is equal to those of 1 of 1 peer", "nothing is wrong"} {
		if !strings.Contains(text, want) {
			t.Errorf("doctor does not say %q:\n%s", want, text)
		}
	}
	if err := os.WriteFile(gen, []byte(strings.Replace(string(old), "hamlet", "borough", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if bad, _ := m.doctor("payer"); !strings.Contains(bad["genesis"].Says, "was changed") {
		t.Errorf("a changed genesis: %v", bad)
	}
}

func TestBundleHelpsAndHoldsNoSecret(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator")
	payer := m.up("payer", "--join", validator.token(), "-v")
	const prompt = "Who hid the silver spoon?"
	payer.ask(prompt, "--answer-timeout", "1s", "--score-timeout", "2s")
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	r := m.user.poq("doctor", "--dir", payer.card.Dir, "--bundle", file)
	if !strings.Contains(r.stderr, "wrote "+file) {
		t.Fatalf("doctor --bundle: %s%s", r.stdout, r.stderr)
	}
	files := unpack(t, file)
	for name, want := range map[string]string{
		"findings.json": `"check"`, "machine.json": `"go"`, "settings.json": `"log-level"`, "genesis.json": "hamlet", "process.json": `"pid"`, "status.json": `"peers"`,
		"metrics/payer.txt": "poq_ledger_settled_tasks 1", "log/payer.txt": "peer is up",
	} {
		if !strings.Contains(files["poq-doctor/"+name], want) {
			t.Errorf("%s does not say %q: %.300s", name, want, files["poq-doctor/"+name])
		}
	}
	secrets := []string{prompt}
	for _, kind := range []keystore.Kind{keystore.Peer, keystore.Account} {
		text, err := os.ReadFile(kind.Path(payer.card.Dir))
		if err != nil {
			t.Fatal(err)
		}
		key, err := keystore.Read(payer.card.Dir, kind, nil)
		if err != nil {
			t.Fatal(err)
		}
		seed := [32]byte(key.Bytes()[:32])
		secrets = append(secrets, strings.Split(string(text), "\n")[1], string(seed[:]), fmt.Sprintf("%x", seed), base64.StdEncoding.EncodeToString(seed[:]))
	}
	for name, text := range files {
		for _, secret := range secrets {
			if secret == "" || strings.Contains(text, secret) {
				t.Errorf("%s holds %q", name, secret)
			}
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle has mode %v (%v)", info.Mode(), err)
	}
	// Without a peer that runs it has what lies on disk.
	payer.stop()
	if r := m.user.poq("doctor", "--dir", payer.card.Dir, "--bundle", file); !strings.Contains(r.stderr, "wrote "+file) {
		t.Errorf("doctor --bundle of a peer that ended: %s%s", r.stdout, r.stderr)
	}
	var names []string
	for name := range unpack(t, file) {
		names = append(names, filepath.Base(name))
	}
	if slices.Sort(names); !slices.Equal(names, []string{"findings.json", "genesis.json", "machine.json", "settings.json"}) {
		t.Errorf("the bundle of a peer that ended has %v", names)
	}
	m.user.poq("doctor", "--dir", payer.card.Dir, "--bundle", filepath.Join(file, "x"))
}

// unpack returns the files of a bundle.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}
