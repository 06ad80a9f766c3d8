package llm

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TextStream is for those who write an [Engine]: it turns the bytes a model makes into text as [Engine.Generate] must emit it, in
// whole characters, without space around the whole, and ended as [Cut] does. The zero value is ready. It is for one goroutine.
type TextStream struct {
	// Emit, if not nil, gets each piece.
	Emit func(text string)

	// Stop has the texts to stop at: [Options.Stop] of the request.
	Stop []string

	text    strings.Builder
	pending []byte // a character begun, or what goes out only if other text follows: space, and the beginning of a text to stop at
	stopped bool
}

// Write adds bytes, which may end inside a character. It returns whether there is use for more: false once a text to stop at has
// come, behind which all is dropped.
func (s *TextStream) Write(b string) bool {
	if s.stopped {
		return false
	}
	s.pending = append(s.pending, b...)
	if s.text.Len() == 0 {
		s.pending = bytes.TrimLeftFunc(s.pending, unicode.IsSpace)
	}
	var n int
	n, s.stopped = stopAt(s.pending, s.Stop)
	s.pending = s.pending[:n]
	open := n // all but what may be the beginning of a text to stop at
	if !s.stopped {
		open -= begun(s.pending, s.Stop)
	}
	end := 0 // of what can go out: behind the last whole character that is no space
	for i := 0; i < open && utf8.FullRune(s.pending[i:open]); {
		r, n := utf8.DecodeRune(s.pending[i:open])
		if i += n; !unicode.IsSpace(r) {
			end = i
		}
	}
	s.emit(strings.ToValidUTF8(string(s.pending[:end]), "\uFFFD"))
	s.pending = append(s.pending[:0], s.pending[end:]...)
	return !s.stopped
}

func (s *TextStream) emit(piece string) {
	if piece == "" {
		return
	}
	s.text.WriteString(piece)
	if s.Emit != nil {
		s.Emit(piece)
	}
}

// Text ends the stream, so that what was held back as the beginning of a text to stop at goes out, and returns all that was emitted.
// Space at the end and a character never finished are not part of it.
func (s *TextStream) Text() string {
	s.Stop = nil
	s.Write("")
	s.stopped = true
	return s.text.String()
}

// Cut ends a text before the first of the texts to stop at, and takes off the space that is last then. The first is the one that is
// complete first, as for a model that is stopped while it writes.
func Cut(text string, stops []string) string {
	if n, found := stopAt(text, stops); found {
		return strings.TrimRightFunc(text[:n], unicode.IsSpace)
	}
	return text
}

// stopAt is where a text must end: where the text to stop at begins that is complete first; of several, the longest.
func stopAt[T ~string | ~[]byte](text T, stops []string) (at int, found bool) {
	at = len(text)
	end := len(text) + 1
	for _, stop := range stops {
		if i := strings.Index(string(text), stop); i >= 0 && (i+len(stop) < end || i+len(stop) == end && i < at) {
			at, end, found = i, i+len(stop), true
		}
	}
	return at, found
}

// begun is the length of the longest end of a text with which a text to stop at begins.
func begun(text []byte, stops []string) (longest int) {
	for _, stop := range stops {
		for n := min(len(stop)-1, len(text)); n > longest; n-- {
			if string(text[len(text)-n:]) == stop[:n] {
				longest = n
			}
		}
	}
	return longest
}
