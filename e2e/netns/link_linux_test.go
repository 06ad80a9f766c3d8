package netns

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// quality is how bad a link is in each direction. The zero value is a perfect one.
type quality struct {
	delay time.Duration
	loss  float64 // part of the packets, 0 to 1
}

// end is one end of a link: an interface on a machine.
type end struct {
	on   *machine
	name string
}

// connect makes a link between two machines. Both interfaces are up.
func connect(t *testing.T, a, b end, q quality) {
	t.Helper()
	err := connectVeth(a, b, q)
	if err != nil && q != (quality{}) {
		t.Logf("link %s - %s: the kernel has no netem (%v): this test delays and drops packets itself", a.on.name, b.on.name, err)
		if err := connectTap(t, a, b, q); err != nil {
			t.Skipf("no bad links can be made here: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatalf("link %s - %s: %v", a.on.name, b.on.name, err)
	}
}

// connectVeth makes a link of the kernel, with netem if it is to be bad.
func connectVeth(a, b end, q quality) error {
	err := a.on.in(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: a.name}, PeerName: b.name, PeerNamespace: netlink.NsFd(b.on.ns.Fd()),
		})
	})
	if err != nil {
		return fmt.Errorf("adding a veth pair: %w", err)
	}
	for _, e := range []end{a, b} {
		if err = e.do(func(l netlink.Link) error { return errors.Join(q.netem(l), netlink.LinkSetUp(l)) }); err != nil {
			break
		}
	}
	if err != nil { // its other end goes with it
		err = errors.Join(err, a.do(netlink.LinkDel))
	}
	return err
}

func (e end) do(f func(netlink.Link) error) error {
	return e.on.in(func() error {
		l, err := netlink.LinkByName(e.name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", e.name, err)
		}
		return f(l)
	})
}

func (q quality) netem(l netlink.Link) error {
	if q == (quality{}) {
		return nil
	}
	return netlink.QdiscAdd(netlink.NewNetem(
		netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		netlink.NetemQdiscAttrs{Latency: uint32(q.delay.Microseconds()), Loss: float32(q.loss * 100), Limit: inFlight},
	))
}

// inFlight is how many packets a bad link holds in each direction; more are dropped, as by any queue.
const inFlight = 10_000

// connectTap makes a link out of two TAP devices, with this process as the cable between them.
func connectTap(t *testing.T, a, b end, q quality) error {
	left, err := a.tap()
	if err != nil {
		return err
	}
	right, err := b.tap()
	if err != nil {
		return errors.Join(err, left.Close())
	}
	for _, cable := range []struct{ from, to *os.File }{{left, right}, {right, left}} {
		frames := make(chan frame, inFlight)
		go func() { _ = q.receive(cable.from, frames) }() // they end when the files are closed
		go deliver(frames, cable.to)
	}
	t.Cleanup(func() {
		left.Close()
		right.Close()
	})
	return nil
}

// tap makes a TAP interface that lives until the file is closed, and sets it up.
func (e end) tap() (f *os.File, err error) {
	err = e.on.in(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("opening /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(e.name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return errors.Join(fmt.Errorf("making a TAP interface: %w", err), unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), e.name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := e.do(netlink.LinkSetUp); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// frame is a packet on its way.
type frame struct {
	data []byte
	due  time.Time
}

// receive takes what an interface sends until it is closed, and drops the part that is to be lost.
func (q quality) receive(from io.Reader, to chan<- frame) error {
	defer close(to)
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return err
		}
		if rand.Float64() < q.loss {
			continue
		}
		select {
		case to <- frame{append([]byte(nil), buf[:n]...), time.Now().Add(q.delay)}:
		default: // the queue is full
		}
	}
}

// deliver hands frames on when they are due, in their order.
func deliver(frames <-chan frame, to io.Writer) {
	for f := range frames {
		<-time.After(time.Until(f.due))
		_, _ = to.Write(f.data) // an interface that is down or gone takes none
	}
}
