package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

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

	// MaxGenesisFile bounds the JSON form of a genesis in bytes. With as many accounts as it may have it takes 9 MB.
	MaxGenesisFile = 16 << 20
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

// ParseGenesis reads the JSON form of a genesis, as a directory has it, and validates it. A field that it does not
// know is an error: it may be a misspelled rule. If nothing is wrong but that there are no validators yet, it returns
// the genesis beside an error that wraps [ErrNoValidators].
func ParseGenesis(data []byte) (*Genesis, error) {
	if len(data) > MaxGenesisFile {
		return nil, fmt.Errorf("genesis: more than %d bytes", MaxGenesisFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	g := &Genesis{}
	if err := d.Decode(g); err != nil {
		return nil, fmt.Errorf("no genesis in JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("no genesis in JSON: something stands behind it")
	}
	err := g.Validate()
	if err != nil && !errors.Is(err, ErrNoValidators) {
		return nil, err
	}
	return g, err
}

// ErrNoValidators is wrapped when a genesis lacks validators and nothing else.
var ErrNoValidators = errors.New("it has no validators yet: poq genesis add-validator adds one")

// Chain returns the chain id. Hashing takes microseconds: keep the result.
func (g *Genesis) Chain() crypto.Hash {
	return crypto.Domain{}.Hash("genesis", g.Encode())
}

// Validate says what is wrong with g, if anything. That it has no validators is said last: see [ErrNoValidators].
func (g *Genesis) Validate() error {
	switch {
	case g.Network == "" || len(g.Network) > maxName || strings.Trim(g.Network, nameLetters) != "":
		return fmt.Errorf("genesis: network name %q: want 1 to %d letters, digits, '.', '_' or '-'", g.Network, maxName)
	case len(g.Validators) > MaxValidators:
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
	keys, peers := map[crypto.PublicKey]int{}, map[string]int{}
	for i, v := range g.Validators {
		name := named(fmt.Sprintf("validator %d", i+1), v.Name)
		switch {
		case v.Consensus.IsZero() || v.Account.IsZero() || v.Peer == "":
			return fmt.Errorf("genesis: %s needs a consensus key, an account and a peer id", name)
		case len(v.Name) > maxName || len(v.Peer) > 2*maxName || !printable(v.Name) || !printable(v.Peer):
			return fmt.Errorf("genesis: %s: name or peer id too long or not printable", name)
		}
		if other, ok := keys[v.Consensus]; ok {
			return fmt.Errorf("genesis: %s has the consensus key %s of validator %d %q", name, v.Consensus.Short(), other+1, g.Validators[other].Name)
		}
		if other, ok := peers[v.Peer]; ok {
			return fmt.Errorf("genesis: %s has the peer id %s of validator %d %q", name, v.Peer, other+1, g.Validators[other].Name)
		}
		keys[v.Consensus], peers[v.Peer] = i, i
	}
	supply := Amount(0)
	for i, a := range g.Accounts {
		if a.ID.IsZero() {
			return errors.New("genesis: the zero account is for what is burned and cannot hold a balance")
		}
		if i > 0 && a.ID.Compare(g.Accounts[i-1].ID) <= 0 {
			return errors.New("genesis: accounts must ascend by id, each once")
		}
		if len(a.Name) > maxName || !printable(a.Name) {
			return fmt.Errorf("genesis: account %s: name too long or not printable", a.ID.Short())
		}
		if a.Balance > math.MaxInt64-supply {
			return errors.New("genesis: the sum of balances does not fit 63 bits")
		}
		supply += a.Balance
	}
	if len(g.Validators) == 0 {
		return fmt.Errorf("genesis: %w", ErrNoValidators)
	}
	return nil
}

// nameLetters are those of a network's name, which stands in topics and protocol ids.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// printable reports whether s is valid UTF-8 without control characters and the like, so that it may be shown in a
// terminal and means the same bytes in JSON.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
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

// Difference names for people the first thing in which o differs from g: the thing, what it is in o, and what it is
// in g. It is "nothing" if there is none.
func (g *Genesis) Difference(o *Genesis) string {
	if d := differ("",
		property{"the network", fmt.Sprintf("%q", o.Network), fmt.Sprintf("%q", g.Network)},
		property{"the epoch", o.Epoch, g.Epoch},
		property{"the judge", o.Judge, g.Judge},
		property{"the minimum fee", creditsText(o.MinFee), creditsText(g.MinFee)},
	); d != "" {
		return d
	}
	const none = "none"
	for i := range max(len(g.Splits), len(o.Splits)) {
		a, b := at(g.Splits, i), at(o.Splits, i)
		switch {
		case a == nil || b != nil && b.ID < a.ID:
			return fmt.Sprintf("split %d: there, not %s", b.ID, none)
		case b == nil || a.ID < b.ID:
			return fmt.Sprintf("split %d: %s, not there", a.ID, none)
		}
		if d := differ(fmt.Sprintf("split %d: ", a.ID),
			property{"weight of workers", b.Workers, a.Workers}, property{"weight of validators", b.Validators, a.Validators},
			property{"weights of ranks", fmt.Sprint(b.Ranks), fmt.Sprint(a.Ranks)}, property{"floor", b.Floor, a.Floor},
			property{"band", b.Band, a.Band}, property{"unpaid burn", b.UnpaidBurn, a.UnpaidBurn},
		); d != "" {
			return d
		}
	}
	for i := range max(len(g.Validators), len(o.Validators)) {
		a, b := at(g.Validators, i), at(o.Validators, i)
		who := func(v *Validator) string {
			if v == nil {
				return none
			}
			return named("consensus key "+v.Consensus.String(), v.Name)
		}
		if a == nil || b == nil || a.Name != b.Name && a.Consensus != b.Consensus {
			return fmt.Sprintf("validator %d: %s, not %s", i+1, who(b), who(a))
		}
		if d := differ(named(fmt.Sprintf("validator %d", i+1), a.Name)+": ",
			property{"name", fmt.Sprintf("%q", b.Name), fmt.Sprintf("%q", a.Name)}, property{"consensus key", b.Consensus, a.Consensus},
			property{"account", b.Account, a.Account}, property{"peer id", b.Peer, a.Peer},
		); d != "" {
			return d
		}
	}
	for i := range max(len(g.Accounts), len(o.Accounts)) {
		a, b := at(g.Accounts, i), at(o.Accounts, i)
		switch {
		case a == nil || b != nil && b.ID.Compare(a.ID) < 0:
			return fmt.Sprintf("%s: %s, not %s", named("account "+b.ID.String(), b.Name), creditsText(b.Balance), none)
		case b == nil || a.ID.Compare(b.ID) < 0:
			return fmt.Sprintf("%s: %s, not %s", named("account "+a.ID.String(), a.Name), none, creditsText(a.Balance))
		}
		if d := differ(named("account "+a.ID.String(), a.Name)+": ",
			property{"name", fmt.Sprintf("%q", b.Name), fmt.Sprintf("%q", a.Name)},
			property{"balance", creditsText(b.Balance), creditsText(a.Balance)},
		); d != "" {
			return d
		}
	}
	return "nothing"
}

// property is something that two geneses have, and what it is in the other one and in this one.
type property struct {
	name        string
	other, this any // comparable
}

// differ describes the first of the properties that differs, or returns "".
func differ(of string, list ...property) string {
	for _, p := range list {
		if p.other != p.this {
			return fmt.Sprintf("%s%s: %v, not %v", of, p.name, p.other, p.this)
		}
	}
	return ""
}

// named adds a name, if there is one.
func named(thing, name string) string {
	if name == "" {
		return thing
	}
	return fmt.Sprintf("%s %q", thing, name)
}

// at returns element i, or nil behind the end.
func at[T any](list []T, i int) *T {
	if i >= len(list) {
		return nil
	}
	return &list[i]
}

func creditsText(a Amount) string { return fmt.Sprintf("%d.%06d credits", a/Credit, a%Credit) }

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
