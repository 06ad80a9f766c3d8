// Package wholefile writes files that are there whole or not at all, whatever crashes. They have mode 0600.
package wholefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Replace makes a file of what write writes, in place of the one that is there.
func Replace(path string, write func(io.Writer) error) error { return put(path, write, os.Rename) }

// Create does so only if there is none, else the error wraps [io/fs.ErrExist].
func Create(path string, write func(io.Writer) error) error {
	return put(path, write, func(temporary, path string) error {
		return errors.Join(os.Link(temporary, path), os.Remove(temporary)) // unlike a rename a link replaces nothing
	})
}

// Data writes data.
func Data(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

// put writes a temporary file and gives it its name. A crash may leave one, called like the file with a dot and digits
// behind.
func put(path string, write func(io.Writer) error, name func(temporary, path string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = name(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what failed is told
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // a name is durable with its directory; where that can't be synced there is no better way
		_ = d.Close()
	}
	return nil
}
