package p2p

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Discovery says how a host finds peers by itself. A host dials until it has Target connections, and stays quiet then; it always wants those that are
// Wanted and the bootstraps. What cannot be reached is tried again ever more rarely.
type Discovery struct {
	// Bootstraps are peers to begin with, each address ending in /p2p/<id>. When one is gone nothing is lost but a way in for
	// newcomers.
	Bootstraps []multiaddr.Multiaddr
	// Wanted are peers to find and to stay connected to, wherever they are.
	Wanted []peer.ID
	// File remembers up to 100 peers for a month, mode 0600, so that a host finds back without bootstraps. Empty means
	// that nothing is remembered.
	File string
	// MDNS finds peers in the local network, and is found there.
	MDNS bool
	// DHT finds peers in a table that all peers of the network share; empty means DHTOff.
	DHT DHTMode
	// Target is the number of connections to look for; zero means 16.
	Target int
}

// Source says how an address came to be known.
type Source string

// Sources of addresses.
const (
	FromBootstrap Source = "bootstrap" // Discovery.Bootstraps
	FromMemory    Source = "remembered"
	FromExchange  Source = "exchange" // told by a bootstrap
	FromMDNS      Source = "mdns"
	FromDHT       Source = "dht"
	FromPeer      Source = "peer" // told by the peer itself when it was connected
)

// finder finds peers and dials them. One goroutine decides; dials run in others.
type finder struct {
	h         *Host
	target    int
	bootstrap map[peer.ID]bool
	wanted    map[peer.ID]bool
	memory    *memory
	near      *neighbours // nil without mDNS
	table     *table      // nil without DHT

	wake chan struct{} // something changed that may call for a dial

	mu         sync.Mutex
	candidates map[peer.ID]*candidate
	dialling   int
	lonely     bool // no peer is connected

	hint time.Time // when to say that nobody is known; zero once that was settled
}

// candidate is a peer that may be dialled.
type candidate struct {
	addrs   []sourced
	retry   *backoff
	next    time.Time // not to be dialled before
	dialled bool      // a dial runs
	fails   int       // in a row
	up      time.Time // when it was last connected
	ask     time.Time // a bootstrap: not to be asked for peers before
	asks    *backoff
}

type sourced struct {
	addr   multiaddr.Multiaddr
	source Source
}

// Discover begins to look for peers and goes on with it until the host closes. It returns at once and is called
// once at most. What comes of it is told by [Host.Attempts]. Without it only [Host.Connect] and [Host.Keep] dial.
func (h *Host) Discover(d Discovery) error {
	f := &finder{
		h: h, target: d.Target, bootstrap: make(map[peer.ID]bool), wanted: make(map[peer.ID]bool),
		wake: make(chan struct{}, 1), candidates: make(map[peer.ID]*candidate), hint: time.Now().Add(hintAfter),
	}
	if f.target == 0 {
		f.target = targetConnections
	}
	bootstraps, err := peer.AddrInfosFromP2pAddrs(d.Bootstraps...)
	if err != nil {
		return fmt.Errorf("p2p: bootstrap without /p2p/<id>: %w", err)
	}
	for _, p := range d.Wanted {
		if p != h.ID() {
			f.wanted[p] = true
			h.host.ConnManager().Protect(p, "wanted")
		}
	}
	for _, b := range bootstraps {
		if b.ID == h.ID() {
			h.attempts.add(withSource(h.attemptsOf(b.ID, b.Addrs, &Refusal{Ourselves, "the address names this peer's own id"}), FromBootstrap)...)
			continue
		}
		f.bootstrap[b.ID] = true
		h.host.ConnManager().Protect(b.ID, "bootstrap")
		f.add(b, FromBootstrap)
	}
	f.memory = openMemory(d.File, h.network, h.log)
	for _, p := range f.memory.peers(time.Now()) {
		f.add(p, FromMemory)
	}
	if !h.begin() {
		return ErrClosed
	}
	defer h.running.Done()
	if !h.finder.CompareAndSwap(nil, f) {
		return errors.New("p2p: discovery runs already")
	}
	sub, err := h.host.EventBus().Subscribe([]any{
		new(event.EvtPeerConnectednessChanged), new(event.EvtLocalAddressesUpdated),
	})
	if err != nil {
		return fmt.Errorf("p2p: watch peers for discovery: %w", err)
	}
	if d.MDNS {
		f.near = newNeighbours(f)
	}
	if d.DHT != "" && d.DHT != DHTOff {
		if f.table, err = newTable(f, d.DHT); err != nil {
			_ = sub.Close()
			return err
		}
	}
	h.running.Go(func() {
		defer func() { _ = sub.Close() }()
		f.watch(sub.Out())
	})
	h.running.Go(f.run)
	if f.near != nil {
		f.near.update()
	}
	return nil
}

