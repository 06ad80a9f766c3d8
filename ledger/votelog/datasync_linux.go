package votelog

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync is cheaper than Sync: the times in the inode need not be durable.
func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
