// Package token has the line that one sends to somebody who is to join a network: its name, its chain id, the genesis
// itself unless that is large, and addresses of peers to begin with.
//
// A token is "poq1" and then, in base64url without padding, four bytes of checksum and a DEFLATE stream (RFC 1951) of
//
//	network     bytes, at most 128
//	chain       32 bytes, the hash of the genesis
//	genesis     bytes, its canonical encoding, or none: then it is fetched from a peer by its hash
//	addresses   count, then each as bytes: a binary multiaddr that ends in /p2p/<peer id>
//
// with lengths and counts as in docs/protocol.md. The checksum is the beginning of the SHA-256 of the stream. It finds
// what a hand or a terminal did to the line; it proves nothing about who made it. The 1 is the version.
package token

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"unicode"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// Errors of Parse.
var (
	ErrNoToken = errors.New("this is no join token: one begins with " + prefix)
	ErrNewer   = errors.New("the token was made by a newer version of poq: update this one")
	ErrDamaged = errors.New("the token is damaged: copy it whole")
)

// Bounds of a token.
const (
	MaxAddresses = 16
	// maxGenesis is how many bytes a genesis may take of a token, compressed. One of four validators takes 600.
	maxGenesis = 1024
	maxNetwork = 128
	maxAddress = 256
	maxToken   = 8 << 10  // characters
	maxBody    = 64 << 10 // bytes before compression
)

const (
	name     = "poq"
	version  = '1'
	prefix   = name + string(version)
	checksum = 4 // bytes
)

// Token is what one needs to join a network.
type Token struct {
	Network   string
	Chain     crypto.Hash
	Genesis   *ledger.Genesis // nil: ask one of the addresses for it
	Addresses []multiaddr.Multiaddr
}

// New makes a token for a network. Of the addresses, each of which ends in /p2p/<peer id>, it takes the first
// [MaxAddresses] that [Routable] keeps.
func New(g *ledger.Genesis, addrs []multiaddr.Multiaddr) Token {
	t := Token{Network: g.Network, Chain: g.Chain(), Addresses: Routable(addrs)}
	t.Addresses = t.Addresses[:min(len(t.Addresses), MaxAddresses)]
	if len(deflate(g.Encode())) <= maxGenesis {
		t.Genesis = g
	}
	return t
}

// Routable returns those of the addresses that another machine may reach: not loopback, link-local or unspecified ones.
// Private ones stay, since a network at home or in an office has no others. Names stay too.
func Routable(addrs []multiaddr.Multiaddr) (kept []multiaddr.Multiaddr) {
	for _, a := range addrs {
		ip, err := manet.ToIP(a)
		if err == nil {
			if n, ok := netip.AddrFromSlice(ip); !ok || n.IsUnspecified() || n.IsLoopback() || n.IsLinkLocalUnicast() || n.Unmap().IsMulticast() {
				continue
			}
		}
		kept = append(kept, a)
	}
	return kept
}

// String returns the token's line.
func (t Token) String() string {
	b := crypto.AppendBytes(nil, t.Network)
	b = append(b, t.Chain[:]...)
	var genesis []byte
	if t.Genesis != nil {
		genesis = t.Genesis.Encode()
	}
	b = crypto.AppendBytes(b, genesis)
	b = crypto.AppendCount(b, len(t.Addresses))
	for _, a := range t.Addresses {
		b = crypto.AppendBytes(b, a.Bytes())
	}
	stream := deflate(b)
	sum := crypto.Sum(stream)
	return prefix + base64.RawURLEncoding.EncodeToString(append(sum[:checksum:checksum], stream...))
}

// Parse reads a token. White space in it does not matter: terminals and mail break long lines.
func Parse(s string) (Token, error) {
	if len(s) > 2*maxToken {
		return Token{}, fmt.Errorf("%w (%d characters)", ErrDamaged, len(s))
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
	switch {
	case len(s) <= len(prefix) || s[:len(name)] != name:
		return Token{}, ErrNoToken
	case s[len(name)] > version && s[len(name)] <= '9':
		return Token{}, ErrNewer
	case s[len(name)] != version:
		return Token{}, ErrNoToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s[len(prefix):])
	if err != nil || len(raw) <= checksum {
		return Token{}, ErrDamaged
	}
	sum := crypto.Sum(raw[checksum:])
	if !bytes.Equal(raw[:checksum], sum[:checksum]) {
		return Token{}, ErrDamaged
	}
	t, err := decode(raw[checksum:])
	if err != nil {
		return Token{}, fmt.Errorf("the token makes no sense: %w", err)
	}
	return t, nil
}

func decode(stream []byte) (t Token, err error) {
	body, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(stream)), maxBody+1))
	switch {
	case err != nil:
		return t, fmt.Errorf("compression: %w", err)
	case len(body) > maxBody:
		return t, fmt.Errorf("more than %d bytes", maxBody)
	}
	r := crypto.NewReader(body)
	t.Network, t.Chain = string(r.Bytes(maxNetwork)), r.Hash()
	genesis := r.Bytes(maxBody)
	addresses := make([][]byte, r.Count(MaxAddresses, 4))
	for i := range addresses {
		addresses[i] = r.Bytes(maxAddress)
	}
	if err := r.End(); err != nil {
		return t, err
	}
	if len(genesis) > 0 {
		if t.Genesis, err = ledger.DecodeGenesis(genesis); err != nil {
			return t, err
		}
		if t.Genesis.Chain() != t.Chain || t.Genesis.Network != t.Network {
			return t, errors.New("its genesis is not that of its chain id")
		}
	}
	for _, raw := range addresses {
		a, err := multiaddr.NewMultiaddrBytes(raw)
		if err != nil {
			return t, fmt.Errorf("address: %w", err)
		}
		if _, err := peer.AddrInfoFromP2pAddr(a); err != nil {
			return t, fmt.Errorf("address %s: %w", a, err)
		}
		t.Addresses = append(t.Addresses, a)
	}
	return t, nil
}

func deflate(data []byte) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // the level is valid, and a buffer takes everything
	}
	return b.Bytes()
}
