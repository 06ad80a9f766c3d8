package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

// key is a public key of 32 equal bytes.
func key(b byte) (k crypto.PublicKey) {
	for i := range k {
		k[i] = b
	}
	return k
}

// sampleGenesis is valid and has two of everything.
func sampleGenesis() *Genesis {
	second := DefaultSplit()
	second.ID, second.Ranks = 5, []uint32{1}
	return &Genesis{
		Network: "home", Epoch: 1, Judge: crypto.Hash(key(9)), MinFee: 1000, Splits: []Split{DefaultSplit(), second},
		Validators: []Validator{
			{Name: "berlin", Consensus: key(1), Account: key(2), Peer: "12D3KooWA"},
			{Name: "paris", Consensus: key(3), Account: key(4), Peer: "12D3KooWB"},
		},
		Accounts: []GenesisAccount{{ID: key(6), Name: "ada", Balance: 5 * Credit}, {ID: key(8), Name: "bob", Balance: Credit / 4}},
	}
}

func hex32(digits string) string { return strings.Repeat(digits, 32) }

func TestDifferenceNamesTheThingAndBothValues(t *testing.T) {
	for want, change := range map[string]func(*Genesis){
		"nothing":                         func(*Genesis) {},
		`the network: "work", not "home"`: func(g *Genesis) { g.Network = "work" },
		"the epoch: 2, not 1":             func(g *Genesis) { g.Epoch = 2 },
		"the judge: " + hex32("07") + ", not " + hex32("09"):                          func(g *Genesis) { g.Judge = crypto.Hash(key(7)) },
		"the minimum fee: 1.500000 credits, not 0.001000 credits":                     func(g *Genesis) { g.MinFee = 1500000 },
		"split 1: weight of workers: 79, not 80":                                      func(g *Genesis) { g.Splits[0].Workers = 79 },
		"split 1: weight of validators: 21, not 20":                                   func(g *Genesis) { g.Splits[0].Validators = 21 },
		"split 5: weights of ranks: [1 2], not [1]":                                   func(g *Genesis) { g.Splits[1].Ranks = []uint32{1, 2} },
		"split 5: floor: 1, not 2500":                                                 func(g *Genesis) { g.Splits[1].Floor = 1 },
		"split 5: band: 2, not 100":                                                   func(g *Genesis) { g.Splits[1].Band = 2 },
		"split 5: unpaid burn: 3, not 100":                                            func(g *Genesis) { g.Splits[1].UnpaidBurn = 3 },
		"split 5: none, not there":                                                    func(g *Genesis) { g.Splits = g.Splits[:1] },
		"split 4: there, not none":                                                    func(g *Genesis) { g.Splits[1].ID = 4 },
		"split 6: there, not none":                                                    func(g *Genesis) { s := g.Splits[1]; s.ID = 6; g.Splits = append(g.Splits, s) },
		`validator 2 "paris": name: "rome", not "paris"`:                              func(g *Genesis) { g.Validators[1].Name = "rome" },
		`validator 2 "paris": consensus key: ` + hex32("07") + ", not " + hex32("03"): func(g *Genesis) { g.Validators[1].Consensus = key(7) },
		`validator 2 "paris": account: ` + hex32("07") + ", not " + hex32("04"):       func(g *Genesis) { g.Validators[1].Account = key(7) },
		`validator 1 "berlin": peer id: 12D3KooWC, not 12D3KooWA`:                     func(g *Genesis) { g.Validators[0].Peer = "12D3KooWC" },
		`validator 2: none, not consensus key ` + hex32("03") + ` "paris"`:            func(g *Genesis) { g.Validators = g.Validators[:1] },
		`validator 3: consensus key ` + hex32("07") + ` "rome", not none`:             func(g *Genesis) { g.Validators = append(g.Validators, Validator{Name: "rome", Consensus: key(7)}) },
		`validator 1: consensus key ` + hex32("03") + ` "paris", not consensus key ` + hex32("01") + ` "berlin"`: func(g *Genesis) {
			g.Validators[0], g.Validators[1] = g.Validators[1], g.Validators[0]
		},
		`account ` + hex32("06") + ` "ada": name: "eve", not "ada"`:                          func(g *Genesis) { g.Accounts[0].Name = "eve" },
		`account ` + hex32("08") + ` "bob": balance: 0.250001 credits, not 0.250000 credits`: func(g *Genesis) { g.Accounts[1].Balance++ },
		`account ` + hex32("06") + ` "ada": none, not 5.000000 credits`:                      func(g *Genesis) { g.Accounts = g.Accounts[1:] },
		`account ` + hex32("08") + ` "bob": none, not 0.250000 credits`:                      func(g *Genesis) { g.Accounts = g.Accounts[:1] },
		`account ` + hex32("04") + `: 0.000002 credits, not none`:                            func(g *Genesis) { g.Accounts = append([]GenesisAccount{{key(4), "", 2}}, g.Accounts...) },
		`account ` + hex32("05") + ` "eve": 0.000002 credits, not none`:                      func(g *Genesis) { g.Accounts = append([]GenesisAccount{{key(5), "eve", 2}}, g.Accounts...) },
		`account ` + hex32("09") + ` "eve": ` + "18446744073709.551615 credits, not none":    func(g *Genesis) { g.Accounts = append(g.Accounts, GenesisAccount{key(9), "eve", math.MaxUint64}) },
	} {
		g, o := sampleGenesis(), sampleGenesis()
		change(o)
		if got := g.Difference(o); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if (g.Difference(o) == "nothing") != bytes.Equal(g.Encode(), o.Encode()) || (o.Difference(g) == "nothing") != bytes.Equal(g.Encode(), o.Encode()) {
			t.Errorf("%s: the bytes say something else", want)
		}
	}
}

