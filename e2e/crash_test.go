package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
)

func (n *network) askQuick(i int) *node.Settlement {
	n.user.t.Helper()
	return n.ask(append([]string{question(i)}, quick...)...)
}

// tookPart says whether a validator's scores count in a settlement.
func tookPart(s *node.Settlement, validator int) bool {
	v := s.Validators[validator-1]
	return v.Sealed && v.Revealed
}

// until repeats something until it is true.
func (u *user) until(what string, f func() bool) {
	u.t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; {
		if f() {
			return
		}
	}
	u.t.Fatalf("in vain: %s", what)
}

// asking is an ask that goes on in the background.
type asking struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	lines  *bufio.Scanner // of stderr
}

func (n *network) askInBackground(args ...string) *asking {
	n.user.t.Helper()
	a := &asking{cmd: n.user.command(append([]string{"ask", "--json", "--dir", n.card.Dir}, args...)...)}
	a.cmd.Stdout = &a.stdout
	stderr, err := a.cmd.StderrPipe()
	if err != nil {
		n.user.t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		n.user.t.Fatal(err)
	}
	a.lines = bufio.NewScanner(stderr)
	return a
}

// says waits until the ask prints a word.
func (a *asking) says(word string) bool {
	for a.lines.Scan() {
		if strings.Contains(a.lines.Text(), word) {
			return true
		}
	}
	return false
}

func TestNetworkSettlesWithoutAValidatorWhichCatchesUp(t *testing.T) {
	u := newUser(t)
	n := u.processes(4, 2)
	n.askQuick(0)
	n.order("kill", "validator-2")
	u.until("the supervisor shows the kill", func() bool { return n.status().Peers[1].State == devnet.Down })
	for i := range 3 {
		s := n.askQuick(1 + i)
		if s.Outcome != ledger.Paid || tookPart(s, 2) || slices.Contains(s.Signers, 1) {
			t.Errorf("settled without validator-2 as %+v", s)
		}
	}
	if n.waitEqual(4) != 4 || len(n.digests()) != 6 {
		t.Errorf("ledgers without validator-2: %v", n.digests())
	}
	n.order("start", "validator-2")
	if n.waitEqual(4) != 4 || len(n.digests()) != 7 {
		t.Errorf("ledgers with validator-2: %v", n.digests())
	}
	u.until("validator-2 takes part again", func() bool { return tookPart(n.askQuick(10), 2) })
	n.stop()
}

func TestTooFewValidatorsSettleNothingAndGoOnWhenOneReturns(t *testing.T) {
	u := newUser(t)
	n := u.processes(4, 1)
	n.order("stop", "worker-1")
	locked := n.askInBackground("--fee", "0.01", "--answer-timeout", "3s", "--score-timeout", "2m", "Is anybody working?")
	if !locked.says("locked") {
		t.Fatal("no lock")
	}
	n.order("kill", "validator-3", "validator-4")
	// Half a minute after the score deadline the second one gives up, and nothing is decided of either.
	u.poq("ask", "--dir", n.card.Dir, "--fee", "0.01", "--answer-timeout", "1s", "--score-timeout", "1s", "Is anybody voting?").fails(1, "not settled yet")
	for _, p := range []string{"validator-1", "validator-2", "payer"} {
		if tasks, open := n.settledAt(p); tasks != 0 || open != 1 {
			t.Errorf("%s has %d settled and %d open tasks with half of the validators", p, tasks, open)
		}
	}
	n.order("start", "validator-3")
	if !locked.says("settled") {
		t.Error("what was locked is not settled")
	}
	if err := locked.cmd.Wait(); err != nil || !strings.Contains(locked.stdout.String(), `"NO_ANSWERS"`) {
		t.Errorf("the first ask: %v\n%s", err, locked.stdout.String())
	}
	n.waitEqual(2) // the second one too, which was not even locked
	n.order("start", "validator-4", "worker-1")
	if s := n.askQuick(0); s.Outcome != ledger.Paid {
		t.Errorf("settled as %+v", s)
	}
	if n.waitEqual(3) != 3 {
		t.Errorf("ledgers: %v", n.digests())
	}
	n.stop()
}

