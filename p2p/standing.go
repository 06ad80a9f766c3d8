package p2p

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// Fault is something that a peer did which costs others and helps nobody. Each kind weighs a number of points,
// which are halved every two minutes. They lower the peer's score; at 40, or at 20 if its score is
// so low that gossip hears nothing of it any more, it is disconnected and kept out for ten minutes.
type Fault uint8

const (
	// FaultInvalid: bytes that no honest peer sends or passes on. 5 points. Gossip that Validate rejects counts by
	// itself, as does a frame of a link and a request that its handler calls bad.
	FaultInvalid Fault = iota
	// FaultProtocol: a frame or RPC that is malformed or over its limit. 10 points. Counts by itself.
	FaultProtocol
	// FaultLie: an answer that is shown to be false. 20 points.
	FaultLie
	// FaultSlow: a slot was taken and not used, as by a request that does not come to its end. 8 points. Counts by itself.
	FaultSlow
	// FaultUseless: work that is well-formed and leads nowhere, as of a sender who cannot pay. A fifth of a point, since an
	// honest peer may be a moment ahead. It is load.
	FaultUseless
	// FaultFlood: 64 messages, requests or streams over a quota. 1 point. It is load, and counts by itself.
	FaultFlood
)

// points are tenths, by Fault.
var points = [...]int{FaultInvalid: 50, FaultProtocol: 100, FaultLie: 200, FaultSlow: 80, FaultUseless: 2, FaultFlood: 10}

// load tells the faults that come of much traffic, for which a protected peer is slowed down and not cut off.
func (f Fault) load() bool { return f == FaultUseless || f == FaultFlood || f == FaultSlow }

// String returns the fault's name as metrics and logs show it.
func (f Fault) String() string {
	return [...]string{"invalid", "protocol", "lie", "slow", "useless", "flood"}[f]
}

// Score is what a host thinks of a peer.
type Score struct {
	// Total is gossip's score, at most a second old. Below -10 the peer gets and gives no gossip but what goes along
	// the mesh, below -20 nothing is published to it, below -40 nothing of it is heard.
	Total float64 `json:"total"`
	// Faults are the points held against it now. Total contains them.
	Faults float64 `json:"faults"`
	// BannedUntil is zero for a peer that is not banned.
	BannedUntil time.Time `json:"banned_until,omitzero"`
}

// standings keeps what is known of the peers' conduct: faults, quotas and bans. It is safe for concurrent use.
type standings struct {
	peers     *lru.Cache[peer.ID, *standing]
	recent    atomic.Pointer[standing] // whom of returned last: a message has its sender looked up several times
	protected map[peer.ID]bool
	bans      *bans
	rates     index[string, int] // by topic id: messages per second that a peer may hand over

	// part is called in its own goroutine when a peer was banned.
	part func(peer.ID, Fault)

	waiting   atomic.Int64 // messages that wait for Validate, of all peers
	delivered atomic.Int64 // since copies were last counted

	overQuota, crowded, refused, banned atomic.Uint64
	faults                              [len(points)]atomic.Uint64
}

// standing is one peer's. It outlives the connection, so that who comes back finds its quotas as it left them.
type standing struct {
	peer peer.ID

	mu     sync.Mutex
	points float64
	at     time.Time // of points
	over   int       // what went over a quota and is not in points yet

	topics   map[string]*rate.Limiter
	requests map[string]*rate.Limiter

	rpcs, control, subscriptions, streams, bytes *rate.Limiter

	waiting atomic.Int64 // messages that wait for Validate
	copies  atomic.Int64 // of known messages, since they were last counted
	mayCopy int64        // how many more are in order
}

func newStandings(protected []peer.ID) *standings {
	s := &standings{protected: make(map[peer.ID]bool), bans: newBans()}
	var err error
	s.peers, err = lru.NewWithEvict(standingsKept, func(_ peer.ID, st *standing) { s.waiting.Add(-st.waiting.Swap(0)) })
	if err != nil {
		panic(err) // the size is positive
	}
	for _, p := range protected {
		s.protected[p] = true
	}
	return s
}

