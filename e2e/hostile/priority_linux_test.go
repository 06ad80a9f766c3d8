package hostile

import "golang.org/x/sys/unix"

// lowestPriority has the calling thread run when a processor has nothing else to do.
func lowestPriority() error {
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}
