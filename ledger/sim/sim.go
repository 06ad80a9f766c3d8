package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Config says which run it is. All that it leaves open is drawn from the seed.
type Config struct {
	Seed       uint64
	Validators int     // size of the committee, 1 to 16; 0: drawn
	Faults     *Faults // nil: drawn
	Adversary  string  // of all f validators that may be Byzantine; "none"; "": drawn
	// Trace is called with every line of what happens; nil: nobody is told.
	Trace func(line string)
}

// Result is what came of a run.
type Result struct {
	Seed         uint64        `json:"seed"`
	Validators   int           `json:"validators"`
	Faults       Faults        `json:"faults"`
	Adversaries  []string      `json:"adversaries"` // of each Byzantine validator
	Tasks        int           `json:"tasks"`
	Settled      int           `json:"settled"`
	Paid         int           `json:"paid"`
	Virtual      time.Duration `json:"virtual_ns"`
	Events       int           `json:"events"`
	Messages     int           `json:"messages"`    // different ones
	Delivered    int           `json:"delivered"`   // to how many nodes, in sum
	Refused      int           `json:"refused"`     // messages of adversaries that the verifier refuses
	Refusals     int           `json:"refusals"`    // times that a validator with an older log was told so
	Odd          int           `json:"odd"`         // contradictions without proof
	Rounds       int           `json:"rounds"`      // the highest that was entered
	LateRounds   int           `json:"late_rounds"` // the most that a validator entered in an instance after the faults had stopped
	Fast         int           `json:"fast"`        // tasks settled in the one phase without a leader
	OtherSigners int           `json:"other_signers"`

	Injected [faultKinds]int `json:"-"`    // by fault
	Checked  [invariants]int `json:"-"`    // by invariant
	Hash     uint64          `json:"hash"` // of all that happened
	Broken   []Violation     `json:"broken,omitempty"`
}

// limit is how long after the faults have stopped everything must be settled, in virtual time.
const limit = 3 * time.Minute

// Run makes one run. It is deterministic: the same Config gives the same Result. Runs share nothing that
// changes, so that they may be made concurrently.
func Run(c Config) Result {
	p, r := drawPlan(c)
	w := &world{plan: p, genesis: p.genesis(c.Seed), random: r, wire: map[string]*envelope{}, known: map[ledger.TaskID]*task{}, trace: c.Trace}
	if err := w.genesis.Validate(); err != nil {
		panic(fmt.Sprintf("sim: seed %d: %v", c.Seed, err)) // the plan is wrong
	}
	w.domain, w.verifier = ledger.Domain(w.genesis), ledger.NewVerifier(w.genesis)
	w.result = Result{Seed: c.Seed, Validators: w.n, Faults: w.faults, Tasks: len(w.tasks), Adversaries: []string{}}
	w.check = newChecker(w)
	w.populate(c.Seed)
	w.clients()
	w.schedule()
	w.run(w.calm, func() bool { return false })
	w.tell(nil, "calm", "the faults stop")
	for end := w.calm + limit; w.now < end; {
		w.run(end, w.check.done)
		w.run(min(end, w.now+100*time.Millisecond), func() bool { return false }) // what is under way may contradict
		if w.check.done() {
			break
		}
	}
	w.check.atEnd()
	return w.finish()
}

// populate makes the nodes and starts them.
func (w *world) populate(seed uint64) {
	for i := range w.n + 1 {
		n := &node{w: w, index: i, self: i, name: validatorName(i), store: newStore(w.genesis), clock: 16,
			texts: map[crypto.Hash]bool{}, sealed: map[ledger.TaskID]bool{}, salts: seeded(seed, "salt", i)}
		n.disk = newDisk(n.step)
		if i == w.n {
			n.self, n.name = -1, "f"
		} else if name := w.evil[i]; name != "" {
			n.evil = newAdversary(name)
			w.result.Adversaries = append(w.result.Adversaries, name)
		}
		if w.faults&Skew != 0 {
			n.clock = 8 + w.random.IntN(25)
			w.result.Injected[Skew.kind()]++
		}
		w.nodes = append(w.nodes, n)
		w.links = append(w.links, make([]link, w.n+1))
	}
	slices.Sort(w.result.Adversaries)
	w.tell(nil, "run", "seed %d: %d validators, adversaries %v, faults %v until %v, %d tasks", seed, w.n, w.evil, w.faults, w.calm, len(w.tasks))
	for _, n := range w.nodes {
		n.start(0)
	}
}

func (w *world) finish() Result {
	r := &w.result
	for _, n := range w.nodes {
		if n.honest() {
			r.Settled = max(r.Settled, len(n.store.receipts))
			paid, fast := 0, 0
			for _, x := range n.store.settledList() {
				if x.Outcome.Kind == ledger.Paid {
					paid++
				}
				if x.Settle.Vote.Kind == ledger.FastCommit {
					fast++
				}
			}
			r.Paid, r.Fast = max(r.Paid, paid), max(r.Fast, fast)
		}
	}
	r.Virtual, r.Events, r.Hash = w.now, w.events, w.hash
	return *r
}

// Validate says what is wrong with c, if anything.
func (c Config) Validate() error {
	if c.Validators < 0 || c.Validators > len(keys.validators) {
		return fmt.Errorf("committee of %d: want 1 to %d", c.Validators, len(keys.validators))
	}
	if c.Adversary != "" && c.Adversary != "none" && !slices.Contains(Adversaries, c.Adversary) {
		return fmt.Errorf("unknown adversary %q: want none or one of %s", c.Adversary, strings.Join(Adversaries, ", "))
	}
	return nil
}

// String says in a line what the run was, and in one more each what it broke.
func (r Result) String() string {
	s := fmt.Sprintf("seed %d: %d validators, faults %v, adversaries %v: %d of %d tasks settled in %v, rounds to %d, %d events, hash %016x",
		r.Seed, r.Validators, r.Faults, r.Adversaries, r.Settled, r.Tasks, r.Virtual.Round(time.Millisecond), r.Rounds, r.Events, r.Hash)
	for _, v := range r.Broken {
		s += "\n  broken: " + v.String()
	}
	return s
}

// Injections counts the faults that happened, by name.
func (r Result) Injections() map[string]int {
	m := map[string]int{}
	for i, n := range r.Injected {
		if n > 0 {
			m[faultNames[i]] = n
		}
	}
	return m
}

// Checks counts the checks that were made, by invariant.
func (r Result) Checks() map[string]int {
	m := map[string]int{}
	for i, n := range r.Checked {
		if n > 0 {
			m[Invariant(i).String()] = n
		}
	}
	return m
}

// MarshalText implements [encoding.TextMarshaler].
func (f Faults) MarshalText() ([]byte, error) { return []byte(f.String()), nil }
