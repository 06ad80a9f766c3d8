package node

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
)

// protocolTalk is a feed that a payer follows at a worker: the texts of its tasks while they are made. docs/protocol.md describes it.
const protocolTalk = "talk"

// kindTalk is that of an introduction: who signs it holds an account and speaks through a peer to another one.
const kindTalk crypto.Kind = "talk"

// introSize is that of an introduction: an account and its signature.
const introSize = len(ledger.AccountID{}) + len(crypto.Signature{})

func (n *Node) introBytes(account ledger.AccountID, from, to peer.ID) []byte {
	b := crypto.AppendBytes(account[:], string(from))
	return n.domain.SigningBytes(kindTalk, crypto.AppendBytes(b, string(to)))
}

// introduce proves to a peer whose account this node has. Another peer can't use it: it names both ends of the connection.
func (n *Node) introduce(to peer.ID) []byte {
	account := n.Account()
	sig := n.identity.Account.Sign(n.introBytes(account, n.host.ID(), to))
	return append(account[:], sig[:]...)
}

func decodeIntro(data []byte) (account ledger.AccountID, sig crypto.Signature, err error) {
	r := crypto.NewReader(data)
	account, sig = r.Key(), r.Signature()
	return account, sig, r.End()
}

// introduced returns the account that a peer has proven to have.
func (n *Node) introduced(from peer.ID, intro []byte) (ledger.AccountID, error) {
	account, sig, err := decodeIntro(intro)
	if err != nil {
		return account, err
	}
	if !crypto.NewVerifier().Verify(account, n.introBytes(account, from, n.host.ID()), sig) {
		return account, fmt.Errorf("%w: introduction of account %s", ledger.ErrSignature, account.Short())
	}
	return account, nil
}

// What a worker says, by the first byte of a frame.
const (
	talkText byte = 1 + iota
	talkEnd
)

const (
	maxPiece = 16 << 10 // bytes of text in one frame
	maxModel = 128      // bytes of a model's name
	// maxTalk bounds a frame: a piece of text is the longest.
	maxTalk = 1 + crypto.HashSize + 4 + maxPiece
	// maxTokens bounds a count of tokens, so that sums of them fit everywhere.
	maxTokens = 1 << 24
)

// talkFrame is a piece of text, or the end of it.
type talkFrame struct {
	task ledger.TaskID
	at   uint32 // where the piece begins, or how long the whole is
	text string // "" at the end
	told Told   // at the end
	fail string // at the end: why there is no answer
}

// stops are the reasons to stop by their number; 0 is not known.
var stops = []llm.StopReason{"", llm.StopEnd, llm.StopLength, llm.StopRepetition}

func (f talkFrame) encode() []byte {
	if f.text != "" {
		b := append([]byte{talkText}, f.task[:]...)
		b = binary.BigEndian.AppendUint32(b, f.at)
		return append(b, f.text...)
	}
	b := append([]byte{talkEnd}, f.task[:]...)
	b = binary.BigEndian.AppendUint32(b, f.at)
	b = append(b, byte(max(0, slices.Index(stops, f.told.Stop))))
	b = binary.BigEndian.AppendUint32(b, tokens(f.told.PromptTokens))
	b = binary.BigEndian.AppendUint32(b, tokens(f.told.AnswerTokens))
	b = crypto.AppendBytes(b, f.told.Model)
	return crypto.AppendBytes(b, f.fail)
}

func tokens(n int) uint32 { return uint32(min(max(n, 0), maxTokens)) }

func decodeTalk(data []byte) (f talkFrame, err error) {
	r := crypto.NewReader(data)
	kind := r.Uint8()
	f.task, f.at = r.Hash(), r.Uint32()
	if f.at > ledger.MaxAnswer {
		r.Fail()
	}
	switch {
	case r.Failed():
	case kind == talkText:
		f.text = string(data[1+crypto.HashSize+4:])
		if f.text == "" || len(f.text) > maxPiece || int(f.at)+len(f.text) > ledger.MaxAnswer || !utf8.ValidString(f.text) {
			r.Fail()
		}
		if !r.Failed() {
			return f, nil
		}
	case kind == talkEnd:
		if stop := int(r.Uint8()); stop < len(stops) {
			f.told.Stop = stops[stop]
		} else {
			r.Fail()
		}
		f.told.PromptTokens, f.told.AnswerTokens = int(r.Uint32()), int(r.Uint32())
		f.told.Model, f.fail = string(r.Bytes(maxModel)), string(r.Bytes(ledger.MaxReason))
		if f.told.PromptTokens > maxTokens || f.told.AnswerTokens > maxTokens || !printable(f.told.Model) || !printable(f.fail) {
			r.Fail()
		}
	default:
		r.Fail()
	}
	return f, r.End()
}

// printable says whether a text is one line that can be shown as it is.
func printable(text string) bool {
	return utf8.ValidString(text) && !slices.ContainsFunc([]rune(text), func(r rune) bool { return !unicode.IsPrint(r) })
}

// oneLine makes a printable line of at most so many bytes out of a text.
func oneLine(text string, most int) string {
	var line []byte
	for _, r := range text {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			r = ' '
		}
		if len(line)+utf8.RuneLen(r) > most {
			break
		}
		line = utf8.AppendRune(line, r)
	}
	return string(line)
}
