package p2p

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

// ErrReject marks an error of a Validate function as the sender's fault: it sent bytes that no honest peer passes
// on, such as an undecodable message, a wrong domain or a bad signature. Wrap it with %w. Every other
// error leaves the sender blameless.
var ErrReject = errors.New("p2p: rejected")

// TopicConfig describes a gossip topic whose messages decode to T.
type TopicConfig[T any] struct {
	// Name is one of the host's Config.Topics.
	Name string
	// MaxSize bounds a message in bytes, 1 to MaxGossip. Larger ones are rejected before Validate sees them.
	MaxSize int
	// Rate is how many messages per second a peer may hand over, copies of what is known included, and twice as many at
	// once; 0 means DefaultRate. What is over is dropped unread and counts neither as seen nor, unless it goes on, as a fault.
	Rate int
	// Validate decodes and checks a message before it is passed on to other peers. from is the peer that
	// handed it over, not the one that made it; it is the host's own id for what Publish sends. It runs in up to
	// eight goroutines at once, which all topics share: it must be quick, and end within 2 s. ctx ends when the host closes,
	// or is that of Publish.
	// Nil error: deliver and pass on. Error wrapping ErrReject: drop, and hold it against from. Any other
	// error, a panic, or any error after the 2 s: drop, nobody's fault; what is well-formed and worthless, as of a
	// sender who cannot pay, is for the caller to hold against from with [Host.Fault].
	// A dropped message is not looked at again within Config.SeenTTL, whoever sends it. So a message that merely
	// came too early must be accepted and kept.
	Validate func(ctx context.Context, from peer.ID, data []byte) (T, error)
	// Handle gets what Validate returned, also for own messages. It is called from one goroutine per topic,
	// in the order in which validation ended, which for messages of one peer may differ from the order of sending.
	// While it blocks, up to 8192 messages wait and later ones are lost (Stats.Undelivered).
	Handle func(from peer.ID, msg T)
}

// Topic is a joined gossip topic. Its methods are safe for concurrent use.
type Topic struct {
	h        *Host
	name     string
	maxSize  int
	topic    *pubsub.Topic
	validate func(ctx context.Context, from peer.ID, data []byte) (any, error) // a validated[T]
}

// validated is what a Validate function returned, and from whom the message came, on its way through pubsub to Handle.
type validated[T any] struct {
	msg  T
	from peer.ID
}

// Join subscribes to a topic and serves it until the host closes. A topic can be joined once.
func Join[T any](h *Host, cfg TopicConfig[T]) (*Topic, error) {
	switch {
	case !h.topics[h.id(cfg.Name)]:
		return nil, fmt.Errorf("p2p: join %q: not one of Config.Topics", cfg.Name)
	case cfg.MaxSize < 1 || cfg.MaxSize > MaxGossip:
		return nil, fmt.Errorf("p2p: join %q: MaxSize %d: want 1 to %d", cfg.Name, cfg.MaxSize, MaxGossip)
	case cfg.Rate < 0:
		return nil, fmt.Errorf("p2p: join %q: Rate %d: want 0 or more", cfg.Name, cfg.Rate)
	case cfg.Validate == nil || cfg.Handle == nil:
		return nil, fmt.Errorf("p2p: join %q: Validate and Handle are required", cfg.Name)
	}
	t := &Topic{h: h, name: cfg.Name, maxSize: cfg.MaxSize}
	h.standings.rates.store(h.id(cfg.Name), cmp.Or(cfg.Rate, DefaultRate))
	what := "topic " + cfg.Name
	t.validate = func(ctx context.Context, from peer.ID, data []byte) (any, error) {
		return guard(h, what, func() (any, error) {
			msg, err := cfg.Validate(ctx, from, data)
			return validated[T]{msg, from}, err
		})
	}
	handle := func(m *pubsub.Message) {
		v := m.ValidatorData.(validated[T])
		if h.light != nil {
			h.light.pass(t, v.from, m)
		}
		cfg.Handle(v.from, v.msg)
	}
	if err := t.join(handle); err != nil {
		return nil, fmt.Errorf("p2p: join %q: %w", cfg.Name, err)
	}
	return t, nil
}