func withSource(list []Attempt, s Source) []Attempt {
	for i := range list {
		list[i].Source = s
	}
	return list
}

// add makes a peer a candidate, or adds addresses to one. It returns the number of new candidates.
func (f *finder) add(p peer.AddrInfo, source Source) (added int) {
	if p.ID == f.h.ID() || len(p.Addrs) == 0 {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.candidates[p.ID]
	if c == nil {
		if len(f.candidates) >= maxCandidates && !f.evict() {
			return 0
		}
		added = 1
		c = &candidate{retry: newBackoff(findMin, findMax), asks: newBackoff(askMin, askMax)}
		// Two peers that find each other would dial at the same moment and end up with two connections: the
		// one with the higher id lets the other begin.
		if f.h.ID() > p.ID {
			c.next = time.Now().Add(dialMin)
		}
		f.candidates[p.ID] = c
	}
	for _, a := range p.Addrs {
		i := slices.IndexFunc(c.addrs, func(s sourced) bool { return s.addr.Equal(a) })
		switch {
		case i >= 0 && (source != FromPeer): // the newest source is what a person can act upon
			c.addrs[i].source = source
		case i >= 0:
		case len(c.addrs) < maxAddrs:
			c.addrs = append(c.addrs, sourced{a, source})
		default: // the oldest makes room, unless it was configured
			if i = slices.IndexFunc(c.addrs, func(s sourced) bool { return s.source != FromBootstrap }); i >= 0 {
				c.addrs = append(slices.Delete(c.addrs, i, i+1), sourced{a, source})
			}
		}
	}
	f.poke()
	return added
}

// away are the wanted peers that are not among those connected. The caller holds the lock.
func (f *finder) away(connected []peer.ID) (list []peer.ID) {
	for p := range f.wanted {
		if !slices.Contains(connected, p) {
			list = append(list, p)
		}
	}
	return list
}

// evict makes room for a candidate at the expense of the one that failed most often.
func (f *finder) evict() bool {
	var worst peer.ID
	for id, c := range f.candidates {
		if f.keep(id) || c.dialled || f.h.Connected(id) {
			continue
		}
		if worst == "" || c.fails > f.candidates[worst].fails {
			worst = id
		}
	}
	delete(f.candidates, worst)
	return worst != ""
}

// keep says whether a peer is to be connected in any case.
func (f *finder) keep(p peer.ID) bool { return f.bootstrap[p] || f.wanted[p] }

func (f *finder) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// watch follows what happens to connections.
func (f *finder) watch(events <-chan any) {
	for {
		select {
		case <-f.h.ctx.Done():
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			switch e := e.(type) {
			case event.EvtPeerConnectednessChanged:
				switch e.Connectedness {
				case network.NotConnected:
					f.lost(e.Peer)
				case network.Connected:
					f.found(e.Peer)
				}
			case event.EvtLocalAddressesUpdated: // another network, perhaps: what failed may work now
				f.retryAll()
				if f.near != nil {
					f.near.update()
				}
			}
			f.poke()
		}
	}
}

// met notes where a peer listens that said hello.
func (f *finder) met(p peer.ID) {
	f.add(peer.AddrInfo{ID: p, Addrs: dialable(f.h.host.Peerstore().Addrs(p))}, FromPeer)
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.candidates[p]; c != nil {
		f.memory.saw(p, c.addrs, time.Now())
	}
	f.poke()
}

// found notes that a candidate is connected, whoever dialled.
func (f *finder) found(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.candidates[p]; c != nil {
		c.up, c.ask, c.fails = time.Now(), time.Time{}, 0
		c.asks.reset()
	}
}

// lost plans the next dial of a peer that was connected.
func (f *finder) lost(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.candidates[p]
	if c == nil {
		return
	}
	if time.Since(c.up) > findMax { // a peer that hangs up at once must not make us spin
		c.retry.reset()
	}
	if soon := time.Now().Add(c.retry.next()); soon.After(c.next) { // else it was refused
		c.next = soon
	}
}

// retryAll has every candidate tried again soon.
func (f *finder) retryAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.candidates {
		c.retry.reset()
		if soon := time.Now().Add(rand.N(findMin)); c.next.After(soon) {
			c.next = soon
		}
	}
}

