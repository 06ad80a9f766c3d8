package genesis

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node/keystore"
)

// Errors of ParseLine.
var (
	ErrNoLine  = fmt.Errorf("this is no validator's line: one begins with %q", linePrefix)
	ErrNewer   = errors.New("the validator's line was made by a newer version of poq: update this one")
	ErrDamaged = errors.New("the validator's line is damaged: copy it whole")
)

const linePrefix = "poq-validator-1:"

// Forms of a line: of any version, and of this one; and that of a name in it.
var (
	names    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	anyLine  = regexp.MustCompile(`^poq-validator-([0-9]+):`)
	thisLine = regexp.MustCompile(`^poq-validator-1:([A-Za-z0-9._-]{1,64}):([0-9a-f]{64}):([0-9a-f]{64}):([1-9A-Za-z]{1,60}):([0-9a-f]{8})$`)
)

// Line returns a validator's public part as one line without spaces, to be sent to whoever makes the genesis:
//
//	poq-validator-1:NAME:CONSENSUS:ACCOUNT:PEER:SUM
//
// with keys in hex, the text form of the peer id, and in hex the first four bytes of the SHA-256 of all that stands
// before the last colon. The sum finds what a hand or a terminal did to the line; it proves nothing about who made it.
func Line(v ledger.Validator) (string, error) {
	body := linePrefix + strings.Join([]string{v.Name, v.Consensus.String(), v.Account.String(), v.Peer}, ":")
	return body + ":" + sum(body), CheckName(v.Name)
}

// CheckName refuses a name that can't stand in a line.
func CheckName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("validator's name %q: want 1 to 64 letters, digits, '.', '_' or '-'", name)
	}
	return nil
}

func sum(body string) string {
	h := crypto.Sum([]byte(body))
	return hex.EncodeToString(h[:4])
}

// ParseLine reads what [Line] returned. White space does not matter, wherever a terminal or a mail put it.
func ParseLine(s string) (v ledger.Validator, err error) {
	s = strings.Join(strings.Fields(s), "")
	part := thisLine.FindStringSubmatch(s)
	switch version := anyLine.FindStringSubmatch(s); {
	case version == nil:
		return v, ErrNoLine
	case version[1] != "1":
		return v, ErrNewer
	case part == nil || part[5] != sum(s[:len(s)-len(part[5])-1]):
		return v, ErrDamaged
	}
	v.Name = part[1]
	if err := errors.Join(v.Consensus.UnmarshalText([]byte(part[2])), v.Account.UnmarshalText([]byte(part[3]))); err != nil {
		return v, fmt.Errorf("validator's line: %w", err)
	}
	id, err := peer.Decode(part[4])
	if err == nil {
		_, err = keystore.PublicKey(id)
	}
	if err == nil && id.String() != part[4] {
		err = errors.New("it is not in its usual form")
	}
	if err != nil {
		return v, fmt.Errorf("validator's line: peer id %s: %w", part[4], err)
	}
	v.Peer = part[4]
	return v, nil
}
