package votelog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
}

// File is a file on a [Disk].
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes what was written durable, and the size.
	Sync() error
}

// Dir returns the directory with a path as a Disk and makes it, with mode 0700, if need be.
func Dir(path string) (Disk, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the vote log's directory: %w", err)
	}
	return dir(path), nil
}

type dir string

type file struct{ *os.File }

// Open implements Disk.
func (d dir) Open(name string) (File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// List implements Disk.
func (d dir) List() (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Remove implements Disk.
func (d dir) Remove(name string) error {
	err := os.Remove(filepath.Join(string(d), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sync implements Disk.
func (d dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

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
