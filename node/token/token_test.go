package token

import (
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	libp2p "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
)

var update = flag.Bool("update", false, "write testdata anew")

// address makes an address of a peer that is the same each time.
func address(t testing.TB, transport string) multiaddr.Multiaddr {
	t.Helper()
	key, err := libp2p.UnmarshalEd25519PrivateKey(ledgertest.Key("peer").Bytes())
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := multiaddr.NewMultiaddr(transport + "/p2p/" + id.String())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func genesis(validators int) *ledger.Genesis {
	g, _ := ledgertest.NewGenesis("somewhere", validators)
	return g
}

func sample(t testing.TB, validators int) Token {
	t.Helper()
	return New(genesis(validators), []multiaddr.Multiaddr{address(t, "/ip4/192.168.7.20/udp/4777/quic-v1"), address(t, "/ip4/192.168.7.20/tcp/4777"), address(t, "/dns4/poq.example.org/tcp/4777")})
}

func TestTokenReadsBackAsWritten(t *testing.T) {
	for _, validators := range []int{1, 2, 4, 7, ledger.MaxValidators} {
		want := sample(t, validators)
		got, err := Parse(want.String())
		if err != nil {
			t.Fatalf("%d validators: %v", validators, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d validators: read %+v, want %+v", validators, got, want)
		}
		if inside := want.Genesis != nil; inside != (validators <= 2) || len(want.String()) > short {
			t.Errorf("%d validators: genesis in the token: %v, %d characters", validators, inside, len(want.String()))
		}
		full, err := want.Full(genesis(validators))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Parse(full.String()); err != nil || !reflect.DeepEqual(got, full) {
			t.Errorf("%d validators: read %+v, %v, want %+v", validators, got, err, full)
		}
	}
}

// TestTokenOfToday holds that a line that somebody was sent goes on working. Only its meaning is fixed: another version of
// the compressor may write other bytes.
func TestTokenOfToday(t *testing.T) {
	const path = "testdata/token.txt"
	want := sample(t, 2)
	if *update {
		if err := os.WriteFile(path, []byte(want.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(string(line))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the token is read as %+v, want %+v", got, want)
	}
}

func TestTokenSurvivesWhatTerminalsDoToLines(t *testing.T) {
	want := sample(t, 4)
	line := want.String()
	var wrapped strings.Builder
	for i, r := range line {
		if i%60 == 0 {
			wrapped.WriteString("\r\n  ")
		}
		wrapped.WriteRune(r)
	}
	got, err := Parse(wrapped.String() + "\n")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
}

// TestTokenWithAnyMistakeIsRefused changes and cuts off every single character.
func TestTokenWithAnyMistakeIsRefused(t *testing.T) {
	line := sample(t, 1).String()
	for i := len(prefix); i < len(line); i++ {
		for _, c := range "aA0_~é" {
			if s := line[:i] + string(c) + line[i+1:]; s != line {
				if _, err := Parse(s); !errors.Is(err, ErrDamaged) {
					t.Fatalf("character %d is %q: %v, want ErrDamaged", i, c, err)
				}
			}
		}
		if _, err := Parse(line[:i]); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoToken) {
			t.Fatalf("cut off after %d characters: %v", i, err)
		}
	}
}

// line makes a token of a body, whatever that is.
func line(body []byte) string {
	stream := deflate(body)
	sum := crypto.Sum(stream)
	return prefix + base64.RawURLEncoding.EncodeToString(append(sum[:checksum:checksum], stream...))
}

func TestTokenErrorsSayWhatIsWrong(t *testing.T) {
	g, _ := ledgertest.NewGenesis("somewhere", 1)
	type one struct{ id, addr []byte }
	body := func(network string, chain crypto.Hash, genesis []byte, peers ...one) []byte {
		b := crypto.AppendBytes(nil, network)
		b = crypto.AppendBytes(append(b, chain[:]...), genesis)
		b = crypto.AppendCount(b, len(peers))
		for _, p := range peers {
			b = crypto.AppendCount(crypto.AppendBytes(b, p.id), 1)
			b = crypto.AppendBytes(b, p.addr)
		}
		return b
	}
	transport, id := peer.SplitAddr(address(t, "/ip4/10.0.0.1/tcp/4777"))
	good := one{[]byte(id), transport.Bytes()}
	many := make([]one, MaxAddresses+1)
	for i := range many {
		many[i] = good
	}
	crowd := crypto.AppendBytes(append(crypto.AppendBytes(nil, "x"), make([]byte, 32)...), []byte{})
	crowd = crypto.AppendCount(crowd, 2)
	for range 2 {
		crowd = crypto.AppendCount(crypto.AppendBytes(crowd, good.id), 0)
	}
	for name, c := range map[string]struct {
		token string
		is    error
		words string
	}{
		"nothing":                {"", ErrNoToken, "poq1"},
		"prefix alone":           {"poq1", ErrNoToken, "poq1"},
		"something else":         {"https://example.org", ErrNoToken, "poq1"},
		"no version":             {"poqx" + strings.Repeat("A", 40), ErrNoToken, "poq1"},
		"newer":                  {"poq2" + strings.Repeat("A", 40), ErrNewer, "update"},
		"a book":                 {strings.Repeat("poq1", maxToken), ErrDamaged, "copy it whole"},
		"no compression":         {prefix + "AAAAAAAA", ErrDamaged, "copy it whole"},
		"a bomb":                 {line(make([]byte, maxBody+1)), nil, "more than"},
		"no fields":              {line([]byte{1}), nil, "cut short"},
		"bytes left over":        {line(append(body("x", g.Chain(), nil), 0)), nil, "left over"},
		"no genesis":             {line(body("x", g.Chain(), []byte("?"))), nil, "genesis"},
		"another genesis":        {line(body(g.Network, crypto.Hash{1}, g.Encode())), nil, "chain id"},
		"another network":        {line(body("x", g.Chain(), g.Encode())), nil, "chain id"},
		"nobody":                 {line(body("x", g.Chain(), nil, one{nil, good.addr})), nil, "peer id"},
		"address of nonsense":    {line(body("x", g.Chain(), nil, one{good.id, []byte{255}})), nil, "address"},
		"address of nothing":     {line(body("x", g.Chain(), nil, one{good.id, nil})), nil, "address"},
		"one peer twice":         {line(body("x", g.Chain(), nil, good, good)), nil, "twice"},
		"peer without address":   {line(crowd), nil, "without an address"},
		"more addresses than 16": {line(body("x", g.Chain(), nil, many...)), nil, "out of its bounds"},
	} {
		_, err := Parse(c.token)
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %v with %q", name, err, c.is, c.words)
		}
	}
}

func TestRoutableLeavesOutWhatNoOtherMachineReaches(t *testing.T) {
	for transport, want := range map[string]bool{
		"/ip4/127.0.0.1/tcp/4777":            false,
		"/ip4/127.9.9.9/udp/4777/quic-v1":    false,
		"/ip6/::1/tcp/4777":                  false,
		"/ip4/0.0.0.0/tcp/4777":              false,
		"/ip6/::/tcp/4777":                   false,
		"/ip4/169.254.3.4/tcp/4777":          false,
		"/ip6/fe80::1/tcp/4777":              false,
		"/ip6zone/eth0/ip6/fe80::1/tcp/4777": false,
		"/ip6/::ffff:127.0.0.1/tcp/4777":     false,
		"/ip4/224.0.0.251/tcp/4777":          false,
		"/ip4/192.168.1.4/tcp/4777":          true,
		"/ip4/10.1.2.3/udp/4777/quic-v1":     true,
		"/ip4/100.64.0.9/tcp/4777":           true,
		"/ip4/198.51.100.7/tcp/4777":         true,
		"/ip6/fd00::7/tcp/4777":              true,
		"/ip6/2001:db8::7/udp/4777/quic-v1":  true,
		"/dns4/poq.example.org/tcp/4777":     true,
	} {
		a := address(t, transport)
		if kept := len(Routable([]multiaddr.Multiaddr{a})) == 1; kept != want {
			t.Errorf("%s: kept %v, want %v", transport, kept, want)
		}
	}
}

func TestNewTakesTheBestAddressesOfAPeer(t *testing.T) {
	list := func(transports ...string) (addrs []multiaddr.Multiaddr) {
		for _, a := range transports {
			addrs = append(addrs, address(t, a))
		}
		return addrs
	}
	const relay = "/ip4/1.2.3.4/tcp/4777/p2p/12D3KooWJoXQW5qNNre8W19nwqifBCvhLdYvvhKaVcxJxszTRSLL/p2p-circuit"
	for name, c := range map[string]struct{ from, want []multiaddr.Multiaddr }{
		"public ones first, two private ones, no relay": {
			list(relay, "/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.3/tcp/1", "/dns4/poq.example.org/tcp/1", "/ip4/8.8.8.8/tcp/1"),
			list("/dns4/poq.example.org/tcp/1", "/ip4/8.8.8.8/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/1"),
		},
		"relayed and private ones": {list("/ip4/10.0.0.1/tcp/1", relay), list(relay, "/ip4/10.0.0.1/tcp/1")},
		"private ones":             {list("/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1"), list("/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1")},
		"none":                     {list("/ip4/127.0.0.1/tcp/1"), nil},
	} {
		if got := New(genesis(1), c.from).Addresses; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestGenesisThatIsTooLargeForATokenIsSaid(t *testing.T) {
	g := genesis(1)
	for i := range 1000 {
		g.Accounts = append(g.Accounts, ledger.GenesisAccount{ID: ledgertest.Key(fmt.Sprint("account ", i)).Public(), Name: strings.Repeat("x", 64)})
	}
	slices.SortFunc(g.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	if _, err := New(g, nil).Full(g); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("got %v", err)
	}
}

func TestNewTakesNoMoreAddressesThanParse(t *testing.T) {
	g, _ := ledgertest.NewGenesis("somewhere", 1)
	var addrs []multiaddr.Multiaddr
	for i := range 3 * MaxAddresses {
		key, err := libp2p.UnmarshalEd25519PrivateKey(ledgertest.Key(fmt.Sprint("peer ", i)).Bytes())
		if err != nil {
			t.Fatal(err)
		}
		id, err := peer.IDFromPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		a, err := multiaddr.NewMultiaddr(fmt.Sprintf("/ip4/10.0.0.%d/tcp/4777/p2p/%s", i+1, id))
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, a)
	}
	got, err := Parse(New(g, addrs).String())
	if err != nil || len(got.Addresses) != MaxAddresses {
		t.Errorf("%d addresses, %v", len(got.Addresses), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample(f, 1).String())
	f.Add(sample(f, ledger.MaxValidators).String())
	f.Add("poq1AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(got.String())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v was read back as %+v, %v", got, again, err)
		}
	})
}

// FuzzDecode reads bodies without a checksum, which a fuzzer never meets by chance.
func FuzzDecode(f *testing.F) {
	for _, n := range []int{1, 4} {
		raw, err := base64.RawURLEncoding.DecodeString(sample(f, n).String()[len(prefix):])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw[checksum:])
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		got, err := decode(stream)
		if err != nil {
			return
		}
		again, err := Parse(got.String())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v was read back as %+v, %v", got, again, err)
		}
	})
}
