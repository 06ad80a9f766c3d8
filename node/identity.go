package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	libp2p "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
)

// Identity is a node's three keys. They are kept apart, so that none can be used for another's work.
type Identity struct {
	Peer      libp2p.PrivKey    // authenticates connections
	Account   crypto.PrivateKey // signs orders and answers; is paid
	Consensus crypto.PrivateKey // signs votes, scores and reveals of a validator
}

// NewIdentity makes keys from random, or from the system's source if random is nil.
func NewIdentity(random io.Reader) (id Identity, err error) {
	var seed crypto.PrivateKey
	for _, k := range []*crypto.PrivateKey{&seed, &id.Account, &id.Consensus} {
		if *k, err = crypto.GenerateKey(random); err != nil {
			return id, err
		}
	}
	id.Peer, err = peerKey(seed)
	return id, err
}

func peerKey(k crypto.PrivateKey) (libp2p.PrivKey, error) {
	key, err := libp2p.UnmarshalEd25519PrivateKey(k.Bytes())
	if err != nil {
		return nil, fmt.Errorf("peer key: %w", err)
	}
	return key, nil
}

// PeerID returns the libp2p id.
func (id Identity) PeerID() (peer.ID, error) {
	p, err := peer.IDFromPrivateKey(id.Peer)
	if err != nil {
		return "", fmt.Errorf("peer id: %w", err)
	}
	return p, nil
}

// Files of an identity in a node's directory.
const (
	peerFile      = "peer.key"
	accountFile   = "account.key"
	consensusFile = "consensus.key"
)

// Save writes the keys into a directory with mode 0600. It replaces none that is there.
func (id Identity) Save(dir string) error { return id.save(dir, false) }

// save writes the keys. If some are there already, it keeps them or fails with [fs.ErrExist].
func (id Identity) save(dir string, keep bool) error {
	raw, err := id.Peer.Raw()
	if err != nil {
		return fmt.Errorf("peer key: %w", err)
	}
	seed, err := crypto.KeyFromBytes(raw)
	if err != nil {
		return fmt.Errorf("peer key: %w", err)
	}
	for name, key := range map[string]crypto.PrivateKey{peerFile: seed, accountFile: id.Account, consensusFile: id.Consensus} {
		err := saveKey(filepath.Join(dir, name), key)
		if err != nil && (!keep || !errors.Is(err, fs.ErrExist)) {
			return fmt.Errorf("writing a key: %w", err)
		}
	}
	return nil
}

// saveKey makes a key file, whole or not at all.
func saveKey(path string, key crypto.PrivateKey) error {
	data, err := key.MarshalPEM()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path) // unlike a rename it replaces nothing
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// LoadIdentity reads the keys in a directory. A key file that others may read is refused. The error
// wraps [fs.ErrNotExist] if there are none.
func LoadIdentity(dir string) (id Identity, err error) {
	seed, err := loadKey(filepath.Join(dir, peerFile))
	if err != nil {
		return id, err
	}
	if id.Peer, err = peerKey(seed); err != nil {
		return id, err
	}
	if id.Account, err = loadKey(filepath.Join(dir, accountFile)); err != nil {
		return id, err
	}
	id.Consensus, err = loadKey(filepath.Join(dir, consensusFile))
	return id, err
}

func loadKey(path string) (crypto.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return crypto.PrivateKey{}, fmt.Errorf("reading a key: %w", err)
	}
	if checkMode && info.Mode().Perm()&0o077 != 0 {
		return crypto.PrivateKey{}, fmt.Errorf("%s may be read by others (mode %o): run chmod 600 on it", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return crypto.PrivateKey{}, fmt.Errorf("reading a key: %w", err)
	}
	k, err := crypto.ParsePEM(data)
	if err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// loadOrCreateIdentity reads the keys in a directory. It makes those that are not there: all of them
// on a first start, some if that was killed.
func loadOrCreateIdentity(dir string) (Identity, error) {
	id, err := LoadIdentity(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if id, err = NewIdentity(nil); err != nil {
		return id, err
	}
	if err := id.save(dir, true); err != nil {
		return id, err
	}
	return LoadIdentity(dir)
}
