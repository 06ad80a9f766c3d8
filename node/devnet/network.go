package devnet

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/node/wholefile"
)

// ErrMismatch is wrapped when a directory holds another network than the one asked for.
var ErrMismatch = errors.New("the directory holds another network")

// manifest is what a directory says about its network, beside the genesis.
type manifest struct {
	Workers int     `json:"workers"`
	Seed    *uint64 `json:"seed,omitempty"`
	// Addresses are those of peers that run as processes of their own, in the peers' order.
	Addresses []string `json:"addresses,omitempty"`
}

const (
	manifestFile = "devnet.json"
	lockFile     = "LOCK"
)

// network is what a directory keeps. This process holds the directory until close.
type network struct {
	dir      string
	genesis  *ledger.Genesis
	manifest manifest
	lock     *flock.Flock
}

// openNetwork takes up the network in a directory, or makes one.
func openNetwork(dir string, validators, workers int, judge crypto.Hash, seed *uint64) (*network, error) {
	switch {
	case validators < 1 || validators > ledger.MaxValidators:
		return nil, fmt.Errorf("%d validators, want 1 to %d", validators, ledger.MaxValidators)
	case workers < 0 || workers > MaxWorkers:
		return nil, fmt.Errorf("%d workers, want at most %d", workers, MaxWorkers)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory: %w", err)
	}
	n := &network{dir: dir, lock: flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600))}
	ok, err := n.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if !ok {
		return nil, fmt.Errorf("directory %s: %w; stop that one or choose another directory", dir, store.ErrInUse)
	}
	if _, err = os.Stat(genesis.Path(dir)); errors.Is(err, fs.ErrNotExist) {
		err = n.make(validators, workers, judge, seed)
	} else if err = n.read(); err == nil {
		err = n.check(validators, workers, seed)
	}
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *network) close() error { return n.lock.Unlock() }

// names returns the peers' names in their order.
func names(validators, workers int) (list []Peer) {
	for i := range validators {
		list = append(list, Peer{Name: fmt.Sprintf("validator-%d", i+1), Role: Validator, Index: i})
	}
	for i := range workers {
		list = append(list, Peer{Name: fmt.Sprintf("worker-%d", i+1), Role: Worker, Index: i})
	}
	return append(list, Peer{Name: "payer", Role: Payer})
}

// peers returns the network's peers, without nodes.
func (n *network) peers() []Peer { return names(len(n.genesis.Validators), n.manifest.Workers) }

// read reads what the directory keeps.
func (n *network) read() error {
	var err error
	if n.genesis, err = genesis.Read(genesis.Path(n.dir)); err != nil {
		return err
	}
	return readJSON(filepath.Join(n.dir, manifestFile), &n.manifest)
}

// check compares the network with the one that is wanted.
func (n *network) check(validators, workers int, seed *uint64) error {
	m := n.manifest
	if v := len(n.genesis.Validators); v != validators || m.Workers != workers {
		return fmt.Errorf("%w: %d validators and %d workers, not %d and %d; ask for these or choose another directory", ErrMismatch, v, m.Workers, validators, workers)
	}
	if seed != nil && (m.Seed == nil || *m.Seed != *seed) {
		return fmt.Errorf("%w: it was not made from seed %d; leave the seed out or choose another directory", ErrMismatch, *seed)
	}
	return nil
}

// make makes a network: keys first, then the manifest, and the genesis last, so that a directory with a
// genesis is complete.
func (n *network) make(validators, workers int, judge crypto.Hash, seed *uint64) error {
	var random io.Reader
	if seed != nil {
		random = rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(bytes.Repeat([]byte("poq"), 8), *seed)))
	}
	g := &ledger.Genesis{Network: "devnet", Epoch: 1, Judge: judge, MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()}}
	for _, p := range names(validators, workers) {
		id, err := newIdentity(filepath.Join(n.dir, p.Name), random, p.Role == Validator)
		if err != nil {
			return err
		}
		a := ledger.GenesisAccount{ID: id.Account.Public(), Name: p.Name}
		switch p.Role {
		case Payer:
			a.Balance = PayerBalance
		case Validator:
			v, err := id.Validator(p.Name)
			if err != nil {
				return err
			}
			g.Validators = append(g.Validators, v)
		}
		g.Accounts = append(g.Accounts, a)
	}
	slices.SortFunc(g.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
	if err := g.Validate(); err != nil {
		return err
	}
	// Networks of several devnets must not mix, even if their peers should meet.
	g.Network = "devnet-" + g.Chain().Short()
	n.genesis, n.manifest = g, manifest{Workers: workers, Seed: seed}
	if err := writeJSON(filepath.Join(n.dir, manifestFile), n.manifest); err != nil {
		return err
	}
	return genesis.Put(n.dir, g)
}

// newIdentity makes a peer's keys, in place of those that a start left that did not get to the end.
// Whatever else a directory of that name holds is not ours.
func newIdentity(dir string, random io.Reader, validator bool) (id keystore.Identity, err error) {
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
	if id, err = keystore.New(random, validator); err != nil {
		return id, err
	}
	return id, id.Save(dir)
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
	return wholefile.Replace(path, wholefile.Data(append(data, '\n')))
}
