package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"
)

// lightName is the protocol that carries gossip to peers to which gossipsub has no stream, because it opens none over
// a relay. Such a peer opens a stream to each of two others. Both ends first say which topics they want (a
// frame: for each its length in a byte and its name), and then pass on to each other every message of these that they
// deliver (a frame: the topic's length in a byte, the topic, the data), but to whom it came from. What
// comes is judged by the topic's Validate as in gossip, and what was delivered before is not delivered again.
const lightName = "light"

// light is the light path of one host, both its ends.
type light struct {
	h     *Host
	id    protocol.ID
	hello []byte // what this host subscribes to: all of them
	seen  *lru.Cache[string, time.Time]
	ttl   time.Duration

	open atomic.Int32 // number of streams

	mu      sync.Mutex
	topics  map[string]*Topic
	serving map[peer.ID]*lightStream // opened by the peer
	asking  map[peer.ID]*lightStream // opened by us; nil while it is being opened
	wake    chan struct{}            // holds an event when a stream began or ended
	retry   map[peer.ID]*lightRetry
}

// lightRetry is when a peer may be asked again.
type lightRetry struct {
	backoff *backoff
	at      time.Time
}

// lightStream is a stream of the light path.
type lightStream struct {
	s      network.Stream
	peer   peer.ID
	wants  map[string]bool
	queue  chan []byte
	queued atomic.Int64 // bytes in queue
	quota  *lightQuota  // nil: none
}

// lightQuota bounds what a peer may send on a stream that it opened. A peer that sends faster is read more slowly.
type lightQuota struct{ messages, bytes *rate.Limiter }

func (q *lightQuota) wait(ctx context.Context, size int) error {
	if err := q.messages.Wait(ctx); err != nil {
		return err
	}
	return q.bytes.WaitN(ctx, size)
}

// lightFull is what a peer answers, instead of linkReady, that serves as many others as it can.
const lightFull = 2

// errLightFull says that a peer serves as many others as it can.
var errLightFull = errors.New("peer serves as many light streams as it can")

func newLight(h *Host, cfg Config) (*light, error) {
	if len(cfg.Topics) > maxSubscriptions {
		return nil, fmt.Errorf("p2p: %d topics, at most %d are announced to a peer", len(cfg.Topics), maxSubscriptions)
	}
	seen, err := lru.New[string, time.Time](lightSeen)
	if err != nil {
		return nil, fmt.Errorf("p2p: light: %w", err)
	}
	l := &light{
		h: h, id: protocol.ID(h.id(lightName)), hello: appendTopics(nil, cfg.Topics),
		seen: seen, ttl: cfg.seenTTL(),
		topics:  make(map[string]*Topic),
		serving: make(map[peer.ID]*lightStream),
		asking:  make(map[peer.ID]*lightStream),
		retry:   make(map[peer.ID]*lightRetry),
		wake:    make(chan struct{}, 1),
	}
	return l, nil
}

// start serves the light path, and uses it while there is no other.
func (l *light) start() {
	l.h.host.SetStreamHandler(l.id, l.serve)
	l.h.running.Go(l.run)
}

// join has messages of a topic taken from light streams. Those for topics that are not joined yet are dropped.
func (l *light) join(t *Topic) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics[t.name] = t
}

// run asks peers for streams while gossipsub has none.
func (l *light) run() {
	changed, stop := l.h.watch.add(anyPeer)
	defer stop()
	for {
		mesh := l.h.mesh.change()
		next := l.adjust(time.Now())
		var timer <-chan time.Time
		if next > 0 {
			timer = time.After(next)
		}
		select {
		case <-changed:
		case <-mesh:
		case <-l.wake:
		case <-timer:
		case <-l.h.ctx.Done():
			return
		}
	}
}

