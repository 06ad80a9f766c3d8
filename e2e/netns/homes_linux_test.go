package netns

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/poqmesh/poq/p2p"
)

// homes is the network of most tests: four validators and five workers over three homes and the internet.
type homes struct {
	*network
	gate               *peer // a public observer, the only peer that the others are told of; it has credits
	north, south, east *home
	validators         []*peer // two on the internet, one in the north, one in the south
	workers            []*peer // two in the north, one in the south, two in the east
}

// newHomes starts it. Every peer joins with the gate's token and what else is said.
func newHomes(t *testing.T, line quality, args ...string) *homes {
	t.Helper()
	w := newWorld(t)
	h := &homes{network: w.newNetwork([]string{"validator-1", "validator-2", "validator-3", "validator-4"}, []string{"gate"})}
	h.north, h.south, h.east = w.home("north", "11.10.0.1", cone, line), w.home("south", "11.20.0.1", cone, line), w.home("east", "11.30.0.1", symmetric, line)
	h.gate = h.up(w.public("gate", "11.1.0.1"), "gate", args...)
	args = append([]string{"--join", h.gate.token()}, args...)
	for _, v := range []struct {
		on   *machine
		name string
	}{
		{w.public("server-1", "11.2.0.1"), "validator-1"},
		{w.public("server-2", "11.3.0.1"), "validator-2"},
		{h.north.host("north-1"), "validator-3"},
		{h.south.host("south-1"), "validator-4"},
	} {
		h.validators = append(h.validators, h.up(v.on, v.name, append([]string{"--roles", "validator"}, args...)...))
	}
	for _, v := range []struct {
		on   *machine
		name string
	}{
		{h.north.host("north-2"), "worker-1"},
		{h.north.host("north-3"), "worker-2"},
		{h.south.host("south-2"), "worker-3"},
		{h.east.host("east-1"), "worker-4"},
		{h.east.host("east-2"), "worker-5"},
	} {
		h.workers = append(h.workers, h.up(v.on, v.name, append([]string{"--roles", "worker", "--engine", "extract"}, args...)...))
	}
	return h
}

// askAll asks a question, and again, until all workers have answered one.
func (h *homes) askAll(p *peer) {
	h.t.Helper()
	h.until(func() string { return p.answersOf(h.workers...) })
}

func TestPeersFindEachOtherFromOneBootstrap(t *testing.T) {
	h := newHomes(t, quality{})
	h.askAll(h.gate)
	h.agree(1)
	// Everybody reaches all validators, and sees how.
	public, north, south := h.validators[:2], h.validators[2], h.validators[3]
	symmetric := h.workers[3]
	for _, want := range []struct {
		from, to *peer
		path     p2p.Path
	}{
		{north, public[0], p2p.PathDirect},
		{south, public[1], p2p.PathDirect},
		{h.workers[0], north, p2p.PathDirect}, // in one home
		{symmetric, public[0], p2p.PathDirect},
		{symmetric, north, p2p.PathRelayed},
		{symmetric, south, p2p.PathRelayed},
	} {
		h.until(func() string { return want.from.sees(want.to, want.path) })
	}
	// And whether others reach it.
	for p, want := range map[*peer]string{h.gate: p2p.ReachPublic, public[0]: p2p.ReachPublic, north: p2p.ReachPrivate, symmetric: p2p.ReachPrivate} {
		h.until(func() string {
			if got := p.state().Reach.State; got != want {
				return fmt.Sprintf("%s takes itself for %s, want %s", p.name, got, want)
			}
			return ""
		})
	}
}

func TestNetworkOutlivesItsBootstrap(t *testing.T) {
	h := newHomes(t, quality{})
	h.askAll(h.gate)
	h.agree(1)
	h.gate.kill()
	h.askAll(h.validators[0])
	h.agree(2)
	// A peer that comes back knows whom it met.
	for _, p := range []*peer{h.validators[3], h.workers[4]} {
		p.stop()
		p.restart()
	}
	h.askAll(h.validators[1])
	h.agree(3)
}

