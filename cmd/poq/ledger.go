package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/keystore"
)

// ledgerFlags say whose ledger is looked at.
type ledgerFlags struct{ dir, peer string }

func newLedger(g *globals) *cobra.Command {
	var f ledgerFlags
	c := group("ledger", "Inspect and verify the ledger",
		ledgerAccounts(g, &f), ledgerTasks(g, &f), ledgerTask(g, &f), ledgerVerify(g, &f), ledgerDigest(g, &f), ledgerDiff(g, &f), ledgerEvidence(g, &f), ledgerExport(g, &f), ledgerImport(g, &f))
	c.Long = `Shows the ledger of a peer of the running network. If --dir names the directory
of a network that does not run, its ledger is read from disk.`
	f.add(c.PersistentFlags(), "the one that there is, in a devnet the payer; verify and digest: all")
	return c
}

func (f *ledgerFlags) add(to *pflag.FlagSet, peer string) {
	to.StringVar(&f.dir, "dir", "", "directory of the network, if several run or it does not run")
	to.StringVar(&f.peer, "peer", "", "peer whose ledger is looked at (default: "+peer+")")
}

// reader reads a ledger: of a running network, or from disk.
type reader interface {
	Accounts(ctx context.Context, peer string) (control.Accounts, error)
	Tasks(ctx context.Context, peer string, n int) ([]control.Task, error)
	Task(ctx context.Context, peer, id string) (node.TaskStatus, error)
	Receipt(ctx context.Context, peer, id string) (json.RawMessage, error)
	Verify(ctx context.Context, peer string) ([]control.PeerVerification, error)
	Digests(ctx context.Context, peer string) ([]control.PeerDigest, error)
	Diff(ctx context.Context, peer, with string) (control.LedgerDiff, error)
	Evidence(ctx context.Context, peer string) ([]control.Evidence, error)
	Export(ctx context.Context, peer string, w io.Writer) (archive.Totals, error)
}

func (f *ledgerFlags) open(c *cobra.Command) (reader, error) {
	client, err := dial(c, f.dir)
	switch {
	case err == nil:
		return client, nil
	case !errors.Is(err, control.ErrNotRunning):
		return nil, err
	case f.dir == "":
		return nil, fmt.Errorf("%w, or name the directory of one that ended with --dir", err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "genesis.json")); err != nil {
		return nil, fmt.Errorf("no network runs in %s and it holds none: %w", f.dir, err)
	}
	return offline(f.dir), nil
}

func ledgerAccounts(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{Use: "accounts", Short: "List all accounts with their balances", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		r, err := f.open(c)
		if err != nil {
			return err
		}
		a, err := r.Accounts(c.Context(), f.peer)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), a)
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ACCOUNT\tNAME\tBALANCE\tORDERS")
		for _, e := range a.Accounts {
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", e.Account.Short(), e.Name, formatAmount(e.Balance), e.Orders)
		}
		t.Flush()
		fmt.Fprintf(c.OutOrStdout(), "\n%d settled tasks, %d open with %s in escrow; supply %s (ledger of %s)\n",
			a.Tasks, a.Open, formatFee(a.Escrow), formatFee(a.Supply), a.Peer)
		return nil
	}}
}

func ledgerTasks(g *globals, f *ledgerFlags) *cobra.Command {
	var n int
	c := &cobra.Command{Use: "tasks", Short: "List the latest settled tasks", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		if n < 1 {
			return usagef("-n %d: want a positive number", n)
		}
		r, err := f.open(c)
		if err != nil {
			return err
		}
		tasks, err := r.Tasks(c.Context(), f.peer, n)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), tasks)
		}
		printTasks(c.OutOrStdout(), tasks)
		return nil
	}}
	c.Flags().IntVarP(&n, "number", "n", 20, "how many, newest first")
	return c
}

func printTasks(w io.Writer, tasks []control.Task) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TASK\tSETTLED\tOUTCOME\tFEE\tANSWERS")
	for _, e := range tasks {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\n", e.Task.Short(), e.Settled.Format(time.DateTime), e.Outcome, formatFee(e.Fee), e.Answers)
	}
	t.Flush()
}

