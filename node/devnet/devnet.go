// Package devnet runs a whole network in one process: validators, workers and a payer, each a node
// with its own libp2p host, keys and ledger. Nothing of it is simulated.
package devnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
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
	// Observe, if set, is called for every step of every task at every peer, from the peers' loops.
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
	Name string
	Role Role
	Node *node.Node
}

// Devnet is a running network.
type Devnet struct {
	Genesis *ledger.Genesis
	Peers   []*Peer // validators, workers, payer
	Seed    *uint64

	lock *flock.Flock
}

// ErrMismatch is wrapped when a directory holds another network than the one asked for.
var ErrMismatch = errors.New("the directory holds another network")

// manifest is what a directory says about its network, beside the genesis.
type manifest struct {
	Workers int     `json:"workers"`
	Seed    *uint64 `json:"seed,omitempty"`
}

const (
	genesisFile  = "genesis.json"
	manifestFile = "devnet.json"
	lockFile     = "LOCK"
)

// Start starts a network and returns when every peer sees every other one. ctx bounds Start alone. A
// directory that another process uses gives an error that wraps store.ErrInUse.
func Start(ctx context.Context, c Config) (*Devnet, error) {
	switch {
	case c.Validators < 1 || c.Validators > ledger.MaxValidators:
		return nil, fmt.Errorf("%d validators, want 1 to %d", c.Validators, ledger.MaxValidators)
	case len(c.Engines) > MaxWorkers:
		return nil, fmt.Errorf("%d workers, want at most %d", len(c.Engines), MaxWorkers)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	d := &Devnet{lock: flock.New(filepath.Join(c.Dir, lockFile), flock.SetPermissions(0o600))}
	ok, err := d.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", c.Dir, err)
	}
	if !ok {
		return nil, fmt.Errorf("directory %s: %w; stop that one or choose another directory", c.Dir, store.ErrInUse)
	}
	if err := d.prepare(c); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := d.start(ctx, c); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// names returns the peers' names in their order.
func names(validators, workers int) (list []Peer) {
	for i := range validators {
		list = append(list, Peer{Name: fmt.Sprintf("validator-%d", i+1), Role: Validator})
	}
	for i := range workers {
		list = append(list, Peer{Name: fmt.Sprintf("worker-%d", i+1), Role: Worker})
	}
	return append(list, Peer{Name: "payer", Role: Payer})
}

// prepare reads the directory's network, or makes one: keys first, then the manifest, and the genesis
// last, so that a directory with a genesis is complete.
func (d *Devnet) prepare(c Config) error {
	d.Genesis = new(ledger.Genesis)
	err := readJSON(filepath.Join(c.Dir, genesisFile), d.Genesis)
	if err == nil {
		var m manifest
		if err := readJSON(filepath.Join(c.Dir, manifestFile), &m); err != nil {
			return err
		}
		d.Seed = m.Seed
		if v := len(d.Genesis.Validators); v != c.Validators || m.Workers != len(c.Engines) {
			return fmt.Errorf("%w: %d validators and %d workers, not %d and %d; ask for these or choose another directory", ErrMismatch, v, m.Workers, c.Validators, len(c.Engines))
		}
		if c.Seed != nil && (m.Seed == nil || *m.Seed != *c.Seed) {
			return fmt.Errorf("%w: it was not made from seed %d; leave the seed out or choose another directory", ErrMismatch, *c.Seed)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.Seed = c.Seed
	var random io.Reader
	if c.Seed != nil {
		random = rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(bytes.Repeat([]byte("poq"), 8), *c.Seed)))
	}
	g := &ledger.Genesis{Network: "devnet", Epoch: 1, Judge: c.Judge.ID(), MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()}}
	for _, p := range names(c.Validators, len(c.Engines)) {
		id, err := newIdentity(filepath.Join(c.Dir, p.Name), random)
		if err != nil {
			return err
		}
		a := ledger.GenesisAccount{ID: id.Account.Public(), Name: p.Name}
		switch p.Role {
		case Payer:
			a.Balance = PayerBalance
		case Validator:
			peerID, err := id.PeerID()
			if err != nil {
				return err
			}
			g.Validators = append(g.Validators, ledger.Validator{Name: p.Name, Consensus: id.Consensus.Public(), Account: a.ID, Peer: peerID.String()})
		}
		g.Accounts = append(g.Accounts, a)
	}
	slices.SortFunc(g.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	if err := g.Validate(); err != nil {
		return err
	}
	// Networks of several devnets must not mix, even if their peers should meet.
	g.Network = "devnet-" + g.Chain().Short()
	d.Genesis = g
	if err := writeJSON(filepath.Join(c.Dir, manifestFile), manifest{len(c.Engines), c.Seed}); err != nil {
		return err
	}
	return writeJSON(filepath.Join(c.Dir, genesisFile), g)
}

// newIdentity makes a peer's keys, in place of those that a start left that did not get to the end.
// Whatever else a directory of that name holds is not ours.
func newIdentity(dir string, random io.Reader) (id node.Identity, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return id, fmt.Errorf("making a peer's directory: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return id, fmt.Errorf("clearing a peer's directory: %w", err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".key" {
			continue
		}
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return id, fmt.Errorf("clearing a peer's directory: %w", err)
		}
	}
	if id, err = node.NewIdentity(random); err != nil {
		return id, err
	}
	return id, id.Save(dir)
}

