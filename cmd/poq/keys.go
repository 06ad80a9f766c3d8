package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"text/tabwriter"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/node/wholefile"
)

// keysFlags are those of all poq keys commands.
type keysFlags struct {
	dir        string
	passphrase passphraseFlag
}

func newKeys(g *globals) *cobra.Command {
	var f keysFlags
	c := group("keys", "Look after a peer's keys, and sign with them",
		keysList(g, &f), keysShow(g, &f), keysNew(g, &f), keysExport(g, &f), keysImport(g, &f), keysSign(g, &f), keysVerify(g))
	c.Long = `A peer has three keys, each in a file of its own in its directory:

  peer       peer.key       its place in the network
  account    account.key    spends, is paid
  consensus  consensus.key  votes; validators only

They are ed25519 keys as PKCS #8 in PEM, or the same encrypted with a passphrase. No
command replaces a key.`
	c.PersistentFlags().StringVar(&f.dir, "dir", defaultDir(), "directory of the peer")
	f.passphrase.add(c.PersistentFlags())
	return c
}

// entry finds a key of the directory by the name of its kind.
func (f *keysFlags) entry(name string) (e keystore.Entry, err error) {
	kind, err := keystore.ParseKind(name)
	if err != nil {
		return e, usageError{err}
	}
	entries, err := keystore.List(f.dir)
	if err != nil {
		return e, err
	}
	for _, e := range entries {
		if e.Kind == kind {
			return e, nil
		}
	}
	return e, fmt.Errorf("there is no %s: %w; poq keys new %s makes one", kind.Path(f.dir), fs.ErrNotExist, kind)
}

// publicText is how people name the key.
func publicText(e keystore.Entry) string {
	if e.Kind == keystore.Peer {
		return e.PeerID.String()
	}
	return e.Public.String()
}

func keysList(g *globals, f *keysFlags) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the keys", Args: args(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error {
		entries, err := keystore.List(f.dir)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fmt.Errorf("there are no keys in %s: poq init makes them", f.dir)
		}
		if g.json {
			return printJSON(c.OutOrStdout(), entries)
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "KEY\tPUBLIC\tENCRYPTED\tFILE")
		for _, e := range entries {
			encrypted := "no"
			if e.Encrypted {
				encrypted = "yes"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.Kind, publicText(e), encrypted, e.Path)
		}
		return t.Flush()
	}}
}

func keysShow(g *globals, f *keysFlags) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "show KEY", Short: "Print a public key: peer, account or consensus; or a validator's line", Args: args(cobra.ExactArgs(1)),
		Long: `Prints the public part of a key, and nothing else: the peer id, the account, or the
consensus key. With "validator" it prints the line that poq genesis add-validator takes.`,
		Example: `  poq keys show account
  poq keys show validator --name berlin`,
	}
	c.Flags().StringVar(&name, "name", "", "name in a validator's line")
	c.RunE = func(c *cobra.Command, a []string) error {
		if a[0] == roleValidator {
			if _, err := f.entry(string(keystore.Consensus)); err != nil {
				return err
			}
			card, err := describePeer(f.dir, name)
			switch {
			case err != nil:
				return err
			case card.ValidatorLine == "":
				return fmt.Errorf("keys are missing in %s: poq init makes them", f.dir)
			case g.json:
				return printJSON(c.OutOrStdout(), map[string]string{"validator_line": card.ValidatorLine})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), card.ValidatorLine)
			return err
		}
		if name != "" {
			return usagef("--name goes with: poq keys show validator")
		}
		e, err := f.entry(a[0])
		if err != nil {
			return err
		}
		return printKey(c, g, e)
	}
	return c
}

func printKey(c *cobra.Command, g *globals, e keystore.Entry) error {
	if g.json {
		return printJSON(c.OutOrStdout(), e)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), publicText(e))
	return err
}

func keysNew(g *globals, f *keysFlags) *cobra.Command {
	var encrypt bool
	c := &cobra.Command{
		Use: "new KEY", Short: "Make a key that the directory lacks, and print its public part", Args: args(cobra.ExactArgs(1)),
		Long: `Makes a peer, account or consensus key and prints its public part. If there is one
already, move its file away first: nothing else knows its secret.`,
	}
	c.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt it with a passphrase, if it is the first key of the directory")
	c.RunE = func(c *cobra.Command, a []string) error {
		key, err := crypto.GenerateKey(nil)
		if err != nil {
			return err
		}
		return f.put(c, g, a[0], key, f.passphrase.forNew(c, f.dir, encrypt))
	}
	return c
}