// run dials whom it takes, whenever something changed or is due.
func (f *finder) run() {
	for {
		peers := f.h.greet.peers()
		f.mu.Lock()
		left := len(peers) == 0 && !f.lonely
		f.lonely = len(peers) == 0
		f.mu.Unlock()
		if left {
			f.retryAll()
		}
		next := earliest(f.dialDue(peers), f.askDue(peers), f.memory.saveDue(time.Now()), f.hintDue(time.Now()))
		if f.table != nil {
			next = earliest(next, f.table.walkDue(peers))
		}
		wait := forever
		if !next.IsZero() {
			wait = max(time.Until(next), 0)
		}
		if !waitFor(f.h.ctx, f.wake, wait) {
			f.close()
			return
		}
	}
}

// hintDue says once, if it is so, that this host cannot find anybody by itself.
func (f *finder) hintDue(now time.Time) time.Time {
	f.mu.Lock()
	known := len(f.candidates) > 0
	f.mu.Unlock()
	switch {
	case f.hint.IsZero():
	case known:
		f.hint = time.Time{}
	case !f.hint.After(now):
		f.hint = time.Time{}
		f.h.log.Warn("this peer knows nobody and can only wait to be found: join with a token or name a bootstrap")
	}
	return f.hint
}

func (f *finder) close() {
	f.memory.save(time.Now())
	if f.near != nil {
		f.near.close()
	}
	if f.table != nil {
		f.table.close()
	}
}

// earliest is the first of times, of which zero means never.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// dialDue starts the dials that are due, given the peers that are connected, and returns when the next one will be.
func (f *finder) dialDue(peers []peer.ID) (next time.Time) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range peers {
		if c := f.candidates[p]; c != nil {
			f.memory.saw(p, c.addrs, now)
		}
	}
	missing := f.target - len(peers) - f.dialling
	ids := slices.Collect(maps.Keys(f.candidates))
	// Those that are wanted in any case come first, then those that failed least.
	slices.SortFunc(ids, func(a, b peer.ID) int {
		switch ka, kb := f.keep(a), f.keep(b); {
		case ka && !kb:
			return -1
		case kb && !ka:
			return 1
		}
		return f.candidates[a].fails - f.candidates[b].fails
	})
	for _, id := range ids {
		c := f.candidates[id]
		switch {
		case c.dialled || f.h.Connected(id) || !f.keep(id) && missing <= 0:
		case c.next.After(now):
			next = earliest(next, c.next)
		case f.dialling < dialsAtOnce: // else the end of a dial wakes the loop
			c.dialled = true
			f.dialling++
			missing--
			addrs := slices.Clone(c.addrs)
			f.h.running.Go(func() { f.dial(id, addrs) })
		}
	}
	return next
}

