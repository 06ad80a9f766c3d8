package p2p

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
	"golang.org/x/time/rate"
)

// Hello is what a host says of itself to every peer that it meets. Two hosts stay connected only if their network
// and genesis are the same and each speaks a version of the protocol that the other one understands.
// It keeps honest hosts from drifting into the wrong network; a liar may say what it likes.
type Hello struct {
	// Genesis tells networks of one name apart. It is compared byte by byte; at most 64 bytes.
	Genesis []byte
	// Protocol is the version that this host speaks, Oldest the lowest one that it still understands.
	Protocol, Oldest uint16
	// Version is that of the program, for people: at most 64 printable ASCII characters; empty means Config.Agent.
	Version string
	// Labels say what the host does, for people: at most 8, each of at most 64 printable ASCII characters.
	Labels []string
	// Offers are what peers may ask the host for, by name: at most MaxOffers, each a [ValidOffer], ascending, none twice.
	// [Host.Offer] changes them later.
	Offers []string
}

// Bounds of a hello.
const (
	MaxOffers = 32  // names
	MaxOffer  = 128 // bytes of a name

	maxGenesis = 64
	maxText    = 64
	maxLabels  = 8
	// maxHello bounds the frame; what a later version may add has room in it.
	maxHello = 8 << 10
)

// helloID leaves the network out, so that hosts of two networks understand each other well enough to say so.
const helloID protocol.ID = "/poq/hello/1"

func (h Hello) validate() error {
	if len(h.Genesis) > maxGenesis || len(h.Labels) > maxLabels {
		return fmt.Errorf("hello of %d bytes of genesis and %d labels: at most %d and %d", len(h.Genesis), len(h.Labels), maxGenesis, maxLabels)
	}
	for _, s := range append([]string{h.Version}, h.Labels...) {
		if len(s) > maxText || !readable(s) {
			return fmt.Errorf("hello says %.80q: want at most %d printable ASCII characters", s, maxText)
		}
	}
	if len(h.Offers) > MaxOffers {
		return fmt.Errorf("hello offers %d things: at most %d", len(h.Offers), MaxOffers)
	}
	for i, s := range h.Offers {
		if !ValidOffer(s) || i > 0 && s <= h.Offers[i-1] {
			return fmt.Errorf("hello offers %.80q: want 1 to %d printable ASCII characters, ascending", s, MaxOffer)
		}
	}
	if h.Oldest > h.Protocol {
		return fmt.Errorf("hello understands protocol %d at least, and speaks %d", h.Oldest, h.Protocol)
	}
	return nil
}

// ValidOffer says whether a name may stand in [Hello.Offers]: it has 1 to MaxOffer printable ASCII characters.
func ValidOffer(name string) bool { return name != "" && len(name) <= MaxOffer && readable(name) }

// readable says whether a peer's text may be shown on a terminal.
func readable(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(b byte) bool { return b < ' ' || b > '~' })
}

// greeting is a Hello on the wire: big-endian, texts and bytes behind one byte of length. What follows the
// last field is left for later versions.
type greeting struct {
	Hello
	network string
	nonce   [16]byte // drawn when the host starts: two nonces of one peer at a time are two processes
	// double says that another process with the receiver's identity is at this address; empty if nothing is known of one.
	double []byte
	// revision counts the changes of the offers, for the later hellos of a process overtake each other.
	revision uint32
}

func (g greeting) encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, g.Protocol)
	b = binary.BigEndian.AppendUint16(b, g.Oldest)
	b = append(b, g.nonce[:]...)
	text := func(s []byte) { b = append(append(b, byte(len(s))), s...) }
	text([]byte(g.network))
	text(g.Genesis)
	text([]byte(g.Version))
	b = append(b, byte(len(g.Labels)))
	for _, l := range g.Labels {
		text([]byte(l))
	}
	text(g.double)
	b = binary.BigEndian.AppendUint32(b, g.revision)
	b = append(b, byte(len(g.Offers)))
	for _, o := range g.Offers {
		text([]byte(o))
	}
	return b
}

