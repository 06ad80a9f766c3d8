// Package genesis keeps the genesis of a network in a peer's directory, and has the line with which a validator asks to
// be written into one.
package genesis

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/wholefile"
)

// Errors a caller may branch on.
var (
	// ErrOther is wrapped when a directory has another genesis.
	ErrOther = errors.New("the directory has the genesis of another network")
	// ErrInUse is wrapped when a directory has a ledger that began with its genesis.
	ErrInUse = errors.New("a ledger began with this genesis")
)

// Path returns where a directory has its genesis.
func Path(dir string) string { return filepath.Join(dir, "genesis.json") }

// Read reads a genesis from a file. If nothing is wrong but that it has no validators yet, it returns the genesis beside
// an error that wraps [ledger.ErrNoValidators].
func Read(path string) (*ledger.Genesis, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the genesis: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, ledger.MaxGenesisFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the genesis: %w", err)
	}
	g, err := ledger.ParseGenesis(data)
	if g != nil {
		if e := checkPeers(g); e != nil {
			g, err = nil, e
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return g, err
}

// checkPeers checks what the ledger can't: it knows nothing of peer ids.
func checkPeers(g *ledger.Genesis) error {
	for i, v := range g.Validators {
		if _, err := peer.Decode(v.Peer); err != nil {
			return fmt.Errorf("genesis: validator %d %q: peer id %s: %w", i+1, v.Name, v.Peer, err)
		}
	}
	return nil
}

// Put writes the genesis of a directory, which is made if need be. If it has one it must be the same, else the error
// wraps [ErrOther] and names the difference.
func Put(dir string, g *ledger.Genesis) error {
	old, err := Read(Path(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := checkPeers(g); err != nil {
			return err
		}
		return write(dir, g)
	case err != nil && !errors.Is(err, ledger.ErrNoValidators):
		return err
	case old.Chain() != g.Chain():
		return fmt.Errorf("%w: %s has chain %s, this is chain %s, which differs in %s; choose another directory",
			ErrOther, Path(dir), old.Chain().Short(), g.Chain().Short(), old.Difference(g))
	}
	return nil
}

// Change replaces the genesis of a directory, or writes the first one. If there is a ledger or a vote log, which belong
// to the genesis that they began with, the error wraps [ErrInUse]. Those of a devnet lie in the directories of its peers.
func Change(dir string, g *ledger.Genesis) error {
	for _, name := range []string{"ledger", "votes"} {
		for _, where := range []string{name, filepath.Join("*", name)} {
			found, err := fs.Glob(os.DirFS(dir), filepath.ToSlash(where))
			if err != nil {
				return fmt.Errorf("looking for a ledger: %w", err)
			}
			if len(found) > 0 {
				return fmt.Errorf("%w: there is %s, and a changed genesis is another network: use another directory, or move ledger and votes away to begin anew",
					ErrInUse, filepath.Join(dir, found[0]))
			}
		}
	}
	return write(dir, g)
}

func write(dir string, g *ledger.Genesis) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory: %w", err)
	}
	data, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the genesis: %w", err)
	}
	return wholefile.Replace(Path(dir), wholefile.Data(append(data, '\n')))
}
