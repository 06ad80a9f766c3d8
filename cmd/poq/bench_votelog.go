package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/votelog"
)

// votelogBench is what bench votelog measured. Times are µs, from the moment in which a writer has a vote until it
// is durable.
type votelogBench struct {
	Cores     int           `json:"cores"`
	Directory string        `json:"directory"`
	Seconds   float64       `json:"seconds"` // of each run
	Runs      []benchedLogs `json:"runs"`
}

type benchedLogs struct {
	Log       string  `json:"log"`
	Writers   int     `json:"writers"`
	PerSecond int     `json:"votes_per_second"`
	PerSync   float64 `json:"votes_per_sync,omitempty"` // of the vote log
	P50       int64   `json:"p50_us"`
	P99       int64   `json:"p99_us"`
}

func benchVotelog(g *globals) *cobra.Command {
	var writers int
	var span time.Duration
	var dir string
	c := &cobra.Command{
		Use: "votelog", Short: "Count durable votes: the vote log beside Badger with synced writes, on the same disk",
		Args: args(cobra.NoArgs),
	}
	c.Flags().IntVar(&writers, "writers", 64, "writers at a time; each waits for its vote to be durable")
	c.Flags().DurationVar(&span, "time", 3*time.Second, "length of each run")
	c.Flags().StringVar(&dir, "dir", "", "directory on the disk to measure (default the system's temporary one)")
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if writers < 1 || writers > 1<<14 || span <= 0 {
			return usagef("want 1 to %d writers and a positive time", 1<<14)
		}
		tmp, err := os.MkdirTemp(dir, "poq-bench-")
		if err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
		b := votelogBench{Cores: runtime.NumCPU(), Directory: filepath.Dir(tmp), Seconds: span.Seconds()}
		for _, n := range slices.Compact([]int{writers, 1}) {
			for _, kind := range []string{"vote log", "badger"} {
				fmt.Fprintf(c.ErrOrStderr(), "%s, %d writers ...\n", kind, n)
				bench := b.votelog
				if kind == "badger" {
					bench = b.badger
				}
				run, err := bench(c.Context(), filepath.Join(tmp, fmt.Sprint(kind, n)), n, span)
				if err != nil {
					return fmt.Errorf("%s: %w", kind, err)
				}
				b.Runs = append(b.Runs, run)
			}
		}
		if g.json {
			return printJSON(c.OutOrStdout(), b)
		}
		b.print(c.OutOrStdout())
		return nil
	}
	return c
}

func (b votelogBench) print(w io.Writer) {
	fmt.Fprintf(w, "%.1f s each, in %s, %d cores; a vote is durable when its sync has returned\n\n", b.Seconds, b.Directory, b.Cores)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "LOG\tWRITERS\tVOTES/S\tP50\tP99\tVOTES/SYNC\t")
	for _, r := range b.Runs {
		perSync := "-"
		if r.PerSync > 0 {
			perSync = fmt.Sprintf("%.1f", r.PerSync)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%.2f ms\t%.2f ms\t%s\t\n", r.Log, r.Writers, r.PerSecond, float64(r.P50)/1000, float64(r.P99)/1000, perSync)
	}
	t.Flush()
}

// write has writers give votes one after another to log, which returns when a vote is durable.
func (votelogBench) write(ctx context.Context, name string, writers int, span time.Duration, log func(context.Context, ledger.Leaf) error) (benchedLogs, error) {
	times := make([][]time.Duration, writers)
	var next atomic.Uint64
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for i := range writers {
		g.Go(func() error {
			for time.Since(begin) < span {
				l := ledger.Leaf{Kind: ledger.FastCommit, Stage: ledger.StageSettle}
				binary.BigEndian.PutUint64(l.Task[:], next.Add(1))
				l.Value = crypto.Sum(l.Task[:])
				had := time.Now()
				if err := log(ctx, l); err != nil {
					return err
				}
				times[i] = append(times[i], time.Since(had))
			}
			return nil
		})
	}
	err := g.Wait()
	all := slices.Concat(times...)
	if err != nil || len(all) == 0 {
		return benchedLogs{}, err
	}
	perSecond := int(float64(len(all)) / time.Since(begin).Seconds())
	slices.Sort(all)
	return benchedLogs{
		Log: name, Writers: writers, PerSecond: perSecond, P50: all[len(all)/2].Microseconds(), P99: all[len(all)*99/100].Microseconds(),
	}, nil
}

