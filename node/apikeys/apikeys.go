package apikeys

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/wholefile"
)

// Files in a peer's directory.
const (
	keysFile  = "api-keys.json"
	lockFile  = "api-keys.lock" // held while the former is edited; stays behind
	usageFile = "api-usage.log"
)

const (
	prefix = "poq-" // by which people and scanners for leaked secrets know a key
	// MaxKeys bounds the keys of a peer: every request is compared with all of them.
	MaxKeys = 1000
	maxFile = 1 << 20
	// MaxRate bounds the requests a minute.
	MaxRate = 1_000_000
)

var (
	// ErrNoKey says that there is no key of a name.
	ErrNoKey = errors.New("no such API key")
	// ErrTaken says that there is one already.
	ErrTaken = errors.New("there is an API key of this name already")
	// ErrName says that a name is none.
	ErrName = errors.New("not a name for an API key: want 1 to 64 letters, digits, dots, dashes or underscores")
	// ErrTerms says that a rate or the number of keys is out of range.
	ErrTerms = errors.New("out of range")
)

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Key is what is known of a key: never the key itself.
type Key struct {
	Name    string        `json:"name"`
	Hash    crypto.Hash   `json:"sha256"` // of the key as it is sent
	Created time.Time     `json:"created"`
	Limit   ledger.Amount `json:"limit"` // µ-credits that it may spend in all; 0: no limit
	Rate    int           `json:"rate"`  // requests a minute; 0: no limit
}

// Path is where the keys of a peer's directory lie.
func Path(dir string) string { return filepath.Join(dir, keysFile) }

// New makes a key. The secret is returned here and nowhere else.
func New(dir, name string, limit ledger.Amount, rate int) (secret string, k Key, err error) {
	if !validName.MatchString(name) {
		return "", k, fmt.Errorf("%q is %w", name, ErrName)
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	secret = prefix + hex.EncodeToString(random)
	k = Key{name, crypto.Sum([]byte(secret)), time.Now().UTC().Truncate(time.Second), limit, rate}
	err = edit(dir, func(keys []Key) ([]Key, error) {
		if find(keys, name) >= 0 {
			return nil, fmt.Errorf("%w: %s", ErrTaken, name)
		}
		return append(keys, k), nil
	})
	if err != nil {
		return "", k, err
	}
	return secret, k, nil
}

// Change changes the terms of a key.
func Change(dir, name string, change func(*Key)) (k Key, err error) {
	return k, edit(dir, func(keys []Key) ([]Key, error) {
		i := find(keys, name)
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrNoKey, name)
		}
		change(&keys[i])
		k = keys[i]
		return keys, nil
	})
}

// Revoke removes a key. Where the last one is gone nobody may ask: [Guard.Wanted] still reports true.
func Revoke(dir, name string) error {
	return edit(dir, func(keys []Key) ([]Key, error) {
		i := find(keys, name)
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrNoKey, name)
		}
		return slices.Delete(keys, i, i+1), nil
	})
}

func find(keys []Key, name string) int {
	return slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
}

// List returns the keys in the order in which they were made. Without a file the error wraps [fs.ErrNotExist].
func List(dir string) ([]Key, error) {
	info, err := os.Stat(Path(dir))
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%s is too long: it has %d bytes", Path(dir), info.Size())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(Path(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("reading API keys: %w", err)
	}
	keys, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Path(dir), err)
	}
	return keys, nil
}

// file is what api-keys.json holds.
type file struct {
	Keys []Key `json:"keys"`
}

func parse(data []byte) ([]Key, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	return f.Keys, check(f.Keys)
}

func check(keys []Key) error {
	if len(keys) > MaxKeys {
		return fmt.Errorf("%d API keys are %w: at most %d", len(keys), ErrTerms, MaxKeys)
	}
	names, hashes := map[string]bool{}, map[crypto.Hash]bool{}
	for _, k := range keys {
		switch {
		case !validName.MatchString(k.Name):
			return fmt.Errorf("%q is %w", k.Name, ErrName)
		case names[k.Name]:
			return fmt.Errorf("%w: %s", ErrTaken, k.Name)
		case hashes[k.Hash] || k.Hash.IsZero():
			return fmt.Errorf("the hash of API key %s is zero, or that of another one", k.Name)
		case k.Rate < 0 || k.Rate > MaxRate:
			return fmt.Errorf("a rate of %d requests a minute is %w: want 0 to %d", k.Rate, ErrTerms, MaxRate)
		}
		names[k.Name], hashes[k.Hash] = true, true
	}
	return nil
}

// edit changes the file, one process at a time.
func edit(dir string, change func([]Key) ([]Key, error)) (err error) {
	lock := flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("locking the API keys: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	keys, err := List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if keys, err = change(keys); err == nil {
		err = check(keys)
	}
	if err != nil {
		return err
	}
	if keys == nil {
		keys = []Key{}
	}
	data, err := json.MarshalIndent(file{keys}, "", "  ")
	if err != nil {
		return err
	}
	return wholefile.Replace(Path(dir), wholefile.Data(append(data, '\n')))
}
