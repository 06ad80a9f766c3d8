package netns

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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/p2p"
)

// patience bounds every wait; it only ever matters when something hangs.
const patience = 3 * time.Minute

// network is a network of poq, whose peers run on machines of a world.
type network struct {
	*world
	dir     string
	env     []string
	running []*peer
}

// peer is a process of poq up.
type peer struct {
	n         *network
	on        *machine
	name, dir string
	args      []string
	cmd       *exec.Cmd
	card      control.Status
	stderr    *record
	done      chan struct{} // closed when the process has ended
}

// newNetwork makes a network of these validators and rich accounts, each with a directory of its own.
func (w *world) newNetwork(validators, rich []string) *network {
	w.t.Helper()
	run, err := os.MkdirTemp("", "poq") // short: a socket's path may have 100 characters
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(run) })
	n := &network{world: w, dir: w.t.TempDir(), env: append(os.Environ(), "XDG_RUNTIME_DIR="+run, "TMPDIR="+run, "HOME="+run)}
	// As docs/join.md tells it: everybody makes keys, one of them the genesis, which the others get a copy of.
	maker := n.path("maker")
	n.command("genesis", "new", "homes", "--dir", maker)
	for _, name := range validators {
		n.command("init", "--roles", "validator", "--dir", n.path(name))
		n.command("genesis", "add-validator", n.command("keys", "show", "validator", "--name", name, "--dir", n.path(name)), "--dir", maker)
	}
	for _, name := range rich {
		n.command("init", "--dir", n.path(name))
	}
	for _, name := range append(slices.Clone(validators), rich...) {
		n.command("genesis", "add-account", n.command("keys", "show", "account", "--dir", n.path(name)), "1000", "--name", name, "--dir", maker)
	}
	data, err := os.ReadFile(filepath.Join(maker, "genesis.json"))
	for _, name := range append(slices.Clone(validators), rich...) {
		err = errors.Join(err, os.WriteFile(filepath.Join(n.path(name), "genesis.json"), data, 0o600))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// path is the directory of a peer.
func (n *network) path(name string) string { return filepath.Join(n.dir, name) }

// up starts a peer on a machine and waits until it has printed its card.
func (n *network) up(on *machine, name string, args ...string) *peer {
	n.t.Helper()
	p := &peer{n: n, on: on, name: name, dir: n.path(name), args: args}
	p.start()
	n.running = append(n.running, p)
	return p
}

func (p *peer) start() {
	t := p.n.t
	t.Helper()
	p.cmd = exec.Command(binary, append([]string{"up", "--json", "--dir", p.dir}, p.args...)...)
	p.cmd.Env, p.stderr, p.done = p.n.env, &record{}, make(chan struct{})
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.on.start(p.cmd)
	}
	if err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	in := bufio.NewReader(out)
	if err := json.NewDecoder(in).Decode(&p.card); err != nil {
		_ = p.cmd.Wait()
		t.Fatalf("%s prints no card: %v\n%s", p.name, err, p.stderr)
	}
	cmd, done := p.cmd, p.done
	go func() {
		_, _ = io.Copy(io.Discard, in)
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s (%s) said:\n%s", p.name, p.on.name, p.stderr)
		}
		_ = cmd.Process.Kill()
		<-done
	})
}

// stop ends it as Ctrl-C does.
func (p *peer) stop() {
	p.n.t.Helper()
	p.end(syscall.SIGINT)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.n.t.Errorf("%s ended with exit code %d", p.name, code)
	}
}

// kill ends a peer without warning, as a power cut does.
func (p *peer) kill() { p.end(syscall.SIGKILL) }

func (p *peer) end(s syscall.Signal) {
	p.n.t.Helper()
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.done:
	case <-time.After(patience):
		p.n.t.Fatalf("%s does not end after %v", p.name, s)
	}
	p.n.running = slices.DeleteFunc(p.n.running, func(r *peer) bool { return r == p })
}

// restart starts a peer that has ended, without the token: what it needs to know is in its directory.
func (p *peer) restart() {
	p.n.t.Helper()
	if i := slices.Index(p.args, "--join"); i >= 0 {
		p.args = slices.Delete(slices.Clone(p.args), i, i+2)
	}
	p.start()
	p.n.running = append(p.n.running, p)
}

// poq runs a command about a peer. It may be called from any goroutine.
func (p *peer) poq(args ...string) (stdout string, err error) {
	return p.n.run(append(args, "--dir", p.dir)...)
}

