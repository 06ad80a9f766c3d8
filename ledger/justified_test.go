package ledger

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

// anyChanges draws what a quorum may report of an instance in a round: parts of the commitments or reveals, members that
// made two commitments, prepared values of several rounds, of which those of one round are the same, since
// two quorums share an honest validator.
func (c *settleCase) anyChanges(r *rand.Rand, s Stage) (j []*RoundChange) {
	d := Domain(c.genesis)
	prepared := map[uint32]*Prepared{}
	for range c.genesis.Quorum() {
		m := &RoundChange{Task: c.task, Stage: s, Round: 9}
		if s == StageSeal {
			for _, commit := range c.seal {
				switch r.IntN(8) {
				case 0:
					continue
				case 1: // another commitment
					commit.Statement.Commitment[0] ^= byte(r.IntN(3))
				case 2: // the same for other answers, which it can't open
					commit.Statement.Answers = commit.Statement.Answers[:r.IntN(len(commit.Statement.Answers)+1)]
				}
				m.Commits = append(m.Commits, commit)
			}
		} else {
			m.Seal = &SealCert{Value: c.seal}
			for _, v := range c.reveals {
				if r.IntN(3) > 0 {
					m.Reveals = append(m.Reveals, v)
				}
			}
			if m.Fast = r.IntN(8) == 0; m.Fast {
				m.Reveals = c.reveals
			}
		}
		if r.IntN(6) == 0 {
			round := r.Uint32N(4)
			if prepared[round] == nil {
				v := Value{Task: c.task, Stage: s, Seal: c.seal[:r.IntN(len(c.seal)+1)]}
				if s == StageSettle {
					v.Outcome = Settle(c.genesis, d, c.task, c.order, c.seal, c.reveals[:r.IntN(len(c.reveals)+1)])
				}
				prepared[round] = &Prepared{Certificate{Vote: Leaf{Prepare, c.task, s, round, v.Hash(d)}}, v}
			}
			m.Prepared = prepared[round]
		}
		j = append(j, m)
	}
	return j
}

// plainValue is value(J) word by word, from docs/protocol.md.
func (c *settleCase) plainValue(s Stage, j []*RoundChange) crypto.Hash {
	d := Domain(c.genesis)
	best := int64(-1)
	var hash crypto.Hash
	for _, m := range j {
		if p := m.Prepared; p != nil && int64(p.Votes.Vote.Round) > best {
			best, hash = int64(p.Votes.Vote.Round), p.Value.Hash(d)
		}
	}
	if best >= 0 {
		return hash
	}
	if s == StageSettle {
		var reveals []RevealedOpening
		for _, v := range c.reveals {
			if slices.ContainsFunc(j, func(m *RoundChange) bool {
				return slices.ContainsFunc(m.Reveals, func(o RevealedOpening) bool { return o.Member == v.Member })
			}) {
				reveals = append(reveals, v)
			}
		}
		return Settle(c.genesis, d, c.task, c.order, c.seal, reveals).Hash(d)
	}
	var all SealValue
	for member := range c.genesis.Validators {
		distinct := map[string]Signed[ScoreCommit]{}
		for _, m := range j {
			for _, commit := range m.Commits {
				if int(commit.Statement.Member) == member {
					distinct[string(commit.Statement.append(nil))] = commit
				}
			}
		}
		if len(distinct) == 1 {
			for _, commit := range distinct {
				all = append(all, commit)
			}
		}
	}
	return all.Hash(d)
}

func checkJustified(t *testing.T, seed, shuffle uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 8))
	c := anyCase(r)
	d := Domain(c.genesis)
	for s := StageSeal; s <= StageSettle; s++ {
		j := c.anyChanges(r, s)
		want := c.plainValue(s, j)
		for range 3 {
			v := Justified(c.genesis, d, c.task, s, c.order, j)
			if h := v.Hash(d); h != want || v.Task != c.task || v.Stage != s {
				t.Fatalf("value(J) of the %v stage is %s, want %s", s, h.Short(), want.Short())
			}
			rand.New(rand.NewPCG(shuffle, 9)).Shuffle(len(j), func(a, b int) { j[a], j[b] = j[b], j[a] })
		}
	}
}

func TestValueOfRoundChangesIsOneWhateverTheirOrder(t *testing.T) {
	for seed := range uint64(1000) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { checkJustified(t, seed, seed) })
	}
}

func FuzzJustified(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(checkJustified)
}
