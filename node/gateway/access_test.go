package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/apikeys"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/gateway"
)

// newKey makes a key in a directory.
func newKey(t *testing.T, dir, name string, limit ledger.Amount, rate int) (secret string, k apikeys.Key) {
	t.Helper()
	secret, k, err := apikeys.New(dir, name, limit, rate)
	if err != nil {
		t.Fatal(err)
	}
	return secret, k
}

// visited is what a visit met.
type visited struct {
	StatusCode int
	Header     http.Header
}

// visit sends a request with a key, if it is not "", and other headers.
func visit(t *testing.T, method, url, key, body string, header http.Header) (visited, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	if r.Host = header.Get("Host"); key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	got, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	all, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return visited{got.StatusCode, got.Header}, string(all)
}

// askWith asks with a key.
func askWith(t *testing.T, url, key, body string) (status int, header http.Header, a answer) {
	t.Helper()
	r, text := visit(t, http.MethodPost, url+"/completions", key, body, nil)
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r.StatusCode, r.Header, a
}

func spent(t *testing.T, dir string, k apikeys.Key) apikeys.Usage {
	t.Helper()
	all, err := apikeys.ReadUsage(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all[k.Hash]
}

const asking = `{"model":"poq-best","prompt":"Who?"}`

func TestKeyIsAskedForAsSoonAsThereIsOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url := serve(t, network(t, after("a")), gateway.WithKeys(dir)).URL()
	status := func(key string) int {
		t.Helper()
		status, header, a := askWith(t, url, key, asking)
		if status == http.StatusUnauthorized && (a.Error == nil || a.Error.Code != "invalid_api_key" || header.Get("WWW-Authenticate") != "Bearer") {
			t.Errorf("%+v", a.Error)
		}
		return status
	}
	if s := status("none"); s != http.StatusOK {
		t.Errorf("without keys: %d", s)
	}
	secret, _ := newKey(t, dir, "web", 0, 0)
	for _, wrong := range []string{"", "none", secret + "0"} {
		if s := status(wrong); s != http.StatusUnauthorized {
			t.Errorf("%q: %d", wrong, s)
		}
	}
	for _, path := range []string{"/models", "/poq/accounts", "/poq/tasks/00", "/poq/receipts/00", "/nothing"} {
		if r, _ := visit(t, http.MethodGet, url+path, "", "", nil); r.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	if s := status(secret); s != http.StatusOK {
		t.Errorf("with the key: %d", s)
	}
	if err := apikeys.Revoke(dir, "web"); err != nil {
		t.Fatal(err)
	}
	if s := status(secret); s != http.StatusUnauthorized {
		t.Errorf("with a revoked key: %d", s)
	}
}

func TestKeySpendsWhatItsTasksCostAndNoMoreThanItsLimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", 2*ledger.Credit, 0)
	n := network(t, after("a"))
	url := serve(t, n, gateway.WithKeys(dir)).URL()
	before := n.Ledger().Account(n.Account()).Balance
	status, header, a := askWith(t, url, secret, asking)
	if status != http.StatusOK {
		t.Fatalf("%d %+v", status, a.Error)
	}
	refund, err := strconv.Atoi(header.Get("X-PoQ-Refund"))
	if err != nil || refund == 0 {
		t.Fatalf("refund %d, %v", refund, err)
	}
	cost := ledger.Amount(a.PoQ.Fee - refund)
	if got := spent(t, dir, k); got != (apikeys.Usage{Spent: cost}) || int64(cost) != before-n.Ledger().Account(n.Account()).Balance {
		t.Errorf("%+v, want %d", got, cost)
	}
	status, header, a = askWith(t, url, secret, `{"model":"poq-best","prompt":"Who?","poq":{"fee":`+strconv.Itoa(int(2*ledger.Credit-cost+1))+`}}`)
	if status != http.StatusPaymentRequired || a.Error.Code != "insufficient_quota" || !strings.Contains(a.Error.Message, "web may spend 2.000000") || header.Get("X-PoQ-Task") != "" {
		t.Errorf("above the limit: %d %+v", status, a.Error)
	}
	if status, _, a = askWith(t, url, secret, `{"model":"poq-best","prompt":"Who?","poq":{"fee":1}}`); status != http.StatusBadRequest { // below the network's least fee
		t.Errorf("%d %+v", status, a.Error)
	}
	if got := spent(t, dir, k); got != (apikeys.Usage{Spent: cost}) {
		t.Errorf("what was not ordered counts: %+v", got)
	}
	if status, _, a = askWith(t, url, secret, asking); status != http.StatusOK {
		t.Errorf("within the limit: %d %+v", status, a.Error)
	}
}

func TestOrderCountsThoughItsClientLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", ledger.Credit, 0)
	e, asked, let := slow()
	url := serve(t, network(t, e), gateway.WithKeys(dir)).URL()
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/completions", strings.NewReader(asking))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+secret)
		if r, err := http.DefaultClient.Do(r); err == nil {
			r.Body.Close()
			t.Errorf("answered with %d", r.StatusCode)
		}
	}()
	<-asked
	leave()
	<-gone
	awaitSpent(t, dir, k, func(u apikeys.Usage) bool { return u == apikeys.Usage{Reserved: ledger.Credit} })
	if status, _, _ := askWith(t, url, secret, asking); status != http.StatusPaymentRequired {
		t.Errorf("the fee is free again: %d", status)
	}
	close(let)
	awaitSpent(t, dir, k, func(u apikeys.Usage) bool { return u.Reserved == 0 && u.Spent > 0 && u.Spent < ledger.Credit })
}

// awaitSpent waits until a key has spent what it should.
func awaitSpent(t *testing.T, dir string, k apikeys.Key, should func(apikeys.Usage) bool) {
	t.Helper()
	late, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !should(spent(t, dir, k)) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("it has spent %+v", spent(t, dir, k))
		}
	}
}

func TestRequestsAboveTheRateAreToldWhenToComeAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, _ := newKey(t, dir, "web", 0, 1)
	other, _ := newKey(t, dir, "other", 0, 0)
	url := serve(t, network(t, after("a")), gateway.WithKeys(dir)).URL()
	status, header, _ := askWith(t, url, secret, asking)
	if status != http.StatusOK || header.Get("X-RateLimit-Limit-Requests") != "1" || header.Get("X-RateLimit-Remaining-Requests") != "0" || header.Get("X-RateLimit-Reset-Requests") == "" {
		t.Errorf("the first: %d %v", status, header)
	}
	status, header, a := askWith(t, url, secret, asking)
	if wait, err := strconv.Atoi(header.Get("Retry-After")); status != http.StatusTooManyRequests || a.Error.Code != "rate_limit_exceeded" || err != nil || wait < 1 || wait > 60 || header.Get("X-Should-Retry") != "" {
		t.Errorf("the second: %d %+v %v", status, a.Error, header)
	}
	if status, header, _ = askWith(t, url, other, asking); status != http.StatusOK || header.Get("X-RateLimit-Limit-Requests") != "" {
		t.Errorf("another key: %d %v", status, header)
	}
}

func TestOtherMachinesAreServedOnceThereIsAKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := network(t, after("a"))
	if s, err := gateway.Serve("0.0.0.0:0", n, gateway.WithKeys(dir)); err == nil || !strings.Contains(err.Error(), "poq api-keys new") {
		if err == nil {
			s.Close()
		}
		t.Errorf("without a key: %v", err)
	}
	secret, _ := newKey(t, dir, "web", 0, 0)
	url := serveAt(t, "0.0.0.0:0", n, gateway.WithKeys(dir)).URL()
	if !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Errorf("clients are told to go to %s", url)
	}
	named := http.Header{"Host": {"poq.example"}}
	if r, text := visit(t, http.MethodGet, url+"/models", secret, "", named); r.StatusCode != http.StatusOK {
		t.Errorf("by its name: %d %s", r.StatusCode, text)
	}
	if r, _ := visit(t, http.MethodGet, url+"/models", "", "", named); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a key: %d", r.StatusCode)
	}
}