// run runs a command. It may be called from any goroutine.
func (n *network) run(args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = n.env
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err = c.Run(); err != nil {
		err = fmt.Errorf("poq %q: %w\n%s%s", args, err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String()), err
}

// command runs a command that succeeds.
func (n *network) command(args ...string) (stdout string) {
	n.t.Helper()
	out, err := n.run(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// decode runs a command about a peer and decodes the JSON document that it prints.
func decode[T any](p *peer, args ...string) (v T) {
	p.n.t.Helper()
	v, err := tryDecode[T](p, args...)
	if err != nil {
		p.n.t.Fatal(err)
	}
	return v
}

func tryDecode[T any](p *peer, args ...string) (v T, err error) {
	out, err := p.poq(append(args, "--json")...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &v)
	}
	return v, err
}

// token returns the line with which others join by way of the peer.
func (p *peer) token() string {
	p.n.t.Helper()
	out, err := p.poq("token")
	if err != nil {
		p.n.t.Fatal(err)
	}
	return out
}

const passage = `The lighthouse on Gull Rock was built in 1871 by the engineer Marta Lindqvist. It is 34 metres high and
stands on granite. Two keepers lived there until the lamp became electric in 1962. Since then nobody has lived on the rock.`

// ask asks a question on a passage for so many answers, and wants it to be answered and paid.
func (p *peer) ask(question string, answers int) *node.Settlement {
	p.n.t.Helper()
	s, err := p.tryAsk(question, answers)
	if err != nil {
		p.n.t.Fatal(err)
	}
	return s
}

// tryAsk may be called from any goroutine. Whoever does not answer soon, as those do not who have not joined yet, is
// not waited for.
func (p *peer) tryAsk(question string, answers int) (*node.Settlement, error) {
	s, err := tryDecode[*node.Settlement](p, "ask", question+"\n\n"+passage, "--max-answers", strconv.Itoa(answers), "--answer-timeout", "5s", "--score-timeout", "20s")
	if err == nil && s.Outcome != ledger.Paid {
		err = fmt.Errorf("%s asked %q: %v, want it paid: %+v", p.name, question, s.Outcome, s)
	}
	return s, err
}

// answered says whether a worker's answer is among those of a settlement.
func answered(s *node.Settlement, worker *peer) bool {
	return slices.ContainsFunc(s.Answers, func(a node.SettledAnswer) bool {
		return a.Worker.Account == worker.card.Peers[0].Account
	})
}

// answersOf asks a question and returns nothing if a worker is among those who answer, or what is in the way.
func (p *peer) answersOf(workers ...*peer) string {
	s, err := p.tryAsk("Who built the lighthouse?", len(workers))
	if err != nil {
		return err.Error()
	}
	for _, w := range workers {
		if !answered(s, w) {
			return w.name + " has not answered"
		}
	}
	return ""
}

// id is the peer's id.
func (p *peer) id() string { return p.card.Peers[0].PeerID }

// state is what poq status tells of a peer.
func (p *peer) state() control.NodeState {
	p.n.t.Helper()
	return decode[control.NodeState](p, "status")
}

// sees returns nothing if the way to another peer is one that is meant, or what it is.
func (p *peer) sees(other *peer, paths ...p2p.Path) string {
	p.n.t.Helper()
	for _, o := range p.state().Peers {
		if o.ID.String() != other.id() {
			continue
		}
		if slices.Contains(paths, o.Path) {
			return ""
		}
		return fmt.Sprintf("%s reaches %s by the path %q, want %q", p.name, other.name, o.Path, paths)
	}
	return fmt.Sprintf("%s does not know %s", p.name, other.name)
}

// until asks again and again until something is so. What returns what still is in the way, or nothing.
func (n *network) until(what func() string) {
	n.t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := what()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			n.t.Fatalf("after %v: %s", patience, missing)
		}
	}
}

// digest is what stands for all tasks that a peer has settled.
func (p *peer) digest() control.PeerDigest {
	p.n.t.Helper()
	return decode[struct{ Ledgers []control.PeerDigest }](p, "ledger", "digest").Ledgers[0]
}

// agree waits until all peers that run hold one ledger with at least so many tasks, and nothing open in it.
func (n *network) agree(least int) {
	n.t.Helper()
	n.until(func() string {
		var first control.PeerDigest
		for i, p := range n.running {
			d := p.digest()
			a := decode[control.Accounts](p, "ledger", "accounts")
			switch {
			case d.Tasks < least || a.Open > 0:
				return fmt.Sprintf("%s has %d settled and %d open tasks, want %d and none", p.name, d.Tasks, a.Open, least)
			case i == 0:
				first = d
			case d.Digest != first.Digest:
				return fmt.Sprintf("the ledgers of %s and %s differ", p.name, n.running[0].name)
			}
		}
		return ""
	})
}

// record keeps what a running command prints.
type record struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Write implements io.Writer.
func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.Write(b)
}

// String returns what was printed so far.
func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}
