package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

// apiKey is a key as poq api-keys prints it.
type apiKey struct {
	Key, Name, SHA256 string
	Created           time.Time
	Limit, Rate       int
	Spent, Reserved   int
}

func TestAPIKeysAreLookedAfter(t *testing.T) {
	t.Parallel()
	u, dir := newUser(t), filepath.Join(t.TempDir(), "peer")
	u.poq("init", "--dir", dir).ok()
	keys := func(args ...string) *result {
		t.Helper()
		return u.poq(append([]string{"api-keys", "--dir", dir}, args...)...)
	}
	made := keys("new", "web", "--limit", "20", "--rate", "60").ok()
	secret := strings.TrimSpace(made.stdout)
	if !strings.HasPrefix(secret, "poq-") || strings.Contains(made.stderr, secret) {
		t.Errorf("stdout %q, stderr %q", made.stdout, made.stderr)
	}
	if k := decode[apiKey](keys("new", "other", "--json")); !strings.HasPrefix(k.Key, "poq-") || k.Key == secret || k.Limit != 0 {
		t.Errorf("%+v", k)
	}
	keys("new", "web").fails(1, "web")
	keys("new", "a b").fails(2, "a b")
	keys("new", "x", "--rate", "-1").fails(2, "-1")
	keys("new", "x", "--limit", "-1").fails(2, "--limit")
	keys("set", "web").fails(2, "--limit")
	keys("set", "nobody", "--rate", "1").fails(1, "nobody")
	keys("revoke", "nobody").fails(1, "nobody")
	keys("set", "web", "--limit", "0.5").ok()
	keys("revoke", "other").ok()
	list := decode[[]apiKey](keys("list", "--json"))
	if len(list) != 1 || list[0].Name != "web" || list[0].Limit != 500_000 || list[0].Rate != 60 || list[0].Key != "" {
		t.Errorf("%+v", list)
	}
	u.poq("api-keys", "new", "web", "--dir", filepath.Join(dir, "none")).fails(1, "poq init")
	u.poq("up", "--dir", dir, "--api-cors", "https://chat.example").fails(2, "--api-cors")
}

