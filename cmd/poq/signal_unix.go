//go:build unix

package main

import (
	"os/signal"
	"syscall"
)

// ignoreFileSize makes a write beyond the limit of a file's size fail like one to a full disk, which a node
// knows how to stop for. Left alone, the signal ends the process with a dump of its goroutines.
func ignoreFileSize() { signal.Ignore(syscall.SIGXFSZ) }
