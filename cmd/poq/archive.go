package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/poqmesh/poq/ledger/archive"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/wholefile"
)

func ledgerExport(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{
		Use: "export [FILE|-]", Short: "Write a ledger to a file: a backup that proves itself", Args: args(cobra.MaximumNArgs(1)),
		Long: `Writes the genesis, every receipt, the locks of open tasks and evidence to a file, or to
stdout with - or without a name. The network may go on meanwhile. A file appears under
its name when it is whole. Read it again with poq ledger import.`,
		RunE: func(c *cobra.Command, a []string) error {
			r, err := f.open(c)
			if err != nil {
				return err
			}
			var totals archive.Totals
			export := func(w io.Writer) (err error) {
				totals, err = r.Export(c.Context(), f.peer, w)
				return err
			}
			out := c.OutOrStdout()
			summary := out
			if len(a) == 0 || a[0] == "-" {
				if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
					return usagef("an archive is nothing for a terminal: name a FILE, or use > or |")
				}
				err, summary = export(out), c.ErrOrStderr()
			} else {
				err = wholefile.Replace(a[0], export)
			}
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(summary, totals)
			}
			_, err = fmt.Fprintf(summary, "exported %v; digest %s\n", totals.Counts, totals.Digest)
			return err
		},
	}
}

// importResult is what import prints.
type importResult struct {
	Peer string `json:"peer"`
	*store.Imported
	Error string `json:"error,omitempty"`
}

func ledgerImport(g *globals, f *ledgerFlags) *cobra.Command {
	return &cobra.Command{
		Use: "import FILE|-", Short: "Read an exported ledger into a directory, checking everything", Args: args(cobra.ExactArgs(1)),
		Long: `Reads what poq ledger export wrote, from a file or with - from stdin, into the ledger of a
peer in a directory (--dir) whose network does not run, or into a new directory. Every
signature is checked and every payment computed again before it is applied; what the
ledger has is skipped. An import that ended early goes on when it is run again, and of a
file that is cut off everything is taken that is whole (exit code 1).`,
		RunE: func(c *cobra.Command, a []string) error {
			if f.dir == "" {
				return usagef("name the directory with --dir: that of a network that does not run, or a new one")
			}
			in := c.InOrStdin()
			if a[0] != "-" {
				file, err := os.Open(a[0])
				if err != nil {
					return fmt.Errorf("reading the archive: %w", err)
				}
				defer file.Close()
				in = file
			}
			result, err := f.importFrom(c.Context(), in)
			if result == nil {
				return err
			}
			if errors.Is(err, context.Canceled) {
				err = errors.New("interrupted: run it again to go on")
			}
			if err != nil {
				result.Error = err.Error()
				err = fmt.Errorf("%w: %w", errShown, err)
			}
			if g.json {
				return errors.Join(err, printJSON(c.OutOrStdout(), result))
			}
			result.print(c.OutOrStdout())
			return err
		},
	}
}

// importFrom imports an archive into a peer's ledger. The result is nil if it did not come to that.
func (f *ledgerFlags) importFrom(ctx context.Context, in io.Reader) (result *importResult, err error) {
	a, err := archive.NewReader(in)
	if err != nil {
		return nil, err
	}
	dir := offline(f.dir)
	path, err := dir.ledger(f.peer)
	if err != nil {
		return nil, err
	}
	g := a.Head().Genesis
	if err := genesis.Put(f.dir, g); err != nil {
		return nil, err
	}
	s, err := store.Open(path, g)
	if err != nil {
		return nil, err
	}
	imported, err := s.Import(ctx, a)
	return &importResult{Peer: dir.name(f.peer), Imported: imported}, errors.Join(err, s.Close())
}

func (r *importResult) print(w io.Writer) {
	fmt.Fprintf(w, "read %v; new to the ledger of %s: %v\n", r.Archive.Counts, r.Peer, r.New)
	fmt.Fprintf(w, "the ledger has %d settled tasks, digest %s\n", r.Ledger.Tasks, r.Ledger.Sum)
	switch {
	case r.Error != "":
		fmt.Fprintf(w, "FAILED: %s\n", r.Error)
	case r.Equal:
		fmt.Fprintln(w, "it holds the same settled tasks as the archive")
	default:
		fmt.Fprintln(w, "it holds all that the archive holds, and more")
	}
}
