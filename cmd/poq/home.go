package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/node/token"
	"github.com/poqmesh/poq/node/wholefile"
)

// Files of a peer's directory, beside keys and ledger.
const (
	tokenFile = "token" // the last one that the peer joined with: its addresses are tried at every start
	lockFile  = "LOCK"  // held while a process runs the peer, whose number stands in it
)

// home is the directory of a peer. This process holds it until close.
type home struct {
	dir  string
	lock *flock.Flock
}

// openHome takes a peer's directory, and makes it if need be.
func openHome(dir string) (*home, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the peer's directory: %w", err)
	}
	h := &home{dir, flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR))}
	ok, err := h.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if !ok {
		holder, end := "another process", "stop that one"
		if data, err := os.ReadFile(h.lock.Path()); err == nil && len(data) > 0 {
			pid := strings.TrimSpace(string(data))
			holder, end = "process "+pid, "stop it with kill "+pid
		}
		return nil, fmt.Errorf("%s runs the peer in %s already: %s, or choose another directory with --dir", holder, dir, end)
	}
	if err := os.WriteFile(h.lock.Path(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), h.lock.Unlock())
	}
	return h, nil
}

// close gives the directory back. The lock file stays: if it were removed, two processes could lock two of one name.
func (h *home) close() error {
	return errors.Join(os.Truncate(h.lock.Path(), 0), h.lock.Unlock())
}

// genesis returns the genesis of the directory. If it has none, it is taken from the token, or else from one of the peers
// or of those in the token, which are asked until one has it.
func (h *home) genesis(ctx context.Context, t token.Token, peers []multiaddr.Multiaddr, progress func(string, ...any)) (*ledger.Genesis, error) {
	path := genesis.Path(h.dir)
	g, err := genesis.Read(path)
	invited := !t.Chain.IsZero()
	switch {
	case err == nil && invited && g.Chain() != t.Chain:
		differs := fmt.Sprintf("chain %s of network %s", t.Chain.Short(), t.Network)
		if t.Genesis != nil {
			differs += ", which differs in " + g.Difference(t.Genesis)
		}
		return nil, fmt.Errorf("%s is of chain %s of network %s; the token is of %s; nothing was changed: join with another directory, --dir", path, g.Chain().Short(), g.Network, differs)
	case err == nil:
		return g, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !invited:
		return nil, fmt.Errorf("there is no %s: join a network with poq up --join TOKEN, or copy its genesis.json there; poq genesis makes one", path)
	case t.Genesis != nil:
		g = t.Genesis
	default:
		if g, err = fetchGenesis(ctx, t, append(peers, t.Addresses...), progress); err != nil {
			return nil, err
		}
	}
	return g, genesis.Put(h.dir, g)
}

// Fetching the genesis is tried for fetchTimeout, and again after fetchPause, which doubles up to fetchLong.
const (
	fetchTimeout = 20 * time.Second
	fetchPause   = 5 * time.Second
	fetchLong    = time.Minute
)

// fetchGenesis asks peers for the genesis that is not in the token, until one has it.
func fetchGenesis(ctx context.Context, t token.Token, peers []multiaddr.Multiaddr, progress func(string, ...any)) (*ledger.Genesis, error) {
	if len(peers) == 0 {
		return nil, errors.New("the token has neither the genesis nor the address of a peer: name a peer of its network with --bootstrap, or copy its genesis.json into the directory")
	}
	progress("asking the peers of the token for the genesis of network %s ...", t.Network)
	for pause := fetchPause; ; pause = min(2*pause, fetchLong) {
		hurry, cancel := context.WithTimeout(ctx, fetchTimeout)
		g, err := node.FetchGenesis(hurry, t.Network, t.Chain, peers...)
		cancel()
		if err == nil {
			return g, nil
		}
		if ctx.Err() == nil {
			progress("no peer gave the genesis; trying again in %v:\n  %s", pause, strings.ReplaceAll(err.Error(), "\n", "\n  "))
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("interrupted: nothing was joined")
		case <-time.After(pause):
		}
	}
}

// remember keeps the token that the peer joins with, and returns its addresses. Without a token it returns those of the one
// before.
func (h *home) remember(t token.Token) ([]multiaddr.Multiaddr, error) {
	path := filepath.Join(h.dir, tokenFile)
	if !t.Chain.IsZero() {
		return t.Addresses, wholefile.Replace(path, wholefile.Data([]byte(t.String()+"\n")))
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the token that the peer joined with: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err == nil {
		t, err = token.Parse(string(data))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it, or join again with poq up --join TOKEN", path, err)
	}
	return t.Addresses, nil
}

// peersFile holds the peers that were met.
func (h *home) peersFile() string { return filepath.Join(h.dir, "peers.json") }

// remembers says whether other peers were met before.
func (h *home) remembers() bool {
	_, err := os.Stat(h.peersFile())
	return err == nil
}

// identity opens the peer's keys. A peer without any gets some; a consensus key only one that is to be a validator.
func (h *home) identity(c *cobra.Command, validator bool, p *passphraseFlag) (keystore.Identity, error) {
	if _, err := keystore.Create(h.dir, validator, p.forNew(c, h.dir, false)); err != nil {
		return keystore.Identity{}, err
	}
	return keystore.Open(h.dir, p.ask(c, h.dir))
}

// takeRoles returns the roles that the peer can have in the network, and says why if they are not those it was started
// with.
func takeRoles(dir string, roles []string, g *ledger.Genesis, id *keystore.Identity, say func(string, ...any)) ([]string, error) {
	peerID, err := id.PeerID()
	if err != nil {
		return nil, err
	}
	member, place := id.Member(g), g.ValidatorByPeer(peerID.String())
	others := slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return r == roleValidator })
	switch wanted := slices.Contains(roles, roleValidator); {
	case wanted && member < 0 && place >= 0:
		say("this peer is %s in the committee of network %s, but with the consensus key %s, and %s holds %s: put that one back from its backup; until then it runs as %s, and the others wait for it",
			g.Validators[place].Name, g.Network, g.Validators[place].Consensus.Short(), keystore.Consensus.Path(dir), id.Consensus.Public().Short(), rolesText(others))
		return others, nil
	case wanted && member < 0:
		roles = others
		v, err := id.Validator("")
		if err != nil {
			return nil, err
		}
		line, err := validatorLine(v)
		if err != nil {
			return nil, err
		}
		say("this peer is not in the committee of network %s, which does not change: it runs as %s; to be a validator of a network that is yet to begin, give this to whoever makes its genesis:\n  %s", g.Network, rolesText(roles), line)
	case !wanted && member >= 0:
		say("this peer is %s in the committee of network %s, but was started without --roles validator: it does not vote, and the others wait for it", g.Validators[member].Name, g.Network)
		id.Consensus = crypto.PrivateKey{} // it can't vote by mistake
	}
	return roles, nil
}

// validatorLine returns the line with which a validator asks to be written into a genesis. One without a name gets it from
// its peer id.
func validatorLine(v ledger.Validator) (string, error) {
	if v.Name == "" {
		v.Name = "validator-" + v.Peer[len(v.Peer)-8:]
	}
	return genesis.Line(v)
}