// put adds a key to the directory, with the passphrase that it is to have, and prints its public part.
func (f *keysFlags) put(c *cobra.Command, g *globals, name string, key crypto.PrivateKey, passphrase keystore.Passphrase) error {
	kind, err := keystore.ParseKind(name)
	if err != nil {
		return usageError{err}
	}
	var secret []byte
	if _, err := os.Lstat(kind.Path(f.dir)); errors.Is(err, fs.ErrNotExist) { // else Add says that it is there
		if secret, err = passphrase(); err != nil {
			return err
		}
	}
	if err := keystore.Add(f.dir, kind, key, secret); err != nil {
		return err
	}
	e, err := f.entry(name)
	if err != nil {
		return err
	}
	return printKey(c, g, e)
}

func keysExport(g *globals, f *keysFlags) *cobra.Command {
	var encrypt, decrypt bool
	c := &cobra.Command{
		Use: "export KEY FILE|-", Short: "Copy a secret key to a file that only you can read, or to stdout", Args: args(cobra.ExactArgs(2)),
		Long: `Copies a secret key as it is kept: encrypted if it is. --decrypt takes the passphrase off, so
that other tools can read it: it is PKCS #8 in PEM. --encrypt gives one to a copy.`,
		Example: `  poq keys export account account-backup.key --encrypt
  poq keys export peer - --decrypt | openssl pkey -text -noout`,
	}
	c.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt the copy with a passphrase")
	c.Flags().BoolVar(&decrypt, "decrypt", false, "take the passphrase off the copy")
	c.RunE = func(c *cobra.Command, a []string) error {
		e, err := f.entry(a[0])
		switch {
		case err != nil:
			return err
		case encrypt && decrypt:
			return usagef("--encrypt and --decrypt contradict each other")
		case encrypt && e.Encrypted:
			return fmt.Errorf("the %s key is encrypted already: export it as it is", e.Kind)
		case decrypt && !e.Encrypted:
			return fmt.Errorf("the %s key is not encrypted: leave --decrypt out", e.Kind)
		}
		data, err := os.ReadFile(e.Path)
		if err != nil {
			return fmt.Errorf("reading a key: %w", err)
		}
		if encrypt || decrypt {
			key, err := keystore.Read(f.dir, e.Kind, f.passphrase.ask(c, f.dir))
			if err != nil {
				return err
			}
			var secret []byte
			if encrypt {
				if secret, err = f.passphrase.choose(c, "the copy"); err != nil {
					return err
				}
			}
			if data, err = keystore.Marshal(key, secret); err != nil {
				return err
			}
		}
		if a[1] == "-" {
			if out, ok := c.OutOrStdout().(*os.File); ok && term.IsTerminal(int(out.Fd())) {
				return usagef("a secret is nothing for a terminal: name a FILE, or use > or |")
			}
			_, err := c.OutOrStdout().Write(data)
			return err
		}
		if err := wholefile.Create(a[1], wholefile.Data(data)); errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is there already, and is not replaced", a[1])
		} else if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), map[string]any{"kind": e.Kind, "file": a[1], "encrypted": e.Encrypted && !decrypt || encrypt})
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s key %s copied to %s\n", e.Kind, publicText(e), a[1])
		return err
	}
	return c
}

func keysImport(g *globals, f *keysFlags) *cobra.Command {
	var encrypt bool
	c := &cobra.Command{
		Use: "import KEY FILE|-", Short: "Take a secret key from a file, or from stdin", Args: args(cobra.ExactArgs(2)),
		Long: `Takes an ed25519 key that poq keys export, openssl genpkey or another tool wrote as PKCS #8
in PEM. An encrypted one keeps its passphrase.

A peer must not run twice: see to it that the one the key comes from never runs again. A
validator moves with its directory votes/ as well, or it could contradict itself.`,
		Example: `  poq keys import account account-backup.key
  openssl genpkey -algorithm ed25519 | poq keys import account -`,
	}
	c.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt it with a passphrase, if it is the first key of the directory")
	c.RunE = func(c *cobra.Command, a []string) error {
		data, err := readInput(c.InOrStdin(), a[1], keystore.MaxFile)
		if err != nil {
			return err
		}
		_, sealed, err := keystore.Inspect(data)
		if err != nil {
			return fmt.Errorf("%s: %w", a[1], err)
		}
		passphrase := f.passphrase.forNew(c, f.dir, encrypt)
		if sealed { // it keeps its own, with which that of the directory's other keys is compared
			passphrase = sync.OnceValues(f.passphrase.ask(c, a[1]))
		}
		key, err := keystore.Parse(data, passphrase)
		if err != nil {
			return fmt.Errorf("%s: %w", a[1], err)
		}
		return f.put(c, g, a[0], key, passphrase)
	}
	return c
}

