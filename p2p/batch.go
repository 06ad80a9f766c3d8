package p2p

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// batchStream is an outbound stream of gossip. Gossipsub writes each RPC by itself, which over TCP is a packet to encrypt, a
// call of the kernel at both ends, and a wake-up of the other end's reader. What it writes while an earlier write is not done goes out
// together. When messages come in bursts, or processors are busy, that saves a fifth of the time that they take.
// Writes must come from one goroutine at a time.
type batchStream struct {
	network.Stream

	mu      sync.Mutex
	room    sync.Cond // of waiting
	waiting []byte
	writing bool
	closed  bool
	err     error // of a write; the stream was reset

	// Of the goroutine that writes.
	written  []byte // to be used again
	deadline time.Time
}

func newBatchStream(s network.Stream) *batchStream {
	b := &batchStream{Stream: s}
	b.room.L = &b.mu
	return b
}

// Write copies p and returns at once, unless too much waits. The error may be that of an earlier Write.
func (b *batchStream) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && len(b.waiting) > 0 && len(b.waiting)+len(p) > gossipBatch {
		b.room.Wait()
	}
	if b.err != nil {
		return 0, b.err
	}
	b.waiting = append(b.waiting, p...)
	if !b.writing {
		b.writing = true
		go b.write()
	}
	return len(p), nil
}

// write writes what waits until nothing does.
func (b *batchStream) write() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && len(b.waiting) > 0 {
		batch := b.waiting
		b.waiting = b.written[:0]
		b.room.Signal()
		b.mu.Unlock()
		err := b.writeBatch(batch)
		b.mu.Lock()
		b.err = err
		b.written = nil
		if cap(batch) <= gossipBuffer { // larger ones are seldom needed, and peers are many
			b.written = batch
		}
	}
	b.writing = false
	switch {
	case b.err != nil:
		_ = b.Reset() // as gossipsub does when a write fails
		b.room.Signal()
	case b.closed:
		_ = b.Stream.Close()
	}
}

func (b *batchStream) writeBatch(batch []byte) error {
	// Each new deadline costs Yamux a timer, so one serves several batches.
	if now := time.Now(); b.deadline.Sub(now) < gossipWrite/2 {
		b.deadline = now.Add(gossipWrite)
		if err := b.Stream.SetWriteDeadline(b.deadline); err != nil {
			return err
		}
	}
	_, err := b.Stream.Write(batch)
	return err
}

// SetWriteDeadline does nothing. Gossipsub sets one for each RPC; a batch has its own.
func (b *batchStream) SetWriteDeadline(time.Time) error { return nil }

// Close closes the stream when what waits is written.
func (b *batchStream) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.writing {
		return nil
	}
	return b.Stream.Close()
}
