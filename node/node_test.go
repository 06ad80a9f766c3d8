package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/quality"
)

// otherJudge is not the network's.
type otherJudge struct{ lengthJudge }

func (otherJudge) ID() crypto.Hash { return crypto.Sum([]byte("another judge")) }

var _ quality.Judge = otherJudge{}

func TestNodeThatCannotDoItsPartIsRefusedBeforeAnythingStarts(t *testing.T) {
	s := newSwarm(t, 4)
	v := s.validators[0]
	stranger := v.id
	stranger.Peer = testIdentity(t, "stranger").Peer
	for name, c := range map[string]struct {
		want string
		opts []Option
	}{
		"no directory":      {"WithDataDir", []Option{WithGenesis(s.genesis)}},
		"no genesis":        {"WithGenesis", []Option{WithDataDir(v.dir)}},
		"bad genesis":       {"genesis", []Option{WithDataDir(v.dir), WithGenesis(&ledger.Genesis{})}},
		"no judge":          {"needs WithJudge", []Option{WithDataDir(v.dir), WithGenesis(s.genesis), WithIdentity(v.id)}},
		"wrong judge":       {"the genesis wants", []Option{WithDataDir(v.dir), WithGenesis(s.genesis), WithIdentity(v.id), WithJudge(otherJudge{})}},
		"another's address": {"peer key", []Option{WithDataDir(v.dir), WithGenesis(s.genesis), WithIdentity(stranger), WithJudge(lengthJudge{})}},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := New(soon(t), c.opts...)
			if err == nil {
				n.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(v.dir, "ledger")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a ledger was made (%v)", err)
			}
		})
	}
}

func TestDirectoryHasOneNode(t *testing.T) {
	s := newSwarm(t, 1)
	s.launch(s.validators[0])
	if _, err := New(soon(t), append([]Option{WithGenesis(s.genesis)}, s.validators[0].opts...)...); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second node in one directory: %v", err)
	}
	s.stop(s.validators[0])
	other := *s.genesis
	other.Epoch++
	if _, err := New(soon(t), append([]Option{WithGenesis(&other)}, s.validators[0].opts...)...); !errors.Is(err, store.ErrGenesis) {
		t.Errorf("a node of another network: %v", err)
	}
	s.launch(s.validators[0])
}

