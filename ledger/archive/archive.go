// Package archive is the file format in which a ledger is exported: its genesis, the receipts of all
// settled tasks, the lock certificates of the open ones, and evidence. All of these prove themselves, so an
// archive may come from anybody; the format only guards against accidents.
//
//	magic                 "poqledgr", version u32
//	record, many          length u32 of the payload, type u8, CRC-32C of length, type and payload u32, payload
//
//	1 head, once, first   chain id (32), counts, genesis in JSON
//	2 receipt             Receipt
//	3 lock                LockCert of an open task
//	4 evidence            Evidence
//	5 trailer, once, last counts, sum of the digest of the receipts' tasks (32)
//
// Counts are the numbers of receipts, locks and evidence, u64 each. Integers are big endian; certificates
// and evidence are in their canonical bytes.
package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

const (
	magic   = "poqledgr"
	version = 1

	typeHead     = 1
	typeReceipt  = 2
	typeLock     = 3
	typeEvidence = 4
	typeTrailer  = 5

	frameSize  = 4 + 1 + 4
	maxGenesis = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors that a Reader gives.
var (
	ErrFormat    = errors.New("no archive of a ledger")
	ErrTruncated = errors.New("archive is cut off")
	ErrDamaged   = errors.New("archive is damaged")
)

// Counts says how much an archive holds.
type Counts struct {
	Receipts uint64 `json:"receipts"`
	Locks    uint64 `json:"locks"` // of open tasks
	Evidence uint64 `json:"evidence"`
}

func (c Counts) append(b []byte) []byte {
	for _, n := range []uint64{c.Receipts, c.Locks, c.Evidence} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// String says it in words.
func (c Counts) String() string {
	return fmt.Sprintf("%d receipts, %d locks and %d pieces of evidence", c.Receipts, c.Locks, c.Evidence)
}

// Head is what an archive begins with.
type Head struct {
	Genesis *ledger.Genesis
	Counts
}

// Totals is what an archive ends with.
type Totals struct {
	Counts
	Digest crypto.Hash `json:"digest"` // sum of the digest of the receipts' tasks
}

func (t Totals) append(b []byte) []byte { return append(t.Counts.append(b), t.Digest[:]...) }

// tally adds up what an archive holds.
type tally struct {
	Counts
	sums *ledger.Sums
}

func (t *tally) add(m ledger.Message) {
	switch m := m.(type) {
	case *ledger.Receipt:
		t.Receipts++
		t.sums.Add(m.Task(), m.Settle.Vote.Value)
	case *ledger.LockCert:
		t.Locks++
	case *ledger.Evidence:
		t.Evidence++
	}
}

func (t *tally) totals() Totals { return Totals{t.Counts, t.sums.Digest().Sum} }

// Writer writes an archive.
type Writer struct {
	out   *bufio.Writer
	head  Head
	tally tally
}

// NewWriter begins an archive.
func NewWriter(w io.Writer, h Head) (*Writer, error) {
	genesis, err := json.Marshal(h.Genesis)
	if err != nil {
		return nil, fmt.Errorf("encoding the genesis: %w", err)
	}
	chain := h.Genesis.Chain()
	b := h.append(chain[:])
	a := &Writer{out: bufio.NewWriterSize(w, 256<<10), head: h, tally: tally{sums: ledger.NewSums(ledger.Domain(h.Genesis))}}
	if _, err := a.out.Write(binary.BigEndian.AppendUint32([]byte(magic), version)); err != nil {
		return nil, err
	}
	return a, a.write(typeHead, append(b, genesis...))
}

func (w *Writer) write(typ byte, payload []byte) error {
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), typ)
	frame = binary.BigEndian.AppendUint32(frame, checksum(frame, payload))
	if _, err := w.out.Write(frame); err != nil {
		return err
	}
	_, err := w.out.Write(payload)
	return err
}

func checksum(frame, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame, castagnoli), castagnoli, payload)
}

// Write adds a *ledger.Receipt, *ledger.LockCert or *ledger.Evidence.
func (w *Writer) Write(m ledger.Message) error {
	w.tally.add(m)
	switch m := m.(type) {
	case *ledger.Receipt:
		return w.write(typeReceipt, m.Encode())
	case *ledger.LockCert:
		return w.write(typeLock, m.Encode())
	case *ledger.Evidence:
		return w.write(typeEvidence, m.Encode())
	}
	return fmt.Errorf("archive: %T does not belong into it", m)
}

// Close writes the trailer. It closes nothing else. As much must have been written as the head says.
func (w *Writer) Close() (Totals, error) {
	t := w.tally.totals()
	if t.Counts != w.head.Counts {
		return t, fmt.Errorf("archive: %v were written, its head says %v", t.Counts, w.head.Counts)
	}
	if err := w.write(typeTrailer, t.append(nil)); err != nil {
		return t, err
	}
	return t, w.out.Flush()
}

