package devnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/goleak"

	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
)

// peerVariable makes the test binary one peer's process: directory, name and how many others there are.
const peerVariable = "POQ_TEST_PEER"

func TestMain(m *testing.M) {
	if v := os.Getenv(peerVariable); v != "" {
		if err := childPeer(strings.Split(v, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, "poq:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func childPeer(args []string) error {
	ctx, cancel := Parent(context.Background(), os.Stdin)
	defer cancel()
	var opts []node.Option
	switch args[1][:3] {
	case "val":
		opts = append(opts, node.WithJudge(lengthJudge{}))
	case "wor":
		opts = append(opts, node.WithEngine(echo("")))
	}
	p, err := StartPeer(ctx, args[0], args[1], slog.New(slog.DiscardHandler), opts...)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "hello")
	others, err := strconv.Atoi(args[2])
	if err == nil {
		err = p.Announce(ctx, Look{others, time.Minute}, os.Stdout)
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, p.Node.Close())
}

func processConfig(dir string, validators, workers int) ProcessConfig {
	return ProcessConfig{Dir: dir, Validators: validators, Workers: workers, Judge: lengthJudge{}.ID(), Command: func(p Peer, look Look) *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), fmt.Sprintf("%s=%s\n%s\n%d", peerVariable, dir, p.Name, look.Others))
		return c
	}}
}

func startProcesses(t testing.TB, c ProcessConfig) *Processes {
	t.Helper()
	d, err := StartProcesses(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestKilledProcessIsReportedAndStartsAgainWhereItWas(t *testing.T) {
	t.Parallel()
	c := processConfig(t.TempDir(), 4, 1)
	died := make(chan Process, 10)
	c.Died = func(p Process) { died <- p }
	var mu sync.Mutex
	var said bytes.Buffer
	c.Stderr = writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return said.Write(b)
	})
	d := startProcesses(t, c)
	pids := map[int]bool{os.Getpid(): true}
	for _, p := range d.List() {
		if p.State != Up || pids[p.PID] || p.Account.IsZero() || !strings.Contains(p.Addr, p.PeerID.String()) {
			t.Errorf("process %+v", p)
		}
		pids[p.PID] = true
	}
	before := d.List()[1]

	// A crash from outside.
	crashed, err := os.FindProcess(before.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := crashed.Kill(); err != nil {
		t.Fatal(err)
	}
	if p := <-died; p.Name != "validator-2" || p.State != Down || p.PID != 0 || !strings.Contains(p.Reason, "killed") {
		t.Errorf("reported as %+v", p)
	}
	for _, f := range []func(context.Context, string) error{d.Stop, d.Kill} {
		if err := f(soon(t), "validator-2"); !errors.Is(err, ErrIsDown) {
			t.Errorf("ended twice: %v", err)
		}
	}
	// It starts again at its old place, also while another one is down.
	if err := d.Kill(soon(t), "VALIDATOR-3"); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(soon(t), "validator-2"); err != nil {
		t.Fatal(err)
	}
	if p := d.List()[1]; p.State != Up || p.PID == before.PID || p.Addr != before.Addr || p.PeerID != before.PeerID {
		t.Errorf("was %+v, is %+v", before, p)
	}
	if err := d.Start(soon(t), "validator-2"); !errors.Is(err, ErrIsUp) {
		t.Errorf("started twice: %v", err)
	}
	if err := d.Start(soon(t), "nobody"); !errors.Is(err, ErrNoPeer) {
		t.Errorf("started nobody: %v", err)
	}
	if err := d.Stop(soon(t), "payer"); err != nil {
		t.Error(err)
	}
	if p := d.List()[5]; p.State != Down || p.Reason != "stopped" {
		t.Errorf("stopped: %+v", p)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Start(soon(t), "payer"); !errors.Is(err, ErrClosed) {
		t.Errorf("started after the end: %v", err)
	}
	select {
	case p := <-died:
		t.Errorf("%+v was asked to end, and is reported", p)
	default:
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(said.String(), "worker-1: hello\n") {
		t.Errorf("peers said\n%s", said.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestProcessesKeepTheirPlacesOrTakeFreeOnes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := processConfig(dir, 1, 0)
	d := startProcesses(t, c)
	first := d.List()
	if _, err := StartProcesses(soon(t), c); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a directory in use: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = startProcesses(t, c)
	if again := d.List(); again[0].Addr != first[0].Addr || again[1].Addr != first[1].Addr {
		t.Errorf("were at %v, are at %v", first, again)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	place, err := multiaddr.NewMultiaddr(strings.Split(first[0].Addr, "/p2p/")[0])
	if err != nil {
		t.Fatal(err)
	}
	taken, err := manet.Listen(place)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	d = startProcesses(t, c) // somebody else has the port of the first
	if again := d.List(); again[0].Addr == first[0].Addr || again[1].Addr != first[1].Addr {
		t.Errorf("were at %v, are at %v", first, again)
	}
	// In one process the network goes on as well.
	d.Close()
	one := start(t, config(dir, 1))
	if one.Genesis.Chain() != d.Genesis.Chain() {
		t.Error("another network")
	}
}

func TestStartFailsWithTheReasonOfAProcessThatEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := processConfig(dir, 1, 1)
	good := c.Command
	c.Command = func(p Peer, look Look) *exec.Cmd {
		if p.Role == Worker { // its ledger is a file
			if err := os.WriteFile(filepath.Join(dir, p.Name, "ledger"), nil, 0o600); err != nil {
				t.Error(err)
			}
		}
		return good(p, look)
	}
	if _, err := StartProcesses(soon(t), c); err == nil || !strings.Contains(err.Error(), "worker-1") || !strings.Contains(err.Error(), "ledger") {
		t.Errorf("got %v", err)
	}
	c.Command = func(Peer, Look) *exec.Cmd { return exec.Command(filepath.Join(dir, "no such program")) }
	if _, err := StartProcesses(soon(t), c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "worker-1", "ledger")); err != nil {
		t.Fatal(err)
	}
	startProcesses(t, processConfig(dir, 1, 1)) // nothing is left behind
}
