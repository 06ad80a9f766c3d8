// Package hostile measures what a network endures: its tests have ten hostile peers, in a process of their own, do their worst to
// a network that settles tasks, and compare that with the same network left alone. `make hostile` prints the figures.
package hostile