// readInput reads a file, or stdin if its name is "-", and refuses one that is longer than it may be.
func readInput(stdin io.Reader, path string, most int) ([]byte, error) {
	in, closeInput, err := openInput(stdin, path)
	if err != nil {
		return nil, err
	}
	defer closeInput()
	data, err := io.ReadAll(io.LimitReader(in, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(data) > most {
		return nil, fmt.Errorf("%s is too long: at most %d bytes are allowed", path, most)
	}
	return data, nil
}

// openInput opens a file, or stdin if its name is "-".
func openInput(stdin io.Reader, path string) (io.Reader, func(), error) {
	if path == "-" {
		return stdin, func() {}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading: %w", err)
	}
	return f, func() { f.Close() }, nil
}

// signed is what keys sign prints.
type signed struct {
	Kind      keystore.Kind    `json:"kind"`
	Public    crypto.PublicKey `json:"public"`
	PeerID    peer.ID          `json:"peer_id,omitempty"`
	Signature string           `json:"signature"`
}

func keysSign(g *globals, f *keysFlags) *cobra.Command {
	var kind string
	c := &cobra.Command{
		Use: "sign FILE|-", Short: "Sign a file, or stdin, and print the signature", Args: args(cobra.ExactArgs(1)),
		Long: `Signs a file of any size with the account key, or another one: to prove that an account, a
peer or a validator is yours. The signature is 128 hex digits. It can never pass for an
order, a vote or anything else that peers sign, whatever the file holds.`,
		Example: `  echo "I am ada" | poq keys sign -
  poq keys verify ACCOUNT SIGNATURE statement.txt`,
	}
	c.Flags().StringVar(&kind, "key", string(keystore.Account), "key to sign with: peer, account or consensus")
	c.RunE = func(c *cobra.Command, a []string) error {
		e, err := f.entry(kind)
		if err != nil {
			return err
		}
		in, closeInput, err := openInput(c.InOrStdin(), a[0])
		if err != nil {
			return err
		}
		defer closeInput()
		key, err := keystore.Read(f.dir, e.Kind, f.passphrase.ask(c, f.dir))
		if err != nil {
			return err
		}
		s, err := keystore.Sign(key, in)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), signed{e.Kind, e.Public, e.PeerID, hex.EncodeToString(s[:])})
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), hex.EncodeToString(s[:]))
		return err
	}
	return c
}

func keysVerify(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "verify PUBLIC SIGNATURE FILE|-", Short: "Check a signature of poq keys sign; the exit code tells", Args: args(cobra.ExactArgs(3)),
		Long: `Checks whether a signature of poq keys sign holds: PUBLIC is an account, a consensus key or
a peer id. It needs neither a directory nor a network.`,
		RunE: func(c *cobra.Command, a []string) error {
			key, err := parsePublic(a[0])
			if err != nil {
				return usageError{err}
			}
			var s crypto.Signature
			if raw, err := hex.DecodeString(a[1]); err != nil || len(raw) != len(s) {
				return usagef("%q is no signature: want the %d hex digits that poq keys sign prints", a[1], 2*len(s))
			} else {
				copy(s[:], raw)
			}
			in, closeInput, err := openInput(c.InOrStdin(), a[2])
			if err != nil {
				return err
			}
			defer closeInput()
			valid, err := keystore.Verify(key, s, in)
			if err != nil {
				return err
			}
			if g.json {
				err = printJSON(c.OutOrStdout(), map[string]any{"valid": valid, "public": key})
				if !valid {
					err = errors.Join(err, errShown)
				}
				return err
			}
			if !valid {
				return fmt.Errorf("the signature does not hold: this is not what %s signed, or another key signed it", a[0])
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "VALID: signed by %s\n", a[0])
			return err
		},
	}
}

// parsePublic reads an account, a consensus key or a peer id.
func parsePublic(s string) (k ledger.AccountID, err error) {
	if err := k.UnmarshalText([]byte(s)); err == nil {
		return k, nil
	}
	id, err := peer.Decode(s)
	if err != nil {
		return k, fmt.Errorf("%q is no public key: want 64 hex digits or a peer id", s)
	}
	return keystore.PublicKey(id)
}
