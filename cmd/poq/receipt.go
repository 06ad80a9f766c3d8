package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/genesis"
)

func newReceipt(g *globals) *cobra.Command {
	c := group("receipt", "Take a settlement's proof along, and check one", receiptGet(), receiptVerify(g))
	c.Long = `A receipt proves one settlement: who ordered it, who judged what, and who was
paid. It can be checked with the genesis of its network alone, without the
network and without trust in who gave it.`
	return c
}

func receiptGet() *cobra.Command {
	var f ledgerFlags
	c := &cobra.Command{Use: "get TASK", Short: "Print the receipt of a settled task; the id may be shortened", Args: args(cobra.ExactArgs(1)), RunE: func(c *cobra.Command, a []string) error {
		r, err := f.open(c)
		if err != nil {
			return err
		}
		file, err := r.Receipt(c.Context(), f.peer, a[0])
		if err != nil {
			return err
		}
		return printJSON(c.OutOrStdout(), file)
	}}
	f.add(c.Flags(), "the payer")
	return c
}

// verdict is what receipt verify found.
type verdict struct {
	Valid      bool             `json:"valid"`
	Reason     string           `json:"reason,omitempty"`     // why it is not
	ElapsedUS  int64            `json:"elapsed_us,omitempty"` // from the file's bytes to the verdict
	Bytes      int              `json:"bytes,omitempty"`      // canonical
	Signatures int              `json:"signatures,omitempty"`
	Lock       *quorum          `json:"lock,omitempty"`
	Seal       *quorum          `json:"seal,omitempty"`
	Settle     *quorum          `json:"settle,omitempty"`
	PromptHash *crypto.Hash     `json:"prompt_hash,omitempty"`
	Settlement *node.Settlement `json:"settlement,omitempty"`
	order      ledger.Order
}

// quorum is who decided a stage, and how.
type quorum struct {
	Vote    string `json:"vote"`
	Round   uint32 `json:"round"`
	Signers []int  `json:"signers"`
}

func newQuorum(c ledger.Certificate) *quorum {
	return &quorum{c.Vote.Kind.String(), c.Vote.Round, c.Signers()}
}

func receiptVerify(g *globals) *cobra.Command {
	var path, prompt string
	var answers []string
	var wishes wishFlags
	c := &cobra.Command{
		Use: "verify FILE", Short: "Check a receipt and say what it proves; - reads stdin", Args: args(cobra.ExactArgs(1)),
		Long: `Checks every signature, opens every commitment and settles the task again, with
nothing but the genesis. Ends with exit code 1 if anything does not hold.

A prompt that was ordered with options, such as --temperature, is compared together with them;
poq ledger task --json shows them.`,
	}
	c.Flags().StringVar(&path, "genesis", "", "genesis of the network: genesis.json of its directory, from somebody you trust")
	c.Flags().StringVar(&prompt, "prompt", "", "file with a text that must be the task's prompt")
	c.Flags().StringArrayVar(&answers, "answer", nil, "file with a text that must be one of its answers; may be repeated")
	wishes.add(c)
	c.RunE = func(c *cobra.Command, a []string) error {
		if path == "" {
			return usagef("--genesis is missing: a receipt is checked against the genesis of its network, genesis.json of its directory")
		}
		options, err := wishes.options(c)
		if err != nil {
			return err
		}
		rules, err := genesis.Read(path)
		if err != nil {
			return err
		}
		data, err := readInput(c.InOrStdin(), a[0], ledger.MaxReceiptFile)
		if err != nil {
			return err
		}
		v, err := judgeReceipt(rules, data, prompt, options, answers)
		switch {
		case err != nil && !g.json:
			return fmt.Errorf("the receipt is not valid: %w", err)
		case err != nil:
			v = &verdict{Reason: err.Error()}
			return errors.Join(printJSON(c.OutOrStdout(), v), fmt.Errorf("%w: %w", errShown, err))
		case g.json:
			return printJSON(c.OutOrStdout(), v)
		}
		v.print(c.OutOrStdout(), rules)
		return nil
	}
	return c
}

