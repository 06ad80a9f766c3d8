// Package p2p carries bytes between peers over libp2p: gossip to all, links for frames in order between
// two, requests for what is fetched by hash. It imports no other package of the project; how bytes decode and whether
// they hold is told by callbacks.
package p2p