func TestValidatorWithAnOldVoteLogDoesNotSign(t *testing.T) {
	u := newUser(t)
	n := u.processes(4, 1)
	n.askQuick(0)
	votes := filepath.Join(n.card.Dir, "validator-4", "votes")
	backup := filepath.Join(t.TempDir(), "votes")
	n.order("stop", "validator-4")
	if err := os.CopyFS(backup, os.DirFS(votes)); err != nil {
		t.Fatal(err)
	}
	n.order("start", "validator-4")
	u.until("validator-4 takes part", func() bool { return tookPart(n.askQuick(1), 4) })
	n.order("kill", "validator-4")
	if err := os.RemoveAll(votes); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(votes, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	n.order("start", "validator-4")
	u.until("validator-4 says that its log is old", func() bool {
		return strings.Contains(n.stderr.String(), "validator-4: ") && strings.Contains(n.stderr.String(), "the vote log lacks votes that were sent")
	})
	for i := range 3 {
		s := n.askQuick(10 + i)
		if s.Outcome != ledger.Paid || tookPart(s, 4) || slices.Contains(s.Signers, 3) {
			t.Errorf("settled with a validator that forgot its votes: %+v", s)
		}
	}
	if s := n.status().Peers[3]; s.State != devnet.Up || !strings.Contains(s.Refusal, "the vote log lacks votes") { // it follows
		t.Errorf("validator-4: %+v", s)
	}
	n.waitEqual(5)
	n.stop()
}

func TestValidatorThatLostItsLedgerSignsAgainOnceItHasCaughtUp(t *testing.T) {
	u := newUser(t)
	n := u.processes(4, 1)
	for i := range 3 {
		n.askQuick(i)
	}
	n.order("stop", "validator-4")
	if err := os.RemoveAll(filepath.Join(n.card.Dir, "validator-4", "ledger")); err != nil {
		t.Fatal(err)
	}
	n.order("start", "validator-4")
	n.waitEqual(3)
	u.until("validator-4 takes part again", func() bool {
		if r := n.status().Peers[3].Refusal; r != "" { // votes of settled tasks were purged
			if !strings.Contains(r, "started again") {
				t.Fatalf("validator-4 refuses: %s", r)
			}
			n.order("stop", "validator-4")
			n.order("start", "validator-4")
		}
		return tookPart(n.askQuick(10), 4)
	})
	n.stop()
}

func TestStartThatIsKilledCanBeRepeated(t *testing.T) {
	u := newUser(t)
	dir := filepath.Join(t.TempDir(), "net")
	args := []string{"--processes", "--engine", "extract", "--dir", dir, "--workers", "1"}
	r := rand.New(rand.NewPCG(chaosSeed(t), 1))
	for range 4 {
		c := u.command(append([]string{"devnet"}, args...)...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(r.Int64N(int64(1500 * time.Millisecond))))
		_ = c.Process.Signal(syscall.SIGKILL)
		_ = c.Wait()
	}
	again := func() (n *network) {
		u.until("the peers of a killed network end", func() bool {
			var err error
			if n, err = u.tryDevnet(args...); err != nil && !strings.Contains(err.Error(), "in use") {
				t.Fatal(err)
			}
			return err == nil
		})
		return n
	}
	n := again()
	n.askQuick(0)
	if err := n.signal(syscall.SIGKILL); err == nil {
		t.Error("a killed network ended well")
	}
	n = again()
	n.askQuick(1)
	if tasks := n.waitEqual(2); tasks != 2 {
		t.Errorf("%d tasks", tasks)
	}
	n.stop()
	fmt.Fprint(t.Output(), n.stderr)
}