func decodeGreeting(data []byte) (g greeting, err error) {
	r := bytes.NewReader(data)
	var head struct {
		Protocol, Oldest uint16
		Nonce            [16]byte
	}
	err = binary.Read(r, binary.BigEndian, &head)
	text := func() []byte {
		n, e := r.ReadByte()
		b := make([]byte, n)
		if _, e2 := io.ReadFull(r, b); e2 != nil || e != nil {
			err = errors.New("hello is cut off")
		}
		return b
	}
	g.Protocol, g.Oldest, g.nonce = head.Protocol, head.Oldest, head.Nonce
	g.network, g.Genesis, g.Version = string(text()), text(), string(text())
	n, e := r.ReadByte()
	if err != nil || e != nil || n > maxLabels {
		return greeting{}, fmt.Errorf("%w: hello is cut off or has too many labels", errFrame)
	}
	for range n {
		g.Labels = append(g.Labels, string(text()))
	}
	g.double = text()
	if r.Len() > 0 { // hosts that know of no offers end here
		if e := binary.Read(r, binary.BigEndian, &g.revision); e != nil {
			err = errors.New("hello is cut off")
		}
		n, e := r.ReadByte()
		if err != nil || e != nil || n > MaxOffers {
			return greeting{}, fmt.Errorf("%w: hello is cut off or offers too much", errFrame)
		}
		for range n {
			g.Offers = append(g.Offers, string(text()))
		}
	}
	if err == nil {
		err = g.validate()
	}
	if err == nil && !names.MatchString(g.network) {
		err = fmt.Errorf("hello from network %.140q", g.network)
	}
	if err != nil {
		return greeting{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	return g, nil
}

// agree says why hosts that greet each other as mine and theirs must part, nil if they need not. Both come
// to the same answer, each from its own side.
func agree(mine, theirs greeting) *Refusal {
	switch {
	case mine.network != theirs.network:
		return &Refusal{OtherNetwork, fmt.Sprintf("the peer is in network %s, this one in %s", theirs.network, mine.network)}
	case !bytes.Equal(mine.Genesis, theirs.Genesis):
		return &Refusal{OtherGenesis, fmt.Sprintf("the peer's genesis is %x, this one's %x", theirs.Genesis, mine.Genesis)}
	case theirs.Protocol < mine.Oldest:
		return &Refusal{TooOld, fmt.Sprintf("the peer (%s) speaks protocol %d, this one understands %d and later: the peer must be updated",
			theirs.Version, theirs.Protocol, mine.Oldest)}
	case mine.Protocol < theirs.Oldest:
		return &Refusal{TooNew, fmt.Sprintf("this program speaks protocol %d, the peer (%s) understands %d and later: update this one",
			mine.Protocol, theirs.Version, theirs.Oldest)}
	}
	return nil
}

// greeter says hello on every new connection and knows what came of it.
type greeter struct {
	h   *Host
	met func(peer.ID) // Config.Met

	mu    sync.Mutex
	mine  greeting
	conns map[network.Conn]*met
	wait  map[peer.ID]map[chan heard]struct{}
	known Double

	strangers, doubles rate.Sometimes // what the log tells of them
}

// met is a connection on which both have said hello, or will.
type met struct {
	theirs     greeting
	done       bool
	identified bool   // it is known which protocols the peer speaks
	told       uint32 // the revision of this host's offers that the peer knows or is about to be told
}

// heard is what came of a hello at an address.
type heard struct {
	at  multiaddr.Multiaddr
	err error
}

func (h *Host) startHello(cfg Config) error {
	hello := cfg.Hello
	if hello.Version == "" {
		hello.Version = strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, cfg.Agent)
		hello.Version = hello.Version[:min(len(hello.Version), maxText)]
	}
	if err := hello.validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	g := &greeter{
		h: h, met: cfg.Met, mine: greeting{Hello: hello, network: h.network},
		strangers: rate.Sometimes{Interval: strangerEvery}, doubles: rate.Sometimes{Interval: strangerEvery},
		conns: make(map[network.Conn]*met), wait: make(map[peer.ID]map[chan heard]struct{}),
	}
	_, _ = rand.Read(g.mine.nonce[:]) // it never fails
	h.greet = g
	h.host.SetStreamHandler(helloID, g.serve)
	h.host.Network().Notify(&network.NotifyBundle{ConnectedF: g.connected, DisconnectedF: g.disconnected})
	return nil
}

func (g *greeter) connected(_ network.Network, c network.Conn) {
	g.mu.Lock()
	g.conns[c] = new(met)
	g.mu.Unlock()
	if c.Stat().Direction == network.DirOutbound && g.h.begin() { // who dialled speaks first
		go func() {
			defer g.h.running.Done()
			theirs, err := g.say(c, nil)
			g.settle(c, theirs, err)
		}()
	}
}

func (g *greeter) disconnected(_ network.Network, c network.Conn) {
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
}

// own is what this host says of itself on c now.
func (g *greeter) own(c network.Conn) greeting {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.conns[c]; m != nil {
		m.told = g.mine.revision
	}
	return g.mine
}

// errNoHello says that a peer does not know the protocol.
var errNoHello = errors.New("it does not speak " + string(helloID))

// say opens a stream on c, says hello and returns what the peer says.
func (g *greeter) say(c network.Conn, double []byte) (greeting, error) {
	ctx, cancel := context.WithTimeout(g.h.ctx, helloTimeout)
	defer cancel()
	s, err := c.NewStream(network.WithAllowLimitedConn(ctx, "hello"))
	if err != nil {
		return greeting{}, err
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if err := s.SetProtocol(helloID); err != nil {
		return greeting{}, err
	}
	if err := multistream.SelectProtoOrFail(helloID, s); err != nil {
		if errors.Is(err, multistream.ErrNotSupported[protocol.ID]{}) {
			err = errNoHello
		}
		return greeting{}, err
	}
	mine := g.own(c)
	mine.double = double
	if _, err := s.Write(appendFrame(nil, mine.encode())); err != nil {
		return greeting{}, err
	}
	theirs, err := readGreeting(s)
	if err == nil {
		_ = s.Close() // tells the peer that its hello was read
	}
	return theirs, err
}

func readGreeting(s network.Stream) (greeting, error) {
	frame, err := newFrameReader(s, maxHello).next()
	if err != nil {
		return greeting{}, err
	}
	return decodeGreeting(frame)
}

// serve answers a hello. It waits until the peer has read the answer, which a closed connection would cut off.
func (g *greeter) serve(s network.Stream) {
	if !g.h.begin() {
		_ = s.Reset()
		return
	}
	defer g.h.running.Done()
	ctx, cancel := context.WithTimeout(g.h.ctx, helloTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	defer func() { _ = s.Reset() }()
	theirs, err := readGreeting(s)
	if err == nil {
		if _, err = s.Write(appendFrame(nil, g.own(s.Conn()).encode())); err == nil {
			_, _ = s.Read(make([]byte, 1))
		}
	}
	g.settle(s.Conn(), theirs, err)
}

// settle draws the conclusion of a hello on a connection.
func (g *greeter) settle(c network.Conn, theirs greeting, err error) {
	p := c.RemotePeer()
	g.mu.Lock()
	mine := g.mine
	g.mu.Unlock()
	var why error
	switch parted := agree(mine, theirs); {
	case errors.Is(err, errNoHello) && g.h.nat != nil && g.h.nat.uses(p):
		return
	case errors.Is(err, errNoHello):
		why = &Refusal{Stranger, "what answers there is no poq peer"}
	case errors.Is(err, errFrame):
		why = &Refusal{Stranger, "the peer's hello makes no sense: " + err.Error()}
	case err != nil:
		why = &Refusal{HungUp, "the peer ended the connection before it said hello: it may not admit this one, or be full"}
	case parted != nil:
		why = parted
	}
	g.mu.Lock()
	known, again := false, false
	if m := g.conns[c]; why == nil && m != nil {
		if again = m.done; !again { // later ones only ask whether we are there, or tell of a double or of other offers
			m.theirs, m.done = theirs, true
			known = m.identified
		}
		g.note(p, theirs)
		g.tell(c, m)
	}
	for w := range g.wait[p] {
		select {
		case w <- heard{c.RemoteMultiaddr(), why}:
		default:
		}
	}
	g.mu.Unlock()
	if why != nil {
		note := func() {
			g.h.log.Info("a peer that does not belong here was sent away", "who", p.String(), "from", c.RemoteMultiaddr().String(), "why", why.Error())
		}
		if c.Stat().Direction == network.DirInbound && refusal(why).lasting() {
			g.strangers.Do(note) // what this host dials itself, Attempts tells
		}
		_ = c.Close()
		return
	}
	g.h.traffic.greeted(p)
	if known {
		g.introduce(p)
	}
	g.h.watch.wake(p)
	if len(theirs.double) > 0 {
		g.toldOfDouble(c, theirs)
	}
	if !again {
		g.lookForDouble(c, theirs)
	}
}

// note takes the offers in a hello of p for the latest of that process if they are. The caller holds mu.
func (g *greeter) note(p peer.ID, theirs greeting) {
	for c, m := range g.conns {
		if m.done && c.RemotePeer() == p && m.theirs.nonce == theirs.nonce && m.theirs.revision < theirs.revision {
			m.theirs.Offers, m.theirs.revision = theirs.Offers, theirs.revision
		}
	}
}

// tell says hello again on a connection whose peer knows older offers. The caller holds mu.
func (g *greeter) tell(c network.Conn, m *met) {
	if !m.done || m.told == g.mine.revision || !g.h.begin() {
		return
	}
	m.told = g.mine.revision
	go func() {
		defer g.h.running.Done()
		if _, err := g.say(c, nil); err != nil {
			g.h.log.Debug("a peer was not told of new offers", "peer", c.RemotePeer().String(), "err", err)
		}
	}()
}

// Offer changes [Hello.Offers], and has the peers that are connected know. The names must be as there.
func (h *Host) Offer(names []string) error {
	g := h.greet
	g.mu.Lock()
	defer g.mu.Unlock()
	hello := g.mine.Hello
	hello.Offers = slices.Clone(names)
	if err := hello.validate(); err != nil {
		return fmt.Errorf("p2p: %w", err)
	}
	if slices.Equal(hello.Offers, g.mine.Offers) {
		return nil
	}
	g.mine.Hello = hello
	g.mine.revision++
	for c, m := range g.conns {
		g.tell(c, m)
	}
	return nil
}

// refusal is the outcome that an error tells of, empty if of none.
func refusal(err error) Outcome {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Outcome
	}
	return ""
}

// identified notes that it is known which protocols the peer at the other end speaks, and where it listens.
func (g *greeter) identified(c network.Conn) {
	g.mu.Lock()
	m := g.conns[c]
	if m != nil {
		m.identified = true
	}
	done := m != nil && m.done
	g.mu.Unlock()
	if done {
		g.introduce(c.RemotePeer())
	}
}

// introduce tells of a peer that belongs here.
func (g *greeter) introduce(p peer.ID) {
	if f := g.h.finder.Load(); f != nil {
		f.met(p)
	}
	if g.met != nil {
		g.met(p)
	}
	g.h.watch.wake(p)
}

// with waits for the end of the next hello with p, of which the channel tells.
func (g *greeter) with(p peer.ID) (<-chan heard, func()) {
	c := make(chan heard, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wait[p] == nil {
		g.wait[p] = make(map[chan heard]struct{})
	}
	g.wait[p][c] = struct{}{}
	return c, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if delete(g.wait[p], c); len(g.wait[p]) == 0 {
			delete(g.wait, p)
		}
	}
}

// WaitForHello returns when n peers are connected and have said hello.
func (h *Host) WaitForHello(ctx context.Context, n int) error {
	changed, stop := h.watch.add(anyPeer)
	defer stop()
	for {
		peers := h.Peers()
		if len(peers) >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("p2p: %d of %d peers have said hello: %w", len(peers), n, ctx.Err())
		case <-h.ctx.Done():
			return ErrClosed
		}
	}
}

// peers are the connected peers that have said hello.
func (g *greeter) peers() (list []peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c, m := range g.conns {
		if p := c.RemotePeer(); m.done && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// of returns what a connected peer has said.
func (g *greeter) of(p peer.ID) (Hello, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c, m := range g.conns {
		if c.RemotePeer() == p && m.done {
			return m.theirs.Hello, true
		}
	}
	return Hello{}, false
}

// Hello returns what a connected peer says of itself; false until it has said it.
func (h *Host) Hello(p peer.ID) (Hello, bool) { return h.greet.of(p) }

// Double is a second process that runs with this host's identity, as another peer has told. That peer may lie, so
// nothing but a warning follows from it.
type Double struct {
	// Addr is where the other process was seen.
	Addr string
	// By is the peer that has told.
	By peer.ID
	// Time is when it told last.
	Time time.Time
}

// Double returns what peers have told of another process with this host's identity; false if nothing. Two processes must not share an
// identity: peers mix them up, and messages for one reach the other.
func (h *Host) Double() (Double, bool) {
	h.greet.mu.Lock()
	defer h.greet.mu.Unlock()
	return h.greet.known, h.greet.known.By != ""
}

// toldOfDouble notes that a peer has met another process with our identity.
func (g *greeter) toldOfDouble(c network.Conn, theirs greeting) {
	a, err := multiaddr.NewMultiaddrBytes(theirs.double)
	if err != nil {
		return
	}
	g.mu.Lock()
	last := g.known.Time
	g.known = Double{Addr: a.String(), By: c.RemotePeer(), Time: time.Now()}
	g.mu.Unlock()
	if time.Since(last) > doubleEvery {
		g.h.log.Error("another process runs with this peer's identity: stop one of the two, or give it keys of its own",
			"seen_at", a.String(), "told_by", c.RemotePeer().String())
	}
}

// lookForDouble compares a new connection with older ones of the same peer. If the nonce is another one, the
// peer has been started again, and the old connection is dead, or it runs twice, and both are told.
func (g *greeter) lookForDouble(c network.Conn, theirs greeting) {
	g.mu.Lock()
	var others []network.Conn
	for o, m := range g.conns {
		if o != c && m.done && o.RemotePeer() == c.RemotePeer() && m.theirs.nonce != theirs.nonce {
			others = append(others, o)
		}
	}
	g.mu.Unlock()
	for _, o := range others {
		old, err := g.say(o, nil)
		if err != nil {
			_ = o.Close() // of an earlier life of the peer
			continue
		}
		if old.nonce == theirs.nonce {
			continue
		}
		g.doubles.Do(func() {
			g.h.log.Warn("a peer's identity is used by two processes", "of", c.RemotePeer().String(),
				"at", o.RemoteMultiaddr().String(), "and", c.RemoteMultiaddr().String())
		})
		_, err = g.say(o, c.RemoteMultiaddr().Bytes())
		_, err2 := g.say(c, o.RemoteMultiaddr().Bytes())
		if err = errors.Join(err, err2); err != nil {
			g.h.log.Debug("a peer was not told that its identity is used twice", "of", c.RemotePeer().String(), "err", err)
		}
	}
}
