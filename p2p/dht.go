package p2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// DHTMode says what a host does in the network's Kademlia table of peers.
type DHTMode string

// The modes. The empty one is DHTOff.
const (
	DHTOff    DHTMode = "off"
	DHTAuto   DHTMode = "auto"   // ask, and answer others unless this host is known not to be reachable
	DHTClient DHTMode = "client" // ask only
	DHTServer DHTMode = "server" // ask and answer
)

// ParseDHTMode reads a mode.
func ParseDHTMode(s string) (DHTMode, error) {
	switch m := DHTMode(s); m {
	case DHTOff, DHTAuto, DHTClient, DHTServer:
		return m, nil
	}
	return "", fmt.Errorf("p2p: DHT mode %q: want auto, server, client or off", s)
}

// table is the Kademlia table, in which peers of a large network find each other by id. It holds no data.
type table struct {
	f   *finder
	dht *dht.IpfsDHT

	walks *backoff
	// The finder's lock guards these.
	walking bool
	next    time.Time
}

// tablePrefix keeps the tables of networks apart, also of those that have one name.
func tablePrefix(network string, genesis []byte) protocol.ID {
	return protocol.ID(fmt.Sprintf("/poq/%s/%x", network, genesis[:min(len(genesis), 8)]))
}

func newTable(f *finder, mode DHTMode) (*table, error) {
	m := dht.ModeAutoServer
	switch mode {
	case DHTClient:
		m = dht.ModeClient
	case DHTServer:
		m = dht.ModeServer
	}
	d, err := dht.New(f.h.host, dht.Mode(m), dht.ProtocolPrefix(tablePrefix(f.h.network, f.h.greet.mine.Genesis)),
		dht.DisableProviders(), dht.DisableValues(), dht.AddressFilter(dialable),
		dht.BootstrapPeersFunc(func() (list []peer.AddrInfo) {
			for _, p := range f.h.greet.peers() {
				list = append(list, f.h.host.Peerstore().PeerInfo(p))
			}
			return list
		}))
	if err != nil {
		return nil, fmt.Errorf("p2p: start DHT: %w", err)
	}
	return &table{f: f, dht: d, walks: newBackoff(askMin, askMax)}, nil
}

// walkDue looks for wanted peers, or for any if some are missing, and returns when to look again.
func (t *table) walkDue(peers []peer.ID) time.Time {
	f, now := t.f, time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := f.away(peers)
	if len(peers) >= f.target && len(wanted) == 0 || t.walking || t.dht.RoutingTable().Size() == 0 {
		return time.Time{} // the end of a walk, or a new peer, wakes the loop
	}
	if t.next.After(now) {
		return t.next
	}
	t.walking = true
	f.h.running.Go(func() {
		found := t.walk(wanted)
		f.mu.Lock()
		t.walking = false
		if found > 0 {
			t.walks.reset()
		}
		t.next = time.Now().Add(t.walks.next())
		f.mu.Unlock()
		f.poke()
	})
	return time.Time{}
}

// walk asks the table and returns how many peers it named that were not known.
func (t *table) walk(wanted []peer.ID) (found int) {
	ctx, cancel := context.WithTimeout(t.f.h.ctx, walkTimeout)
	defer cancel()
	for _, p := range wanted {
		info, err := t.dht.FindPeer(ctx, p)
		if err != nil {
			t.f.h.log.Debug("wanted peer is not in the DHT", "peer_id", p.String(), "err", err)
			continue
		}
		found += t.f.add(peer.AddrInfo{ID: p, Addrs: dialable(info.Addrs)}, FromDHT)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	list, err := t.dht.GetClosestPeers(ctx, string(key))
	if err != nil && !errors.Is(err, context.Canceled) {
		t.f.h.log.Debug("walk through the DHT", "err", err)
	}
	for _, p := range list {
		found += t.f.add(peer.AddrInfo{ID: p, Addrs: dialable(t.f.h.host.Peerstore().Addrs(p))}, FromDHT)
	}
	return found
}

func (t *table) close() { _ = t.dht.Close() }
