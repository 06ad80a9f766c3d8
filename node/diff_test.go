package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/ledger"
)

func TestDiffFindsWhatEachLedgerMissesAndWhatContradicts(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	s.record.lenient = true // the peers fetch nothing here, as none is started
	c, all, _ := s.history(80)
	slices.SortFunc(all, func(a, b *ledger.Receipt) int { return slices.Compare(a.Settle.Vote.Task[:], b.Settle.Vote.Task[:]) })
	tasks := tasksOf(all)
	theirs := slices.Clone(all[10:])
	theirs[5] = c.Another(all[15])
	here, there := s.follower("here", all[:50]), s.follower("there", theirs)
	if err := here.node.Host().Connect(soon(t), there.node.Host().Addrs()...); err != nil {
		t.Fatal(err)
	}
	overNetwork := func(a, b *member) (Difference, error) { return a.node.Diff(soon(t), b.node.Host().ID()) }
	onDisk := func(a, b *member) (Difference, error) { return DiffStores(soon(t), a.node.Ledger(), b.node.Ledger()) }
	for name, diff := range map[string]func(a, b *member) (Difference, error){"over the network": overNetwork, "on disk": onDisk} {
		d, err := diff(here, there)
		if err != nil {
			t.Fatal(err)
		}
		ours, others := all[15].Settle.Vote.Value, theirs[5].Settle.Vote.Value
		want := Difference{
			Here: here.node.store.Digest(), There: there.node.store.Digest(),
			OnlyHere: Tasks{10, tasks[:10]}, OnlyThere: Tasks{30, tasks[50:70]},
			Conflicts: ConflictingTasks{1, []Conflict{{tasks[15], ours, others}}},
		}
		if fmt.Sprint(d) != fmt.Sprint(want) {
			t.Errorf("%s:\n%v\nwant\n%v", name, d, want)
		}
		back, err := diff(there, here)
		if err != nil || back.OnlyHere.Count != 30 || back.OnlyThere.Count != 10 || back.Conflicts.First[0] != (Conflict{tasks[15], others, ours}) {
			t.Errorf("%s, the other way: %v, %v", name, back, err)
		}
		same, err := diff(here, here)
		if name == "on disk" && (err != nil || !same.Equal || same.Here.Tasks != 50) {
			t.Errorf("%s, with itself: %v, %v", name, same, err)
		}
	}
	if _, err := here.node.Diff(soon(t), peer.ID("nobody")); err == nil {
		t.Error("a peer that is not there was compared with")
	}
	liar := s.server("liar", there, func(_ context.Context, a ask, truth []byte) []byte {
		if a.kind == askTasks {
			return encodeBucketTasks(nil)
		}
		return truth
	})
	if err := here.node.Host().Connect(soon(t), liar.Addrs()...); err != nil {
		t.Fatal(err)
	}
	if _, err := here.node.Diff(soon(t), liar.ID()); !errors.Is(err, errLie) {
		t.Errorf("a list that does not make its digest: %v", err)
	}
}
