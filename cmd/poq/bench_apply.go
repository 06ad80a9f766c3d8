package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node/wholefile"
)

// applyBench is what bench apply measured.
type applyBench struct {
	Cores      int          `json:"cores"`
	Validators int          `json:"validators"`
	Tasks      int          `json:"tasks"`
	Receipt    int          `json:"receipt_bytes"` // size of one
	Ways       []benchedWay `json:"ways"`
}

// benchedWay is one way of settlements into a ledger.
type benchedWay struct {
	Name      string `json:"name"`
	PerSecond int    `json:"settlements_per_second"` // until all are durable
}

// applyMostTasks bounds what lies in memory: about 10 KB each.
const applyMostTasks = 200_000

func benchApply(g *globals) *cobra.Command {
	b := &applyBench{Cores: runtime.NumCPU()}
	c := &cobra.Command{
		Use: "apply", Short: "Time how many settlements a second a peer's ledger takes until they are durable", Args: args(cobra.NoArgs),
		Long: `Applies valid receipts to new ledgers on this disk, as fast as they take them: state,
digest and Badger with synced writes. First certificates that were verified, alone and
after their locks as in a running network; then an archive whose receipts are decoded and
verified on all cores.`,
	}
	c.Flags().IntVar(&b.Tasks, "tasks", 30_000, "settled tasks to apply")
	c.Flags().IntVar(&b.Validators, "validators", 4, "size of the committee")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.Tasks < 1 || b.Tasks > applyMostTasks || b.Validators < 1 || b.Validators > ledger.MaxValidators {
			return usagef("want 1 to %d tasks and 1 to %d validators", applyMostTasks, ledger.MaxValidators)
		}
		return measure(c, g, b)
	}
	return c
}

func (b *applyBench) print(w io.Writer) {
	fmt.Fprintf(w, "%d settlements of %d validators, receipts of %d bytes; %d cores\n\n", b.Tasks, b.Validators, b.Receipt, b.Cores)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "UNTIL DURABLE\tSETTLEMENTS/S")
	for _, p := range b.Ways {
		fmt.Fprintf(t, "%s\t%d\n", p.Name, p.PerSecond)
	}
	t.Flush()
}

// history is settled tasks of several payers, in the order of each.
type history struct {
	locks    []*ledger.LockCert
	receipts []*ledger.Receipt
}

func (b *applyBench) make() (*ledger.Genesis, *history, error) {
	committee, payers := benchCommittee("bench-apply", b.Validators, b.Cores)
	h := &history{make([]*ledger.LockCert, b.Tasks), make([]*ledger.Receipt, b.Tasks)}
	var g errgroup.Group
	for i, p := range payers {
		g.Go(func() error {
			for n := i; n < b.Tasks; n += len(payers) {
				h.locks[n], h.receipts[n] = committee.Next(p)
			}
			return nil
		})
	}
	return committee.Genesis, h, g.Wait()
}

func (b *applyBench) run(ctx context.Context, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "poq-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(progress, "making %d receipts ...\n", b.Tasks)
	g, h, err := b.make()
	if err != nil {
		return err
	}
	b.Receipt = len(h.receipts[0].Encode())
	file := filepath.Join(dir, "archive")
	var want ledger.Digest
	for _, way := range []struct {
		name  string
		apply func(s *store.Store) error
	}{
		{"settle", func(s *store.Store) error { return h.apply(ctx, s, false) }},
		{"lock and settle", func(s *store.Store) error { return h.apply(ctx, s, true) }},
		{"decode, verify, settle", func(s *store.Store) error { return importFile(ctx, s, file) }},
	} {
		fmt.Fprintf(progress, "%s ...\n", way.name)
		s, err := store.Open(filepath.Join(dir, way.name), g)
		if err != nil {
			return err
		}
		p, err := b.time(s, way.name, way.apply)
		if err == nil && want.Tasks == 0 {
			want = s.Digest()
			err = wholefile.Replace(file, func(w io.Writer) error {
				_, err := s.Export(w)
				return err
			})
		}
		if err == nil && (s.Digest() != want || want.Tasks != b.Tasks) {
			err = fmt.Errorf("%s: the ledger holds other tasks", way.name)
		}
		if err = errors.Join(err, s.Close()); err != nil {
			return err
		}
		b.Ways = append(b.Ways, p)
	}
	return nil
}

func (b *applyBench) time(s *store.Store, name string, apply func(s *store.Store) error) (benchedWay, error) {
	runtime.GC()
	begin := time.Now()
	err := errors.Join(apply(s), s.Flush())
	return benchedWay{name, int(float64(b.Tasks) / time.Since(begin).Seconds())}, err
}

func (h *history) apply(ctx context.Context, s *store.Store, locks bool) error {
	for i, r := range h.receipts {
		if locks {
			if err := s.Lock(h.locks[i]); err != nil {
				return err
			}
		}
		if err := s.Settle(r); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func importFile(ctx context.Context, s *store.Store, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	defer f.Close()
	a, err := archive.NewReader(f)
	if err != nil {
		return err
	}
	_, err = s.Import(ctx, a)
	return err
}
