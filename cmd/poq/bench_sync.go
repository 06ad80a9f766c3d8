package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
)

// syncBench is what bench sync measured.
type syncBench struct {
	Cores      int   `json:"cores"`
	Validators int   `json:"validators"`
	Tasks      int   `json:"tasks"`
	ElapsedMS  int64 `json:"elapsed_ms"`
	PerSecond  int   `json:"settlements_per_second"`
	Receipt    int64 `json:"receipt_bytes"`             // size of one
	Wire       int64 `json:"wire_bytes_per_settlement"` // both ways, encryption and framing among them
	HeapPeak   int64 `json:"heap_peak_bytes"`           // of the side that catches up, its ledger's state among it
	HeapAfter  int64 `json:"heap_after_bytes"`          // what is left of it when all is done: state, host and caches
}

// syncMostTasks bounds the history.
const syncMostTasks = 10_000_000

func benchSync(g *globals) *cobra.Command {
	b := &syncBench{Cores: runtime.NumCPU()}
	var serve string
	c := &cobra.Command{
		Use: "sync", Short: "Time how a fresh peer catches up with another one over libp2p", Args: args(cobra.NoArgs),
		Long: `Makes a ledger with valid receipts of so many tasks in a process of its own, and has a
fresh peer in this one catch up with it over TCP on loopback: every receipt is fetched,
verified, applied and written to disk.`,
	}
	c.Flags().IntVar(&b.Tasks, "tasks", 100_000, "settled tasks to catch up with")
	c.Flags().IntVar(&b.Validators, "validators", 4, "size of the committee")
	c.Flags().StringVar(&serve, "serve", "", "make and serve the ledger in a directory, until stdin ends")
	if err := c.Flags().MarkHidden("serve"); err != nil {
		panic(err) // the flag is there
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if b.Tasks < 1 || b.Tasks > syncMostTasks || b.Validators < 1 || b.Validators > ledger.MaxValidators {
			return usagef("want 1 to %d tasks and 1 to %d validators", syncMostTasks, ledger.MaxValidators)
		}
		if serve != "" {
			return b.serve(c, serve)
		}
		return measure(c, g, b)
	}
	return c
}

func (b *syncBench) print(w io.Writer) {
	fmt.Fprintf(w, "a fresh peer catches up with %d settlements of %d validators; %d cores\n\n", b.Tasks, b.Validators, b.Cores)
	fmt.Fprintf(w, "settlements/s          %d (%d ms in all)\n", b.PerSecond, b.ElapsedMS)
	fmt.Fprintf(w, "bytes per settlement   %d on the wire, both ways; a receipt has %d\n", b.Wire, b.Receipt)
	fmt.Fprintf(w, "heap of the fresh peer %.1f MB at most, %.1f MB afterwards\n", float64(b.HeapPeak)/1e6, float64(b.HeapAfter)/1e6)
}

// served is what the process that serves the ledger says, in one line, once it does.
type served struct {
	Addr   string        `json:"addr"`
	Digest ledger.Digest `json:"digest"`
	Size   int64         `json:"size"` // of a receipt
}

// benchCommittee returns a committee and one payer for each processor, so that their chains of orders can be
// signed side by side: the same ones each time.
func benchCommittee(network string, validators, cores int) (*ledgertest.Committee, []*ledgertest.Payer) {
	var payers []*ledgertest.Payer
	for i := range cores {
		payers = append(payers, ledgertest.NewPayer(ledgertest.Key(fmt.Sprint("payer ", i))))
	}
	g, keys := ledgertest.NewGenesis(network, validators, payers...)
	return ledgertest.New(g, keys, benchedAnswers), payers
}

