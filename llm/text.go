package llm

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// TextStream is for those who write an [Engine]: it turns the bytes a model makes into text as [Engine.Generate] must emit it, in
// whole characters and without space around the whole. The zero value is ready. It is for one goroutine.
type TextStream struct {
	// Emit, if not nil, gets each piece.
	Emit func(text string)

	text    strings.Builder
	pending []byte // a character begun, or space that goes out only if more text follows
}

// Write adds bytes, which may end inside a character.
func (s *TextStream) Write(b string) {
	s.pending = append(s.pending, b...)
	end := 0 // of what can go out: behind the last whole character that is no space
	for i := 0; i < len(s.pending) && utf8.FullRune(s.pending[i:]); {
		r, n := utf8.DecodeRune(s.pending[i:])
		if i += n; !unicode.IsSpace(r) {
			end = i
		}
	}
	piece := strings.ToValidUTF8(string(s.pending[:end]), "\uFFFD")
	s.pending = append(s.pending[:0], s.pending[end:]...)
	if s.text.Len() == 0 {
		piece = strings.TrimLeftFunc(piece, unicode.IsSpace)
	}
	if piece == "" {
		return
	}
	s.text.WriteString(piece)
	if s.Emit != nil {
		s.Emit(piece)
	}
}

// Text is all that was emitted. What was held back, space or a character never finished, is not part of it.
func (s *TextStream) Text() string { return s.text.String() }