// judgeReceipt checks a receipt's file, and texts that must belong to it.
func judgeReceipt(g *ledger.Genesis, file []byte, prompt string, options llm.Options, answers []string) (*verdict, error) {
	begin := time.Now()
	r, err := ledger.NewVerifier(g).ReceiptFile(file)
	if err != nil {
		return nil, err
	}
	v := &verdict{Valid: true, ElapsedUS: time.Since(begin).Microseconds(), Bytes: len(r.Encode()), order: r.Order.Statement,
		Lock: newQuorum(r.Lock), Seal: newQuorum(r.Seal.Votes), Settle: newQuorum(r.Settle), PromptHash: &r.Order.Statement.Prompt}
	v.Signatures = 1 + len(r.Seal.Value) + len(v.Lock.Signers) + len(v.Seal.Signers) + len(v.Settle.Signers)
	texts := map[crypto.Hash]string{}
	add := func(path, what string, encode func(text []byte) ([]byte, error), belongs func(crypto.Hash) bool) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the %s: %w", what, err)
		}
		for _, t := range [][]byte{text, bytes.TrimSuffix(text, []byte("\n"))} { // an editor may have put a newline at the end
			b, err := encode(t)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if h := crypto.Sum(b); belongs(h) {
				texts[h] = string(b)
				return nil
			}
		}
		return fmt.Errorf("%s is no %s of this task: its SHA-256 %s does not stand in the receipt", path, what, crypto.Sum(text))
	}
	if prompt != "" {
		withOptions := func(text []byte) ([]byte, error) {
			return node.EncodePrompt(llm.Request{Prompt: string(text), Options: options})
		}
		err := add(prompt, "prompt", withOptions, func(h crypto.Hash) bool { return h == r.Order.Statement.Prompt })
		if err != nil {
			return nil, fmt.Errorf("%w; give the options that it was ordered with, and no others", err)
		}
	}
	s := node.Describe(g, r, nil, func(crypto.Hash) string { return "" })
	for _, path := range answers {
		err := add(path, "answer", func(text []byte) ([]byte, error) { return text, nil }, func(h crypto.Hash) bool {
			for _, a := range s.Answers {
				if a.Hash == h {
					return true
				}
			}
			return false
		})
		if err != nil {
			return nil, err
		}
	}
	v.Settlement = node.Describe(g, r, nil, func(h crypto.Hash) string { return texts[h] })
	return v, nil
}

// print says in plain words what was proven.
func (v *verdict) print(w io.Writer, g *ledger.Genesis) {
	s, o := v.Settlement, v.order
	names := func(q *quorum) string {
		var list []string
		for _, i := range q.Signers {
			list = append(list, g.Validators[i].Name)
		}
		return fmt.Sprintf("%d of %d validators (a quorum is %d): %s", len(list), len(g.Validators), g.Quorum(), strings.Join(list, ", "))
	}
	var sealed, silent []string
	for _, m := range s.Validators {
		if m.Sealed {
			sealed = append(sealed, m.Name)
		}
		if m.Sealed && !m.Revealed {
			silent = append(silent, m.Name)
		}
	}
	eligible := 0
	for _, a := range s.Answers {
		if a.Rank > 0 {
			eligible++
		}
	}
	fmt.Fprintf(w, "VALID: task %s is settled %s\n\n", s.Task, s.Outcome)
	fmt.Fprintf(w, "Proven by %d signatures and the genesis of %q (chain %s):\n\n", v.Signatures, g.Network, s.Chain.Short())
	fmt.Fprintf(w, "  ordered   %s signed order %d: a fee of %s for up to %d answers to the prompt with SHA-256\n            %s\n", partyName(s.Payer), s.Nonce, formatFee(s.Fee), o.MaxAnswers, o.Prompt)
	fmt.Fprintf(w, "  locked    the fee was put into escrow by %s\n", names(v.Lock))
	fmt.Fprintf(w, "  sealed    the scores of %d panel members count, each bound by a commitment that its member signed;\n            closed in round %d by %s\n", len(sealed), v.Seal.Round, names(v.Seal))
	fmt.Fprintf(w, "  revealed  %d of them opened what they had committed to", len(sealed)-len(silent))
	if len(silent) > 0 {
		fmt.Fprintf(w, "; not %s", strings.Join(silent, ", "))
	}
	fmt.Fprintf(w, "\n  judged    %d answers, %d of them by enough of the panel; the score of each is the lower median\n", len(s.Answers), eligible)
	fmt.Fprintf(w, "  settled   settling again gives the payments below, to the unit; signed with %s of round %d\n            by %s\n", v.Settle.Vote, v.Settle.Round, names(v.Settle))
	fmt.Fprintf(w, "  paid      %s\n\n", sums(s))
	printTables(w, s)
	fmt.Fprintf(w, "\nCredits, which make up the fee:\n")
	known := node.Names(g)
	for _, c := range s.Credits {
		fmt.Fprintf(w, "  %s  %s\n", formatFee(c.Amount), partyName(node.Party{Account: c.Account, Name: known[c.Account]}))
	}
	fmt.Fprintf(w, "\nNot proven:\n")
	if s.Prompt == "" {
		fmt.Fprintln(w, "  - what the prompt says: the receipt has its hash alone; --prompt FILE compares a text")
	}
	for _, a := range s.Answers {
		if a.Text == "" {
			fmt.Fprintln(w, "  - what the answers say: the receipt has their hashes alone; --answer FILE compares a text")
			break
		}
	}
	fmt.Fprintln(w, "  - that the scores are fair: only that the panel gave them")
	fmt.Fprintln(w, "  - what anybody's balance is, or that the payer had the fee: that takes the whole ledger, poq ledger verify")
	fmt.Fprintln(w, "  - when it happened: no clock goes into a settlement")
	fmt.Fprintln(w, "  - that this is the genesis of the network that you mean: you gave it")
	fmt.Fprintf(w, "\n%d bytes, checked in %s\n", v.Bytes, ms(max(1, v.ElapsedUS)))
}
