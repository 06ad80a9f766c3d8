package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/keystore"
)

// peerCard is what others may know of a peer's keys.
type peerCard struct {
	Dir           string            `json:"dir"`
	Made          []keystore.Kind   `json:"made"` // just now
	Encrypted     bool              `json:"encrypted"`
	PeerID        string            `json:"peer_id"`
	Account       ledger.AccountID  `json:"account"`
	Consensus     *crypto.PublicKey `json:"consensus,omitempty"`
	ValidatorLine string            `json:"validator_line,omitempty"`
}

func newInit(g *globals) *cobra.Command {
	var dir, name string
	var roles []string
	var encrypt bool
	var passphrase passphraseFlag
	c := &cobra.Command{
		Use: "init", Short: "Make a peer's directory and its keys", Args: args(cobra.NoArgs),
		Long: `Makes a directory for a peer, with a key that is its place in the network and one for its
account; for a validator also one to vote with. What is there already is kept.

A validator gets a line to send to whoever makes the genesis: it holds no secret.

Copy the *.key files to a safe place: who has account.key has its credits, and who lost
it has none. Never run two peers with the same keys.`,
		Example: `  poq init
  poq init --roles validator --name berlin
  poq init --encrypt`,
	}
	c.Flags().StringVar(&dir, "dir", defaultDir(), "directory of the peer")
	c.Flags().StringSliceVar(&roles, "roles", nil, "what the peer is to do: worker, validator or both")
	c.Flags().StringVar(&name, "name", "", "a validator's name in the genesis")
	c.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt the keys with a passphrase; --passphrase-file alone does so too")
	passphrase.add(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkRoles(roles); err != nil {
			return err
		}
		validator := slices.Contains(roles, roleValidator)
		if name != "" && !validator {
			return usagef("--name is a validator's name in the genesis: it needs --roles validator")
		}
		dir, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("directory: %w", err)
		}
		if name != "" {
			if err := genesis.CheckName(name); err != nil {
				return usageError{err}
			}
		}
		made, err := keystore.Create(dir, validator, passphrase.forNew(c, dir, encrypt))
		if err != nil {
			return err
		}
		card, err := describePeer(dir, name)
		if err != nil {
			return err
		}
		if encrypt && !card.Encrypted {
			return fmt.Errorf("the keys in %s are there already, and not encrypted: poq keys export --encrypt makes encrypted copies, which poq keys import takes", dir)
		}
		card.Made = append([]keystore.Kind{}, made...)
		if g.json {
			return printJSON(c.OutOrStdout(), card)
		}
		if len(made) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "all keys were there already: nothing was made")
		} else {
			var words []string
			for _, k := range made {
				words = append(words, string(k))
			}
			fmt.Fprintf(c.ErrOrStderr(), "made in %s: %s key\n", dir, strings.Join(words, " key, "))
		}
		card.print(c.OutOrStdout())
		return nil
	}
	return c
}

// describePeer tells of the keys in a directory. name is a validator's, or "".
func describePeer(dir, name string) (*peerCard, error) {
	entries, err := keystore.List(dir)
	if err != nil {
		return nil, err
	}
	card := &peerCard{Dir: dir}
	v := ledger.Validator{Name: name}
	for _, e := range entries {
		card.Encrypted = card.Encrypted || e.Encrypted
		switch e.Kind {
		case keystore.Peer:
			v.Peer = e.PeerID.String()
			card.PeerID = v.Peer
		case keystore.Account:
			card.Account, v.Account = e.Public, e.Public
		case keystore.Consensus:
			v.Consensus = e.Public
			card.Consensus = &v.Consensus
		}
	}
	if card.Consensus == nil || v.Peer == "" || v.Account.IsZero() {
		return card, nil
	}
	card.ValidatorLine, err = validatorLine(v)
	return card, err
}

func (p *peerCard) print(w io.Writer) {
	fmt.Fprintf(w, "Directory      %s\nPeer id        %s\nAccount        %s\n", p.Dir, p.PeerID, p.Account)
	if p.Consensus == nil {
		return
	}
	fmt.Fprintf(w, "Consensus key  %s\n\nThe line for whoever makes the genesis (poq genesis add-validator):\n\n%s\n", p.Consensus, p.ValidatorLine)
}
