package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/quality"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// lengthJudge likes long answers.
type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length judge")) }
func (lengthJudge) Score(_ context.Context, prompt, answer string) (quality.Score, error) {
	return quality.Score(min(10000, 3000+len(prompt)%100+10*len(answer))), nil
}

// engine answers with a function.
type engine func(ctx context.Context, prompt string) (string, error)

func (engine) Name() string     { return "test" }
func (engine) Models() []string { return []string{"test"} }
func (e engine) Generate(ctx context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	text, err := e(ctx, r.Prompt)
	if err != nil {
		return nil, err
	}
	return &llm.Answer{Text: text, Model: "test", Stop: llm.StopEnd}, nil
}

// says answers every prompt in the same way.
func says(text string) engine {
	return func(context.Context, string) (string, error) { return text, nil }
}

// swarm is a network of nodes over real hosts, ledgers and vote logs, each of which can be stopped and
// started again. The payer is the last.
type swarm struct {
	t          testing.TB
	genesis    *ledger.Genesis
	validators []*member
	workers    []*member
	payer      *member
	record     *record
	recording  sync.WaitGroup
}

type member struct {
	name string
	dir  string
	id   keystore.Identity
	opts []Option
	node *Node // nil while it is stopped
}

const payerBalance = 100 * ledger.Credit

// testIdentity makes keys from a name.
func testIdentity(t testing.TB, name string) keystore.Identity {
	t.Helper()
	id, err := keystore.New(rand.NewChaCha8([32]byte(crypto.Sum([]byte(name)))), true)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newSwarm prepares a network with one worker for each engine. Nothing runs yet. At the end of the
// test all is closed, and the test fails if a peer contradicted itself, unless the test took the record's
// evidence away.
func newSwarm(t testing.TB, validators int, engines ...llm.Engine) *swarm {
	t.Helper()
	s := &swarm{
		t:      t,
		record: newRecord(t),
		genesis: &ledger.Genesis{
			Network: "test-" + fmt.Sprintf("%x", rand.Uint64()), Epoch: 1, Judge: lengthJudge{}.ID(), MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()},
		},
	}
	dir := t.TempDir()
	add := func(name string, balance ledger.Amount, opts ...Option) *member {
		m := &member{name: name, dir: filepath.Join(dir, name), id: testIdentity(t, name)}
		m.opts = append(opts, WithDataDir(m.dir), WithIdentity(m.id), WithLogger(slog.New(slog.NewTextHandler(testLog{t, name}, &slog.HandlerOptions{Level: slog.LevelWarn}))))
		s.genesis.Accounts = append(s.genesis.Accounts, ledger.GenesisAccount{ID: m.id.Account.Public(), Name: name, Balance: balance})
		return m
	}
	for i := range validators {
		m := add(fmt.Sprintf("validator-%d", i+1), 0, WithJudge(lengthJudge{}))
		v, err := m.id.Validator(m.name)
		if err != nil {
			t.Fatal(err)
		}
		s.genesis.Validators = append(s.genesis.Validators, v)
		s.validators = append(s.validators, m)
	}
	for i, e := range engines {
		s.workers = append(s.workers, add(fmt.Sprintf("worker-%d", i+1), 0, WithEngine(e)))
	}
	s.payer = add("payer", payerBalance)
	slices.SortFunc(s.genesis.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	t.Cleanup(func() {
		s.stop(s.all()...)
		s.recording.Wait()
		s.record.failOnEvidence()
	})
	return s
}

// startSwarm is newSwarm with everybody started.
func startSwarm(t testing.TB, validators int, engines ...llm.Engine) *swarm {
	t.Helper()
	s := newSwarm(t, validators, engines...)
	s.start(s.all()...)
	return s
}

func (s *swarm) all() []*member {
	return append(slices.Concat(s.validators, s.workers), s.payer)
}

func (s *swarm) running() (list []*member) {
	for _, m := range s.all() {
		if m.node != nil {
			list = append(list, m)
		}
	}
	return list
}

// launch makes nodes, connects them with all that run, and starts them.
func (s *swarm) launch(members ...*member) {
	s.t.Helper()
	for _, m := range members {
		running := s.running()
		s.make(m)
		for _, other := range running {
			keep(s.t, m.node, other.node)
		}
	}
	for _, m := range members {
		if err := m.node.Start(soon(s.t)); err != nil {
			s.t.Fatalf("%s: %v", m.name, err)
		}
	}
}

// make makes a member's node, of which all events are recorded; it is not started.
func (s *swarm) make(m *member) {
	s.t.Helper()
	n, err := New(soon(s.t), append([]Option{WithGenesis(s.genesis)}, m.opts...)...)
	if err != nil {
		s.t.Fatalf("%s: %v", m.name, err)
	}
	m.node = n
	events := n.Events(context.Background())
	s.recording.Go(func() {
		for e := range events {
			s.record.add(m.name, e)
		}
	})
}

// keep connects two nodes as a devnet does. Where QUIC and TCP race under load, both may connect and one
// be closed again, after which gossipsub can forget for good what topics a peer is in.
func keep(t testing.TB, n, other *Node) {
	t.Helper()
	addrs := slices.DeleteFunc(other.Host().Addrs(), func(a multiaddr.Multiaddr) bool {
		_, err := a.ValueForProtocol(multiaddr.P_TCP)
		return err != nil
	})
	if err := n.Host().Keep(addrs...); err != nil {
		t.Fatal(err)
	}
}

// start is launch, and waits until every peer sees every other one.
func (s *swarm) start(members ...*member) {
	s.t.Helper()
	s.launch(members...)
	running := s.running()
	if len(running) < len(s.all()) {
		return // validators wait for all other validators
	}
	for _, m := range running {
		if err := m.node.WaitReady(soon(s.t), len(running)-1); err != nil {
			s.t.Fatalf("%s: %v", m.name, err)
		}
	}
}

// stop closes nodes.
func (s *swarm) stop(members ...*member) {
	s.t.Helper()
	var closing sync.WaitGroup
	for _, m := range members {
		if n := m.node; n != nil {
			m.node = nil
			closing.Go(func() {
				if err := n.Close(); err != nil && n.Err() == nil {
					s.t.Errorf("%s: close: %v", m.name, err)
				}
			})
		}
	}
	closing.Wait()
}

// ask asks through the payer and fails the test if that fails.
func (s *swarm) ask(prompt string, o AskOptions) *Settlement {
	s.t.Helper()
	got, err := s.payer.node.Ask(soon(s.t), prompt, o)
	if err != nil {
		s.t.Fatalf("ask: %v", err)
	}
	return got
}

// await waits until all of the given members have settled a task.
func (s *swarm) await(task ledger.TaskID, members ...*member) {
	s.t.Helper()
	for _, m := range members {
		s.record.await("settlement of "+task.Short()+" at "+m.name, func(who string, e Event) bool {
			return who == m.name && e.Task == task && e.Step == ledger.Settled
		})
	}
}

// check verifies the ledgers of all that run, and that they are the same.
func (s *swarm) check() {
	s.t.Helper()
	var first string
	for i, m := range s.running() {
		l := m.node.Ledger()
		if err := l.Flush(); err != nil {
			s.t.Fatal(err)
		}
		if _, err := l.Verify(); err != nil {
			s.t.Errorf("%s: %v", m.name, err)
		}
		if sum := fmt.Sprint(l.Summary()); i == 0 {
			first = sum
		} else if sum != first {
			s.t.Errorf("%s holds\n%s\nthe first peer\n%s", m.name, sum, first)
		}
	}
}

// record keeps every step that any member saw.
type record struct {
	t       testing.TB
	mu      sync.Mutex
	seen    []recorded
	changed chan struct{} // closed and replaced by add
	lenient bool          // contradictions are expected
}

type recorded struct {
	who string
	Event
}

func newRecord(t testing.TB) *record { return &record{t: t, changed: make(chan struct{})} }

func (r *record) add(who string, e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, recorded{who, e})
	close(r.changed)
	r.changed = make(chan struct{})
}

