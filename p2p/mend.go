package p2p

import (
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// mender parts from peers that gossipsub has forgotten while they stay connected. When one of several
// connections to a peer ends, with gossipsub's stream on it, gossipsub opens another stream but drops the
// peer's topics, which the peer has no reason to announce again; and when a stream cannot be opened it gives up. From then on
// no message reaches that peer. Ending all connections has both sides begin anew: who kept or found the
// peer dials again.
type mender struct {
	h     *Host
	grace time.Duration
	wake  chan struct{}

	mu  sync.Mutex
	due map[peer.ID]time.Time
	// wait is how long the next look waits, twice as long after each time that the peer was parted from.
	wait map[peer.ID]time.Duration
}

func newMender(h *Host, grace time.Duration) *mender {
	return &mender{
		h: h, grace: grace, wake: make(chan struct{}, 1),
		due: make(map[peer.ID]time.Time), wait: make(map[peer.ID]time.Duration),
	}
}

// suspect has a peer looked at when gossipsub has had time to mend things by itself. It does not block.
func (m *mender) suspect(p peer.ID) {
	m.mu.Lock()
	if _, known := m.due[p]; !known {
		m.due[p] = time.Now().Add(max(m.wait[p], m.grace))
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mender) run() {
	for {
		wait, now := forever, time.Now()
		var look []peer.ID
		m.mu.Lock()
		for p, at := range m.due {
			if at.After(now) {
				if d := at.Sub(now); wait == forever || d < wait {
					wait = d
				}
				continue
			}
			delete(m.due, p)
			look = append(look, p)
		}
		m.mu.Unlock()
		for _, p := range look {
			m.look(p)
		}
		if !waitFor(m.h.ctx, m.wake, wait) {
			return
		}
	}
}

// look parts from a peer if gossipsub has forgotten it.
func (m *mender) look(p peer.ID) {
	if m.h.host.Network().Connectedness(p) != network.Connected {
		return // nor does gossipsub run over relayed connections
	}
	forgotten := m.h.forgotten(p)
	m.mu.Lock()
	if !forgotten || len(m.wait) >= maxCandidates {
		delete(m.wait, p)
	} else {
		m.wait[p] = min(2*max(m.wait[p], m.grace), mendMax)
	}
	m.mu.Unlock()
	if forgotten {
		m.h.log.Info("gossip lost a connected peer: connecting anew", "peer_id", p.String())
		_ = m.h.host.Network().ClosePeer(p)
	}
}

// forgotten says whether gossipsub sends a connected peer nothing that it should.
func (h *Host) forgotten(p peer.ID) bool {
	speaks, err := h.host.Peerstore().SupportsProtocols(p, pubsub.GossipSubDefaultProtocols...)
	if err != nil || len(speaks) == 0 {
		return false
	}
	stream, topics := h.mesh.knows(p)
	if !stream {
		return true
	}
	for _, topic := range topics {
		if !slices.Contains(h.gossip.ListPeers(topic), p) {
			return true
		}
	}
	return false
}
