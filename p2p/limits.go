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
	// validateQueue is shared by all topics and peers, see standings.admit. What does not fit is dropped before it counts as seen,
	// so it is taken from the next peer that has it; a peer of the mesh does not announce it again. The
	// library's 32 is less than one settlement's burst.
	validateQueue = 8192
	// validators is how many Validate calls run at once. They run in the library's own workers ("inline"), so that load
	// makes the queue grow. Its other way, a bounded number of goroutines, drops what is over the
	// bound after it was marked as seen: lost for good, and seen to happen at 64 with 160 messages at once.
	validators = 8
	// validateTimeout ends a check; checks are decoding and a few signatures, well under a millisecond.
	validateTimeout = 2 * time.Second
	// outboundQueue is per peer; an RPC that does not fit is lost until a heartbeat's gossip repairs it.
	outboundQueue = 512
	// gossipBatch is how many bytes of RPCs may wait for an earlier write to a peer; a larger RPC waits alone. A write may take
	// half of gossipWrite at least, and all of it at most.
	gossipBatch = 32 << 10
	gossipWrite = 30 * time.Second
	// subscriptionQueue is per topic: as many as may come out of Validate while Handle waits for a disk.
	subscriptionQueue = validateQueue
	// seenTTL is the library's default too.
	seenTTL = 2 * time.Minute

	// mendMin and mendMax bound the time for which gossip may have forgotten a connected peer before the
	// connection is made anew; gossipsub itself tries for two seconds to open a stream again.
	mendMin = 5 * time.Second
	mendMax = 10 * time.Minute

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
	// So flooding takes one hop where the mesh takes two or three. QUIC and TCP do not differ beyond the noise.
	//
	// In a larger network not all are connected, and the mesh alone reaches most. One that is too thin leaves a peer out
	// now and then, which gets a message only when a heartbeat announces it. Measured with flood in virtual time, 20 ms
	// between any two hosts, each of which dials 5 others (package node/scale), for the messages of a settled task:
	//
	//	            50 hosts                           100 hosts
	//	D/low/high  copies  processor  last delivery   copies  processor  last delivery
	//	3/2/4       2.0     178 ms     105 ms          1.8     621 ms     700 ms
	//	4/3/6       3.3     283 ms      87 ms          3.1     701 ms     107 ms
	//	5/4/8       4.5     367 ms      83 ms          4.2     894 ms      94 ms
	//	6/5/10      5.8     483 ms      68 ms          5.6    1090 ms      89 ms
	//
	// 4/3/6 is the thinnest that left nobody out.
	meshDegree   = 4
	meshLow      = 3
	meshHigh     = 6
	meshOut      = 1 // must be under meshDegree/2
	meshLazy     = 6
	floodPublish = true
)

// Conduct. What goes over a quota is dropped unread and counted; only what lasts is held against the peer. Quotas are per
// peer and count copies of what is known too, since that is seen only later. They have room for twice a second's worth at once.
// At 100 tasks/s with 16 validators, gossip has some 90 messages per task: 9000/s over all topics, and a peer that
// forwards them all hands over as many. The quotas are above that and far under what a flood takes to hurt: what is under
// them still has to be worth something, or it counts as a fault.
const (
	// DefaultRate is how many messages per second of a topic a peer may hand over, where TopicConfig.Rate says nothing.
	DefaultRate = 8192
	// copyRate is how many copies of known messages a peer may hand over per second beyond one for each that is new, and
	// copiesKept how many of them it may save up.
	copyRate   = 64
	copiesKept = 2048
	// rpcRate is in gossip RPCs per second: mostly one message each.
	rpcRate = 16384
	// controlRate is in ids and entries per second: each heartbeat may announce 5000 ids per topic.
	controlRate = 32768
	// subscriptionRate is in announcements per second; a peer announces each topic once.
	subscriptionRate = 64
	// gossipBytes per second are read of a peer; more waits on its side. 128 prompts of the largest size that travels inline are half of it.
	gossipBytes = 8 << 20
	// streamRate is in streams that a peer opens per second, of all protocols: one for each request.
	streamRate = 512
	// requestRate is in requests per second, peer and protocol, where ServeConfig.Rate says nothing.
	requestRate = 256
	// requestRead is how long a request may take to arrive once its stream is open.
	requestRead = 3 * time.Second
	// frameRate is in frames per second and link; more waits on the sender's side. A bundle of votes leaves every
	// one or two milliseconds at most.
	frameRate = 4096

	// floodSize is how much over quota makes one fault.
	floodSize = 64
	// faultHalfLife is the time after which half of what is held against a peer is forgotten.
	faultHalfLife = 2 * time.Minute
	// banPoints of faults end the connection for banTime.
	banPoints = 40
	banTime   = 10 * time.Minute
	// bansPerAddr ids that were banned at one address have the address banned.
	bansPerAddr = 3
	bansKept    = 16384
	// standingsKept is for how many peers faults and quotas are remembered, about 2 KB each.
	standingsKept = 4096

	// Scores of gossip, see gossipScore.
	gossipThreshold   = -10
	publishThreshold  = -20
	graylistThreshold = -40
)