// of returns what is known of a peer, from now on if nothing was.
func (s *standings) of(p peer.ID) *standing {
	if st := s.recent.Load(); st != nil && st.peer == p {
		return st
	}
	st, ok := s.peers.Get(p)
	if !ok {
		st = s.begin(p)
	}
	s.recent.Store(st)
	return st
}

// known returns what is known of a peer, if anything is. It does not count as a use of it.
func (s *standings) known(p peer.ID) (*standing, bool) {
	if st := s.recent.Load(); st != nil && st.peer == p {
		return st, true
	}
	return s.peers.Peek(p)
}

func (s *standings) begin(p peer.ID) *standing {
	st := &standing{
		peer:   p,
		topics: make(map[string]*rate.Limiter), requests: make(map[string]*rate.Limiter),
		rpcs:          rate.NewLimiter(rpcRate, 2*rpcRate),
		control:       rate.NewLimiter(controlRate, 2*controlRate),
		subscriptions: rate.NewLimiter(subscriptionRate, 2*subscriptionRate),
		streams:       rate.NewLimiter(streamRate, 2*streamRate),
		bytes:         rate.NewLimiter(gossipBytes, gossipBytes),
		mayCopy:       copiesKept,
	}
	if old, ok, _ := s.peers.PeekOrAdd(p, st); ok {
		return old
	}
	return st
}

// limiter returns the bucket of a name, which it makes the first time.
func (st *standing) limiter(of map[string]*rate.Limiter, name string, perSecond int) *rate.Limiter {
	st.mu.Lock()
	defer st.mu.Unlock()
	l := of[name]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(perSecond), 2*perSecond)
		of[name] = l
	}
	return l
}

// exceed counts n things that went over a quota.
func (s *standings) exceed(p peer.ID, n int) {
	st := s.of(p)
	st.mu.Lock()
	st.over += n
	floods := st.over / floodSize
	st.over %= floodSize
	st.mu.Unlock()
	if floods > 0 {
		s.fault(p, FaultFlood, floods)
	}
}

// fault holds n faults against a peer, and bans it when that is too much.
func (s *standings) fault(p peer.ID, f Fault, n int) {
	s.faults[f].Add(uint64(n))
	if f.load() && s.protected[p] {
		return
	}
	st := s.of(p)
	st.mu.Lock()
	now := time.Now()
	st.points = st.current(now) + float64(n*points[f])/10
	st.at = now
	out := st.points >= banPoints
	st.mu.Unlock()
	if out {
		s.ban(p, f)
	}
}

func (s *standings) ban(p peer.ID, f Fault) {
	if s.bans.add(p) {
		s.banned.Add(1)
		s.part(p, f)
	}
}

// current is what is left of the points; st.mu must be held.
func (st *standing) current(now time.Time) float64 {
	left := st.points * math.Exp2(-float64(now.Sub(st.at))/float64(faultHalfLife))
	if left < 0.01 {
		return 0
	}
	return left
}

// held returns the points held against a peer.
func (s *standings) held(p peer.ID) float64 {
	st, ok := s.known(p)
	if !ok {
		return 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.points == 0 { // of almost all, and gossip asks with each message
		return 0
	}
	return st.current(time.Now())
}

// Fault holds a fault against a peer, of which only the caller can know. What this package sees itself, it
// counts itself. It may be called from anywhere.
func (h *Host) Fault(p peer.ID, f Fault) {
	if p != h.ID() {
		h.standings.fault(p, f, 1)
	}
}

// Exceed counts n things of a peer that went over a quota of the caller's, and each 64 of them as a [FaultFlood].
func (h *Host) Exceed(p peer.ID, n int) {
	if p != h.ID() {
		h.standings.exceed(p, n)
	}
}

// Scores returns what this host thinks of its connected peers, and of those that are banned.
func (h *Host) Scores() map[peer.ID]Score {
	scores := make(map[peer.ID]Score)
	until := h.standings.bans.all()
	totals := *h.totals.Load()
	for _, p := range h.Peers() {
		scores[p] = Score{Total: totals[p], Faults: h.standings.held(p), BannedUntil: until[p]}
	}
	for p, t := range until {
		scores[p] = Score{Total: totals[p], Faults: h.standings.held(p), BannedUntil: t}
	}
	return scores
}
