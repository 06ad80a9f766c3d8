package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/apikeys"
)

func newAPIKeys(g *globals) *cobra.Command {
	var dir peerDir
	c := group("api-keys", "Say who may ask through a peer's API, and how much",
		apiKeysNew(g, &dir), apiKeysList(g, &dir), apiKeysSet(g, &dir), apiKeysRevoke(g, &dir))
	c.Long = `The API that poq up --api serves spends the credits of the peer. As long as there is no
key, whoever reaches it may, so it listens on this machine alone. Once there is one the
API wants a key of everybody, and may be served to others:

  poq api-keys new web --limit 20 --rate 60
  poq up --api 0.0.0.0:8080

Keys may be made, changed and revoked while the peer runs. When the last one is revoked
nobody may ask any more; to ask for none again, stop the peer and remove api-keys.json.`
	c.PersistentFlags().StringVar((*string)(&dir), "dir", defaultDir(), "directory of the peer, or of a devnet: its payer serves the API")
	return c
}

// peerDir is the directory of a peer, or that of a devnet.
type peerDir string

// find returns where the keys lie.
func (d peerDir) find() (string, error) {
	payer := filepath.Join(string(d), "payer")
	switch {
	case offline(d).single():
		return string(d), nil
	case offline(payer).single():
		return payer, nil
	}
	return "", fmt.Errorf("there is no peer in %s: poq init makes one", d)
}

// limit is a flag that takes an amount in credits, or 0 for none.
type limit struct{ credits }

func (l *limit) Set(s string) error {
	if s == "0" {
		l.credits = 0
		return nil
	}
	return l.credits.Set(s)
}

// terms are the flags of a key.
type terms struct {
	limit limit
	rate  int
}

func (t *terms) add(c *cobra.Command) {
	c.Flags().Var(&t.limit, "limit", "what it may spend in all, in credits; 0: no limit")
	c.Flags().IntVar(&t.rate, "rate", 0, "how many requests it may send in a minute; 0: no limit")
}

// apiKey is a key with what it spent.
type apiKey struct {
	apikeys.Key
	apikeys.Usage
}

// newAPIKey is what api-keys new prints.
type newAPIKey struct {
	Secret string `json:"key"`
	apikeys.Key
}

func apiKeysNew(g *globals, dir *peerDir) *cobra.Command {
	var t terms
	c := &cobra.Command{
		Use: "new NAME", Short: "Make a key and print it, this once", Args: args(cobra.ExactArgs(1)),
		Long: `Makes a key and prints it. It is shown this once: only its hash is kept. The name is for
you, to tell keys apart.`,
		Example: `  poq api-keys new web --limit 20 --rate 60`,
	}
	t.add(c)
	c.RunE = func(c *cobra.Command, a []string) error {
		path, err := dir.find()
		if err != nil {
			return err
		}
		secret, k, err := apikeys.New(path, a[0], ledger.Amount(t.limit.credits), t.rate)
		if err != nil {
			return apiKeyUsage(err)
		}
		if g.json {
			return printJSON(c.OutOrStdout(), newAPIKey{secret, k})
		}
		fmt.Fprintf(c.ErrOrStderr(), "API key %s (%s); keep it, it is not shown again:\n", k.Name, termsText(k))
		_, err = fmt.Fprintln(c.OutOrStdout(), secret)
		return err
	}
	return c
}

func apiKeysList(g *globals, dir *peerDir) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys, and what each spent", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
			path, err := dir.find()
			if err != nil {
				return err
			}
			keys, err := apikeys.List(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			usage, err := apikeys.ReadUsage(path)
			if err != nil {
				return err
			}
			list := []apiKey{}
			for _, k := range keys {
				list = append(list, apiKey{k, usage[k.Hash]})
			}
			if g.json {
				return printJSON(c.OutOrStdout(), list)
			}
			if len(list) == 0 {
				_, err := fmt.Fprintf(c.OutOrStdout(), "there are no API keys in %s: poq api-keys new NAME makes one\n", path)
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tCREATED\tLIMIT\tSPENT\tRESERVED\tRATE")
			for _, k := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, k.Created.Local().Format(time.DateTime), limitText(k.Limit), formatFee(k.Spent), formatFee(k.Reserved), rateText(k.Rate))
			}
			return w.Flush()
		},
	}
}

func apiKeysSet(g *globals, dir *peerDir) *cobra.Command {
	var t terms
	c := &cobra.Command{
		Use: "set NAME", Short: "Change what a key may spend in all, or its rate", Args: args(cobra.ExactArgs(1)),
		Example: `  poq api-keys set web --limit 50`,
	}
	t.add(c)
	c.RunE = func(c *cobra.Command, a []string) error {
		limited, rated := c.Flags().Changed("limit"), c.Flags().Changed("rate")
		if !limited && !rated {
			return usagef("nothing to change: give --limit or --rate")
		}
		path, err := dir.find()
		if err != nil {
			return err
		}
		k, err := apikeys.Change(path, a[0], func(k *apikeys.Key) {
			if limited {
				k.Limit = ledger.Amount(t.limit.credits)
			}
			if rated {
				k.Rate = t.rate
			}
		})
		if err != nil {
			return apiKeyUsage(err)
		}
		if g.json {
			return printJSON(c.OutOrStdout(), k)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "API key %s: %s\n", k.Name, termsText(k))
		return err
	}
	return c
}

func apiKeysRevoke(g *globals, dir *peerDir) *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "Revoke a key: from now on nobody may ask with it", Args: args(cobra.ExactArgs(1)), RunE: func(c *cobra.Command, a []string) error {
			path, err := dir.find()
			if err == nil {
				err = apikeys.Revoke(path, a[0])
			}
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), map[string]string{"revoked": a[0]})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "API key %s is revoked\n", a[0])
			return err
		},
	}
}

// apiKeyUsage tells what was typed wrongly from what failed.
func apiKeyUsage(err error) error {
	if errors.Is(err, apikeys.ErrName) || errors.Is(err, apikeys.ErrTerms) {
		return usageError{err}
	}
	return err
}

func limitText(limit ledger.Amount) string {
	if limit == 0 {
		return "none"
	}
	return formatFee(limit)
}

func rateText(rate int) string {
	if rate == 0 {
		return "any"
	}
	return strconv.Itoa(rate) + "/min"
}

func termsText(k apikeys.Key) string {
	return fmt.Sprintf("limit %s, rate %s", limitText(k.Limit), rateText(k.Rate))
}
