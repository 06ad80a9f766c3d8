package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/multiformats/go-multiaddr"
)

// protocolPeers is the request for peers. It carries the ids of peers that are looked for, each a frame, behind one byte that
// is zero; the response holds signed records of peers that are connected to the one asked, each a frame.
// It is asked of bootstraps only, whom a person chose: any other peer could lead newcomers to its own friends.
const protocolPeers = "peers"

// maxAsked bounds how many peers one request may name.
const maxAsked = 64

// records holds what connected peers have signed about their addresses.
type records struct {
	mu   sync.Mutex
	list map[peer.ID][]byte
}

func newRecords() *records { return &records{list: make(map[peer.ID][]byte)} }

func (r *records) keep(p peer.ID, e *record.Envelope) {
	if e == nil {
		return
	}
	data, err := e.Marshal()
	if err != nil || len(data) > maxRecord {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list[p] = data
}

func (r *records) drop(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.list, p)
}

// pick returns the records of wanted peers and then of others at random, exchangePeers in all, each of a peer in from.
func (r *records) pick(wanted, from []peer.ID, but peer.ID) (list [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := map[peer.ID]bool{but: true}
	take := func(p peer.ID) {
		if data := r.list[p]; data != nil && !taken[p] && len(list) < exchangePeers {
			taken[p] = true
			list = append(list, data)
		}
	}
	for _, p := range wanted {
		if slices.Contains(from, p) {
			take(p)
		}
	}
	rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	for _, p := range from {
		take(p)
	}
	return list
}

func (h *Host) serveRecords() error {
	return h.Serve(ServeConfig{Name: protocolPeers, MaxRequest: 4 << 10, Handle: func(_ context.Context, from peer.ID, req []byte) ([]byte, error) {
		wanted, err := decodeAsk(req)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
		}
		var response []byte
		for _, r := range h.records.pick(wanted, h.Peers(), from) {
			response = appendFrame(response, r)
		}
		return response, nil
	}})
}

func encodeAsk(wanted []peer.ID) []byte {
	ask := []byte{0}
	for _, p := range wanted[:min(len(wanted), maxAsked)] {
		ask = appendFrame(ask, []byte(p))
	}
	return ask
}

func decodeAsk(data []byte) (wanted []peer.ID, err error) {
	if len(data) == 0 || data[0] != 0 {
		return nil, errors.New("request for peers of an unknown kind")
	}
	err = eachFrame(data[1:], maxAsked, 64, func(id []byte) error {
		p, err := peer.IDFromBytes(id)
		wanted = append(wanted, p)
		return err
	})
	return wanted, err
}

// eachFrame calls f with every frame of data, of which there may be most, none longer than size.
func eachFrame(data []byte, most, size int, f func([]byte) error) error {
	frames := newFrameReader(bytes.NewReader(data), size)
	for n := 0; ; n++ {
		frame, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n == most:
			return fmt.Errorf("%w: more than %d", errFrame, most)
		}
		if err := f(frame); err != nil {
			return err
		}
	}
}

// decodeRecords returns the peers that a response names, with what they signed themselves.
func decodeRecords(data []byte) (peers []peer.AddrInfo, err error) {
	err = eachFrame(data, exchangePeers, maxRecord, func(frame []byte) error {
		envelope, r, err := record.ConsumeEnvelope(frame, peer.PeerRecordEnvelopeDomain)
		if err != nil {
			return err
		}
		rec, ok := r.(*peer.PeerRecord)
		if !ok || !rec.PeerID.MatchesPublicKey(envelope.PublicKey) {
			return errors.New("record of a peer that another one signed")
		}
		addrs := dialable(rec.Addrs)
		peers = append(peers, peer.AddrInfo{ID: rec.PeerID, Addrs: addrs[:min(len(addrs), maxAddrs)]})
		return nil
	})
	return peers, err
}

// askDue asks bootstraps for peers if some are missing, and returns when the next one is to be asked.
func (f *finder) askDue(peers []peer.ID) (next time.Time) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := f.away(peers)
	if len(peers) >= f.target && len(wanted) == 0 {
		return next
	}
	for _, p := range peers {
		c := f.candidates[p]
		if c == nil || !f.bootstrap[p] {
			continue
		}
		if c.ask.After(now) {
			next = earliest(next, c.ask)
			continue
		}
		c.ask = now.Add(c.asks.next())
		next = earliest(next, c.ask)
		f.h.running.Go(func() { f.ask(p, wanted) })
	}
	return next
}

// ask asks one bootstrap for peers.
func (f *finder) ask(p peer.ID, wanted []peer.ID) {
	data, err := f.h.Request(f.h.ctx, p, protocolPeers, encodeAsk(wanted), exchangePeers*(maxRecord+8))
	var peers []peer.AddrInfo
	if err == nil {
		peers, err = decodeRecords(data)
	}
	if err != nil {
		f.h.log.Debug("bootstrap named no peers", "bootstrap", p.String(), "err", err)
		return
	}
	near := f.sameMachine(p)
	for _, info := range peers {
		if !near { // loopback addresses are of use on the same machine alone
			info.Addrs = multiaddr.FilterAddrs(info.Addrs, Routable)
		}
		f.add(info, FromExchange)
	}
}

// sameMachine says whether a connected peer is on this machine.
func (f *finder) sameMachine(p peer.ID) bool {
	for _, c := range f.h.host.Network().ConnsToPeer(p) {
		if ip := ipOf(c.RemoteMultiaddr()); ip.IsLoopback() {
			return true
		}
	}
	return false
}
