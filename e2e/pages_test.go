package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// block is a piece of a page between fences.
type block struct{ language, text string }

func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		all = append(all, block{m[1], m[2]})
	}
	return all
}

// paste runs commands to their end, from a directory, and returns how that was.
func (u *user) paste(dir, commands string) *result {
	u.t.Helper()
	var out, errs bytes.Buffer
	c := u.shell(commands)
	c.Dir, c.Stdout, c.Stderr = dir, &out, &errs
	if err := c.Run(); err != nil && c.ProcessState == nil {
		u.t.Fatalf("%s: %v", commands, err)
	}
	return &result{u.t, []string{commands}, out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// running is a command that goes on until it is interrupted.
type running struct {
	stdout, stderr *record
	end            func()
}

func (u *user) start(dir, command string) running {
	u.t.Helper()
	r := running{stdout: newRecord(), stderr: newRecord()}
	c := u.shell(command)
	c.Dir, c.Stdout, c.Stderr = dir, r.stdout, r.stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal interrupts all that the command has started
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGINT) }
	if err := c.Start(); err != nil {
		u.t.Fatal(err)
	}
	ended := false
	r.end = func() {
		if !ended {
			ended = true
			_ = c.Cancel()
			_ = c.Wait()
		}
	}
	u.t.Cleanup(r.end)
	return r
}

// network starts a network for a page that wants one.
func (u *user) network(engine string) {
	u.t.Helper()
	u.devnet("--validators", "1", "--workers", "1", "--engine", engine)
	u.env = append(u.env, "POQ_JOIN="+strings.TrimSpace(u.poq("token").ok().stdout))
}

func TestPageOnTheGatewayIsTrue(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip(err)
	}
	u := newReader(t)
	at, did := "127.0.0.1:8080", map[string]int{} // the page's port may be taken
	for _, b := range blocks(t, "../docs/gateway.md") {
		text := strings.ReplaceAll(b.text, "127.0.0.1:8080", at)
		switch {
		case strings.HasPrefix(text, "poq devnet"):
			devnet := u.start("", strings.Replace(strings.TrimSpace(text), at, "127.0.0.1:0", 1)+" --workers 1 --validators 1 --engine smol,max-tokens=16")
			devnet.stdout.await(t, "Ctrl-C ends the network")
			at = regexp.MustCompile(`API +http://([0-9.:]+)/v1`).FindStringSubmatch(devnet.stdout.String())[1]
			u.env = append(u.env, "POQ_JOIN="+strings.TrimSpace(u.poq("token").ok().stdout))
		case b.language == "sh" && strings.HasPrefix(text, "curl"):
			var answer struct {
				Object string
				Error  any
			}
			if r := u.paste("", text).ok(); json.Unmarshal([]byte(r.stdout), &answer) != nil || answer.Object == "" || answer.Error != nil {
				t.Errorf("%s\n%s", text, r.stdout)
			}
		case b.language == "sh" && strings.Contains(text, "poq up --api 0.0.0.0:8080"):
			u.paste("", "poq init").ok() // the page speaks of a peer that is there
			keys, up, _ := strings.Cut(text, "poq up")
			if key := u.paste("", keys).ok().stdout; len(strings.TrimSpace(key)) < 40 {
				t.Errorf("this is no key: %q", key)
			}
			peer := u.start("", "poq up"+strings.Replace(up, "0.0.0.0:8080", "0.0.0.0:0", 1))
			peer.stderr.await(t, "peer is up")
			peer.end()
		case b.language == "python":
			t.Run("python", func(t *testing.T) {
				c := exec.CommandContext(t.Context(), "python3", "-c", text)
				c.Env = append(os.Environ(), "PYTHONPATH="+pythonLibrary(t))
				said(t, c)
			})
		case b.language == "js":
			t.Run("node", func(t *testing.T) {
				dir := t.TempDir()
				if err := os.Symlink(filepath.Join(nodeLibrary(t), "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
					t.Fatal(err)
				}
				said(t, exec.CommandContext(t.Context(), "node", writeFile(t, filepath.Join(dir, "ask.mjs"), text)))
			})
		case b.language == "go":
			program := writeFile(t, filepath.Join(t.TempDir(), "main.go"), `package main

import (
	"context"
	"fmt"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

func main() {
	ctx := context.Background()`, text, `	if err != nil {
		panic(err)
	}
	fmt.Println(answer.Choices[0].Message.Content)
}`)
			said(t, exec.CommandContext(t.Context(), "go", "run", program))
		case b.language == "sh":
			t.Errorf("nobody has tried this:\n%s", text)
		default:
			continue // it is shown only
		}
		did[b.language]++
	}
	if did["sh"] < 3 || did["python"] != 1 || did["js"] != 1 || did["go"] != 1 {
		t.Errorf("tried %v of the page", did)
	}
}

