package crypto

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// ErrEncoding is wrapped by every error about bytes that are no canonical encoding.
var ErrEncoding = errors.New("not a canonical encoding")

// Reader reads a canonical encoding: big-endian integers and fixed-width strings one after
// another, lists behind their count. After a first failure all reads return zero values and
// [Reader.End] tells of it. Nothing is allocated for a count before it is checked.
type Reader struct {
	rest   cryptobyte.String
	failed bool
}

// NewReader reads from data, which must not change meanwhile.
func NewReader(data []byte) *Reader { return &Reader{rest: data} }

func (r *Reader) note(ok bool) { r.failed = r.failed || !ok }

// Fail marks the encoding as malformed.
func (r *Reader) Fail() { r.failed = true }

// Uint8 reads one byte.
func (r *Reader) Uint8() (v uint8) { r.note(!r.failed && r.rest.ReadUint8(&v)); return v }

// Uint16 reads two bytes.
func (r *Reader) Uint16() (v uint16) { r.note(!r.failed && r.rest.ReadUint16(&v)); return v }

// Uint32 reads four bytes.
func (r *Reader) Uint32() (v uint32) { r.note(!r.failed && r.rest.ReadUint32(&v)); return v }

// Uint64 reads eight bytes.
func (r *Reader) Uint64() (v uint64) { r.note(!r.failed && r.rest.ReadUint64(&v)); return v }

// Fixed fills dst.
func (r *Reader) Fixed(dst []byte) { r.note(!r.failed && r.rest.CopyBytes(dst)) }

// Hash reads a hash.
func (r *Reader) Hash() (h Hash) { r.Fixed(h[:]); return h }

// Key reads a public key.
func (r *Reader) Key() (k PublicKey) { r.Fixed(k[:]); return k }

// Signature reads a signature.
func (r *Reader) Signature() (s Signature) { r.Fixed(s[:]); return s }

// Count reads a two-byte count and refuses one above most, or one of more elements of
// size bytes each than are left to read.
func (r *Reader) Count(most, size int) int {
	n := int(r.Uint16())
	if n > most || n*size > len(r.rest) {
		r.failed = true
	}
	if r.failed {
		return 0
	}
	return n
}

// Bytes reads a byte string behind its four-byte length, of at most most bytes. The result
// shares memory with the input.
func (r *Reader) Bytes(most int) (b []byte) {
	n := r.Uint32()
	if r.failed || uint64(n) > uint64(most) {
		r.failed = true
		return nil
	}
	r.note(r.rest.ReadBytes(&b, int(n)))
	return b
}

// Failed reports whether a read failed.
func (r *Reader) Failed() bool { return r.failed }

// End returns an error wrapping [ErrEncoding] if a read failed or bytes are left over.
func (r *Reader) End() error {
	switch {
	case r.failed:
		return fmt.Errorf("%w: cut short, or a count or a flag out of its bounds", ErrEncoding)
	case !r.rest.Empty():
		return fmt.Errorf("%w: %d bytes left over", ErrEncoding, len(r.rest))
	}
	return nil
}

// AppendBytes appends data behind its four-byte length, as [Reader.Bytes] reads it.
func AppendBytes[S ~string | ~[]byte](b []byte, data S) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// AppendCount appends a count, as [Reader.Count] reads it.
func AppendCount(b []byte, n int) []byte { return binary.BigEndian.AppendUint16(b, uint16(n)) }
