package smol

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// stream turns the bytes of tokens into text: whole characters, without space around the whole. Its zero value is ready.
type stream struct {
	emit    func(string)
	text    strings.Builder // emitted so far
	pending []byte          // a character begun, or space that is emitted only if more text follows
}

func (s *stream) write(b string) {
	s.pending = append(s.pending, b...)
	end := 0 // of what can go out: the last whole character that is no space
	for i := 0; i < len(s.pending); {
		if !utf8.FullRune(s.pending[i:]) {
			break
		}
		r, n := utf8.DecodeRune(s.pending[i:])
		if i += n; !unicode.IsSpace(r) {
			end = i
		}
	}
	s.flush(end)
}

// close ends the text; a character that was never finished is dropped.
func (s *stream) close() string {
	return s.text.String()
}

func (s *stream) flush(n int) {
	piece := strings.ToValidUTF8(string(s.pending[:n]), "\uFFFD")
	s.pending = append(s.pending[:0], s.pending[n:]...)
	if s.text.Len() == 0 {
		piece = strings.TrimLeftFunc(piece, unicode.IsSpace)
	}
	if piece == "" {
		return
	}
	s.text.WriteString(piece)
	if s.emit != nil {
		s.emit(piece)
	}
}
