package p2p

import (
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	xrate "github.com/libp2p/go-libp2p/x/rate"
	"github.com/prometheus/client_golang/prometheus"
)

// newResources returns a resource manager with the library's limits, scaled to the memory of the machine, less what
// one peer may take of one protocol, and more of what private networks may. Connections from 127.0.0.0/8 and ::1 are free of the limits
// per address, so many hosts of one process may meet on loopback.
func newResources(s *standings, metrics prometheus.Registerer) (network.ResourceManager, error) {
	limits := rcmgr.DefaultLimits
	// Twice the mark at which connections are cut: else this limit would refuse honest peers before that one
	// makes room for them.
	limits.SystemBaseLimit.ConnsInbound = max(limits.SystemBaseLimit.ConnsInbound, 2*connsHigh)
	limits.SystemBaseLimit.Conns = max(limits.SystemBaseLimit.Conns, 3*connsHigh)
	// Those worked on, and as many that are told that they have to wait. A field of zero would block all.
	limits.ProtocolPeerBaseLimit.StreamsInbound = 4 * servePerPeer
	libp2p.SetDefaultServiceLimits(&limits)
	var v4, v6 []rcmgr.NetworkPrefixLimit
	rates := xrate.Limiter{
		NetworkPrefixLimits: []xrate.PrefixLimit{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}},
		SubnetRateLimiter: xrate.SubnetLimiter{
			IPv4SubnetLimits: []xrate.SubnetLimit{{PrefixLength: 32, Limit: xrate.Limit{RPS: publicConnRate, Burst: publicConnBurst}}},
			IPv6SubnetLimits: []xrate.SubnetLimit{{PrefixLength: 56, Limit: xrate.Limit{RPS: publicConnRate, Burst: publicConnBurst}}},
			GracePeriod:      connsGrace,
		},
	}
	for _, prefix := range private { // where many may share an address or a neighbourhood
		if prefix.Addr().IsLoopback() {
			continue
		}
		limit := rcmgr.NetworkPrefixLimit{Network: prefix, ConnCount: privateConns}
		if prefix.Addr().Is4() {
			v4 = append(v4, limit)
		} else {
			v6 = append(v6, limit)
		}
		rates.NetworkPrefixLimits = append(rates.NetworkPrefixLimits,
			xrate.PrefixLimit{Prefix: prefix, Limit: xrate.Limit{RPS: privateConnRate, Burst: privateConnBurst}})
	}
	var options []rcmgr.Option
	if metrics == nil {
		options = append(options, rcmgr.WithMetricsDisabled())
	} else {
		rcmgr.MustRegisterWith(metrics)
	}
	r, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()), append(options,
		rcmgr.WithNetworkPrefixLimit(append(v4, rcmgr.DefaultNetworkPrefixLimitV4...), append(v6, rcmgr.DefaultNetworkPrefixLimitV6...)),
		rcmgr.WithConnRateLimiters(&rates))...)
	if err != nil {
		return nil, fmt.Errorf("resource manager: %w", err)
	}
	return pacedResources{r, s}, nil
}

// pacedResources bounds how many streams a peer opens per second, where libp2p bounds only how many are open.
type pacedResources struct {
	network.ResourceManager
	standings *standings
}

// OpenStream is asked before anything is read of a new stream.
func (r pacedResources) OpenStream(p peer.ID, dir network.Direction) (network.StreamManagementScope, error) {
	if dir == network.DirInbound && !r.standings.of(p).streams.Allow() {
		r.standings.refused.Add(1)
		r.standings.exceed(p, 1)
		return nil, fmt.Errorf("%w: too many new streams", network.ErrResourceLimitExceeded)
	}
	return r.ResourceManager.OpenStream(p, dir)
}
