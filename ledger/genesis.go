package ledger

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// AccountID names an account: the public key that may spend from it.
type AccountID = crypto.PublicKey

// TaskID is the hash of a task's order.
type TaskID = crypto.Hash

// Amount counts µ-credits; a million of them are one credit.
type Amount = uint64

// Credit is one credit in µ-credits.
const Credit Amount = 1_000_000

// FormatAmount writes µ-credits as credits with six decimals.
func FormatAmount(a int64) string {
	sign, u := "", uint64(a)
	if a < 0 {
		sign, u = "-", -u
	}
	return fmt.Sprintf("%s%d.%06d", sign, u/Credit, u%Credit)
}

// Burned is the account that nobody can spend from. Amounts credited to it leave circulation.
var Burned AccountID

// Limits of everything that a peer may be sent.
const (
	MaxValidators = 64        // ed25519 quorums verify in under a millisecond up to here (protocol §10)
	MaxAnswers    = 16        // answers judged per task
	MaxPrompt     = 256 << 10 // bytes of a prompt
	MaxAnswer     = 64 << 10  // bytes of an answer
	MaxInline     = 32 << 10  // bytes of a text that travel within a gossip message; longer ones are fetched by hash
	MaxReason     = 120       // bytes of the reason with which a worker declines
	maxSplits     = 64
	maxRanks      = 16
	maxAccounts   = 1 << 15 // in a genesis
	maxName       = 64
)

// Genesis is the beginning of a ledger and the rules it lives by. Its hash is the chain id,
// which stands in every signed statement. It does not change.
type Genesis struct {
	Network    string           `json:"network"` // name, part of topics and protocol ids
	Epoch      uint64           `json:"epoch"`
	Judge      crypto.Hash      `json:"judge"` // identity of the quality model whose scores are paid
	MinFee     Amount           `json:"min_fee"`
	Splits     []Split          `json:"splits"`     // ascending by ID
	Validators []Validator      `json:"validators"` // the committee; a validator's index is its id
	Accounts   []GenesisAccount `json:"accounts"`   // ascending by ID
}

// Validator is a member of the committee.
type Validator struct {
	Name      string           `json:"name"`
	Consensus crypto.PublicKey `json:"consensus"` // signs bundles, score commitments and reveals
	Account   AccountID        `json:"account"`   // is paid for judging
	Peer      string           `json:"peer"`      // libp2p peer id
}

// GenesisAccount is an account that holds a balance from the start.
type GenesisAccount struct {
	ID      AccountID `json:"id"`
	Name    string    `json:"name"`
	Balance Amount    `json:"balance"`
}

// Split says how a fee is divided (protocol §7).
type Split struct {
	ID         uint32   `json:"id"`
	Workers    uint32   `json:"workers"`     // weight of the workers' share of the fee
	Validators uint32   `json:"validators"`  // weight of the validators' share
	Ranks      []uint32 `json:"ranks"`       // weights of rank 1, 2, ... within the workers' share
	Floor      Score    `json:"floor"`       // a worker is paid from this score on
	Band       Score    `json:"band"`        // τ: a validator is paid within this distance of the others' median
	UnpaidBurn uint32   `json:"unpaid_burn"` // what an outcome that pays nobody burns, in basis points of the fee
}

// DefaultSplit has the starting values of protocol §7.
func DefaultSplit() Split {
	return Split{ID: 1, Workers: 80, Validators: 20, Ranks: []uint32{70, 20, 10}, Floor: 2500, Band: 100, UnpaidBurn: 100}
}

