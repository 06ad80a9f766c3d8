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

type socketLock struct{ lock *flock.Flock }

// release removes the socket and lets go of its name.
func (l *socketLock) release() error {
	err := ignoreMissing(os.Remove(strings.TrimSuffix(l.lock.Path(), lockSuffix) + socketSuffix))
	return errors.Join(err, l.lock.Unlock())
}

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

// listen opens a socket for this process.
func listen() (net.Listener, *socketLock, error) {
	dir, err := socketDir()
	if err != nil {
		return nil, nil, err
	}
	for i := range 1000 {
		base := filepath.Join(dir, fmt.Sprint(i))
		lock := flock.New(base+lockSuffix, flock.SetPermissions(0o600))
		ok, err := lock.TryLock()
		if err != nil {
			return nil, nil, fmt.Errorf("control socket: %w", err)
		}
		if !ok {
			continue
		}
		held := &socketLock{lock}
		if err := ignoreMissing(os.Remove(base + socketSuffix)); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("control socket: %w", err), held.release())
		}
		l, err := new(net.ListenConfig).Listen(context.Background(), "unix", base+socketSuffix)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("control socket: %w", err), held.release())
		}
		return l, held, nil
	}
	return nil, nil, fmt.Errorf("control socket: all names in %s are taken", dir)
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
		lock := flock.New(strings.TrimSuffix(p, socketSuffix)+lockSuffix, flock.SetPermissions(0o600))
		ok, err := lock.TryLock()
		switch {
		case err != nil:
			return nil, fmt.Errorf("control socket: %w", err)
		case ok: // its process is gone
			if err := (&socketLock{lock}).release(); err != nil {
				return nil, fmt.Errorf("removing a stale control socket: %w", err)
			}
		default:
			live = append(live, p)
		}
	}
	return live, nil
}