// adjust opens what streams are missing and ends what are too many. It returns after which time it has to be called
// again if nothing happens until then, 0 for never.
func (l *light) adjust(now time.Time) time.Duration {
	want := lightPeers
	if l.h.mesh.anyStream() {
		want = 0
	}
	candidates := l.candidates(want)
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, s := range l.asking {
		if s != nil && (want == 0 || l.h.direct(p)) {
			_ = s.s.Reset() // its goroutine tidies up
		}
	}
	for p := range l.retry {
		if !l.h.Connected(p) {
			delete(l.retry, p)
		}
	}
	var next time.Duration
	candidates = slices.DeleteFunc(candidates, func(p peer.ID) bool {
		r := l.retry[p]
		_, asked := l.asking[p]
		if asked || r == nil || !r.at.After(now) {
			return false
		}
		if d := r.at.Sub(now); next == 0 || d < next {
			next = d
		}
		return true
	})
	if len(candidates) == 0 {
		return next
	}
	first, rest := candidates[0], candidates[1:]
	l.begin(first)
	rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	for _, p := range rest {
		if len(l.asking) >= want {
			break
		}
		l.begin(p)
	}
	spare := 0
	if s := l.asking[first]; s != nil && s.queue != nil { // the first may have come later than others
		spare = len(l.asking) - want
	}
	for p, s := range l.asking {
		if spare > 0 && p != first && s != nil {
			_ = s.s.Reset()
			spare--
		}
	}
	if len(l.asking) >= want {
		return 0
	}
	return next
}

// begin asks a peer unless it was asked. l.mu must be held.
func (l *light) begin(p peer.ID) {
	if _, ok := l.asking[p]; !ok && l.h.begin() {
		l.asking[p] = nil
		go l.ask(p)
	}
}

// candidates are the peers that may be asked, in the order of their ids. The first of those that are not left alone is always
// asked. As all do alike, the streams of a network where nobody is reached directly meet at one peer and so connect
// all. The second one is any other, so that whoever has the lowest id does not have us for himself.
func (l *light) candidates(want int) (list []peer.ID) {
	if want == 0 {
		return nil
	}
	for _, p := range l.h.Peers() {
		if l.h.Connected(p) && !l.h.direct(p) && l.h.speaks(p, l.id) {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

// ask opens a stream to a peer and serves it until it ends.
func (l *light) ask(p peer.ID) {
	defer l.h.running.Done()
	since := time.Now()
	got, err := l.converse(p)
	l.mu.Lock()
	delete(l.asking, p)
	r := l.retry[p]
	if r == nil {
		r = &lightRetry{backoff: newBackoff(dialMin, lightRetryMax)}
		l.retry[p] = r
	}
	if got > 0 || time.Since(since) > dialMax { // else it may hang up at once, each time
		r.backoff.reset()
	}
	wait := r.backoff.next()
	if errors.Is(err, ErrReject) {
		wait = lightRetryMax
	}
	r.at = time.Now().Add(wait)
	l.mu.Unlock()
	if l.h.ctx.Err() == nil {
		l.h.log.Debug("light stream ended", "to", p.String(), "again_in", wait, "err", err)
	}
	l.poke()
}

// poke has run look at the streams again.
func (l *light) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// converse opens a stream to a peer and exchanges messages until it ends. got is how many came.
func (l *light) converse(p peer.ID) (got int, err error) {
	ctx, cancel := context.WithTimeout(l.h.ctx, linkTimeout)
	defer cancel()
	s, err := l.h.host.NewStream(network.WithNoDial(limited(ctx), "light"), p, l.id)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Reset() }()
	_ = s.SetDeadline(time.Now().Add(linkTimeout))
	if _, err := s.Write(appendFrame(nil, l.hello)); err != nil {
		return 0, err
	}
	var status [1]byte
	if _, err := io.ReadFull(s, status[:]); err != nil {
		return 0, err
	}
	if status[0] != linkReady {
		return 0, errLightFull
	}
	stream := &lightStream{s: s, peer: p}
	l.mu.Lock()
	l.asking[p] = stream
	l.mu.Unlock()
	// It may have become needless while it was opened, without anybody to see it in l.asking.
	if l.h.mesh.anyStream() || l.h.direct(p) {
		return 0, nil
	}
	l.h.log.Debug("gossip goes through a relayed peer", "through", p.String())
	return l.exchange(stream, newFrameReader(s, lightFrame))
}

// serve answers a peer that opened a stream.
func (l *light) serve(s network.Stream) {
	if !l.h.begin() {
		_ = s.Reset()
		return
	}
	defer l.h.running.Done()
	defer func() { _ = s.Reset() }()
	from := s.Conn().RemotePeer()
	_ = s.SetDeadline(time.Now().Add(linkTimeout))
	stream := &lightStream{s: s, peer: from, quota: &lightQuota{
		messages: rate.NewLimiter(lightMessages, lightMessageBurst),
		bytes:    rate.NewLimiter(lightBytes, lightByteBurst),
	}}
	l.mu.Lock()
	old := l.serving[from]
	full := old == nil && len(l.serving) >= lightClients
	if !full {
		l.serving[from] = stream
	}
	l.mu.Unlock()
	if full {
		_, _ = s.Write([]byte{lightFull})
		_ = s.CloseWrite()
		// The peer ends the stream when it has read that; else the deadline does.
		_, _ = io.Copy(io.Discard, io.LimitReader(s, lightFrame))
		return
	}
	if old != nil {
		_ = old.s.Reset()
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.serving[from] == stream {
			delete(l.serving, from)
		}
	}()
	if _, err := s.Write(appendFrame([]byte{linkReady}, l.hello)); err != nil {
		return
	}
	_, err := l.exchange(stream, newFrameReader(s, lightFrame))
	if l.h.ctx.Err() == nil {
		l.h.log.Debug("light stream ended", "from", from.String(), "err", err)
	}
}

// exchange reads the other's topics and then passes messages both ways until the stream ends. got is how many
// came.
func (l *light) exchange(stream *lightStream, frames frameReader) (got int, err error) {
	first, err := frames.next()
	if err != nil {
		return 0, err
	}
	topics, err := parseTopics(first)
	if err != nil {
		_ = stream.s.ResetWithError(network.StreamProtocolViolation)
		return 0, err
	}
	_ = stream.s.SetDeadline(time.Time{})
	l.mu.Lock()
	stream.wants = make(map[string]bool, len(topics))
	for _, name := range topics {
		stream.wants[name] = true
	}
	stream.queue = make(chan []byte, lightQueue)
	l.mu.Unlock()
	l.open.Add(1)
	l.poke()
	l.h.nat.tell()
	defer func() { l.open.Add(-1); l.h.nat.tell() }()

	ctx, cancel := context.WithCancel(l.h.ctx)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = stream.s.Reset() })()
	writer.Go(func() { defer cancel(); stream.write(ctx) })
	for {
		frame, err := frames.next()
		if errors.Is(err, errFrame) {
			l.h.Fault(stream.peer, FaultProtocol)
			err = fmt.Errorf("%w: %w", ErrReject, err)
		}
		if err == nil && stream.quota != nil {
			err = stream.quota.wait(ctx, len(frame))
		}
		if err == nil {
			err = l.take(ctx, stream.peer, frame)
		}
		if err == nil {
			got++
			continue
		}
		if errors.Is(err, ErrReject) {
			_ = stream.s.ResetWithError(network.StreamProtocolViolation)
			l.h.log.Warn("light stream ended: peer broke the protocol", "with", stream.peer.String(), "err", err)
		}
		return got, err
	}
}

