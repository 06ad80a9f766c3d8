// Package ledgertest makes ledgers for tests and benchmarks: locks and receipts of tasks that nobody ever
// ran, signed by a committee whose keys are at hand. They are real: every check of them passes.
package ledgertest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Key makes a key from a name, the same each time.
func Key(name string) crypto.PrivateKey {
	seed := crypto.Sum([]byte(name))
	k, err := crypto.GenerateKey(bytes.NewReader(seed[:]))
	if err != nil {
		panic(err) // the reader holds what a key takes
	}
	return k
}

// Prompt is what every order asks.
const Prompt = "What is the answer?"

// Committee is all validators of a genesis with their keys. It is safe for concurrent use.
type Committee struct {
	Genesis *ledger.Genesis
	Domain  crypto.Domain
	keys    []crypto.PrivateKey
	answers []ledger.AnswerID
	seq     atomic.Uint64 // of the last bundles; every other number, so that none must name the one before it
}

// New returns the committee of a genesis. keys are its validators' consensus keys, in their order; each
// task has so many answers, 1 to ledger.MaxAnswers.
func New(g *ledger.Genesis, keys []crypto.PrivateKey, answers int) *Committee {
	c := &Committee{Genesis: g, Domain: ledger.Domain(g), keys: keys}
	for i := range answers {
		worker := fmt.Sprint("worker ", i)
		c.answers = append(c.answers, ledger.AnswerID{Worker: Key(worker).Public(), Text: crypto.Sum([]byte(worker))})
	}
	slices.SortFunc(c.answers, ledger.AnswerID.Compare)
	return c
}

// NewGenesis makes a genesis with n validators, whose keys it returns, and payers that are rich.
func NewGenesis(network string, n int, payers ...*Payer) (*ledger.Genesis, []crypto.PrivateKey) {
	g := &ledger.Genesis{Network: network, Epoch: 1, Judge: crypto.Sum([]byte("judge")), MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()}}
	var keys []crypto.PrivateKey
	for i := range n {
		keys = append(keys, Key(fmt.Sprint("validator ", i)))
		g.Validators = append(g.Validators, ledger.Validator{
			Name: fmt.Sprint("validator-", i+1), Consensus: keys[i].Public(), Account: Key(fmt.Sprint("account ", i)).Public(), Peer: fmt.Sprint("peer-", i+1),
		})
	}
	for _, p := range payers {
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{ID: p.key.Public(), Balance: 1 << 50})
	}
	slices.SortFunc(g.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	return g, keys
}

// Payer is the writer of one account's orders.
type Payer struct {
	key   crypto.PrivateKey
	nonce uint64
	last  ledger.TaskID
}

// NewPayer returns a payer that has ordered nothing.
func NewPayer(key crypto.PrivateKey) *Payer { return &Payer{key: key} }

// Next makes the lock and the receipt of the payer's next task. The fee is a thousandth of a credit.
func (c *Committee) Next(p *Payer) (*ledger.LockCert, *ledger.Receipt) {
	o := ledger.Order{
		Payer: p.key.Public(), Nonce: p.nonce, Previous: p.last, Fee: max(c.Genesis.MinFee, ledger.Credit/1000), Split: c.Genesis.Splits[0].ID,
		Prompt: crypto.Sum([]byte(Prompt)), Judge: c.Genesis.Judge, MaxAnswers: uint8(len(c.answers)), AnswerDeadline: 1000, ScoreDeadline: 1000,
	}
	task := ledger.OrderID(c.Domain, o)
	p.nonce, p.last = p.nonce+1, task
	r := &ledger.Receipt{Order: ledger.Sign(c.Domain, p.key, o), Lock: c.certificate(ledger.Leaf{Kind: ledger.LockVote, Task: task, Value: task})}
	reveals := c.score(r, task)
	c.settle(r, reveals)
	return &ledger.LockCert{Order: r.Order, Votes: r.Lock}, r
}

// Another makes a receipt of the same task with another outcome, as only a committee can that has more
// than f liars.
func (c *Committee) Another(r *ledger.Receipt) *ledger.Receipt {
	other := *r
	c.settle(&other, r.Outcome.Reveals[1:])
	return &other
}

func (c *Committee) score(r *ledger.Receipt, task ledger.TaskID) (reveals []ledger.RevealedOpening) {
	for i, k := range c.keys {
		open := ledger.Opening{Salt: crypto.Sum(binary.BigEndian.AppendUint16(task[:len(task):len(task)], uint16(i)))}
		for j := range c.answers {
			open.Scores = append(open.Scores, ledger.Score(8000-1000*j%5000))
		}
		r.Seal.Value = append(r.Seal.Value, ledger.Sign(c.Domain, k, ledger.CommitScores(c.Domain, task, uint16(i), c.answers, open)))
		reveals = append(reveals, ledger.RevealedOpening{Member: uint16(i), Opening: open})
	}
	r.Seal.Votes = c.certificate(ledger.Leaf{Kind: ledger.Commit, Task: task, Stage: ledger.StageSeal, Value: r.Seal.Value.Hash(c.Domain)})
	return reveals
}

func (c *Committee) settle(r *ledger.Receipt, reveals []ledger.RevealedOpening) {
	task := r.Lock.Vote.Task
	r.Outcome = ledger.Settle(c.Genesis, c.Domain, task, r.Order.Statement, r.Seal.Value, reveals)
	r.Settle = c.certificate(ledger.Leaf{Kind: ledger.FastCommit, Task: task, Stage: ledger.StageSettle, Value: r.Outcome.Hash(c.Domain)})
}

// certificate has a quorum vote, each member in a bundle of its own.
func (c *Committee) certificate(vote ledger.Leaf) ledger.Certificate {
	cert, seq := ledger.Certificate{Vote: vote}, c.seq.Add(2)
	for i, k := range c.keys[:c.Genesis.Quorum()] {
		u := ledger.NewBundle(uint16(i), seq, crypto.Hash{}, []ledger.Leaf{vote})
		u.Sign(c.Domain, k)
		cert.Proofs = append(cert.Proofs, ledger.VoteProof{Header: u.Header})
	}
	return cert
}