func ledgerTask(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{Use: "task ID", Short: "Show how a task was judged and paid; the id may be shortened", Args: args(cobra.ExactArgs(1)), RunE: func(c *cobra.Command, a []string) error {
		r, err := f.open(c)
		if err != nil {
			return err
		}
		s, err := r.Task(c.Context(), f.peer, a[0])
		switch {
		case err != nil:
			return err
		case g.json:
			return printJSON(c.OutOrStdout(), s)
		case s.Open:
			_, err := fmt.Fprintf(c.OutOrStdout(), "task %s is open: its fee is in escrow\n", s.Task)
			return err
		}
		printSettlement(c.OutOrStdout(), s.Settlement)
		return nil
	}}
}

func ledgerVerify(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{Use: "verify", Short: "Replay the ledger from genesis and check every signature, payment and sum", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		r, err := f.open(c)
		if err != nil {
			return err
		}
		results, err := r.Verify(c.Context(), f.peer)
		if err != nil {
			return err
		}
		if g.json {
			err = printJSON(c.OutOrStdout(), results)
		} else {
			printVerification(c.OutOrStdout(), results)
		}
		return errors.Join(err, failedVerification(results))
	}}
}

func printVerification(w io.Writer, results []control.PeerVerification) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LEDGER\tVERIFIED\tTASKS\tOPEN\tACCOUNTS\tSUPPLY\tESCROW\tBURNED\tDIGEST\tTIME")
	for _, r := range results {
		if !r.OK {
			fmt.Fprintf(t, "%s\tFAILED\t%s\n", r.Peer, r.Reason)
			continue
		}
		fmt.Fprintf(t, "%s\tok\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d ms\n", r.Peer, r.Tasks, r.Open, r.Accounts, formatFee(r.Supply), formatFee(r.Escrow), formatFee(r.Burned), r.Digest.Sum.Short(), r.ElapsedMS)
	}
	t.Flush()
}

func failedVerification(results []control.PeerVerification) error {
	for _, r := range results {
		if !r.OK {
			return fmt.Errorf("%w: the ledger of %s: %s", errShown, r.Peer, r.Reason)
		}
	}
	return nil
}

// digests says whether ledgers hold the same settled tasks.
type digests struct {
	Agree   bool                 `json:"agree"`
	Ledgers []control.PeerDigest `json:"ledgers"`
}

func ledgerDigest(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{
		Use: "digest", Short: "Show what stands for all settled tasks, and whether the ledgers agree", Args: args(cobra.NoArgs),
		Long: `Shows the digest of each ledger: two ledgers with one digest hold the same settled
tasks with the same outcomes. The exit code is 1 if they differ, as they do for a moment
while tasks are being settled.`,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := f.open(c)
			if err != nil {
				return err
			}
			d := digests{Agree: true}
			if d.Ledgers, err = r.Digests(c.Context(), f.peer); err != nil {
				return err
			}
			for _, l := range d.Ledgers {
				d.Agree = d.Agree && l.Digest == d.Ledgers[0].Digest
			}
			if g.json {
				err = printJSON(c.OutOrStdout(), d)
			} else {
				d.print(c.OutOrStdout())
			}
			if err == nil && !d.Agree {
				err = fmt.Errorf("%w: the ledgers differ", errShown)
			}
			return err
		},
	}
}

func (d digests) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LEDGER\tTASKS\tDIGEST")
	for _, l := range d.Ledgers {
		fmt.Fprintf(t, "%s\t%d\t%s\n", l.Peer, l.Tasks, l.Sum)
	}
	t.Flush()
	switch {
	case !d.Agree:
		fmt.Fprintln(w, "\nthe ledgers differ")
	case len(d.Ledgers) > 1:
		fmt.Fprintf(w, "\nall %d ledgers agree\n", len(d.Ledgers))
	}
}

