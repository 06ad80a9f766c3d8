package devnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/quality"
)

// lengthJudge likes long answers.
type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length")) }
func (lengthJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(min(10000, 3000+100*len(answer))), nil
}

// echo answers with what it is asked, after itself.
type echo string

func (echo) Name() string     { return "echo" }
func (echo) Models() []string { return []string{"echo"} }
func (e echo) Generate(_ context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	return &llm.Answer{Text: string(e) + r.Prompt}, nil
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// config is a network of one worker, and a committee of one if the test is about something else.
func config(dir string, validators int, engines ...llm.Engine) Config {
	return Config{Dir: dir, Validators: validators, Engines: engines, Judge: lengthJudge{}, Logger: slog.New(slog.DiscardHandler)}
}

func start(t testing.TB, c Config) *Devnet {
	t.Helper()
	d, err := Start(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// ledgers verifies what every peer holds, and returns it if it is all the same.
func ledgers(t testing.TB, d *Devnet) string {
	t.Helper()
	if err := d.CheckLedgers(soon(t)); err != nil {
		t.Fatal(err)
	}
	l := d.Payer().Node.Ledger()
	return fmt.Sprint(l.Summary(), l.Digest())
}

func TestAllPeersAgreeAfterConcurrentAsksAndFindTheirLedgerAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var contradictions []string
	c := config(t.TempDir(), 4, echo(""), echo("a"), echo("bb"))
	c.Observe = func(p *Peer, e node.Event) {
		if e.Step == ledger.Contradiction {
			mu.Lock()
			defer mu.Unlock()
			contradictions = append(contradictions, p.Name+": "+e.Reason)
		}
	}
	d := start(t, c)
	const asks, atOnce = 30, 8
	var askers sync.WaitGroup
	for a := range atOnce {
		askers.Go(func() {
			for i := a; i < asks; i += atOnce {
				s, err := d.Payer().Node.Ask(soon(t), fmt.Sprint("question ", i), node.AskOptions{})
				if err != nil {
					t.Error(err)
				} else if s.Outcome != ledger.Paid || len(s.Answers) != 3 || !strings.HasPrefix(s.Answers[0].Text, "bb") {
					t.Errorf("settled as %+v", s)
				}
			}
		})
	}
	askers.Wait()
	before := ledgers(t, d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = start(t, c)
	if after := ledgers(t, d); after != before {
		t.Errorf("held\n%s\nnow\n%s", before, after)
	}
	if _, err := d.Payer().Node.Ask(soon(t), "after the restart", node.AskOptions{}); err != nil {
		t.Error(err)
	}
	ledgers(t, d)
	if len(contradictions) > 0 {
		t.Errorf("contradictions: %q", contradictions)
	}
}

func TestSeedMakesTheSameNetwork(t *testing.T) {
	t.Parallel()
	chain := func(seed *uint64) string {
		c := config(t.TempDir(), 1, echo(""))
		c.Seed = seed
		d := start(t, c)
		defer d.Close()
		if d.Peer("WORKER-1") != d.Peers[1] || d.Peer("nobody") != nil || d.Payer().Role != Payer {
			t.Error("peers are not found by their names")
		}
		if b := d.Payer().Node.Ledger().Account(d.Payer().Node.Account()).Balance; b != int64(PayerBalance) {
			t.Errorf("the payer begins with %d", b)
		}
		return d.Genesis.Chain().String() + d.Genesis.Network
	}
	one, two := uint64(1), uint64(2)
	a, b, c, x, y := chain(&one), chain(&one), chain(&two), chain(nil), chain(nil)
	if a != b {
		t.Error("one seed makes two networks")
	}
	if a == c || x == y || a == x {
		t.Error("two networks are the same")
	}
}

func TestStartThatWasKilledIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seed := uint64(7)
	c := config(dir, 1, echo(""))
	c.Seed = &seed
	want := start(t, Config{Dir: t.TempDir(), Validators: 1, Engines: c.Engines, Judge: c.Judge, Logger: c.Logger, Seed: &seed}).Genesis.Chain()
	// A start that was killed has keys of some peers, in part, and no genesis. Nothing else is removed.
	for path, data := range map[string]string{
		"validator-1/peer.key": "cut", "validator-1/account.key": "", "worker-1/consensus.key": "x", "payer/notes.txt": "mine", manifestFile: "{",
		"genesis.json.123": "half",
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, c)
	if d.Genesis.Chain() != want {
		t.Error("the network is not that of the seed")
	}
	if _, err := d.Payer().Node.Ask(soon(t), "q", node.AskOptions{MaxAnswers: 1}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "payer/notes.txt")); err != nil || string(data) != "mine" {
		t.Errorf("a file that is not the network's: %q, %v", data, err)
	}
}

func TestDirectoryOfAnotherNetworkIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := uint64(1), uint64(2)
	good := config(dir, 1, echo(""))
	good.Seed = &one
	d := start(t, good)
	if _, err := Start(soon(t), good); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a directory in use: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"more validators": config(dir, 2, echo("")),
		"more workers":    config(dir, 1, echo(""), echo("")),
		"another seed":    {Dir: dir, Validators: 1, Engines: good.Engines, Judge: good.Judge, Seed: &two},
	} {
		if _, err := Start(soon(t), c); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]Config{
		"no validators": config(t.TempDir(), 0),
		"too many":      config(t.TempDir(), ledger.MaxValidators+1),
		"workers":       config(t.TempDir(), 1, make([]llm.Engine, MaxWorkers+1)...),
	} {
		if _, err := Start(soon(t), c); err == nil {
			t.Errorf("%s: started", name)
		}
	}
	noSeed := config(dir, 1, echo(""))
	d = start(t, noSeed) // it is a network all the same
	if d.Seed == nil || *d.Seed != 1 {
		t.Error("the seed was forgotten")
	}
	d.Close()
	if err := os.WriteFile(genesis.Path(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(soon(t), noSeed); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), genesis.Path(dir)) {
		t.Errorf("a broken genesis: %v", err)
	}
}

func TestStartThatFailsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(gone, config(dir, 1, echo(""))); !errors.Is(err, context.Canceled) {
		t.Errorf("a start that was called off: %v", err)
	}
	d := start(t, config(dir, 1, echo(""))) // the directory is free again
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTwoNetworksDoNotMeet(t *testing.T) {
	t.Parallel()
	a, b := start(t, config(t.TempDir(), 1, echo(""))), start(t, config(t.TempDir(), 1, echo("")))
	if err := a.Peers[0].Node.Host().Connect(soon(t), b.Peers[0].Node.Host().Addrs()...); err == nil || !strings.Contains(err.Error(), "wrong network") {
		t.Errorf("they met: %v", err)
	}
	for _, d := range []*Devnet{a, b} {
		if _, err := d.Payer().Node.Ask(soon(t), "q", node.AskOptions{MaxAnswers: 1}); err != nil {
			t.Error(err)
		}
		if ledgers(t, d); d.Peers[0].Node.Ledger().Summary().Tasks != 1 {
			t.Error("a task of another network was settled here")
		}
	}
}

func TestLedgersThatDifferAreFound(t *testing.T) {
	t.Parallel()
	a, b := start(t, config(t.TempDir(), 1)), start(t, config(t.TempDir(), 1))
	mixed := &Devnet{Genesis: a.Genesis, Peers: []*Peer{a.Payer(), b.Payer()}} // as many tasks, other accounts
	if err := mixed.CheckLedgers(soon(t)); err == nil || !strings.Contains(err.Error(), "holds") {
		t.Errorf("found %v", err)
	}
}

func TestStoppedPeerGoesOnWithItsLedger(t *testing.T) {
	t.Parallel()
	d := start(t, config(t.TempDir(), 1, echo("")))
	w := d.Peer("worker-1")
	if err := errors.Join(d.Stop(w), d.Stop(w)); err != nil {
		t.Fatal(err)
	}
	if len(d.Running()) != 2 {
		t.Errorf("%d peers run, want 2", len(d.Running()))
	}
	if err := errors.Join(d.Resume(soon(t), w), d.Resume(soon(t), w), d.WaitReady(soon(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Payer().Node.Ask(soon(t), "are you back?", node.AskOptions{MaxAnswers: 1}); err != nil {
		t.Error(err)
	}
	ledgers(t, d)
}
