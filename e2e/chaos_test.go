package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/devnet"
)

// processes starts a network of processes whose workers quote, which takes them no time.
func (u *user) processes(validators, workers int, more ...string) *network {
	u.t.Helper()
	return u.devnet(append([]string{
		"--processes", "--engine", "extract", "--dir", filepath.Join(u.t.TempDir(), "net"),
		"--validators", fmt.Sprint(validators), "--workers", fmt.Sprint(workers),
	}, more...)...)
}

// order has poq devnet start, stop or kill peers.
func (n *network) order(what string, peers ...string) {
	n.user.t.Helper()
	n.user.poq(append([]string{"devnet", what, "--dir", n.card.Dir}, peers...)...).ok()
}

// digests returns the digests of the peers that are up.
func (n *network) digests() (list []control.PeerDigest) {
	n.user.t.Helper()
	r := n.user.poq("ledger", "digest", "--json", "--dir", n.card.Dir)
	var d struct{ Ledgers []control.PeerDigest }
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil {
		n.user.t.Fatalf("poq ledger digest: %v\n%s%s", err, r.stdout, r.stderr)
	}
	return d.Ledgers
}

// settledAt returns how many tasks a peer has settled, and how many are open.
func (n *network) settledAt(peer string) (tasks, open int) {
	n.user.t.Helper()
	a := decode[control.Accounts](n.user.poq("ledger", "accounts", "--json", "--dir", n.card.Dir, "--peer", peer))
	return a.Tasks, a.Open
}

// waitEqual waits until all peers that are up hold one ledger with nothing open in it and at least so many
// tasks, and returns how many there are. Then it verifies all of them.
func (n *network) waitEqual(least int) int {
	n.user.t.Helper()
	t, state := n.user.t, ""
	for begin := time.Now(); time.Since(begin) < patience; {
		all := n.digests()
		state = fmt.Sprint(all)
		same := slices.IndexFunc(all, func(d control.PeerDigest) bool { return d.Digest != all[0].Digest }) < 0
		if !same || all[0].Tasks < least {
			continue
		}
		open := 0
		for _, d := range all {
			_, o := n.settledAt(d.Peer)
			open += o
		}
		if open > 0 {
			state += fmt.Sprintf(" with %d open tasks", open)
			continue
		}
		for _, d := range all {
			r := decode[[]control.PeerVerification](n.user.poq("ledger", "verify", "--json", "--dir", n.card.Dir, "--peer", d.Peer))[0]
			if !r.OK || r.Tasks != d.Tasks || r.Open != 0 || r.Digest != d.Digest {
				t.Errorf("ledger of %s: %+v, want %d tasks verified", r.Peer, r, d.Tasks)
			}
		}
		return all[0].Tasks
	}
	t.Fatalf("the ledgers do not become equal, with %d tasks or more: %s", least, state)
	return 0
}

// quick are the terms of tasks that a network settles in a moment, or gives up soon.
var quick = []string{"--fee", "0.01", "--answer-timeout", "2s", "--score-timeout", "4s"}

func question(i int) string {
	return fmt.Sprintf("What are the %d keepers of the lighthouse doing?\n\n%s", i, passage)
}

// chaos is a load on a network, and what came of it.
type chaos struct {
	n    *network
	rand *rand.Rand
	end  time.Time

	mu       sync.Mutex
	asked    int
	settled  []*node.Settlement // what asks returned
	last     time.Time          // of the last one
	stall    time.Duration      // the longest time without one
	failures map[string]int     // of asks, by message
	kills    int
	starts   int
}

// chaosTime is how long peers are killed: POQ_CHAOS, or what a test run has time for.
func chaosTime(t *testing.T) time.Duration {
	v := os.Getenv("POQ_CHAOS")
	if v == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("POQ_CHAOS: %v", err)
	}
	return d
}

// chaosSeed is POQ_CHAOS_SEED, or drawn. It repeats who is killed and for how long, not how the system schedules.
func chaosSeed(t *testing.T) uint64 {
	seed := rand.Uint64N(1e6)
	if v := os.Getenv("POQ_CHAOS_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("POQ_CHAOS_SEED: %v", err)
		}
	}
	t.Logf("POQ_CHAOS_SEED=%d", seed)
	return seed
}

func TestKilledPeersLoseNothingAndAgree(t *testing.T) {
	u := newUser(t)
	validators := 4
	if v := os.Getenv("POQ_CHAOS_VALIDATORS"); v != "" {
		var err error
		if validators, err = strconv.Atoi(v); err != nil {
			t.Fatalf("POQ_CHAOS_VALIDATORS: %v", err)
		}
	}
	seed := chaosSeed(t)
	n := u.processes(validators, 2)
	c := &chaos{n: n, rand: rand.New(rand.NewPCG(seed, 0)), last: time.Now(), end: time.Now().Add(chaosTime(t)), failures: map[string]int{}}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { c.ask(i) })
	}
	c.kill(validators)
	all.Wait()

	var downs []string
	for _, p := range n.status().Peers {
		if p.State == devnet.Down {
			downs = append(downs, p.Name)
		}
	}
	if len(downs) > 0 {
		n.order("start", downs...)
		c.starts += len(downs)
	}
	healing := time.Now()
	tasks := n.waitEqual(len(c.settled))
	t.Logf("%d tasks settled, %d of %d asks answered, %d kills, %d starts, longest stall %.1f s, equal %.1f s after the last start",
		tasks, len(c.settled), c.asked, c.kills, c.starts, c.stall.Seconds(), time.Since(healing).Seconds())
	for m, count := range c.failures {
		t.Logf("%d asks: %s", count, m)
	}
	if len(c.settled) == 0 || c.kills == 0 {
		t.Error("nothing was settled or nobody was killed")
	}
	c.checkAcknowledged()
	n.stop()
}

