//go:build unix && !linux

package hostile

import "syscall"

// lowestPriority lets all others go before the process.
func lowestPriority() error { return syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19) }
