package votelog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/gofrs/flock"
)

// Disk is the directory of a log: [Dir], or the simulator's disk that loses what was not synced.
type Disk interface {
	// Open opens a file for reading and writing. It makes the file if there is none.
	Open(name string) (File, error)
	// List returns the names of all files, ascending.
	List() ([]string, error)
	// Remove deletes a file.
	Remove(name string) error
	// Sync makes it durable which files there are.
	Sync() error
	// Close lets others use the directory.
	io.Closer
}

// File is a file on a [Disk]. It grows by being written to.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Sync makes what was written durable, and the size.
	Sync() error
}

// ErrInUse is wrapped when a log is open already.
var ErrInUse = errors.New("the vote log is in use by another process")

const lockName = "LOCK"

// Dir returns the directory with a path as a Disk and makes it, with mode 0700, if need be. Until it is
// closed nobody else gets it, but an error that wraps [ErrInUse].
//
// A file path + ".log", which is the log of an early version, is moved into the directory, where [Open] finds it.
func Dir(path string) (Disk, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the vote log's directory: %w", err)
	}
	d := &dir{path, flock.New(filepath.Join(path, lockName), flock.SetPermissions(0o600))}
	switch ok, err := d.lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("locking the vote log in %s: %w", path, err)
	case !ok:
		return nil, fmt.Errorf("%s: %w: stop that one; two that sign with one key contradict each other", path, ErrInUse)
	}
	if err := d.adopt(path + ".log"); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

type dir struct {
	path string
	lock *flock.Flock
}

type file struct{ *os.File }

// adopt moves an old log into the directory.
func (d *dir) adopt(old string) error {
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("looking for an old vote log: %w", err)
	}
	names, err := d.List()
	if err != nil {
		return fmt.Errorf("reading the vote log's directory: %w", err)
	}
	for _, name := range names {
		if _, segment := segmentNumber(name); segment || name == oldName {
			return fmt.Errorf("%s and %s both hold votes: %w", old, d.path, errTwoLogs)
		}
	}
	if err := os.Rename(old, filepath.Join(d.path, oldName)); err != nil {
		return fmt.Errorf("taking over an old vote log: %w", err)
	}
	return errors.Join(d.Sync(), syncDir(filepath.Dir(d.path)))
}

// Open implements Disk.
func (d *dir) Open(name string) (File, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// List implements Disk.
func (d *dir) List() (names []string, err error) {
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Remove implements Disk.
func (d *dir) Remove(name string) error {
	err := os.Remove(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sync implements Disk.
func (d *dir) Sync() error { return syncDir(d.path) }

func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such call; NTFS journals its names
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close implements Disk. The lock's file stays: removing it would race with who waits for it.
func (d *dir) Close() error { return d.lock.Close() }

// Size implements File.
func (f file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync implements File. It spares the inode's times, which need not be durable.
func (f file) Sync() error { return datasync(f.File) }
