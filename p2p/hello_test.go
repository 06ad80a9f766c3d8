package p2p

import (
	"errors"
	"reflect"
	"strings"
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
		{Protocol: 1, Oldest: 2},
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
		Hello:   Hello{Genesis: []byte{1, 2}, Protocol: 7, Oldest: 3, Version: "v1", Labels: []string{"worker", "engine smol"}},
		network: "one", nonce: [16]byte{9}, double: []byte("x"),
	}
	data := g.encode()
	got, err := decodeGreeting(append(data, "of a later version"...))
	if err != nil || !reflect.DeepEqual(got, g) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range data {
		if _, err := decodeGreeting(data[:i]); !errors.Is(err, errFrame) {
			t.Errorf("cut off at %d: %v", i, err)
		}
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add(greeting{network: "one", Hello: Hello{Version: "v", Labels: []string{"a"}}}.encode())
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
