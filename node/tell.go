package node

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/p2p"
)

const (
	// talksKept is for how many tasks that are over what was said is kept, for payers that begin to follow late.
	talksKept = 64
	// talkIdle is how long a payer without tasks here may follow: it holds one of few places.
	talkIdle = time.Minute
)

// teller tells payers the texts of their tasks while a worker makes them. Nothing waits for a payer that reads slowly: it gets
// larger pieces, or is left behind.
type teller struct {
	node *Node

	mu        sync.Mutex
	talks     map[ledger.TaskID]*talk
	over      []ledger.TaskID // of talks, in the order in which they ended
	followers map[*follower]bool
}

// talk is what a worker has said of one task.
type talk struct {
	teller *teller
	task   ledger.TaskID
	payer  ledger.AccountID
	text   []byte
	end    []byte // the last frame, once there is one
}

// follower is a payer that listens.
type follower struct {
	payer ledger.AccountID
	told  map[ledger.TaskID]int // bytes of text, or toldAll
	wake  chan struct{}         // holds an event when there is more to tell
}

const toldAll = -1

func newTeller(n *Node) *teller {
	return &teller{node: n, talks: map[ledger.TaskID]*talk{}, followers: map[*follower]bool{}}
}

// begin begins to talk about a task.
func (t *teller) begin(task ledger.TaskID, payer ledger.AccountID) *talk {
	k := &talk{teller: t, task: task, payer: payer}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.talks[task] = k
	return k
}

// say adds a piece of text. What is longer than an answer may be is not told: it will be none.
func (k *talk) say(text string) {
	k.teller.mu.Lock()
	defer k.teller.mu.Unlock()
	if text != "" && k.end == nil && len(k.text)+len(text) <= ledger.MaxAnswer && utf8.ValidString(text) {
		k.text = append(k.text, text...)
		k.tell()
	}
}

// answered ends the talk with an answer, of which an engine may have said nothing yet.
func (k *talk) answered(a *llm.Answer) {
	k.teller.mu.Lock()
	rest, ok := strings.CutPrefix(a.Text, string(k.text))
	k.teller.mu.Unlock()
	if ok {
		k.say(rest)
	}
	k.finish(talkFrame{told: Told{Model: oneLine(a.Model, maxModel), Stop: a.Stop, PromptTokens: a.PromptTokens, AnswerTokens: a.AnswerTokens}})
}

// failed ends the talk without an answer.
func (k *talk) failed(reason string) { k.finish(talkFrame{fail: reason}) }

func (k *talk) finish(f talkFrame) {
	t := k.teller
	t.mu.Lock()
	defer t.mu.Unlock()
	if k.end != nil {
		return
	}
	f.task, f.at = k.task, uint32(len(k.text))
	k.end = f.encode()
	k.tell()
	if t.over = append(t.over, k.task); len(t.over) > talksKept {
		for f := range t.followers {
			delete(f.told, t.over[0])
		}
		delete(t.talks, t.over[0])
		t.over = t.over[1:]
	}
}

// tell wakes who waits for more; the teller's lock must be held.
func (k *talk) tell() {
	for f := range k.teller.followers {
		if f.payer != k.payer {
			continue
		}
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// next returns what a follower has not been told yet, at most one piece of each task.
func (t *teller) next(f *follower) (frames [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for task, k := range t.talks {
		told := f.told[task]
		switch {
		case k.payer != f.payer || told == toldAll:
		case told < len(k.text):
			piece := firstPiece(k.text[told:])
			frames = append(frames, talkFrame{task: task, at: uint32(told), text: string(piece)}.encode())
			f.told[task] = told + len(piece)
		case k.end != nil:
			frames = append(frames, k.end)
			f.told[task] = toldAll
		}
	}
	return frames
}

// firstPiece is the beginning of a text that fits into a frame, in whole characters.
func firstPiece(text []byte) []byte {
	if len(text) <= maxPiece {
		return text
	}
	end := maxPiece
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// serve tells a payer the texts of its tasks.
func (t *teller) serve(ctx context.Context, from peer.ID, request []byte, send func([]byte) error) error {
	payer, err := t.node.introduced(from, request)
	if err != nil {
		return fmt.Errorf("%w: %w", p2p.ErrBadRequest, err)
	}
	if t.node.store.Account(payer) == (ledger.Account{}) {
		return fmt.Errorf("%w: account %s has never had credits", p2p.ErrNotFound, payer.Short())
	}
	if err := send(t.node.introduce(from)); err != nil {
		return err
	}
	return t.follow(ctx, payer, send)
}

// follow sends what there is to tell a payer until ctx ends, or for long nothing has been said.
func (t *teller) follow(ctx context.Context, payer ledger.AccountID, send func([]byte) error) error {
	f := &follower{payer: payer, told: map[ledger.TaskID]int{}, wake: make(chan struct{}, 1)}
	t.mu.Lock()
	t.followers[f] = true
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.followers, f)
	}()
	idle := time.NewTimer(talkIdle)
	defer idle.Stop()
	for {
		frames := t.next(f)
		for _, frame := range frames {
			if err := send(frame); err != nil {
				return err
			}
		}
		if len(frames) > 0 {
			idle.Reset(talkIdle)
			continue
		}
		select {
		case <-f.wake:
		case <-idle.C:
			if !t.owes(payer) {
				return nil
			}
			idle.Reset(talkIdle)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// owes says whether a task of a payer is being answered.
func (t *teller) owes(payer ledger.AccountID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.talks {
		if k.payer == payer && k.end == nil {
			return true
		}
	}
	return false
}
