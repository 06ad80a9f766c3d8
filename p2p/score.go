package p2p

import (
	"net"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

// gossipScore says how gossipsub scores peers. Who delivers first and stays in the mesh gains up to ten points, over all topics.
// Rejected messages cost the square of their number, per topic; broken promises and grafts against the rules a tenth of the
// square of their number beyond twenty, which decays in a minute. Faults count as they are. Nobody is expected to deliver a number of messages: our
// topics may be silent for hours and our networks small, where that rule is known to cut off honest peers.
func gossipScore(topics []string, seen time.Duration, faults func(peer.ID) float64) (*pubsub.PeerScoreParams, *pubsub.PeerScoreThresholds) {
	p := &pubsub.PeerScoreParams{
		Topics:            make(map[string]*pubsub.TopicScoreParams),
		TopicScoreCap:     10,
		AppSpecificScore:  func(p peer.ID) float64 { return -faults(p) },
		AppSpecificWeight: 1,
		// Sixteen peers of one public address are a household or a lab; each more costs all of them.
		IPColocationFactorWeight: -1, IPColocationFactorThreshold: 16, IPColocationFactorWhitelist: uncountedNets(),
		// A peer that has no processor time for seconds breaks promises, too, a dozen in a minute as was seen.
		BehaviourPenaltyWeight: -0.1, BehaviourPenaltyThreshold: 20, BehaviourPenaltyDecay: pubsub.ScoreParameterDecay(time.Minute),
		DecayInterval: time.Second, DecayToZero: 0.01, RetainScore: banTime, SeenMsgTTL: seen,
	}
	for _, topic := range topics {
		p.Topics[topic] = &pubsub.TopicScoreParams{
			TopicWeight:      1,
			TimeInMeshWeight: 0.01, TimeInMeshQuantum: time.Second, TimeInMeshCap: 200,
			FirstMessageDeliveriesWeight: 0.01, FirstMessageDeliveriesDecay: pubsub.ScoreParameterDecay(10 * time.Minute), FirstMessageDeliveriesCap: 200,
			InvalidMessageDeliveriesWeight: -1, InvalidMessageDeliveriesDecay: pubsub.ScoreParameterDecay(10 * time.Minute),
		}
	}
	return p, &pubsub.PeerScoreThresholds{
		GossipThreshold: gossipThreshold, PublishThreshold: publishThreshold, GraylistThreshold: graylistThreshold,
		AcceptPXThreshold: 0, OpportunisticGraftThreshold: 1,
	}
}

// uncountedNets are those where many peers may share an address and nobody is to be suspected for it.
func uncountedNets() (nets []*net.IPNet) {
	for _, p := range private {
		a := p.Addr()
		nets = append(nets, &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(p.Bits(), a.BitLen())})
	}
	return nets
}

// scored takes the scores, once a second.
func (h *Host) scored(scores map[peer.ID]float64) {
	for p, score := range scores {
		if score >= graylistThreshold {
			continue
		}
		h.standings.forgetWaiting(p)
		// Nothing of it is heard any more, so that it could never do as much as is banned.
		if h.standings.held(p) >= banPoints/2 {
			h.standings.ban(p, FaultInvalid)
		}
	}
	h.totals.Store(&scores)
	h.standings.countCopies()
}