func TestKeyLimitsWhatClientsOfOpenAIMayDo(t *testing.T) {
	t.Parallel()
	u, dir := newUser(t), t.TempDir()
	start := func(args ...string) *network {
		return u.devnet(append([]string{"--dir", dir, "--engine", "extract", "--workers", "1", "--validators", "1"}, args...)...)
	}
	n := start()
	keys := func(args ...string) *result {
		t.Helper()
		return u.poq(append([]string{"api-keys", "--dir", dir}, args...)...).ok()
	}
	secret := strings.TrimSpace(keys("new", "web", "--limit", "1").stdout)
	ctx, tries := t.Context(), 0
	client := func(key string) openai.Client {
		return openai.NewClient(option.WithBaseURL(n.card.Peers[len(n.card.Peers)-1].API), option.WithAPIKey(key),
			option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
				tries++
				return next(r)
			}))
	}
	ask := func(c openai.Client) (*openai.ChatCompletion, error) {
		tries = 0
		return c.Chat.Completions.New(ctx, aboutPassage("Who built the lighthouse on Gull Rock?"))
	}
	refused := func(key string, status int, code string, words ...string) {
		t.Helper()
		var bad *openai.Error
		if _, err := ask(client(key)); !errors.As(err, &bad) || bad.StatusCode != status || bad.Code != code || tries != 1 {
			t.Errorf("after %d tries: %v, want %d %s", tries, err, status, code)
			return
		}
		for _, w := range words {
			if !strings.Contains(bad.Message, w) {
				t.Errorf("%q says nothing of %q", bad.Message, w)
			}
		}
	}
	refused("none", http.StatusUnauthorized, "invalid_api_key")
	got, err := ask(client(secret))
	if err != nil {
		t.Fatal(err)
	}
	e := readExtra(t, got.RawJSON())
	task := decode[node.TaskStatus](u.poq("ledger", "task", e.Task, "--json", "--dir", dir))
	cost := int(task.Settlement.Fee - task.Settlement.Refund)
	spent := func() {
		t.Helper()
		if list := decode[[]apiKey](keys("list", "--json")); len(list) != 1 || list[0].Spent != cost || list[0].Reserved != 0 || cost == 0 {
			t.Errorf("%+v, want %d spent", list, cost)
		}
	}
	spent()
	refused(secret, http.StatusPaymentRequired, "insufficient_quota", "web", "1.000000")

	get := func(path, key string, status int) []byte {
		t.Helper()
		api := n.card.Peers[len(n.card.Peers)-1].API
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(api, "/v1")+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		if err != nil || a.StatusCode != status {
			t.Errorf("%s: %d %s %v, want %d", path, a.StatusCode, body, err, status)
		}
		return body
	}
	get(e.Receipt, "none", http.StatusUnauthorized)
	get("/v1/poq/tasks/abcdef", secret, http.StatusNotFound)
	file := filepath.Join(t.TempDir(), "receipt.json")
	if err := os.WriteFile(file, get(e.Receipt, secret, http.StatusOK), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := u.poq("receipt", "verify", file, "--genesis", filepath.Join(dir, "genesis.json")).ok(); !strings.Contains(r.stdout, "VALID: task "+e.Task) {
		t.Errorf("%s", r.stdout)
	}
	asText := func(stdout string) *result { return &result{t: t, stdout: stdout} }
	if shown := decode[node.TaskStatus](asText(string(get("/v1/poq/tasks/"+e.Task, secret, http.StatusOK)))); !reflect.DeepEqual(shown, task) {
		t.Errorf("%+v, poq ledger task shows %+v", shown, task)
	}
	accounts := decode[control.Accounts](u.poq("ledger", "accounts", "--json", "--dir", dir))
	accounts.Peer = ""
	if shown := decode[control.Accounts](asText(string(get("/v1/poq/accounts", secret, http.StatusOK)))); !reflect.DeepEqual(shown, accounts) {
		t.Errorf("%+v, poq ledger accounts shows %+v", shown, accounts)
	}

	// What was spent stays spent, also when all is killed; and with a key others may be served.
	if err := n.signal(syscall.SIGKILL); err == nil {
		t.Error("the network ended by itself")
	}
	n = start("--api", "0.0.0.0:0")
	spent()
	refused("none", http.StatusUnauthorized, "invalid_api_key")
	refused(secret, http.StatusPaymentRequired, "insufficient_quota", "web", "1.000000")
	keys("set", "web", "--limit", "0", "--rate", "20")
	if _, err := ask(client(secret)); err != nil {
		t.Errorf("with a higher limit: %v", err)
	}
	obeysRetryAfter(t, client(secret))
	keys("revoke", "web")
	refused(secret, http.StatusUnauthorized, "invalid_api_key")
}

// obeysRetryAfter sends requests until one is too many, and asserts that OpenAI's library tries it again when it is told to, with
// success.
func obeysRetryAfter(t *testing.T, c openai.Client) {
	t.Helper()
	for range 1000 {
		var told time.Duration
		var at time.Time
		_, err := c.Models.List(t.Context(), option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			if told > 0 && time.Since(at) < told {
				t.Errorf("tried again after %v, told to wait %v", time.Since(at), told)
			}
			a, err := next(r)
			if err == nil && a.StatusCode == http.StatusTooManyRequests {
				seconds, e := strconv.Atoi(a.Header.Get("Retry-After"))
				told, at, err = time.Duration(seconds)*time.Second, time.Now(), e
				if seconds < 1 || seconds > 3 || a.Header.Get("X-RateLimit-Limit-Requests") != "20" {
					err = errors.Join(err, fmt.Errorf("headers of the refusal: %v", a.Header))
				}
			}
			return a, err
		}))
		if err != nil {
			t.Errorf("the client gave up: %v", err)
		}
		if told > 0 || err != nil {
			return
		}
	}
	t.Error("no request was too many")
}
