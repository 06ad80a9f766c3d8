package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
)

// Outcome says in a word or two what came of trying to reach a peer.
type Outcome string

// Outcomes. All but Reached are failures.
const (
	Reached      Outcome = "reached"
	NotThere     Outcome = "refused"         // the machine answers, but nothing listens on the port
	TimedOut     Outcome = "timed out"       // no answer at all: a firewall, NAT, a machine that is off
	Unreachable  Outcome = "unreachable"     // no route, no such name
	HungUp       Outcome = "hung up"         // the connection ended before the hello
	Stranger     Outcome = "no poq peer"     // something else listens there
	OtherPeer    Outcome = "wrong peer id"   // another peer listens there
	Ourselves    Outcome = "ourselves"       // the address or the identity is this host's
	Denied       Outcome = "denied"          // by this host's own lists
	OtherNetwork Outcome = "wrong network"   // of the hello
	OtherGenesis Outcome = "wrong genesis"   // of the hello
	TooOld       Outcome = "version too old" // the peer's
	TooNew       Outcome = "version too new" // the peer's, so this program is too old
	Failed       Outcome = "failed"          // anything else
)

// lasting says whether trying again soon is of no use: somebody must change something first.
func (o Outcome) lasting() bool {
	switch o {
	case Stranger, OtherPeer, Ourselves, Denied, OtherNetwork, OtherGenesis, TooOld, TooNew:
		return true
	}
	return false
}

// Refusal is why two hosts do not stay connected. The errors of [Host.Connect] wrap it.
type Refusal struct {
	Outcome Outcome
	Detail  string // a sentence for people
}

func (r *Refusal) Error() string { return string(r.Outcome) + ": " + r.Detail }

// Attempt is the latest try to reach a peer at an address.
type Attempt struct {
	Peer peer.ID
	// Addr is what was dialled, without the peer's id.
	Addr multiaddr.Multiaddr
	// Source is how the address came here; empty if not by discovery.
	Source  Source
	Outcome Outcome
	// Detail is a sentence for people.
	Detail string
	Time   time.Time
	// Next is when the peer is tried again unless it is connected by then; zero if nothing is planned.
	Next time.Time
}

// attempts holds the latest attempt of each address, the latest maxAttempts of them.
type attempts struct {
	log *slog.Logger

	mu      sync.Mutex
	list    map[string]Attempt
	changed chan struct{} // closed and replaced at every change
}

func newAttempts(log *slog.Logger) *attempts {
	return &attempts{log: log, list: make(map[string]Attempt), changed: make(chan struct{})}
}

func attemptKey(p peer.ID, a multiaddr.Multiaddr) string { return string(p) + a.String() }

// add notes attempts and logs those that came out otherwise than the last time.
func (t *attempts) add(list ...Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer func() {
		close(t.changed)
		t.changed = make(chan struct{})
	}()
	for _, a := range list {
		if a.Outcome == Reached { // what failed of the peer's other addresses does not matter any more
			for k, old := range t.list {
				if old.Peer == a.Peer && old.Outcome != Reached {
					delete(t.list, k)
				}
			}
		}
		key := attemptKey(a.Peer, a.Addr)
		old, known := t.list[key]
		t.list[key] = a
		if !known && len(t.list) > maxAttempts {
			oldest := key
			for k, o := range t.list {
				if o.Time.Before(t.list[oldest].Time) {
					oldest = k
				}
			}
			delete(t.list, oldest)
		}
		if a.Outcome == old.Outcome {
			continue
		}
		level := slog.LevelInfo
		if a.Outcome.lasting() {
			level = slog.LevelWarn
		}
		t.log.Log(context.Background(), level, "joining: "+string(a.Outcome),
			"at", a.Addr.String(), "to", a.Peer.String(), "source", string(a.Source), "detail", a.Detail)
	}
}

// Attempts returns the latest attempt for each address that was dialled to join the network, the newest first. It knows the
// last 256 addresses.
func (h *Host) Attempts() []Attempt {
	list, _ := h.attempts.get()
	return list
}

// get returns the attempts, and a channel that is closed when they change.
func (t *attempts) get() ([]Attempt, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Collect(maps.Values(t.list))
	slices.SortFunc(list, func(a, b Attempt) int {
		return cmp.Or(b.Time.Compare(a.Time), strings.Compare(a.Addr.String(), b.Addr.String()))
	})
	return list, t.changed
}

// refusalOf says in plain words why a dial of one address failed.
func refusalOf(self peer.ID, err error) *Refusal {
	var refusal *Refusal
	var mismatch sec.ErrPeerIDMismatch
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.As(err, &mismatch) && mismatch.Actual == self:
		return &Refusal{Ourselves, fmt.Sprintf("what answers there has this peer's own id: wanted was %s", mismatch.Expected)}
	case errors.As(err, &mismatch):
		return &Refusal{OtherPeer, fmt.Sprintf("the peer there is %s, not %s: the address is out of date or mistyped", mismatch.Actual, mismatch.Expected)}
	case errors.Is(err, swarm.ErrDialToSelf):
		return &Refusal{Ourselves, "the address names this peer's own id"}
	case errors.Is(err, swarm.ErrGaterDisallowedConnection):
		return &Refusal{Denied, "this peer's own allow and deny lists forbid it"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Refusal{NotThere, "nothing listens there: the peer is down, or its port is another one"}
	case errors.As(err, &dns):
		return &Refusal{Unreachable, "the name is not known: " + dns.Error()}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return &Refusal{Unreachable, "there is no route to it from here"}
	case errors.Is(err, swarm.ErrDialRefusedBlackHole):
		return &Refusal{Unreachable, "not tried: nothing of this kind (IPv6 or UDP) has been reachable from here lately"}
	case errors.Is(err, swarm.ErrNoAddresses), errors.Is(err, swarm.ErrNoGoodAddresses), errors.Is(err, swarm.ErrNoTransport):
		return &Refusal{Unreachable, "no address of it can be dialled from here: " + err.Error()}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &Refusal{TimedOut, "no answer: a firewall or NAT is in the way, or the machine is off"}
	case errors.Is(err, network.ErrReset):
		return &Refusal{HungUp, "the peer ended the connection"}
	}
	return &Refusal{Failed, err.Error()}
}

// Explain says in plain words, for each address of a peer that [Host.Connect] failed to reach, why.
func (h *Host) Explain(p peer.AddrInfo, err error) []Attempt { return h.attemptsOf(p.ID, p.Addrs, err) }

// attemptsOf says what came of dialling a peer, for each of its addresses.
func (h *Host) attemptsOf(p peer.ID, addrs []multiaddr.Multiaddr, err error) (list []Attempt) {
	now := time.Now()
	note := func(a multiaddr.Multiaddr, r *Refusal) {
		list = append(list, Attempt{Peer: p, Addr: a, Outcome: r.Outcome, Detail: r.Detail, Time: now})
	}
	var dial *swarm.DialError
	switch {
	case err == nil:
		for _, c := range h.host.Network().ConnsToPeer(p) {
			note(c.RemoteMultiaddr(), &Refusal{Reached, "connected"})
			break
		}
	case errors.As(err, &dial) && len(dial.DialErrors) > 0:
		for _, e := range dial.DialErrors {
			note(e.Address, refusalOf(h.ID(), e.Cause))
		}
	default:
		for _, a := range addrs {
			note(a, refusalOf(h.ID(), err))
		}
	}
	return list
}
