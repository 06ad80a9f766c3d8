package devnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/keystore"
)

// StartPeer starts one peer of the network in a directory, alone in its process. The network was made by
// StartProcesses, which wrote down where each peer listens. opts bring a validator's judge and a worker's engine.
// ctx bounds StartPeer alone; the caller closes the peer's node.
func StartPeer(ctx context.Context, dir, name string, log *slog.Logger, opts ...node.Option) (*Peer, error) {
	n := &network{dir: dir}
	if err := n.read(); err != nil {
		return nil, err
	}
	peers := n.peers()
	if len(n.manifest.Addresses) != len(peers) {
		return nil, fmt.Errorf("%s has no addresses of peers: start the network with poq devnet --processes", filepath.Join(dir, manifestFile))
	}
	var self *Peer
	for i, p := range peers {
		a, err := multiaddr.NewMultiaddr(n.manifest.Addresses[i])
		if err != nil {
			return nil, fmt.Errorf("address of %s: %w", p.Name, err)
		}
		if p.Name != name {
			opts = append(opts, node.WithPeers(a))
			continue
		}
		self = &p
		listen, _ := peer.SplitAddr(a)
		opts = append(opts, node.WithListen(listen))
	}
	if self == nil {
		return nil, fmt.Errorf("the network in %s has no peer %q", dir, name)
	}
	if err := self.open(ctx, dir, n.genesis, log, opts...); err != nil {
		return nil, err
	}
	if err := self.Node.Start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), self.Node.Close())
	}
	return self, nil
}

// Parent returns a context that ends when in does. A process that runs a peer reads its stdin, of which the one that
// started it holds the other end: when that one wants the peer to end, or dies, the pipe closes.
func Parent(ctx context.Context, in io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	return ctx, cancel
}

// Announce looks for other peers and then tells the process that started this one, on out, that the peer is ready. It
// returns an error if it has not found all of them; the peer is of use all the same.
func (p *Peer) Announce(ctx context.Context, look Look, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, look.Most)
	defer cancel()
	err := p.Node.WaitReady(ctx, look.Others)
	_, e := fmt.Fprintln(out, readyLine)
	return errors.Join(err, e)
}

// readyLine is what the process of a peer writes to stdout when it is ready.
const readyLine = "ready"

// Ports of peers that run as processes lie below those that systems hand out to outgoing connections (from 32768
// on Linux, 49152 elsewhere), so that nobody takes one by chance while its peer is down.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// address gives every peer a place to listen. Those of an earlier start are kept as long as they are free.
func (n *network) address() error {
	var held []net.Listener // until all are chosen, so that no two are the same
	defer func() {
		for _, l := range held {
			_ = l.Close() // it took no connection
		}
	}()
	take := func(port int) error {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			held = append(held, l)
		}
		return err
	}
	peers, old := n.peers(), n.manifest.Addresses
	n.manifest.Addresses = nil
	for i, p := range peers {
		id, err := keystore.Open(filepath.Join(n.dir, p.Name), nil)
		if err != nil {
			return err
		}
		peerID, err := id.PeerID()
		if err != nil {
			return err
		}
		port := 0
		if i < len(old) {
			if a, err := multiaddr.NewMultiaddr(old[i]); err == nil {
				if v, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
					_, _ = fmt.Sscan(v, &port) // checked by take
				}
			}
		}
		for tries := 0; port == 0 || take(port) != nil; tries++ {
			if tries == 1000 {
				return fmt.Errorf("no free port between %d and %d on 127.0.0.1", lowestPort, highestPort)
			}
			port = lowestPort + rand.IntN(highestPort-lowestPort)
		}
		n.manifest.Addresses = append(n.manifest.Addresses, fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", port, peerID))
	}
	return writeJSON(filepath.Join(n.dir, manifestFile), n.manifest)
}