// said runs a program, which must print something.
func said(t *testing.T, c *exec.Cmd) {
	t.Helper()
	var errs bytes.Buffer
	c.Stderr = &errs
	if out, err := c.Output(); err != nil || len(bytes.TrimSpace(out)) == 0 {
		t.Errorf("%v: %v, it prints %q\n%s", c.Args[0], err, out, errs.String())
	}
}

func TestPageOnBackendsIsTrue(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `{"object":"list","data":[{"id":"Qwen/Qwen2.5-0.5B-Instruct","object":"model"}]}`)
	}))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://")
	there := strings.NewReplacer("gpu.example:8000", at, "gpu.example", at, "127.0.0.1:9000", at)
	u := newReader(t)
	u.network("smol,max-tokens=16,alias=small")
	home := u.paste("", `echo "$HOME/.poq"`).stdout
	settings := filepath.Join(strings.TrimSpace(home), "config.toml")
	ups := 0
	up := func(command string) {
		peer := u.start("", command)
		peer.stderr.await(t, "peer is up")
		peer.end()
		ups++
	}
	for _, b := range blocks(t, "../docs/backends.md") {
		text := there.Replace(b.text)
		switch {
		case b.language == "toml":
			if err := os.MkdirAll(filepath.Dir(settings), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, settings, text)
			up("poq up --roles worker")
			if err := os.Remove(settings); err != nil {
				t.Fatal(err)
			}
		case b.language != "sh" || strings.Contains(text, "go test"): // the latter is TestWorkerAnswersThroughARealModelServerAndWithoutIt
		case strings.Contains(text, "poq up"):
			up(text)
		case strings.HasPrefix(text, "poq engines detect"):
			for line := range strings.Lines(text) {
				// At the usual ports of this machine may be a server, or not.
				if r := u.paste("", line); r.code != 0 && (strings.Contains(line, "--at") || !strings.Contains(r.stderr, "no model server")) {
					r.ok()
				}
			}
		case strings.HasPrefix(text, "poq ask"):
			u.paste("", text).ok()
		default:
			t.Errorf("nobody has tried this:\n%s", text)
		}
	}
	if ups < 4 {
		t.Errorf("the page starts %d workers", ups)
	}
}

func TestPageOnEmbeddingIsTrue(t *testing.T) {
	t.Parallel()
	u := newReader(t)
	u.network("extract")
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} { // what a home directory has that is not new
		where, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		u.env = append(u.env, name+"="+strings.TrimSpace(string(where)))
	}
	ran := 0
	for _, b := range blocks(t, "../docs/embedding.md") {
		text := strings.ReplaceAll(b.text, "-data ./", "-data "+t.TempDir()+"/") // this is no place for keys
		switch {
		case b.language != "sh" || strings.HasPrefix(text, "go get"):
			continue
		case strings.HasPrefix(text, "go run ./examples/ask"): // as the page says, a new account has no credits
			if r := u.paste("..", text); r.code != 1 || !strings.Contains(r.stderr, "above the available balance of 0.000000") {
				r.ok()
			}
		case strings.HasPrefix(text, "go run ./examples/worker"):
			u.start("..", text).stdout.await(t, "ready, account ")
		case strings.HasPrefix(text, "poq ask"):
			if r := u.paste("..", text).ok(); !strings.Contains(r.stdout, "\n42\n") {
				t.Errorf("%s\n%s%s", text, r.stdout, r.stderr)
			}
		case strings.HasPrefix(text, "go run ./examples/judge"):
			u.paste("..", text).ok()
		default:
			t.Errorf("nobody has tried this:\n%s", text)
		}
		ran++
	}
	if ran < 4 {
		t.Errorf("%d commands of the page were tried", ran)
	}
}
