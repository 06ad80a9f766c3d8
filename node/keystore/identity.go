package keystore

import (
	"fmt"
	"io"
	"slices"

	libp2p "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Identity is a peer's keys. They are kept apart, so that none can be used for another's work.
type Identity struct {
	Peer      libp2p.PrivKey    // authenticates connections
	Account   crypto.PrivateKey // signs orders and answers; is paid
	Consensus crypto.PrivateKey // signs votes, scores and reveals of a validator; zero for all others
}

// New makes keys from random, or from the system's source if random is nil. Only a validator gets a
// consensus key.
func New(random io.Reader, validator bool) (id Identity, err error) {
	var seed crypto.PrivateKey
	keys := []*crypto.PrivateKey{&seed, &id.Account}
	if validator {
		keys = append(keys, &id.Consensus)
	}
	for _, k := range keys {
		if *k, err = crypto.GenerateKey(random); err != nil {
			return id, err
		}
	}
	id.Peer, err = peerKey(seed)
	return id, err
}

// PeerID returns the libp2p id.
func (id Identity) PeerID() (peer.ID, error) {
	p, err := peer.IDFromPrivateKey(id.Peer)
	if err != nil {
		return "", fmt.Errorf("peer id: %w", err)
	}
	return p, nil
}

// Validator describes a validator's public part, as a genesis has it.
func (id Identity) Validator(name string) (v ledger.Validator, err error) {
	p, err := id.PeerID()
	if err != nil {
		return v, err
	}
	return ledger.Validator{Name: name, Consensus: id.Consensus.Public(), Account: id.Account.Public(), Peer: p.String()}, nil
}

// Member returns the index in a committee of the validator whose consensus key this is, -1 if it has none.
func (id Identity) Member(g *ledger.Genesis) int {
	if id.Consensus.IsZero() {
		return -1
	}
	key := id.Consensus.Public()
	return slices.IndexFunc(g.Validators, func(v ledger.Validator) bool { return v.Consensus == key })
}

// Save adds the keys to a directory, unencrypted. It replaces none that is there.
func (id Identity) Save(dir string) error {
	raw, err := id.Peer.Raw()
	if err != nil {
		return fmt.Errorf("peer key: %w", err)
	}
	seed, err := crypto.KeyFromBytes(raw)
	if err != nil {
		return fmt.Errorf("peer key: %w", err)
	}
	for kind, key := range map[Kind]crypto.PrivateKey{Peer: seed, Account: id.Account, Consensus: id.Consensus} {
		if key.IsZero() {
			continue
		}
		if err := Add(dir, kind, key, nil); err != nil {
			return err
		}
	}
	return nil
}

func peerKey(k crypto.PrivateKey) (libp2p.PrivKey, error) {
	key, err := libp2p.UnmarshalEd25519PrivateKey(k.Bytes())
	if err != nil {
		return nil, fmt.Errorf("peer key: %w", err)
	}
	return key, nil
}

// PeerID returns the libp2p id that belongs to a public key.
func PeerID(k crypto.PublicKey) (peer.ID, error) {
	key, err := libp2p.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", fmt.Errorf("peer id: %w", err)
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("peer id: %w", err)
	}
	return id, nil
}

// PublicKey returns the key that a libp2p id holds. Every peer of a mesh has an id that holds an ed25519 key.
func PublicKey(id peer.ID) (k crypto.PublicKey, err error) {
	key, err := id.ExtractPublicKey()
	if err != nil {
		return k, fmt.Errorf("peer id %s holds no key: %w", id, err)
	}
	raw, err := key.Raw()
	if err != nil || key.Type() != libp2p.Ed25519 || len(raw) != len(k) {
		return k, fmt.Errorf("peer id %s is not of an ed25519 key", id)
	}
	return crypto.PublicKey(raw), nil
}
