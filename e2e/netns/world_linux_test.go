package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// binary is the program under test: POQ_BIN, or one built for the tests.
var binary string

// unable says why the tests cannot run here; it is empty if they can.
var unable = os.Getenv("POQ_NETNS_UNABLE")

// Main keeps the first thread, which cannot end, so that no machine gets it.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if addr := os.Getenv(relayAddress); addr != "" {
			return runRelay(addr)
		}
		if binary = os.Getenv("POQ_BIN"); binary == "" {
			dir, err := os.MkdirTemp("", "poq-netns-")
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			defer os.RemoveAll(dir)
			binary = filepath.Join(dir, "poq")
			if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/poq").CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "building poq: %v\n%s", err, out)
				return 1
			}
		}
		if os.Getenv("POQ_NETNS") == "" {
			return isolate()
		}
		return m.Run()
	}())
}

// isolate runs this program again where it may make networks and can reach none.
func isolate() int {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	run := func(attr *syscall.SysProcAttr, env ...string) error {
		c := exec.Command("/proc/self/exe", os.Args[1:]...)
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		c.Env = append(append(os.Environ(), "POQ_BIN="+binary, "POQ_NETNS=1"), env...)
		c.SysProcAttr = attr
		return c.Run()
	}
	err := run(attr)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		err = run(nil, fmt.Sprintf("POQ_NETNS_UNABLE=no network namespace may be made here (%v): run as root, or allow user namespaces", err))
	}
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// world is an internet: a switch to which machines and routers are connected.
type world struct {
	t     *testing.T
	hub   *machine
	ports int
}

// Names of interfaces.
const (
	bridge = "switch"
	wan    = "wan" // a router's line to the internet
)

// newWorld makes an internet, or skips the test where that may not be.
func newWorld(t *testing.T) *world {
	t.Helper()
	if unable != "" {
		t.Skip(unable)
	}
	w := &world{t: t, hub: newMachine(t, "internet")}
	if err := addBridge(w.hub, ""); err != nil {
		t.Skipf("this kernel connects no machines: %v", err)
	}
	probe := newMachine(t, "probe")
	if err := masquerade(probe, wan, symmetric); err != nil {
		t.Skipf("this kernel does no NAT: %v", err)
	}
	return w
}

func addBridge(m *machine, address string) error {
	err := m.in(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}})
	})
	if err != nil {
		return fmt.Errorf("adding a bridge: %w", err)
	}
	return end{m, bridge}.do(func(l netlink.Link) error {
		return errors.Join(setAddress(l, address), netlink.LinkSetUp(l))
	})
}

func setAddress(l netlink.Link, address string) error {
	if address == "" {
		return nil
	}
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, a)
}

// plug connects a machine's interface to the switch on another, with an address.
func (w *world) plug(m *machine, name, address string, into *machine, q quality) {
	w.t.Helper()
	w.ports++
	port := end{into, fmt.Sprintf("port%d", w.ports)}
	connect(w.t, end{m, name}, port, q)
	err := port.do(func(l netlink.Link) error {
		hub, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, hub)
	})
	err = errors.Join(err, end{m, name}.do(func(l netlink.Link) error { return setAddress(l, address) }))
	if err != nil {
		w.t.Fatalf("connecting %s to %s: %v", m.name, into.name, err)
	}
}

// public makes a machine on the internet, with an address 11.x.x.x.
func (w *world) public(name, address string) *machine {
	w.t.Helper()
	m := newMachine(w.t, name)
	w.plug(m, "eth0", address+"/8", w.hub, quality{})
	return m
}

// home is a network behind a router that does NAT. All of them have the same private addresses.
type home struct {
	w      *world
	router *machine
	hosts  int
	addr   netip.Addr
}

// home makes one, with the router's address 11.x.x.x and how good its line is.
func (w *world) home(name, address string, n nat, q quality) *home {
	w.t.Helper()
	h := &home{w: w, router: newMachine(w.t, name), addr: netip.MustParseAddr(address)}
	w.plug(h.router, wan, address+"/8", w.hub, q)
	if err := errors.Join(addBridge(h.router, "192.168.1.1/24"), masquerade(h.router, wan, n)); err != nil {
		w.t.Fatalf("router of %s: %v", name, err)
	}
	return h
}

// host makes a machine in the home.
func (h *home) host(name string) *machine {
	h.w.t.Helper()
	h.hosts++
	m := newMachine(h.w.t, name)
	h.w.plug(m, "eth0", fmt.Sprintf("192.168.1.%d/24", 9+h.hosts), h.router, quality{})
	err := m.in(func() error { return netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 168, 1, 1)}) })
	if err != nil {
		h.w.t.Fatalf("route of %s: %v", name, err)
	}
	return m
}

// cut takes the home off the internet, unnoticed by those inside: packets are lost, nothing is refused.
func (h *home) cut() { h.do(cut) }

// mend ends a cut.
func (h *home) mend() { h.do(mend) }

func (h *home) do(f func(m *machine, out string) error) {
	h.w.t.Helper()
	if err := f(h.router, wan); err != nil {
		h.w.t.Fatal(err)
	}
}

// address is the one by which the internet sees the home.
func (h *home) address() netip.Addr { return h.addr }