// serve makes the ledger and serves it.
func (b *syncBench) serve(c *cobra.Command, dir string) (err error) {
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	go func() { // the process that started this one holds the other end
		_, _ = io.Copy(io.Discard, c.InOrStdin())
		cancel()
	}()
	committee, payers := benchCommittee("bench-sync", b.Validators, b.Cores)
	out := served{}
	if out.Size, err = b.fill(ctx, c.ErrOrStderr(), filepath.Join(dir, "ledger"), committee, payers); err != nil {
		return err
	}
	n, err := node.New(ctx, node.WithDataDir(dir), node.WithGenesis(committee.Genesis), node.WithLogger(newLogger(c.ErrOrStderr(), slog.LevelWarn)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.Start(ctx); err != nil {
		return err
	}
	for _, a := range n.Host().Addrs() {
		if _, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
			out.Addr = a.String()
		}
	}
	out.Digest = n.Ledger().Digest()
	if err := json.NewEncoder(c.OutOrStdout()).Encode(out); err != nil {
		return fmt.Errorf("telling the address: %w", err)
	}
	<-ctx.Done()
	return nil
}

// fill writes the history into a store and returns the size of a receipt.
func (b *syncBench) fill(ctx context.Context, progress io.Writer, dir string, c *ledgertest.Committee, payers []*ledgertest.Payer) (size int64, err error) {
	s, err := store.Open(dir, c.Genesis)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	fmt.Fprintf(progress, "making %d receipts ...\n", b.Tasks)
	var made atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range payers {
		g.Go(func() error {
			for n := i; n < b.Tasks && ctx.Err() == nil; n += len(payers) {
				_, r := c.Next(p)
				if err := s.Settle(r); err != nil {
					return err
				}
				if n == 0 {
					size = int64(len(r.Encode()))
				}
				if m := made.Add(1); m%10_000 == 0 {
					fmt.Fprintf(progress, "  %d\n", m)
				}
			}
			return ctx.Err()
		})
	}
	err = g.Wait()
	return size, err
}

func (b *syncBench) run(ctx context.Context, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "poq-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	other, from, err := b.start(ctx, progress, filepath.Join(dir, "full"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other()) }()
	w, err := newWire(ctx, from.Addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	committee, _ := benchCommittee("bench-sync", b.Validators, b.Cores)
	n, err := node.New(ctx, node.WithDataDir(filepath.Join(dir, "fresh")), node.WithGenesis(committee.Genesis), node.WithPeers(w.addr),
		node.WithLogger(newLogger(progress, slog.LevelWarn)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	fmt.Fprintln(progress, "catching up ...")
	peak := watchHeap()
	begin := time.Now()
	events := n.Events(ctx)
	if err := n.Start(ctx); err != nil {
		return err
	}
	settled := 0
	for e := range events { // settlements alone: nothing else happens
		if settled += 1 + e.Missed; settled >= b.Tasks {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.Err(); err != nil {
		return fmt.Errorf("the fresh peer stopped: %w", err)
	}
	if err := n.Ledger().Flush(); err != nil {
		return err
	}
	elapsed := time.Since(begin)
	b.HeapPeak = peak()
	if got := n.Ledger().Digest(); got != from.Digest {
		return fmt.Errorf("the ledgers differ: %d tasks here, %d there", got.Tasks, from.Digest.Tasks)
	}
	runtime.GC()
	b.HeapAfter = heap()
	b.ElapsedMS, b.PerSecond = elapsed.Milliseconds(), int(float64(b.Tasks)/elapsed.Seconds())
	b.Receipt, b.Wire = from.Size, w.bytes.Load()/int64(b.Tasks)
	return nil
}

// start starts the process that serves the ledger. stop ends it.
func (b *syncBench) start(ctx context.Context, progress io.Writer, dir string) (stop func() error, from served, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, from, fmt.Errorf("finding this program: %w", err)
	}
	c := exec.CommandContext(ctx, self, "bench", "sync", "--serve", dir, "--tasks", strconv.Itoa(b.Tasks), "--validators", strconv.Itoa(b.Validators)) //nolint:gosec // this program
	c.Stderr = progress
	in, err := c.StdinPipe()
	if err != nil {
		return nil, from, fmt.Errorf("starting the other peer: %w", err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, from, fmt.Errorf("starting the other peer: %w", err)
	}
	stop = func() error { return errors.Join(in.Close(), c.Wait()) }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(line)).Decode(&from)
	}
	if err != nil {
		return nil, from, errors.Join(fmt.Errorf("the other peer did not start: %w", err), stop())
	}
	return stop, from, nil
}

// wire passes TCP connections on and counts the bytes.
type wire struct {
	net.Listener
	addr  multiaddr.Multiaddr // in place of the one that it passes on to
	bytes atomic.Int64
}

func newWire(ctx context.Context, to string) (*wire, error) {
	info, err := peer.AddrInfoFromString(to)
	if err != nil {
		return nil, fmt.Errorf("address of the other peer: %w", err)
	}
	network, target, err := manet.DialArgs(info.Addrs[0])
	if err != nil {
		return nil, fmt.Errorf("address of the other peer: %w", err)
	}
	w := &wire{}
	if w.Listener, err = new(net.ListenConfig).Listen(ctx, network, "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("counting bytes: %w", err)
	}
	go func() {
		for {
			from, err := w.Accept()
			if err != nil {
				return // closed
			}
			go w.pass(ctx, from, network, target)
		}
	}()
	w.addr, err = multiaddr.NewMultiaddr(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", w.Addr().(*net.TCPAddr).Port, info.ID))
	return w, err
}

// pass copies both ways until one side ends. Errors end it: the peers dial again.
func (w *wire) pass(ctx context.Context, from net.Conn, network, target string) {
	defer func() { _ = from.Close() }()
	to, err := new(net.Dialer).DialContext(ctx, network, target)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	ended := make(chan struct{}, 2)
	for _, c := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(counter{c[0], &w.bytes}, c[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}

// counter counts what is written.
type counter struct {
	io.Writer
	bytes *atomic.Int64
}

func (c counter) Write(b []byte) (int, error) {
	c.bytes.Add(int64(len(b)))
	return c.Writer.Write(b)
}

// heap returns the bytes of objects on the heap, dead ones that were not swept among them.
func heap() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// watchHeap looks at the heap every few ms, until the function that it returns is called, which gives the peak.
func watchHeap() func() int64 {
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			most = max(most, heap())
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				peak <- most
				return
			}
		}
	}()
	return func() int64 { close(stop); return <-peak }
}
