package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// A socket's name is N.sock, beside N.lock, which its process holds locked: a socket whose lock is free
// was left by a process that was killed, and is removed. Whoever removes a socket holds its lock. The
// lock files stay: if one were removed, two processes could lock two files of one name.

const (
	socketSuffix = ".sock"
	lockSuffix   = ".lock"
)

// Beside it N.peers holds the sockets of peers that run as processes of their own.
const peersSuffix = ".peers"

// Name is the name of a control socket, which this process holds.
type Name struct {
	base string // path without suffix
	lock *flock.Flock
}

// Release removes the sockets and lets go of the name.
func (n *Name) Release() error { return errors.Join(n.clear(), n.lock.Unlock()) }

func (n *Name) clear() error {
	return errors.Join(ignoreMissing(os.Remove(n.base+socketSuffix)), os.RemoveAll(n.base+peersSuffix))
}

// Peer returns where the process of a peer shall listen. Dial does not find it.
func (n *Name) Peer(name string) string { return filepath.Join(n.base+peersSuffix, name+socketSuffix) }

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// socketDir returns the directory of the user's control sockets, which nobody else can enter.
func socketDir() (string, error) {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir != "" {
		dir = filepath.Join(dir, "poq")
	} else {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("poq-%d", os.Getuid()))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the directory of control sockets: %w", err)
	}
	if err := checkOwn(dir); err != nil {
		return "", fmt.Errorf("directory of control sockets: %w", err)
	}
	return dir, nil
}

// Reserve takes a name for a control socket of this process. Nothing listens there yet.
func Reserve() (*Name, error) {
	dir, err := socketDir()
	if err != nil {
		return nil, err
	}
	for i := range 1000 {
		n := &Name{base: filepath.Join(dir, fmt.Sprint(i))}
		n.lock = flock.New(n.base+lockSuffix, flock.SetPermissions(0o600))
		ok, err := n.lock.TryLock()
		if err != nil {
			return nil, fmt.Errorf("control socket: %w", err)
		}
		if !ok {
			continue
		}
		if err := n.clear(); err != nil { // what a killed process left
			return nil, errors.Join(fmt.Errorf("control socket: %w", err), n.Release())
		}
		return n, nil
	}
	return nil, fmt.Errorf("control socket: all names in %s are taken", dir)
}

// listen opens a socket.
func listen(path string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// sockets lists the sockets of processes that run.
func sockets() ([]string, error) {
	dir, err := socketDir()
	if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing control sockets: %w", err)
	}
	var live []string
	for _, f := range files {
		if filepath.Ext(f.Name()) != socketSuffix {
			continue
		}
		p := filepath.Join(dir, f.Name())
		n := &Name{base: strings.TrimSuffix(p, socketSuffix)}
		n.lock = flock.New(n.base+lockSuffix, flock.SetPermissions(0o600))
		ok, err := n.lock.TryLock()
		switch {
		case err != nil:
			return nil, fmt.Errorf("control socket: %w", err)
		case ok: // its process is gone
			if err := n.Release(); err != nil {
				return nil, fmt.Errorf("removing a stale control socket: %w", err)
			}
		default:
			live = append(live, p)
		}
	}
	return live, nil
}
