//go:build !windows

package control

import (
	"fmt"
	"os"
	"syscall"
)

// checkOwn refuses a directory that others made or may enter.
func checkOwn(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s must be a directory of yours with mode 700: remove it, or set XDG_RUNTIME_DIR", dir)
	}
	return nil
}
