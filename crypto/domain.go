package crypto

import (
	"encoding/binary"
	"strings"
)

// Protocol stands in front of everything that is signed or hashed to an identifier.
const Protocol = "poq/v1/"

// kindSize is the room for a [Kind]; with [Protocol] it makes a tag of 16 bytes.
const kindSize = 16 - len(Protocol)

// Kind tells apart statements of one domain, so that none can be passed off as another.
// At most 9 bytes of lower-case ASCII.
type Kind string

// Domain binds statements to one network and one epoch of its committee.
type Domain struct {
	Chain Hash // hash of the genesis
	Epoch uint64
}

// SigningBytes returns the canonical bytes of a statement:
//
//	"poq/v1/" || kind, padded with zeros to 9 bytes || chain (32) || epoch (8, big endian) || body
//
// The body must be a canonical encoding itself. SigningBytes panics if kind is too long,
// which is a mistake in the program.
func (d Domain) SigningBytes(kind Kind, body []byte) []byte {
	if len(kind) == 0 || len(kind) > kindSize {
		panic("crypto: kind " + string(kind) + " must have 1 to 9 bytes")
	}
	b := make([]byte, 0, 16+HashSize+8+len(body))
	b = append(b, Protocol...)
	b = append(b, kind...)
	b = b[:16] // the padding is zero: b was just made
	b = append(b, d.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, d.Epoch)
	return append(b, body...)
}

// KindOf returns the kind in bytes that [Domain.SigningBytes] made.
func KindOf(signed []byte) Kind {
	return Kind(strings.TrimRight(string(signed[len(Protocol):][:kindSize]), "\x00"))
}

// Hash identifies a statement: the hash of its [Domain.SigningBytes].
func (d Domain) Hash(kind Kind, body []byte) Hash { return Sum(d.SigningBytes(kind, body)) }
