package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/p2p/p2ptest"
)

func TestSenderIsBlamedForWhatItsBytesProveAlone(t *testing.T) {
	for _, c := range []struct {
		err   error
		blame bool
	}{
		{ledger.ErrMalformed, true},
		{ledger.ErrSignature, true},
		{ledger.ErrNoQuorum, true},
		{ledger.ErrOutcome, true},
		{fmt.Errorf("order: %w", fmt.Errorf("deep: %w", ledger.ErrSignature)), true},
		{ledger.ErrConflict, false},
		{errKnown, false},
		{context.DeadlineExceeded, false},
		{errors.New("disk full"), false},
	} {
		got := verdict(c.err)
		if errors.Is(got, p2p.ErrReject) != c.blame {
			t.Errorf("%v: blame is %v", c.err, !c.blame)
		}
		if !errors.Is(got, c.err) {
			t.Errorf("%v became %v", c.err, got)
		}
	}
}

func TestMessagesArePassedOnOnlyIfTheyHold(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1, says("x"))
	s.start(s.all()...)
	n := s.payer.node
	from := peer.ID("somebody")
	got := s.ask("q", AskOptions{MaxAnswers: 1})
	if err := n.Ledger().Flush(); err != nil {
		t.Fatal(err)
	}
	settled, err := n.Ledger().Receipt(got.Task)
	if err != nil {
		t.Fatal(err)
	}
	worker := s.workers[0].id.Account
	decline := ledger.Sign(n.domain, worker, ledger.Decline{Task: ledger.TaskID{1}, Worker: worker.Public(), Reason: "no"})
	_, good := ledger.Encode(&decline)
	forged := decline
	forged.Statement.Reason = "yes"
	_, bad := ledger.Encode(&forged)
	order := settled.Order
	order.Statement.Prompt = crypto.Sum([]byte("another"))
	_, badOrder := ledger.Encode(&ledger.OrderMessage{Order: order})
	_, receipt := ledger.Encode(settled)
	_, query := ledger.Encode(&ledger.Query{Task: got.Task})
	const accept, ignore, reject = "accept", "ignore", "reject"
	for _, c := range []struct {
		name  string
		topic ledger.Topic
		data  []byte
		want  string
	}{
		{"good", ledger.TopicAnswer, good, accept},
		{"on another topic", ledger.TopicOrder, good, reject},
		{"cut", ledger.TopicAnswer, good[:len(good)-1], reject},
		{"nothing", ledger.TopicAnswer, nil, reject},
		{"forged", ledger.TopicAnswer, bad, reject},
		{"forged order", ledger.TopicOrder, badOrder, reject},
		{"receipt of a settled task", ledger.TopicCert, receipt, ignore},
		{"query as gossip", ledger.TopicCert, query, reject},
		{"query on a link", ledger.TopicVotes, query, accept},
	} {
		verdict := accept
		if _, err := n.validate(c.topic, from, c.data); errors.Is(err, p2p.ErrReject) {
			verdict = reject
		} else if err != nil {
			verdict = ignore
		}
		if verdict != c.want {
			t.Errorf("%s: %s, want %s", c.name, verdict, c.want)
		}
	}
}

