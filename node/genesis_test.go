package node

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/p2p"
)

func TestGenesisIsFetchedByItsHash(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1)
	s.launch(s.validators[0])
	addrs, chain := s.validators[0].node.Host().Addrs(), s.genesis.Chain()

	// One that gives out another genesis and one that is away do not keep it from those who ask.
	other := *s.genesis
	other.Epoch++
	liar := s.bareHost(testIdentity(t, "liar"))
	if err := liar.Serve(p2p.ServeConfig{Name: protocolGenesis, MaxRequest: 32, Handle: func(context.Context, peer.ID, []byte) ([]byte, error) {
		return other.Encode(), nil
	}}); err != nil {
		t.Fatal(err)
	}
	away := s.bareHost(testIdentity(t, "away"))
	awayAddrs := away.Addrs()
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	bad := append(liar.Addrs(), awayAddrs...)
	got, err := FetchGenesis(soon(t), s.genesis.Network, chain, append(append([]multiaddr.Multiaddr{}, bad...), addrs...)...)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, s.genesis) {
		t.Errorf("fetched %+v, want %+v", got, s.genesis)
	}

	if _, err := FetchGenesis(soon(t), s.genesis.Network, chain, bad...); err == nil || !strings.Contains(err.Error(), "another one") || !strings.Contains(err.Error(), "nothing listens there") {
		t.Errorf("from a liar and one that is away: %v, want both explained", err)
	}
	if _, err := FetchGenesis(soon(t), s.genesis.Network, crypto.Hash{1}, addrs...); err == nil || !strings.Contains(err.Error(), "wrong genesis") {
		t.Errorf("a genesis of another chain: %v, want that it is said", err)
	}
}
