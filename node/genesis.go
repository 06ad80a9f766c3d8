package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// serveGenesis gives the genesis to who knows its hash.
func (n *Node) serveGenesis(_ context.Context, _ peer.ID, request []byte) ([]byte, error) {
	if !bytes.Equal(request, n.domain.Chain[:]) {
		return nil, fmt.Errorf("%w: a genesis of another chain", p2p.ErrNotFound)
	}
	return n.genesis.Encode(), nil
}

// FetchGenesis gets the genesis with a chain id from one of the peers at addrs, which end in /p2p/<peer id>. It needs no
// trust: the chain id is the hash. It is done with an identity that is thrown
// away. The error has a line for each address.
func FetchGenesis(ctx context.Context, network string, chain crypto.Hash, addrs ...multiaddr.Multiaddr) (g *ledger.Genesis, err error) {
	peers, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return nil, fmt.Errorf("address of a peer: %w", err)
	}
	host, err := p2p.New(p2p.Config{Network: network, Hello: helloOf(chain), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		genesis *ledger.Genesis
		err     error
	}
	answers := make(chan answer, len(peers))
	for _, p := range peers {
		go func() {
			g, err := fetchGenesis(ctx, host, p, chain)
			answers <- answer{g, err}
		}()
	}
	var errs []error
	for range peers {
		a := <-answers
		if a.err == nil {
			return a.genesis, nil
		}
		errs = append(errs, a.err)
	}
	return nil, errors.Join(errs...)
}

func fetchGenesis(ctx context.Context, host *p2p.Host, from peer.AddrInfo, chain crypto.Hash) (*ledger.Genesis, error) {
	addrs, err := peer.AddrInfoToP2pAddrs(&from)
	if err != nil {
		return nil, fmt.Errorf("address of a peer: %w", err)
	}
	if err := host.Connect(ctx, addrs...); err != nil {
		var errs []error
		for _, a := range host.Explain(from, err) {
			errs = append(errs, fmt.Errorf("%s: %s: %s", a.Addr, a.Outcome, a.Detail))
		}
		return nil, errors.Join(errs...)
	}
	data, err := host.Request(ctx, from.ID, protocolGenesis, chain[:], p2p.MaxBody)
	if err != nil {
		return nil, err
	}
	g, err := ledger.DecodeGenesis(data)
	if err == nil && g.Chain() != chain {
		err = errors.New("it is another one")
	}
	if err != nil {
		return nil, fmt.Errorf("genesis from %s: %w", from.ID, err)
	}
	return g, nil
}