func TestPagesOfNamedOriginsAloneMayAsk(t *testing.T) {
	t.Parallel()
	const friend, stranger = "https://chat.example", "https://evil.example"
	dir := t.TempDir()
	n := network(t, after("a"))
	for _, origins := range [][]string{{friend}, {"chat.example"}, {friend + "/page"}, {"*"}, {"null"}} {
		if s, err := gateway.Serve("127.0.0.1:0", n, gateway.WithKeys(dir), gateway.WithOrigins(origins...)); err == nil {
			s.Close()
			t.Errorf("without a key pages of %s are served", origins)
		}
	}
	secret, _ := newKey(t, dir, "web", 0, 0)
	for _, origin := range []string{"chat.example", friend + "/page", "*", "null"} {
		if s, err := gateway.Serve("127.0.0.1:0", n, gateway.WithKeys(dir), gateway.WithOrigins(origin)); err == nil {
			s.Close()
			t.Errorf("%s is taken for an origin", origin)
		}
	}
	url := serve(t, n, gateway.WithKeys(dir), gateway.WithOrigins("https://other.example", friend)).URL() + "/completions"
	preflight := func(origin string) http.Header {
		return http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"authorization,x-stainless-os"}}
	}
	r, _ := visit(t, http.MethodOptions, url, "", "", preflight(friend))
	if h := r.Header; r.StatusCode != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != friend || h.Get("Access-Control-Allow-Headers") != "authorization,x-stainless-os" || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") || h.Get("Vary") != "Origin" || h.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("preflight: %d %v", r.StatusCode, h)
	}
	for _, origin := range []string{stranger, "http://chat.example", friend + ".evil.example", "null"} {
		for _, r := range []func() (visited, string){
			func() (visited, string) { return visit(t, http.MethodOptions, url, "", "", preflight(origin)) },
			func() (visited, string) {
				return visit(t, http.MethodPost, url, secret, asking, http.Header{"Origin": {origin}})
			},
		} {
			if r, _ := r(); r.StatusCode < 400 || r.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("a page of %s: %d %v", origin, r.StatusCode, r.Header)
			}
		}
	}
	r, _ = visit(t, http.MethodPost, url, "", asking, http.Header{"Origin": {friend}})
	if r.StatusCode != http.StatusUnauthorized || r.Header.Get("Access-Control-Allow-Origin") != friend {
		t.Errorf("a page without a key: %d %v", r.StatusCode, r.Header)
	}
	r, text := visit(t, http.MethodPost, url, secret, asking, http.Header{"Origin": {friend}, "Sec-Fetch-Site": {"cross-site"}})
	if r.StatusCode != http.StatusOK || r.Header.Get("Access-Control-Allow-Origin") != friend || !strings.Contains(r.Header.Get("Access-Control-Expose-Headers"), "X-PoQ-Task") {
		t.Errorf("a page with a key: %d %s %v", r.StatusCode, text, r.Header)
	}
	if err := apikeys.Revoke(dir, "web"); err != nil {
		t.Fatal(err)
	}
	if r, _ := visit(t, http.MethodPost, url, secret, asking, http.Header{"Origin": {friend}}); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the last key was revoked: %d", r.StatusCode)
	}
}

// lockTeller tells which tasks are locked.
type lockTeller struct {
	gateway.Asker
	locked chan ledger.TaskID
}

