package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"rsc.io/qr"

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
	var drawn, full bool
	c := &cobra.Command{
		Use: "token", Short: "Print the line with which others join the network", Args: args(cobra.NoArgs),
		Long: `Prints the join token of the network that runs here: one line with its name, the hash of
its genesis and the addresses of this peer. Give it to whoever is to join:

  poq up --join TOKEN --roles worker

A small genesis is in the token; a larger one is fetched from the peer by who joins, or
put into the token with --full. A token is no secret, and no permission: who has it knows
where the network is.`,
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the network, if several run")
	c.Flags().BoolVar(&full, "full", false, "put the genesis into the token, however long it becomes")
	c.Flags().BoolVar(&drawn, "qr", false, "draw it as a QR code")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := dial(c, dir)
		if err != nil {
			return err
		}
		t, err := tokenOf(c, client, full)
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
		if drawn {
			return printQR(c.OutOrStdout(), t, term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "")
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), t)
		return err
	}
	return c
}

// tokenOf makes the token of what runs, and says on stderr if nobody can use it.
func tokenOf(c *cobra.Command, client *control.Client, full bool) (t token.Token, err error) {
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
	if t = token.New(genesis, addrs); len(t.Addresses) == 0 {
		// On one machine a network on loopback is of use too.
		t.Addresses = addrs[:min(len(addrs), token.MaxAddresses)]
		fmt.Fprintln(c.ErrOrStderr(), "this token is of use on this machine only: the peer has no address that others reach; start it without --bind, or tell its address with --announce")
	}
	if full {
		return t.Full(genesis)
	}
	return t, nil
}

// printQR draws a token for the camera of another machine: two modules of the code make a character.
func printQR(w io.Writer, t token.Token, colour bool) error {
	code, err := qr.Encode(t.String(), qr.L)
	if err != nil {
		return fmt.Errorf("drawing the token: %w", err)
	}
	// Dark on light, whatever the terminal's colours; without colours, on a dark background.
	glyphs, begin, end := [4]rune{'█', '▄', '▀', ' '}, "", ""
	if colour {
		glyphs, begin, end = [4]rune{' ', '▀', '▄', '█'}, "\x1b[30;107m", "\x1b[0m"
	}
	const quiet = 2 // modules of margin
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString(begin)
		for x := -quiet; x < code.Size+quiet; x++ {
			i := 0
			if code.Black(x, y) {
				i |= 1
			}
			if code.Black(x, y+1) {
				i |= 2
			}
			b.WriteRune(glyphs[i])
		}
		b.WriteString(end + "\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}
