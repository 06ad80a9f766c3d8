package node

import (
	"bytes"
	"context"
	"iter"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
)

// Difference tells what sets one ledger ("here") apart from another one ("there").
type Difference struct {
	Equal     bool             `json:"equal"`      // nothing does
	Here      ledger.Digest    `json:"here"`       // when the comparison began
	There     ledger.Digest    `json:"there"`      //
	OnlyHere  Tasks            `json:"only_here"`  // settled here and missing there
	OnlyThere Tasks            `json:"only_there"` // settled there and missing here
	Conflicts ConflictingTasks `json:"conflicts"`  // settled with different outcomes
}

// maxShown bounds the tasks that a Difference names.
const maxShown = 20

// Tasks counts tasks and names the first of them, up to 20, ascending.
type Tasks struct {
	Count int             `json:"count"`
	First []ledger.TaskID `json:"first"`
}

func (t *Tasks) add(task ledger.TaskID) {
	if t.Count++; t.Count <= maxShown {
		t.First = append(t.First, task)
	}
}

// ConflictingTasks counts tasks with two outcomes and names the first of them, up to 20, ascending.
type ConflictingTasks struct {
	Count int        `json:"count"`
	First []Conflict `json:"first"`
}

// Conflict is a task with two outcomes, which takes more than f faulty validators.
type Conflict struct {
	Task  ledger.TaskID `json:"task"`
	Here  crypto.Hash   `json:"here"`
	There crypto.Hash   `json:"there"`
}

func (c *ConflictingTasks) add(f Conflict) {
	if c.Count++; c.Count <= maxShown {
		c.First = append(c.First, f)
	}
}

// digests is a ledger that can be compared: this node's, or what a peer tells of its own.
type digests interface {
	Digest(ctx context.Context) (ledger.Digest, error)
	BucketDigests(ctx context.Context) ([]ledger.Digest, error)
	// BucketTasks lists the tasks of a bucket, ascending. told is what BucketDigests said of it.
	BucketTasks(ctx context.Context, bucket int, told ledger.Digest) iter.Seq2[store.BucketTask, error]
}

// local is a ledger on this machine.
type local struct{ store *store.Reader }

func (l local) Digest(context.Context) (ledger.Digest, error) { return l.store.Digest(), nil }

func (l local) BucketDigests(context.Context) ([]ledger.Digest, error) {
	return l.store.BucketDigests(), nil
}

func (l local) BucketTasks(_ context.Context, bucket int, _ ledger.Digest) iter.Seq2[store.BucketTask, error] {
	return func(yield func(store.BucketTask, error) bool) {
		if err := l.store.Flush(); err != nil {
			yield(store.BucketTask{}, err)
			return
		}
		for after := (ledger.TaskID{}); ; {
			page, err := l.store.BucketTasks(bucket, after, syncPage)
			if err != nil {
				yield(store.BucketTask{}, err)
				return
			}
			for _, t := range page {
				if after = t.Task; !yield(t, nil) {
					return
				}
			}
			if len(page) < syncPage {
				return
			}
		}
	}
}

// Diff compares this node's ledger with that of a peer, which it asks. While tasks settle, those of the
// moment may show up as a difference.
func (n *Node) Diff(ctx context.Context, with peer.ID) (Difference, error) {
	return diff(ctx, local{n.Ledger()}, remote{n, with})
}

// DiffStores compares two ledgers on this machine.
func DiffStores(ctx context.Context, here, there *store.Reader) (Difference, error) {
	return diff(ctx, local{here}, local{there})
}

func diff(ctx context.Context, here, there digests) (d Difference, err error) {
	if d.Here, err = here.Digest(ctx); err != nil {
		return d, err
	}
	if d.There, err = there.Digest(ctx); err != nil {
		return d, err
	}
	d.OnlyHere.First, d.OnlyThere.First, d.Conflicts.First = []ledger.TaskID{}, []ledger.TaskID{}, []Conflict{}
	if d.Here != d.There {
		if err := d.buckets(ctx, here, there); err != nil {
			return d, err
		}
	}
	d.Equal = d.OnlyHere.Count+d.OnlyThere.Count+d.Conflicts.Count == 0
	return d, nil
}

func (d *Difference) buckets(ctx context.Context, here, there digests) error {
	ours, err := here.BucketDigests(ctx)
	if err != nil {
		return err
	}
	theirs, err := there.BucketDigests(ctx)
	if err != nil {
		return err
	}
	for b := range ledger.Buckets {
		if ours[b] == theirs[b] {
			continue
		}
		if err := d.merge(here.BucketTasks(ctx, b, ours[b]), there.BucketTasks(ctx, b, theirs[b])); err != nil {
			return err
		}
	}
	return nil
}

// merge notes what stands in one of two ascending lists, or in both with different outcomes.
func (d *Difference) merge(here, there iter.Seq2[store.BucketTask, error]) error {
	nextHere, stopHere := iter.Pull2(here)
	defer stopHere()
	nextThere, stopThere := iter.Pull2(there)
	defer stopThere()
	a, errA, moreA := nextHere()
	b, errB, moreB := nextThere()
	for moreA || moreB {
		switch {
		case errA != nil:
			return errA
		case errB != nil:
			return errB
		}
		order := bytes.Compare(a.Task[:], b.Task[:])
		switch {
		case moreA && (!moreB || order < 0):
			d.OnlyHere.add(a.Task)
			a, errA, moreA = nextHere()
		case moreB && (!moreA || order > 0):
			d.OnlyThere.add(b.Task)
			b, errB, moreB = nextThere()
		default:
			if a.Outcome != b.Outcome {
				d.Conflicts.add(Conflict{a.Task, a.Outcome, b.Outcome})
			}
			a, errA, moreA = nextHere()
			b, errB, moreB = nextThere()
		}
	}
	return nil
}