// await returns the first step, past or to come, for which f is true.
func (r *record) await(what string, f func(who string, e Event) bool) Event {
	r.t.Helper()
	timeout := soon(r.t)
	for i := 0; ; {
		r.mu.Lock()
		seen, changed := r.seen, r.changed
		r.mu.Unlock()
		for ; i < len(seen); i++ {
			if f(seen[i].who, seen[i].Event) {
				return seen[i].Event
			}
		}
		select {
		case <-changed:
		case <-timeout.Done():
			r.dump()
			r.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (r *record) failOnEvidence() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seen {
		if s.Step == ledger.Contradiction && !r.lenient {
			r.t.Errorf("%s noticed a contradiction: %s", s.who, s.Reason)
		}
	}
}

// dump logs what happened, for a test that failed.
func (r *record) dump() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seen {
		r.t.Logf("%s %-12s %s %-9v member %d %s", s.Time.Format("05.000"), s.who, s.Task.Short(), s.Step, s.Member, s.Reason)
	}
}

// testLog writes a node's log to the test's. It stops when the test ends.
type testLog struct {
	t    testing.TB
	name string
}

var _ io.Writer = testLog{}

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s: %s", l.name, bytes.TrimSpace(p))
	}
	return len(p), nil
}

// soon is a context for what happens at once on a healthy machine.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// receive waits for what must come at once on a healthy machine.
func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-soon(t).Done():
		t.Fatal("waited in vain")
	}
	return v
}

// text makes a text of so many bytes.
func text(size int) string {
	return strings.Repeat("The quick brown fox jumps over the lazy dog. ", size/45+1)[:size]
}

func mustWrite(t testing.TB, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}
