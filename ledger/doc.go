// Package ledger is the settlement protocol: who agreed to what, per task, and who is paid.
//
// It is pure. It has no sockets, disks, clocks, goroutines or randomness of its own: events
// go in by method calls, decisions come out through the [Host] interface, so that the same
// code runs in a node, in a simulator and in a test that drives it message by message.
//
//	Order ──► lock ──► answers ──► seal ──► settle
//	          quorum   commit,     quorum   quorum on the outcome:
//	          of lock  then text   closes   one vote phase after
//	          votes                set S    the last reveal
//
// Where to look:
//
//	order.go, answer.go, score.go   what is signed by payers, workers and panel members
//	vote.go          leaves, bundles and Merkle paths: how validators sign votes
//	certificate.go   quorums of votes as portable proofs
//	verify.go        every check of a received message: bytes in, [Verified] out
//	agreement.go     where a vote is decided: the seal and settle instances of a task
//	rounds.go        what happens when round 0 is incomplete: NewRound, Propose, value(J)
//	engine.go        the open tasks of one peer: routes events, locks funds, runs deadlines
//	settle.go        Settle, the pure integer function from scores to payments
//	state.go         accounts and escrow, and what a certificate does to them
//	replay.go        a ledger checked from genesis
//
// Package ledger/store keeps a State in Badger, ledger/votelog keeps a validator's votes.
// Ledger imports crypto and nothing else of this module.
package ledger