func (l lockTeller) Order(ctx context.Context, prompt string, o node.AskOptions) (*node.Task, error) {
	task, err := l.Asker.Order(ctx, prompt, o)
	if err == nil {
		go func() {
			for e := range task.Events() {
				if e.Step == ledger.Locked {
					l.locked <- e.Task
				}
			}
		}()
	}
	return task, err
}

func TestLedgerCanBeReadThroughTheGateway(t *testing.T) {
	t.Parallel()
	e, _, let := slow()
	n := network(t, e)
	teller := lockTeller{n, make(chan ledger.TaskID, 1)}
	url := serve(t, teller).URL()
	open := make(chan answer, 1)
	go func() {
		defer close(open)
		_, _, a := askWith(t, url, "", asking)
		open <- a
	}()
	get := func(path string, want int, into any) http.Header {
		t.Helper()
		r, text := visit(t, http.MethodGet, url+path, "", "", nil)
		if r.StatusCode != want {
			t.Fatalf("%s: %d %s, want %d", path, r.StatusCode, text, want)
		}
		if into != nil {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
		return r.Header
	}
	task := (<-teller.locked).String()
	var status node.TaskStatus
	if get("/poq/tasks/"+task, http.StatusOK, &status); !status.Open || status.Task.String() != task {
		t.Errorf("open: %+v", status)
	}
	var bad answer
	if get("/poq/receipts/"+task, http.StatusNotFound, &bad); bad.Error.Code != "not_settled" {
		t.Errorf("%+v", bad.Error)
	}
	close(let)
	a := <-open
	if a.PoQ == nil || a.PoQ.Task != task || a.PoQ.Receipt != "/v1/poq/receipts/"+task {
		t.Fatalf("%+v", a.PoQ)
	}
	root := strings.TrimSuffix(url, "/v1")
	for _, id := range []string{task, task[:12]} {
		status = node.TaskStatus{}
		if get("/poq/tasks/"+id, http.StatusOK, &status); status.Open || status.Settlement == nil || status.Settlement.Answers[0].Text != "late" {
			t.Errorf("%s: %+v", id, status)
		}
	}
	r, file := visit(t, http.MethodGet, root+a.PoQ.Receipt, "", "", nil)
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/json" || !strings.Contains(r.Header.Get("Content-Disposition"), "receipt-"+task[:12]+".json") {
		t.Errorf("%d %v", r.StatusCode, r.Header)
	}
	if proof, err := ledger.NewVerifier(n.Genesis()).ReceiptFile([]byte(file)); err != nil || proof.Task().String() != task {
		t.Errorf("%s: %v", file, err)
	}
	var all control.Accounts
	if get("/poq/accounts", http.StatusOK, &all); all.Tasks != 1 || all.Open != 0 || all.Supply != n.Genesis().Supply() || all.Chain != n.Genesis().Chain() {
		t.Errorf("%+v", all)
	}
	for _, want := range all.Accounts {
		var one control.Account
		if get("/poq/accounts/"+want.Account.String(), http.StatusOK, &one); one != want {
			t.Errorf("%+v, want %+v", one, want)
		}
		if want.Name == "payer" {
			if get("/poq/accounts/payer", http.StatusOK, &one); one != want || one.Balance != n.Ledger().Account(n.Account()).Balance {
				t.Errorf("%+v, want %+v", one, want)
			}
		}
	}
	missing := strings.Repeat("ab", 32)
	for path, want := range map[string]int{
		"/poq/tasks/" + missing: 404, "/poq/receipts/" + missing: 404, "/poq/accounts/" + missing: 404, "/poq/accounts/nobody": 404,
		"/poq/tasks/ffffffffff": 404, "/poq/tasks/xyz": 400, "/poq/receipts/xyz": 400, "/poq/tasks/" + missing + "ab": 400,
	} {
		var a answer
		if get(path, want, &a); a.Error == nil || a.Error.Message == "" || want == 404 && a.Error.Code != "not_found" {
			t.Errorf("%s: %+v", path, a.Error)
		}
	}
}
