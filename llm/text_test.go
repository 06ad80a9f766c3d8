package llm_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/poqmesh/poq/llm"
)

func TestTextIsEmittedInWholeCharacters(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"words", []string{"Paris", " is", " old."}, []string{"Paris", " is", " old."}},
		{"space around", []string{"\n ", " Paris", " \n", "\n"}, []string{"Paris"}},
		{"space inside", []string{"a", "\n\n", "b "}, []string{"a", "\n\nb"}},
		{"character in pieces", []string{"\xe2", "\x82", "\xac 5"}, []string{"€ 5"}},
		{"character never finished", []string{"ok", "\xf0\x9f"}, []string{"ok"}},
		{"bytes that are no text", []string{"a\xffb"}, []string{"a\uFFFDb"}},
		{"nothing", []string{"", " ", "\t"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			s := llm.TextStream{Emit: func(p string) { got = append(got, p) }}
			for _, w := range c.writes {
				s.Write(w)
			}
			if strings.Join(got, "|") != strings.Join(c.want, "|") || s.Text() != strings.Join(c.want, "") {
				t.Errorf("emitted %q with text %q, want %q", got, s.Text(), c.want)
			}
		})
	}
}

func TestTextEndsBeforeTheTextToStopAt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		stop []string
		want string
	}{
		{"one two three", nil, "one two three"},
		{"one two three", []string{"three", "two", "x"}, "one"},
		{"one two", []string{"two three"}, "one two"},
		{"abcd", []string{"cd", "bc"}, "a"},  // bc is complete first
		{"abcd", []string{"bcd", "c"}, "ab"}, // c is
		{"abcd", []string{"cd", "bcd"}, "a"}, // both at once: the longest
		{"aab", []string{"ab"}, "a"},         // begins twice
		{"stop here", []string{"stop"}, ""},  // nothing is left
		{"a\n\n\nb", []string{"\n\n"}, "a"},  // space before it goes as well
		{"größer", []string{"ö"}, "gr"},
	} {
		if got := llm.Cut(c.text, c.stop); got != c.want {
			t.Errorf("%q at %q: %q, want %q", c.text, c.stop, got, c.want)
		}
	}
}

func FuzzTextStream(f *testing.F) {
	f.Add("Paris is old.", 3, "", "")
	f.Add(" \xe2\x82\xac\xff ", 1, "x", "")
	f.Add("\nParis is old.\n\nUser: ", 2, "\n\n", "User:")
	f.Add("abcd", 3, "bcd", "c")
	f.Fuzz(func(t *testing.T, text string, step int, stop1, stop2 string) {
		var joined strings.Builder
		s := llm.TextStream{Emit: func(p string) {
			if p == "" || !utf8.ValidString(p) {
				t.Errorf("piece %q", p)
			}
			joined.WriteString(p)
		}}
		for _, stop := range []string{stop1, stop2} {
			if stop != "" && utf8.ValidString(stop) {
				s.Stop = append(s.Stop, stop)
			}
		}
		want := llm.Cut(strings.TrimSpace(text), s.Stop)
		step = max(1, min(step, 16))
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			if !s.Write(rest[:n]) && joined.String() != want && utf8.ValidString(text) {
				t.Errorf("stopped at %q, want %q", joined.String(), want)
			}
			rest = rest[n:]
		}
		if s.Text() != joined.String() || s.Text() != strings.TrimSpace(s.Text()) {
			t.Errorf("text is %q, emitted %q", s.Text(), joined.String())
		}
		if utf8.ValidString(text) && s.Text() != want {
			t.Errorf("text is %q, want %q", s.Text(), want)
		}
	})
}
