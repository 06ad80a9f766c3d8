package p2p

import "time"

// Gossip.
const (
	// MaxGossip bounds MaxSize of a topic, in bytes. Larger bodies go by hash through Request.
	MaxGossip = 192 << 10
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
	// historyLength heartbeats of messages are kept for peers that ask, historyGossip of them announced.
	historyLength = 6
	historyGossip = 3

	// The publisher sends to every peer that it is connected to (floodPublish), and they pass the message on
	// along a thin mesh, which serves those who are not connected to the publisher. In a small network, where all
	// are connected, the mesh carries duplicates alone, so every edge of it costs processor time and, as the
	// cores are shared, latency. Measured with 8 hosts on 2 shared cores: processor time over all hosts per
	// message when 24 come at once (BenchmarkGossipBurst, least and most of the best of two passes), and time until
	// all have a message of 300 B that comes alone (BenchmarkGossip, p50 over QUIC):
	//
	//	D/low/high  flood   burst, QUIC       burst, TCP        alone
	//	8/6/12      no      0.70 - 1.42 ms    0.97 - 0.99 ms    1.16 ms
	//	8/6/12      yes     0.71 - 1.13 ms    0.85 - 1.22 ms    1.18 ms
	//	4/3/6       no      0.47 - 0.65 ms    0.57 - 0.75 ms    0.68 ms
	//	4/3/6       yes     0.74 - 0.85 ms    0.58 - 0.86 ms    0.75 ms
	//	3/2/4       yes     0.65 - 0.69 ms    0.61 - 0.77 ms    0.46 ms
	//	2/1/3       yes     0.46 - 0.60 ms    0.43 - 0.54 ms    0.40 ms
	//
	// So 3/2/4 with flood costs no more than 4/3/6 without, in one hop where that takes two or three. A mesh of
	// two would fall apart when one peer leaves. QUIC and TCP do not differ beyond the noise.
	meshDegree   = 3
	meshLow      = 2
	meshHigh     = 4
	meshOut      = 0 // must be under meshDegree/2
	meshLazy     = 6
	floodPublish = true
)

// Connections.
const (
	// dialMin and dialMax bound the back-off of Keep and of links; a peer that restarts is back within a second,
	// one that is away for long is asked six times a minute.
	dialMin     = 250 * time.Millisecond
	dialMax     = 10 * time.Second
	dialTimeout = 10 * time.Second
)

// Links.
const (
	// MaxFrame bounds LinkConfig.MaxFrame, in bytes.
	MaxFrame = 1 << 20
	// linkQueue is how many frames wait for one peer: 256 votes are many tasks' worth, and at 1 KiB each 256 KiB.
	linkQueue = 256
	// linkBatch is how many bytes of waiting frames go into one write, about what a QUIC stream sends at once.
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
	// serveAtOnce and servePerPeer bound the requests of one protocol that are worked on, so that memory stays
	// under serveAtOnce times the largest request and response, and one peer leaves room for seven others.
	serveAtOnce  = 64
	servePerPeer = 8
)
