package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/devnet"
)

// failWrites makes the writes of a process fail from now on, as on a full disk.
func failWrites(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: unix.RLIM_INFINITY}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkThatCannotWriteEndsAndSaysWhy(t *testing.T) {
	u := newUser(t)
	args := []string{"--engine", "extract", "--workers", "1", "--dir", filepath.Join(t.TempDir(), "net")}
	n := u.devnet(args...)
	n.askQuick(0)
	failWrites(t, n.card.PID)
	u.poq(append([]string{"ask", "--dir", n.card.Dir, question(1)}, quick...)...) // it may be ordered or not
	select {
	case err := <-n.done:
		n.done = nil
		if last := strings.TrimSpace(n.stderr.String()); err == nil || !strings.Contains(last, "poq: ") || !strings.Contains(last, "file too large") {
			t.Errorf("ended with %v\n%s", err, last)
		}
	case <-time.After(patience):
		t.Fatal("a network that can't write goes on")
	}
	again := u.devnet(args...)
	again.askQuick(2)
	again.waitEqual(2)
	again.stop()
}

func TestValidatorThatCannotWriteStopsAndTheOthersGoOn(t *testing.T) {
	u := newUser(t)
	n := u.processes(4, 1)
	n.askQuick(0)
	failWrites(t, n.status().Peers[2].PID)
	i := 1
	u.until("validator-3 stops", func() bool {
		if s := n.askQuick(i); s.Outcome != ledger.Paid {
			t.Errorf("settled as %+v", s)
		}
		i++
		return n.status().Peers[2].State == devnet.Down
	})
	if r := n.status().Peers[2].Reason; !strings.Contains(r, "vote log") || !strings.Contains(r, "file too large") {
		t.Errorf("validator-3 is down: %s", r)
	}
	if said := n.stderr.String(); !strings.Contains(said, "validator-3 is down") || !strings.Contains(said, "poq devnet start validator-3") || strings.Contains(said, "goroutine") {
		t.Errorf("the network says\n%s", said)
	}
	if s := n.askQuick(i); s.Outcome != ledger.Paid || tookPart(s, 3) {
		t.Errorf("settled as %+v", s)
	}
	n.order("start", "validator-3")
	n.waitEqual(i + 1)
	u.until("validator-3 takes part again", func() bool { return tookPart(n.askQuick(100), 3) })
	n.stop()
}