// Encode returns the canonical bytes of g, whose hash is its chain id.
func (g *Genesis) Encode() []byte {
	b := crypto.AppendBytes(nil, g.Network)
	b = binary.BigEndian.AppendUint64(b, g.Epoch)
	b = append(b, g.Judge[:]...)
	b = binary.BigEndian.AppendUint64(b, g.MinFee)
	b = crypto.AppendCount(b, len(g.Splits))
	for _, s := range g.Splits {
		for _, v := range []uint32{s.ID, s.Workers, s.Validators, uint32(s.Floor), uint32(s.Band), s.UnpaidBurn} {
			b = binary.BigEndian.AppendUint32(b, v)
		}
		b = crypto.AppendCount(b, len(s.Ranks))
		for _, r := range s.Ranks {
			b = binary.BigEndian.AppendUint32(b, r)
		}
	}
	b = crypto.AppendCount(b, len(g.Validators))
	for _, v := range g.Validators {
		b = crypto.AppendBytes(b, v.Name)
		b = append(b, v.Consensus[:]...)
		b = append(b, v.Account[:]...)
		b = crypto.AppendBytes(b, v.Peer)
	}
	b = crypto.AppendCount(b, len(g.Accounts))
	for _, a := range g.Accounts {
		b = append(b, a.ID[:]...)
		b = crypto.AppendBytes(b, a.Name)
		b = binary.BigEndian.AppendUint64(b, a.Balance)
	}
	return b
}

