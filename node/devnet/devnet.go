// Package devnet runs a whole network in one process: validators, workers and a payer, each a node
// with its own libp2p host, keys and ledger. Nothing of it is simulated.
package devnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/quality"
)

// PayerBalance is what the payer begins with.
const PayerBalance = 1000 * ledger.Credit

// MaxWorkers bounds the workers of one process.
const MaxWorkers = 64

// Config says what Start starts.
type Config struct {
	// Dir keeps the network. If it holds one already, that one is taken up again.
	Dir string
	// Validators is the size of the committee, 1 to ledger.MaxValidators.
	Validators int
	// Engines has one answer engine for each worker.
	Engines []llm.Engine
	// Judge is shared by all validators.
	Judge quality.Judge
	// Seed makes the keys of a new network, and so its accounts; nil draws them at random.
	Seed *uint64
	// Logger gets the log of all nodes; each line carries the peer's name. Nil stands for slog.Default.
	Logger *slog.Logger
	// Version is that of the program, as the peers tell each other.
	Version string
	// Host, if set, makes the libp2p host of a peer that starts, which must have the key. Without it peers listen on 127.0.0.1.
	Host func(name string, key crypto.PrivKey) (host.Host, error)
	// Observe, if set, is called for every step of every task at every peer, from a goroutine for each peer.
	Observe func(p *Peer, e node.Event)
}

// Role is a peer's part in a devnet.
type Role string

// Roles.
const (
	Validator Role = "validator"
	Worker    Role = "worker"
	Payer     Role = "payer"
)

// Peer is one node of a devnet.
type Peer struct {
	Name  string
	Role  Role
	Index int        // among those of its role, from 0
	Node  *node.Node // nil while the peer is stopped
}

// Devnet is a running network.
type Devnet struct {
	Genesis *ledger.Genesis
	Peers   []*Peer // validators, workers, payer
	Seed    *uint64

	network   *network
	config    Config
	observing sync.WaitGroup
}

