package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServiceUnitIsWhatSystemdTakes has systemd read deploy/poq.service, with the binary under test in the place of the one
// that is to be installed, and judge how much the service may do.
func TestServiceUnitIsWhatSystemdTakes(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze here")
	}
	text, err := os.ReadFile("../deploy/poq.service")
	if err != nil {
		t.Fatal(err)
	}
	const installed = "ExecStart=/usr/local/bin/poq up"
	if !bytes.Contains(text, []byte(installed)) {
		t.Fatalf("the unit has no %s", installed)
	}
	bin, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "poq.service")
	if err := os.WriteFile(unit, bytes.Replace(text, []byte(installed), []byte("ExecStart="+bin+" up"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput(); err != nil || bytes.Contains(out, []byte("poq.service")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// Exposure goes from 0 to 100; a service of the network that is not hardened has 96.
	out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", unit).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

func TestServiceManagerIsToldWhenThePeerIsUpAndWhenItStops(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	path := filepath.Join(m.user.runtimeDir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	heard := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		n, err := l.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:n]), want) {
			t.Fatalf("the service manager heard %q, %v, want %s", b[:n], err, want)
		}
	}
	m.user.env = append(m.user.env, "NOTIFY_SOCKET="+path)
	p := m.up("payer")
	heard("READY=1\nSTATUS=observer of network hamlet")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	heard("STOPPING=1")
	if err := p.signal(syscall.Signal(0)); err != nil {
		t.Errorf("the peer ended with %v", err)
	}
}

// TestPeerRunsAloneInAnEmptyRoot runs the binary as deploy/Containerfile does: nothing else is in its file system, and it
// is not root.
func TestPeerRunsAloneInAnEmptyRoot(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	m := newMachines(t, 1)
	root, err := os.MkdirTemp("", "poq-root-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	const nobody = 65532
	place := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(root, name)
		if data == nil {
			err = os.Mkdir(path, mode)
		} else {
			err = os.WriteFile(path, data, mode)
		}
		if err == nil {
			err = os.Chown(path, nobody, nobody)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	genesis, err := os.ReadFile(filepath.Join(m.path("payer"), "genesis.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	place("poq", program, 0o755)
	place("data", nil, 0o700)
	place("run", nil, 0o700)
	place("data/genesis.json", genesis, 0o600)
	inside := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), "/poq", args...)
		c.Env = []string{"POQ_DIR=/data", "XDG_RUNTIME_DIR=/run", "TMPDIR=/data", "POQ_BIND=127.0.0.1", "POQ_PORT=0", "POQ_ROLES=worker"}
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGINT) }
		return c
	}
	n, err := m.user.launchCommand(inside("up", "--json"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := inside("token", "--json").Output()
	if err != nil || !bytes.Contains(out, []byte("hamlet")) {
		t.Errorf("poq token in the same root: %v\n%s", err, out)
	}
	if n.card.Dir != "/data" || n.card.Peers[0].Role != "worker" {
		t.Errorf("the card is %+v", n.card)
	}
	n.stop()
}
