package scale

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/x/simlibp2p"
	"github.com/marcopolo/simnet"
)

// Links of the simulated network: every peer has 100 Mbit/s both ways, and 20 ms lie between any two.
const (
	latency = 20 * time.Millisecond
	rate    = 100 * simlibp2p.OneMbps
)

// large adds networks of 100 peers, which take a minute.
var large = os.Getenv("POQ_SCALE") != ""

// simulated returns a maker of hosts on simulated links.
func simulated(n *simnet.Simnet, opts ...libp2p.Option) func(i int) (host.Host, error) {
	link := simnet.NodeBiDiLinkSettings{Uplink: simnet.LinkSettings{BitsPerSecond: rate}, Downlink: simnet.LinkSettings{BitsPerSecond: rate}}
	return func(i int) (host.Host, error) {
		return libp2p.New(append(opts,
			libp2p.ListenAddrStrings(fmt.Sprintf("/ip4/%s/udp/8000/quic-v1", simnet.IntToPublicIPv4(i))),
			simlibp2p.QUICSimnet(n, link),
			libp2p.DisableIdentifyAddressDiscovery(), // it stalls synctest
			libp2p.ResourceManager(&network.NullResourceManager{}),
			libp2p.DisableRelay(), libp2p.Ping(false), libp2p.DisableMetrics(),
		)...)
	}
}

// TestGossipCostsLittleMoreThanBareGossipsub plays tasks in virtual time. What it logs (-v) are the figures of large
// networks on links of 20 ms; processor time is real, and that of the simulated links is in it.
func TestGossipCostsLittleMoreThanBareGossipsub(t *testing.T) {
	for _, c := range []Config{
		{Peers: 50, Validators: 4, Answers: 3, Degree: 5, Tasks: 5},
		{Peers: 100, Validators: 4, Answers: 3, Degree: 5, Tasks: 5},
		{Peers: 20, Validators: 4, Answers: 3, Degree: 0, Tasks: 10},
	} {
		if c.Peers > 50 && !large || c.Peers > 20 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprintf("%d peers, %d dialled", c.Peers, c.Degree), func(t *testing.T) {
			var list []Figures
			for _, stack := range Stacks() {
				synctest.Test(t, func(t *testing.T) {
					n := &simnet.Simnet{LatencyFunc: simnet.StaticLatency(latency)}
					n.Start()
					defer n.Close()
					c.Host = simulated(n)
					f, err := c.Measure(t.Context(), stack)
					if err != nil {
						t.Fatal(err)
					}
					list = append(list, f)
				})
			}
			var table strings.Builder
			Print(&table, list)
			t.Log("\n" + table.String())
			if o := list[0].Over(list[1]); o.Messages > 0.2 || o.Bytes > 0.2 {
				t.Errorf("over a fifth more than bare gossipsub with the same mesh: %+v", o)
			}
			if lost := list[0].Lost; lost > 0 {
				t.Errorf("%d messages or RPCs were lost", lost)
			}
			if list[0].Max > time.Second/2 {
				t.Errorf("a delivery took %v of virtual time: a peer was outside of the mesh until a heartbeat told it", list[0].Max)
			}
		})
	}
}
