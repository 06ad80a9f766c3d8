package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// plan is what a seed stands for.
type plan struct {
	n       int
	faults  Faults
	calm    time.Duration // from when on nothing goes wrong but what Byzantine peers do
	loss    int           // percent of gossip that is lost
	slow    int           // percent of messages that are late
	segment int64         // bytes of a segment of the vote log
	lazy    time.Duration // so long a node gathers votes into one bundle
	evil    []string      // the adversary of each validator, "" for an honest one
	tasks   []*task
	payers  []*payer
}

// Sizes are the committees that are simulated.
var Sizes = []int{1, 4, 5, 6, 7, 10, 16}

// drawSize prefers small committees: most of what can go wrong does so in four.
func drawSize(r *rand.Rand) int {
	switch k := r.IntN(1000); {
	case k < 30:
		return 1
	case k < 760:
		return 4
	case k < 840:
		return 5
	case k < 910:
		return 6
	case k < 970:
		return 7
	case k < 994:
		return 10
	}
	return 16
}

func drawFaults(r *rand.Rand) (f Faults) {
	switch k := r.IntN(10); {
	case k == 0:
		return 0
	case k < 4: // one
		f = 1 << r.IntN(faultKinds)
	case k < 9: // some
		for range 2 + r.IntN(3) {
			f |= 1 << r.IntN(faultKinds)
		}
	default:
		f = Faults(r.Uint32()) & allFaults
	}
	if f&(Mass|Disk) != 0 {
		f |= Crash
	}
	return f
}

// keySet holds the keys of all runs: to make keys takes longer than to sign with them.
type keySet struct {
	validators, accounts, payers, workers []crypto.PrivateKey
}

var keys = keySet{makeKeysOf("validator", 16), makeKeysOf("account", 16), makeKeysOf("payer", 3), makeKeysOf("worker", 4)}

func makeKeysOf(name string, n int) (list []crypto.PrivateKey) {
	for i := range n {
		seed := crypto.Sum(fmt.Appendf(nil, "simulated %s %d", name, i))
		key, err := crypto.GenerateKey(bytes.NewReader(seed[:]))
		if err != nil {
			panic(err) // 32 bytes are there
		}
		list = append(list, key)
	}
	return list
}

func drawPlan(c Config) (p plan, r *rand.Rand) {
	r = rand.New(rand.NewPCG(c.Seed, 1))
	p.n = drawSize(r)
	if c.Validators > 0 {
		p.n = c.Validators
	}
	p.faults = drawFaults(r)
	if c.Faults != nil {
		p.faults = *c.Faults
	}
	p.loss, p.slow = r.IntN(40), 1+r.IntN(30)
	if r.IntN(3) == 0 {
		p.lazy = time.Duration(1+r.IntN(4000)) * time.Microsecond
	}
	p.segment = 4096 << r.IntN(4)
	p.evil = drawAdversaries(r, p.n, c.Adversary)
	p.calm = 100 * time.Millisecond
	if p.faults != 0 {
		p.calm = between(r, 500*time.Millisecond, 4*time.Second)
	}
	p.drawTasks(r)
	return p, r
}

// genesis makes the ledger's beginning. Names of networks differ by seed, so that chains do.
func (p *plan) genesis(seed uint64) *ledger.Genesis {
	g := &ledger.Genesis{
		Network: fmt.Sprintf("sim-%d", seed), Epoch: 1, Judge: judge, MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()},
	}
	for i := range p.n {
		g.Validators = append(g.Validators, ledger.Validator{
			Name: validatorName(i), Consensus: keys.validators[i].Public(), Account: keys.accounts[i].Public(), Peer: validatorName(i),
		})
	}
	for i := range p.payers {
		y := p.payers[i]
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{ID: y.key.Public(), Name: y.name, Balance: y.balance})
	}
	sortAccounts(g.Accounts)
	return g
}

var judge = crypto.Sum([]byte("simulated judge"))

// seeded returns a source of its own for one purpose of a run.
func seeded(seed uint64, purpose string, i int) *rand.Rand {
	h := crypto.Sum(fmt.Appendf(nil, "%s %d", purpose, i))
	return rand.New(rand.NewPCG(seed, binary.BigEndian.Uint64(h[:])))
}
