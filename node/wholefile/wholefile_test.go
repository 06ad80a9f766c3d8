package wholefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func read(t *testing.T, dir, name string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil || len(list) > 1 {
		t.Errorf("files: %v, %v", list, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return string(data)
}

func TestFileIsWholeOrAsItWas(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	failed := errors.New("disk full")
	half := func(w io.Writer) error {
		_, err := io.WriteString(w, "ha")
		return errors.Join(err, failed)
	}
	for name, put := range map[string]func(string, func(io.Writer) error) error{"create": Create, "replace": Replace} {
		if err := put(path, half); !errors.Is(err, failed) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if got := read(t, dir, "a"); got != "" {
			t.Errorf("%s left %q", name, got)
		}
	}
	if err := Create(path, Data([]byte("one"))); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, Data([]byte("two"))); !errors.Is(err, fs.ErrExist) || read(t, dir, "a") != "one" {
		t.Errorf("%q was created over: %v", read(t, dir, "a"), err)
	}
	if err := Replace(path, half); !errors.Is(err, failed) || read(t, dir, "a") != "one" {
		t.Errorf("%q was replaced by half: %v", read(t, dir, "a"), err)
	}
	if err := Replace(path, Data([]byte("two"))); err != nil || read(t, dir, "a") != "two" {
		t.Errorf("%q, %v", read(t, dir, "a"), err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := Replace(filepath.Join(dir, "none", "a"), Data(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}
