package p2p

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
)

func TestEveryHostHandlesEveryMessageOnce(t *testing.T) {
	const each = 20
	hosts := newHosts(t, 8, Config{})
	out := make(chan got, 8*8*each)
	topics := make([]*Topic, len(hosts))
	for i, h := range hosts {
		topics[i] = join(t, h, out)
	}
	allReady(t, topics)
	for n := range each {
		for i, topic := range topics {
			if err := topic.Publish(deadline(t), fmt.Appendf(nil, "%d from %d", n, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	type delivery struct {
		at  peer.ID
		msg string
	}
	seen := make(map[delivery]bool)
	for range len(hosts) * len(hosts) * each {
		g := receive(t, out)
		if d := (delivery{g.at, g.msg}); seen[d] {
			t.Errorf("%v handled twice", d)
		} else {
			seen[d] = true
		}
	}
	for _, h := range hosts {
		if s := h.Stats(); s.Lost()+s.Rejected+s.Ignored != 0 {
			t.Errorf("lost or dropped: %+v", s)
		}
	}
}

func TestThirtyHostsLiveInOneProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("starts thirty hosts")
	}
	hosts := newHosts(t, 30, Config{})
	out := make(chan got, 30)
	topics := make([]*Topic, len(hosts))
	for i, h := range hosts {
		topics[i] = join(t, h, out)
	}
	allReady(t, topics)
	if err := topics[0].Publish(deadline(t), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	for range hosts {
		receive(t, out)
	}
}

func TestVerdictBlamesOnlyWhatTheSenderAnswersFor(t *testing.T) {
	h := newHost(t, Config{})
	topic := join(t, h, nil)
	for _, c := range []struct {
		name string
		data string
		want pubsub.ValidationResult
	}{
		{"a good message", "good", pubsub.ValidationAccept},
		{"the sender's fault", "bad", pubsub.ValidationReject},
		{"any other error", "odd", pubsub.ValidationIgnore},
		{"a panic", "oops", pubsub.ValidationIgnore},
		{"the largest message", strings.Repeat("x", 8<<10), pubsub.ValidationAccept},
		{"a larger message", strings.Repeat("x", 8<<10+1), pubsub.ValidationReject},
	} {
		m := &pubsub.Message{Message: &pb.Message{Data: []byte(c.data)}}
		if got := topic.verdict(t.Context(), "other", m); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
		if decoded := m.ValidatorData != nil; decoded != (c.want == pubsub.ValidationAccept) {
			t.Errorf("%s: decoded message passed on: %v", c.name, decoded)
		}
	}
}

func TestDroppedMessageGoesNoFurther(t *testing.T) {
	// b accepts what the others do not, and sends it before something good.
	hosts := newHosts(t, 3, Config{})
	out := make(chan got, 16)
	topics := []*Topic{join(t, hosts[0], out), nil, join(t, hosts[2], out)}
	var err error
	topics[1], err = Join(hosts[1], TopicConfig[string]{
		Name: "order", MaxSize: MaxGossip,
		Validate: func(_ context.Context, _ peer.ID, data []byte) (string, error) { return string(data), nil },
		Handle:   func(peer.ID, string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	allReady(t, topics)
	for _, msg := range []string{"bad", "odd", "oops", strings.Repeat("x", 8<<10+1), "good"} {
		if err := topics[1].Publish(deadline(t), []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if g := receive(t, out); g.msg != "good" {
			t.Errorf("%.10s was handled", g.msg)
		}
	}
}

func TestPublishReturnsTheValidationError(t *testing.T) {
	h := newHost(t, Config{})
	out := make(chan got, 1)
	topic := join(t, h, out)
	for _, c := range []struct {
		data string
		want error
	}{
		{"bad", ErrReject},
		{"odd", errOdd},
		{strings.Repeat("x", 8<<10+1), ErrTooLarge},
	} {
		if err := topic.Publish(t.Context(), []byte(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%.10s: got %v, want %v", c.data, err, c.want)
		}
	}
	if err := topic.Publish(t.Context(), []byte("oops")); err == nil {
		t.Error("a panic of Validate must be an error")
	}
	if err := topic.Publish(t.Context(), []byte("good")); err != nil {
		t.Error(err)
	}
	if g := receive(t, out); g != (got{h.ID(), h.ID(), "good"}) {
		t.Errorf("got %v", g)
	}
}

func TestJoinTellsWhatIsWrong(t *testing.T) {
	h := newHost(t, Config{})
	validate := parse
	handle := func(peer.ID, string) {}
	for name, cfg := range map[string]TopicConfig[string]{
		"unlisted topic": {Name: "other", MaxSize: 1, Validate: validate, Handle: handle},
		"no size":        {Name: "order", Validate: validate, Handle: handle},
		"size too large": {Name: "order", MaxSize: MaxGossip + 1, Validate: validate, Handle: handle},
		"no callbacks":   {Name: "order", MaxSize: 1},
	} {
		if _, err := Join(h, cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	join(t, h, nil)
	if _, err := Join(h, TopicConfig[string]{Name: "order", MaxSize: 1, Validate: validate, Handle: handle}); err == nil {
		t.Error("joined twice: no error")
	}
}

func TestNilInterfaceMessageIsHandled(t *testing.T) {
	h := newHost(t, Config{})
	out := make(chan error, 1)
	topic, err := Join(h, TopicConfig[error]{
		Name: "order", MaxSize: 10,
		Validate: func(context.Context, peer.ID, []byte) (error, error) { return nil, nil },
		Handle:   func(_ peer.ID, msg error) { out <- msg },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := topic.Publish(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if msg := receive(t, out); msg != nil {
		t.Errorf("got %v", msg)
	}
}

func TestMessageIDsDifferWithTopicAndData(t *testing.T) {
	ids := make(map[string]string)
	for _, c := range [][2]string{{"ab", "c"}, {"a", "bc"}, {"", "abc"}, {"abc", ""}, {"a", "b"}, {"b", "a"}} {
		id := messageID(&pb.Message{Topic: &c[0], Data: []byte(c[1])})
		if len(id) != 20 {
			t.Errorf("id of %d bytes", len(id))
		}
		if other, ok := ids[id]; ok {
			t.Errorf("%v and %v have one id", c, other)
		}
		ids[id] = c[0] + "|" + c[1]
	}
}

func TestWaitForPeersEndsWithItsContextOrTheHost(t *testing.T) {
	h := newHost(t, Config{})
	topic := join(t, h, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := topic.WaitForPeers(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	waits := make(chan error, 1)
	go func() { waits <- topic.WaitForPeers(context.Background(), 1) }()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, waits); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestRejectionIsTheSendersFaultOnlyInTime(t *testing.T) {
	rejected := fmt.Errorf("%w: bad", ErrReject)
	for _, c := range []struct {
		took time.Duration
		err  error
		want pubsub.ValidationResult
	}{
		{0, nil, pubsub.ValidationAccept},
		{time.Hour, nil, pubsub.ValidationAccept},
		{0, errOdd, pubsub.ValidationIgnore},
		{0, rejected, pubsub.ValidationReject},
		{validateTimeout - time.Millisecond, rejected, pubsub.ValidationReject},
		{validateTimeout, rejected, pubsub.ValidationIgnore},
	} {
		synctest.Test(t, func(t *testing.T) { // where no time passes between two lines
			if v := verdictOf(time.Now().Add(-c.took), c.err); v != c.want {
				t.Errorf("%v after %v: verdict %v, want %v", c.err, c.took, v, c.want)
			}
		})
	}
}
