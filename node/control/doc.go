// Package control lets a command line talk to a running process: HTTP with JSON over a unix socket
// that only its owner can reach.
//
//	GET  /v1/status                  who runs here
//	GET  /v1/genesis                 ledger.Genesis
//	GET  /v1/node?peer=NAME          NodeState; &compare=1 asks others for their digests, &latency=1 pings them
//	POST /v1/ping?peer=NAME&to=PEER  Ping; PEER is a name, an id, a part of one, or a multiaddr
//	GET  /v1/clock?peer=NAME         node.Clock
//	GET  /v1/log?peer=NAME           the latest lines of the log, as text
//	GET  /v1/metrics?peer=NAME       text format of Prometheus
//	POST /v1/ask                     AskRequest -> AskUpdates, a JSON document a line
//	GET  /v1/accounts?peer=NAME      Accounts
//	GET  /v1/tasks?peer=NAME&n=N     []Task, newest first
//	GET  /v1/tasks/{id}?peer=NAME    node.TaskStatus; the id may be shortened
//	GET  /v1/tasks/{id}/receipt      the receipt's file, see ledger.EncodeReceiptFile; ?peer=NAME
//	GET  /v1/verify?peer=NAME        []PeerVerification, of all peers if none is named
//	GET  /v1/diff?peer=NAME&with=ID  LedgerDiff with the peer that has a libp2p id
//	GET  /v1/evidence?peer=NAME      []Evidence
//	GET  /v1/digests?peer=NAME       []PeerDigest, of all peers if none is named
//	GET  /v1/export?peer=NAME        the peer's ledger, as package ledger/archive writes it
//	POST /v1/peers/{name}/{what}     start, stop or kill a peer that is a process of its own -> PeerInfo
//
// Peers that are processes of their own have sockets of their own; the one of their network passes requests on.
// An error is {"error": {"code": ..., "message": ...}} with a status of 4xx or 5xx.
//
// Sockets lie in one directory of the user's, so that a command finds what runs without being told.
package control
