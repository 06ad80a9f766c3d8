package netns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// socket is a UDP socket on a machine.
type socket struct {
	t *testing.T
	*net.UDPConn
}

func listen(t *testing.T, m *machine, port int) *socket {
	t.Helper()
	s := &socket{t: t}
	err := m.in(func() (err error) {
		s.UDPConn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *socket) send(text string, to netip.AddrPort) {
	s.t.Helper()
	if _, err := s.WriteToUDPAddrPort([]byte(text), to); err != nil {
		s.t.Fatal(err)
	}
}

// next returns the next packet and where it seems to come from.
func (s *socket) next() (string, netip.AddrPort) {
	s.t.Helper()
	buf := make([]byte, 1500)
	s.SetReadDeadline(time.Now().Add(time.Minute))
	n, from, err := s.ReadFromUDPAddrPort(buf)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// expect asserts what the next packet is, and returns where it comes from.
func (s *socket) expect(text string) netip.AddrPort {
	s.t.Helper()
	got, from := s.next()
	if got != text {
		s.t.Fatalf("got %q from %s, want %q", got, from, text)
	}
	return from
}

func TestRouterTranslatesAsItsKindDoes(t *testing.T) {
	for _, kind := range []nat{cone, symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t)
			first, second := listen(t, w.public("first", "11.1.0.1"), 1000), listen(t, w.public("second", "11.2.0.1"), 1000)
			h := w.home("home", "11.10.0.1", kind, quality{})
			inside := listen(t, h.host("inside"), 4777)

			inside.send("hello", netip.MustParseAddrPort("11.1.0.1:1000"))
			seenByFirst := first.expect("hello")
			// The second may know where the first saw it: what it sends there was not asked for.
			second.send("let me in", seenByFirst)
			first.send("welcome", seenByFirst)
			inside.expect("welcome")

			inside.send("hello too", netip.MustParseAddrPort("11.2.0.1:1000"))
			seenBySecond := second.expect("hello too")
			if seenByFirst.Addr() != h.address() || seenBySecond.Addr() != h.address() {
				t.Errorf("seen as %s and %s, want the router's address %s", seenByFirst, seenBySecond, h.address())
			}
			if same := seenByFirst.Port() == seenBySecond.Port(); same != (kind == cone) {
				t.Errorf("two destinations see the ports %d and %d", seenByFirst.Port(), seenBySecond.Port())
			}
		})
	}
}

func TestHolesArePunchedThroughConesOnly(t *testing.T) {
	for _, kind := range []nat{cone, symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t)
			meeting := listen(t, w.public("meeting", "11.1.0.1"), 1000)
			a := listen(t, w.home("left", "11.10.0.1", kind, quality{}).host("a"), 4777)
			b := listen(t, w.home("right", "11.20.0.1", cone, quality{}).host("b"), 4777)
			// Both have the address 192.168.1.10 and the port 4777.
			place := netip.MustParseAddrPort("11.1.0.1:1000")
			a.send("a", place)
			atA := meeting.expect("a")
			b.send("b", place)
			atB := meeting.expect("b")

			a.send("opens a's router", atB)
			b.send("from b", atA)
			if kind == symmetric {
				meeting.send("nobody came", atA)
				a.expect("nobody came")
				return
			}
			a.expect("from b")
			a.send("from a", atB)
			b.expect("from a")
		})
	}
}

func TestHomeIsCutOffAndComesBack(t *testing.T) {
	w := newWorld(t)
	outside := listen(t, w.public("outside", "11.1.0.1"), 1000)
	h := w.home("home", "11.10.0.1", cone, quality{})
	inside := listen(t, h.host("inside"), 4777)
	to := netip.MustParseAddrPort("11.1.0.1:1000")
	inside.send("before", to)
	from := outside.expect("before")
	h.cut()
	inside.send("lost", to)
	outside.send("lost", from)
	h.mend()
	inside.send("after", to)
	if again := outside.expect("after"); again != from {
		t.Errorf("after the cut it is seen as %s, before as %s", again, from)
	}
	outside.send("back", from)
	inside.expect("back")
}

func TestBadLineDelaysAndLoses(t *testing.T) {
	const packets, loss, delay = 2000, 0.1, 40 * time.Millisecond
	w := newWorld(t)
	outside := listen(t, w.public("outside", "11.1.0.1"), 1000)
	inside := listen(t, w.home("home", "11.10.0.1", cone, quality{delay, loss}).host("inside"), 4777)
	to := netip.MustParseAddrPort("11.1.0.1:1000")

	go func() { // sends everything back
		buf := make([]byte, 1500)
		for {
			n, from, err := outside.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := outside.WriteToUDPAddrPort(buf[:n], from); err != nil {
				return
			}
		}
	}()
	// until sends a text again and again until it comes back, and returns how many x came before it.
	until := func(text string) (others int) {
		buf := make([]byte, 1500)
		for {
			inside.send(text, to)
			inside.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			for {
				n, _, err := inside.ReadFromUDPAddrPort(buf)
				if err != nil {
					break
				}
				switch string(buf[:n]) {
				case text:
					return others
				case "x":
					others++
				}
			}
		}
	}
	begin := time.Now()
	until("ping")
	if took := time.Since(begin); took < 2*delay {
		t.Errorf("there and back took %v, over a line with a delay of %v", took, delay)
	}
	back := 0
	for i := range packets {
		inside.send("x", to)
		if i%100 == 99 { // in parts that fit into a socket's buffer
			back += until(fmt.Sprint(i))
		}
	}
	// Of 2000 packets 81 % come back on average, give or take 1 %.
	if back < packets*7/10 || back > packets*9/10 {
		t.Errorf("%d of %d packets came back, with a loss of %v each way", back, packets, loss)
	}
}
