package votelog

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// SegmentSize is the usual size of a segment. It is small enough to be copied in a few milliseconds.
const SegmentSize = 4 << 20

// Errors a caller may branch on.
var (
	// ErrCorrupt is wrapped when something that was synced is damaged. The validator must not sign: votes
	// may be missing.
	ErrCorrupt = errors.New("vote log is damaged; this validator must not sign with it: restart it with a new consensus key, in a later epoch")
	// ErrForeign is wrapped when the log is another validator's, or of another network or epoch.
	ErrForeign = errors.New("vote log of another validator, network or epoch: use the directory that belongs to this key")
)

// Ledger tells which tasks need no votes any more.
type Ledger interface {
	IsSettled(ledger.TaskID) bool
	// Digest counts the settled tasks.
	Digest() ledger.Digest
	// Flush waits until every settlement that was applied before is durable.
	Flush() error
}

// Log is an open vote log. It is not safe for concurrent use.
type Log struct {
	config  Config
	domain  crypto.Domain
	file    File
	header  header
	end     position
	buf     []byte // appended, not yet synced, behind room for a group's header
	tip     tip    // with what is appended
	durable tip    // without
	failed  error
}

// Replayer takes back what was logged, in the order in which it was.
type Replayer struct {
	Message func(ledger.Message)
	Bundle  func(*ledger.Bundle)
	Opening func(ledger.ScoreCommit, ledger.Opening)
}

// Open opens the log on a disk, makes it if there is none, and replays it. Of c it needs genesis, index of
// the validator, disk, ledger and segment size. Closing the log, or a failure to open it, closes the disk.
func Open(c Config, r Replayer) (*Log, error) {
	l := &Log{config: c, domain: ledger.Domain(c.Genesis)}
	if err := l.open(r); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the vote log: %w", err), l.close())
	}
	return l, nil
}

func (l *Log) open(r Replayer) error {
	names, err := l.config.Disk.List()
	if err != nil {
		return err
	}
	old := slices.Contains(names, oldName)
	if err := l.choose(names, old); err != nil {
		return err
	}
	// What else is there was replaced, or never became valid. It must be gone before anything is logged.
	for _, name := range names {
		if n, ok := segmentNumber(name); ok && (l.file == nil || n != l.header.number) {
			if err := l.config.Disk.Remove(name); err != nil {
				return err
			}
		}
	}
	switch {
	case l.file != nil:
	case old:
		if err := l.takeOver(); err != nil {
			return fmt.Errorf("taking over %s: %w", oldName, err)
		}
	default:
		if err := l.create(header{number: 1}, make([]byte, groupHeaderSize), 0); err != nil {
			return err
		}
	}
	if err := l.config.Disk.Sync(); err != nil {
		return err
	}
	if err := l.replay(r); err != nil {
		return fmt.Errorf("%s: %w", segmentName(l.header.number), err)
	}
	return nil
}

