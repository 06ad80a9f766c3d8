package p2p

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

func discover(t testing.TB, h *Host, d Discovery) {
	t.Helper()
	if err := h.Discover(d); err != nil {
		t.Fatal(err)
	}
}

// waitAttempt waits until the latest attempt at an address, which ends in /p2p/<id>, has the outcome.
func waitAttempt(t testing.TB, h *Host, addr multiaddr.Multiaddr, want Outcome) Attempt {
	t.Helper()
	ctx := deadline(t)
	for {
		list, changed := h.attempts.get()
		at, id := peer.SplitAddr(addr)
		if i := slices.IndexFunc(list, func(a Attempt) bool { return a.Addr.Equal(at) && a.Peer == id }); i >= 0 && list[i].Outcome == want {
			return list[i]
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("no attempt at %s that %s: %v", addr, want, list)
		}
	}
}

func TestOneBootstrapLeadsToEverybody(t *testing.T) {
	first := newHost(t, Config{})
	hosts := []*Host{first}
	for range 4 {
		h := newHost(t, Config{})
		discover(t, h, Discovery{Bootstraps: first.Addrs()})
		hosts = append(hosts, h)
	}
	for _, a := range hosts {
		for _, b := range hosts {
			if a != b {
				waitConnected(t, a, b.ID(), true)
			}
		}
	}
	var sources []Source
	for _, h := range hosts {
		for _, a := range h.Attempts() {
			sources = append(sources, a.Source)
		}
	}
	if !slices.Contains(sources, FromBootstrap) || !slices.Contains(sources, FromExchange) {
		t.Errorf("addresses came from %v", sources)
	}
}

func TestPeerThatIsEnoughForItselfDialsNobody(t *testing.T) {
	first, second := newHost(t, Config{Listen: overTCP}), newHost(t, Config{})
	connect(t, second, first)
	h := newHost(t, Config{})
	discover(t, h, Discovery{Bootstraps: first.Addrs(), Target: 1})
	waitConnected(t, h, first.ID(), true)
	waitAttempt(t, h, first.Addrs()[0], Reached)
	f := h.finder.Load()
	if next := f.askDue(f.h.greet.peers()); !next.IsZero() {
		t.Errorf("it goes on asking for peers at %v", next)
	}
	f.add(peer.AddrInfo{ID: second.ID(), Addrs: second.host.Addrs()}, FromExchange)
	if next := f.dialDue(f.h.greet.peers()); !next.IsZero() || f.dialling > 0 {
		t.Errorf("it dials another peer at %v (%d dials)", next, f.dialling)
	}
}

func TestWantedPeerIsFoundThroughABootstrap(t *testing.T) {
	first, wanted, h := newHost(t, Config{}), newHost(t, Config{}), newHost(t, Config{})
	discover(t, h, Discovery{Bootstraps: first.Addrs(), Wanted: []peer.ID{wanted.ID()}, Target: 1})
	waitConnected(t, h, first.ID(), true)
	connect(t, wanted, first) // only now
	f := h.finder.Load()
	f.mu.Lock()
	f.candidates[first.ID()].ask = time.Time{} // as if the pause were over
	f.mu.Unlock()
	f.poke()
	waitConnected(t, h, wanted.ID(), true)
}

func TestRememberedPeersReplaceADeadBootstrap(t *testing.T) {
	first, second := newHost(t, Config{}), newHost(t, Config{})
	connect(t, second, first)
	file := filepath.Join(t.TempDir(), "peers.json")
	met := make(chan peer.ID, 16)
	h := newHost(t, Config{Met: func(p peer.ID) {
		if p == second.ID() {
			met <- p
		}
	}})
	discover(t, h, Discovery{Bootstraps: first.Addrs(), File: file})
	receive(t, met)
	if err := errors.Join(h.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info.Mode(), err)
	}
	again := newHost(t, Config{})
	discover(t, again, Discovery{Bootstraps: first.Addrs(), File: file})
	waitConnected(t, again, second.ID(), true)
}

