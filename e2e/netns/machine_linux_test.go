package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// machine is a host: a network namespace, held by a thread of its own. It ends with its test.
type machine struct {
	name string
	work chan func()
	ns   *os.File // the namespace, for links into it
}

// newMachine makes a host with nothing but a loopback interface.
func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	m := &machine{name: name, work: make(chan func())}
	made := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and takes the namespace and its processes along.
		runtime.LockOSThread()
		err := m.enter()
		made <- err
		if err != nil {
			return
		}
		for f := range m.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		t.Fatalf("making host %s: %v", name, err)
	}
	t.Cleanup(func() {
		close(m.work)
		m.ns.Close()
	})
	return m
}

func (m *machine) enter() (err error) {
	if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if m.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	for file, value := range map[string]string{
		"ipv4/ip_forward":                 "1",
		"ipv6/conf/all/disable_ipv6":      "1",
		"ipv6/conf/default/disable_ipv6":  "1",
		"ipv4/ip_unprivileged_port_start": "0",
	} {
		if err = os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// in calls f in the machine's network: sockets that it opens are the machine's, as are processes that it starts.
func (m *machine) in(f func() error) error {
	done := make(chan error)
	m.work <- func() { done <- f() }
	if err := <-done; err != nil {
		return fmt.Errorf("on %s: %w", m.name, err)
	}
	return nil
}

// start starts a process on the machine. It is killed with the machine at the latest, also if the test is killed.
func (m *machine) start(c *exec.Cmd) error {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return m.in(c.Start)
}
