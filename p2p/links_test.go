package p2p

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestFramesOfAPeerArriveInOrder(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	frames := make(chan got, 16)
	newLinks(t, hosts[0], LinkConfig[string]{}, frames)
	links := newLinks(t, hosts[1], LinkConfig[string]{}, nil)
	const n = 5 * linkQueue
	sent := make(chan error, 1)
	go func() {
		for i := 0; i < n; {
			err := links.Send(hosts[0].ID(), fmt.Appendf(nil, "%d", i))
			if err != nil && !errors.Is(err, ErrQueueFull) {
				sent <- err
				return
			}
			if err == nil {
				i++
			}
		}
		sent <- nil
	}()
	for i := range n {
		if g, want := receive(t, frames), (got{hosts[0].ID(), hosts[1].ID(), fmt.Sprint(i)}); g != want {
			t.Fatalf("got %v, want %v", g, want)
		}
	}
	if err := receive(t, sent); err != nil {
		t.Error(err)
	}
}

func TestLinkReopensAfterThePeerRestarts(t *testing.T) {
	key := newKey(t)
	a := newHost(t, Config{})
	tell, up := ups()
	frames := make(chan got, 4)
	links := newLinks(t, a, LinkConfig[string]{Up: tell}, nil)
	for i := range 2 {
		b := newHost(t, Config{Key: key}) // other ports each time: a learns them because b dials
		newLinks(t, b, LinkConfig[string]{}, frames)
		connect(t, b, a)
		if err := links.Open(b.ID()); err != nil {
			t.Fatal(err)
		}
		if p := receive(t, up); p != b.ID() || !links.Up(p) {
			t.Fatalf("up: %v", p)
		}
		msg := fmt.Sprint("life ", i)
		if err := links.Send(b.ID(), []byte(msg)); err != nil {
			t.Fatal(err)
		}
		if g := receive(t, frames); g.msg != msg {
			t.Errorf("got %q, want %q", g.msg, msg)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLinkMovesToAPeerThatCameBackBeforeItsDeathWasNoticed(t *testing.T) {
	// before and after have one identity; before is not closed, as a killed process closes nothing.
	key := newKey(t)
	a := newHost(t, Config{})
	tell, up := ups()
	frames := make(chan got, 8)
	links := newLinks(t, a, LinkConfig[string]{Up: tell}, frames)

	before := newHost(t, Config{Key: key})
	newLinks(t, before, LinkConfig[string]{}, frames)
	connect(t, before, a)
	if err := links.Open(before.ID()); err != nil {
		t.Fatal(err)
	}
	receive(t, up)
	s, err := before.host.NewStream(deadline(t), a.ID(), links.id) // not Links: they would dial again when a hangs up
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}

	after := newHost(t, Config{Key: key})
	linksAfter := newLinks(t, after, LinkConfig[string]{}, frames)
	connect(t, after, a)
	if err := linksAfter.Send(a.ID(), []byte("after")); err != nil {
		t.Fatal(err)
	}
	if g := receive(t, frames); g.msg != "after" {
		t.Errorf("got %v", g)
	}
	receive(t, up) // the link to the dead one was given up
	if err := links.Send(after.ID(), []byte("welcome")); err != nil {
		t.Fatal(err)
	}
	if g := receive(t, frames); g != (got{after.ID(), a.ID(), "welcome"}) {
		t.Errorf("got %v", g)
	}
}

func TestFullQueueIsATypedErrorAndCounted(t *testing.T) {
	a, away := newHost(t, Config{}), newHost(t, Config{})
	links := newLinks(t, a, LinkConfig[string]{}, nil)
	for i := range linkQueue + 3 {
		err := links.Send(away.ID(), []byte("x"))
		if want := i >= linkQueue; errors.Is(err, ErrQueueFull) != want {
			t.Fatalf("frame %d: got %v", i, err)
		}
	}
	if n := links.Dropped(away.ID()); n != 3 {
		t.Errorf("dropped %d, want 3", n)
	}
}

func TestFramesThatWaitedAreSentWhenTheLinkOpens(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	frames := make(chan got, 4)
	newLinks(t, b, LinkConfig[string]{}, frames)
	links := newLinks(t, a, LinkConfig[string]{}, nil)
	if err := links.Send(b.ID(), []byte("early")); err != nil {
		t.Fatal(err)
	}
	connect(t, b, a)
	if g := receive(t, frames); g.msg != "early" {
		t.Errorf("got %v", g)
	}
}

func TestLinkOpensWhenThePeerBeginsToServeLate(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	frames := make(chan got, 4)
	links := newLinks(t, hosts[0], LinkConfig[string]{}, nil)
	if err := links.Send(hosts[1].ID(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	newLinks(t, hosts[1], LinkConfig[string]{}, frames)
	receive(t, frames)
}

func TestFrameSizesAreChecked(t *testing.T) {
	a, b := newHost(t, Config{}), newHost(t, Config{})
	links := newLinks(t, a, LinkConfig[string]{}, nil)
	for _, size := range []int{0, 1<<10 + 1} {
		if err := links.Send(b.ID(), make([]byte, size)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes: got %v, want ErrTooLarge", size, err)
		}
	}
	if err := links.Send(a.ID(), []byte("x")); err == nil {
		t.Error("a link to itself: no error")
	}
}

func TestRejectedFrameEndsTheStreamAndOthersDoNot(t *testing.T) {
	hosts := newHosts(t, 2, Config{})
	frames := make(chan got, 4)
	tell, up := ups()
	newLinks(t, hosts[0], LinkConfig[string]{}, frames)
	links := newLinks(t, hosts[1], LinkConfig[string]{Up: tell}, nil)
	for _, msg := range []string{"odd", "oops", "good"} {
		if err := links.Send(hosts[0].ID(), []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if g := receive(t, frames); g.msg != "good" {
		t.Errorf("got %v", g)
	}
	receive(t, up)
	if err := links.Send(hosts[0].ID(), []byte("bad")); err != nil {
		t.Fatal(err)
	}
	receive(t, up)
	if err := links.Send(hosts[0].ID(), []byte("again")); err != nil {
		t.Fatal(err)
	}
	if g := receive(t, frames); g.msg != "again" {
		t.Errorf("got %v", g)
	}
}

func TestLinksAdmitOnlyWhomTheyAllow(t *testing.T) {
	hosts := newHosts(t, 3, Config{})
	frames := make(chan got, 4)
	asked := make(chan peer.ID, 16)
	newLinks(t, hosts[0], LinkConfig[string]{Allow: func(p peer.ID) bool {
		select {
		case asked <- p:
		default:
		}
		return p == hosts[1].ID()
	}}, frames)
	stranger := newLinks(t, hosts[2], LinkConfig[string]{}, nil)
	if err := stranger.Send(hosts[0].ID(), []byte("stranger")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // refused, and not in a hurry to ask again
		if p := receive(t, asked); p != hosts[2].ID() {
			t.Fatalf("asked for %v", p)
		}
	}
	if stranger.Up(hosts[0].ID()) {
		t.Error("the stranger thinks that it is linked")
	}
	if err := newLinks(t, hosts[1], LinkConfig[string]{}, nil).Send(hosts[0].ID(), []byte("member")); err != nil {
		t.Fatal(err)
	}
	if g := receive(t, frames); g.msg != "member" {
		t.Errorf("got %v", g)
	}
}