// DecodeGenesis reads what [Genesis.Encode] wrote, and validates it. It keeps no part of data.
func DecodeGenesis(data []byte) (*Genesis, error) {
	r := crypto.NewReader(data)
	g := &Genesis{Network: string(r.Bytes(maxName)), Epoch: r.Uint64(), Judge: r.Hash(), MinFee: r.Uint64()}
	for range r.Count(maxSplits, 26) {
		s := Split{ID: r.Uint32(), Workers: r.Uint32(), Validators: r.Uint32()}
		floor, band := r.Uint32(), r.Uint32()
		if floor > uint32(MaxScore) || band > uint32(MaxScore) {
			r.Fail()
		}
		s.Floor, s.Band, s.UnpaidBurn = Score(floor), Score(band), r.Uint32()
		for range r.Count(maxRanks, 4) {
			s.Ranks = append(s.Ranks, r.Uint32())
		}
		g.Splits = append(g.Splits, s)
	}
	for range r.Count(MaxValidators, 72) {
		g.Validators = append(g.Validators, Validator{Name: string(r.Bytes(maxName)), Consensus: r.Key(), Account: r.Key(), Peer: string(r.Bytes(2 * maxName))})
	}
	for range r.Count(maxAccounts, 44) {
		g.Accounts = append(g.Accounts, GenesisAccount{ID: r.Key(), Name: string(r.Bytes(maxName)), Balance: r.Uint64()})
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	return g, g.Validate()
}

// Chain returns the chain id. Hashing takes microseconds: keep the result.
func (g *Genesis) Chain() crypto.Hash {
	return crypto.Domain{}.Hash("genesis", g.Encode())
}

// Validate says what is wrong with g, if anything.
func (g *Genesis) Validate() error {
	switch {
	case g.Network == "" || len(g.Network) > maxName:
		return fmt.Errorf("genesis: network name must have 1 to %d bytes", maxName)
	case len(g.Validators) == 0 || len(g.Validators) > MaxValidators:
		return fmt.Errorf("genesis: want 1 to %d validators, got %d", MaxValidators, len(g.Validators))
	case len(g.Splits) == 0 || len(g.Splits) > maxSplits:
		return fmt.Errorf("genesis: want 1 to %d splits, got %d", maxSplits, len(g.Splits))
	case len(g.Accounts) > maxAccounts:
		return fmt.Errorf("genesis: want at most %d accounts, got %d", maxAccounts, len(g.Accounts))
	case g.MinFee == 0:
		return errors.New("genesis: min_fee must be at least 1")
	}
	for i, s := range g.Splits {
		if i > 0 && s.ID <= g.Splits[i-1].ID {
			return errors.New("genesis: splits must ascend by id")
		}
		if err := s.validate(); err != nil {
			return fmt.Errorf("genesis: split %d: %w", s.ID, err)
		}
	}
	keys, peers := map[crypto.PublicKey]bool{}, map[string]bool{}
	for i, v := range g.Validators {
		switch {
		case v.Consensus.IsZero() || v.Account.IsZero() || v.Peer == "":
			return fmt.Errorf("genesis: validator %d needs a consensus key, an account and a peer id", i)
		case len(v.Name) > maxName || len(v.Peer) > 2*maxName:
			return fmt.Errorf("genesis: validator %d: name or peer id too long", i)
		case keys[v.Consensus]:
			return fmt.Errorf("genesis: validator %d: consensus key %s stands twice", i, v.Consensus.Short())
		}
		if peers[v.Peer] {
			return fmt.Errorf("genesis: validator %d: peer id %s stands twice", i, v.Peer)
		}
		keys[v.Consensus], peers[v.Peer] = true, true
	}
	supply := Amount(0)
	for i, a := range g.Accounts {
		if a.ID.IsZero() {
			return errors.New("genesis: the zero account is for what is burned and cannot hold a balance")
		}
		if i > 0 && a.ID.Compare(g.Accounts[i-1].ID) <= 0 {
			return errors.New("genesis: accounts must ascend by id, each once")
		}
		if len(a.Name) > maxName {
			return fmt.Errorf("genesis: account %s: name too long", a.ID.Short())
		}
		if a.Balance > math.MaxInt64-supply {
			return errors.New("genesis: the sum of balances does not fit 63 bits")
		}
		supply += a.Balance
	}
	return nil
}

func (s Split) validate() error {
	ranks := uint64(0)
	for _, r := range s.Ranks {
		ranks += uint64(r)
	}
	switch {
	case len(s.Ranks) == 0 || len(s.Ranks) > maxRanks || ranks == 0 || ranks > math.MaxUint32:
		return fmt.Errorf("want 1 to %d rank weights that are not all zero", maxRanks)
	case uint64(s.Workers)+uint64(s.Validators) == 0 || uint64(s.Workers)+uint64(s.Validators) > math.MaxUint32:
		return errors.New("weights of workers and validators must not both be zero")
	case s.Floor > MaxScore || s.Band > MaxScore || s.UnpaidBurn > uint32(MaxScore):
		return fmt.Errorf("floor, band and unpaid_burn go up to %d basis points", MaxScore)
	}
	return nil
}

// Difference names the first thing in which o differs from g, for people; "nothing" if there is none.
func (g *Genesis) Difference(o *Genesis) string {
	switch {
	case g.Network != o.Network:
		return fmt.Sprintf("the network: %q, not %q", o.Network, g.Network)
	case g.Epoch != o.Epoch:
		return fmt.Sprintf("the epoch: %d, not %d", o.Epoch, g.Epoch)
	case g.Judge != o.Judge:
		return fmt.Sprintf("the judge: %s, not %s", o.Judge.Short(), g.Judge.Short())
	case g.MinFee != o.MinFee:
		return fmt.Sprintf("the minimum fee: %d, not %d", o.MinFee, g.MinFee)
	}
	for _, d := range []string{
		differenceOf("split", g.Splits, o.Splits),
		differenceOf("validator", g.Validators, o.Validators),
		differenceOf("account", g.Accounts, o.Accounts),
	} {
		if d != "" {
			return d
		}
	}
	return "nothing"
}

func differenceOf[T any](name string, a, b []T) string {
	for i := range min(len(a), len(b)) {
		if !reflect.DeepEqual(a[i], b[i]) {
			return fmt.Sprintf("%s %d of its list", name, i+1)
		}
	}
	if len(a) != len(b) {
		return fmt.Sprintf("the number of %ss: %d, not %d", name, len(b), len(a))
	}
	return ""
}

// Supply is the sum of all balances at the start; it never changes (I6).
func (g *Genesis) Supply() (sum Amount) {
	for _, a := range g.Accounts {
		sum += a.Balance
	}
	return sum
}

// Split returns the split with an id.
func (g *Genesis) Split(id uint32) (Split, bool) {
	i, ok := slices.BinarySearchFunc(g.Splits, id, func(s Split, id uint32) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return Split{}, false
	}
	return g.Splits[i], true
}

// Faults is f, the number of Byzantine validators that the committee bears: ⌊(n−1)/3⌋.
func (g *Genesis) Faults() int { return (len(g.Validators) - 1) / 3 }

// Quorum is q = n − f.
func (g *Genesis) Quorum() int { return len(g.Validators) - g.Faults() }

// ValidatorByPeer returns the index of the validator with a libp2p peer id, or -1.
func (g *Genesis) ValidatorByPeer(peer string) int {
	return slices.IndexFunc(g.Validators, func(v Validator) bool { return v.Peer == peer })
}
