package votelog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/poqmesh/poq/crypto"
)

const (
	sector     = 512 // what a disk writes as a whole
	magic      = "poqvotes"
	version    = 1
	groupMagic = "grp1"

	groupHeaderSize = len(groupMagic) + 8 + 4 + 32 + 4
	recordHeader    = 4 + 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// padded rounds up to whole sectors.
func padded[N int | int64](n N) N { return (n + sector - 1) / sector * sector }

const segmentSuffix = ".votes"

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func segmentNumber(name string) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 16, 64)
	return n, err == nil && name == segmentName(n)
}

// header is a segment's header.
type header struct {
	domain    crypto.Domain
	validator uint16
	number    uint64
	size      int64
	carried   int64       // end of what was carried over from the segment before
	chain     crypto.Hash // the last group's before the segment
	group     uint64      // number of the first group
	tip       tip         // when the segment began
	settled   uint64      // tasks that the ledger held durably when the log was last purged
}

// tip is the end of a validator's chain of bundles.
type tip struct {
	seq      uint64      // of the next bundle
	previous crypto.Hash // of the header before
}

func (h header) encode() []byte {
	b := make([]byte, 0, sector)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = append(b, h.domain.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, h.domain.Epoch)
	b = binary.BigEndian.AppendUint16(b, h.validator)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, uint64(h.size))
	b = binary.BigEndian.AppendUint64(b, uint64(h.carried))
	b = append(b, h.chain[:]...)
	b = binary.BigEndian.AppendUint64(b, h.group)
	b = binary.BigEndian.AppendUint64(b, h.tip.seq)
	b = append(b, h.tip.previous[:]...)
	b = binary.BigEndian.AppendUint64(b, h.settled)
	b = b[:sector-4]
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHeader reads the header of a segment. ok is false if there is none that is whole; err tells of one
// that this version does not know.
func readHeader(segment []byte) (h header, ok bool, err error) {
	if len(segment) < sector || !bytes.HasPrefix(segment, []byte(magic)) ||
		crc32.Checksum(segment[:sector-4], castagnoli) != binary.BigEndian.Uint32(segment[sector-4:]) {
		return h, false, nil
	}
	r := crypto.NewReader(segment[len(magic):sector])
	if v := r.Uint32(); v != version {
		return h, false, fmt.Errorf("it has version %d, this program knows version %d: use a newer poq", v, version)
	}
	h.domain.Chain, h.domain.Epoch = r.Hash(), r.Uint64()
	h.validator, h.number = r.Uint16(), r.Uint64()
	h.size, h.carried = int64(r.Uint64()), int64(r.Uint64())
	h.chain, h.group = r.Hash(), r.Uint64()
	h.tip = tip{r.Uint64(), r.Hash()}
	h.settled = r.Uint64()
	return h, true, nil
}

func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// group is a group's header.
type group struct {
	number uint64
	length uint32
	hash   crypto.Hash
}

// groupAt reads the header of the group that may begin at an offset.
func groupAt(segment []byte, at int) (g group, ok bool) {
	if len(segment)-at < groupHeaderSize {
		return g, false
	}
	b := segment[at : at+groupHeaderSize]
	if string(b[:len(groupMagic)]) != groupMagic || crc32.Checksum(b[:groupHeaderSize-4], castagnoli) != binary.BigEndian.Uint32(b[groupHeaderSize-4:]) {
		return g, false
	}
	return group{binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint32(b[12:]), crypto.Hash(b[16:48])}, true
}

// seal makes a group of records that stand behind room for the header, and pads it.
func seal(b []byte, number uint64, chain crypto.Hash) ([]byte, crypto.Hash) {
	length := len(b) - groupHeaderSize
	b = append(b, make([]byte, padded(len(b))-len(b))...)
	copy(b, groupMagic)
	binary.BigEndian.PutUint64(b[4:], number)
	binary.BigEndian.PutUint32(b[12:], uint32(length))
	hash := groupHash(chain, b)
	copy(b[16:], hash[:])
	binary.BigEndian.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
	return b, hash
}

// groupHash computes the hash of a padded group that follows one with the hash chain.
func groupHash(chain crypto.Hash, b []byte) (hash crypto.Hash) {
	s := sha256.New()
	s.Write(chain[:])
	s.Write(b[4:16])
	s.Write(b[groupHeaderSize:])
	s.Sum(hash[:0])
	return hash
}

// position is where the next group goes.
type position struct {
	at    int64
	group uint64      // its number
	chain crypto.Hash // hash of the group before
}

// start returns where the first group of a segment goes.
func (h header) start() position { return position{sector, h.group, crypto.Sum(h.encode())} }

// readGroups calls f with the records of each group of a segment that begins with h, and returns where
// the next one goes.
func readGroups(segment []byte, h header, f func(records []byte) error) (position, error) {
	if int64(len(segment)) != h.size {
		return position{}, fmt.Errorf("%w: the segment has %d bytes, want %d", ErrCorrupt, len(segment), h.size)
	}
	p := h.start()
	for {
		g, ok := groupAt(segment, int(p.at))
		end := p.at + padded(int64(groupHeaderSize)+int64(g.length))
		if !ok || g.number != p.group || end > h.size || groupHash(p.chain, segment[p.at:end]) != g.hash {
			break
		}
		if err := f(segment[p.at+int64(groupHeaderSize):][:g.length]); err != nil {
			return p, fmt.Errorf("%w: group %d at byte %d: %w", ErrCorrupt, g.number, p.at, err)
		}
		p = position{end, g.number + 1, g.hash}
	}
	if p.at < h.carried {
		return p, fmt.Errorf("%w: group %d at byte %d does not hold", ErrCorrupt, p.group, p.at)
	}
	for at := int(p.at); at < len(segment); at += sector {
		if g, ok := groupAt(segment, at); ok && (g.number > p.group || g.number == p.group && at > int(p.at)) {
			return p, fmt.Errorf("%w: group %d at byte %d does not hold, and group %d follows", ErrCorrupt, p.group, p.at, g.number)
		}
	}
	return p, nil
}

func appendRecord(b []byte, typ recordType, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, byte(typ)), payload...)
}

// eachRecord calls f with the records of a group, whole and as type and payload.
func eachRecord(records []byte, f func(whole []byte, typ recordType, payload []byte) error) error {
	for len(records) > 0 {
		if len(records) < recordHeader {
			return errRecord
		}
		n := uint64(binary.BigEndian.Uint32(records))
		if n > uint64(len(records)-recordHeader) {
			return errRecord
		}
		end := recordHeader + int(n)
		if err := f(records[:end], recordType(records[4]), records[recordHeader:end]); err != nil {
			return err
		}
		records = records[end:]
	}
	return nil
}

// hasGroup reports whether any group stands in a segment.
func hasGroup(segment []byte) bool {
	for at := sector; at < len(segment); at += sector {
		if _, ok := groupAt(segment, at); ok {
			return true
		}
	}
	return false
}
