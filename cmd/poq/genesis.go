package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/quality/crossencoder"
)

// defaultMinFee is the least fee of an order in a new network.
const defaultMinFee = ledger.Credit / 1000

// genesisView is a genesis with what follows from it.
type genesisView struct {
	Chain   *crypto.Hash    `json:"chain,omitempty"` // the hash of a genesis that is complete
	Missing string          `json:"missing,omitempty"`
	Quorum  int             `json:"quorum"`
	Faults  int             `json:"faults"` // validators that may fail or lie
	Supply  ledger.Amount   `json:"supply"`
	Genesis *ledger.Genesis `json:"genesis"`
}

func newGenesisView(g *ledger.Genesis) genesisView {
	v := genesisView{Genesis: g, Supply: g.Supply()}
	if len(g.Validators) == 0 {
		v.Missing = ledger.ErrNoValidators.Error()
		return v
	}
	chain := g.Chain()
	v.Chain, v.Quorum, v.Faults = &chain, g.Quorum(), g.Faults()
	return v
}

func newGenesis(g *globals) *cobra.Command {
	var dir string
	c := group("genesis", "Make the genesis of a network, and look at one",
		genesisNew(g, &dir), genesisAddValidator(g, &dir), genesisAddAccount(g, &dir), genesisShow(g, &dir), genesisHash(g, &dir), genesisDiff(g, &dir))
	c.Long = `The genesis is the file genesis.json in a peer's directory: a network's name and rules, its
validators, and who holds how many credits at the start. Its hash is the chain id. All
peers of a network have the same one; with another one it is another network.

  poq init --roles validator            on each validator's machine: prints its line
  poq genesis new home                  on one machine
  poq genesis add-validator LINE...     the lines of all validators
  poq genesis add-account ACCOUNT 1000  credits for who is to pay
  poq genesis show

Then copy genesis.json to the other validators. Everybody else gets it with a join token.
The file may be edited, too, until the network starts: poq genesis show checks it.`
	c.PersistentFlags().StringVar(&dir, "dir", defaultDir(), "directory of the peer")
	return c
}

// readDraft reads the genesis of a directory, which may lack validators.
func readDraft(dir string) (*ledger.Genesis, error) {
	g, err := genesis.Read(genesis.Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: poq genesis new makes one: %w", genesis.Path(dir), fs.ErrNotExist)
	}
	if err != nil && !errors.Is(err, ledger.ErrNoValidators) {
		return nil, err
	}
	return g, nil
}

// writeDraft writes it back, if it is right but for validators.
func writeDraft(dir string, g *ledger.Genesis) error {
	sortAccounts(g)
	if err := g.Validate(); err != nil && !errors.Is(err, ledger.ErrNoValidators) {
		return err
	}
	return genesis.Change(dir, g)
}

