package p2p

import (
	"bytes"
	"testing"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/multiformats/go-multiaddr"
)

func TestTrafficAddsUpOverAllHosts(t *testing.T) {
	hosts := newHosts(t, 4, Config{})
	out := make(chan got, 64)
	topics := make([]*Topic, len(hosts))
	for i, h := range hosts {
		topics[i] = join(t, h, out)
	}
	allReady(t, topics)
	const messages, size = 5, 1000
	for i := range messages {
		if err := topics[i%len(topics)].Publish(deadline(t), bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			t.Fatal(err)
		}
	}
	for range messages * len(hosts) {
		receive(t, out)
	}
	for _, h := range hosts { // what is sent has come when the streams are closed
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var sum Traffic
	for _, h := range hosts {
		x := h.Traffic()
		if x.Delivered+x.Duplicates != x.MessagesReceived {
			t.Errorf("of %d copies %d were delivered and %d known", x.MessagesReceived, x.Delivered, x.Duplicates)
		}
		sum.MessagesSent += x.MessagesSent
		sum.MessagesReceived += x.MessagesReceived
		sum.Delivered += x.Delivered
		sum.BytesSent += x.BytesSent
		sum.BytesReceived += x.BytesReceived
	}
	if want := uint64(messages * (len(hosts) - 1)); sum.Delivered != want {
		t.Errorf("%d messages delivered, want %d", sum.Delivered, want)
	}
	if sum.MessagesReceived > sum.MessagesSent {
		t.Errorf("more came than was sent: %+v", sum)
	}
	if sum.BytesSent < size*sum.MessagesSent || sum.BytesReceived < size*sum.MessagesReceived {
		t.Errorf("messages of %d bytes in %+v", size, sum)
	}
}

func TestHostMadeElsewhereIsUsedAndClosed(t *testing.T) {
	made, err := libp2p.New(libp2p.ListenAddrs(overTCP...), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{{Network: "test", Host: made, Key: newKey(t)}, {Network: "test", Host: made, Listen: []multiaddr.Multiaddr{}}} {
		if _, err := New(cfg); err == nil {
			t.Error("a host that was made with a key and addresses took others")
		}
	}
	h, other := newHost(t, Config{Host: made}), newHost(t, Config{})
	if h.ID() != made.ID() {
		t.Fatal("another host")
	}
	connect(t, other, h)
	out := make(chan got, 4)
	topics := []*Topic{join(t, h, out), join(t, other, out)}
	allReady(t, topics)
	if err := topics[0].Publish(deadline(t), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	receive(t, out)
	receive(t, out)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(made.Network().ListenAddresses()); n != 0 {
		t.Errorf("it still listens at %d addresses", n)
	}
}

func TestTracerWithoutAHostOnlyCounts(t *testing.T) {
	var tracer pubsub.RawTracer = NewTracer()
	m, rpc := &pubsub.Message{Message: &pb.Message{Data: []byte("data")}}, &pubsub.RPC{}
	tracer.OnNewOutboundStream("peer", "protocol")
	tracer.Join("topic")
	tracer.Graft("peer", "topic")
	tracer.ValidateMessage(m)
	tracer.DeliverMessage(m)
	tracer.DuplicateMessage(m)
	for _, reason := range []string{pubsub.RejectValidationFailed, pubsub.RejectValidationIgnored, pubsub.RejectValidationQueueFull, pubsub.RejectMissingSignature} {
		tracer.RejectMessage(m, reason)
	}
	tracer.UndeliverableMessage(m)
	tracer.ThrottlePeer("peer")
	tracer.RecvRPC(rpc)
	tracer.SendRPC(rpc, "peer")
	tracer.SendRPCCompleted(rpc, "peer", 0)
	tracer.DropRPC(rpc, "peer")
	tracer.Prune("peer", "topic")
	tracer.Leave("topic")
	tracer.OnClosedOutboundStream("peer")
	s := tracer.(Tracer).Stats()
	if want := (Counts{Delivered: 1, Duplicates: 1, Rejected: 4, Undelivered: 1}); s.Counts != want || s.Unsent != 1 {
		t.Errorf("counted %+v, want %+v and one RPC not sent", s, want)
	}
}
