package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

func topics() []ledger.Topic {
	return []ledger.Topic{ledger.TopicOrder, ledger.TopicAnswer, ledger.TopicScore, ledger.TopicCert}
}

func topicNames() (names []string) {
	for _, t := range topics() {
		names = append(names, string(t))
	}
	return names
}

// Names of the direct protocols.
const (
	protocolVotes   = "votes"
	protocolContent = "content"
	protocolGenesis = "genesis"
)

// join enters the topics and serves the direct protocols.
func (n *Node) join() error {
	n.topics = map[ledger.Topic]*p2p.Topic{}
	for _, topic := range topics() {
		t, err := p2p.Join(n.host, p2p.TopicConfig[ledger.Verified]{
			Name: string(topic), MaxSize: ledger.MaxMessage,
			Validate: func(_ context.Context, from peer.ID, data []byte) (ledger.Verified, error) {
				return n.validate(topic, from, data)
			},
			Handle: func(from peer.ID, v ledger.Verified) { n.loop.receive(from, v) },
		})
		if err != nil {
			return err
		}
		n.topics[topic] = t
	}
	n.linked = map[peer.ID]chan struct{}{}
	for _, p := range n.committee() {
		n.linked[p] = make(chan struct{})
	}
	var err error
	n.links, err = p2p.NewLinks(n.host, p2p.LinkConfig[ledger.Verified]{
		Name: protocolVotes, MaxFrame: ledger.MaxFrame,
		Allow: func(p peer.ID) bool { return n.self >= 0 && n.genesis.ValidatorByPeer(p.String()) >= 0 },
		Validate: func(_ context.Context, from peer.ID, frame []byte) (ledger.Verified, error) {
			return n.validate(ledger.TopicVotes, from, frame)
		},
		Handle: func(from peer.ID, v ledger.Verified) { n.loop.receive(from, v) },
		Up: func(to peer.ID) { // from one goroutine per peer
			select {
			case <-n.linked[to]:
			default:
				close(n.linked[to])
			}
			n.loop.do(func(e *ledger.Engine) { e.Mark(n.genesis.ValidatorByPeer(to.String())) })
		},
	})
	if err != nil {
		return err
	}
	if err := n.host.Serve(p2p.ServeConfig{Name: protocolGenesis, MaxRequest: len(crypto.Hash{}), Handle: n.serveGenesis}); err != nil {
		return err
	}
	if err := n.host.Serve(p2p.ServeConfig{Name: protocolContent, MaxRequest: 32, Handle: n.content.serve}); err != nil {
		return err
	}
	if err := n.host.Serve(p2p.ServeConfig{Name: protocolClock, MaxRequest: 1, Handle: serveClock}); err != nil {
		return err
	}
	if n.worker != nil {
		if err := n.host.ServeFeed(p2p.FeedConfig{Name: protocolTalk, MaxRequest: introSize, Handle: n.worker.teller.serve}); err != nil {
			return err
		}
	}
	return n.host.Serve(p2p.ServeConfig{Name: protocolSync, MaxRequest: maxAsk, Handle: n.serveSync})
}

// committee returns the peer ids of the other validators; none on a node that is no validator.
func (n *Node) committee() []peer.ID {
	if n.self < 0 {
		return nil
	}
	return n.validators()
}

// validators returns the peer ids of all validators but this one.
func (n *Node) validators() (peers []peer.ID) {
	for i, v := range n.genesis.Validators {
		if p, err := peer.Decode(v.Peer); err == nil && i != n.self {
			peers = append(peers, p)
		}
	}
	return peers
}

var (
	// errKnown: a peer may pass on what is settled here already; nobody is to blame.
	errKnown = errors.New("nothing new about the task")
	// errUnpaid: a peer may be a moment ahead; only if that goes on is it to blame.
	errUnpaid = errors.New("nobody can be paid for the order")
	errEarly  = errors.New("too much about tasks that are not locked")
	errKept   = fmt.Errorf("kept and not passed on: %w", errEarly)
)

// validate checks a message of a peer, the cheap things first. It runs in p2p's goroutines and looks at
// nothing that changes but at what is known of tasks and accounts.
func (n *Node) validate(topic ledger.Topic, from peer.ID, data []byte) (ledger.Verified, error) {
	m, err := ledger.Decode(topic, data)
	if err != nil {
		return ledger.Verified{}, fmt.Errorf("%w: %w", p2p.ErrReject, err)
	}
	var keep error
	if from != n.host.ID() && topic != ledger.TopicVotes {
		if keep = n.worth(from, m); keep != nil && !errors.Is(keep, errKept) {
			return ledger.Verified{}, keep
		}
	}
	v, err := n.verifier.Verify(m)
	if err != nil {
		return v, verdict(err)
	}
	if keep != nil {
		n.loop.offer(v)
		return v, keep
	}
	if from != n.host.ID() && topic != ledger.TopicVotes {
		n.loop.known.heard(n.verifier.Task(m), m)
	}
	return v, nil
}

// worth tells whether a message can change anything, so that replaying old ones, and talk that nobody paid for, costs
// nobody a signature check and is not passed on. On the streams between validators everything is
// taken: who sends it there may need an answer.
func (n *Node) worth(from peer.ID, m ledger.Message) error {
	switch m := m.(type) {
	case *ledger.Evidence:
		if n.store.HasEvidence(m.ID(n.domain)) {
			return errKnown
		}
		if m.Offence == ledger.TwoOrders && n.store.Account(m.Orders[0].Statement.Payer) == (ledger.Account{}) {
			if n.syncer.current.Load() {
				n.host.Fault(from, p2p.FaultUseless) // keys cost nothing: that one contradicts itself is of interest to nobody
			}
			return errUnpaid
		}
		return nil
	case *ledger.OrderMessage:
		if n.store.IsLocked(n.verifier.Task(m)) {
			return errKnown
		}
		if err := n.unpaid(m.Order.Statement); err != nil {
			n.lend(from, m)
			return err
		}
		return nil
	}
	task := n.verifier.Task(m)
	if n.store.IsSettled(task) {
		return errKnown
	}
	stale, early := n.loop.known.stale(task, m)
	switch {
	case stale:
		return errKnown
	case early && !n.credit.of(from).early.Allow():
		if n.syncer.current.Load() {
			n.host.Exceed(from, 1)
		}
		return errEarly
	case early && !n.credit.early.Allow():
		return errKept
	}
	return nil
}

// verdict is the one place that says which failures are the sender's fault: all that the verifier
// finds, since it looks at nothing but the bytes. Anything else is not.
func verdict(err error) error {
	for _, fault := range []error{ledger.ErrMalformed, ledger.ErrSignature, ledger.ErrNoQuorum, ledger.ErrOutcome} {
		if errors.Is(err, fault) {
			return fmt.Errorf("%w: %w", p2p.ErrReject, err)
		}
	}
	return err
}
