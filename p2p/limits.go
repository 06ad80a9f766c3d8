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
	// validateQueue is shared by all topics, and what does not fit is dropped silently; the default of 32 is
	// less than one task's burst.
	validateQueue = 1024
	// validators run at once for one topic, validateThrottle over all.
	validators       = 64
	validateThrottle = 512
	// validateTimeout ends a check; checks are decoding and a few signatures, well under a millisecond.
	validateTimeout = 2 * time.Second
	// outboundQueue is per peer; an RPC that does not fit is lost until a heartbeat's gossip repairs it.
	outboundQueue = 512
	// subscriptionQueue is per topic.
	subscriptionQueue = 1024
	// seenTTL is the library's default too.
	seenTTL = 2 * time.Minute

	heartbeat     = 700 * time.Millisecond
	historyLength = 6
	historyGossip = 3

	meshDegree   = 8
	meshLow      = 6
	meshHigh     = 12
	meshLazy     = 6
	meshOut      = 2
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
