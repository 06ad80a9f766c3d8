package votelog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/poqmesh/poq/ledger"
)

type recordType byte

const (
	recordMessage recordType = iota + 1
	recordBundle
	recordOpening
)

const headerSize = 13

// maxRecord bounds a record's payload.
const maxRecord = ledger.MaxMessage

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is wrapped when a record before the last one is damaged. The validator must not sign:
// votes may be missing.
var ErrCorrupt = errors.New("vote log is damaged; this validator must not sign with it: restart it with a new consensus key, in a later epoch")

// fileName is the log within its directory.
const fileName = "votes.log"

// Log is an open vote log. It is not safe for concurrent use.
type Log struct {
	file   File
	end    int64  // of what is in the file
	buf    []byte // appended, not yet synced
	failed error
}

// Replayer takes back what was logged, in the order in which it was.
type Replayer struct {
	Message func(ledger.Message)
	Bundle  func(*ledger.Bundle)
	Opening func(ledger.ScoreCommit, ledger.Opening)
}

// Open opens the log on a disk, makes it if there is none, and replays it. A torn last record, which
// a crash leaves, is cut off: it was never synced, so nothing of it was sent.
func Open(d Disk, r Replayer) (*Log, error) {
	f, err := d.Open(fileName)
	if err != nil {
		return nil, fmt.Errorf("opening the vote log: %w", err)
	}
	l := &Log{file: f}
	if err := errors.Join(l.replay(r), d.Sync()); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", fileName, err), f.Close())
	}
	return l, nil
}

func (l *Log) replay(r Replayer) error {
	size, err := l.file.Size()
	if err != nil {
		return fmt.Errorf("vote log: %w", err)
	}
	in := bufio.NewReaderSize(io.NewSectionReader(l.file, 0, size), 1<<16)
	end := int64(0)
	for {
		typ, payload, err := readRecord(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errChecksum) && atEnd(in) {
			break // torn
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w: %w", end, ErrCorrupt, err)
		}
		if err := deliver(r, typ, payload); err != nil {
			return fmt.Errorf("at byte %d: %w: %w", end, ErrCorrupt, err)
		}
		end += headerSize + int64(len(payload))
	}
	if err := l.file.Truncate(end); err != nil {
		return fmt.Errorf("cutting a torn record off the vote log: %w", err)
	}
	l.end = end
	return nil
}

var (
	errChecksum = errors.New("checksum does not match")
	errHeader   = errors.New("header's checksum does not match")
)

// readRecord reads one record; io.EOF means that there is none, io.ErrUnexpectedEOF that it is cut.
func readRecord(in io.Reader) (recordType, []byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if crc32.Checksum(h[:9], castagnoli) != binary.BigEndian.Uint32(h[9:]) || n > maxRecord {
		return 0, nil, errHeader
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(in, payload); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(h[5:]) {
		return 0, nil, errChecksum
	}
	return recordType(h[4]), payload, nil
}

func atEnd(in *bufio.Reader) bool {
	_, err := in.Peek(1)
	return err != nil
}

func deliver(r Replayer, typ recordType, payload []byte) error {
	switch typ {
	case recordMessage, recordBundle:
		m, err := ledger.Decode(ledger.TopicVotes, payload)
		if err != nil {
			return err
		}
		if u, ok := m.(*ledger.Bundle); ok {
			r.Bundle(u)
		} else {
			r.Message(m)
		}
	case recordOpening:
		c, o, err := ledger.DecodeOpening(payload)
		if err != nil {
			return err
		}
		r.Opening(c, o)
	default:
		return fmt.Errorf("record of unknown type %d", typ)
	}
	return nil
}

func (l *Log) append(typ recordType, payload []byte) {
	var h [headerSize]byte
	binary.BigEndian.PutUint32(h[:], uint32(len(payload)))
	h[4] = byte(typ)
	binary.BigEndian.PutUint32(h[5:], crc32.Checksum(payload, castagnoli))
	binary.BigEndian.PutUint32(h[9:], crc32.Checksum(h[:9], castagnoli))
	l.buf = append(append(l.buf, h[:]...), payload...)
}

// Message appends what the next vote refers to.
func (l *Log) Message(m ledger.Message) {
	_, data := ledger.Encode(m)
	l.append(recordMessage, data)
}

// Bundle appends a signed bundle.
func (l *Log) Bundle(u *ledger.Bundle) {
	_, data := ledger.Encode(u)
	l.append(recordBundle, data)
}

// Opening appends a score commitment with its secret.
func (l *Log) Opening(c ledger.ScoreCommit, o ledger.Opening) {
	l.append(recordOpening, ledger.EncodeOpening(c, o))
}

// Sync makes everything appended durable. Only when it returned nil may what was appended be sent.
// After an error the log refuses everything: the process must stop.
func (l *Log) Sync() error {
	if l.failed != nil || len(l.buf) == 0 {
		return l.failed
	}
	n, err := l.file.WriteAt(l.buf, l.end)
	l.end += int64(n)
	if err != nil {
		l.failed = fmt.Errorf("appending to the vote log: %w", err)
	} else if err := l.file.Sync(); err != nil {
		l.failed = fmt.Errorf("syncing the vote log: %w", err)
	}
	l.buf = l.buf[:0]
	return l.failed
}

// Close syncs and closes the log.
func (l *Log) Close() error { return errors.Join(l.Sync(), l.file.Close()) }
