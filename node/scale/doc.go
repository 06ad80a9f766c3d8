// Package scale measures what gossip costs in a large network: the messages of settled tasks among many hosts, over
// this project's gossip and over a bare gossipsub, with the same hosts, topology, messages and order of events.
//
// [Config.Measure] is given the hosts, so that the same measurement runs over loopback (poq bench gossip) and over
// simulated links in virtual time (this package's tests).
package scale