func TestFloodOfGarbageStopsNothingAndGetsNoVote(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 4, says("an answer"))
	stranger := testIdentity(t, "stranger")
	h := s.bareHost(stranger)
	topics := map[ledger.Topic]*p2p.Topic{}
	for _, name := range topicNames() {
		topic, err := p2p.Join(h, p2p.TopicConfig[int]{
			Name: name, MaxSize: p2p.MaxGossip,
			Validate: func(context.Context, peer.ID, []byte) (int, error) { return 0, nil },
			Handle:   func(peer.ID, int) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		topics[ledger.Topic(name)] = topic
	}
	for _, m := range s.all() {
		if err := h.Connect(soon(t), m.node.Host().Addrs()...); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range topics {
		if err := topic.WaitForPeers(soon(t), len(s.all())); err != nil {
			t.Fatal(err)
		}
	}
	// Noise, messages of this network's form with signatures that don't hold, and well signed orders and
	// answers of accounts that have nothing, for tasks that don't exist.
	random := rand.New(rand.NewPCG(1, 2))
	d := ledger.Domain(s.genesis)
	order := ledger.Order{
		Payer: stranger.Account.Public(), Fee: ledger.Credit, Split: 1, Prompt: crypto.Sum([]byte("q")), Judge: s.genesis.Judge,
		MaxAnswers: 3, AnswerDeadline: 1000, ScoreDeadline: 2000,
	}
	broke := ledger.OrderID(d, order)
	flood := func(n int) {
		for i := range n {
			noise := make([]byte, 1+random.IntN(2000))
			for j := range noise {
				noise[j] = byte(random.Uint32())
			}
			noise[0] = byte(1 + i%11) // a type that exists, for the most part
			for _, topic := range topics {
				_ = topic.Publish(soon(t), noise)
			}
			broken := ledger.Sign(d, stranger.Account, order)
			broken.Statement.Prompt = crypto.Sum(noise)
			unknown := ledger.Sign(d, stranger.Account, ledger.AnswerCommit{Task: crypto.Sum(noise), Worker: stranger.Account.Public(), Commitment: crypto.Sum(noise)})
			unpaid := order
			unpaid.Prompt = crypto.Sum(noise)
			if i == 0 {
				unpaid = order
			}
			for _, m := range []ledger.Message{
				&ledger.OrderMessage{Order: broken}, &unknown, &ledger.OrderMessage{Order: ledger.Sign(d, stranger.Account, unpaid)},
			} {
				topic, data := ledger.Encode(m)
				_ = topics[topic].Publish(soon(t), data)
			}
		}
	}
	flood(50)
	got := s.ask("in the middle of it", AskOptions{MaxAnswers: 1})
	flood(50)
	s.await(got.Task, s.all()...)
	after := s.ask("after it", AskOptions{MaxAnswers: 1})
	s.await(after.Task, s.all()...)
	if after.Outcome != ledger.Paid {
		t.Errorf("settled as %v", after.Outcome)
	}
	for _, m := range s.validators {
		s.record.await("the order without funds", func(who string, e Event) bool {
			return who == m.name && e.Task == broke && e.Step == ledger.Ordered
		})
		if r := m.node.Host().Stats().Rejected; r == 0 {
			t.Errorf("%s rejected nothing", m.name)
		}
	}
	s.check()
	s.stop(s.all()...)
	for i, m := range s.validators {
		for _, u := range s.bundles(i) {
			for _, l := range u.Leaves {
				if l.Task != got.Task && l.Task != after.Task {
					t.Errorf("%s voted %v on %s", m.name, l.Kind, l.Task.Short())
				}
			}
		}
	}
}

func TestWhoHandsOverUnpaidOrdersIsThrownOutAndNobodyPassesThemOn(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 4, says("an answer"))
	before := s.ask("before", AskOptions{MaxAnswers: 1}) // compares ledgers, so all are current
	s.await(before.Task, s.all()...)
	v := s.validators[0].node
	s.waitCurrent(v)
	a, err := p2ptest.New(s.genesis.Network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if err := a.Connect(soon(t), v.Host().Addrs()...); err != nil {
		t.Fatal(err)
	}
	g, err := a.Gossip(soon(t), v.Host().ID(), topicNames()...)
	if err != nil {
		t.Fatal(err)
	}
	d, i := ledger.Domain(s.genesis), 0
	sent, err := g.Flood(soon(t), string(ledger.TopicOrder), func() [][]byte {
		i++
		poor := testIdentity(t, fmt.Sprint("poor ", i))
		_, data := ledger.Encode(&ledger.OrderMessage{Order: ledger.Sign(d, poor.Account, ledger.Order{
			Payer: poor.Account.Public(), Fee: ledger.Credit, Split: 1, Prompt: crypto.Sum([]byte("q")), Judge: s.genesis.Judge,
			MaxAnswers: 3, AnswerDeadline: 1000, ScoreDeadline: 2000,
		})})
		return [][]byte{data}
	})
	t.Logf("%d orders, then %v", sent, err)
	select {
	case <-a.Gone(v.Host().ID()):
	case <-soon(t).Done():
		t.Fatalf("still connected: %+v", v.Host().Scores()[a.ID()])
	}
	for _, m := range s.all() {
		if m.node == v {
			continue
		}
		for p, score := range m.node.Host().Scores() {
			if score.Faults != 0 {
				t.Errorf("%s blames %s: %+v", m.name, p, score)
			}
		}
	}
	after := s.ask("after it", AskOptions{MaxAnswers: 1})
	if after.Outcome != ledger.Paid {
		t.Errorf("settled as %v", after.Outcome)
	}
}

// waitCurrent waits until a node has compared its ledger with a peer and lacked nothing.
func (s *swarm) waitCurrent(n *Node) {
	s.t.Helper()
	for ctx := soon(s.t); !n.syncer.current.Load(); {
		n.syncer.addAny()
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			s.t.Fatal("the ledger is never current")
		}
	}
}

func TestContentIsServedByHashAlone(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1)
	s.launch(s.validators[0], s.payer)
	v, p := s.validators[0].node, s.payer.node
	for _, n := range []*Node{v, p} {
		if err := n.WaitReady(soon(t), 1); err != nil {
			t.Fatal(err)
		}
	}
	kept := []byte("a text")
	v.content.keep(kept)
	if got, err := p.content.get(soon(t), crypto.Sum(kept), ledger.MaxPrompt); err != nil || string(got) != string(kept) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := p.content.get(soon(t), crypto.Sum([]byte("unknown")), ledger.MaxPrompt); err == nil {
		t.Error("got a text that nobody has")
	}
	long := []byte(text(ledger.MaxAnswer + 1))
	v.content.keep(long)
	if _, err := p.content.get(soon(t), crypto.Sum(long), ledger.MaxAnswer); err == nil {
		t.Error("got a text over the limit")
	}
	if _, err := p.host.Request(soon(t), v.host.ID(), protocolContent, []byte("short"), 100); !errors.Is(err, p2p.ErrBadRequest) {
		t.Errorf("a request that is no hash: %v", err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.content.get(gone, crypto.Sum([]byte("unknown")), 100); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context ended: %v", err)
	}
	liar := s.bareHost(testIdentity(t, "liar"))
	if err := liar.Serve(p2p.ServeConfig{Name: protocolContent, MaxRequest: 32, Handle: func(context.Context, peer.ID, []byte) ([]byte, error) {
		return []byte("something else"), nil
	}}); err != nil {
		t.Fatal(err)
	}
	if err := p.host.Connect(soon(t), liar.Addrs()...); err != nil {
		t.Fatal(err)
	}
	other := []byte("another text")
	v.content.keep(other)
	if got, err := p.content.get(soon(t), crypto.Sum(other), 100); err != nil || string(got) != string(other) {
		t.Errorf("beside a peer that lies: %q, %v", got, err)
	}
}

func TestTextComesFromWhoHasItWhileOthersHang(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1)
	s.launch(s.payer)
	p := s.payer.node
	kept, asked := []byte("a text"), make(chan struct{})
	serve := func(name string, handle func(context.Context) ([]byte, error)) {
		h := s.bareHost(testIdentity(t, name))
		if err := h.Serve(p2p.ServeConfig{Name: protocolContent, MaxRequest: 32, Handle: func(ctx context.Context, _ peer.ID, _ []byte) ([]byte, error) {
			return handle(ctx)
		}}); err != nil {
			t.Fatal(err)
		}
		if err := p.host.Connect(soon(t), h.Addrs()...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range askAtOnce - 1 {
		serve(fmt.Sprint("idler ", i), func(ctx context.Context) ([]byte, error) {
			select {
			case <-asked:
			case <-ctx.Done():
				t.Error("nobody else was asked while a peer hung")
			}
			return nil, p2p.ErrNotFound
		})
	}
	serve("keeper", func(context.Context) ([]byte, error) { close(asked); return kept, nil })
	if got, err := p.content.get(soon(t), crypto.Sum(kept), 100); err != nil || string(got) != string(kept) {
		t.Errorf("got %q, %v", got, err)
	}
}