// Connections.
const (
	// connsLow connections are left when there are more than connsHigh, and of those that are older than connsGrace. Protected
	// peers and kept ones stay.
	connsLow   = 96
	connsHigh  = 192
	connsGrace = time.Minute
	// Connections of one address: libp2p's 8 at once and 16 in a burst are too few for a rack, a cluster
	// of containers or a lab behind one address; private networks have these.
	publicConnRate   = 0.2 // per second and address
	publicConnBurst  = 16
	privateConns     = 1024 // of each network as a whole
	privateConnBurst = 512
	privateConnRate  = 64 // per second and network

	// dialMin and dialMax bound the back-off of Keep and of links; a peer that restarts is back within a second,
	// one that is away for long is asked six times a minute.
	dialMin     = 250 * time.Millisecond
	dialMax     = 10 * time.Second
	dialTimeout = 10 * time.Second
	// helloTimeout bounds a hello, one round trip.
	helloTimeout = 10 * time.Second
	// doubleEvery is how often the log tells of a second process with the own identity.
	doubleEvery = 10 * time.Minute
)

// Discovery.
const (
	// targetConnections is enough for gossip's mesh to hold together while peers come and go, and little for a home router.
	targetConnections = 16
	// hintAfter is how long neighbours have to show up before a host says that it knows nobody.
	hintAfter = 5 * time.Second
	// strangerEvery is how often the log tells of peers that dialled this host and do not belong here.
	strangerEvery = 10 * time.Second
	// dialsAtOnce spares home routers, whose tables of connections are small.
	dialsAtOnce = 8
	// maxCandidates and maxAddrs bound what is known of peers that are not connected, at most some 2 MiB.
	maxCandidates = 1000
	maxAddrs      = 16
	// maxFails in a row and a candidate is forgotten until somebody names it again.
	maxFails = 8
	// maxAttempts bounds what Attempts tells.
	maxAttempts = 256
	// findMin and findMax bound the back-off of a candidate. findKept is its upper bound for bootstraps and wanted peers, and for all while no peer is
	// connected; findLonely is that for bootstraps and wanted peers then, so that a network that was cut comes together within seconds.
	findMin    = time.Second
	findMax    = 10 * time.Minute
	findKept   = time.Minute
	findLonely = 10 * time.Second
	// lastingPause is the middle of the pause after a failure that somebody must mend first, such as a wrong network.
	lastingPause = 10 * time.Minute
	// askMin and askMax bound how often a bootstrap is asked for peers, and the DHT, while some are missing.
	askMin      = 10 * time.Second
	askMax      = 10 * time.Minute
	walkTimeout = time.Minute // one look into the DHT
	// exchangePeers is how many peers a bootstrap names at once, and maxRecord bounds the record of each.
	exchangePeers = 32
	maxRecord     = 2 << 10
	// memoryPeers are remembered at most, for memoryTime. The file is written when something changed, at most every memoryEvery.
	memoryPeers = 100
	memoryTime  = 30 * 24 * time.Hour
	memoryEvery = 10 * time.Second
	memoryFresh = time.Hour // when being still connected counts as a change
	maxMemory   = 1 << 20
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

// Feeds.
const (
	// feedsAtOnce and feedsPerPeer bound the followers of one feed. Of a peer there are two while it follows anew and the end of the
	// first is not noticed yet.
	feedsAtOnce  = 256
	feedsPerPeer = 2
	// feedRate is how often per second a peer may begin to follow.
	feedRate = 8
	// feedFrames and feedBytes per second are read of a feed; more waits on its sender's side.
	feedFrames = 2048
	feedBytes  = 2 << 20
)

// Reachability and relays.
const (
	// relaysWanted is how many relays keep a place for a host that nobody can dial.
	relaysWanted = 2
	// relayBackoff is how long a relay that refused is left alone, relaySearch how often candidates are looked for
	// while there are fewer relays. The library's hour and half a minute suit a network with more relays to choose from.
	relayBackoff = time.Minute
	relaySearch  = 10 * time.Second
	// relaySeek is when a host looks for a relay at the latest.
	relaySeek = 10 * time.Second
	// identifyTimeout bounds waiting for what a peer speaks.
	identifyTimeout = 3 * time.Second
	// leadMin and leadMax bound the back-off between attempts to reach a relayed peer directly.
	leadMin = time.Minute
	leadMax = 10 * time.Minute

	// What a relay gives. The library's 128 KiB and two minutes per circuit are made for punching a hole through it, and
	// would cut a validator's votes every few seconds; poq's circuits carry traffic where no hole can be punched.
	// A peer's busiest hour of votes and gossip is some tens of megabytes. The time makes both ends try a new hole.
	circuitTime  = 30 * time.Minute
	circuitBytes = 64 << 20 // each way
	// relayCircuits is per peer: one to every other of a large committee.
	relayCircuits    = 64
	relayPlaces      = 128
	relayPlacesPerIP = 16 // a household or an office
	relayPlaceTime   = time.Hour
	relayBuffer      = 4 << 10 // per direction of a circuit
)

// The light path: gossip over relayed connections.
const (
	// lightPeers is how many peers a host that has no other way asks to carry its gossip: the second is there when a
	// relay cuts the first off.
	lightPeers = 2
	// lightClients is how many peers a host carries gossip for.
	lightClients = 64
	// What such a peer may send, per second and at once. Faster ones are read more slowly.
	lightMessages, lightMessageBurst = 500, 1000
	lightBytes, lightByteBurst       = 1 << 20, 4 << 20
	// lightQueue and lightQueueBytes bound what waits for one peer; what is over them is lost.
	lightQueue      = 512
	lightQueueBytes = 1 << 20
	// lightWrite bounds one write of up to linkBatch bytes, over a relay that may be slow.
	lightWrite = 10 * time.Second
	// lightRetryMax is the longest back-off, and that after a peer broke the protocol.
	lightRetryMax = time.Minute
	// lightSeen is how many message ids are remembered besides those in gossipsub, to spare duplicates a check.
	lightSeen = 16384
	// lightFrame bounds a frame: a topic name and a message.
	lightFrame = 1 + 128 + MaxGossip
)
