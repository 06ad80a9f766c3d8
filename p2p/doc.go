// Package p2p carries bytes between peers over libp2p. It knows three ways:
//
//	what                        for                                   how
//	[Join], [Topic.Publish]     orders, answers, scores,              gossip: to all, unordered, repaired by
//	                            certificates                          heartbeats when lost
//	[NewLinks], [Links.Send]    votes between validators              one stream per peer: in order, soon, lost
//	                                                                  only at a break, of which Up tells
//	[Host.Serve],               bodies by hash                        one stream per request, typed refusals
//	[Host.Request]
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
//	gossip message                 128 KiB    MaxGossip; every byte is sent several times, larger bodies go by hash
//	gossip RPC                     256 KiB    two largest messages
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
// # What is left out
//
// Relays, hole punching, port mapping, address discovery, WebSocket, WebTransport and WebRTC are not started: a peer
// needs an address at which others can reach it, or must dial. Hosts find each other by the addresses
// they are given ([Host.Connect], [Host.Keep]). An idle network of eight hosts takes 0.3% of one core.
package p2p
