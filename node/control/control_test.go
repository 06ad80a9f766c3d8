//go:build !windows

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/quality"
)

func TestMain(m *testing.M) {
	if v := os.Getenv(peerVariable); v != "" {
		if err := childPeer(strings.Split(v, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, "poq:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// net/http keeps a connection half a second longer that it cut off over an oversized request.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length")) }
func (lengthJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(min(10000, 3000+100*len(answer))), nil
}

type engine func(ctx context.Context, prompt string) (string, error)

func (engine) Name() string     { return "test" }
func (engine) Models() []string { return []string{"test"} }
func (e engine) Generate(ctx context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	text, err := e(ctx, r.Prompt)
	return &llm.Answer{Text: text}, err
}

// echo repeats the prompt, but for "wait", which is answered when the task is over.
var echo = engine(func(ctx context.Context, prompt string) (string, error) {
	if prompt == "wait" {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return "you said " + prompt, nil
})

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// newUser gives the test a directory of sockets of its own, and returns it. Its path is short: that of a
// socket may have 100 bytes.
func newUser(t testing.TB) string {
	t.Helper()
	run, err := os.MkdirTemp("", "poq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	t.Setenv("XDG_RUNTIME_DIR", run)
	return filepath.Join(run, "poq")
}

// network starts the smallest network and a server for it.
func network(t testing.TB) (*Server, *devnet.Devnet) {
	t.Helper()
	d, err := devnet.Start(soon(t), devnet.Config{Dir: t.TempDir(), Validators: 1, Engines: []llm.Engine{echo}, Judge: lengthJudge{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return serve(t, t.TempDir(), d), d
}

// serve starts a server that the end of the test closes if the test does not.
func serve(t testing.TB, dir string, d *devnet.Devnet) *Server {
	t.Helper()
	var peers []Peer
	for _, p := range d.Peers {
		peers = append(peers, Peer{Name: p.Name, Role: string(p.Role), Node: p.Node})
	}
	s, err := Serve("test", dir, peers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func dial(t testing.TB, dir string) *Client {
	t.Helper()
	c, err := Dial(soon(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func code(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Code(fmt.Sprintf("%T %v", err, err))
}

func TestClientReadsWhatWorkersWrite(t *testing.T) {
	newUser(t)
	network(t)
	var text, end string
	got, err := dial(t, "").Ask(soon(t), AskRequest{Prompt: "héllo", MaxAnswers: 1, Stream: true}, func(st Step) {
		switch {
		case st.Step != "text" && st.Step != "told":
		case st.Worker != "worker-1" || st.Account.IsZero() || st.Task.IsZero():
			t.Errorf("%+v", st)
		case st.Step == "text":
			text += st.Text
		default:
			end += "told " + st.Reason
		}
	})
	if err != nil || text != "you said héllo" || end != "told " || got.Answers[0].Text != text {
		t.Errorf("read %q, and %q at the end: %+v, %v", text, end, got, err)
	}
}

func TestClientGetsWhatTheNodesKnow(t *testing.T) {
	newUser(t)
	s, d := network(t)
	c := dial(t, "")
	if got, want := c.Status, s.Status(); !got.Started.Equal(want.Started) || got.PID != os.Getpid() || got.Chain != d.Genesis.Chain() || !reflect.DeepEqual(got.Peers, want.Peers) {
		t.Errorf("status\n%+v\nwant\n%+v", got, want)
	}
	if p := c.Status.Peers; len(p) != 3 || p[1].Engine != "test" || p[2].Role != "payer" || p[2].Balance != int64(devnet.PayerBalance) || len(p[0].Addrs) == 0 {
		t.Errorf("peers: %+v", p)
	}
	var steps []string
	got, err := c.Ask(soon(t), AskRequest{Prompt: "héllo", MaxAnswers: 1, Fee: ledger.Credit}, func(st Step) {
		steps = append(steps, st.Step)
		if st.Step == "answered" && st.Worker != "worker-1" {
			t.Errorf("answered by %q", st.Worker)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Outcome != ledger.Paid || got.Answers[0].Text != "you said héllo" || got.Timeline == nil {
		t.Errorf("settled as %+v", got)
	}
	if steps[0] != "ordered" || steps[len(steps)-1] != "settled" {
		t.Errorf("steps: %v", steps)
	}
	if err := d.WaitEqual(soon(t)); err != nil {
		t.Fatal(err)
	}
	for _, peer := range []string{"", "worker-1", "VALIDATOR-1"} {
		a, err := c.Accounts(soon(t), peer)
		if err != nil || a.Tasks != 1 || a.Open != 0 || a.Supply != d.Genesis.Supply() || peer != "" && !strings.EqualFold(a.Peer, peer) {
			t.Errorf("accounts of %q: %+v, %v", peer, a, err)
		}
		tasks, err := c.Tasks(soon(t), peer, 5)
		if err != nil || len(tasks) != 1 || tasks[0].Task != got.Task || tasks[0].Answers != 1 {
			t.Errorf("tasks of %q: %+v, %v", peer, tasks, err)
		}
		st, err := c.Task(soon(t), peer, got.Task.String()[:9])
		if err != nil || st.Settlement == nil || st.Settlement.Task != got.Task || st.Settlement.Answers[0].Text != "you said héllo" {
			t.Errorf("task of %q: %+v, %v", peer, st, err)
		}
	}
	own, err := c.Orders(soon(t), 0)
	if want := (Orders{d.Peers[2].Node.Account(), 1, []Order{{got.Task, 0, ledger.Credit, crypto.Sum([]byte("héllo")), llm.Options{}}}}); err != nil || !reflect.DeepEqual(own, want) {
		t.Errorf("own orders: %+v, %v; want %+v", own, err, want)
	}
	if later, err := c.Orders(soon(t), own.Next); err != nil || later.Next != 1 || len(later.Orders) != 0 {
		t.Errorf("later orders: %+v, %v", later, err)
	}
	file, err := c.Receipt(soon(t), "", got.Task.String()[:9])
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ledger.NewVerifier(d.Genesis).ReceiptFile(file); err != nil || r.Task() != got.Task {
		t.Errorf("receipt: %v", err)
	}
	v, err := c.Verify(soon(t), "")
	if err != nil || len(v) != 3 || !v[0].OK || !v[1].OK || !v[2].OK {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if v, err := c.Verify(soon(t), "payer"); err != nil || len(v) != 1 || v[0].Peer != "payer" {
		t.Errorf("verify one: %+v, %v", v, err)
	}
	all, err := c.Digests(soon(t), "")
	if err != nil || len(all) != 3 || all[0].Digest != v[0].Digest || all[1].Digest != v[0].Digest || all[2] != (PeerDigest{"payer", v[2].Digest}) || all[0].Tasks != 1 {
		t.Errorf("digests: %+v, %v", all, err)
	}
	if diff, err := c.Diff(soon(t), "worker-1", "VALIDATOR-1"); err != nil || !diff.Equal || diff.Peer != "worker-1" || diff.With != "validator-1" || diff.There != v[0].Digest {
		t.Errorf("diff: %+v, %v", diff, err)
	}
	if one, err := c.Digests(soon(t), "worker-1"); err != nil || len(one) != 1 || one[0] != all[1] {
		t.Errorf("one digest: %+v, %v", one, err)
	}
	var out bytes.Buffer
	totals, err := c.Export(soon(t), "worker-1", &out)
	if err != nil || totals.Receipts != 1 || totals.Locks != 0 || totals.Digest != all[1].Sum {
		t.Errorf("export: %+v, %v", totals, err)
	}
	if a, err := archive.NewReader(&out); err != nil || a.Head().Genesis.Chain() != d.Genesis.Chain() {
		t.Errorf("exported archive: %v", err)
	}
}

// An export that ends in the middle must not look like a whole one.
func TestExportOfALedgerThatIsClosedFails(t *testing.T) {
	newUser(t)
	_, d := network(t)
	c := dial(t, "")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if totals, err := c.Export(soon(t), "", &out); code(err) != CodeFailed || out.Len() > 0 {
		t.Errorf("%+v, %v, %d bytes", totals, err, out.Len())
	}
}

func TestErrorsHaveTheirCodes(t *testing.T) {
	newUser(t)
	_, _ = network(t)
	c := dial(t, "")
	ask := func(q AskRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := c.Ask(ctx, q, nil); return err }
	}
	for name, r := range map[string]struct {
		want Code
		do   func(context.Context) error
	}{
		"empty prompt":      {CodeUsage, ask(AskRequest{})},
		"long prompt":       {CodeUsage, ask(AskRequest{Prompt: strings.Repeat("x", ledger.MaxPrompt+1)})},
		"too many answers":  {CodeUsage, ask(AskRequest{Prompt: "q", MaxAnswers: 99})},
		"negative time":     {CodeUsage, ask(AskRequest{Prompt: "q", AnswerTimeoutMS: -1})},
		"fee":               {CodeFunds, ask(AskRequest{Prompt: "q", Fee: 1 << 60})},
		"request too large": {CodeUsage, ask(AskRequest{Prompt: strings.Repeat("x", maxRequest)})},
		"unknown peer":      {CodeNotFound, func(ctx context.Context) error { _, err := c.Accounts(ctx, "nobody"); return err }},
		"peer to verify":    {CodeNotFound, func(ctx context.Context) error { _, err := c.Verify(ctx, "nobody"); return err }},
		"peer to export":    {CodeNotFound, func(ctx context.Context) error { _, err := c.Export(ctx, "nobody", io.Discard); return err }},
		"peer of a digest":  {CodeNotFound, func(ctx context.Context) error { _, err := c.Digests(ctx, "nobody"); return err }},
		"peer of tasks":     {CodeNotFound, func(ctx context.Context) error { _, err := c.Tasks(ctx, "nobody", 1); return err }},
		"peer to compare":   {CodeUsage, func(ctx context.Context) error { _, err := c.Diff(ctx, "", "nobody"); return err }},
		"who compares":      {CodeNotFound, func(ctx context.Context) error { _, err := c.Diff(ctx, "nobody", "payer"); return err }},
		"with itself":       {CodeUsage, func(ctx context.Context) error { _, err := c.Diff(ctx, "", "payer"); return err }},
		"no tasks":          {CodeUsage, func(ctx context.Context) error { _, err := c.Tasks(ctx, "", -1); return err }},
		"unknown task":      {CodeNotFound, func(ctx context.Context) error { _, err := c.Task(ctx, "", "abcdef"); return err }},
		"unknown receipt":   {CodeNotFound, func(ctx context.Context) error { _, err := c.Receipt(ctx, "", "abcdef"); return err }},
		"no task id":        {CodeUsage, func(ctx context.Context) error { _, err := c.Task(ctx, "", "what/is this?"); return err }},
		"peer of a task":    {CodeNotFound, func(ctx context.Context) error { _, err := c.Task(ctx, "nobody", "abcdef"); return err }},
	} {
		if got := code(r.do(soon(t))); got != r.want {
			t.Errorf("%s: %s, want %s", name, got, r.want)
		}
	}
	for err, want := range map[error]Code{
		&node.PendingError{}:       CodePending,
		context.DeadlineExceeded:   CodePending,
		errors.New("disk on fire"): CodeFailed,
	} {
		if got := toError(fmt.Errorf("ask: %w", err)).Code; got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	// Who is told that a task is not settled must be able to look it up.
	if task := (ledger.TaskID{7}); toError(fmt.Errorf("ask: %w", &node.PendingError{Task: task, Err: errors.New("late")})).Task != task {
		t.Error("the error of a task that was ordered does not name it")
	}
}

func TestErrorsOfRequestsAreDocumentsWithAStatus(t *testing.T) {
	newUser(t)
	s, _ := network(t)
	client := raw(s.Socket())
	for name, r := range map[string]struct {
		method, path, body string
		want               int
	}{
		"no JSON":      {http.MethodPost, "/v1/ask", "{", http.StatusBadRequest},
		"wrong type":   {http.MethodPost, "/v1/ask", `{"prompt": 7}`, http.StatusBadRequest},
		"empty prompt": {http.MethodPost, "/v1/ask", `{"prompt": ""}`, http.StatusBadRequest},
		"fee":          {http.MethodPost, "/v1/ask", `{"prompt": "q", "fee": 1000000000000000}`, http.StatusPaymentRequired},
		"unknown peer": {http.MethodGet, "/v1/accounts?peer=x", "", http.StatusNotFound},
		"no number":    {http.MethodGet, "/v1/tasks?n=x", "", http.StatusBadRequest},
		"unknown task": {http.MethodGet, "/v1/tasks/ab", "", http.StatusNotFound},
	} {
		q, err := http.NewRequestWithContext(soon(t), r.method, "http://poq"+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(q)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var e struct{ Error *Error }
		err = json.NewDecoder(resp.Body).Decode(&e)
		resp.Body.Close()
		if err != nil || e.Error == nil || e.Error.Code == "" || e.Error.Message == "" || resp.StatusCode != r.want {
			t.Errorf("%s: %s, %+v, %v", name, resp.Status, e.Error, err)
		}
	}
}

// raw is an HTTP client for a socket.
func raw(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

func TestClientThatLeavesDuringAnAskLeavesNothingBehind(t *testing.T) {
	newUser(t)
	s, d := network(t)
	c := dial(t, "")
	ctx, cancel := context.WithCancel(soon(t))
	var task ledger.TaskID
	_, err := c.Ask(ctx, AskRequest{Prompt: "wait", MaxAnswers: 1, AnswerTimeoutMS: 500, ScoreTimeoutMS: 60_000}, func(st Step) {
		if st.Step == "locked" {
			task = st.Task
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	// The request has ended at the server although the task is open.
	s.running.Lock()
	if s.closed {
		t.Error("the server is closed")
	}
	s.running.Unlock()
	st, err := c.Task(soon(t), "", task.String())
	if err != nil || !st.Open {
		t.Errorf("the task: %+v, %v", st, err)
	}
	if _, err := c.Receipt(soon(t), "", task.String()); code(err) != CodePending {
		t.Errorf("receipt of an open task: %v", err)
	}
	if err := d.WaitEqual(soon(t)); err != nil {
		t.Error(err)
	}
}

func TestCloseCutsRequestsOffAndWaits(t *testing.T) {
	newUser(t)
	s, _ := network(t)
	c := dial(t, "")
	_, err := c.Ask(soon(t), AskRequest{Prompt: "wait", MaxAnswers: 1}, func(st Step) {
		if st.Step == "locked" {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil {
		t.Error("a settlement came through a closed server")
	}
	if _, err := Dial(soon(t), ""); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a closed server is found: %v", err)
	}
}

func TestDialFindsTheNetworkThatIsMeant(t *testing.T) {
	newUser(t)
	if _, err := Dial(soon(t), ""); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "poq devnet") {
		t.Errorf("with none: %v", err)
	}
	a, d := network(t)
	dirB := t.TempDir()
	b := serve(t, dirB, d)
	if a.Socket() == b.Socket() {
		t.Fatal("two servers have one socket")
	}
	if _, err := Dial(soon(t), ""); !errors.Is(err, ErrSeveral) || !strings.Contains(err.Error(), "--dir "+dirB) || !strings.Contains(err.Error(), "--dir "+a.Status().Dir) {
		t.Errorf("with two: %v", err)
	}
	if c := dial(t, dirB); c.Status.Socket != b.Socket() {
		t.Errorf("found %s", c.Status.Socket)
	}
	if _, err := Dial(soon(t), t.TempDir()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("with another directory: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if c := dial(t, ""); c.Status.Socket != a.Socket() {
		t.Errorf("found %s", c.Status.Socket)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Dial(gone, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

func TestSocketsOfKilledProcessesAreRemoved(t *testing.T) {
	dir := newUser(t)
	_, d := network(t) // holds name 0
	// A killed process leaves its socket, and a lock file that nobody holds.
	for _, name := range []string{"1", "2"} {
		l, err := new(net.ListenConfig).Listen(soon(t), "unix", filepath.Join(dir, name+socketSuffix))
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "1"+lockSuffix), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, t.TempDir(), d) // takes the first free name, over the stale socket
	if s.Socket() != filepath.Join(dir, "1"+socketSuffix) {
		t.Errorf("the second server listens at %s", s.Socket())
	}
	live, err := sockets()
	if err != nil || len(live) != 2 {
		t.Errorf("live: %v, %v", live, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"+socketSuffix))
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestProcessThatDoesNotAnswerIsNotTakenForNone(t *testing.T) {
	newUser(t)
	name, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen(name.base + socketSuffix)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // it takes the request and says nothing to it
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if _, err := Dial(soon(t), ""); !errors.Is(err, ErrSilent) || errors.Is(err, ErrNotRunning) {
		t.Errorf("with a process that does not answer: %v", err)
	}
}

func TestDirectoryOfSocketsIsItsOwnersAlone(t *testing.T) {
	dir := newUser(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Reserve(); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("listens in a directory that others may enter: %v", err)
	}
	if _, err := Dial(soon(t), ""); err == nil || errors.Is(err, ErrNotRunning) {
		t.Errorf("dials in a directory that others may enter: %v", err)
	}
	// A link to a directory of somebody's choice is none either.
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Reserve(); err == nil {
		t.Error("listens behind a link")
	}
}

func TestRequestOverTheLimitIsNotRead(t *testing.T) {
	newUser(t)
	s, _ := network(t)
	body := append([]byte(`{"prompt":"`), bytes.Repeat([]byte("x"), 2*maxRequest)...)
	q, err := http.NewRequestWithContext(soon(t), http.MethodPost, "http://poq/v1/ask", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := raw(s.Socket()).Do(q)
	if err != nil {
		return // the connection was closed under the rest of the body
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %s", resp.Status)
	}
}