func TestGenesisThatCannotBeIsRefusedByName(t *testing.T) {
	if err := sampleGenesis().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Genesis){
		`network name ""`:            func(g *Genesis) { g.Network = "" },
		`network name "a/b"`:         func(g *Genesis) { g.Network = "a/b" },
		`network name "a\x1b"`:       func(g *Genesis) { g.Network = "a\x1b" },
		"1 to 64 letters":            func(g *Genesis) { g.Network = strings.Repeat("a", 65) },
		"min_fee":                    func(g *Genesis) { g.MinFee = 0 },
		"want 1 to 64 splits, got 0": func(g *Genesis) { g.Splits = nil },
		"splits must ascend":         func(g *Genesis) { g.Splits[1].ID = 1 },
		"split 5: ":                  func(g *Genesis) { g.Splits[1].Ranks = nil },
		"want 1 to 64 validators":    func(g *Genesis) { g.Validators = make([]Validator, 65) },
		`validator 2 "paris" needs`:  func(g *Genesis) { g.Validators[1].Peer = "" },
		`not printable`:              func(g *Genesis) { g.Validators[1].Name = "a\nb" },
		`validator 1 "berlin": name`: func(g *Genesis) { g.Validators[0].Peer = "\x7f" },
		`validator 2 "paris" has the consensus key 010101010101 of validator 1 "berlin"`: func(g *Genesis) { g.Validators[1].Consensus = key(1) },
		`validator 2 "paris" has the peer id 12D3KooWA of validator 1 "berlin"`:          func(g *Genesis) { g.Validators[1].Peer = "12D3KooWA" },
		"zero account":               func(g *Genesis) { g.Accounts[0].ID = Burned },
		"accounts must ascend":       func(g *Genesis) { g.Accounts[0].ID = key(9) },
		"account 060606060606: name": func(g *Genesis) { g.Accounts[0].Name = "\u202e" },
		"sum of balances":            func(g *Genesis) { g.Accounts[0].Balance = math.MaxInt64 },
		"poq genesis add-validator":  func(g *Genesis) { g.Validators = nil },
	} {
		g := sampleGenesis()
		change(g)
		err := g.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrNoValidators) != (len(g.Validators) == 0) {
			t.Errorf("want %s, got %v", want, err)
		}
		if data, e := json.Marshal(g); e == nil {
			if got, e := ParseGenesis(data); e == nil || (got != nil) != errors.Is(err, ErrNoValidators) {
				t.Errorf("%s: parsed all the same (%v)", want, e)
			}
		}
	}
}

func TestFileOfAGenesisIsReadStrictly(t *testing.T) {
	good, err := json.MarshalIndent(sampleGenesis(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	g, err := ParseGenesis(append(good, "\n\n"...))
	if err != nil || g.Chain() != sampleGenesis().Chain() {
		t.Fatalf("read back: %v", err)
	}
	for name, c := range map[string]struct{ data, want string }{
		"misspelled": {strings.Replace(string(good), "unpaid_burn", "unpaid_bum", 1), `"unpaid_bum"`},
		"two":        {string(good) + string(good), "behind it"},
		"cut":        {string(good[:len(good)-3]), "EOF"},
		"empty":      {"", "EOF"},
		"null":       {"null", "network name"},
		"short key":  {strings.Replace(string(good), hex32("01"), hex32("01")[2:], 1), "64 hex digits"},
		"long":       {string(good) + strings.Repeat(" ", MaxGenesisFile), fmt.Sprint(MaxGenesisFile)},
	} {
		if _, err := ParseGenesis([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a file says is what is hashed: nothing gets lost between the two.
func FuzzParseGenesis(f *testing.F) {
	good, err := json.Marshal(sampleGenesis())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := ParseGenesis(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := ParseGenesis(again); err != nil || h.Chain() != g.Chain() || g.Difference(h) != "nothing" {
			t.Errorf("written and read again: %v", err)
		}
		if h, err := DecodeGenesis(g.Encode()); err != nil || h.Chain() != g.Chain() {
			t.Errorf("encoded and decoded: %v", err)
		}
	})
}
