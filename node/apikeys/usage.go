package apikeys

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/wholefile"
)

// Usage is what a key has spent. Amounts are µ-credits.
type Usage struct {
	Spent    ledger.Amount `json:"spent"`    // fees of settled tasks, less what came back
	Reserved ledger.Amount `json:"reserved"` // fees of tasks that are open
}

// record is a line of the log.
type record struct {
	Key   crypto.Hash    `json:"key"` // its hash
	Task  ledger.TaskID  `json:"task,omitzero"`
	Fee   ledger.Amount  `json:"fee,omitzero"`    // the task was ordered
	Cost  *ledger.Amount `json:"cost,omitempty"`  // it is settled
	Spent ledger.Amount  `json:"spent,omitempty"` // what was spent before this log began; names no task
}

// order is a task that is open.
type order struct {
	key  crypto.Hash
	fee  ledger.Amount
	left bool // nobody waits for it here: the ledger tells how it ends
}

// book is what a log adds up to.
type book struct {
	usage map[crypto.Hash]*Usage
	open  map[ledger.TaskID]*order
}

func newBook() *book { return &book{map[crypto.Hash]*Usage{}, map[ledger.TaskID]*order{}} }

// of returns the usage of a key, which the caller may change.
func (b *book) of(key crypto.Hash) *Usage {
	if b.usage[key] == nil {
		b.usage[key] = new(Usage)
	}
	return b.usage[key]
}

var errRecord = errors.New("a line that no log has")

// replay reads a log. A last line without an end was never whole, and counts for nothing.
func replay(r io.Reader) (*book, error) {
	b := newBook()
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil { // among others a line that is too long
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		var e record
		if err = json.Unmarshal(line, &e); err == nil {
			err = b.apply(e)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

func (b *book) apply(e record) error {
	u := b.of(e.Key)
	known := b.open[e.Task]
	switch {
	case e.Task.IsZero():
		u.Spent += e.Spent
	case e.Cost == nil && known == nil:
		b.open[e.Task] = &order{key: e.Key, fee: e.Fee, left: true}
		u.Reserved += e.Fee
	case e.Cost != nil && known != nil && known.key == e.Key:
		delete(b.open, e.Task)
		u.Reserved -= known.fee
		u.Spent += *e.Cost
	default:
		return errRecord
	}
	return nil
}

// records is the shortest log that adds up to the book.
func (b *book) records() (list []record) {
	for _, k := range slices.SortedFunc(maps.Keys(b.usage), crypto.Hash.Compare) {
		if spent := b.usage[k].Spent; spent > 0 {
			list = append(list, record{Key: k, Spent: spent})
		}
	}
	for _, t := range slices.SortedFunc(maps.Keys(b.open), ledger.TaskID.Compare) {
		list = append(list, record{Key: b.open[t].key, Task: t, Fee: b.open[t].fee})
	}
	return list
}

// readBook reads the log in a directory. There is none before a key was used.
func readBook(dir string) (*book, error) {
	path := filepath.Join(dir, usageFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newBook(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what API keys spent: %w", err)
	}
	defer f.Close()
	b, err := replay(f)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged, %w: put it back from a backup, or remove it to count anew", path, err)
	}
	return b, nil
}

// ReadUsage returns what each key has spent, by the hash of the key. It may be called while a [Guard] of another process counts on.
func ReadUsage(dir string) (map[crypto.Hash]Usage, error) {
	b, err := readBook(dir)
	if err != nil {
		return nil, err
	}
	usage := map[crypto.Hash]Usage{}
	for k, u := range b.usage {
		usage[k] = *u
	}
	return usage, nil
}

// writer appends to a log.
type writer struct {
	path  string
	f     *os.File // nil until there is something to write
	size  int64
	short int64 // its size when it was rewritten last
}

// rewriteBytes is how much a log grows before it is rewritten: some twenty thousand tasks.
const rewriteBytes = 8 << 20

func (w *writer) append(e record) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if w.f == nil {
		if w.f, err = os.OpenFile(w.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
			return err
		}
	}
	n, err := w.f.Write(append(line, '\n'))
	w.size += int64(n)
	return err
}

// long reports whether the log is worth rewriting.
func (w *writer) long() bool { return w.size > w.short+rewriteBytes }

// rewrite replaces the log by the shortest one.
func (w *writer) rewrite(b *book) error {
	if err := w.close(); err != nil {
		return err
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	for _, e := range b.records() {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	w.size, w.short = int64(text.Len()), int64(text.Len())
	return wholefile.Replace(w.path, wholefile.Data(text.Bytes()))
}

// close syncs and closes the file. The next append opens it again.
func (w *writer) close() error {
	if w.f == nil {
		return nil
	}
	err := errors.Join(w.f.Sync(), w.f.Close())
	w.f = nil
	return err
}
