package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/poqmesh/poq/node/keystore"
)

const maxPassphrase = 4 << 10 // bytes

// passphraseFlag says where the passphrase of encrypted keys comes from: from a file, or else from the terminal.
type passphraseFlag struct{ file string }

func (p *passphraseFlag) add(to *pflag.FlagSet) {
	to.StringVar(&p.file, "passphrase-file", "", "file whose first line is the passphrase of the keys; without it the terminal is asked")
}

// path returns the file's name, or "".
func (p *passphraseFlag) path() string {
	if p.file != "" {
		return p.file
	}
	return os.Getenv(envName("passphrase-file"))
}

// ask returns what asks for the passphrase of something that is encrypted.
func (p *passphraseFlag) ask(c *cobra.Command, of string) keystore.Passphrase {
	return func() ([]byte, error) {
		if path := p.path(); path != "" {
			return readPassphrase(path)
		}
		return askTerminal(c.Context(), "Passphrase of the keys in "+of+": ")
	}
}

// choose returns the passphrase of something that is to be encrypted. The terminal is asked twice.
func (p *passphraseFlag) choose(c *cobra.Command, of string) ([]byte, error) {
	if path := p.path(); path != "" {
		return readPassphrase(path)
	}
	first, err := askTerminal(c.Context(), "New passphrase for "+of+": ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	second, err := askTerminal(c.Context(), "Once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two passphrases differ: nothing was written")
	}
	return first, nil
}

// forNew returns what tells the passphrase of keys that are to be added to a directory, nil for none: that of the keys
// there, or a new one if there are none and it is wanted.
func (p *passphraseFlag) forNew(c *cobra.Command, dir string, encrypt bool) keystore.Passphrase {
	return func() ([]byte, error) {
		entries, err := keystore.List(dir)
		encrypt := encrypt || p.path() != ""
		switch {
		case err != nil:
			return nil, err
		case len(entries) > 0 && entries[0].Encrypted:
			return p.ask(c, dir)()
		case len(entries) > 0 && encrypt:
			return nil, fmt.Errorf("the keys in %s are not encrypted: another one can't be", dir)
		case encrypt:
			return p.choose(c, dir)
		}
		return nil, nil
	}
}

// readPassphrase reads the first line of a file.
func readPassphrase(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxPassphrase)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
		return nil, fmt.Errorf("the first line of %s is empty: it must be the passphrase", path)
	}
	return line, nil
}

// askTerminal asks a person for a secret, which is not shown.
func askTerminal(ctx context.Context, prompt string) ([]byte, error) {
	in, out := os.Stdin, os.Stderr
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil { // stdin may bring data
		defer tty.Close()
		in, out = tty, tty
	}
	fd := int(in.Fd())
	before, err := term.MakeRaw(fd) // before the question: nothing that is typed is shown
	if err != nil {
		return nil, errors.New("a passphrase is needed and there is no terminal to ask: name its file with --passphrase-file or POQ_PASSPHRASE_FILE")
	}
	type reply struct {
		secret string
		err    error
	}
	replies := make(chan reply, 1)
	fmt.Fprint(out, prompt)
	go func() {
		secret, err := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{in, out}, "").ReadPassword("")
		replies <- reply{secret, err}
	}()
	var r reply
	select {
	case r = <-replies:
	case <-ctx.Done(): // the process ends, and must not leave the terminal mute
		r.err = ctx.Err()
	}
	if err := term.Restore(fd, before); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	switch {
	case errors.Is(r.err, io.EOF) || errors.Is(r.err, context.Canceled): // Ctrl-C, Ctrl-D or a signal
		fmt.Fprintln(out)
		return nil, errors.New("interrupted")
	case r.err != nil:
		return nil, fmt.Errorf("reading the passphrase: %w", r.err)
	}
	return []byte(r.secret), nil
}
