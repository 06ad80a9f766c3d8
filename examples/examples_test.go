// Package examples builds and runs the programs that are in its directories.
package examples

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/token"
	"github.com/poqmesh/poq/quality"
)

const patience = 2 * time.Minute

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// build builds the program in a directory and returns its path.
func build(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds programs and runs them")
	}
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.CommandContext(soon(t), "go", "build", "-o", path, "./"+name).CombinedOutput(); err != nil { //nolint:gosec // a name of this test
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return path
}

// output runs a program to its end.
func output(t *testing.T, program string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.CommandContext(soon(t), program, args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, errs.String())
	}
	return out.String(), errs.String()
}

// anything judges all answers alike.
type anything struct{}

func (anything) ID() crypto.Hash { return crypto.Sum([]byte("anything")) }
func (anything) Score(context.Context, string, string) (quality.Score, error) {
	return 7000, nil
}

// network starts validators and a payer, and no workers. It returns the token of the network.
func network(t *testing.T, dir string) (*devnet.Devnet, string) {
	t.Helper()
	d, err := devnet.Start(soon(t), devnet.Config{Dir: dir, Validators: 4, Judge: anything{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	// token.New leaves out 127.0.0.1, which is of no use to others.
	invitation := token.Token{Network: d.Genesis.Network, Chain: d.Genesis.Chain()}
	for _, p := range d.Peers[:4] {
		invitation.Addresses = append(invitation.Addresses, p.Node.Host().Addrs()[0])
	}
	return d, invitation.String()
}

func TestWorkerOfTheExampleAnswersWhoAsksWithTheExample(t *testing.T) {
	t.Parallel()
	ask, worker := build(t, "ask"), build(t, "worker")
	dir := t.TempDir()
	d, invitation := network(t, dir)
	if err := d.Stop(d.Payer()); err != nil { // ask takes over its keys
		t.Fatal(err)
	}

	w := exec.CommandContext(soon(t), worker, "-join", invitation, "-data", filepath.Join(t.TempDir(), "w")) //nolint:gosec // built here
	var said bytes.Buffer
	w.Stderr = &said
	stdout, err := w.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready, account ") {
		t.Errorf("the worker says %q (%v)", line, err)
	} else {
		answer, steps := output(t, ask, "-join", invitation, "-data", filepath.Join(dir, "payer"), "-answers", "1", "6 * (3 + 4)")
		if answer != "42\n" {
			t.Errorf("answer %q", answer)
		}
		if !strings.Contains(steps, "settled") || !strings.Contains(steps, "score 7000 of 10000") {
			t.Errorf("ask says\n%s", steps)
		}
	}
	if runtime.GOOS == "windows" { // which has no interrupts
		_ = w.Process.Kill()
		_ = w.Wait()
		return
	}
	if err := w.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Errorf("interrupted worker: %v\n%s", err, said.String())
	}
	if !t.Failed() && !strings.Contains(said.String(), "earned ") {
		t.Errorf("the worker says\n%s", said.String())
	}
}

func TestJudgeOfTheExamplePrefersJSON(t *testing.T) {
	t.Parallel()
	got, _ := output(t, build(t, "judge"))
	const want = `10000  worker-3  {"capital": "Paris"}
 5000  worker-2  "Paris"
    0  worker-1  Paris, I would say.
`
	if got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
}
