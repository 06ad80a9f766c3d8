package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// installTime bounds how long a library may take to be fetched.
const installTime = time.Minute

// installed is a directory that holds what the command puts into its working directory, of the files given, which pin the versions. It
// is kept in the user's cache, one for each tool (what tells its version). The test is skipped where it can't be had.
func installed(t *testing.T, tool, command []string, files ...string) string {
	t.Helper()
	missing := func(format string, a ...any) {
		t.Helper()
		t.Skipf("no library of OpenAI for %s: %s", tool[0], fmt.Sprintf(format, a...))
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTime)
	defer cancel()
	version, err := exec.CommandContext(ctx, tool[0], tool[1:]...).Output()
	if err != nil {
		missing("%v", err)
	}
	key := sha256.New()
	fmt.Fprintf(key, "%s %q %q", version, tool, command)
	content := map[string][]byte{}
	for _, name := range files {
		if content[name], err = os.ReadFile(filepath.Join("testdata/clients", name)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(key, "%s %q", name, content[name])
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	cache = filepath.Join(cache, "poq-e2e")
	dir := filepath.Join(cache, fmt.Sprintf("%s-%x", filepath.Base(tool[0]), key.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	part, err := os.MkdirTemp(cache, "part-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(part)
	for name, data := range content {
		if err := os.WriteFile(filepath.Join(part, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Dir, c.WaitDelay = part, time.Second
	if out, err := c.CombinedOutput(); err != nil {
		missing("%v: %v\n%s", command, err, out)
	}
	if err := os.Rename(part, dir); err != nil { // another run may have been first
		if _, e := os.Stat(dir); e != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pythonLibrary is a directory from which python3 can import openai.
func pythonLibrary(t *testing.T) string {
	t.Helper()
	return installed(t, []string{"python3", "-c", "import sys; print(sys.executable, sys.implementation.cache_tag)"},
		strings.Fields("python3 -m pip install --quiet --target . --no-deps --only-binary :all: --timeout 10 --retries 1 -r requirements.txt"), "requirements.txt")
}

// nodeLibrary is a directory whose node_modules has openai.
func nodeLibrary(t *testing.T) string {
	t.Helper()
	return installed(t, []string{"node", "--version"},
		strings.Fields("npm ci --ignore-scripts --no-audit --no-fund --fetch-timeout 10000 --fetch-retries 1"), "package.json", "package-lock.json")
}

// TestClientsInOtherLanguagesAskTheNetwork runs OpenAI's libraries for Python and Node, whose programs in testdata/clients check
// what they get.
func TestClientsInOtherLanguagesAskTheNetwork(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	n := u.devnet("--engine", "extract", "--workers", "2")
	key := "none"
	run := func(t *testing.T, env, name string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c := exec.CommandContext(ctx, name, args...)
		c.Dir = "testdata/clients"
		c.Env = append(os.Environ(), "POQ_API="+n.card.Peers[len(n.card.Peers)-1].API, "POQ_API_KEY="+key, "PYTHONDONTWRITEBYTECODE=1", env)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Run(); err != nil {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
		}
	}
	ask, stderr := u.command("ask", "--answer-timeout", "8s", "Who are you?"), newRecord() // meanwhile
	ask.Stderr = stderr
	if err := ask.Start(); err != nil {
		t.Fatal(err)
	}
	tasks := 1
	t.Run("python", func(t *testing.T) {
		run(t, "PYTHONPATH="+pythonLibrary(t), "python3", "-m", "unittest", "client.Client", "client.AsyncClient")
		tasks += 11
	})
	t.Run("node", func(t *testing.T) {
		run(t, "POQ_NODE_MODULES="+filepath.Join(nodeLibrary(t), "node_modules"), "node", "client.mjs")
		tasks += 2
	})
	t.Run("python with a key", func(t *testing.T) {
		library := pythonLibrary(t)
		key = strings.TrimSpace(u.poq("api-keys", "new", "web", "--limit", "0.5", "--rate", "1", "--dir", n.card.Dir).ok().stdout)
		run(t, "PYTHONPATH="+library, "python3", "-m", "unittest", "client.KeyedClient")
	})
	if err := ask.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	if !strings.Contains(stderr.String(), "no connected worker answers; if no other one does, the outcome is due in ") {
		t.Errorf("ask does not say that nobody answers:\n%s", stderr)
	}
	n.checkLedgers(tasks) // none was ordered twice
}