func ledgerDiff(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{
		Use: "diff PEER", Short: "Compare a ledger with that of another peer: which tasks one of them misses", Args: args(cobra.ExactArgs(1)),
		Long: `Compares the ledger of --peer with that of PEER by their digests, over the network if
it runs: only the parts in which they differ are listed. The exit code is 1 if they
differ, as they do for a moment while tasks are being settled.`,
		RunE: func(c *cobra.Command, a []string) error {
			r, err := f.open(c)
			if err != nil {
				return err
			}
			d, err := r.Diff(c.Context(), f.peer, a[0])
			if err != nil {
				return err
			}
			if g.json {
				err = printJSON(c.OutOrStdout(), d)
			} else {
				printDiff(c.OutOrStdout(), d)
			}
			if err == nil && !d.Equal {
				err = fmt.Errorf("%w: the ledgers differ", errShown)
			}
			return err
		},
	}
}

func printDiff(w io.Writer, d control.LedgerDiff) {
	if d.Equal {
		fmt.Fprintf(w, "the ledgers of %s and %s are equal: %d settled tasks\n", d.Peer, d.With, d.There.Tasks)
		return
	}
	fmt.Fprintf(w, "%s has %d settled tasks, %s %d\n", d.Peer, d.Here.Tasks, d.With, d.There.Tasks)
	list := func(what string, count, shown int, line func(i int) string) {
		if count == 0 {
			return
		}
		fmt.Fprintf(w, "\n%d %s:\n", count, what)
		for i := range shown {
			fmt.Fprintln(w, "  "+line(i))
		}
		if count > shown {
			fmt.Fprintf(w, "  and %d more\n", count-shown)
		}
	}
	list("missing at "+d.Peer, d.OnlyThere.Count, len(d.OnlyThere.First), func(i int) string { return d.OnlyThere.First[i].String() })
	list("missing at "+d.With, d.OnlyHere.Count, len(d.OnlyHere.First), func(i int) string { return d.OnlyHere.First[i].String() })
	list("with different outcomes, so that more validators are faulty than the network bears", d.Conflicts.Count, len(d.Conflicts.First), func(i int) string {
		c := d.Conflicts.First[i]
		return fmt.Sprintf("%s: %s at %s, %s at %s", c.Task, c.Here.Short(), d.Peer, c.There.Short(), d.With)
	})
}

func ledgerEvidence(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{Use: "evidence", Short: "List who contradicted itself, with the proofs that this peer keeps", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		r, err := f.open(c)
		if err != nil {
			return err
		}
		list, err := r.Evidence(c.Context(), f.peer)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), list)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(c.OutOrStdout(), "no contradictions are known")
			return err
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "OFFENCE\tCULPRIT\tNAME\tWHAT IS PROVEN")
		for _, e := range list {
			fmt.Fprintf(t, "%v\t%s\t%s\t%s\n", e.Offence, e.Culprit.Short(), e.Name, e.What)
		}
		return t.Flush()
	}}
}

// offline is the directory of a network that does not run.
type offline string

// store opens a peer's ledger for reading; the default is the payer's.
func (o offline) store(peer string) (*store.Store, error) {
	path, err := o.ledger(peer)
	if err != nil {
		return nil, err
	}
	s, err := store.OpenReadOnly(path)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("no peer %q: %w", o.name(peer), err)
	}
	return s, err
}

// ledger returns the directory of a peer's ledger.
func (o offline) ledger(peer string) (string, error) {
	peer = o.name(peer)
	if filepath.Base(peer) != peer || peer == "." || peer == ".." {
		return "", usagef("%q is no name of a peer", peer)
	}
	if o.single() && peer == o.name("") {
		return filepath.Join(string(o), "ledger"), nil
	}
	return filepath.Join(string(o), peer, "ledger"), nil
}

// single says whether the directory is that of one peer, as poq up has it, and not that of a devnet.
func (o offline) single() bool {
	for _, f := range []string{keystore.Peer.Path(string(o)), filepath.Join(string(o), "ledger")} {
		if _, err := os.Stat(f); err == nil {
			return true
		}
	}
	return false
}

// read opens a peer's ledger, reads from it and closes it.
func read[T any](o offline, peer string, f func(*store.Reader) (T, error)) (v T, err error) {
	s, err := o.store(peer)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(&s.Reader)
}

