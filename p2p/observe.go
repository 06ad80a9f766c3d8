package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// Liveness. A transport notices only after half a minute that the machine at the other end is gone, so a peer that
// says nothing for a pulse is pinged. If neither says anything one ping serves both, since whoever answers hears it too.
const (
	pulse = 5 * time.Second
	// GoneAfter is the silence after which a peer counts as gone: two pulses, one lost ping.
	GoneAfter = 15 * time.Second
	// A peer that is gone is remembered for rememberGone, of these peers the latest maxGone.
	rememberGone = 10 * time.Minute
	maxGone      = 256
)

// maxAgent bounds what is kept of the name that another peer gives to its program.
const maxAgent = 64

// Bandwidth is how much went over streams, with what libp2p itself says on them, without encryption and transport.
type Bandwidth struct {
	In      uint64 `json:"in"` // bytes since the host started
	Out     uint64 `json:"out"`
	InRate  uint64 `json:"in_rate"` // bytes per second, over the last five seconds
	OutRate uint64 `json:"out_rate"`
}

// PeerInfo is what a host knows of another one that is connected, or was.
type PeerInfo struct {
	ID        peer.ID   `json:"id"`
	Connected bool      `json:"connected"`
	Gone      bool      `json:"gone"`              // not connected, or not heard for GoneAfter
	Heard     time.Time `json:"heard"`             // when the last byte came from it
	Since     time.Time `json:"since,omitzero"`    // when the oldest open connection began
	Addr      string    `json:"addr,omitempty"`    // its address at the other end of that connection
	Inbound   bool      `json:"inbound,omitempty"` // it dialled us
	Path      Path      `json:"path,omitempty"`    // empty if it is not connected
	LatencyUS int64     `json:"latency_us"`        // round trip, smoothed over the pings so far; 0 before the first one
	Agent     string    `json:"agent,omitempty"`   // what it calls its program, at most 64 printable characters
	Labels    []string  `json:"labels"`            // what it says that it does, in its hello
	Offers    []string  `json:"offers"`            // what it says that it may be asked for: a worker's models
	Streams   int       `json:"streams"`
	Topics    []string  `json:"topics"` // in whose mesh it is, in the order of Config.Topics
	Score     Score     `json:"score"`
	Bandwidth
}

// traffic counts bytes by peer and by protocol, and knows when each peer was last heard. It is the library's reporter, whose
// own implementation keeps a goroutine for ever.
type traffic struct {
	total     flow
	protocols index[protocol.ID, *flow]
	peers     index[peer.ID, *flow]
}

// flow counts one direction each.
type flow struct {
	in, out         atomic.Uint64
	inRate, outRate atomic.Uint64
	heard           atomic.Int64 // unix nanoseconds
	greeted         atomic.Bool  // a peer's: it has said hello

	lastIn, lastOut uint64 // of the tick before; used by tick alone
}

func (f *flow) bandwidth() Bandwidth {
	return Bandwidth{In: f.in.Load(), Out: f.out.Load(), InRate: f.inRate.Load(), OutRate: f.outRate.Load()}
}

func (f *flow) tick(since time.Duration) {
	in, out := f.in.Load(), f.out.Load()
	f.inRate.Store(uint64(float64(in-f.lastIn) / since.Seconds()))
	f.outRate.Store(uint64(float64(out-f.lastOut) / since.Seconds()))
	f.lastIn, f.lastOut = in, out
}

var _ metrics.Reporter = (*traffic)(nil)

func newTraffic() *traffic { return &traffic{} }

func newFlow() *flow { return &flow{} }

// greeted notes that a peer has said hello.
func (t *traffic) greeted(p peer.ID) { t.peers.loadOrMake(p, newFlow).greeted.Store(true) }

