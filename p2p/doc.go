// Package p2p carries bytes between peers over libp2p. It knows four ways:
//
//	what                        for                                   how
//	[Join], [Topic.Publish]     orders, answers, scores,              gossip: to all, unordered, repaired by
//	                            certificates                          heartbeats when lost
//	[NewLinks], [Links.Send]    votes between validators              one stream per peer: in order, soon, lost
//	                                                                  only at a break, of which Up tells
//	[Host.Serve],               bodies by hash                        one stream per request, typed refusals
//	[Host.Request]
//	[Host.ServeFeed],           what is made while it is sent         one stream per request: frames in order,
//	[Host.Follow]                                                     until one of the two has enough
//
// The package does not know what the bytes mean and must not import a domain package of the project. A topic or
// protocol is given a Validate function that decodes and checks, so that nothing is decoded twice, and a
// Handle function that takes the result. [ErrReject] is how Validate says that the sender is to blame; time-outs and
// panics never blame it.
//
// A panic of Validate or of a request's Handle, which see foreign bytes, is logged and becomes an error. A
// panic of a topic's or link's Handle is not caught: it gets checked messages, and a fault there is our own.
//
// # Protocols and limits
//
// Ids carry the network's name, so that networks do not mix: /poq/<network>/<name>/1 for topics and for
// protocols. A frame is an unsigned varint length and that many bytes, at least one; a request is a frame, a
// response a frame whose first byte is its status.
//
//	limit                          value      reason
//	gossip message                 192 KiB    MaxGossip; every byte is sent several times, larger bodies go by hash
//	gossip RPC                     384 KiB    two largest messages
//	topics a peer may announce     allowlist  Config.Topics, 32 per RPC
//	waiting for Validate           8192       over all topics; a peer may hold an eighth of what is free
//	Validate at once, for          8, 2 s     checks cost well under a millisecond; no model runs there
//	waiting for Handle             8192       per topic; then messages are lost ([Stats])
//	outbound RPCs per peer         512        then RPCs are lost ([Stats])
//	message remembered             2 min      Config.SeenTTL
//	frame                          1 MiB      MaxFrame; links are for small frames
//	frames waiting per peer        256        then [ErrQueueFull]
//	opening a link, writing        5 s        a peer that does not read is as good as gone
//	request, response              4 MiB      MaxBody
//	request, both ends             10 s       unless the requester's context ends sooner or later
//	requests served at once        64, 8      per protocol, per peer of it; then [ErrBusy]
//	followers of a feed            256, 2     in all, of a peer; then [ErrBusy]
//	connections, streams, memory   libp2p's   its resource manager, scaled to the machine; loopback is free of
//	                                          the limits per address, private networks have more
//	connections                    192        then those over 96 go that are older than a minute and not protected
//
// What a peer may do in a second, and twice that at once. What is over is dropped or refused before it costs more than a look
// into a map; bytes and frames are only read later.
//
//	messages of a topic            8192       TopicConfig.Rate, copies of what is known included
//	gossip RPCs, control entries   16384, 32768
//	announcements of topics        64
//	gossip bytes, frames of links  8 MiB, 4096
//	requests of a protocol         256        ServeConfig.Rate; then [ErrBusy]
//	beginning to follow a feed     8          then [ErrBusy]
//	frames, bytes read of a feed   2048, 2 MiB
//	new streams                    512        of all protocols
//	a request arrives within       3 s        of its stream's beginning
//
// # Conduct
//
// What a peer does against the rules is held against it ([Fault]), by this package or by [Host.Fault]. It lowers the peer's
// gossip score ([Host.Scores]). At 40 points, which are halved every two minutes, the peer is
// disconnected and kept out for ten; three such peers at one public address, and the address is. Config.Protected peers are slowed down for load, not banned.
// [Host.Stats] counts what was dropped, refused and banned. Package p2ptest makes the peers against whom this is tested.
//
// Where a number was measured, its comment in limits.go says with which benchmark.
//
// # Seeing
//
// [Host.PeerInfos], [Host.Topics], [Host.Links], [Host.Stats], [Host.Bandwidth] and [Host.Reachability] are snapshots; Config.Registerer
// gets the same as metrics. A transport takes half a minute to notice that the machine at the other end is gone, so a peer that
// says nothing for five seconds is pinged (32 bytes, libp2p's protocol), and one that was not heard for [GoneAfter] counts as gone.
// It stays connected until the transport gives it up.
//
// # Finding peers
//
// Who dials says hello first, on every connection: network, genesis and versions ([Hello]). Hosts that do not belong
// together part, and both know why ([Refusal]). Only peers that have said hello are in [Host.Peers], are introduced (Config.Met)
// and told of to others. A host that meets one peer id with two nonces at a time tells both processes ([Host.Double]).
//
// [Host.Discover] looks for peers: those that are configured or wanted are always dialled, others until there are enough.
// What came of each address is told by [Host.Attempts]. When the last connection is lost everybody is tried again at once.
//
//	source           what it is                                                  whom it trusts
//	bootstrap        addresses that a person named                               the person
//	remembered       Discovery.File: 100 peers that were connected, for 30 days  the own disk
//	mdns             neighbours in the local network, by a hash of network and   anybody on the same cable
//	                 genesis as service name
//	exchange         32 signed records of connected peers, asked of bootstraps   the bootstrap for the choice, the peer
//	                 alone                                                       for its addresses
//	dht              a Kademlia table of the network: wanted peers by id, and    anybody in the network
//	                 random walks
//	peer             where a connected peer says that it listens                 the peer
//
//	limit                          value            reason
//	hello                          2 KiB, 10 s
//	connections looked for         16               Discovery.Target
//	dials at once                  8                home routers have small tables
//	candidates, addresses of each  1000, 16         the one that failed most often makes room
//	back-off                       1 s .. 10 min    1 min for bootstraps and wanted peers, 10 s while nobody is connected
//	after a lasting refusal        5 .. 15 min      wrong network, genesis, version, peer; within a minute while nobody is connected
//	asking bootstraps, DHT walks   10 s .. 10 min   while peers are missing
//
// A peer that gossipsub has forgotten while it stays connected, as happens when one of two connections ends, is parted from
// after 5 s and dialled anew.
//
// # Peers behind routers
//
// With Config.NAT a host asks others at which of its addresses it can be reached and helps them to ask. One that can't be reached
// takes a place at up to two relays: those of the configuration, and connected peers, of which each serves as one while it is
// public. Who dials the address at a relay gets a circuit, through which both punch holes in their routers. If that works
// the circuit is closed, and if not it stays ([Host.Path]). Links and requests work over circuits. Gossipsub does not run
// there: a host to which it has no stream at all opens two streams to relayed peers ("light"), over which they
// pass on to each other what they deliver, each message once and only after Validate. The streams end as soon as
// gossipsub has a stream. Two groups of hosts, each with gossip among themselves, of which none reaches one of the other
// but through a relay that is no peer, exchange no gossip.
//
//	a relay gives                  value      reason
//	places, at one address         128, 16    for an hour each, to peers of the network only
//	circuits per peer              64         one to every other of a large committee
//	a circuit                      64 MiB     each way, or 30 minutes; then both dial, and punch, anew. The library's
//	                                          128 KiB and 2 minutes would cut votes off every few seconds
//
//	light                          value      reason
//	streams served, asked for      64, 2      the second is there when a relay cuts the first off
//	messages, bytes                500, 1 MiB per second of one peer, 1000 and 4 MiB at once; what comes faster is read later
//	waiting for one peer           512, 1 MiB then messages are lost ([Stats.Unsent])
//
// Addresses count as public as go-multiaddr knows them. In a network of private addresses nobody is asked, Reachability
// stays unknown and nobody serves as relay.
//
// # What is left out
//
// WebSocket, WebTransport and WebRTC are not started, and without Config.NAT none of the above. An idle network of eight such hosts
// takes 0.5% of one core, a third of it for the pings.
package p2p
