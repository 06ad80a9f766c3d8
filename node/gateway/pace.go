package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
)

// maxBusy bounds the tasks of a gateway that validators are at work on, which is not while they wait for answers. Where more are begun
// than they get through in the half second after which they ask each other what is missing, they are busy with that, and settle
// fewer tasks, or leave out scores that come late.
const maxBusy = 32

// pace has requests wait for their turn.
type pace struct {
	mu   sync.Mutex
	busy int
	line []chan struct{} // who waits, in their order; closed when it is their turn
}

// errEnding says that a request ended before its turn: its client left, which does not read it, or the gateway is being closed.
var errEnding = errors.New("this peer is ending; nothing was ordered")

// enter waits until there is room for a task, which has to leave then. It is false if ctx ended before.
func (p *pace) enter(ctx context.Context) bool {
	p.mu.Lock()
	if p.busy < maxBusy {
		p.busy++
		p.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	p.line = append(p.line, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.line, turn)
	if i >= 0 {
		p.line = slices.Delete(p.line, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // its turn came meanwhile
		p.leave()
	}
	return false
}

// back counts a task again that was begun, even if there is no room.
func (p *pace) back() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy++
}

func (p *pace) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.busy--; p.busy < maxBusy && len(p.line) > 0; p.busy++ {
		close(p.line[0])
		p.line = p.line[1:]
	}
}

// follow leaves for a task that has entered whenever it waits for answers, and at its end. It returns then.
func (p *pace) follow(t *node.Task) {
	busy := true
	for e := range t.Events() {
		switch {
		case e.Step == ledger.Locked && busy:
			busy = false
			p.leave()
		case (e.Step == ledger.Answered || e.Step == ledger.Sealed) && !busy:
			busy = true
			p.back()
		}
	}
	if busy {
		p.leave()
	}
}
