//go:build unix

package p2p

import (
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// benchHosts is a small network: 4 validators, 3 workers and a payer.
const benchHosts = 8

var benchTransports = []struct{ name, addr string }{
	{"quic", "/ip4/127.0.0.1/udp/0/quic-v1"},
	{"tcp", "/ip4/127.0.0.1/tcp/0"},
}

// benchMeshes are the gossip settings that were compared.
var benchMeshes = []struct {
	name               string
	d, low, high, dout int
	flood              bool
}{
	{"D8", 8, 6, 12, 2, false},
	{"D8+flood", 8, 6, 12, 2, true},
	{"D4", 4, 3, 6, 1, false},
	{"D4+flood", 4, 3, 6, 1, true},
	{"D3+flood", 3, 2, 4, 0, true},
	{"D2+flood", 2, 1, 3, 0, true},
}

func benchConfig(addr string, mesh int) Config {
	m := benchMeshes[mesh]
	return Config{
		Listen: []multiaddr.Multiaddr{multiaddr.StringCast(addr)},
		tune: func(s *gossipSettings) {
			s.params.D, s.params.Dlo, s.params.Dhi, s.params.Dout = m.d, m.low, m.high, m.dout
			s.params.Dscore = min(s.params.Dscore, m.high)
			s.flood = m.flood
		},
	}
}

// cpu is the processor time of the process so far.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func benchTopics(b *testing.B, cfg Config) ([]*Topic, chan got) {
	hosts := newHosts(b, benchHosts, cfg)
	out := make(chan got, 1024)
	topics := make([]*Topic, len(hosts))
	for i, h := range hosts {
		topics[i] = join(b, h, out)
	}
	ctx := deadline(b)
	for _, t := range topics {
		for len(t.Peers()) < benchHosts-1 { // not WaitForPeers: its idea of a full mesh is that of the defaults
			if ctx.Err() != nil {
				b.Fatal("not connected")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	time.Sleep(2 * heartbeat) // let meshes settle
	return topics, out
}

// losses fails the benchmark if gossip lost something, which a heartbeat then repaired: its times mean nothing.
func losses(b *testing.B, topics []*Topic) {
	for _, t := range topics {
		if s := t.h.Stats(); s.Lost()+s.Rejected+s.Ignored != 0 {
			b.Errorf("lost gossip: %+v", s)
		}
	}
}

func payload(n, size int) []byte {
	data := make([]byte, size)
	binary.BigEndian.PutUint64(data, uint64(n))
	return data
}

// BenchmarkGossip publishes one message at a time and waits until all hosts have handled it.
func BenchmarkGossip(b *testing.B) {
	for _, tr := range benchTransports {
		for mesh := range benchMeshes {
			for _, size := range []int{300, 4096} {
				b.Run(fmt.Sprintf("%s,%s,%dB", tr.name, benchMeshes[mesh].name, size), func(b *testing.B) {
					topics, out := benchTopics(b, benchConfig(tr.addr, mesh))
					var took []time.Duration
					before := cpu(b)
					n := 0
					for b.Loop() {
						start := time.Now()
						if err := topics[n%len(topics)].Publish(b.Context(), payload(n, size)); err != nil {
							b.Fatal(err)
						}
						for range topics {
							<-out
						}
						took = append(took, time.Since(start))
						n++
					}
					b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-µs/msg")
					percentiles(b, took)
					losses(b, topics)
				})
			}
		}
	}
}

// BenchmarkGossipBurst has all hosts publish three messages of 300 bytes at once, as many as a settlement
// takes, and waits until all hosts have handled all.
func BenchmarkGossipBurst(b *testing.B) {
	for _, tr := range benchTransports {
		for mesh := range benchMeshes {
			b.Run(tr.name+","+benchMeshes[mesh].name, func(b *testing.B) {
				topics, out := benchTopics(b, benchConfig(tr.addr, mesh))
				var took []time.Duration
				before := cpu(b)
				n := 0
				for b.Loop() {
					start := time.Now()
					for range 3 {
						for _, topic := range topics {
							if err := topic.Publish(b.Context(), payload(n, 300)); err != nil {
								b.Fatal(err)
							}
							n++
						}
					}
					for range 3 * len(topics) * len(topics) {
						<-out
					}
					took = append(took, time.Since(start))
				}
				b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-µs/msg")
				percentiles(b, took)
				losses(b, topics)
			})
		}
	}
}

// BenchmarkLinkRoundTrip sends a frame of 200 bytes to a peer, which sends it back.
func BenchmarkLinkRoundTrip(b *testing.B) {
	for _, tr := range benchTransports {
		b.Run(tr.name, func(b *testing.B) {
			hosts := newHosts(b, 2, benchConfig(tr.addr, 0))
			links := make([]*Links, 2)
			back := make(chan struct{}, 1)
			for i, h := range hosts {
				var err error
				links[i], err = NewLinks(h, LinkConfig[string]{Name: "votes", MaxFrame: 1 << 10, Validate: parse,
					Handle: func(from peer.ID, msg string) {
						if i == 0 {
							back <- struct{}{}
						} else if err := links[1].Send(from, []byte(msg)); err != nil {
							b.Error(err)
						}
					}})
				if err != nil {
					b.Fatal(err)
				}
			}
			frame := make([]byte, 200)
			var took []time.Duration
			before := cpu(b)
			for b.Loop() {
				start := time.Now()
				if err := links[0].Send(hosts[1].ID(), frame); err != nil {
					b.Fatal(err)
				}
				<-back
				took = append(took, time.Since(start))
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(len(took)), "cpu-µs/op")
			percentiles(b, took)
		})
	}
}
