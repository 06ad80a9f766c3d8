package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/quality"
)

// Node is a peer of the mesh. Its methods are safe for concurrent use.
type Node struct {
	cfg      config
	log      *slog.Logger
	heard    *slog.Logger // for lines that a peer can provoke
	identity keystore.Identity
	genesis  *ledger.Genesis
	domain   crypto.Domain
	self     int // index in the committee, -1 for all others

	verifier *ledger.Verifier
	store    *store.Store
	host     *p2p.Host
	topics   map[ledger.Topic]*p2p.Topic
	links    *p2p.Links
	content  *content
	loop     *loop
	worker   *worker
	hearer   *hearer
	syncer   *syncer
	credit   credit
	meter    *meter
	born     time.Time

	ctx    context.Context // ends when the node closes
	cancel context.CancelFunc
	tasks  sync.WaitGroup // goroutines of the node

	askMu   sync.Mutex
	ownLast ledger.TaskID // the last own order
	ownNext uint64        // nonce of the next own order
	ownFees map[ledger.TaskID]ledger.Amount
	ownOpen []*ledger.OrderMessage // given before the node last ended: Start publishes them again

	linked map[peer.ID]chan struct{} // of each other validator: closed once the link to it is up

	lifeMu   sync.Mutex // held by Start and at the beginning of Close
	started  bool
	closed   bool
	closing  sync.Once
	closeErr error

	failMu  sync.Mutex
	failure error
	refusal error
}

// config is what the options set.
type config struct {
	dir      string
	genesis  *ledger.Genesis
	identity *keystore.Identity
	engine   llm.Engine
	policy   Policy
	judge    quality.Judge
	logger   *slog.Logger
	listen   []multiaddr.Multiaddr
	peers    []multiaddr.Multiaddr
	host     host.Host
	nat      p2p.NAT
	version  string
	register prometheus.Registerer

	announce  []multiaddr.Multiaddr
	access    p2p.Access
	discovery *p2p.Discovery

	syncEvery time.Duration // tests make it shorter
}

// Option sets up a node.
type Option func(*config) error

// WithDataDir keeps keys, ledger and vote log in a directory, which is made if need be. It is
// required: a node without memory would contradict itself after a restart.
func WithDataDir(dir string) Option {
	return func(c *config) error { c.dir = dir; return nil }
}

// WithGenesis says which ledger the node follows. It is required.
func WithGenesis(g *ledger.Genesis) Option {
	return func(c *config) error { c.genesis = g; return g.Validate() }
}

// WithIdentity gives the node its keys. Without it they are read from the data directory, which must have mode 0700 then,
// and where they must not be encrypted. What a peer needs there and lacks is made: a peer key and an account key.
func WithIdentity(id keystore.Identity) Option {
	return func(c *config) error { c.identity = &id; return nil }
}

// WithEngine makes the node a worker that answers with e.
func WithEngine(e llm.Engine) Option {
	return func(c *config) error { c.engine = e; return nil }
}

// WithPolicy says which tasks a worker takes.
func WithPolicy(p Policy) Option {
	return func(c *config) error { c.policy = p; return nil }
}

// WithJudge gives a validator its judge, which must be the genesis's. Nodes of one process should
// share a quality.Pool.
func WithJudge(j quality.Judge) Option {
	return func(c *config) error { c.judge = j; return nil }
}

// WithLogger sends the node's log to l instead of slog.Default.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) error { c.logger = l; return nil }
}

// WithListen sets the addresses to listen on instead of free ports of 127.0.0.1.
func WithListen(addrs ...multiaddr.Multiaddr) Option {
	return func(c *config) error { c.listen = append(c.listen, addrs...); return nil }
}

// WithHost runs the node on a libp2p host made elsewhere, whose key must be the identity's; WithListen has no place
// then. The node closes the host; when New fails, its maker must. Whom the host admits and which limits it has is its maker's
// business. A gossipsub of the program's may run on it if it has protocol ids of its own (pubsub.WithGossipSubProtocols).
func WithHost(h host.Host) Option {
	return func(c *config) error { c.host = h; return nil }
}

