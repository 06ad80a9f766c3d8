//go:build !windows

package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
)

// peerVariable makes the test binary one peer's process: directory, name, socket and how many others there are.
const peerVariable = "POQ_TEST_PEER"

// childPeer runs a peer like poq peer run, with a judge and an engine of the tests.
func childPeer(args []string) error {
	ctx, cancel := devnet.Parent(context.Background(), os.Stdin)
	defer cancel()
	var opts []node.Option
	switch args[1][:3] {
	case "val":
		opts = append(opts, node.WithJudge(lengthJudge{}))
	case "wor":
		opts = append(opts, node.WithEngine(echo))
	}
	p, err := devnet.StartPeer(ctx, args[0], args[1], slog.New(slog.DiscardHandler), opts...)
	if err != nil {
		return err
	}
	s, err := ServePeer("test", args[0], args[2], Peer{Name: p.Name, Role: string(p.Role), Node: p.Node})
	if err != nil {
		return err
	}
	others, err := strconv.Atoi(args[3])
	if err == nil {
		err = p.Announce(ctx, devnet.Look{Others: others, Most: time.Minute}, os.Stdout)
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, s.Close(), p.Node.Close())
}

// processes starts a network of processes and its server.
func processes(t *testing.T, validators int) (*Server, *devnet.Processes) {
	t.Helper()
	dir := t.TempDir()
	name, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	d, err := devnet.StartProcesses(soon(t), devnet.ProcessConfig{
		Dir: dir, Validators: validators, Workers: 1, Judge: lengthJudge{}.ID(), Command: func(p devnet.Peer, look devnet.Look) *exec.Cmd {
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), fmt.Sprintf("%s=%s\n%s\n%s\n%d", peerVariable, dir, p.Name, name.Peer(p.Name), look.Others))
			return c
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	s, err := ServeProcesses("test", dir, name, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, d
}

func TestNetworkOfProcessesAnswersLikeOneProcess(t *testing.T) {
	run := newUser(t)
	s, _ := processes(t, 1)
	c := dial(t, "") // no peer's socket is found instead
	if len(c.Status.Peers) != 3 || c.Status.Socket != s.Socket() {
		t.Fatalf("status %+v", c.Status)
	}
	for _, p := range c.Status.Peers {
		if p.State != devnet.Up || p.PID == 0 || p.PID == os.Getpid() || len(p.Addrs) != 1 {
			t.Errorf("peer %+v", p)
		}
	}
	if p := c.Status.Peers; p[1].Engine != "test" || p[2].Balance != int64(devnet.PayerBalance) {
		t.Errorf("peers %+v", p)
	}
	var steps []string
	got, err := c.Ask(soon(t), AskRequest{Prompt: "hello", MaxAnswers: 1}, func(st Step) { steps = append(steps, st.Step) })
	if err != nil || got.Outcome != ledger.Paid || got.Answers[0].Text != "you said hello" || !slices.Contains(steps, "locked") {
		t.Errorf("settled as %+v after %v, %v", got, steps, err)
	}
	if a, err := c.Accounts(soon(t), "PAYER"); err != nil || a.Peer != "payer" || a.Tasks != 1 {
		t.Errorf("accounts %+v, %v", a, err)
	}
	if st, err := c.Task(soon(t), "", got.Task.String()[:9]); err != nil || st.Task != got.Task {
		t.Errorf("task %+v, %v", st, err)
	}
	if v, err := c.Verify(soon(t), ""); err != nil || len(v) != 3 || !v[0].OK || !v[1].OK || !v[2].OK || v[1].Peer != "worker-1" {
		t.Errorf("verified %+v, %v", v, err)
	}
	for name, want := range map[string]Code{"nobody": CodeNotFound, "what/is this?": CodeNotFound} {
		if _, err := c.Accounts(soon(t), name); code(err) != want {
			t.Errorf("accounts of %q: %v", name, err)
		}
		if _, err := c.Kill(soon(t), name); code(err) != want {
			t.Errorf("kill %q: %v", name, err)
		}
	}
	if _, err := c.Ask(soon(t), AskRequest{}, nil); code(err) != CodeUsage {
		t.Errorf("an empty prompt: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(run, "*", "*.sock")); err != nil || len(left) > 0 {
		t.Errorf("sockets left: %v, %v", left, err)
	}
}

func TestPeerThatIsDownIsNamedAndTheOthersGoOn(t *testing.T) {
	newUser(t)
	processes(t, 4)
	c := dial(t, "")
	p, err := c.Kill(soon(t), "validator-2")
	if err != nil || p.State != devnet.Down || p.PID != 0 || p.Reason == "" || p.Account.IsZero() {
		t.Errorf("killed: %+v, %v", p, err)
	}
	if got, err := c.Ask(soon(t), AskRequest{Prompt: "one is away", MaxAnswers: 1}, nil); err != nil || got.Outcome != ledger.Paid {
		t.Errorf("settled as %+v, %v", got, err)
	}
	if _, err := c.Accounts(soon(t), "validator-2"); code(err) != CodeDown || !strings.Contains(err.Error(), "poq devnet start validator-2") {
		t.Errorf("its accounts: %v", err)
	}
	v, err := c.Verify(soon(t), "")
	if err != nil || len(v) != 6 || v[1].OK || !strings.Contains(v[1].Reason, "down") || !v[0].OK || !v[5].OK {
		t.Errorf("verified %+v, %v", v, err)
	}
	if _, err := c.Stop(soon(t), "validator-2"); code(err) != CodeDown {
		t.Errorf("stopped while down: %v", err)
	}
	if p, err := c.Start(soon(t), "validator-2"); err != nil || p.State != devnet.Up || p.PID == 0 {
		t.Errorf("started: %+v, %v", p, err)
	}
	if v, err := c.Verify(soon(t), "validator-2"); err != nil || len(v) != 1 || !v[0].OK {
		t.Errorf("verified %+v, %v", v, err)
	}

	// The payer dies during an ask.
	_, err = c.Ask(soon(t), AskRequest{Prompt: "wait", MaxAnswers: 1, AnswerTimeoutMS: 60_000}, func(st Step) {
		if st.Step == "locked" {
			if _, err := c.Kill(soon(t), "payer"); err != nil {
				t.Error(err)
			}
		}
	})
	if code(err) != CodePending || !strings.Contains(err.Error(), "poq devnet start payer") {
		t.Errorf("an ask whose payer died: %v", err)
	}
	if _, err := c.Ask(soon(t), AskRequest{Prompt: "hello"}, nil); code(err) != CodeDown {
		t.Errorf("an ask without a payer: %v", err)
	}
	if p, err := c.Stop(soon(t), "worker-1"); err != nil || p.Reason != "stopped" {
		t.Errorf("stopped: %+v, %v", p, err)
	}
}

func TestOneProcessStartsAndEndsNoPeers(t *testing.T) {
	newUser(t)
	network(t)
	c := dial(t, "")
	if _, err := c.Kill(soon(t), "validator-1"); code(err) != CodeUsage || !strings.Contains(err.Error(), "--processes") {
		t.Errorf("kill: %v", err)
	}
}
