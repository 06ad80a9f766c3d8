// Package node is a peer of the network, for programs that embed one. It asks, answers, judges or follows the ledger; the poq
// binary is such a program.
//
// A node is made, started and closed. It keeps keys and ledger in a directory, and follows one genesis:
//
//	n, err := node.New(ctx, node.WithDataDir("peer"), node.WithGenesis(genesis), node.WithPeers(addresses...))
//	...
//	defer n.Close()
//	err = n.Start(ctx)
//	...
//	err = n.WaitReady(ctx, 1) // one other peer is enough to be heard
//	...
//	settlement, err := n.Ask(ctx, "Who wrote Emma?", node.AskOptions{})
//
// Every node follows the ledger ([Node.Ledger], [Node.Events]) and can ask ([Node.Ask], [Node.Order]) if its account has the
// funds. It is a worker if it has an answer engine ([WithEngine]), and a validator if its consensus key is in the genesis's
// committee and it has a judge ([WithJudge]). Nodes share no package-level state: thirty live in one process. Package nodetest
// runs a whole network in a test.
//
// docs/embedding.md is a guide, docs/api.md tells why each name is here. Within, one goroutine owns the settlement engine:
//
//	          gossip: orders, answers, scores, certificates        links: vote bundles
//	                   │ decoded and verified in p2p's goroutines      │
//	                   ▼                                               ▼
//	timers ──►  loop (loop.go): one goroutine owns the ledger.Engine; after each batch of events
//	            it logs and syncs votes, then signs, sends and publishes
//	                   │                     │                         │
//	                   ▼                     ▼                         ▼
//	        worker.go: answers      asks the judge            ledger/store: accounts, receipts
package node
