package votelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// oldName is the log of an early version: one file of records without segments and hash chain.
//
//	record: length(4) | type(1) | CRC-32C of the payload(4) | CRC-32C of these nine bytes(4) | payload
const (
	oldName   = "votes.log"
	oldHeader = 13
)

var errTwoLogs = errors.New("both hold votes, and which is newer can't be told: keep the one that was used last and move the other one away; " +
	"if you don't know which it is, restart the validator with a new consensus key, in a later epoch")

// takeOver moves the records of an old log into the first segment.
func (l *Log) takeOver() error {
	f, err := l.config.Disk.Open(oldName)
	if err != nil {
		return err
	}
	data, err := readAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	h, purge := header{number: 1}, l.config.newPurge()
	for at := 0; at < len(data); {
		typ, payload, err := oldRecord(data[at:])
		if err != nil {
			return fmt.Errorf("at byte %d: %w: %w", at, ErrCorrupt, err)
		}
		if typ == 0 {
			break // torn
		}
		rec, err := decode(typ, payload)
		if err == nil && rec.bundle != nil {
			err = h.tip.follow(rec.bundle, l.domain)
		}
		if err == nil {
			err = purge.group(appendRecord(nil, typ, payload))
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w: %w", at, ErrCorrupt, err)
		}
		at += oldHeader + len(payload)
	}
	if h.settled, err = purge.done(0); err != nil {
		return err
	}
	if err := l.create(h, purge.kept, 0); err != nil {
		return err
	}
	return l.config.Disk.Remove(oldName)
}

// oldRecord returns the first record, or type 0 if it is the last one and torn.
func oldRecord(data []byte) (recordType, []byte, error) {
	if len(data) < oldHeader {
		return 0, nil, nil
	}
	n := uint64(binary.BigEndian.Uint32(data))
	switch {
	case crc32.Checksum(data[:9], castagnoli) != binary.BigEndian.Uint32(data[9:]):
		return 0, nil, errors.New("the record's header does not hold")
	case n > uint64(len(data)-oldHeader):
		return 0, nil, nil
	}
	end := oldHeader + int(n)
	payload := data[oldHeader:end]
	if crc32.Checksum(payload, castagnoli) == binary.BigEndian.Uint32(data[5:]) {
		return recordType(data[4]), payload, nil
	}
	if end == len(data) {
		return 0, nil, nil
	}
	return 0, nil, errors.New("the record does not hold")
}
