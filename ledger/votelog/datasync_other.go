//go:build !linux

package votelog

import "os"

func datasync(f *os.File) error { return f.Sync() }
