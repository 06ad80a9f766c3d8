package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/gofrs/flock"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

// batchHold keeps a file of results for one batch at a time, by a file beside it. That file also tells which order came next when the
// batch began: after a kill, orders from there on whose prompt has no result are the batch's own. It is gone when nothing is
// left to look for.
type batchHold struct {
	lock *flock.Flock
	keep bool // for the next run
}

// holdSuffix follows the name of the results.
const holdSuffix = ".lock"

// holdOffset is where the file's text begins: on Windows nobody reads the first byte while it is locked.
const holdOffset = 1

// batchStart is the text of the file.
type batchStart struct {
	Account ledger.AccountID `json:"account"`
	Next    uint64           `json:"next"` // nonce of the account's next order
}

// holdResults returns nil for what is no file, like a pipe.
func holdResults(path string) (*batchHold, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	for {
		lock := flock.New(path+holdSuffix, flock.SetPermissions(0o600))
		ok, err := lock.TryLock()
		if err != nil {
			return nil, fmt.Errorf("results: %w", err)
		}
		if !ok {
			return nil, errors.Join(fmt.Errorf("another batch adds its results to %s: wait until it ends, or give --out another file", path), lock.Close())
		}
		held, err := lock.Stat()
		if there, e := os.Stat(lock.Path()); err == nil && e == nil && os.SameFile(held, there) {
			return &batchHold{lock: lock, keep: held.Size() > 0}, nil
		}
		if err := lock.Close(); err != nil { // its holder removed it meanwhile
			return nil, fmt.Errorf("results: %w", err)
		}
	}
}

// release ends the hold.
func (h *batchHold) release() error {
	if h == nil {
		return nil
	}
	if !h.keep {
		_ = os.Remove(h.lock.Path()) // what can't be removed while it is open does no harm
	}
	return h.lock.Close()
}

// begin notes where a batch begins, unless an earlier run of it did, and returns the orders that were given since then.
func (h *batchHold) begin(ctx context.Context, client *control.Client, again bool) ([]control.Order, error) {
	h.keep = true
	f, err := os.OpenFile(h.lock.Path(), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	defer f.Close()
	var start batchStart
	if json.NewDecoder(io.NewSectionReader(f, holdOffset, 1<<10)).Decode(&start) == nil && again {
		since, err := client.Orders(ctx, start.Next)
		if err != nil {
			return nil, err
		}
		if since.Account == start.Account { // else another peer is asked this time
			return since.Orders, nil
		}
	}
	now, err := client.Orders(ctx, math.MaxUint64)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(batchStart{now.Account, now.Next})
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), holdOffset) // what an earlier one leaves behind it is not read
	}
	if err != nil {
		return nil, fmt.Errorf("results: %w", err)
	}
	return nil, nil
}

// adopt gives lines that were ordered by a run that was killed the task that it did not come to write down, and returns results that
// tell so. Of lines with the same prompt each gets the order with its options, or else, if those of the batch have changed,
// another one of theirs.
func adopt(lines []batchLine, options llm.Options, results map[string]batchResult, orders []control.Order) (found []batchResult) {
	told := map[ledger.TaskID]bool{}
	for _, r := range results {
		told[r.Task] = true
	}
	byPrompt := map[crypto.Hash][]control.Order{}
	for _, o := range orders {
		if !told[o.Task] {
			byPrompt[o.Prompt] = append(byPrompt[o.Prompt], o)
		}
	}
	for _, exact := range []bool{true, false} {
		for i := range lines {
			l := &lines[i]
			if l.err != nil || !l.task.IsZero() {
				continue
			}
			h, wishes := crypto.Sum([]byte(l.prompt)), above(options, l.wishes)
			list := byPrompt[h]
			at := slices.IndexFunc(list, func(o control.Order) bool { return !exact || sameOrder(l.prompt, o.Options, wishes) })
			if at < 0 {
				continue
			}
			l.task, l.fee = list[at].Task, list[at].Fee
			byPrompt[h] = slices.Delete(list, at, at+1)
			found = append(found, unsettled(*l, "interrupted before the task was written down"))
		}
	}
	return found
}

// sameOrder says whether an order of a prompt was given with options, which it carries in thousandths.
func sameOrder(prompt string, ordered, options llm.Options) bool {
	got, err := node.EncodePrompt(llm.Request{Prompt: prompt, Options: ordered})
	if err != nil {
		return false
	}
	want, err := node.EncodePrompt(llm.Request{Prompt: prompt, Options: options})
	return err == nil && bytes.Equal(got, want)
}

// unsettled is the result of a line whose task is in force.
func unsettled(l batchLine, why string) batchResult {
	return batchResult{Line: l.number, ID: l.id, Prompt: l.prompt, Task: l.task, Cost: l.fee, Error: why}
}
