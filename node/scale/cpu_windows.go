package scale

import (
	"time"

	"golang.org/x/sys/windows"
)

// CPU is the processor time that this process has used so far.
func CPU() time.Duration {
	var made, ended, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(windows.CurrentProcess(), &made, &ended, &kernel, &user); err != nil {
		panic(err) // the arguments are right
	}
	return time.Duration(ticks(kernel)+ticks(user)) * 100
}

// ticks is a span in units of 100 ns.
func ticks(f windows.Filetime) int64 { return int64(f.HighDateTime)<<32 | int64(f.LowDateTime) }
