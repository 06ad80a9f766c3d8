package ledgertest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/poqmesh/poq/ledger"
)

func TestWhatIsMadePassesEveryCheck(t *testing.T) {
	for _, n := range []int{1, 4, 7} {
		p, q := NewPayer(Key("p")), NewPayer(Key("q"))
		g, keys := NewGenesis("test", n, p, q)
		c := New(g, keys, 3)
		var receipts []*ledger.Receipt
		for range 4 {
			_, a := c.Next(p)
			_, b := c.Next(q)
			receipts = append(receipts, a, b)
		}
		lock, _ := c.Next(p)
		s, err := ledger.Replay(g, pairs(receipts), pairs([]*ledger.LockCert{lock}))
		if err != nil {
			t.Fatalf("%d validators: %v", n, err)
		}
		if open, _ := s.Escrowed(); s.Tasks() != 8 || open != 1 {
			t.Errorf("%d validators: %d tasks, %d open", n, s.Tasks(), open)
		}
	}
}

func TestAnotherOutcomeIsAConflict(t *testing.T) {
	p := NewPayer(Key("p"))
	g, keys := NewGenesis("test", 4, p)
	c := New(g, keys, 3)
	_, r := c.Next(p)
	other, s := c.Another(r), ledger.NewState(g)
	settle := func(r *ledger.Receipt) error {
		if err := ledger.NewVerifier(g).Receipt(r); err != nil {
			t.Fatal(err)
		}
		_, err := s.Settle(r.Task(), r.Order.Statement, r.Outcome, r.Settle.Vote.Value)
		return err
	}
	if err := settle(r); err != nil {
		t.Fatal(err)
	}
	if err := settle(other); !errors.Is(err, ledger.ErrConflict) || other.Task() != r.Task() {
		t.Errorf("another outcome: %v", err)
	}
}

func TestKeysComeFromTheirNames(t *testing.T) {
	if a := Key("a").Public(); a != Key("a").Public() || a == Key("b").Public() {
		t.Error("keys do not depend on names alone")
	}
}

func pairs[T any](list []T) func(yield func(T, error) bool) {
	return func(yield func(T, error) bool) {
		for v := range slices.Values(list) {
			if !yield(v, nil) {
				return
			}
		}
	}
}

// BenchmarkReceipts verifies receipts of 4 validators one by one and in batches, as a peer does that catches
// up. There are more signatures than a Verifier remembers.
func BenchmarkReceipts(b *testing.B) {
	p := NewPayer(Key("p"))
	g, keys := NewGenesis("test", 4, p)
	c := New(g, keys, 3)
	var receipts []*ledger.Receipt
	for range 1024 {
		_, r := c.Next(p)
		receipts = append(receipts, r)
	}
	for _, n := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			v, next := ledger.NewVerifier(g), 0
			for b.Loop() {
				if _, err := v.Receipts(receipts[next : next+n]); err != nil {
					b.Fatal(err)
				}
				next = (next + n) % len(receipts)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/receipt")
		})
	}
}
