package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

// binary is the program under test: POQ_BIN, or one built for the tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if binary = os.Getenv("POQ_BIN"); binary == "" {
			dir, err := os.MkdirTemp("", "poq-e2e-")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
			binary = filepath.Join(dir, "poq")
			build := exec.Command("go", "build", "-o", binary, "../cmd/poq")
			build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building poq: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// user is somebody with a shell of their own: networks of one user are not seen by another.
type user struct {
	runtimeDir string
	t          *testing.T
	env        []string
}

func newUser(t *testing.T) *user {
	run, err := os.MkdirTemp("", "poq") // short: a socket's path may have 100 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	return &user{run, t, append(os.Environ(), "XDG_RUNTIME_DIR="+run, "TMPDIR="+run)}
}

// result is what a command printed and how it ended.
type result struct {
	t              *testing.T
	args           []string
	stdout, stderr string
	code           int
}

// patience bounds every command; it only ever matters when something hangs.
const patience = 3 * time.Minute

func (u *user) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(u.t.Context(), binary, args...)
	c.Env = u.env
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGINT) }
	c.WaitDelay = 20 * time.Second
	return c
}

// poq runs a command to its end.
func (u *user) poq(args ...string) *result { return u.poqIn("", args...) }

func (u *user) poqIn(stdin string, args ...string) *result {
	u.t.Helper()
	r, err := u.run(stdin, args...)
	if err != nil {
		u.t.Fatal(err)
	}
	return r
}

// run runs a command to its end, however that is. Unlike the others it may be called from any goroutine.
func (u *user) run(stdin string, args ...string) (*result, error) {
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	c.Env, c.Stdin = u.env, strings.NewReader(stdin)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal that it could ask for a passphrase
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return nil, fmt.Errorf("poq %v: %w\n%s", args, errors.Join(err, ctx.Err()), errs.String())
	}
	return &result{u.t, args, out.String(), errs.String(), c.ProcessState.ExitCode()}, nil
}

// ok asserts that the command succeeded.
func (r *result) ok() *result {
	r.t.Helper()
	if r.code != 0 {
		r.t.Fatalf("poq %q: exit code %d\n%s%s", r.args, r.code, r.stdout, r.stderr)
	}
	return r
}

// fails asserts how the command failed: its exit code, and one clear line that has all the words.
func (r *result) fails(code int, words ...string) *result {
	r.t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	last := lines[len(lines)-1]
	if r.code != code || !strings.HasPrefix(last, "poq: ") {
		r.t.Errorf("poq %q: exit code %d, want %d\nstdout: %s\nstderr: %s", r.args, r.code, code, r.stdout, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(last, w) {
			r.t.Errorf("poq %q says %q, want %q in it", r.args, last, w)
		}
	}
	if r.stdout != "" {
		r.t.Errorf("poq %q failed and printed to stdout: %s", r.args, r.stdout)
	}
	return r
}

// decode reads the JSON document that a command printed.
func decode[T any](r *result) (v T) {
	r.t.Helper()
	r.ok()
	d := json.NewDecoder(strings.NewReader(r.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		r.t.Fatalf("poq %q: %v\n%s", r.args, err, r.stdout)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		r.t.Errorf("poq %q printed more than one document", r.args)
	}
	return v
}

// network is a devnet or a peer that runs.
type network struct {
	user   *user
	card   control.Status
	cmd    *exec.Cmd
	stderr *record
	done   chan error
}

// record keeps what a running command prints.
type record struct {
	mu      sync.Mutex
	all     bytes.Buffer
	changed chan struct{} // closed and made anew at each write
}

func newRecord() *record { return &record{changed: make(chan struct{})} }

// await returns when all the words were printed.
func (r *record) await(t *testing.T, words ...string) {
	t.Helper()
	late := time.After(patience)
	for {
		r.mu.Lock()
		text, changed := r.all.String(), r.changed
		r.mu.Unlock()
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%q was not printed:\n%s", words, text)
		}
	}
}

// Write implements io.Writer.
func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
	return r.all.Write(b)
}

// String returns what was printed so far.
func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

// devnet starts one and waits for its card.
func (u *user) devnet(args ...string) *network {
	u.t.Helper()
	n, err := u.tryDevnet(args...)
	if err != nil {
		u.t.Fatal(err)
	}
	return n
}

func (u *user) tryDevnet(args ...string) (*network, error) {
	return u.launch(append([]string{"devnet", "--json"}, args...)...)
}