// Reader reads an archive from a source that is not trusted. It holds one record at a time.
type Reader struct {
	in    *bufio.Reader
	head  Head
	tally tally
	at    int64 // bytes read up to the record
	index int   // of the record
	size  int64 // of the record
	done  bool
}

// NewReader reads the beginning of an archive. Errors wrap ErrFormat, ErrTruncated or ErrDamaged, or are
// those of the source.
func NewReader(r io.Reader) (*Reader, error) {
	a := &Reader{in: bufio.NewReaderSize(r, 256<<10)}
	var begin [len(magic) + 4]byte
	if _, err := io.ReadFull(a.in, begin[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: it has fewer than %d bytes", ErrFormat, len(begin))
		}
		return nil, err
	}
	if string(begin[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	if v := binary.BigEndian.Uint32(begin[len(magic):]); v != version {
		return nil, fmt.Errorf("%w that this poq knows: it has version %d, known is %d: use a newer poq", ErrFormat, v, version)
	}
	a.at = int64(len(begin))
	typ, payload, err := a.read()
	if err != nil {
		return nil, err
	}
	rd := crypto.NewReader(payload)
	chain := rd.Hash()
	a.head = Head{new(ledger.Genesis), Counts{rd.Uint64(), rd.Uint64(), rd.Uint64()}}
	if typ != typeHead || rd.Failed() {
		return nil, a.damaged("it is no head")
	}
	if err := json.Unmarshal(payload[len(chain)+3*8:], a.head.Genesis); err != nil {
		return nil, a.damaged("genesis: %w", err)
	}
	if err := a.head.Genesis.Validate(); err != nil {
		return nil, a.damaged("%w", err)
	}
	if a.head.Genesis.Chain() != chain {
		return nil, a.damaged("its genesis has chain id %s, not %s", a.head.Genesis.Chain(), chain)
	}
	a.tally.sums = ledger.NewSums(ledger.Domain(a.head.Genesis))
	return a, nil
}

// Head returns what the archive begins with.
func (r *Reader) Head() Head { return r.head }

// Totals returns what was read so far; after Next has returned io.EOF, all of the archive.
func (r *Reader) Totals() Totals { return r.tally.totals() }

// Next returns the next *ledger.Receipt, *ledger.LockCert or *ledger.Evidence, which is decoded and nothing
// more. After the last one it returns io.EOF, once the trailer is found to hold. Errors are those of
// NewReader; an archive that ends without its trailer gives ErrTruncated.
func (r *Reader) Next() (m ledger.Message, err error) {
	if r.done {
		return nil, io.EOF
	}
	typ, payload, err := r.read()
	if err != nil {
		return nil, err
	}
	switch typ {
	case typeReceipt:
		m, err = ledger.DecodeReceipt(payload)
	case typeLock:
		m, err = ledger.DecodeLock(payload)
	case typeEvidence:
		m, err = ledger.DecodeEvidence(payload)
	case typeTrailer:
		if got := r.Totals(); !bytes.Equal(payload, got.append(nil)) || got.Counts != r.head.Counts {
			return nil, r.damaged("%v with digest %s came before it, head or trailer say otherwise", got.Counts, got.Digest)
		}
		if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
			return nil, errors.Join(r.damaged("something follows it"), err)
		}
		r.done = true
		return nil, io.EOF
	default:
		return nil, r.damaged("there is no type %d", typ)
	}
	if err != nil {
		return nil, r.damaged("%w", err)
	}
	r.tally.add(m)
	return m, nil
}

// read reads a record.
func (r *Reader) read() (typ byte, payload []byte, err error) {
	r.at += r.size
	r.index++
	r.size = 0
	var frame [frameSize]byte
	if _, err := io.ReadFull(r.in, frame[:]); err != nil {
		return 0, nil, r.cut(err)
	}
	n, typ := binary.BigEndian.Uint32(frame[:]), frame[4]
	most := ledger.MaxMessage
	if typ == typeHead {
		most = maxGenesis
	}
	if int64(n) > int64(most) {
		return 0, nil, r.damaged("a record of type %d has %d bytes, at most %d are allowed", typ, n, most)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r.in, payload); err != nil {
		return 0, nil, r.cut(err)
	}
	if checksum(frame[:5], payload) != binary.BigEndian.Uint32(frame[5:]) {
		return 0, nil, r.damaged("its checksum does not hold")
	}
	r.size = int64(frameSize) + int64(n)
	return typ, payload, nil
}

func (r *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w in record %d at byte %d", ErrTruncated, r.index, r.at)
	}
	return err
}

func (r *Reader) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: record %d at byte %d: %w", ErrDamaged, r.index, r.at, fmt.Errorf(format, args...))
}
