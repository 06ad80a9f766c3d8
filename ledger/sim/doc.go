// Package sim runs the settlement core over a virtual network, clock and disks, all from one seed, and
// checks the invariants of protocol §9 while it runs and at its end.
//
// What runs is the real thing: [ledger.Engine], [ledger.Verifier], [votelog.Outbox] and the vote log on a
// disk that loses what was not synced. Every message is encoded, decoded and verified. A run is drawn from
// its seed alone: the size of the committee, the tasks, the faults and the adversaries. The same seed gives
// the same run, event by event, on every machine.
//
// Where to look:
//
//	sim.go           Run, Config, Result
//	plan.go          what a seed stands for
//	world.go         the queue of events, the links, gossip
//	node.go          a virtual host: what package node is to the engine
//	disk.go          a disk that can tear, lose and spoil what was not synced
//	store.go         the ledger's store, which loses its last group in a crash
//	clients.go       payers and workers
//	faults.go        what goes wrong
//	adversary_*.go   what Byzantine validators do, one file each
//	check.go         the invariants
//	trace.go         a run for people to read
package sim