func sortAccounts(g *ledger.Genesis) {
	slices.SortFunc(g.Accounts, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
}

// tellDraft says what a draft has become.
func tellDraft(c *cobra.Command, g *globals, dir string, d *ledger.Genesis, what string) error {
	v := newGenesisView(d)
	if g.json {
		return printJSON(c.OutOrStdout(), v)
	}
	state := v.Missing
	if v.Chain != nil {
		state = fmt.Sprintf("chain %s, %s", v.Chain.Short(), v.committee())
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n%s: %s\n", what, genesis.Path(dir), state)
	return err
}

// committee says how many validators there are, and what that bears.
func (v genesisView) committee() string {
	n := len(v.Genesis.Validators)
	if n == 1 {
		return "1 validator, which must not fail"
	}
	bears := "none may fail or lie"
	if v.Faults > 0 {
		bears = fmt.Sprintf("%d may fail or lie", v.Faults)
	}
	return fmt.Sprintf("%d validators: %d are a quorum, %s", n, v.Quorum, bears)
}

func genesisNew(g *globals, dir *string) *cobra.Command {
	minFee := credits(defaultMinFee)
	var model string
	var accounts []string
	c := &cobra.Command{
		Use: "new NAME", Short: "Write a genesis without validators", Args: args(cobra.ExactArgs(1)),
		Example: `  poq genesis new home
  poq genesis new home --min-fee 0.01 --account "$(poq keys show account)=1000"`,
	}
	c.Flags().Var(&minFee, "min-fee", "least fee of an order, in credits")
	c.Flags().StringVar(&model, "judge-model", "", "directory of the judge that scores, instead of the one in the binary")
	c.Flags().StringArrayVar(&accounts, "account", nil, "who holds credits at the start, as ACCOUNT=CREDITS; may be repeated")
	c.RunE = func(c *cobra.Command, a []string) error {
		d := &ledger.Genesis{
			Network: a[0], Epoch: 1, MinFee: ledger.Amount(minFee), Splits: []ledger.Split{ledger.DefaultSplit()},
			Validators: []ledger.Validator{}, Accounts: []ledger.GenesisAccount{},
		}
		for _, s := range accounts {
			id, balance, ok := strings.Cut(s, "=")
			if !ok {
				return usagef("--account %s: want ACCOUNT=CREDITS", s)
			}
			account, err := parseAccount(id, balance, "")
			if err != nil {
				return usagef("--account %s: %w", s, err)
			}
			d.Accounts = append(d.Accounts, account)
		}
		sortAccounts(d)
		if err := d.Validate(); !errors.Is(err, ledger.ErrNoValidators) {
			return usageError{err}
		}
		path := genesis.Path(*dir)
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there already: remove it first, or choose another directory with --dir", path)
		}
		var err error
		if d.Judge, err = crossencoder.Identity(model); err != nil {
			return err
		}
		if err := writeDraft(*dir, d); err != nil {
			return err
		}
		return tellDraft(c, g, *dir, d, fmt.Sprintf("network %s: least fee %s, judge %s", d.Network, formatFee(d.MinFee), d.Judge.Short()))
	}
	return c
}

func genesisAddValidator(g *globals, dir *string) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "add-validator LINE|FILE|-...", Short: "Write validators into the genesis", Args: args(cobra.MinimumNArgs(1)),
		Long: `Writes validators into the genesis, from the lines that poq init --roles validator printed
on their machines: as arguments, or in files with one on each line. The order counts: with
another one it is another network.`,
	}
	c.Flags().StringVar(&name, "name", "", "another name than that in the line")
	c.RunE = func(c *cobra.Command, a []string) error {
		var added []ledger.Validator
		for _, arg := range a {
			list, err := readLines(c.InOrStdin(), arg)
			if err != nil {
				return err
			}
			added = append(added, list...)
		}
		if name != "" {
			if err := genesis.CheckName(name); err != nil {
				return usageError{err}
			}
			if len(added) != 1 {
				return usagef("--name goes with one validator, not with %d", len(added))
			}
			added[0].Name = name
		}
		d, err := readDraft(*dir)
		if err != nil {
			return err
		}
		var names []string
		for _, v := range added {
			for _, old := range d.Validators {
				if old.Name == v.Name && old.Consensus != v.Consensus {
					return fmt.Errorf("there is another validator %s already: give this one another name with --name", v.Name)
				}
			}
			d.Validators = append(d.Validators, v)
			names = append(names, v.Name)
		}
		if err := writeDraft(*dir, d); err != nil {
			return err
		}
		return tellDraft(c, g, *dir, d, "added "+strings.Join(names, ", "))
	}
	return c
}

// maxLines bounds a file of validators' lines.
const maxLines = 64 << 10

// readLines reads validators' lines: one, or those in a file or stdin. A file may have empty lines and comments behind #.
func readLines(stdin io.Reader, arg string) (list []ledger.Validator, err error) {
	v, err := genesis.ParseLine(arg)
	if err == nil {
		return []ledger.Validator{v}, nil
	}
	if !errors.Is(err, genesis.ErrNoLine) {
		return nil, usageError{err}
	}
	data, e := readInput(stdin, arg, maxLines)
	if errors.Is(e, fs.ErrNotExist) {
		return nil, usagef("%s is no file, and %w", arg, err)
	}
	if e != nil {
		return nil, e
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		v, err := genesis.ParseLine(text)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", arg, n, err)
		}
		list = append(list, v)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", arg, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no validator's line", arg)
	}
	return list, nil
}

func genesisAddAccount(g *globals, dir *string) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "add-account ACCOUNT CREDITS", Short: "Give an account credits to begin with", Args: args(cobra.ExactArgs(2)),
		Long: `Gives an account credits to begin with. There are never more than all accounts of the
genesis hold together: somebody must hold some, or nobody can ever pay. Accounts without any
need not be in the genesis.`,
		Example: `  poq genesis add-account "$(poq keys show account)" 1000 --name ada`,
	}
	c.Flags().StringVar(&name, "name", "", "what to call the account where people see it")
	c.RunE = func(c *cobra.Command, a []string) error {
		account, err := parseAccount(a[0], a[1], name)
		if err != nil {
			return usageError{err}
		}
		d, err := readDraft(*dir)
		if err != nil {
			return err
		}
		for _, old := range d.Accounts {
			if old.ID == account.ID {
				return fmt.Errorf("account %s is in the genesis already, with %s credits: change it in %s", old.ID.Short(), formatFee(old.Balance), genesis.Path(*dir))
			}
		}
		d.Accounts = append(d.Accounts, account)
		if err := writeDraft(*dir, d); err != nil {
			return err
		}
		return tellDraft(c, g, *dir, d, fmt.Sprintf("account %s holds %s credits of %s", account.ID.Short(), formatFee(account.Balance), formatFee(d.Supply())))
	}
	return c
}

