package p2p

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestHostsPartAndSayWhyWhenTheyDoNotBelongTogether(t *testing.T) {
	ours := Config{Network: "one", Hello: Hello{Genesis: []byte{1}, Protocol: 3, Oldest: 2, Version: "1.2"}}
	for name, c := range map[string]struct {
		theirs            Config
		outcome, opposite Outcome
		says              string
	}{
		"same":            {ours, "", "", ""},
		"other version":   {Config{Network: "one", Hello: Hello{Genesis: []byte{1}, Protocol: 4, Oldest: 3}}, "", "", ""},
		"other network":   {Config{Network: "two", Hello: ours.Hello}, OtherNetwork, OtherNetwork, "network two"},
		"other genesis":   {Config{Network: "one", Hello: Hello{Genesis: []byte{2}, Protocol: 3}}, OtherGenesis, OtherGenesis, "genesis is 02"},
		"too old a peer":  {Config{Network: "one", Hello: Hello{Genesis: []byte{1}, Protocol: 1, Version: "0.9"}}, TooOld, TooNew, "the peer must be updated"},
		"too new a peer":  {Config{Network: "one", Hello: Hello{Genesis: []byte{1}, Protocol: 5, Oldest: 4}}, TooNew, TooOld, "update this one"},
		"another genesis": {Config{Network: "one", Hello: Hello{Genesis: nil, Protocol: 3}}, OtherGenesis, OtherGenesis, "genesis is ,"},
	} {
		t.Run(name, func(t *testing.T) {
			met := make(chan peer.ID, 16)
			ours.Met, c.theirs.Met = func(p peer.ID) { met <- p }, func(p peer.ID) { met <- p }
			a, b := newHost(t, ours), newHost(t, c.theirs)
			heard, stop := b.greet.with(a.ID())
			defer stop()
			err := a.Connect(deadline(t), b.Addrs()...)
			if got := refusal(err); got != c.outcome || (got == "") != (err == nil) {
				t.Errorf("got %v, want %q", err, c.outcome)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, want something about %q", err, c.says)
			}
			if got := refusal(receive(t, heard).err); got != c.opposite {
				t.Errorf("the other side says %q, want %q", got, c.opposite)
			}
			waitConnected(t, a, b.ID(), c.outcome == "")
			waitConnected(t, b, a.ID(), c.outcome == "")
			if c.outcome == "" {
				receive(t, met)
				receive(t, met)
			} else if len(met) > 0 || len(a.Peers()) > 0 || len(b.Peers()) > 0 {
				t.Error("a peer that does not belong here was introduced")
			}
			if got, ok := a.Hello(b.ID()); ok != (c.outcome == "") || ok && !reflect.DeepEqual(got, c.theirs.Hello) {
				t.Errorf("got hello %+v, %v", got, ok)
			}
		})
	}
}

func TestManyHellosOnOneConnectionCountOnce(t *testing.T) {
	met := make(chan peer.ID, 16)
	a, b := newHost(t, Config{}), newHost(t, Config{Met: func(p peer.ID) { met <- p }})
	connect(t, a, b)
	receive(t, met)
	first, _ := b.Hello(a.ID())
	c := a.host.Network().ConnsToPeer(b.ID())[0]
	a.greet.mine.Labels = []string{"another"}
	for range 3 {
		heard, stop := b.greet.with(a.ID())
		if _, err := a.greet.say(c, nil); err != nil {
			t.Fatal(err)
		}
		receive(t, heard)
		stop()
	}
	if got, _ := b.Hello(a.ID()); len(met) > 0 || !reflect.DeepEqual(got, first) {
		t.Errorf("introduced %d times more, last as %v", len(met), got)
	}
}

func TestPeersLearnOfOffersAndOfTheirChange(t *testing.T) {
	a, b := newHost(t, Config{Hello: Hello{Offers: []string{"first"}}}), newHost(t, Config{})
	changed, stop := b.watch.add(a.ID())
	defer stop()
	// While they connect, and after.
	await := func(want ...string) {
		t.Helper()
		for ctx := deadline(t); ; {
			got, met := b.Hello(a.ID())
			if met && slices.Equal(got.Offers, want) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("%s offers %v, want %v", a.ID(), got.Offers, want)
			}
		}
	}
	var connecting sync.WaitGroup
	connecting.Go(func() { connect(t, b, a) })
	for i := range 20 {
		if err := a.Offer([]string{fmt.Sprint(i), "second"}); err != nil {
			t.Fatal(err)
		}
	}
	await("19", "second")
	connecting.Wait()
	if err := a.Offer([]string{"b", "a"}); err == nil {
		t.Error("offers that are not in order are taken")
	}
	for range 2 {
		if err := a.Offer([]string{"third"}); err != nil {
			t.Fatal(err)
		}
	}
	await("third")
	if i := slices.IndexFunc(b.PeerInfos(), func(i PeerInfo) bool { return i.ID == a.ID() }); !slices.Equal(b.PeerInfos()[i].Offers, []string{"third"}) {
		t.Errorf("got %+v", b.PeerInfos()[i])
	}
	if err := a.Offer(nil); err != nil {
		t.Fatal(err)
	}
	await()
	third := newHost(t, Config{})
	connect(t, third, b)
	if got, _ := third.Hello(b.ID()); len(got.Offers) > 0 {
		t.Errorf("who offers nothing offers %v", got.Offers)
	}
}

