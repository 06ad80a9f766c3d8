// Package token has the line that one sends to somebody who is to join a network: its name, its chain id, the genesis
// itself if it is small, and addresses of peers to begin with.
//
// A token is "poq1" and then, in base64url without padding, four bytes of checksum and a DEFLATE stream (RFC 1951) of
//
//	network     bytes, at most 128
//	chain       32 bytes, the hash of the genesis
//	genesis     bytes, its canonical encoding, or none: then it is fetched from a peer by its hash
//	peers       count, then for each its peer id as bytes, and its addresses: a count from 1 on, then each as bytes, a
//	            binary multiaddr without the peer id
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
	MaxAddresses = 16 // of all peers together
	maxPublic    = 6  // of one peer, in a token that New makes
	maxPrivate   = 2
	// short is how many characters a line may have with the genesis in it: it can be pasted in a chat, and as a QR code
	// be read by a phone. A genesis of two validators takes 400.
	short      = 600
	maxNetwork = 128
	maxAddress = 256
	maxPeer    = 64
	maxToken   = 96 << 10 // characters
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

// New makes a token for a network from addresses of its peers, each of which ends in /p2p/<peer id>. It takes those that
// [Routable] keeps, of each peer the best few, and the genesis if the line is short all the same; [Token.Full] adds it to any.
func New(g *ledger.Genesis, addrs []multiaddr.Multiaddr) Token {
	t := Token{Network: g.Network, Chain: g.Chain(), Genesis: g}
	for _, p := range group(Routable(addrs)) {
		t.Addresses = append(t.Addresses, best(p)...)
	}
	t.Addresses = t.Addresses[:min(len(t.Addresses), MaxAddresses)]
	if len(t.String()) > short {
		t.Genesis = nil
	}
	return t
}

// Full returns the token with the genesis in it. It fails if that is too large for a token.
func (t Token) Full(g *ledger.Genesis) (Token, error) {
	t.Genesis = g
	if size := len(t.body()); size > maxBody {
		return t, fmt.Errorf("the genesis is too large for a token (%d bytes, at most %d): leave it out, peers give it to who joins", size, maxBody)
	}
	return t, nil
}

// group sorts addresses by their peers, in the order in which those come first.
func group(addrs []multiaddr.Multiaddr) (peers [][]multiaddr.Multiaddr) {
	index := map[peer.ID]int{}
	for _, a := range addrs {
		_, id := peer.SplitAddr(a)
		i, ok := index[id]
		if !ok {
			i = len(peers)
			index[id], peers = i, append(peers, nil)
		}
		peers[i] = append(peers[i], a)
	}
	return peers
}

// best returns the addresses of one peer that are worth their place: public ones, few private ones, and those through a
// relay only if there are no public ones.
func best(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	var public, private, relayed []multiaddr.Multiaddr
	for _, a := range addrs {
		_, err := a.ValueForProtocol(multiaddr.P_CIRCUIT)
		_, noIP := manet.ToIP(a)
		switch {
		case err == nil:
			relayed = append(relayed, a)
		case noIP != nil || manet.IsPublicAddr(a):
			public = append(public, a)
		default:
			private = append(private, a)
		}
	}
	if len(public) > 0 {
		return append(public[:min(len(public), maxPublic)], private[:min(len(private), maxPrivate)]...)
	}
	return append(relayed[:min(len(relayed), maxPublic)], private[:min(len(private), maxPublic)]...)
}

// Routable returns those of the addresses that another machine may reach: not loopback, link-local or unspecified ones.
// Private ones stay, since a network at home or in an office has no others. Names stay too.
func Routable(addrs []multiaddr.Multiaddr) (kept []multiaddr.Multiaddr) {
	for _, a := range addrs {
		ip, err := manet.ToIP(a)
		if err == nil {
			if n, ok := netip.AddrFromSlice(ip); !ok || n.IsUnspecified() || n.Unmap().IsLoopback() || n.IsLinkLocalUnicast() || n.Unmap().IsMulticast() {
				continue
			}
		}
		kept = append(kept, a)
	}
	return kept
}

// String returns the token's line.
func (t Token) String() string {
	stream := deflate(t.body())
	sum := crypto.Sum(stream)
	return prefix + base64.RawURLEncoding.EncodeToString(append(sum[:checksum:checksum], stream...))
}

func (t Token) body() []byte {
	b := crypto.AppendBytes(nil, t.Network)
	b = append(b, t.Chain[:]...)
	var genesis []byte
	if t.Genesis != nil {
		genesis = t.Genesis.Encode()
	}
	b = crypto.AppendBytes(b, genesis)
	peers := group(t.Addresses)
	b = crypto.AppendCount(b, len(peers))
	for _, addrs := range peers {
		_, id := peer.SplitAddr(addrs[0])
		b = crypto.AppendBytes(b, string(id))
		b = crypto.AppendCount(b, len(addrs))
		for _, a := range addrs {
			transport, _ := peer.SplitAddr(a)
			b = crypto.AppendBytes(b, transport.Bytes())
		}
	}
	return b
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
	type group struct {
		id    []byte
		addrs [][]byte
	}
	groups := make([]group, r.Count(MaxAddresses, 6))
	for i := range groups {
		groups[i].id = r.Bytes(maxPeer)
		groups[i].addrs = make([][]byte, r.Count(MaxAddresses, 4))
		for j := range groups[i].addrs {
			groups[i].addrs[j] = r.Bytes(maxAddress)
		}
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
	seen := map[peer.ID]bool{}
	for _, g := range groups {
		id, err := peer.IDFromBytes(g.id)
		switch {
		case err != nil:
			return t, fmt.Errorf("peer id: %w", err)
		case seen[id] || len(g.addrs) == 0:
			return t, fmt.Errorf("peer %s stands twice, or without an address", id)
		}
		seen[id] = true
		for _, raw := range g.addrs {
			a, err := multiaddr.NewMultiaddrBytes(raw)
			if err == nil && len(a) == 0 {
				err = errors.New("it is empty")
			}
			if err != nil {
				return t, fmt.Errorf("address: %w", err)
			}
			whole, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{a}})
			if err != nil {
				return t, fmt.Errorf("address %s: %w", a, err)
			}
			t.Addresses = append(t.Addresses, whole...)
		}
	}
	if len(t.Addresses) > MaxAddresses {
		return t, fmt.Errorf("more than %d addresses", MaxAddresses)
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