// parseAccount reads an account and its credits.
func parseAccount(id, balance, name string) (a ledger.GenesisAccount, err error) {
	var amount credits
	if err := errors.Join(a.ID.UnmarshalText([]byte(id)), amount.Set(balance)); err != nil {
		return a, err
	}
	a.Name, a.Balance = name, ledger.Amount(amount)
	return a, nil
}

// openGenesis reads the genesis that a command is about: a file, or that of the directory.
func openGenesis(dir string, a []string) (*ledger.Genesis, error) {
	if len(a) == 0 {
		return readDraft(dir)
	}
	g, err := genesis.Read(a[0])
	if errors.Is(err, ledger.ErrNoValidators) {
		err = nil
	}
	return g, err
}

func genesisShow(g *globals, dir *string) *cobra.Command {
	return &cobra.Command{Use: "show [FILE]", Short: "Check a genesis and show what it says", Args: args(cobra.MaximumNArgs(1)), RunE: func(c *cobra.Command, a []string) error {
		d, err := openGenesis(*dir, a)
		if err != nil {
			return err
		}
		v := newGenesisView(d)
		if g.json {
			return printJSON(c.OutOrStdout(), v)
		}
		own, err := crossencoder.Identity("")
		if err != nil {
			return err
		}
		v.print(c.OutOrStdout(), own)
		return nil
	}}
}

// print shows a genesis; own is the judge in the binary.
func (v genesisView) print(w io.Writer, own crypto.Hash) {
	d := v.Genesis
	chain, judge := v.Missing, "not the one in this binary: validators need --judge-model"
	if v.Chain != nil {
		chain = v.Chain.String()
	}
	if d.Judge == own {
		judge = "the one in this binary"
	}
	fmt.Fprintf(w, "Network    %s, epoch %d\nChain      %s\nJudge      %s (%s)\nLeast fee  %s\nSupply     %s\n", d.Network, d.Epoch, chain, d.Judge.Short(), judge, formatFee(d.MinFee), formatFee(v.Supply))
	for _, s := range d.Splits {
		fmt.Fprintf(w, "Split %-4d workers %d : validators %d of the fee; ranks %s; paid from a score of %s; band %s; %d/10000 burned if nobody is paid\n",
			s.ID, s.Workers, s.Validators, strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Ranks), " ", " : "), "[]"), formatScore(s.Floor), formatScore(s.Band), s.UnpaidBurn)
	}
	if v.Chain != nil {
		fmt.Fprintf(w, "Committee  %s\n\n", v.committee())
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "VALIDATOR\tCONSENSUS KEY\tACCOUNT\tPEER ID")
		for _, m := range d.Validators {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", m.Name, m.Consensus.Short(), m.Account.Short(), m.Peer)
		}
		t.Flush()
	}
	if len(d.Accounts) == 0 {
		fmt.Fprintln(w, "\nNo account holds credits: nobody can ever pay for an answer. poq genesis add-account gives some.")
		return
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ACCOUNT\tNAME\tCREDITS")
	for _, a := range d.Accounts {
		fmt.Fprintf(t, "%s\t%s\t%s\n", a.ID, a.Name, formatFee(a.Balance))
	}
	t.Flush()
}

func genesisHash(g *globals, dir *string) *cobra.Command {
	return &cobra.Command{Use: "hash [FILE]", Short: "Print the hash of a genesis: the chain id of its network", Args: args(cobra.MaximumNArgs(1)), RunE: func(c *cobra.Command, a []string) error {
		d, err := openGenesis(*dir, a)
		if err != nil {
			return err
		}
		v := newGenesisView(d)
		switch {
		case v.Chain == nil:
			return fmt.Errorf("the genesis of %s is not complete: %w", d.Network, ledger.ErrNoValidators)
		case g.json:
			return printJSON(c.OutOrStdout(), map[string]any{"network": d.Network, "chain": v.Chain})
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), v.Chain)
		return err
	}}
}

func genesisDiff(g *globals, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "diff FILE", Short: "Name the first thing in which another genesis differs; the exit code tells", Args: args(cobra.ExactArgs(1)),
		Long: `Compares the genesis of the directory with that of another peer, which it was refused by
as one of another genesis.`,
		RunE: func(c *cobra.Command, a []string) error {
			own, err := readDraft(*dir)
			if err != nil {
				return err
			}
			other, err := openGenesis(*dir, a)
			if err != nil {
				return err
			}
			difference, equal := own.Difference(other), own.Chain() == other.Chain()
			if g.json {
				err = printJSON(c.OutOrStdout(), map[string]any{"equal": equal, "difference": difference, "chain": own.Chain(), "other_chain": other.Chain()})
				if !equal {
					err = errors.Join(err, errShown)
				}
				return err
			}
			if !equal {
				return fmt.Errorf("%s differs from %s in %s", a[0], genesis.Path(*dir), difference)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "equal: both are of chain %s\n", own.Chain())
			return err
		},
	}
}
