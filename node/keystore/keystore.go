// Package keystore keeps the keys of a peer in its directory.
//
//	DIR/                mode 0700
//	  peer.key          libp2p identity
//	  account.key       spends, is paid
//	  consensus.key     votes; validators only
//
// Files have mode 0600. Looser modes of a file or of the directory are refused, and the error says how to mend
// them. A key is an ed25519 key as PKCS #8 in PEM, which other tools read too, or the same encrypted with a passphrase:
// see [Marshal]. All keys of a directory have the same passphrase, or none has one. A key is written whole or not at
// all, and never replaced.
package keystore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/node/wholefile"
)

// Kind says what a key is for.
type Kind string

// Kinds.
const (
	Peer      Kind = "peer"      // authenticates connections
	Account   Kind = "account"   // signs orders and answers; is paid
	Consensus Kind = "consensus" // signs votes, scores and reveals
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Peer, Account, Consensus} }

// ParseKind reads the name of a kind.
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("there is no key %q: want peer, account or consensus", s)
}

// Path returns where a directory has the key of kind k.
func (k Kind) Path(dir string) string { return filepath.Join(dir, string(k)+".key") }

// Passphrase returns the passphrase of encrypted keys. It is called at most once by a function of this package, and only
// if there is something to decrypt or to encrypt. Nil stands for somebody who has none.
type Passphrase func() ([]byte, error)

// Errors a caller may branch on.
var (
	// ErrEncrypted is wrapped when keys are encrypted and no passphrase is given, or the other way round.
	ErrEncrypted = errors.New("the keys are encrypted")
	// ErrPassphrase is wrapped when a passphrase does not open a key.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrLoose is wrapped when others may read a file or enter a directory.
	ErrLoose = errors.New("others may read it")
)

// Open reads the keys in a directory. There must be a peer key and an account key, else the error wraps
// [fs.ErrNotExist].
func Open(dir string, passphrase Passphrase) (id Identity, err error) {
	passphrase = once(passphrase)
	seed, err := Read(dir, Peer, passphrase)
	if err != nil {
		return id, err
	}
	if id.Peer, err = peerKey(seed); err != nil {
		return id, err
	}
	if id.Account, err = Read(dir, Account, passphrase); err != nil {
		return id, err
	}
	if id.Consensus, err = Read(dir, Consensus, passphrase); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return id, err
}

// Create makes a directory and those of the keys that it lacks, and returns their kinds. If there are any to be made,
// passphrase is called, and returns what encrypts them, or nil; it may be nil itself. A key that is there is kept. Where
// there is a ledger, a peer has lost its peer key or account key rather than never had it: none is made, and the error wraps
// [fs.ErrNotExist].
func Create(dir string, validator bool, passphrase Passphrase) (made []Kind, err error) {
	passphrase = once(passphrase)
	for _, kind := range Kinds() {
		if kind == Consensus && !validator {
			continue
		}
		switch _, err := os.Lstat(kind.Path(dir)); {
		case err == nil:
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return made, fmt.Errorf("looking for a key: %w", err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "ledger")); err == nil && kind != Consensus {
			return made, fmt.Errorf("%s is missing, and the peer in %s has had one: put it back from its backup; if it is lost, poq keys new %s makes another: %w", kind.Path(dir), dir, kind, fs.ErrNotExist)
		}
		key, err := crypto.GenerateKey(nil)
		if err != nil {
			return made, err
		}
		var secret []byte
		if passphrase != nil {
			if secret, err = passphrase(); err != nil {
				return made, err
			}
		}
		if err := Add(dir, kind, key, secret); err != nil {
			return made, err
		}
		made = append(made, kind)
	}
	return made, checkDir(dir)
}

// Add writes a key into a directory, which is made if need be. If it has one of that kind, the error wraps
// [fs.ErrExist]. Without a passphrase the key is not encrypted. If there are others, they must have the same
// passphrase, or none either.
func Add(dir string, kind Kind, key crypto.PrivateKey, passphrase []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	path := kind.Path(dir)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is there already, and a key is never replaced: move it away first: %w", path, fs.ErrExist)
	}
	if err := fits(dir, passphrase); err != nil {
		return err
	}
	data, err := Marshal(key, passphrase)
	if err != nil {
		return err
	}
	return wholefile.Create(path, wholefile.Data(data))
}

// fits compares a passphrase with that of the keys in a directory.
func fits(dir string, passphrase []byte) error {
	entries, err := List(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	e := entries[0]
	switch {
	case e.Encrypted && passphrase == nil:
		return fmt.Errorf("%w in %s: another one needs the same passphrase", ErrEncrypted, dir)
	case !e.Encrypted && passphrase != nil:
		return fmt.Errorf("the keys in %s are not encrypted: leave the passphrase out", dir)
	case e.Encrypted:
		_, err = Read(dir, e.Kind, func() ([]byte, error) { return passphrase, nil })
	}
	return err
}

// Read reads one key of a directory. The error wraps [fs.ErrNotExist] if there is none.
func Read(dir string, kind Kind, passphrase Passphrase) (crypto.PrivateKey, error) {
	data, err := readFile(dir, kind)
	if err != nil {
		return crypto.PrivateKey{}, err
	}
	k, err := Parse(data, passphrase)
	if err != nil {
		return k, fmt.Errorf("%s: %w", kind.Path(dir), err)
	}
	return k, nil
}

// readFile reads a key's file, if nobody else can.
func readFile(dir string, kind Kind) ([]byte, error) {
	path := kind.Path(dir)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w; poq init makes keys", err)
	}
	defer f.Close()
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if err := checkFile(path, info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	return data, nil
}

// Entry is what can be told of a key without its passphrase.
type Entry struct {
	Kind      Kind             `json:"kind"`
	Public    crypto.PublicKey `json:"public"`            // an encrypted key's file says it in clear text
	PeerID    peer.ID          `json:"peer_id,omitempty"` // of a peer key
	Encrypted bool             `json:"encrypted"`
	Path      string           `json:"path"`
}

// List returns the keys of a directory, in the order of [Kinds].
func List(dir string) (list []Entry, err error) {
	for _, kind := range Kinds() {
		e, err := describe(dir, kind)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func describe(dir string, kind Kind) (e Entry, err error) {
	data, err := readFile(dir, kind)
	if err != nil {
		return e, err
	}
	e = Entry{Kind: kind, Path: kind.Path(dir)}
	if e.Public, e.Encrypted, err = Inspect(data); err != nil {
		return e, fmt.Errorf("%s: %w", e.Path, err)
	}
	if kind == Peer {
		e.PeerID, err = PeerID(e.Public)
	}
	return e, err
}

func once(p Passphrase) Passphrase {
	if p == nil {
		return nil
	}
	return sync.OnceValues(p)
}

// checkDir refuses a directory that others may enter.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("looking at the directory: %w", err)
	case !info.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	case checkMode && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: directory %s has mode %o: run chmod 700 %s", ErrLoose, dir, info.Mode().Perm(), shellWord(dir))
	}
	return nil
}

// checkFile refuses a file that others may read.
func checkFile(path string, info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", path)
	case checkMode && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %o: run chmod 600 %s", ErrLoose, path, info.Mode().Perm(), shellWord(path))
	}
	return nil
}

// shellWord quotes a path for a shell if that is needed.
func shellWord(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-+:@", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
