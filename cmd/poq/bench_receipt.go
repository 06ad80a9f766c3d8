package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// receiptBench is what bench receipt measured. Times are µs.
type receiptBench struct {
	Cores int             `json:"cores"`
	Runs  int             `json:"runs"`
	Sizes []benchedVerify `json:"sizes"`
}

type benchedVerify struct {
	Validators int   `json:"validators"`
	Answers    int   `json:"answers"`
	Signatures int   `json:"signatures"`
	Bytes      int   `json:"bytes"`      // canonical
	FileBytes  int   `json:"file_bytes"` // as poq receipt get prints it
	P50        int64 `json:"p50_us"`     // from the file to the verdict
	P99        int64 `json:"p99_us"`
}

// receiptRuns is how often each receipt is verified.
const receiptRuns = 300

// benchedAnswers is the number of answers in each receipt.
const benchedAnswers = 3

func benchReceipt(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "receipt", Short: "Tell the size of receipts and time their verification, for committees of 4, 16 and 64", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			b := receiptBench{Cores: runtime.NumCPU(), Runs: receiptRuns}
			for _, n := range []int{4, 16, 64} {
				fmt.Fprintf(c.ErrOrStderr(), "verifying receipts of %d validators ...\n", n)
				v, err := benchVerify(n)
				if err != nil {
					return err
				}
				b.Sizes = append(b.Sizes, v)
			}
			if g.json {
				return printJSON(c.OutOrStdout(), b)
			}
			b.print(c.OutOrStdout())
			return nil
		},
	}
}

func (b receiptBench) print(w io.Writer) {
	fmt.Fprintf(w, "%d answers, %d runs, %d cores; no signature is remembered from run to run\n\n", benchedAnswers, b.Runs, b.Cores)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "VALIDATORS\tSIGNATURES\tBYTES\tFILE\tVERIFY P50\tP99\t")
	for _, s := range b.Sizes {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%.2f ms\t%.2f ms\t\n", s.Validators, s.Signatures, s.Bytes, s.FileBytes, float64(s.P50)/1000, float64(s.P99)/1000)
	}
	t.Flush()
	fmt.Fprintln(w, "\nBundles hold one vote, as in an idle network; in one of 2^k votes each vote takes 32·k bytes more.")
}

func benchVerify(n int) (v benchedVerify, err error) {
	g, r, err := benchedReceipt(n)
	if err != nil {
		return v, err
	}
	file, err := ledger.EncodeReceiptFile(g.Chain(), r)
	if err != nil {
		return v, err
	}
	v = benchedVerify{Validators: n, Answers: benchedAnswers, Signatures: 1 + n + 3*g.Quorum(), Bytes: len(r.Encode()), FileBytes: len(file)}
	var times []time.Duration
	for range receiptRuns {
		begin := time.Now()
		if _, err := ledger.NewVerifier(g).ReceiptFile(file); err != nil {
			return v, err
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	v.P50, v.P99 = times[len(times)/2].Microseconds(), times[len(times)*99/100].Microseconds()
	return v, nil
}

// benchedReceipt makes a network of n validators and the receipt of one task that all of them judged.
func benchedReceipt(n int) (*ledger.Genesis, *ledger.Receipt, error) {
	newKey := func() crypto.PrivateKey {
		k, err := crypto.GenerateKey(nil)
		if err != nil {
			panic(err) // the system has no randomness
		}
		return k
	}
	payer, keys := newKey(), make([]crypto.PrivateKey, n)
	g := &ledger.Genesis{Network: "bench", MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()}}
	g.Accounts = []ledger.GenesisAccount{{ID: payer.Public(), Name: "payer", Balance: ledger.Credit}}
	for i := range keys {
		keys[i] = newKey()
		g.Validators = append(g.Validators, ledger.Validator{Name: fmt.Sprintf("validator-%d", i+1), Consensus: keys[i].Public(), Account: newKey().Public(), Peer: fmt.Sprint(i)})
	}
	if err := g.Validate(); err != nil {
		return nil, nil, err
	}
	d := ledger.Domain(g)
	certify := func(l ledger.Leaf) ledger.Certificate {
		c := ledger.Certificate{Vote: l}
		for i, k := range keys[:g.Quorum()] {
			u := ledger.NewBundle(uint16(i), 0, crypto.Hash{}, []ledger.Leaf{l})
			u.Sign(d, k)
			c.Proofs = append(c.Proofs, u.Proof(0))
		}
		return c
	}
	order := ledger.Order{Payer: payer.Public(), Fee: ledger.Credit, Split: 1, Prompt: crypto.Sum([]byte("prompt")), MaxAnswers: benchedAnswers, AnswerDeadline: 1000, ScoreDeadline: 2000}
	task := ledger.OrderID(d, order)
	r := &ledger.Receipt{Order: ledger.Sign(d, payer, order), Lock: certify(ledger.LockLeaf(task))}
	var answers []ledger.AnswerID
	for i := range benchedAnswers {
		answers = append(answers, ledger.AnswerID{Worker: newKey().Public(), Text: crypto.Sum([]byte{byte(i)})})
	}
	slices.SortFunc(answers, ledger.AnswerID.Compare)
	var reveals []ledger.RevealedOpening
	for i, k := range keys {
		o := ledger.Opening{Scores: []ledger.Score{9000, 8000, 7000}, Salt: sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(i)))}
		r.Seal.Value = append(r.Seal.Value, ledger.Sign(d, k, ledger.CommitScores(d, task, uint16(i), answers, o)))
		reveals = append(reveals, ledger.RevealedOpening{Member: uint16(i), Opening: o})
	}
	r.Seal.Votes = certify(ledger.Leaf{Kind: ledger.Commit, Task: task, Stage: ledger.StageSeal, Value: r.Seal.Value.Hash(d)})
	r.Outcome = ledger.Settle(g, d, task, order, r.Seal.Value, reveals)
	r.Settle = certify(ledger.Leaf{Kind: ledger.FastCommit, Task: task, Stage: ledger.StageSettle, Value: r.Outcome.Hash(d)})
	return g, r, nil
}