// WithNAT says what to do about routers between the node and others; without it, nothing.
func WithNAT(nat p2p.NAT) Option {
	return func(c *config) error { c.nat = nat; return nil }
}

// WithPeers names peers to stay connected to. Their addresses end in /p2p/<peer id>.
func WithPeers(addrs ...multiaddr.Multiaddr) Option {
	return func(c *config) error { c.peers = append(c.peers, addrs...); return nil }
}

// WithAnnounce names addresses to tell others besides those that the node listens on: those under which a port of a
// router or a container leads here.
func WithAnnounce(addrs ...multiaddr.Multiaddr) Option {
	return func(c *config) error { c.announce = append(c.announce, addrs...); return nil }
}

// WithAccess says with whom the node makes connections.
func WithAccess(a p2p.Access) Option {
	return func(c *config) error { c.access = a; return nil }
}

// WithDiscovery has the node find peers by itself. A validator looks for the other ones in any case.
func WithDiscovery(d p2p.Discovery) Option {
	return func(c *config) error { c.discovery = &d; return nil }
}

// protocolVersion is that of the messages between peers. Versions that differ do not understand each other.
const protocolVersion = 1

// Labels of what a node does.
const (
	labelValidator = "validator"
	labelWorker    = "worker"
)

// Hello is what a peer without roles says of itself in the network of a genesis.
func Hello(g *ledger.Genesis) p2p.Hello { return helloOf(g.Chain()) }

func helloOf(chain crypto.Hash) p2p.Hello {
	return p2p.Hello{Genesis: chain[:], Protocol: protocolVersion, Oldest: protocolVersion}
}

// hello is what the node says of itself to every peer that it meets.
func (n *Node) hello() p2p.Hello {
	h := Hello(n.genesis)
	if n.self >= 0 {
		h.Labels = append(h.Labels, labelValidator)
	}
	if n.cfg.engine != nil {
		h.Labels = append(h.Labels, labelWorker)
		h.Offers = n.offers()
	}
	return h
}

// WithVersion tells other peers the version of the program.
func WithVersion(v string) Option {
	return func(c *config) error { c.version = v; return nil }
}

// WithRegisterer registers the metrics of all layers with r. Two nodes need two registries, or labels that tell them apart.
// docs/operations.md lists them.
func WithRegisterer(r prometheus.Registerer) Option {
	return func(c *config) error { c.register = r; return nil }
}