func TestNetworkSettlesOverBadLines(t *testing.T) {
	h := newHomes(t, quality{delay: 40 * time.Millisecond, loss: 0.02})
	for range 5 {
		h.askAll(h.gate)
	}
	h.agree(5)
	for _, v := range h.validators {
		t.Logf("%s on %s settled in %.0f ms after the last reveal (mean)", v.name, v.on.name, v.state().Validator.SettleMS)
	}
}

func TestPartitionHeals(t *testing.T) {
	long := time.Minute
	if testing.Short() {
		long = 10 * time.Second
	}
	h := newHomes(t, quality{})
	begin := time.Now()
	at := func(what string) { t.Logf("%5.1f s: %s", time.Since(begin).Seconds(), what) }
	h.askAll(h.gate)
	h.agree(1)
	at("settled in peace")
	// Three of four validators go on without the south, and settle; two do not.
	h.south.cut()
	h.gate.ask("What does it stand on?", 4)
	settled := h.gate.digest().Tasks
	at("three of four have settled")
	h.north.cut()
	// Whoever asks learns at last that nothing is decided yet, but the order stands.
	var asks sync.WaitGroup
	asks.Go(func() { _, _ = h.gate.tryAsk("How high is it?", 2) })
	<-time.After(long)
	if d := h.gate.digest(); d.Tasks != settled {
		t.Errorf("half of the validators have settled %d tasks", d.Tasks-settled)
	}
	h.north.mend()
	h.south.mend()
	at("mended")
	asks.Wait()
	h.agree(settled + 1)
	at("all agree")
	h.askAll(h.gate)
	h.agree(settled + 2)
	at("all have answered again")
}

func TestValidatorsBehindRoutersSealTogether(t *testing.T) {
	for _, kind := range []nat{cone, symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t)
			n := w.newNetwork([]string{"validator-1", "validator-2", "validator-3"}, []string{"gate"})
			gate := n.up(w.public("gate", "11.1.0.1"), "gate")
			args := []string{"--join", gate.token(), "--roles"}
			for i, name := range []string{"validator-1", "validator-2", "validator-3"} {
				h := w.home(name+"'s home", []string{"11.10.0.1", "11.20.0.1", "11.30.0.1"}[i], kind, quality{})
				n.up(h.host(name+"'s desktop"), name, append(args, "validator")...)
			}
			worker := n.up(w.public("server", "11.2.0.1"), "worker", append(args, "worker", "--engine", "extract")...)
			if s := gate.ask("Who built the lighthouse?", 1); !answered(s, worker) {
				t.Errorf("the worker's answer is missing: %+v", s.Answers)
			}
			n.agree(1)
		})
	}
}

// A peer believes in its public address only when four others have told it of it (libp2p's observedaddrs.ActivationThresh).
// If then both dial each other at one moment the path counts as direct, if they agree on one through a relay as punched.
func TestPeersBehindConesNeedNoRelay(t *testing.T) {
	w := newWorld(t)
	n := w.newNetwork([]string{"validator"}, nil)
	validator := n.up(w.public("server", "11.1.0.1"), "validator", "--roles", "validator")
	join := []string{"--join", validator.token()}
	for i := range 3 {
		name := fmt.Sprintf("observer-%d", i+1)
		n.up(w.public(name, fmt.Sprintf("11.%d.0.1", i+2)), name, join...)
	}
	left := n.up(w.home("left", "11.10.0.1", cone, quality{}).host("desktop"), "left", append(join, "--roles", "worker", "--engine", "extract")...)
	right := n.up(w.home("right", "11.20.0.1", cone, quality{}).host("laptop"), "right", append(join, "--roles", "worker", "--engine", "extract")...)
	n.until(func() string { return left.sees(right, p2p.PathDirect, p2p.PathPunched) })
	n.until(func() string { return validator.answersOf(left, right) })
	n.agree(1)
}
