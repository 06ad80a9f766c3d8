// Command mutation is the gate of the simulator: it breaks the settlement core in one place after the other, and the
// simulator must notice each time, within a bounded number of seeds.
//
// A mutation is an edit of the core's source. The core itself knows nothing of it: the edited files are given to
// go build with -overlay. An edit whose old text does not occur exactly once fails the gate, so that no mutation rots
// when the core changes. The core as it is must pass all the seeds that the mutations took.
//
//	go run ./ledger/sim/mutation                  all mutations
//	go run ./ledger/sim/mutation -run 'quorum'    those whose names match
//	go run ./ledger/sim/mutation -json
//
// It exits with 1 if a mutation survives, or breaks something else than it should.
package main