// write sends queued messages until the stream breaks or ctx ends.
func (s *lightStream) write(ctx context.Context) {
	var buf []byte
	for {
		var frame []byte
		select {
		case frame = <-s.queue:
		case <-ctx.Done():
			return
		}
		s.queued.Add(-int64(len(frame)))
		buf = appendFrame(buf[:0], frame)
	gather:
		for len(buf) < linkBatch {
			select {
			case frame = <-s.queue:
				s.queued.Add(-int64(len(frame)))
				buf = appendFrame(buf, frame)
			default:
				break gather
			}
		}
		_ = s.s.SetWriteDeadline(time.Now().Add(lightWrite))
		if _, err := s.s.Write(buf); err != nil {
			return
		}
	}
}

// take judges a message that came on a stream and hands it to gossip, which delivers it, here and to whom it has.
// An error ends the stream: it is the sender's fault and wraps ErrReject, or the host closes.
func (l *light) take(ctx context.Context, from peer.ID, frame []byte) error {
	name, data, err := parseLight(frame)
	if err != nil {
		return err
	}
	l.mu.Lock()
	t := l.topics[name]
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	topic := l.h.id(name)
	if !l.fresh(messageID(&pb.Message{Topic: &topic, Data: data})) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, validateTimeout)
	defer cancel()
	begin := time.Now()
	msg, err := t.check(ctx, from, data)
	switch verdictOf(begin, err) {
	case pubsub.ValidationReject:
		l.h.mesh.topic(topic).rejected.Add(1)
		l.h.Fault(from, FaultInvalid)
		return err
	case pubsub.ValidationIgnore:
		l.h.mesh.topic(topic).ignored.Add(1)
		l.h.log.Debug("gossip dropped", "topic", name, "from", from.String(), "blame", false, "err", err)
		return nil
	}
	if err := t.topic.Publish(ctx, data, pubsub.WithValidatorData(msg)); err != nil {
		return fmt.Errorf("p2p: light: %w", err)
	}
	return nil
}

