package control

// cpuSeconds: the system is not asked.
func cpuSeconds() float64 { return 0 }