// dial tries a candidate's addresses and plans what comes next.
func (f *finder) dial(id peer.ID, addrs []sourced) {
	info := peer.AddrInfo{ID: id}
	for _, a := range addrs {
		info.Addrs = append(info.Addrs, a.addr)
	}
	ctx, cancel := context.WithTimeout(f.h.ctx, dialTimeout)
	at, err := f.h.meet(ctx, info)
	cancel()
	if f.h.ctx.Err() != nil {
		return
	}
	tried := info.Addrs
	if at != nil {
		tried = []multiaddr.Multiaddr{at}
	}
	list := f.h.attemptsOf(id, tried, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.poke()
	c := f.candidates[id]
	c.dialled = false
	f.dialling--
	if err != nil {
		c.fails++
		lasting := len(list) > 0 && !slices.ContainsFunc(list, func(a Attempt) bool { return !a.Outcome.lasting() })
		c.next = time.Now().Add(f.pause(id, c, lasting))
		if c.fails > maxFails && !f.keep(id) {
			delete(f.candidates, id) // whoever named it may do so again
		}
	}
	for i := range list {
		if j := slices.IndexFunc(addrs, func(s sourced) bool { return s.addr.Equal(list[i].Addr) }); j >= 0 {
			list[i].Source = addrs[j].source
		} else if len(addrs) > 0 { // a name that was resolved
			list[i].Source = addrs[0].source
		}
		if err != nil && f.candidates[id] != nil {
			list[i].Next = c.next
		}
	}
	f.h.attempts.add(list...)
}

// pause is how long a candidate that failed is left alone.
func (f *finder) pause(id peer.ID, c *candidate, lasting bool) time.Duration {
	c.retry.highest = findMax
	switch {
	case lasting && !f.lonely:
		return lastingPause/2 + rand.N(lastingPause)
	case f.lonely && f.keep(id) && !lasting:
		c.retry.highest = findLonely
	case f.lonely || f.keep(id):
		c.retry.highest = findKept
	}
	c.retry.delay = min(c.retry.delay, c.retry.highest)
	return c.retry.next()
}

// meet dials a peer unless it is connected, and waits until both have said hello. It returns the address at which the peer
// answered, nil if none did.
func (h *Host) meet(ctx context.Context, p peer.AddrInfo) (multiaddr.Multiaddr, error) {
	heard, stop := h.greet.with(p.ID)
	defer stop()
	if err := h.dial(ctx, p); err != nil {
		select {
		case r := <-heard: // it answered, and the connection is closed already
			return r.at, r.err
		default:
			return nil, err
		}
	}
	if _, ok := h.Hello(p.ID); ok {
		return nil, nil
	}
	select {
	case r := <-heard:
		return r.at, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("p2p: hello to %s: %w", p.ID, context.Cause(ctx))
	}
}

// errWanted says that discovery looks after a peer.
var errWanted = errors.New("the peer is looked for")

// reach dials a peer, or leaves that to discovery if the peer is its business: then it fails at once while the peer is
// away.
func (h *Host) reach(ctx context.Context, p peer.ID) error {
	if f := h.finder.Load(); f != nil && f.keep(p) {
		if h.Connected(p) {
			return nil
		}
		return errWanted
	}
	return h.dial(ctx, peer.AddrInfo{ID: p})
}

// dialable leaves out what this host has no transport for, so that it is neither remembered nor tried.
func dialable(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return multiaddr.FilterAddrs(slices.Clone(addrs), func(a multiaddr.Multiaddr) bool {
		for _, code := range []int{multiaddr.P_QUIC_V1, multiaddr.P_TCP} {
			if _, err := a.ValueForProtocol(code); err == nil {
				_, ws := a.ValueForProtocol(multiaddr.P_WS)
				_, wt := a.ValueForProtocol(multiaddr.P_WEBTRANSPORT)
				return ws != nil && wt != nil
			}
		}
		return false
	})
}
