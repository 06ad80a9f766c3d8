package e2e

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/p2p"
)

// addr is where a peer listens, over TCP.
func (n *network) addr() string {
	n.user.t.Helper()
	for _, a := range n.card.Peers[0].Addrs {
		if strings.Contains(a, "/tcp/") {
			return a
		}
	}
	n.user.t.Fatal("the peer has no TCP address")
	return ""
}

func TestEveryAddressThatIsOfNoUseIsExplained(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	v := m.up("validator-1", "--roles", "validator")
	there := v.addr()
	m.putGenesis("peer", m.genesis)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", l.Addr().(*net.TCPAddr).Port, v.card.Peers[0].PeerID)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mistyped := strings.Replace(there, v.card.Peers[0].PeerID, "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp", 1)
	p := m.up("peer", "--bootstrap", closed)
	p.stderr.await(t, "joining: refused", "nothing listens there")
	p.stop()
	p = m.up("peer", "--bootstrap", mistyped)
	p.stderr.await(t, "joining: wrong peer id", v.card.Peers[0].PeerID, "out of date or mistyped")
	p.stop()
	p = m.up("peer", "--bootstrap", there, "--deny", "private")
	p.stderr.await(t, "joining: denied", "allow and deny lists")
	p.stop()
	p = m.up("peer", "--bootstrap", there, "--allow", v.card.Peers[0].PeerID)
	p.stderr.await(t, "joining: reached", "source=bootstrap")
	p.stop()
	m.fails("peer", 2, []string{"--allow", "10.0.0.0/99"}, "--allow", "10.0.0.0/99")
	m.fails("peer", 2, []string{"--announce", "port"}, "--announce", "example.org:99999")
	m.fails("peer", 2, []string{"--dht", "auto, server, client or off"}, "--dht", "on")

	// Other networks: of another name, and of the same name with other rules.
	other := *m.genesis
	other.MinFee++
	m.putGenesis("other", &other)
	p = m.up("other", "--bootstrap", there)
	p.stderr.await(t, "joining: wrong genesis", m.genesis.Chain().String(), other.Chain().String())
	v.stderr.await(t, "does not belong here", "wrong genesis")
	p.stop()
	other.Network = "village"
	m.putGenesis("another", &other)
	p = m.up("another", "--bootstrap", there)
	p.stderr.await(t, "joining: wrong network", "network hamlet", "village")
	p.stop()

	p = m.up("payer")
	p.stderr.await(t, "knows nobody", "token")
}

func TestPeerOfAnotherVersionIsNamedAndWhoMustUpdate(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	m.putGenesis("peer", m.genesis)
	for _, c := range []struct {
		protocol uint16
		words    []string
	}{
		{0, []string{"joining: version too old", "the peer must be updated"}},
		{9, []string{"joining: version too new", "update this one"}},
	} {
		hello := node.Hello(m.genesis)
		hello.Protocol, hello.Oldest = c.protocol, c.protocol
		h, err := p2p.New(p2p.Config{Network: m.genesis.Network, Hello: hello, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		p := m.up("peer", "--bootstrap", h.Addrs()[0].String())
		p.stderr.await(t, c.words...)
		p.stop()
	}
}

func TestPeersStayWhenTheBootstrapDiesAndFindBackWithoutIt(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	m.putGenesis("first", m.genesis)
	first := m.up("first")
	v := m.up("validator-1", "--roles", "validator", "--bootstrap", first.addr())
	m.putGenesis("worker", m.genesis)
	w := m.up("worker", "--roles", "worker", "--engine", "extract", "--bootstrap", first.addr())
	payer := m.up("payer", "--bootstrap", first.addr())
	payer.ask("When was the lighthouse built?\n\n" + passage)
	first.stop()
	payer.ask("Who tended the lamp?\n\n" + passage)
	payer.stop()
	data, err := os.ReadFile(filepath.Join(m.path("payer"), "peers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var remembered struct {
		Network string
		Peers   []struct{ ID string }
	}
	if err := json.Unmarshal(data, &remembered); err != nil || remembered.Network != "hamlet" || len(remembered.Peers) < 2 {
		t.Errorf("it remembers %s (%v)", data, err)
	}
	payer = m.up("payer")
	payer.stderr.await(t, "joining: reached", "source=remembered")
	payer.ask("Where did the ships come from?\n\n" + passage)
	for _, n := range []*network{payer, w, v} {
		n.stop()
	}
}

func TestTwoProcessesWithOneIdentityAreBothTold(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	v := m.up("validator-1", "--roles", "validator")
	m.putGenesis("twin", m.genesis)
	one := m.up("twin", "--bootstrap", v.addr())
	one.stderr.await(t, "joining: reached")
	m.putGenesis("copy", m.genesis)
	for _, f := range []string{"peer.key", "account.key"} {
		data, err := os.ReadFile(filepath.Join(m.path("twin"), f))
		if err == nil {
			err = os.WriteFile(filepath.Join(m.path("copy"), f), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	two := m.up("copy", "--bootstrap", v.addr())
	for _, n := range []*network{one, two} {
		n.stderr.await(t, "another process runs with this peer's identity", v.card.Peers[0].PeerID)
	}
}