// launch starts a command that prints a card and runs on.
func (u *user) launch(args ...string) (*network, error) {
	return u.launchCommand(u.command(args...))
}

func (u *user) launchCommand(c *exec.Cmd) (*network, error) {
	n := &network{user: u, cmd: c, stderr: newRecord(), done: make(chan error, 1)}
	n.cmd.Stderr = n.stderr
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	in := bufio.NewReader(out)
	if err := json.NewDecoder(in).Decode(&n.card); err != nil {
		_ = n.cmd.Wait()
		return nil, fmt.Errorf("%v: %w\n%s", c.Args, err, n.stderr)
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		n.done <- n.cmd.Wait()
	}()
	u.t.Cleanup(func() { n.signal(syscall.SIGKILL) })
	return n, nil
}

// signal sends a signal and waits for the end.
func (n *network) signal(s os.Signal) error {
	if n.cmd.Process.Signal(s) != nil && n.done == nil {
		return nil
	}
	if n.done == nil {
		return nil
	}
	select {
	case err := <-n.done:
		n.done = nil
		return err
	case <-time.After(patience):
		n.user.t.Errorf("devnet does not end after %v", s)
		return nil
	}
}

// stop ends the network as Ctrl-C does.
func (n *network) stop() {
	n.user.t.Helper()
	if err := n.signal(os.Interrupt); err != nil {
		n.user.t.Errorf("devnet ended with %v\n%s", err, n.stderr)
	}
}

// waitSettled asks until all peers have settled so many tasks, which a network that was killed must reach
// by itself.
func (n *network) waitSettled(tasks int) {
	n.user.t.Helper()
	behind := ""
	for begin := time.Now(); time.Since(begin) < patience; {
		behind = ""
		for _, p := range n.card.Peers {
			a := decode[control.Accounts](n.user.poq("ledger", "accounts", "--json", "--dir", n.card.Dir, "--peer", p.Name))
			if a.Tasks != tasks || a.Open != 0 {
				behind = fmt.Sprintf("%s has %d settled and %d open tasks, want %d", p.Name, a.Tasks, a.Open, tasks)
			}
		}
		if behind == "" {
			return
		}
	}
	n.user.t.Fatal(behind)
}

// checkLedgers asserts that all peers hold the same ledger, and that it verifies.
func (n *network) checkLedgers(tasks int) {
	n.user.t.Helper()
	n.waitSettled(tasks)
	t := n.user.t
	results := decode[[]control.PeerVerification](n.user.poq("ledger", "verify", "--json", "--dir", n.card.Dir))
	if len(results) != len(n.card.Peers) {
		t.Errorf("%d ledgers verified, want %d", len(results), len(n.card.Peers))
	}
	var first control.Accounts
	var outcomes []byte
	for i, r := range results {
		if !r.OK || r.Tasks != tasks || r.Open != 0 {
			t.Errorf("ledger of %s: %+v, want %d tasks verified", r.Peer, r, tasks)
		}
		a := decode[control.Accounts](n.user.poq("ledger", "accounts", "--json", "--dir", n.card.Dir, "--peer", r.Peer))
		sum := int64(a.Escrow)
		for _, e := range a.Accounts {
			sum += e.Balance
		}
		if sum != int64(a.Supply) {
			t.Errorf("ledger of %s: accounts and escrow make %d, the supply is %d (I6)", r.Peer, sum, a.Supply)
		}
		a.Peer = ""
		var all []*node.Settlement
		for _, task := range decode[[]control.Task](n.user.poq("ledger", "tasks", "--json", "--dir", n.card.Dir, "--peer", r.Peer, "-n", "1000")) {
			s := decode[node.TaskStatus](n.user.poq("ledger", "task", task.Task.String(), "--json", "--dir", n.card.Dir, "--peer", r.Peer)).Settlement
			s.Signers = nil // they may differ between peers
			all = append(all, s)
		}
		slicesSortByNonce(all)
		data, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first, outcomes = a, data
			continue
		}
		if fmt.Sprint(a) != fmt.Sprint(first) {
			t.Errorf("%s holds other accounts than %s:\n%v\n%v", r.Peer, results[0].Peer, a, first)
		}
		if !bytes.Equal(outcomes, data) {
			t.Errorf("%s holds other settlements than %s:\n%s\n%s", r.Peer, results[0].Peer, data, outcomes)
		}
	}
}
