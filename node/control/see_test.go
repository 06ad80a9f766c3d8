//go:build !windows

package control

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
)

func TestStateOfEachPeerIsSeenWithNamesAndComparisons(t *testing.T) {
	newUser(t)
	s, d := network(t)
	c := dial(t, s.status.Dir)
	if _, err := d.Payer().Node.Ask(soon(t), "hello", node.AskOptions{MaxAnswers: 1}); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitEqual(soon(t)); err != nil {
		t.Fatal(err)
	}
	st, err := c.Node(soon(t), "WORKER-1", Look{Compare: true, Latency: true})
	if err != nil {
		t.Fatal(err)
	}
	if st.Name != "worker-1" || st.Role != "worker" || st.Version != "test" || st.Worker == nil || st.Worker.Answered != 1 || st.Ledger.Tasks != 1 || len(st.Recent) != 1 {
		t.Errorf("%+v", st)
	}
	if st.Process.PID == 0 || st.Process.Goroutines == 0 || st.Process.Memory == 0 || st.Process.CPUSeconds == 0 {
		t.Errorf("process: %+v", st.Process)
	}
	if len(st.Compared) != 2 || !st.Compared[0].Equal || !st.Compared[1].Equal {
		t.Errorf("compared: %+v", st.Compared)
	}
	names := map[string]bool{}
	for _, p := range st.Peers {
		names[p.Name] = true
		if p.Gone || p.LatencyUS <= 0 {
			t.Errorf("%+v", p)
		}
	}
	if !names["validator-1"] || !names["payer"] || len(names) != 2 {
		t.Errorf("names: %v", names)
	}
	if st, err := c.Node(soon(t), "", Look{}); err != nil || st.Name != "payer" || st.Compared != nil {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := c.Node(soon(t), "nobody", Look{}); code(err) != CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestPingFindsAPeerByWhateverNamesIt(t *testing.T) {
	newUser(t)
	s, d := network(t)
	c := dial(t, s.status.Dir)
	v := d.Peer("validator-1").Node.Host()
	id := v.ID().String()
	for _, to := range []string{"validator-1", "Validator-1", id, id[len(id)-8:], id[:len(id)-8], v.Addrs()[0].String()} {
		p, err := c.Ping(soon(t), "", to)
		if err != nil || p.PeerID != id || p.Name != "validator-1" || p.RTTUS <= 0 {
			t.Errorf("%s: %+v, %v", to, p, err)
		}
	}
	for to, want := range map[string]Code{
		"nobody": CodeNotFound, "12D3": CodeUsage, "payer": CodeUsage, "": CodeNotFound, "/ip4/1.2.3.4": CodeUsage, "/what": CodeUsage,
		"12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp":                          CodeFailed,
		"/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp": CodeFailed,
	} {
		if _, err := c.Ping(soon(t), "", to); code(err) != want {
			t.Errorf("%q: %v, want %s", to, err, want)
		}
	}
}

// monitored starts the smallest network, and gives its payer metrics.
func monitored(t *testing.T) (*devnet.Devnet, Peer) {
	t.Helper()
	d, err := devnet.Start(soon(t), devnet.Config{Dir: t.TempDir(), Validators: 1, Engines: []llm.Engine{echo}, Judge: lengthJudge{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, Peer{Name: "payer", Role: "payer", Node: d.Payer().Node, Metrics: NewRegistry("test")}
}

func TestMonitorTellsHealthAndReadiness(t *testing.T) {
	d, p := monitored(t)
	m, err := ServeMonitor(":0", p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if !strings.HasPrefix(m.Addr(), "127.0.0.1:") {
		t.Errorf("it listens at %s, want this machine alone", m.Addr())
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		r, err := client.Get("http://" + m.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	await := func(path string, status int, text string) {
		t.Helper()
		for limit := soon(t); ; {
			if code, body := get(path); code == status && strings.Contains(body, text) {
				return
			} else if limit.Err() != nil {
				t.Fatalf("%s: %d %s, want %d and %q", path, code, body, status, text)
			}
		}
	}
	await("/readyz", 200, "ready")
	await("/healthz", 200, "ok")
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `poq_build_info{go="go`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d %s", code, body)
	}
	for _, o := range d.Peers {
		if o.Name != "payer" {
			if err := o.Node.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	await("/readyz", 503, "no other peer is connected")
	await("/healthz", 200, "ok")
	if err := p.Node.Close(); err != nil {
		t.Fatal(err)
	}
	await("/healthz", 503, "ending")
	for _, bad := range []string{"nowhere", "127.0.0.1", "127.0.0.1:99999", m.Addr()} {
		if m, err := ServeMonitor(bad, p); err == nil {
			m.Close()
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestMetricsAreThereWhenTheyAreRegistered(t *testing.T) {
	newUser(t)
	dir := t.TempDir()
	d, p := monitored(t)
	s, err := Serve("test", dir, []Peer{{Name: "validator-1", Role: "validator", Node: d.Peers[0].Node}, p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := dial(t, dir)
	if text, err := c.Metrics(soon(t), "payer"); err != nil || !strings.Contains(string(text), "poq_build_info") {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := c.Metrics(soon(t), "validator-1"); code(err) != CodeNotFound {
		t.Errorf("got %v", err)
	}
}

func TestStateOfPeersInProcessesIsPassedOn(t *testing.T) {
	newUser(t)
	processes(t, 1)
	c := dial(t, "")
	for _, name := range []string{"validator-1", "payer"} {
		for limit := soon(t); ; {
			st, err := c.Node(soon(t), name, Look{})
			if err == nil && st.Name == name && len(st.Peers) > 0 && st.Peers[0].Name != "" {
				break
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-limit.Done():
				t.Fatalf("%s: %+v, %v", name, st, err)
			}
		}
	}
	if p, err := c.Ping(soon(t), "payer", "validator-1"); err != nil || p.Name != "validator-1" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := c.Stop(soon(t), "validator-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Node(soon(t), "validator-1", Look{}); code(err) != CodeDown {
		t.Errorf("got %v", err)
	}
}

func TestLogKeepsTheLatestWholeLines(t *testing.T) {
	var l Log
	line := strings.Repeat("x", 99) + "\n"
	for range 20 * maxLog / len(line) {
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
		if b := l.Bytes(); len(b) > maxLog || len(b)%len(line) != 0 || cap(l.all) > 5*maxLog {
			t.Fatalf("%d bytes are kept in %d, want whole lines", len(b), cap(l.all))
		}
	}
	if b := l.Bytes(); len(b) < maxLog-len(line) {
		t.Errorf("only %d bytes are kept", len(b))
	}
}
