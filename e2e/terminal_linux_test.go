package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poqmesh/poq/node/keystore"
)

// terminal is what a person in front of a command sees and types.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	stdout bytes.Buffer

	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{} // has an element when there is more to see
	ended chan struct{}
}

// terminal runs a command with a terminal of its own. Its stdin is empty, and its stdout a pipe, as in $(...).
func (u *user) terminal(args ...string) *terminal {
	u.t.Helper()
	return u.onTerminal(func(x *terminal, _ *os.File) { x.cmd.Stdout = &x.stdout }, args...)
}

// screen runs a command that draws on a terminal of so many characters and lines.
func (u *user) screen(width, height uint16, args ...string) *terminal {
	u.t.Helper()
	return u.onTerminal(func(x *terminal, slave *os.File) {
		x.cmd.Stdin, x.cmd.Stdout = slave, slave
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
			u.t.Fatal(err)
		}
	}, args...)
}

// onTerminal runs a command whose stderr is a terminal; prepare connects the rest.
func (u *user) onTerminal(prepare func(x *terminal, slave *os.File), args ...string) *terminal {
	u.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		u.t.Skipf("no terminals to be had: %v", err)
	}
	u.t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		u.t.Fatal(err)
	}
	number := -1
	if e := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); e != nil || err != nil {
		u.t.Fatal(errors.Join(e, err))
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		u.t.Skipf("no terminals to be had: %v", err)
	}
	defer slave.Close()
	x := &terminal{t: u.t, master: master, cmd: u.command(args...), more: make(chan struct{}, 1), ended: make(chan struct{})}
	x.cmd.Stderr = slave
	prepare(x, slave)
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2}
	if err := x.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	go func() {
		defer close(x.ended)
		buf := make([]byte, 1024)
		for {
			n, err := master.Read(buf)
			x.mu.Lock()
			x.shown.Write(buf[:n])
			x.mu.Unlock()
			select {
			case x.more <- struct{}{}:
			default:
			}
			if err != nil { // EIO: nobody holds the other end any more
				return
			}
		}
	}()
	return x
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

// answer waits for a question and types a line, which ends in \r as the Enter key does.
func (x *terminal) answer(question, line string) *terminal {
	x.t.Helper()
	deadline := time.After(patience)
	for !strings.HasSuffix(x.text(), question) {
		select {
		case <-x.more:
		case <-x.ended:
			x.t.Fatalf("no question %q: %q", question, x.text())
		case <-deadline:
			x.t.Fatalf("no question %q: %q", question, x.text())
		}
	}
	if _, err := io.WriteString(x.master, line); err != nil {
		x.t.Fatal(err)
	}
	return x
}

// wait returns how the command ended.
func (x *terminal) wait() *result {
	x.t.Helper()
	err := x.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		x.t.Fatal(err)
	}
	<-x.ended
	return &result{x.t, x.cmd.Args[1:], x.stdout.String(), strings.ReplaceAll(x.text(), "\r\n", "\n"), x.cmd.ProcessState.ExitCode()}
}

func TestPassphraseIsAskedForOnATerminalAndNotShown(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	const secret = "correct horse"
	made := u.terminal("init", "--json", "--encrypt", "--dir", dir).
		answer("New passphrase for "+dir+": ", secret+"\r").answer("Once more: ", secret+"\r").wait()
	if card := decode[peerCard](made); !card.Encrypted {
		t.Errorf("%+v", card)
	}
	text := mustWriteFile(t, filepath.Join(t.TempDir(), "text"), "hello", 0o600)
	question := "Passphrase of the keys in " + dir + ": "
	signed := u.terminal("keys", "sign", text, "--dir", dir).answer(question, secret+"\r").wait().ok()
	account := u.line("keys", "show", "account", "--dir", dir)
	u.poq("keys", "verify", account, strings.TrimSpace(signed.stdout), text).ok()
	wrong := u.terminal("keys", "sign", text, "--dir", dir).answer(question, "battery\r").wait()
	wrong.fails(1, "wrong passphrase")
	for _, r := range []*result{made, signed, wrong} {
		if strings.Contains(r.stderr, secret) || strings.Contains(r.stderr, "battery") {
			t.Errorf("a passphrase was shown: %q", r.stderr)
		}
	}

	fresh := peerDir(t)
	u.terminal("init", "--encrypt", "--dir", fresh).answer("New passphrase for "+fresh+": ", "one\r").answer("Once more: ", "two\r").wait().fails(1, "differ")
	u.terminal("init", "--encrypt", "--dir", fresh).answer("New passphrase for "+fresh+": ", "\r").wait().fails(1, "empty")
	if _, err := os.Stat(keystore.Peer.Path(fresh)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key was made (%v)", err)
	}
}

func TestInterruptAtThePassphraseLeavesTheTerminalAsItWas(t *testing.T) {
	u, dir := newUser(t), peerDir(t)
	x := u.terminal("init", "--encrypt", "--dir", dir)
	const interrupt = "\x03"
	x.answer("New passphrase for "+dir+": ", interrupt)
	x.wait().fails(1, "interrupted")
	raw, err := x.master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var state *unix.Termios
	if e := raw.Control(func(fd uintptr) { state, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) }); e != nil || err != nil {
		t.Fatal(errors.Join(e, err))
	}
	if state.Lflag&unix.ECHO == 0 {
		t.Error("the terminal shows nothing that is typed any more")
	}
}

func TestTopDrawsUntilItIsQuit(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.devnet("--validators", "1", "--workers", "1", "--engine", "extract")
	u.env = append(u.env, "NO_COLOR=1")
	x := u.screen(70, 12, "top", "--interval", "100ms")
	const frame = "\x1b[J" // ends a frame
	until := func(frames int) string {
		t.Helper()
		for late := time.After(patience); strings.Count(x.text(), frame) < frames; {
			select {
			case <-x.more:
			case <-x.ended:
				t.Fatalf("top has ended: %q", x.text())
			case <-late:
				t.Fatalf("no %d frames: %q", frames, x.text())
			}
		}
		return x.text()
	}
	text := until(3)
	for _, want := range []string{"poq top   network devnet-", "q quits", "validator-1", "payer", "% CPU", "0 settled"} {
		if !strings.Contains(text, want) {
			t.Errorf("top does not show %q: %q", want, text)
		}
	}
	for _, row := range strings.Split(strings.Split(text, frame)[1], "\r\n") {
		row = strings.NewReplacer("\x1b[H", "", "\x1b[K", "").Replace(row)
		if n := len([]rune(row)); n > 70 || strings.Contains(row, "\x1b") {
			t.Errorf("a row of %d characters: %q", n, row)
		}
	}
	wide, err := x.master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := wide.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 200})
	}); e != nil || err != nil {
		t.Fatal(errors.Join(e, err))
	}
	text = until(strings.Count(text, frame) + 3)
	if last := strings.Split(text, frame); !strings.Contains(last[len(last)-2], "0 scored") {
		t.Errorf("a wider screen shows no more: %q", last[len(last)-2])
	}
	if _, err := io.WriteString(x.master, "q"); err != nil {
		t.Fatal(err)
	}
	if r := x.wait(); r.code != 0 || !strings.HasSuffix(r.stderr, "\x1b[?25h\x1b[?1049l") {
		t.Errorf("top ended with %d: %q", r.code, r.stderr)
	}
}