func TestCloseEndsANodeThatWasNotStarted(t *testing.T) {
	s := newSwarm(t, 1)
	n, err := New(soon(t), append([]Option{WithGenesis(s.genesis)}, s.validators[0].opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := n.Start(soon(t)); err == nil {
		t.Error("a closed node was started")
	}
	if err := n.WaitReady(soon(t), 1); err == nil {
		t.Error("a closed node is ready")
	}
	if _, err := n.Ask(soon(t), "q", AskOptions{}); err == nil {
		t.Error("a closed node took an order")
	}
	receive(t, n.Done())
	if n.Err() != nil {
		t.Errorf("it says that it failed: %v", n.Err())
	}
}

func TestNodeIsStartedOnce(t *testing.T) {
	s := newSwarm(t, 1)
	s.launch(s.payer)
	if err := s.payer.node.Start(soon(t)); err == nil {
		t.Error("it was started twice")
	}
}

func TestCloseMayBeCalledWhileTheNodeStarts(t *testing.T) {
	for range 5 {
		s := newSwarm(t, 1)
		n, err := New(soon(t), append([]Option{WithGenesis(s.genesis)}, s.validators[0].opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { _ = n.Start(context.Background()) }) // may or may not come first
		both.Go(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
	}
}

func TestCloseEndsAsksAndWaits(t *testing.T) {
	t.Parallel()
	working := make(chan struct{})
	s := startSwarm(t, 1, engine(func(ctx context.Context, _ string) (string, error) {
		close(working)
		<-ctx.Done()
		return "", ctx.Err()
	}))
	asked := make(chan error)
	n := s.payer.node
	go func() {
		_, err := n.Ask(soon(t), "q", AskOptions{MaxAnswers: 1})
		asked <- err
	}()
	receive(t, working)
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closers.Wait()
	var pending *PendingError
	if err := receive(t, asked); !errors.As(err, &pending) {
		t.Errorf("the ask that was cut off returns %v", err)
	}
	s.stop(s.workers...) // ends the engine
}

func TestThirtyNodesLiveInOneProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while under the race detector")
	}
	engines := make([]engine, 25)
	s := newSwarm(t, 4)
	for i := range engines {
		name := fmt.Sprintf("worker-%d", i+1)
		s.workers = append(s.workers, &member{name: name, dir: filepath.Join(t.TempDir(), name), id: testIdentity(t, name)})
		w := s.workers[i]
		w.opts = []Option{WithDataDir(w.dir), WithIdentity(w.id), WithEngine(says(name)), WithLogger(slog.New(slog.DiscardHandler))}
	}
	if len(s.all()) != 30 {
		t.Fatalf("%d nodes", len(s.all()))
	}
	s.start(s.all()...)
	got := s.ask("q", AskOptions{MaxAnswers: ledger.MaxAnswers})
	if got.Outcome != ledger.Paid || len(got.Answers) < ledger.MaxAnswers { // each validator takes the first 16 that it hears of
		t.Errorf("settled as %v with %d answers", got.Outcome, len(got.Answers))
	}
	s.await(got.Task, s.all()...)
	s.check()
}

func TestNodeThatCannotWriteItsVoteLogStopsAndSignsNothingMore(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4, says("an answer"))
	last := s.validators[3] // only listens
	bundles := make(chan *ledger.Bundle, 1024)
	h := s.bareHost(last.id)
	if _, err := p2p.NewLinks(h, p2p.LinkConfig[*ledger.Bundle]{
		Name: protocolVotes, MaxFrame: ledger.MaxMessage,
		Validate: func(_ context.Context, _ peer.ID, frame []byte) (*ledger.Bundle, error) {
			m, err := ledger.Decode(ledger.TopicVotes, frame)
			u, _ := m.(*ledger.Bundle)
			return u, err
		},
		Handle: func(_ peer.ID, u *ledger.Bundle) {
			if u != nil {
				bundles <- u
			}
		},
	}); err != nil {
		t.Fatal(err)
	}
	running := append(s.validators[:3:3], s.workers[0], s.payer)
	s.launch(running...)
	for _, m := range running {
		if err := m.node.Host().Keep(h.Addrs()...); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range running {
		if err := m.node.WaitReady(soon(t), len(running)-1); err != nil {
			t.Fatal(err)
		}
	}
	// heard waits until n of the three have voted on a task, and returns who has.
	heard := func(task ledger.TaskID, n int) map[uint16]bool {
		from := map[uint16]bool{}
		for len(from) < n {
			select {
			case u := <-bundles:
				if slices.ContainsFunc(u.Leaves, func(l ledger.Leaf) bool { return l.Task == task }) {
					from[u.Header.Statement.Validator] = true
				}
			case <-soon(t).Done():
				t.Fatalf("%d validators vote", len(from))
			}
		}
		return from
	}
	heard(s.pend("before", AskOptions{MaxAnswers: 1}), 3)

	broken := s.validators[2].node
	closed := make(chan error)
	broken.loop.do(func(*ledger.Engine) { closed <- broken.loop.Close() })
	if err := receive(t, closed); err != nil {
		t.Fatal(err)
	}
	task := s.pend("after", AskOptions{MaxAnswers: 1})
	receive(t, broken.Done())
	if err := broken.Err(); err == nil || !strings.Contains(err.Error(), "vote log") {
		t.Errorf("it stopped with %v", err)
	}
	s.stop(s.validators[2]) // nothing more can be on its way
	if from := heard(task, 2); from[2] {
		t.Error("a vote left that is in no log")
	}
	if broken.Err() == nil {
		t.Error("closing made it forget the failure")
	}
	// The log is whole up to the failure: it may go on, and the order locks.
	s.launch(s.validators[2])
	if err := s.validators[2].node.Host().Keep(h.Addrs()...); err != nil {
		t.Fatal(err)
	}
	s.record.await("lock", func(who string, e Event) bool { return who == "payer" && e.Task == task && e.Step == ledger.Locked })
}

// bareHost starts a host of the network without a node on it.
func (s *swarm) bareHost(id keystore.Identity) *p2p.Host {
	s.t.Helper()
	h, err := p2p.New(p2p.Config{Network: s.genesis.Network, Key: id.Peer, Hello: Hello(s.genesis), Topics: topicNames(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.Close() })
	return h
}

func TestNodeThatCannotWriteItsLedgerStops(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1)
	s.launch(s.validators[0])
	n := s.validators[0].node
	if err := n.store.PutBlob(make([]byte, 32<<20+1)); err != nil { // more than a value may have
		t.Fatal(err)
	}
	receive(t, n.Done())
	if err := n.Err(); err == nil || !strings.Contains(err.Error(), "writing the ledger") {
		t.Errorf("it stopped with %v", err)
	}
	var pending *PendingError
	if _, err := n.Ask(soon(t), "q", AskOptions{}); err == nil || errors.As(err, &pending) {
		t.Errorf("it took an order: %v", err)
	}
}

func TestNodeMakesItsKeysOnceAndNoneOfAValidator(t *testing.T) {
	s := newSwarm(t, 1)
	dir := filepath.Join(t.TempDir(), "peer")
	var account [2]string
	for i := range account {
		n, err := New(soon(t), WithDataDir(dir), WithGenesis(s.genesis), WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		account[i] = n.Account().String() + n.Host().ID().String()
		if n.Validator() != -1 {
			t.Errorf("it is validator %d", n.Validator())
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if account[0] != account[1] {
		t.Error("it has other keys after a restart")
	}
	if _, err := os.Stat(keystore.Consensus.Path(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has a consensus key (%v)", err)
	}
}

func TestNodeNeedsItsIdentityWhereKeysAreEncrypted(t *testing.T) {
	s := newSwarm(t, 1)
	dir := filepath.Join(t.TempDir(), "peer")
	secret := func() ([]byte, error) { return []byte("p"), nil }
	if _, err := keystore.Create(dir, false, secret); err != nil {
		t.Fatal(err)
	}
	if _, err := New(soon(t), WithDataDir(dir), WithGenesis(s.genesis)); !errors.Is(err, keystore.ErrEncrypted) {
		t.Fatalf("got %v", err)
	}
	id, err := keystore.Open(dir, secret)
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(soon(t), WithDataDir(dir), WithGenesis(s.genesis), WithIdentity(id), WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	if n.Account() != id.Account.Public() {
		t.Error("the node has other keys")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPeerOfTheCommitteeWithoutItsConsensusKeyOnlyFollows(t *testing.T) {
	s := newSwarm(t, 1)
	v := s.validators[0]
	id := v.id
	id.Consensus = crypto.PrivateKey{}
	var log strings.Builder
	n, err := New(soon(t), WithDataDir(v.dir), WithGenesis(s.genesis), WithIdentity(id), WithJudge(lengthJudge{}), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if n.Validator() != -1 || !strings.Contains(log.String(), "consensus key that is not here") {
		t.Errorf("it is validator %d and says %q", n.Validator(), log.String())
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}
