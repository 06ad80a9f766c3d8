// Package nodetest runs a whole network inside a test, so that a program that embeds a node can be tested against
// the real thing: real hosts on 127.0.0.1, real gossip, real ledgers in t.TempDir. It is up in about a second.
//
//	s := nodetest.NewSwarm(t, nodetest.Validators(4), nodetest.Engines(mine))
//	settlement, err := s.Payer().Ask(t.Context(), "What is a quorum?", node.AskOptions{})
//
// Members have names: validator-1, validator-2 ..., worker-1 ..., payer. A test may stop and start them, cut some off
// from the others, wait until all have settled a task, and compare their ledgers. The swarm ends with the test. A test
// fails if a member contradicted itself.
//
// Swarms share nothing: tests with a swarm each may run in parallel. With [Simulated] links a swarm lives in the virtual time of
// a testing/synctest bubble; over sockets it can't, since a bubble does not wait for them.
package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/quality"
)

// patience is how long the helpers wait before they fail the test. It suits machines that do much else. Over simulated links
// it is a matter of virtual time: peers that gossip keeps from each other for a minute come together after that.
const (
	patience          = time.Minute
	simulatedPatience = 10 * time.Minute
)

// Option says what is in a swarm.
type Option func(*config)

type config struct {
	validators int
	engines    []llm.Engine
	judge      quality.Judge
	links      *links
}

// Validators sets the size of the committee, 1 to ledger.MaxValidators. By default it is 4, the smallest one that
// goes on when one of it is down.
func Validators(n int) Option { return func(c *config) { c.validators = n } }

// Workers adds n workers that answer at once with their name and the prompt: "worker-1 says: hello". At most
// devnet.MaxWorkers fit in a swarm.
func Workers(n int) Option {
	return func(c *config) {
		for range n {
			c.engines = append(c.engines, echo(fmt.Sprintf("worker-%d", len(c.engines)+1)))
		}
	}
}

// Engines adds a worker for each engine.
func Engines(list ...llm.Engine) Option {
	return func(c *config) { c.engines = append(c.engines, list...) }
}

// Judge has all validators judge with j, which the swarm does not close. Without it they use a judge that needs no
// model and no time: the longer the answer the better, 3000 basis points and ten more for each byte, up to 10000.
func Judge(j quality.Judge) Option { return func(c *config) { c.judge = j } }

// Swarm is a running network. Its methods are for the goroutine of the test: they fail the test at once when
// something goes wrong. The nodes that it returns are safe for concurrent use.
type Swarm struct {
	t     testing.TB
	net   *devnet.Devnet
	links *links   // nil over sockets
	cut   []string // members on one side of a partition

	mu             sync.Mutex
	contradictions []string
}

// NewSwarm starts a network with a payer that has devnet.PayerBalance, and returns when every member sees every other
// one. Without options it has four validators and one worker.
func NewSwarm(t testing.TB, opts ...Option) *Swarm {
	t.Helper()
	c := config{validators: 4, judge: lengthJudge{}}
	for _, o := range opts {
		o(&c)
	}
	if len(c.engines) == 0 {
		Workers(1)(&c)
	}
	s := &Swarm{t: t, links: c.links}
	ctx := s.soon()
	d := devnet.Config{
		Dir: t.TempDir(), Validators: c.validators, Engines: c.engines, Judge: c.judge, Observe: s.observe,
		Logger: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if c.links != nil {
		d.Host = c.links.host
		c.links.net.Start()
		t.Cleanup(c.links.net.Close)
	}
	var err error
	if s.net, err = devnet.Start(ctx, d); err != nil {
		t.Fatalf("starting a swarm: %v", err)
	}
	t.Cleanup(s.close)
	s.ready(ctx)
	return s
}

func (s *Swarm) close() {
	if err := s.net.Close(); err != nil {
		s.t.Errorf("ending the swarm: %v", err)
	}
	for _, c := range s.contradictions { // all nodes have ended
		s.t.Error(c)
	}
}

// Genesis returns the genesis, which must not be changed. A node of the test's own joins with it and with the
// addresses of a member's Host.
func (s *Swarm) Genesis() *ledger.Genesis { return s.net.Genesis }

// Payer returns the node that has credits to ask with. It must not be stopped.
func (s *Swarm) Payer() *node.Node { return s.Node("payer") }

// Node returns the node of a member that is not stopped.
func (s *Swarm) Node(name string) *node.Node {
	s.t.Helper()
	p := s.member(name)
	if p.Node == nil {
		s.t.Fatalf("%s is stopped", name)
	}
	return p.Node
}

// Running returns the names of the members that are not stopped: validators, workers, payer.
func (s *Swarm) Running() (names []string) {
	for _, p := range s.net.Running() {
		names = append(names, p.Name)
	}
	return names
}

func (s *Swarm) member(name string) *devnet.Peer {
	s.t.Helper()
	p := s.net.Peer(name)
	if p == nil {
		var names []string
		for _, p := range s.net.Peers {
			names = append(names, p.Name)
		}
		s.t.Fatalf("the swarm has no member %q, only %s", name, strings.Join(names, ", "))
	}
	return p
}

// Stop ends members, which keep what they have on disk, and returns when the others have noticed.
func (s *Swarm) Stop(names ...string) {
	s.t.Helper()
	for _, name := range names {
		p := s.member(name)
		if p.Node == nil {
			continue
		}
		id := p.Node.Host().ID()
		if err := s.net.Stop(p); err != nil {
			s.t.Fatalf("stopping %s: %v", name, err)
		}
		s.parted(s.net.Running(), id)
	}
}

// parted waits until peers do not count another one as connected any more.
func (s *Swarm) parted(peers []*devnet.Peer, from peer.ID) {
	s.t.Helper()
	for _, p := range peers {
		h := p.Node.Host()
		s.until(func() bool { return !slices.Contains(h.Peers(), from) }, "%s has not parted from %s", p.Name, from)
	}
}

// Start starts members that were stopped, with what they have on disk, and returns when all that run see each other
// again. While a partition lasts, it does not wait for that.
func (s *Swarm) Start(names ...string) {
	s.t.Helper()
	ctx := s.soon()
	for _, name := range names {
		if err := s.net.Resume(ctx, s.member(name)); err != nil {
			s.t.Fatalf("starting again: %v", err)
		}
		s.gate() // the others refuse the new node already
	}
	s.ready(ctx)
}

// Partition cuts members off from all others, and returns when both sides have noticed; among themselves they stay
// connected. It ends a partition that there is.
func (s *Swarm) Partition(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.member(name)
	}
	s.cut = slices.Clone(names)
	s.gate()
}