func TestOldOffersDoNotReplaceNewOnes(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	connect(t, a, b)
	if err := b.WaitForHello(deadline(t), 1); err != nil { // else say would hear of that one
		t.Fatal(err)
	}
	c := a.host.Network().ConnsToPeer(b.ID())[0]
	say := func(revision uint32, offers ...string) {
		heard, stop := b.greet.with(a.ID())
		defer stop()
		a.greet.mu.Lock()
		a.greet.mine.Offers, a.greet.mine.revision = offers, revision
		a.greet.mu.Unlock()
		if _, err := a.greet.say(c, nil); err != nil {
			t.Fatal(err)
		}
		receive(t, heard)
	}
	say(2, "new")
	say(1, "old")
	if got, _ := b.Hello(a.ID()); !slices.Equal(got.Offers, []string{"new"}) {
		t.Errorf("got %v", got.Offers)
	}
}

func TestPeerWithoutHelloIsAStranger(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	b.host.RemoveStreamHandler(helloID)
	if err := a.Connect(deadline(t), b.Addrs()...); refusal(err) != Stranger {
		t.Errorf("got %v", err)
	}
}

func TestHelloIsRefusedWhenItIsTooLong(t *testing.T) {
	for _, hello := range []Hello{
		{Genesis: make([]byte, 65)}, {Version: strings.Repeat("x", 65)}, {Labels: make([]string, 9)}, {Labels: []string{"\x1b[2J"}},
		{Protocol: 1, Oldest: 2}, {Offers: []string{""}}, {Offers: []string{"b", "a"}}, {Offers: []string{"a", "a"}},
		{Offers: []string{strings.Repeat("x", 129)}}, {Offers: make([]string, 33)}, {Offers: []string{"\x1b[2J"}},
	} {
		if h, err := New(Config{Network: "test", Hello: hello}); err == nil {
			t.Errorf("%v: no error", hello)
			_ = h.Close()
		}
	}
}

func TestTwoProcessesWithOneIdentityAreToldByAThird(t *testing.T) {
	key := newKey(t)
	one, two, third := newHost(t, Config{Key: key}), newHost(t, Config{Key: key}), newHost(t, Config{})
	told := func(h *Host) bool { _, ok := h.Double(); return ok }
	changed, stop := one.watch.add(third.ID())
	defer stop()
	changed2, stop2 := two.watch.add(third.ID())
	defer stop2()
	connect(t, one, third)
	connect(t, two, third)
	for ctx := deadline(t); !told(one) || !told(two); {
		select {
		case <-changed:
		case <-changed2:
		case <-ctx.Done():
			t.Fatalf("told: %v, %v", told(one), told(two))
		}
	}
	for _, h := range []*Host{one, two} {
		d, _ := h.Double()
		if d.By != third.ID() || !strings.Contains(d.Addr, "127.0.0.1") {
			t.Errorf("got %+v", d)
		}
	}
}

func TestOwnIdentityElsewhereIsNamed(t *testing.T) {
	key := newKey(t)
	a, b, other := newHost(t, Config{Key: key}), newHost(t, Config{Key: key}), newHost(t, Config{})
	if err := a.Connect(deadline(t), b.Addrs()...); refusal(refusalOf(a.ID(), err)) != Ourselves {
		t.Errorf("got %v", err)
	}
	// b listens where other is looked for.
	_, err := a.meet(deadline(t), peer.AddrInfo{ID: other.ID(), Addrs: b.host.Addrs()})
	list := a.attemptsOf(other.ID(), nil, err)
	if len(list) != len(b.host.Addrs()) {
		t.Errorf("got attempts %v", list)
	}
	for _, at := range list {
		if at.Outcome != Ourselves {
			t.Errorf("%s: got %v", at.Addr, at)
		}
	}
}

func TestGreetingSurvivesTheWire(t *testing.T) {
	g := greeting{
		Hello:   Hello{Genesis: []byte{1, 2}, Protocol: 7, Oldest: 3, Version: "v1", Labels: []string{"worker", "engine smol"}, Offers: []string{"a", "b:1"}},
		network: "one", nonce: [16]byte{9}, double: []byte("x"), revision: 3,
	}
	data := g.encode()
	withoutOffers := len(data) - len("....\x02\x01a\x03b:1")
	got, err := decodeGreeting(append(data, "of a later version"...))
	if err != nil || !reflect.DeepEqual(got, g) {
		t.Errorf("got %+v, %v", got, err)
	}
	old, err := decodeGreeting(data[:withoutOffers])
	if err != nil || old.Offers != nil || old.revision != 0 || old.Version != g.Version {
		t.Errorf("of a version without offers: %+v, %v", old, err)
	}
	for i := range data {
		if _, err := decodeGreeting(data[:i]); !errors.Is(err, errFrame) && i != withoutOffers {
			t.Errorf("cut off at %d: %v", i, err)
		}
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add(greeting{network: "one", Hello: Hello{Version: "v", Labels: []string{"a"}}}.encode())
	f.Add(greeting{network: "one", revision: 7, Hello: Hello{Offers: []string{"llama3.2:latest", "small"}}}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := decodeGreeting(data)
		if err != nil {
			return
		}
		again, err := decodeGreeting(g.encode())
		if err != nil || !reflect.DeepEqual(again, g) {
			t.Errorf("%+v became %+v, %v", g, again, err)
		}
	})
}