// LogRecvMessageStream implements metrics.Reporter. A read that failed comes here too, with nothing read: nobody was heard.
func (t *traffic) LogRecvMessageStream(n int64, proto protocol.ID, p peer.ID) {
	if n == 0 {
		return
	}
	f := t.peers.loadOrMake(p, newFlow)
	f.in.Add(uint64(n))
	f.heard.Store(time.Now().UnixNano())
	t.protocols.loadOrMake(proto, newFlow).in.Add(uint64(n))
}

// LogSentMessageStream implements metrics.Reporter.
func (t *traffic) LogSentMessageStream(n int64, proto protocol.ID, p peer.ID) {
	t.peers.loadOrMake(p, newFlow).out.Add(uint64(n))
	t.protocols.loadOrMake(proto, newFlow).out.Add(uint64(n))
}

// LogRecvMessage implements metrics.Reporter.
func (t *traffic) LogRecvMessage(n int64) { t.total.in.Add(uint64(n)) }

// LogSentMessage implements metrics.Reporter.
func (t *traffic) LogSentMessage(n int64) { t.total.out.Add(uint64(n)) }

func stats(f *flow) metrics.Stats {
	b := f.bandwidth()
	return metrics.Stats{TotalIn: int64(b.In), TotalOut: int64(b.Out), RateIn: float64(b.InRate), RateOut: float64(b.OutRate)}
}

func statsOf[K comparable](flows map[K]*flow) map[K]metrics.Stats {
	all := make(map[K]metrics.Stats, len(flows))
	for k, f := range flows {
		all[k] = stats(f)
	}
	return all
}

// GetBandwidthForPeer implements metrics.Reporter.
func (t *traffic) GetBandwidthForPeer(p peer.ID) metrics.Stats {
	return stats(t.peers.loadOrMake(p, newFlow))
}

// GetBandwidthForProtocol implements metrics.Reporter.
func (t *traffic) GetBandwidthForProtocol(p protocol.ID) metrics.Stats {
	return stats(t.protocols.loadOrMake(p, newFlow))
}

// GetBandwidthTotals implements metrics.Reporter.
func (t *traffic) GetBandwidthTotals() metrics.Stats { return stats(&t.total) }

// GetBandwidthByPeer implements metrics.Reporter.
func (t *traffic) GetBandwidthByPeer() map[peer.ID]metrics.Stats { return statsOf(t.peers.all()) }

// GetBandwidthByProtocol implements metrics.Reporter.
func (t *traffic) GetBandwidthByProtocol() map[protocol.ID]metrics.Stats {
	return statsOf(t.protocols.all())
}

// Reset implements metrics.Reporter.
func (t *traffic) Reset() {
	t.peers.clear()
	t.protocols.clear()
}

// TrimIdle implements metrics.Reporter.
func (t *traffic) TrimIdle(since time.Time) { t.forget(func(peer.ID) bool { return false }, since) }

// forget drops peers that are not kept and were not heard since, and of the others that are not kept all but the maxGone
// latest.
func (t *traffic) forget(keep func(peer.ID) bool, since time.Time) {
	type heard struct {
		p  peer.ID
		at int64
	}
	var rest []heard
	for p, f := range t.peers.all() {
		at := f.heard.Load()
		switch {
		case keep(p):
		case at < since.UnixNano():
			t.peers.drop(p)
		default:
			rest = append(rest, heard{p, at})
		}
	}
	slices.SortFunc(rest, func(a, b heard) int { return cmp.Compare(b.at, a.at) })
	for i := maxGone; i < len(rest); i++ {
		t.peers.drop(rest[i].p)
	}
}

func (t *traffic) tick(since time.Duration) {
	t.total.tick(since)
	for _, f := range t.peers.all() {
		f.tick(since)
	}
	for _, f := range t.protocols.all() {
		f.tick(since)
	}
}