func (t *Topic) join(handle func(*pubsub.Message)) error {
	h, id := t.h, t.h.id(t.name)
	if !h.begin() {
		return ErrClosed
	}
	err := h.gossip.RegisterTopicValidator(id, t.verdict, pubsub.WithValidatorInline(true))
	if err == nil {
		t.topic, err = h.gossip.Join(id)
	}
	var sub *pubsub.Subscription
	if err == nil {
		sub, err = t.topic.Subscribe(pubsub.WithBufferSize(subscriptionQueue))
	}
	if err != nil {
		h.running.Done()
		return err
	}
	if h.light != nil {
		h.light.join(t)
	}
	go func() {
		defer h.running.Done()
		for {
			m, err := sub.Next(h.ctx)
			if err != nil {
				return // only when the host closes
			}
			handle(m)
		}
	}()
	return nil
}

// verdict is the gossip validator: own messages were checked by Publish, others are checked here.
func (t *Topic) verdict(ctx context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	if from == t.h.ID() && m.ValidatorData != nil {
		return pubsub.ValidationAccept
	}
	begin := time.Now()
	msg, err := t.check(ctx, from, m.GetData())
	result := verdictOf(begin, err)
	if result == pubsub.ValidationAccept {
		m.ValidatorData = msg
	} else {
		t.h.log.Debug("gossip dropped", "topic", t.name, "from", from.String(), "blame", result == pubsub.ValidationReject, "err", err)
	}
	return result
}

func (t *Topic) check(ctx context.Context, from peer.ID, data []byte) (any, error) {
	if len(data) > t.maxSize {
		return nil, fmt.Errorf("%w: %w: %d bytes, limit of topic %s is %d", ErrReject, ErrTooLarge, len(data), t.name, t.maxSize)
	}
	return t.validate(ctx, from, data)
}

// verdictOf is the one place where an error becomes a verdict on a gossip message and so on its sender.
// A check that failed after its time was over proves nothing, whatever it says. That time is a clock's and not a context's, whose
// timer would cost each message more than most checks do.
func verdictOf(begin time.Time, err error) pubsub.ValidationResult {
	switch {
	case err == nil:
		return pubsub.ValidationAccept
	case errors.Is(err, ErrReject) && time.Since(begin) < validateTimeout:
		return pubsub.ValidationReject
	default:
		return pubsub.ValidationIgnore
	}
}

// guard turns a panic of a callback that judges or answers foreign bytes into an error: it must neither end
// the process nor be blamed on the sender.
func guard[T any](h *Host, what string, f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("panic", "in", what, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("p2p: panic in %s: %v", what, p)
		}
	}()
	return f()
}

// Publish checks data with the topic's Validate, whose error it returns, and hands it to gossip. It does not
// wait until a peer has it. Bytes that were delivered here before, within Config.SeenTTL, are not
// sent again and give no error. The caller must not change data afterwards.
func (t *Topic) Publish(ctx context.Context, data []byte) error {
	if t.h.ctx.Err() != nil {
		return ErrClosed
	}
	msg, err := t.check(ctx, t.h.ID(), data)
	if err != nil {
		return fmt.Errorf("p2p: publish to %s: %w", t.name, err)
	}
	if err := t.topic.Publish(ctx, data, pubsub.WithValidatorData(msg)); err != nil {
		if t.h.ctx.Err() != nil {
			return ErrClosed
		}
		return fmt.Errorf("p2p: publish to %s: %w", t.name, err)
	}
	return nil
}

// Peers are the connected peers known to be in the topic, in no order: those of gossipsub and those of the light path.
func (t *Topic) Peers() []peer.ID {
	peers := t.topic.ListPeers()
	if t.h.light == nil {
		return peers
	}
	for _, p := range t.h.light.peers(t) {
		if !slices.Contains(peers, p) {
			peers = append(peers, p)
		}
	}
	return peers
}

// WaitForPeers returns when n other peers are in the topic, a stream to each of them is open and the mesh has
// grown to what it needs for n peers; what is published then reaches them all at once, without
// waiting for a heartbeat. For a whole network to be ready, every host must have waited.
func (t *Topic) WaitForPeers(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.h.ctx, cancel)()
	var waits sync.WaitGroup
	light := errors.New("no light path")
	if t.h.light != nil { // whichever is there first
		waits.Go(func() {
			defer cancel()
			light = t.h.light.wait(ctx, t, n)
		})
	}
	in, err := t.h.mesh.waitForPeers(ctx, t.topic, n, meshLow)
	cancel()
	waits.Wait()
	switch {
	case err == nil || light == nil:
		return nil
	case t.h.ctx.Err() != nil:
		return ErrClosed
	default:
		return fmt.Errorf("p2p: %d of %d peers in topic %s: %w", in, n, t.name, err)
	}
}

