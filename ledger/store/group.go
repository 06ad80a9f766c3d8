package store

import (
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	memTableSize = 8 << 20
	// valueThreshold is the size from which on a value goes to Badger's value log, and its place into the tree.
	valueThreshold = 1 << 10
)

// Bounds of a group that is written at once. They are measured with BenchmarkApply: each group is synced
// twice, in the value log and in the tree's log.
const (
	maxGroup      = 1024
	maxGroupBytes = 4 << 20
	// A transaction of Badger's takes less than 15% of a memtable, and an entry for every 100 bytes of that.
	maxGroupTree    = memTableSize / 8
	maxGroupEntries = maxGroupTree / 128
)

// write is what one certificate or blob changes: nil values delete.
type write struct {
	entries []*badger.Entry
	bytes   int
	tree    int // of these, what goes into the tree
}

func (w *write) set(k, v []byte) { w.entry(badger.NewEntry(k, v)) }

func (w *write) entry(e *badger.Entry) {
	w.entries = append(w.entries, e)
	w.bytes += len(e.Key) + len(e.Value)
	w.tree += treeSize(e)
}

// treeSize is at least what Badger counts for an entry in a transaction.
func treeSize(e *badger.Entry) int {
	const overhead = 32
	if len(e.Value) < valueThreshold {
		return len(e.Key) + len(e.Value) + overhead
	}
	return len(e.Key) + overhead
}

// group is what the applier writes in one transaction: of each key the last value.
type group struct {
	entries map[string]*badger.Entry
	writes  int
	bytes   int
}

// newGroup takes writes from the beginning of those that wait: at least one, and as many as fit.
func newGroup(pending []write) *group {
	g := &group{entries: map[string]*badger.Entry{}}
	tree := 0
	for _, w := range pending[:min(len(pending), maxGroup)] {
		if g.writes > 0 && (g.bytes+w.bytes > maxGroupBytes || tree+w.tree > maxGroupTree || len(g.entries)+len(w.entries) > maxGroupEntries) {
			break
		}
		for _, e := range w.entries {
			if old := g.entries[string(e.Key)]; old != nil {
				tree -= treeSize(old)
			}
			g.entries[string(e.Key)] = e
		}
		tree += w.tree
		g.bytes += w.bytes
		g.writes++
	}
	return g
}

func (g *group) set(txn *badger.Txn) error {
	for _, e := range g.entries {
		var err error
		if e.Value == nil {
			err = txn.Delete(e.Key)
		} else {
			err = txn.SetEntry(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collectEvery is how often the value log is looked through for what expired.
const collectEvery = time.Hour

// collect gives back the space of long texts that expired.
func (s *Store) collect() {
	defer close(s.collected)
	t := time.NewTicker(collectEvery)
	defer t.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-t.C:
			s.reclaim()
		}
	}
}

// reclaim writes files of the value log anew of which half is waste, as Badger found when it put its tree
// in order.
func (s *Store) reclaim() {
	for s.db.RunValueLogGC(0.5) == nil { // an error says that there is no such file, or that the ledger was closed
	}
}