// fresh says whether a message was not seen before on the light path, or so long ago that it counts no more.
func (l *light) fresh(id string) bool {
	now := time.Now()
	at, ok := l.seen.Get(id)
	if ok && now.Sub(at) < l.ttl {
		return false
	}
	l.seen.Add(id, now)
	return true
}

// pass queues a message that was delivered here for all who want it, but for whom it came from. It does not block.
func (l *light) pass(t *Topic, from peer.ID, m *pubsub.Message) {
	if l.open.Load() == 0 {
		return
	}
	l.seen.Add(messageID(m.Message), time.Now())
	var frame []byte
	sent := make(map[peer.ID]bool) // two that ask each other have two streams
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, streams := range []map[peer.ID]*lightStream{l.serving, l.asking} {
		for p, s := range streams {
			if s == nil || s.queue == nil || p == from || !s.wants[t.name] || sent[p] {
				continue
			}
			sent[p] = true
			if frame == nil {
				frame = appendLight(nil, t.name, m.GetData())
			}
			s.send(frame, &l.h.mesh.unsent)
		}
	}
}

// send queues a message, or drops and counts it when too much waits.
func (s *lightStream) send(frame []byte, lost *atomic.Uint64) {
	if s.queued.Add(int64(len(frame))) <= lightQueueBytes {
		select {
		case s.queue <- frame:
			return
		default:
		}
	}
	s.queued.Add(-int64(len(frame)))
	lost.Add(1)
}

// peers are those with whom messages of a topic are exchanged.
func (l *light) peers(t *Topic) (peers []peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, streams := range []map[peer.ID]*lightStream{l.serving, l.asking} {
		for p, s := range streams {
			if s != nil && s.queue != nil && s.wants[t.name] {
				peers = append(peers, p)
			}
		}
	}
	return peers
}

// wait returns when the light path reaches a peer, and n are reached with those of gossipsub.
func (l *light) wait(ctx context.Context, t *Topic, n int) error {
	for {
		changed := l.h.nat.change()
		if len(l.peers(t)) > 0 && len(t.Peers()) >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// through are the peers that this host asked and that carry its gossip.
func (l *light) through() (peers []peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, s := range l.asking {
		if s != nil && s.queue != nil {
			peers = append(peers, p)
		}
	}
	slices.Sort(peers)
	return peers
}

// appendTopics encodes topic names: their number in a byte, and each after its length in a byte.
func appendTopics(buf []byte, topics []string) []byte {
	buf = append(buf, byte(len(topics)))
	for _, name := range topics {
		buf = appendName(buf, name)
	}
	return buf
}

// parseTopics is the inverse of appendTopics, for at most maxSubscriptions valid names.
func parseTopics(frame []byte) (topics []string, err error) {
	n, rest := int(frame[0]), frame[1:] // a frame is never empty
	if n > maxSubscriptions {
		return nil, fmt.Errorf("%w: %d topics, at most %d are taken", ErrReject, n, maxSubscriptions)
	}
	for range n {
		var name string
		if name, rest, err = parseLight(rest); err != nil {
			return nil, err
		}
		topics = append(topics, name)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the topics", ErrReject, len(rest))
	}
	return topics, nil
}

func appendName(buf []byte, name string) []byte { return append(append(buf, byte(len(name))), name...) }

// appendLight encodes a message.
func appendLight(buf []byte, topic string, data []byte) []byte {
	return append(appendName(slices.Grow(buf, 1+len(topic)+len(data)), topic), data...)
}

// parseLight is the inverse of appendLight. data is part of frame.
func parseLight(frame []byte) (topic string, data []byte, err error) {
	if len(frame) == 0 || len(frame) < 1+int(frame[0]) {
		return "", nil, fmt.Errorf("%w: cut off topic name", ErrReject)
	}
	end := 1 + int(frame[0]) // not in the byte itself, which overflows
	topic, data = string(frame[1:end]), frame[end:]
	if !names.MatchString(topic) {
		return "", nil, fmt.Errorf("%w: topic name %q", ErrReject, topic)
	}
	return topic, data, nil
}
