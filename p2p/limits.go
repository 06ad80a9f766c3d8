package p2p

import "time"

// Gossip.
const (
	// MaxGossip bounds MaxSize of a topic, in bytes. Larger bodies go by hash through Request.
	MaxGossip = 128 << 10
	// maxRPC bounds a gossipsub RPC: two largest messages, or control with 5000 message ids.
	maxRPC = 2 * MaxGossip
	// maxSubscriptions bounds the announcements in one RPC.
	maxSubscriptions = 32
	// validateQueue is shared by all topics. What does not fit is dropped before it counts as seen, so that a
	// heartbeat may repair it; the library's 32 is less than one settlement's burst.
	validateQueue = 1024
	// validators is how many Validate calls run at once. They run in the library's own workers ("inline"), so that load
	// makes the queue grow. Its other way, a bounded number of goroutines, drops what is over the
	// bound after it was marked as seen: lost for good, and seen to happen at 64 with 160 messages at once.
	validators = 8
	// validateTimeout ends a check; checks are decoding and a few signatures, well under a millisecond.
	validateTimeout = 2 * time.Second
	// outboundQueue is per peer; an RPC that does not fit is lost until a heartbeat's gossip repairs it.
	outboundQueue = 512
	// subscriptionQueue is per topic.
	subscriptionQueue = 1024
	// seenTTL is the library's default too.
	seenTTL = 2 * time.Minute

	// heartbeat is how often the mesh is mended and lost messages are announced again.
	heartbeat = 700 * time.Millisecond
	// historyLength heartbeats are kept for peers that ask, historyGossip of them announced.
	historyLength = 6
	historyGossip = 3

	// The publisher sends to every peer that it is connected to (floodPublish), and they pass the message on
	// along a thin mesh, which serves those who are not connected to the publisher. In a small network, where all
	// are connected, the mesh carries duplicates alone, so every edge of it costs processor time and, as the
	// cores are shared, latency. BenchmarkGossipBurst, 8 hosts, 24 messages of 300 B at once, 2 cores,
	// QUIC, least of 3 runs; processor time per message over all hosts, time until all have all:
	//
	//	D/low/high  flood     cpu      p50
	//	8/6/12      yes      896 us   10.1 ms
	//	4/3/6       yes      791 us    9.0 ms
	//	4/3/6       no       655 us    7.0 ms
	//	3/2/4       yes      655 us    7.1 ms
	//	2/1/3       yes      466 us   (noise)
	//
	// 3/2/4 with flood costs what 4/3/6 without does, and takes one hop where that takes two or three. A
	// mesh of two would fall apart when one peer leaves.
	meshDegree   = 3
	meshLow      = 2
	meshHigh     = 4
	meshOut      = 0 // must be under meshDegree/2
	meshLazy     = 6
	floodPublish = true
)

// Connections.
const (
	dialMin     = 250 * time.Millisecond
	dialMax     = 10 * time.Second
	dialTimeout = 10 * time.Second
)

// Links.
const (
	// MaxFrame bounds LinkConfig.MaxFrame, in bytes.
	MaxFrame = 1 << 20
	// linkQueue is how many frames wait for one peer.
	linkQueue = 256
	// linkBatch is how many bytes of waiting frames go into one write.
	linkBatch = 32 << 10
	// linkTimeout bounds opening a link and one write.
	linkTimeout = 5 * time.Second
)

// Requests.
const (
	// MaxBody bounds a request and a response, in bytes.
	MaxBody = 4 << 20
	// requestTimeout holds when the caller's context has no deadline, and for the serving side.
	requestTimeout = 10 * time.Second
	// serveAtOnce and servePerPeer bound the requests of one protocol that are worked on.
	serveAtOnce  = 64
	servePerPeer = 8
)