func TestAttemptsSayWhatHappenedAtEveryAddress(t *testing.T) {
	other := newHost(t, Config{Network: "other", Listen: overTCP})
	gone := newHost(t, Config{Listen: overTCP})
	away := gone.Addrs()[0]
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	there, wrong := newHost(t, Config{Listen: overTCP}), newHost(t, Config{})
	denied := newHost(t, Config{Listen: overTCP})
	rule, err := ParseRule(denied.ID().String())
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, Config{Access: Access{Deny: []Rule{rule}}})
	mistyped := there.host.Addrs()[0].Encapsulate(multiaddr.StringCast("/p2p/" + wrong.ID().String()))
	for _, c := range []struct {
		addr    multiaddr.Multiaddr
		outcome Outcome
	}{
		{away, NotThere}, {other.Addrs()[0], OtherNetwork}, {mistyped, OtherPeer}, {denied.Addrs()[0], Denied},
		{there.Addrs()[0], Reached}, {h.Addrs()[0], Ourselves},
	} {
		if h.finder.Load() == nil {
			discover(t, h, Discovery{Bootstraps: []multiaddr.Multiaddr{
				away, other.Addrs()[0], mistyped, denied.Addrs()[0], there.Addrs()[0], h.Addrs()[0]}})
		}
		a := waitAttempt(t, h, c.addr, c.outcome)
		if a.Source != FromBootstrap || a.Detail == "" || a.Time.IsZero() || a.Next.IsZero() != (c.outcome == Reached || c.outcome == Ourselves) {
			t.Errorf("got %+v", a)
		}
	}
}

func TestCutNetworkComesTogetherWhenTheLastPeerIsLost(t *testing.T) {
	key := newKey(t)
	b := newHost(t, Config{Key: key, Listen: overTCP})
	addrs := b.host.Addrs()
	a := newHost(t, Config{})
	discover(t, a, Discovery{Bootstraps: b.Addrs()})
	waitConnected(t, a, b.ID(), true)
	waitConnected(t, b, a.ID(), true)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, a, b.ID(), false)
	newHost(t, Config{Key: key, Listen: addrs})
	waitConnected(t, a, b.ID(), true)
}

func TestCandidateThatFailsOftenMakesRoom(t *testing.T) {
	h := newHost(t, Config{})
	f := &finder{h: h, wake: make(chan struct{}, 1), candidates: make(map[peer.ID]*candidate), bootstrap: make(map[peer.ID]bool)}
	add := func() peer.ID {
		id, err := peer.IDFromPrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		f.add(peer.AddrInfo{ID: id, Addrs: overTCP}, FromExchange)
		return id
	}
	first := add()
	f.bootstrap[first] = true
	f.candidates[first].fails = 100
	worst := add()
	f.candidates[worst].fails = 3
	for len(f.candidates) < maxCandidates {
		add()
	}
	if last := add(); f.candidates[last] == nil || f.candidates[worst] != nil || f.candidates[first] == nil || len(f.candidates) > maxCandidates {
		t.Error("the wrong one made room")
	}
	for i := range 100 {
		a, err := multiaddr.NewMultiaddr("/ip4/192.0.2.1/tcp/" + string(rune('1'+i%9)) + "000")
		if err != nil {
			t.Fatal(err)
		}
		f.add(peer.AddrInfo{ID: first, Addrs: []multiaddr.Multiaddr{a, multiaddr.StringCast("/ip4/192.0.2.2/tcp/" + time.Duration(i).String()[:1])}}, FromExchange)
	}
	if n := len(f.candidates[first].addrs); n > maxAddrs {
		t.Errorf("%d addresses", n)
	}
}

func TestPauseGrowsWithFailuresAndDependsOnWhoItIs(t *testing.T) {
	h := newHost(t, Config{})
	boot := peer.ID("boot")
	f := &finder{h: h, bootstrap: map[peer.ID]bool{boot: true}}
	longest := func(p peer.ID, lonely, lasting bool) (most time.Duration) {
		f.lonely = lonely
		c := &candidate{retry: newBackoff(findMin, findMax)}
		for range 30 {
			most = max(most, f.pause(p, c, lasting))
		}
		return most
	}
	for name, c := range map[string]struct{ got, most time.Duration }{
		"bootstrap, nobody there": {longest(boot, true, false), findLonely},
		"bootstrap":               {longest(boot, false, false), findKept},
		"another, nobody there":   {longest("x", true, false), findKept},
		"another":                 {longest("x", false, false), findMax},
		"wrong network":           {longest(boot, false, true), lastingPause * 3 / 2},
		"wrong network, lonely":   {longest(boot, true, true), findKept},
	} {
		if c.got > c.most || c.got < c.most/2 {
			t.Errorf("%s: up to %v, want %v", name, c.got, c.most)
		}
	}
}

