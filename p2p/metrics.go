package p2p

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// timings are what a host times. What it only counts is read when somebody asks, by Collect.
type timings struct {
	served, sent *prometheus.HistogramVec // by protocol and result
	registered   []prometheus.Collector
	registerer   prometheus.Registerer
}

// requestBuckets are bounds in seconds: from a request in a LAN to one that times out.
var requestBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}

func newTimings() *timings {
	return &timings{
		served: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "poq_request_served_seconds", Help: "Time to answer a request of a peer.", Buckets: requestBuckets,
		}, []string{"protocol", "result"}),
		sent: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "poq_request_sent_seconds", Help: "Time until a peer has answered a request.", Buckets: requestBuckets,
		}, []string{"protocol", "result"}),
	}
}

// register gives the metrics and those of the host to a registerer.
func (m *timings) register(r prometheus.Registerer, h *Host) error {
	m.registerer = r
	for _, c := range []prometheus.Collector{m.served, m.sent, collector{h}} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("p2p: metrics: give every host a registry of its own, or labels: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return nil
}

func (m *timings) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}

// resultOf names the result of a request in metrics.
func resultOf(err error) string {
	switch statusOf(err) {
	case statusOK:
		return "ok"
	case statusNotFound:
		return "not_found"
	case statusBusy:
		return "busy"
	case statusBadRequest:
		return "bad_request"
	default:
		return "failed"
	}
}

func (m *timings) serve(protocol string, begin time.Time, err error) {
	m.served.WithLabelValues(protocol, resultOf(err)).Observe(time.Since(begin).Seconds())
}

func (m *timings) request(protocol string, begin time.Time, err error) {
	m.sent.WithLabelValues(protocol, resultOf(err)).Observe(time.Since(begin).Seconds())
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descGossipMessages = desc("poq_gossip_messages_total", "Gossip messages by what became of them: delivered, duplicate, rejected, ignored, throttled, undelivered.", "topic", "result")
	descGossipBytes    = desc("poq_gossip_bytes_total", "Bytes of gossip messages, with duplicates, without overhead.", "topic", "direction")
	descGossipPeers    = desc("poq_gossip_topic_peers", "Connected peers that are in the topic.", "topic")
	descGossipMesh     = desc("poq_gossip_mesh_peers", "Peers in the topic's mesh.", "topic")
	descGossipUnsent   = desc("poq_gossip_unsent_rpcs_total", "Gossip RPCs that found a peer's queue full.")
	descPeers          = desc("poq_host_peers", "Connected peers by state: heard, or gone, which are silent for 15 seconds.", "state")
	descPaths          = desc("poq_host_path_peers", "Connected peers by the path to them: direct, punched, relayed.", "path")
	descReach          = desc("poq_host_reachable", "1 for the state in which this host is: public, private or unknown.", "state")
	descBytes          = desc("poq_host_bytes_total", "Bytes over all streams.", "direction")
	descProtocolBytes  = desc("poq_host_protocol_bytes_total", "Bytes over the streams of a protocol of this host.", "protocol", "direction")
	descRefused        = desc("poq_host_refused_total", "What was refused to peers that sent too much: crowded and over_quota gossip, requests and streams.", "what")
	descFaults         = desc("poq_host_faults_total", "Faults held against peers, by kind.", "fault")
	descBans           = desc("poq_host_bans_total", "Times that a peer was disconnected and kept out for its faults.")
	descLinksUp        = desc("poq_link_up_peers", "Peers to whom the link is open.", "protocol")
	descLinksWanted    = desc("poq_link_wanted_peers", "Peers to whom a link is held.", "protocol")
	descLinkFrames     = desc("poq_link_frames_total", "Frames over links: sent, received, dropped.", "protocol", "result")
)

// collector reads a host's counters.
type collector struct{ h *Host }

var _ prometheus.Collector = collector{}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descGossipMessages, descGossipBytes, descGossipPeers, descGossipMesh, descGossipUnsent, descPeers, descPaths, descReach, descBytes, descProtocolBytes,
		descRefused, descFaults, descBans,
		descLinksUp, descLinksWanted, descLinkFrames,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) { send(prometheus.CounterValue, d, v, labels...) }
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		send(prometheus.GaugeValue, d, uint64(v), labels...)
	}
	h := c.h
	for _, t := range h.Topics() {
		for result, v := range map[string]uint64{
			"delivered": t.Delivered, "duplicate": t.Duplicates, "rejected": t.Rejected, "ignored": t.Ignored,
			"throttled": t.Throttled, "undelivered": t.Undelivered,
		} {
			count(descGossipMessages, v, t.Name, result)
		}
		count(descGossipBytes, t.BytesIn, t.Name, "in")
		count(descGossipBytes, t.BytesOut, t.Name, "out")
		gauge(descGossipPeers, t.Peers, t.Name)
		gauge(descGossipMesh, len(t.Mesh), t.Name)
	}
	s := h.Stats()
	count(descGossipUnsent, s.Unsent)
	count(descRefused, s.Crowded, "crowded")
	count(descRefused, s.OverQuota, "over_quota")
	count(descRefused, s.Refused, "requests")
	count(descBans, s.Banned)
	for f, n := range h.Faults() {
		count(descFaults, n, f.String())
	}
	heard, gone := 0, 0
	paths := map[Path]int{PathDirect: 0, PathPunched: 0, PathRelayed: 0}
	for _, p := range h.PeerInfos() {
		if p.Path != PathNone {
			paths[p.Path]++
		}
		switch {
		case p.Connected && p.Gone:
			gone++
		case p.Connected:
			heard++
		}
	}
	gauge(descPeers, heard, "heard")
	gauge(descPeers, gone, "gone")
	for path, n := range paths {
		gauge(descPaths, n, string(path))
	}
	state := h.Reachability().Status
	for _, s := range []string{ReachPublic, ReachPrivate, ReachUnknown} {
		n := 0
		if s == state {
			n = 1
		}
		gauge(descReach, n, s)
	}
	b := h.Bandwidth()
	count(descBytes, b.In, "in")
	count(descBytes, b.Out, "out")
	for _, id := range h.host.Mux().Protocols() { // of no others: a peer could invent them without end
		f, ok := h.traffic.protocols.load(id)
		if !ok {
			continue
		}
		b := f.bandwidth()
		count(descProtocolBytes, b.In, string(id), "in")
		count(descProtocolBytes, b.Out, string(id), "out")
	}
	for _, l := range h.Links() {
		gauge(descLinksUp, l.Up, l.Protocol)
		gauge(descLinksWanted, l.Wanted, l.Protocol)
		count(descLinkFrames, l.Sent, l.Protocol, "sent")
		count(descLinkFrames, l.Received, l.Protocol, "received")
		count(descLinkFrames, l.Dropped, l.Protocol, "dropped")
	}
}