func (d *Devnet) start(ctx context.Context, c Config) error {
	log := c.Logger
	if log == nil {
		log = slog.Default()
	}
	peers := names(c.Validators, len(c.Engines))
	d.Peers = make([]*Peer, len(peers))
	var g errgroup.Group
	for i, p := range peers {
		p := &p
		g.Go(func() (err error) {
			opts := []node.Option{
				node.WithDataDir(filepath.Join(c.Dir, p.Name)), node.WithGenesis(d.Genesis), node.WithLogger(log.With("peer", p.Name)),
			}
			switch p.Role {
			case Validator:
				opts = append(opts, node.WithJudge(c.Judge))
			case Worker:
				opts = append(opts, node.WithEngine(c.Engines[i-c.Validators]))
			}
			if c.Observe != nil {
				opts = append(opts, node.WithObserver(func(e node.Event) { c.Observe(p, e) }))
			}
			if p.Node, err = node.New(ctx, opts...); err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			d.Peers[i] = p
			return nil
		})
	}
	err := g.Wait()
	d.Peers = slices.DeleteFunc(d.Peers, func(p *Peer) bool { return p == nil })
	if err != nil {
		return err
	}
	for i, p := range d.Peers {
		for _, other := range d.Peers[i+1:] {
			if err := p.Node.Host().Keep(overTCP(other.Node.Host().Addrs())...); err != nil {
				return err
			}
		}
	}
	for _, p := range d.Peers {
		if err := p.Node.Start(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	for _, p := range d.Peers {
		if err := p.Node.WaitReady(ctx, len(d.Peers)-1); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	return nil
}

// overTCP picks the TCP addresses: within one machine a settlement takes two thirds of the time that it
// takes over QUIC, which encrypts and paces packets in the process (poq bench settle).
func overTCP(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return slices.DeleteFunc(addrs, func(a multiaddr.Multiaddr) bool {
		_, err := a.ValueForProtocol(multiaddr.P_TCP)
		return err != nil
	})
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
	errs := make([]error, len(d.Peers)+1)
	var g errgroup.Group
	for i, p := range d.Peers {
		g.Go(func() error {
			errs[i] = p.Node.Close()
			return nil
		})
	}
	_ = g.Wait() // the functions return no errors of their own
	errs[len(d.Peers)] = d.lock.Unlock()
	return errors.Join(errs...)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the network: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file whole or not at all.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// WaitEqual returns when all peers have settled the same tasks and keep them on disk.
func (d *Devnet) WaitEqual(ctx context.Context) error {
	for {
		most, least := 0, math.MaxInt
		for _, p := range d.Peers {
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
