package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// step is a block of commands in docs/join.md, with the machine that it is for.
type step struct{ machine, commands string }

func joinSteps(t *testing.T) (steps []step) {
	t.Helper()
	page, err := os.ReadFile("../docs/join.md")
	if err != nil {
		t.Fatal(err)
	}
	machine := ""
	for _, m := range regexp.MustCompile("(?s)On \\*\\*([a-z]+)\\*\\*|```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if m[1] != "" {
			machine = m[1]
			continue
		}
		steps = append(steps, step{machine, m[2]})
	}
	return steps
}

// newReader is a user who pastes commands of a page: poq is in the path, and there is a home directory. Only what keeps several peers
// on one machine apart is set from outside: where they listen.
func newReader(t *testing.T) *user {
	t.Helper()
	bin := t.TempDir()
	program, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(bin, "poq")); err != nil {
		t.Fatal(err)
	}
	u := newUser(t)
	u.env = append(u.env, "HOME="+t.TempDir(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"POQ_BIND=127.0.0.1", "POQ_PORT=0", "POQ_MDNS=false", "POQ_PORT_MAP=false")
	return u
}

// shell is what a terminal does with commands, but that it ends at the first one that fails.
func (u *user) shell(commands string) *exec.Cmd {
	c := exec.CommandContext(u.t.Context(), "sh", "-e", "-c", commands)
	c.Env = u.env
	return c
}

// TestPageOnJoiningIsTrue runs docs/join.md as it stands, with a reader in the place of each machine.
func TestPageOnJoiningIsTrue(t *testing.T) {
	t.Parallel()
	machines := map[string]*user{}
	shell := func(s step) *exec.Cmd {
		u := machines[s.machine]
		if u == nil {
			u = newReader(t)
			machines[s.machine] = u
		}
		return u.shell(s.commands)
	}
	said := map[string]string{} // what stands for the words in capitals
	var last string
	ups := 0
	for _, s := range joinSteps(t) {
		for word, value := range said {
			s.commands = strings.ReplaceAll(s.commands, word, value)
		}
		if strings.HasPrefix(s.commands, "poq up") {
			ups++
			c, stderr := shell(step{s.machine, "exec " + s.commands}), newRecord()
			c.Stderr = stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := c.Process.Signal(syscall.SIGINT); err != nil {
					t.Error(err)
				}
				if err := c.Wait(); err != nil {
					t.Errorf("poq up on %s ended with %v\n%s", s.machine, err, stderr)
				}
			}()
			stderr.await(t, "peer is up")
			continue
		}
		c := shell(s)
		var stdout, stderr bytes.Buffer
		c.Stdout, c.Stderr = &stdout, &stderr
		if err := c.Run(); err != nil {
			t.Fatalf("on %s: %v\n%s\n%s%s", s.machine, err, s.commands, stdout.String(), stderr.String())
		}
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		last = stdout.String()
		switch {
		case s.machine == "ben" && strings.HasPrefix(s.commands, "poq init"):
			said["BEN"] = lines[len(lines)-1]
		case s.commands == "poq token\n":
			said["TOKEN"] = lines[0]
		}
	}
	if ups != 3 || len(machines) != 3 {
		t.Errorf("the page starts %d peers on %d machines", ups, len(machines))
	}
	// The last block asked, and showed the accounts: cleo was paid.
	for _, words := range []string{"anna", "ben", "1 settled tasks, 0 open", "supply 1000"} {
		if !strings.Contains(last, words) {
			t.Errorf("at last the page shows no %q:\n%s", words, last)
		}
	}
}