func TestWhoKnowsNobodySaysSoOnce(t *testing.T) {
	h := newHost(t, Config{})
	now := time.Now()
	f := &finder{h: h, wake: make(chan struct{}, 1), candidates: make(map[peer.ID]*candidate), hint: now.Add(hintAfter)}
	var log strings.Builder
	h.log = slog.New(slog.NewTextHandler(&log, nil))
	if next := f.hintDue(now); next != now.Add(hintAfter) || log.Len() > 0 {
		t.Errorf("at once: %v, %s", next, log.String())
	}
	for range 2 {
		if next := f.hintDue(now.Add(hintAfter)); !next.IsZero() || strings.Count(log.String(), "knows nobody") != 1 {
			t.Errorf("later: %v, %s", next, log.String())
		}
	}
}

func TestDiscoveryIsStartedOnceAndEndsWithTheHost(t *testing.T) {
	h := newHost(t, Config{})
	discover(t, h, Discovery{})
	if err := h.Discover(Discovery{}); err == nil {
		t.Error("started twice")
	}
	closed := newHost(t, Config{})
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := closed.Discover(Discovery{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := newHost(t, Config{}).Discover(Discovery{Bootstraps: overTCP}); err == nil {
		t.Error("a bootstrap without an id was taken")
	}
}

func TestDamagedMemoryIsNoReasonNotToStart(t *testing.T) {
	h := newHost(t, Config{})
	for name, text := range map[string]string{
		"no JSON": "{", "other network": `{"network":"two","peers":[]}`, "odd peers": `{"network":"test","peers":[1,{"id":"x"},{}]}`,
		"large": string(make([]byte, maxMemory+1)),
	} {
		path := filepath.Join(t.TempDir(), "peers.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := openMemory(path, "test", h.log).peers(time.Now()); len(got) != 0 {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestMemoryKeepsTheNewestAndForgetsTheOldest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	h := newHost(t, Config{})
	m := openMemory(path, "test", h.log)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ids []peer.ID
	for i := range memoryPeers + 5 {
		id, err := peer.IDFromPrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		m.saw(id, []sourced{{overTCP[0], FromPeer}}, start.Add(time.Duration(i)*time.Hour))
	}
	now := start.Add(memoryPeers * time.Hour)
	if next := m.saveDue(now); !next.IsZero() {
		t.Errorf("next save at %v", next)
	}
	got := openMemory(path, "test", h.log).peers(now)
	if len(got) != memoryPeers || slices.ContainsFunc(got, func(p peer.AddrInfo) bool { return slices.Contains(ids[:5], p.ID) }) {
		t.Errorf("got %d peers", len(got))
	}
	m.saw(ids[10], []sourced{{overQUIC[0], FromPeer}}, now)
	if next := m.saveDue(now.Add(time.Second)); next != now.Add(memoryEvery) {
		t.Errorf("a change a second after a save is saved at %v", next)
	}
	if got := openMemory(path, "test", h.log).peers(now.Add(2 * memoryTime)); len(got) != 0 {
		t.Errorf("%d peers are remembered for ever", len(got))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m.path = filepath.Join(path, "no such directory")
	m.save(now) // logs
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"network":"test","peers":[{"id":"12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp","addrs":["/ip4/192.0.2.1/tcp/1"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := decodeMemory(data, "test")
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "peers.json")
		if err := writeMemory(path, "test", list); err != nil {
			t.Fatal(err)
		}
		data, err = os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeMemory(data, "test"); err != nil || len(again) != len(list) {
			t.Errorf("%v became %v, %v", list, again, err)
		}
	})
}

func FuzzPeerExchange(f *testing.F) {
	f.Add(encodeAsk([]peer.ID{"\x00\x01a"}), appendFrame(nil, []byte("no record")))
	f.Fuzz(func(t *testing.T, ask, records []byte) {
		if wanted, err := decodeAsk(ask); err == nil && len(wanted) > maxAsked {
			t.Errorf("%d wanted", len(wanted))
		}
		if peers, err := decodeRecords(records); err == nil && len(peers) > exchangePeers {
			t.Errorf("%d peers", len(peers))
		}
	})
}