// name is the peer that is meant if none is named: the payer of a devnet, or the one that there is.
func (o offline) name(peer string) string {
	switch {
	case peer != "":
		return peer
	case o.single():
		if dir, err := filepath.Abs(string(o)); err == nil { // else there is no working directory
			return filepath.Base(dir)
		}
	}
	return "payer"
}

// Accounts implements reader.
func (o offline) Accounts(_ context.Context, peer string) (control.Accounts, error) {
	return read(o, peer, func(s *store.Reader) (control.Accounts, error) { return control.ReadAccounts(o.name(peer), s), nil })
}

// Tasks implements reader.
func (o offline) Tasks(_ context.Context, peer string, n int) ([]control.Task, error) {
	return read(o, peer, func(s *store.Reader) ([]control.Task, error) { return control.ReadTasks(s, n) })
}

// Task implements reader.
func (o offline) Task(_ context.Context, peer, id string) (node.TaskStatus, error) {
	return read(o, peer, func(s *store.Reader) (node.TaskStatus, error) {
		task, err := s.Resolve(id)
		if err != nil {
			return node.TaskStatus{}, err
		}
		if !s.IsSettled(task) {
			return node.TaskStatus{Task: task, Open: true}, nil
		}
		r, err := s.Receipt(task)
		if err != nil {
			return node.TaskStatus{}, err
		}
		if err := ledger.NewVerifier(s.Genesis()).Receipt(r); err != nil {
			return node.TaskStatus{}, err
		}
		return node.TaskStatus{Task: task, Settlement: node.Describe(s.Genesis(), r, nil, func(h crypto.Hash) string {
			text, err := s.Blob(h)
			if err != nil {
				return ""
			}
			return string(text)
		})}, nil
	})
}

// Evidence implements reader.
func (o offline) Evidence(_ context.Context, peer string) ([]control.Evidence, error) {
	return read(o, peer, control.ReadEvidence)
}

// Receipt implements reader.
func (o offline) Receipt(_ context.Context, peer, id string) (json.RawMessage, error) {
	return read(o, peer, func(s *store.Reader) (json.RawMessage, error) { return control.ReadReceipt(s, id) })
}

// Verify implements reader.
func (o offline) Verify(_ context.Context, peer string) ([]control.PeerVerification, error) {
	return readAll(o, peer, func(name string, s *store.Reader) control.PeerVerification { return control.Verify(name, s) })
}

// Digests implements reader.
func (o offline) Digests(_ context.Context, peer string) ([]control.PeerDigest, error) {
	return readAll(o, peer, func(name string, s *store.Reader) control.PeerDigest {
		return control.PeerDigest{Peer: name, Digest: s.Digest()}
	})
}

// Diff implements reader.
func (o offline) Diff(ctx context.Context, peer, with string) (d control.LedgerDiff, err error) {
	peer = o.name(peer)
	if peer == with {
		return d, usagef("%s can't be compared with itself: name another peer", peer)
	}
	return read(o, with, func(there *store.Reader) (control.LedgerDiff, error) {
		return read(o, peer, func(here *store.Reader) (control.LedgerDiff, error) {
			d, err := node.DiffStores(ctx, here, there)
			return control.LedgerDiff{Peer: peer, With: with, Difference: d}, err
		})
	})
}

// Export implements reader.
func (o offline) Export(_ context.Context, peer string, w io.Writer) (archive.Totals, error) {
	return read(o, peer, func(s *store.Reader) (archive.Totals, error) { return s.Export(w) })
}

// readAll reads from the ledger of a peer, or of each one if peer is "".
func readAll[T any](o offline, peer string, f func(name string, s *store.Reader) T) (results []T, err error) {
	peers := []string{o.name(peer)}
	if peer == "" && !o.single() {
		found, err := filepath.Glob(filepath.Join(string(o), "*", "ledger"))
		if err != nil {
			return nil, fmt.Errorf("listing ledgers: %w", err)
		}
		peers = nil
		for _, p := range found {
			peers = append(peers, filepath.Base(filepath.Dir(p)))
		}
	}
	for _, p := range peers {
		v, err := read(o, p, func(s *store.Reader) (T, error) { return f(p, s), nil })
		if err != nil {
			return nil, err
		}
		results = append(results, v)
	}
	return results, nil
}