// pulse pings the peers that say nothing, and keeps the rates, until the host closes.
func (h *Host) pulse() {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			return
		}
		now := time.Now()
		h.traffic.tick(now.Sub(last))
		last = now
		h.traffic.forget(h.linkedTo, now.Add(-rememberGone))
		for _, p := range h.Peers() {
			if now.UnixNano()-h.traffic.peers.loadOrMake(p, newFlow).heard.Load() < int64(pulse) {
				continue
			}
			h.running.Go(func() {
				ctx, cancel := context.WithTimeout(h.ctx, pulse)
				defer cancel()
				_, _ = h.Ping(ctx, p) // that it was heard is noted by the way
			})
		}
	}
}

// linkedTo says whether a connection to p is open, relayed ones included.
func (h *Host) linkedTo(p peer.ID) bool { return len(h.host.Network().ConnsToPeer(p)) > 0 }

// Ping measures the time until a peer has answered a few bytes. The peer is dialled if it is not connected
// and its address is known. A context without deadline gets one of 10 s.
func (h *Host) Ping(ctx context.Context, p peer.ID) (time.Duration, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	answers := ping.Ping(ctx, h.host, p)
	var r ping.Result
	select {
	case r = <-answers:
	case <-ctx.Done():
		r.Error = ctx.Err()
	}
	if r.Error == nil && r.RTT == 0 { // closed, for ctx has ended
		r.Error = cmp.Or(ctx.Err(), errors.New("no answer"))
	}
	cancel()
	for range answers { // the library's goroutine ends with its stream
	}
	switch {
	case r.Error == nil:
	case h.ctx.Err() != nil:
		return 0, ErrClosed
	default:
		return 0, fmt.Errorf("p2p: ping %s: %w", p, r.Error)
	}
	return r.RTT, nil
}

// Bandwidth returns what went over all streams.
func (h *Host) Bandwidth() Bandwidth { return h.traffic.total.bandwidth() }

// PeerInfos returns what is known of the peers that are connected and said hello, and of those that were within the last
// ten minutes, ascending by id. Others, like those that only try whether this host can be dialled, are left out.
func (h *Host) PeerInfos() []PeerInfo {
	meshes := map[peer.ID][]string{}
	for _, t := range h.Topics() {
		for _, p := range t.Mesh {
			meshes[p] = append(meshes[p], t.Name)
		}
	}
	list := []PeerInfo{}
	now, scores := time.Now(), h.Scores()
	for p, f := range h.traffic.peers.all() {
		if !f.greeted.Load() {
			continue
		}
		i := h.info(p, f)
		i.Gone = !i.Connected || now.Sub(i.Heard) > GoneAfter
		i.Score = scores[i.ID]
		if i.Topics = meshes[i.ID]; i.Topics == nil {
			i.Topics = []string{}
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b PeerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func (h *Host) info(p peer.ID, f *flow) PeerInfo {
	i := PeerInfo{
		ID: p, Heard: time.Unix(0, f.heard.Load()), Bandwidth: f.bandwidth(),
		LatencyUS: h.host.Peerstore().LatencyEWMA(p).Microseconds(), Labels: []string{}, Offers: []string{}, Path: h.Path(p),
	}
	if hello, ok := h.Hello(p); ok {
		i.Labels, i.Offers = append(i.Labels, hello.Labels...), append(i.Offers, hello.Offers...)
	}
	if agent, err := h.host.Peerstore().Get(p, "AgentVersion"); err == nil {
		if s, ok := agent.(string); ok {
			i.Agent = clean(s, maxAgent)
		}
	}
	for _, c := range h.host.Network().ConnsToPeer(p) {
		i.Streams += len(c.GetStreams())
		if s := c.Stat(); !i.Connected || s.Opened.Before(i.Since) {
			i.Connected, i.Since = true, s.Opened
			i.Addr, i.Inbound = c.RemoteMultiaddr().String(), s.Direction == network.DirInbound
		}
	}
	return i
}

// clean makes foreign text fit to be shown on a terminal.
func clean(s string, most int) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most])
	}
	return text
}