// Heal ends the partition and returns when all that run see each other again.
func (s *Swarm) Heal() {
	s.t.Helper()
	s.cut = nil
	s.gate()
	ctx := s.soon()
	running := s.net.Running()
	for i, p := range running {
		for _, other := range running[i+1:] { // at once, not when they try it next
			if err := p.Node.Host().Connect(ctx, other.Node.Host().Addrs()...); err != nil {
				s.t.Fatalf("connecting %s with %s again: %v", p.Name, other.Name, err)
			}
		}
	}
	s.ready(ctx)
}

// gate has every node refuse those of the other side, which also closes connections with them.
func (s *Swarm) gate() {
	s.t.Helper()
	var sides [2][]*devnet.Peer
	for _, p := range s.net.Running() {
		side := 0
		if slices.Contains(s.cut, p.Name) {
			side = 1
		}
		sides[side] = append(sides[side], p)
	}
	if s.links != nil {
		s.links.part(s.cut)
	} else {
		s.deny(sides)
	}
	for side, peers := range sides {
		for _, p := range peers {
			s.parted(sides[1-side], p.Node.Host().ID())
		}
	}
}

// deny has the nodes of each side deny access to those of the other.
func (s *Swarm) deny(sides [2][]*devnet.Peer) {
	s.t.Helper()
	for side, peers := range sides {
		var access p2p.Access
		for _, p := range sides[1-side] {
			r, err := p2p.ParseRule(p.Node.Host().ID().String())
			if err != nil {
				s.t.Fatal(err)
			}
			access.Deny = append(access.Deny, r)
		}
		for _, p := range peers {
			p.Node.Host().SetAccess(access)
		}
	}
}

// ready waits until all that run see each other, if no partition is there.
func (s *Swarm) ready(ctx context.Context) {
	s.t.Helper()
	if len(s.cut) > 0 {
		return
	}
	if err := s.net.WaitReady(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// Await returns when members have settled a task, those that run if none are named. It fails the test after a minute.
func (s *Swarm) Await(task ledger.TaskID, names ...string) {
	s.t.Helper()
	if len(names) == 0 {
		names = s.Running()
	}
	for _, name := range names {
		n := s.Node(name)
		s.until(func() bool { return n.Ledger().IsSettled(task) }, "%s has not settled task %s", name, task.Short())
	}
}

// until waits for what no node reports: it looks again and again, and fails the test after a minute.
func (s *Swarm) until(done func() bool, complaint string, args ...any) {
	s.t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	timeout := s.soon()
	for !done() {
		select {
		case <-look.C:
		case <-timeout.Done():
			s.t.Fatalf(complaint+" in %v", append(args, s.patience())...)
		}
	}
}

// CheckLedgers waits until all members that run have settled the same tasks, verifies each ledger from its receipts
// and signatures up, and fails the test if two differ or if credits were made or lost. No task may be open.
func (s *Swarm) CheckLedgers() {
	s.t.Helper()
	if err := s.net.CheckLedgers(s.soon()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Swarm) soon() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience())
	s.t.Cleanup(cancel)
	return ctx
}

func (s *Swarm) patience() time.Duration {
	if s.links != nil {
		return simulatedPatience
	}
	return patience
}

// observe is called from the nodes' loops.
func (s *Swarm) observe(p *devnet.Peer, e node.Event) {
	if e.Step == ledger.Contradiction {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.contradictions = append(s.contradictions, fmt.Sprintf("%s noticed a contradiction: %s", p.Name, e.Reason))
	}
}

// lengthJudge is the judge that [Judge] describes.
type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("nodetest: length")) }

func (lengthJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(min(int(quality.MaxScore), 3000+10*len(answer))), nil
}

// echo is the name of a worker that [Workers] describes.
type echo string

func (echo) Name() string     { return "echo" }
func (echo) Models() []string { return []string{"echo"} }

func (e echo) Generate(_ context.Context, r llm.Request, emit func(string)) (*llm.Answer, error) {
	text := string(e) + " says: " + strings.TrimSpace(r.Prompt)
	if emit != nil {
		emit(text)
	}
	return &llm.Answer{Text: text, Model: "echo", Stop: llm.StopEnd}, nil
}

// testLog writes the nodes' log to the test's, until the test ends.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s", bytes.TrimSpace(p))
	}
	return len(p), nil
}