// startGossip starts gossipsub on the host.
func (h *Host) startGossip(cfg Config) error {
	for _, name := range cfg.Topics {
		if !names.MatchString(name) {
			return fmt.Errorf("p2p: topic name %q: want 1 to 128 letters, digits, '.', '_' or '-'", name)
		}
		h.topics[h.id(name)] = true
		h.mesh.counters[h.id(name)] = &topicCounters{}
	}
	h.topicNames = slices.Clone(cfg.Topics)
	s := cfg.gossip()
	ids := make([]string, 0, len(h.topics))
	for id := range h.topics {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var err error
	score, thresholds := gossipScore(ids, cfg.seenTTL(), h.standings.held)
	h.gossip, err = pubsub.NewGossipSub(h.ctx, gossipHost{h.host, h.standings, h.ctx},
		// Every message carries the signature of who made it; a second one by the host that publishes would cost a
		// check per message and tell where it entered the network.
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID),
		pubsub.WithGossipSubParams(s.params),
		pubsub.WithFloodPublish(s.flood),
		pubsub.WithMaxMessageSize(maxRPC), pubsub.WithMaxControlMessageSize(maxRPC),
		pubsub.WithSubscriptionFilter(pubsub.WrapLimitSubscriptionFilter(
			pubsub.NewAllowlistSubscriptionFilter(ids...), maxSubscriptions)),
		pubsub.WithValidateQueueSize(validateQueue), pubsub.WithValidateWorkers(validators),
		pubsub.WithPeerOutboundQueueSize(outboundQueue),
		pubsub.WithSeenMessagesTTL(cfg.seenTTL()),
		pubsub.WithPeerScore(score, thresholds), pubsub.WithPeerScoreInspect(h.scored, time.Second),
		pubsub.WithAppSpecificRpcInspector(h.standings.inspect),
		pubsub.WithRawTracer(h.mesh),
		pubsub.WithLogger(slog.New(errorsOnly{h.log.With("part", "gossip").Handler()})),
	)
	if err != nil {
		return fmt.Errorf("p2p: start gossip: %w", err)
	}
	h.running.Go(h.mender.run)
	return nil
}

func (c Config) seenTTL() time.Duration {
	if c.SeenTTL == 0 {
		return seenTTL
	}
	return c.SeenTTL
}

// messageID hashes all bytes of a message together with its topic, each with its length, so that nobody can
// make a second message with the id of a first and have it dropped as a duplicate.
func messageID(m *pb.Message) string {
	h := sha256.New()
	head := make([]byte, 0, 128)
	head = append(head, "poq/gossip/1"...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(m.GetTopic())))
	head = append(head, m.GetTopic()...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(m.GetData())))
	h.Write(head)
	h.Write(m.GetData())
	return string(h.Sum(head[:0])[:20])
}

// GossipParams are the parameters of every Host's gossipsub, and whether it floods what it publishes, for who compares it
// with another.
func GossipParams() (params pubsub.GossipSubParams, floodPublish bool) {
	s := defaultGossip()
	return s.params, s.flood
}

// gossipSettings are what benchmarks vary.
type gossipSettings struct {
	params pubsub.GossipSubParams
	flood  bool
	grace  time.Duration
}

// gossip returns the settings that hold.
func (c Config) gossip() gossipSettings {
	s := defaultGossip()
	if c.tune != nil {
		c.tune(&s)
	}
	return s
}

func defaultGossip() gossipSettings {
	p := pubsub.DefaultGossipSubParams()
	p.D, p.Dlo, p.Dhi, p.Dlazy, p.Dout = meshDegree, meshLow, meshHigh, meshLazy, meshOut
	p.Dscore = min(p.Dscore, p.Dhi)
	p.HeartbeatInterval = heartbeat
	p.HistoryLength, p.HistoryGossip = historyLength, historyGossip
	return gossipSettings{params: p, flood: floodPublish, grace: mendMin}
}

// errorsOnly passes on errors alone. What the library merely warns of, a slow heartbeat or a message it
// dropped, is nothing that anybody could act upon, and what matters of it is counted in Stats.
type errorsOnly struct{ slog.Handler }

func (h errorsOnly) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && h.Handler.Enabled(ctx, l)
}
func (h errorsOnly) WithAttrs(a []slog.Attr) slog.Handler { return errorsOnly{h.Handler.WithAttrs(a)} }
func (h errorsOnly) WithGroup(g string) slog.Handler      { return errorsOnly{h.Handler.WithGroup(g)} }
