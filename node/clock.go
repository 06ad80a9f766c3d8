package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/p2p"
)

// protocolClock tells the time: a request of one byte is answered with the microseconds since 1970, 8 bytes big-endian.
// Nothing of the protocol depends on clocks; people compare logs and lists.
const (
	protocolClock = "clock"
	clockAnswer   = 8
	clockPeers    = 9 // peers that are asked
)

func serveClock(context.Context, peer.ID, []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixMicro())), nil
}

// Clock is how this machine's clock compares with those of peers.
type Clock struct {
	AheadUS int64 `json:"ahead_us"` // by which this clock is ahead of the median one; negative if it is behind
	Peers   int   `json:"peers"`    // that told their time
}

// Clock asks up to nine connected peers for their time. Half of the round trip is taken off.
func (n *Node) Clock(ctx context.Context) Clock {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	peers := slices.DeleteFunc(n.host.PeerInfos(), func(p p2p.PeerInfo) bool { return p.Gone })
	peers = peers[:min(len(peers), clockPeers)]
	ahead := make([]int64, 0, len(peers))
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, p := range peers {
		asking.Go(func() {
			d, err := n.ahead(ctx, p.ID)
			if err != nil {
				n.log.Debug("peer does not tell its time", "from", p.ID.String(), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ahead = append(ahead, d)
		})
	}
	asking.Wait()
	return Clock{median(ahead), len(ahead)}
}

// ahead returns the microseconds by which this clock is ahead of a peer's.
func (n *Node) ahead(ctx context.Context, p peer.ID) (int64, error) {
	before := time.Now()
	data, err := n.host.Request(ctx, p, protocolClock, []byte{1}, clockAnswer)
	if err != nil {
		return 0, err
	}
	if len(data) != clockAnswer {
		return 0, fmt.Errorf("an answer of %d bytes, want %d", len(data), clockAnswer)
	}
	here := before.Add(time.Since(before) / 2).UnixMicro()
	return here - int64(binary.BigEndian.Uint64(data)), nil
}

// median returns the lower one of the two in the middle; 0 of none.
func median(list []int64) int64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[(len(list)-1)/2]
}