// ask asks one question after another.
func (c *chaos) ask(asker int) {
	for i := 0; time.Now().Before(c.end); i++ {
		r, err := c.n.user.run("", append([]string{"ask", "--json", "--dir", c.n.card.Dir, question(1000*asker + i)}, quick...)...)
		if err != nil {
			c.n.user.t.Error(err)
			return
		}
		c.mu.Lock()
		c.asked++
		if r.code == 0 {
			var s *node.Settlement
			if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
				c.n.user.t.Errorf("poq ask: %v\n%s", err, r.stdout)
			}
			c.settled = append(c.settled, s)
			c.stall = max(c.stall, time.Since(c.last))
			c.last = time.Now()
		} else {
			lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
			c.failures[kind(lines[len(lines)-1])]++
		}
		c.mu.Unlock()
		if r.code != 0 { // most likely the payer is down
			<-time.After(100 * time.Millisecond)
		}
	}
}

// kind is a message without what differs from task to task.
func kind(message string) string {
	if strings.HasPrefix(message, "poq: task ") {
		message = message[:10] + "…" + message[22:]
	}
	message, _, _ = strings.Cut(message, "look later")
	return message
}

// kill kills up to f validators at a time, and now and then payer and workers beside them, and starts them
// again; some are killed once more while they start.
func (c *chaos) kill(validators int) {
	f := (validators - 1) / 3
	for time.Now().Before(c.end) {
		var victims []string
		for _, v := range c.rand.Perm(validators)[:c.rand.IntN(f+1)] {
			victims = append(victims, fmt.Sprintf("validator-%d", v+1))
		}
		if c.rand.IntN(3) == 0 {
			victims = append(victims, "payer")
		}
		if c.rand.IntN(3) == 0 {
			victims = append(victims, fmt.Sprintf("worker-%d", 1+c.rand.IntN(2)))
		}
		c.pause(1500 * time.Millisecond)
		var all sync.WaitGroup
		for _, v := range victims {
			delay, away, again := c.random(500*time.Millisecond), c.random(3*time.Second), c.rand.IntN(4) == 0
			startup := c.random(time.Second)
			all.Go(func() {
				<-time.After(delay)
				c.do("kill", v)
				<-time.After(away)
				if again {
					var starting sync.WaitGroup
					starting.Go(func() { c.try("start", v) })
					<-time.After(startup)
					c.try("kill", v)
					starting.Wait()
					c.try("kill", v) // if the first came too early
				}
				c.do("start", v)
			})
		}
		all.Wait()
	}
}

func (c *chaos) random(most time.Duration) time.Duration {
	return time.Duration(c.rand.Int64N(int64(most)))
}

func (c *chaos) pause(most time.Duration) { <-time.After(c.random(most)) }

func (c *chaos) try(what, peer string) *result {
	r, err := c.n.user.run("", "devnet", what, "--dir", c.n.card.Dir, peer)
	if err != nil {
		c.n.user.t.Error(err)
		return &result{code: -1}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case what == "start":
		c.starts++
	case r.code == 0:
		c.kills++
	}
	return r
}

func (c *chaos) do(what, peer string) {
	if r := c.try(what, peer); r.code != 0 {
		c.n.user.t.Errorf("poq devnet %s %s: exit code %d: %s", what, peer, r.code, r.stderr)
	}
}

// checkAcknowledged asserts that every ledger has every settlement that an ask returned, with the same credits.
func (c *chaos) checkAcknowledged() {
	t := c.n.user.t
	t.Setenv("XDG_RUNTIME_DIR", c.n.user.runtimeDir)
	client, err := control.Dial(t.Context(), c.n.card.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.n.card.Peers {
		for _, s := range c.settled {
			got, err := client.Task(t.Context(), p.Name, s.Task.String())
			if err != nil || got.Settlement == nil {
				t.Errorf("task %s, which was acknowledged, at %s: %+v, %v", s.Task.Short(), p.Name, got, err)
				continue
			}
			if !slices.Equal(got.Settlement.Credits, s.Credits) || got.Settlement.Outcome != s.Outcome || got.Settlement.Fee != s.Fee {
				t.Errorf("task %s at %s is settled as\n%+v\nit was acknowledged as\n%+v", s.Task.Short(), p.Name, got.Settlement, s)
			}
		}
	}
	// Nobody's money came or went in another way.
	var total ledger.Amount
	for _, s := range c.settled {
		for _, credit := range s.Credits {
			total += credit.Amount
		}
		total -= s.Fee
	}
	if total != 0 {
		t.Errorf("credits and fees of acknowledged tasks differ by %d", total)
	}
}

func (n *network) status() control.Status {
	n.user.t.Helper()
	return decode[control.Status](n.user.poq("devnet", "status", "--json", "--dir", n.card.Dir))
}