// choose finds the segment that counts: the highest that is valid. There is none in a new log.
func (l *Log) choose(names []string, old bool) error {
	var numbers []uint64
	for _, name := range names {
		if n, ok := segmentNumber(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for i, n := range slices.Backward(numbers) {
		name := segmentName(n)
		f, err := l.config.Disk.Open(name)
		if err != nil {
			return err
		}
		l.file = f
		data, err := readAll(f)
		if err != nil {
			return err
		}
		h, valid, err := readHeader(data)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case valid && (h.domain != l.domain || int(h.validator) != l.config.Self):
			return fmt.Errorf("%s: %w", name, ErrForeign)
		case valid && h.number != n:
			return fmt.Errorf("%s: %w: it is segment %d", name, ErrCorrupt, h.number)
		case valid && old:
			// A crash may have left both, if nothing was logged since.
			if p, err := readGroups(data, h, func([]byte) error { return nil }); err != nil || n > 1 || p.at > h.carried {
				return fmt.Errorf("%s and %s: %w", oldName, name, errTwoLogs)
			}
		case valid:
			l.header = h
			return nil
		case i == 0 && !old && (n > 1 || hasGroup(data)):
			return fmt.Errorf("%s: %w: its header does not hold", name, ErrCorrupt)
		}
		l.file = nil
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// replay reads the segment, and cuts what a crash left of a group that was not synced.
func (l *Log) replay(r Replayer) error {
	data, err := readAll(l.file)
	if err != nil {
		return err
	}
	l.tip = l.header.tip
	l.end, err = readGroups(data, l.header, func(records []byte) error {
		return eachRecord(records, func(_ []byte, typ recordType, payload []byte) error {
			rec, err := decode(typ, payload)
			if err != nil {
				return err
			}
			if u := rec.bundle; u != nil && u.Header.Statement.Seq >= l.header.tip.seq { // those before were carried over
				if err := l.tip.follow(u, l.domain); err != nil {
					return err
				}
			}
			rec.deliver(r)
			return nil
		})
	})
	if err != nil {
		return err
	}
	l.durable = l.tip
	for at := l.end.at; at < l.header.size; at += sector {
		if isZero(data[at : at+sector]) {
			continue
		}
		if _, err := l.file.WriteAt(make([]byte, sector), at); err != nil {
			return fmt.Errorf("cutting off a torn group: %w", err)
		}
	}
	return l.file.Sync() // the last group may be whole and not yet durable
}

// follow checks that a bundle is the next one.
func (t *tip) follow(u *ledger.Bundle, d crypto.Domain) error {
	h := u.Header.Statement
	if h.Seq != t.seq || h.Previous != t.previous {
		return fmt.Errorf("bundle %d does not follow the one before %d", h.Seq, t.seq)
	}
	*t = tip{h.Seq + 1, h.Hash(d)}
	return nil
}

func readAll(f File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), data); err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	return data, nil
}

// create makes a segment with records that are carried over, which stand behind room for a group's header, and
// makes it the one in use. It has space for need more bytes. Until the very end the segment is not valid.
func (l *Log) create(h header, carried []byte, need int64) error {
	h.domain, h.validator = l.domain, uint16(l.config.Self)
	h.carried = sector
	if len(carried) > groupHeaderSize {
		h.carried += int64(padded(len(carried)))
	}
	size := l.config.Segment
	if size == 0 {
		size = SegmentSize
	}
	h.size = padded(max(size, 2*(h.carried+need))) // twice, or it would soon be full again
	data := make([]byte, h.size)
	end := h.start()
	if h.carried > sector {
		var g []byte
		g, end.chain = seal(carried, h.group, end.chain)
		copy(data[sector:], g)
		end.at, end.group = h.carried, h.group+1
	}
	name := segmentName(h.number)
	f, err := l.config.Disk.Open(name)
	if err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	err = writeSync(f, data, 0)
	if err == nil {
		err = l.config.Disk.Sync()
	}
	if err == nil {
		err = writeSync(f, h.encode(), 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making %s: %w", name, err), f.Close())
	}
	l.file, l.header, l.end = f, h, end
	return nil
}

func writeSync(f File, data []byte, at int64) error {
	n, err := f.WriteAt(data, at)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return err
	}
	return f.Sync()
}

// rotate moves to a new segment, without the records of tasks that are settled.
func (l *Log) rotate(need int64) error {
	data, err := readAll(l.file)
	if err != nil {
		return err
	}
	h := header{number: l.header.number + 1, chain: l.end.chain, group: l.end.group, tip: l.durable, settled: l.header.settled}
	purge := l.config.newPurge()
	_, err = readGroups(data, l.header, purge.group)
	if err != nil {
		return err
	}
	if h.settled, err = purge.done(h.settled); err != nil {
		return err
	}
	before, name := l.file, segmentName(l.header.number)
	if err := l.create(h, purge.kept, need); err != nil {
		return err
	}
	// What is logged from now on is in the new segment alone, so the old one must be gone for good.
	return errors.Join(before.Close(), l.config.Disk.Remove(name), l.config.Disk.Sync())
}

// purge collects the records that are still needed, behind room for a group's header.
type purge struct {
	ledger Ledger // nil: all are needed
	domain crypto.Domain
	kept   []byte
}

func (c Config) newPurge() *purge {
	return &purge{ledger: c.Ledger, domain: ledger.Domain(c.Genesis), kept: make([]byte, groupHeaderSize)}
}

func (p *purge) group(records []byte) error {
	return eachRecord(records, func(whole []byte, typ recordType, payload []byte) error {
		rec, err := decode(typ, payload)
		if err != nil {
			return err
		}
		if p.ledger == nil || slices.ContainsFunc(rec.tasks(p.domain), func(t ledger.TaskID) bool { return !p.ledger.IsSettled(t) }) {
			p.kept = append(p.kept, whole...)
		}
		return nil
	})
}

// done waits until what the purge relied on is durable. It returns how many tasks the ledger then holds at
// least; before is that of the last purge.
func (p *purge) done(before uint64) (uint64, error) {
	if p.ledger == nil {
		return before, nil
	}
	settled := uint64(p.ledger.Digest().Tasks)
	if err := p.ledger.Flush(); err != nil {
		return 0, fmt.Errorf("waiting for the ledger: %w", err)
	}
	return max(before, settled), nil
}

func (l *Log) append(typ recordType, payload []byte) {
	if len(l.buf) == 0 {
		l.buf = append(l.buf, make([]byte, groupHeaderSize)...)
	}
	l.buf = appendRecord(l.buf, typ, payload)
}

// Message appends what the next vote refers to.
func (l *Log) Message(m ledger.Message) {
	_, data := ledger.Encode(m)
	l.append(recordMessage, data)
}

// Bundle appends a signed bundle. If it is not the next one, the log has failed.
func (l *Log) Bundle(u *ledger.Bundle) {
	if err := l.tip.follow(u, l.domain); err != nil {
		l.fail(err)
	}
	_, data := ledger.Encode(u)
	l.append(recordBundle, data)
}

// Opening appends a score commitment with its secret.
func (l *Log) Opening(c ledger.ScoreCommit, o ledger.Opening) {
	l.append(recordOpening, ledger.EncodeOpening(c, o))
}

func (l *Log) fail(err error) {
	if l.failed == nil {
		l.failed = fmt.Errorf("the vote log failed, nothing more is signed: %w", err)
	}
}

// Sync makes everything appended durable. Only when it returned nil may what was appended be sent.
// After an error the log refuses everything: the process must stop. It can start again when the cause is
// mended, a full disk say.
func (l *Log) Sync() error {
	if l.failed != nil || len(l.buf) == 0 {
		return l.failed
	}
	if err := l.write(); err != nil {
		l.fail(err)
		return l.failed
	}
	l.durable, l.buf = l.tip, l.buf[:0]
	return nil
}

func (l *Log) write() error {
	need := int64(padded(len(l.buf)))
	if l.end.at+need > l.header.size {
		if err := l.rotate(need); err != nil {
			return err
		}
	}
	g, hash := seal(l.buf, l.end.group, l.end.chain)
	l.buf = g
	if err := writeSync(l.file, g, l.end.at); err != nil {
		return fmt.Errorf("writing %s: %w", segmentName(l.header.number), err)
	}
	l.end = position{l.end.at + int64(len(g)), l.end.group + 1, hash}
	return nil
}

// Close syncs the log and closes it and its disk.
func (l *Log) Close() error { return errors.Join(l.Sync(), l.close()) }

func (l *Log) close() (err error) {
	if l.file != nil {
		err = l.file.Close()
	}
	return errors.Join(err, l.config.Disk.Close())
}