// votelog takes votes as a node's loop does: those that wait are signed in one bundle and share a sync.
func (b votelogBench) votelog(ctx context.Context, dir string, writers int, span time.Duration) (run benchedLogs, err error) {
	key, err := crypto.GenerateKey(nil)
	if err != nil {
		return run, err
	}
	g := &ledger.Genesis{Network: "bench"}
	disk, err := votelog.Dir(dir)
	if err != nil {
		return run, err
	}
	settled := new(longSettled)
	log, err := votelog.Open(votelog.Config{Genesis: g, Disk: disk, Ledger: settled}, votelog.Replayer{})
	if err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	type request struct {
		leaf ledger.Leaf
		done chan<- error
	}
	requests := make(chan request, 1024)
	var syncs int
	var committer sync.WaitGroup
	committer.Go(func() {
		d := ledger.Domain(g)
		var previous crypto.Hash
		for r := range requests {
			batch := []request{r}
			for full := false; !full && len(batch) < ledger.MaxBundleLeaves; {
				select {
				case r, ok := <-requests:
					if full = !ok; ok {
						batch = append(batch, r)
					}
				default:
					full = true
				}
			}
			var leaves []ledger.Leaf
			for _, r := range batch {
				leaves = append(leaves, r.leaf)
				settled.see(r.leaf.Task)
			}
			u := ledger.NewBundle(0, uint64(syncs), previous, leaves)
			u.Sign(d, key)
			previous = u.Header.Statement.Hash(d)
			log.Bundle(&u)
			err := log.Sync()
			syncs++
			for _, r := range batch {
				r.done <- err
			}
		}
	})
	run, err = b.write(ctx, "vote log", writers, span, func(ctx context.Context, l ledger.Leaf) error {
		done := make(chan error, 1)
		select {
		case requests <- request{l, done}:
			return <-done
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(requests)
	committer.Wait()
	run.PerSync = float64(run.PerSecond) * b.Seconds / float64(syncs)
	return run, err
}

// openTasks is how many tasks are open at a time in the bench: the votes on them are carried over
// whenever the log rotates.
const openTasks = 1000

// longSettled is a ledger in which all but the latest tasks are settled.
type longSettled struct{ latest uint64 }

func number(t ledger.TaskID) uint64 { return binary.BigEndian.Uint64(t[:]) }

func (s *longSettled) see(t ledger.TaskID)            { s.latest = max(s.latest, number(t)) }
func (s *longSettled) IsSettled(t ledger.TaskID) bool { return number(t)+openTasks < s.latest }
func (s *longSettled) Digest() ledger.Digest          { return ledger.Digest{Tasks: int(s.latest)} }
func (s *longSettled) Flush() error                   { return nil }

// badger writes each vote in a transaction of its own, which Badger syncs in groups.
func (b votelogBench) badger(ctx context.Context, dir string, writers int, span time.Duration) (run benchedLogs, err error) {
	db, err := badger.Open(badger.DefaultOptions(dir).WithSyncWrites(true).WithLogger(nil).WithMetricsEnabled(false))
	if err != nil {
		return run, fmt.Errorf("opening Badger: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return b.write(ctx, "badger", writers, span, func(_ context.Context, l ledger.Leaf) error {
		return db.Update(func(txn *badger.Txn) error { return txn.Set(l.Task[:], l.Value[:]) })
	})
}