// New prepares a node and opens its ledger; [Node.Start] connects it. ctx bounds New alone. A data
// directory that another process uses gives an error that wraps store.ErrInUse.
func New(ctx context.Context, opts ...Option) (*Node, error) {
	n := &Node{log: slog.Default(), meter: newMeter(), born: time.Now(), ownFees: map[ledger.TaskID]ledger.Amount{}}
	n.cfg.syncEvery = syncEvery
	for _, o := range opts {
		if err := o(&n.cfg); err != nil {
			return nil, err
		}
	}
	c := &n.cfg
	if c.dir == "" || c.genesis == nil {
		return nil, errors.New("a node needs WithDataDir and WithGenesis")
	}
	if c.logger != nil {
		n.log = c.logger
	}
	n.heard = limitLog(n.log)
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	if err := n.identify(); err != nil {
		return nil, err
	}
	n.genesis, n.domain = c.genesis, ledger.Domain(c.genesis)
	n.verifier = ledger.NewVerifier(n.genesis)
	var err error
	if n.store, err = store.Open(filepath.Join(c.dir, "ledger"), n.genesis); err != nil {
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := n.assemble(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// identify finds the keys and the node's place in the committee.
func (n *Node) identify() error {
	c := &n.cfg
	if c.identity == nil {
		if _, err := keystore.Create(c.dir, false, nil); err != nil {
			return err
		}
		id, err := keystore.Open(c.dir, nil)
		if err != nil {
			return err
		}
		c.identity = &id
	}
	n.identity = *c.identity
	id, err := n.identity.PeerID()
	if err != nil {
		return err
	}
	if n.self = n.identity.Member(c.genesis); n.self < 0 {
		n.identity.Consensus = crypto.PrivateKey{} // who does not vote holds no key to vote with
		if v := c.genesis.ValidatorByPeer(id.String()); v >= 0 {
			n.log.Warn("the genesis has this peer in its committee, but with a consensus key that is not here: it only follows", "validator", c.genesis.Validators[v].Name, "key", c.genesis.Validators[v].Consensus.Short())
		}
		return nil
	}
	switch want := c.genesis.Validators[n.self].Peer; {
	case c.judge == nil:
		return errors.New("a validator needs WithJudge")
	case id.String() != want:
		return fmt.Errorf("the peer key is %s's, the genesis wants validator %s at %s: the others would not talk to it", id, c.genesis.Validators[n.self].Name, want)
	case c.judge.ID() != c.genesis.Judge:
		return fmt.Errorf("the judge is %s, the genesis wants %s", c.judge.ID().Short(), c.genesis.Judge.Short())
	}
	return nil
}

func (n *Node) assemble() (err error) {
	n.syncer, n.credit, n.hearer = newSyncer(n), newCredit(), newHearer(n)
	conf := p2p.Config{
		Network: n.genesis.Network, Key: n.identity.Peer, Listen: n.cfg.listen, Host: n.cfg.host, Logger: n.heard, Topics: topicNames(),
		NAT: n.cfg.nat,
		Met: n.met, Registerer: n.cfg.register, Protected: n.validators(),
		Announce: n.cfg.announce, Access: n.cfg.access, Hello: n.hello(),
	}
	if n.cfg.version != "" {
		conf.Agent = "poq/" + n.cfg.version
	}
	if h := n.cfg.host; h != nil {
		if !h.ID().MatchesPrivateKey(n.identity.Peer) {
			return fmt.Errorf("the host given is %s's: make it with the identity's peer key", h.ID())
		}
		conf.Key = nil
	}
	if n.host, err = p2p.New(conf); err != nil {
		return err
	}
	if err = n.restoreOwn(); err != nil {
		return err
	}
	n.content = newContent(n)
	if n.loop, err = newLoop(n); err != nil {
		return err
	}
	if n.cfg.engine != nil {
		n.worker = newWorker(n)
	}
	if err := n.join(); err != nil {
		return err
	}
	if n.cfg.register == nil {
		return nil
	}
	return n.meter.register(n.cfg.register, n)
}

// met compares ledgers with a peer that connected. With a validator much may come that this ledger does not know yet:
// until it is compared, nobody is blamed for that.
func (n *Node) met(p peer.ID) {
	if n.genesis.ValidatorByPeer(p.String()) >= 0 {
		n.syncer.current.Store(false)
	}
	n.syncer.add(p)
}

// Start connects the node and takes up what was open when it last ended. ctx bounds Start alone. It
// returns before the network is there: see [Node.WaitReady]. A node is started once; if Start fails
// it is only good to be closed.
func (n *Node) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.lifeMu.Lock()
	defer n.lifeMu.Unlock()
	switch {
	case n.closed:
		return errors.New("the node is closed: make another one")
	case n.started:
		return errors.New("the node is started already")
	}
	n.started = true
	open, err := n.store.OpenLocks()
	if err != nil {
		return fmt.Errorf("reading open tasks: %w", err)
	}
	n.tasks.Go(n.loop.run)
	n.tasks.Go(n.watchStore)
	n.tasks.Go(n.syncer.run)
	if n.worker != nil {
		n.tasks.Go(func() { n.worker.findModels(n.ctx) })
	}
	if err := n.host.Keep(n.cfg.peers...); err != nil {
		return err
	}
	if d := n.cfg.discovery; d != nil {
		d.Wanted = append(d.Wanted, n.committee()...)
		if err := n.host.Discover(*d); err != nil {
			return err
		}
	}
	if err := n.links.Open(n.committee()...); err != nil {
		return err
	}
	n.loop.do(func(e *ledger.Engine) {
		for _, l := range open {
			e.Resume(l)
		}
	})
	for _, m := range n.ownOpen {
		n.tasks.Go(func() { n.publishOwn(m) })
	}
	n.ownOpen = nil
	return nil
}

// watchStore stops the node when its ledger can't be written any more.
func (n *Node) watchStore() {
	select {
	case <-n.store.Failed():
		n.fail(fmt.Errorf("writing the ledger: %w", n.store.Err()))
	case <-n.ctx.Done():
	}
}

// fail stops the node: it must not go on without its memory.
func (n *Node) fail(err error) {
	n.failMu.Lock()
	if n.failure == nil {
		n.failure = err
		n.log.Error("node stops", "error", err)
	}
	n.failMu.Unlock()
	n.cancel()
}

// refuse notes that this validator signs nothing any more.
func (n *Node) refuse(err error) {
	n.failMu.Lock()
	defer n.failMu.Unlock()
	n.refusal = err
	n.log.Error("this validator does not sign", "error", err)
}

// Refusal returns why this validator signs nothing any more: its vote log or its ledger was restored or lost (the
// error wraps votelog.ErrBehind or votelog.ErrLedgerBehind). It follows the others all the same. It is nil if
// nothing is known that keeps the validator from signing.
func (n *Node) Refusal() error {
	n.failMu.Lock()
	defer n.failMu.Unlock()
	return n.refusal
}

// Done is closed when the node has been closed or had to stop; Err tells why.
func (n *Node) Done() <-chan struct{} { return n.ctx.Done() }

// Err returns why the node had to stop, nil if it did not.
func (n *Node) Err() error {
	n.failMu.Lock()
	defer n.failMu.Unlock()
	return n.failure
}

// WaitReady returns when this node sees so many others in every gossip topic and, on a validator, has
// a link to every other validator that it is connected to, so that what it sends reaches them at once.
func (n *Node) WaitReady(ctx context.Context, others int) error {
	if err := n.host.WaitForHello(ctx, others); err != nil { // it asks as many workers as it knows of
		return err
	}
	for name, t := range n.topics {
		if err := t.WaitForPeers(ctx, others); err != nil {
			return fmt.Errorf("waiting for peers in topic %s: %w", name, err)
		}
	}
	for p, up := range n.linked {
		if !n.host.Connected(p) {
			continue
		}
		select {
		case <-up:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a link to validator %s: %w", p, ctx.Err())
		case <-n.ctx.Done():
			return p2p.ErrClosed
		}
	}
	return nil
}

// Close ends the node and waits for everything it started. It may be called more than once.
func (n *Node) Close() error {
	n.closing.Do(func() {
		n.cancel()
		n.meter.unregister()
		n.lifeMu.Lock()
		n.closed = true
		n.lifeMu.Unlock()
		n.hearer.close()
		var errs []error
		if n.host != nil {
			errs = append(errs, n.host.Close())
		}
		n.tasks.Wait()
		if n.loop != nil {
			n.loop.feed.close()
			errs = append(errs, n.loop.Close())
		}
		errs = append(errs, n.store.Close())
		n.closeErr = errors.Join(errs...)
	})
	return n.closeErr
}

// Ledger returns the node's ledger, for reading. It can be read until the node is closed.
func (n *Node) Ledger() *store.Reader { return &n.store.Reader }

// votesDir is where a validator's vote log lies.
func (n *Node) votesDir() string { return filepath.Join(n.cfg.dir, "votes") }

// Genesis returns the genesis, which must not be changed.
func (n *Node) Genesis() *ledger.Genesis { return n.genesis }

// Account returns the id of the node's account.
func (n *Node) Account() ledger.AccountID { return n.identity.Account.Public() }

// Host returns the node's place in the network.
func (n *Node) Host() *p2p.Host { return n.host }

// Engine returns the answer engine of a worker, nil for all others.
func (n *Node) Engine() llm.Engine { return n.cfg.engine }

// Validator returns the node's index in the committee, -1 if it is no validator.
func (n *Node) Validator() int { return n.self }
