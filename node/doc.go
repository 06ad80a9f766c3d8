// Package node is a peer of the mesh: it glues the settlement engine, the judge, an answer engine and
// the network together, and is what other Go programs embed.
//
//	          gossip: orders, answers, scores, certificates        links: vote bundles
//	                   │ decoded and verified in p2p's goroutines      │
//	                   ▼                                               ▼
//	timers ──►  loop (loop.go): one goroutine owns the ledger.Engine; after each batch of events
//	            it logs and syncs votes, then signs, sends and publishes
//	                   │                     │                         │
//	                   ▼                     ▼                         ▼
//	        worker.go: answers     scorer.go: asks the judge    ledger/store: accounts, receipts
//
// A node follows the ledger in any case. It is a worker if it has an answer engine, a validator if its
// consensus key is in the genesis committee and it has a judge; every node can ask, if its account has
// the funds. Nodes share no package-level state: thirty live in one process.
package node