// Start starts a network and returns when every peer sees every other one. ctx bounds Start alone. A
// directory that another process uses gives an error that wraps store.ErrInUse.
func Start(ctx context.Context, c Config) (*Devnet, error) {
	n, err := openNetwork(c.Dir, c.Validators, len(c.Engines), c.Judge.ID(), c.Seed)
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	d := &Devnet{Genesis: n.genesis, Seed: n.manifest.Seed, network: n, config: c}
	if err := d.start(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Devnet) start(ctx context.Context) error {
	peers := d.network.peers()
	d.Peers = make([]*Peer, len(peers))
	var g errgroup.Group
	for i := range peers {
		d.Peers[i] = &peers[i]
		g.Go(func() error { return d.open(ctx, d.Peers[i]) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, p := range d.Peers {
		if err := p.keep(d.Peers[i+1:]); err != nil {
			return err
		}
	}
	for _, p := range d.Peers {
		if err := p.Node.Start(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return d.WaitReady(ctx)
}

// WaitReady returns when every peer that runs sees every other one that does.
func (d *Devnet) WaitReady(ctx context.Context) error {
	running := d.Running()
	for _, p := range running {
		if err := p.Node.WaitReady(ctx, len(running)-1); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}

// Running returns the peers that are not stopped.
func (d *Devnet) Running() []*Peer {
	return slices.DeleteFunc(slices.Clone(d.Peers), func(p *Peer) bool { return p.Node == nil })
}

// Stop ends one peer and waits for it. Stop, Resume and Close must not run at the same time.
func (d *Devnet) Stop(p *Peer) error {
	if p.Node == nil {
		return nil
	}
	err := p.Node.Close()
	p.Node = nil
	return err
}

// Resume starts a peer that was stopped, with what its directory keeps, and has it connect to those that run. It
// returns before it sees them: see WaitReady. ctx bounds Resume alone.
func (d *Devnet) Resume(ctx context.Context, p *Peer) error {
	if p.Node != nil {
		return nil
	}
	others := d.Running()
	err := d.open(ctx, p)
	if err != nil {
		return err
	}
	if err = p.keep(others); err == nil {
		err = p.Node.Start(ctx)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", p.Name, err), d.Stop(p))
	}
	return nil
}

// open makes the peer's node, for its role.
func (d *Devnet) open(ctx context.Context, p *Peer) error {
	c := d.config
	opts := []node.Option{node.WithVersion(c.Version)}
	switch p.Role {
	case Validator:
		opts = append(opts, node.WithJudge(c.Judge))
	case Worker:
		opts = append(opts, node.WithEngine(c.Engines[p.Index]))
	}
	if c.Host == nil {
		if err := p.open(ctx, c.Dir, d.Genesis, c.Logger, opts...); err != nil {
			return err
		}
	} else if err := d.openOn(ctx, p, opts...); err != nil {
		return err
	}
	if c.Observe == nil {
		return nil
	}
	events := p.Node.Events(context.Background()) // until the node closes
	d.observing.Go(func() {
		for e := range events {
			c.Observe(p, e)
		}
	})
	return nil
}

// openOn is Peer.open with a host of Config.Host.
func (d *Devnet) openOn(ctx context.Context, p *Peer, opts ...node.Option) error {
	id, err := keystore.Open(filepath.Join(d.config.Dir, p.Name), nil)
	if err != nil {
		return err
	}
	h, err := d.config.Host(p.Name, id.Peer)
	if err != nil {
		return fmt.Errorf("%s: making a host: %w", p.Name, err)
	}
	if err := p.open(ctx, d.config.Dir, d.Genesis, d.config.Logger, append(opts, node.WithHost(h))...); err != nil {
		return errors.Join(err, h.Close())
	}
	return nil
}

// keep has the peer stay connected to others.
func (p *Peer) keep(others []*Peer) error {
	for _, other := range others {
		if err := p.Node.Host().Keep(overTCP(other.Node.Host().Addrs())...); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}

// open makes the peer's node.
func (p *Peer) open(ctx context.Context, dir string, g *ledger.Genesis, log *slog.Logger, opts ...node.Option) (err error) {
	opts = append(opts, node.WithDataDir(filepath.Join(dir, p.Name)), node.WithGenesis(g), node.WithLogger(log.With("peer", p.Name)))
	if p.Node, err = node.New(ctx, opts...); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

// overTCP picks the TCP addresses, if there are some: within one machine a settlement takes two thirds of the time that it
// takes over QUIC, which encrypts and paces packets in the process (poq bench settle).
func overTCP(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	tcp := slices.DeleteFunc(slices.Clone(addrs), func(a multiaddr.Multiaddr) bool {
		_, err := a.ValueForProtocol(multiaddr.P_TCP)
		return err != nil
	})
	if len(tcp) == 0 { // on simulated links
		return addrs
	}
	return tcp
}

// Payer returns the peer that asks.
func (d *Devnet) Payer() *Peer { return d.Peers[len(d.Peers)-1] }

// Peer returns the peer with a name, or nil.
func (d *Devnet) Peer(name string) *Peer {
	for _, p := range d.Peers {
		if strings.EqualFold(p.Name, name) {
			return p
		}
	}
	return nil
}

// Close ends all peers and waits for them. It may be called more than once.
func (d *Devnet) Close() error {
	running := d.Running()
	errs := make([]error, len(running)+1)
	var g errgroup.Group
	for i, p := range running {
		g.Go(func() error {
			errs[i] = p.Node.Close()
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors of their own
	d.observing.Wait()
	errs[len(running)] = d.network.close()
	return errors.Join(errs...)
}

// WaitEqual returns when all peers that run have settled the same tasks and keep them on disk.
func (d *Devnet) WaitEqual(ctx context.Context) error {
	running := d.Running()
	for {
		most, least := 0, math.MaxInt
		for _, p := range running {
			if err := p.Node.Ledger().Flush(); err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			n := p.Node.Ledger().Summary().Tasks
			most, least = max(most, n), min(least, n)
		}
		if most == least {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a peer has settled %d tasks, another one %d: %w", least, most, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// CheckLedgers waits as WaitEqual does, verifies the ledger of each peer that runs, and returns an error that names the
// first one that is wrong, has more or fewer credits than the genesis, or differs from another. No task may be open.
func (d *Devnet) CheckLedgers(ctx context.Context) error {
	if err := d.WaitEqual(ctx); err != nil {
		return err
	}
	var first string
	for i, p := range d.Running() {
		l := p.Node.Ledger()
		if _, err := l.Verify(); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		sum := l.Summary()
		total := int64(sum.Escrow)
		for _, a := range sum.Accounts {
			total += a.Balance
		}
		if supply := int64(d.Genesis.Supply()); total != supply {
			return fmt.Errorf("%s holds %s credits of %s", p.Name, ledger.FormatAmount(total), ledger.FormatAmount(supply))
		}
		if holds := fmt.Sprint(sum, l.Digest()); i == 0 {
			first = holds
		} else if holds != first {
			return fmt.Errorf("%s holds\n%s\nand %s\n%s", d.Running()[0].Name, first, p.Name, holds)
		}
	}
	return nil
}
