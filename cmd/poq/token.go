package main

import (
	"fmt"

	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/token"
)

// tokenJSON is what poq token --json prints.
type tokenJSON struct {
	Token     string      `json:"token"`
	Network   string      `json:"network"`
	Chain     crypto.Hash `json:"chain"`
	Addresses []string    `json:"addresses"`
	Genesis   bool        `json:"genesis"` // whether the token carries it
}

func newToken(g *globals) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "token", Short: "Print the line with which others join the network", Args: args(cobra.NoArgs),
		Long: `Prints the join token of the network that runs here: one line with its name, its
genesis and the addresses of this peer. Give it to whoever is to join:

  poq up --join TOKEN --roles worker

A token is no secret, and no permission: who has it knows where the network is.`,
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the network, if several run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := control.Dial(c.Context(), dir)
		if err != nil {
			return err
		}
		t, err := tokenOf(c, client)
		if err != nil {
			return err
		}
		if g.json {
			out := tokenJSON{Token: t.String(), Network: t.Network, Chain: t.Chain, Genesis: t.Genesis != nil, Addresses: []string{}}
			for _, a := range t.Addresses {
				out.Addresses = append(out.Addresses, a.String())
			}
			return printJSON(c.OutOrStdout(), out)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), t)
		return err
	}
	return c
}

// tokenOf makes the token of what runs, and says on stderr if nobody can use it.
func tokenOf(c *cobra.Command, client *control.Client) (t token.Token, err error) {
	genesis, err := client.Genesis(c.Context())
	if err != nil {
		return t, err
	}
	var addrs []multiaddr.Multiaddr
	for _, p := range client.Status.Peers {
		for _, s := range p.Addrs {
			a, err := multiaddr.NewMultiaddr(s)
			if err != nil {
				return t, fmt.Errorf("address %s: %w", s, err)
			}
			addrs = append(addrs, a)
		}
	}
	if t = token.New(genesis, addrs); len(t.Addresses) > 0 {
		return t, nil
	}
	// On one machine a network on loopback is of use too.
	t.Addresses = addrs[:min(len(addrs), token.MaxAddresses)]
	fmt.Fprintln(c.ErrOrStderr(), "this token is of use on this machine only: the peer has no address that others reach; start it without --bind, or tell its address with --announce")
	return t, nil
}
