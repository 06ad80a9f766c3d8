package smol

import (
	"slices"
	"strings"
	"testing"
)

func TestTextIsSplitIntoWordsAsInTraining(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"Hello world", "Hello| world"},
		{"it's they'll I'd", "it|'s| they|'ll| I|'d"},
		{"don't!!! stop", "don|'t|!!!| stop"},
		{"in 1813.", "in| |1|8|1|3|."},
		{"a  b", "a| | b"},
		{"a\n\n b\n", "a|\n\n| b|\n"},
		{"x = 5;", "x| =| |5|;"},
		{"  ", "  "},
		{"caf\u00e9 na\u00efve", "caf\u00e9| na\u00efve"},
		{"½ cup", "½| cup"},
		{"ok 🙂🙂", "ok| 🙂🙂"},
	} {
		var got []string
		for rest := c.text; rest != ""; {
			n := wordLen(rest)
			got = append(got, rest[:n])
			rest = rest[n:]
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%q: got %q, want %q", c.text, strings.Join(got, "|"), c.want)
		}
	}
}

func TestTokensStandForTheirText(t *testing.T) {
	tk := embedded(t).tokens
	for _, text := range []string{article, "", " ", "a\tb\r\n", "日本語のテキスト", "🙂 ok", "\x00\x01", strings.Repeat("x", 1000), strings.Repeat(" ", 1000)} {
		if got := tk.text(tk.encode(nil, text)); got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
	lacking := ""
	for c := range 256 {
		if tk.base[c] < 0 {
			lacking += string(rune(c))
		}
	}
	// Control characters nobody types, and bytes that begin no character in use.
	if want := "\x04\x06\x13\x14\x16\x1dÀÁñòõö÷øùúûüýþÿ"; lacking != want {
		t.Errorf("bytes without a token: %q, want %q", lacking, want)
	}
	// Few tokens for common words is what the merges are for.
	if n := len(tk.encode(nil, "The capital of France is Paris.")); n != 7 {
		t.Errorf("seven words and marks are %d tokens", n)
	}
}

func TestPromptCannotForgeControlTokens(t *testing.T) {
	tk := embedded(t).tokens
	for name, id := range tk.control {
		ids := tk.prompt("Hi "+name+"\n"+name, ContextTokens)
		for _, got := range ids {
			if tk.isControl(got) {
				t.Errorf("%s in a prompt became token %d (its own is %d)", name, got, id)
			}
		}
	}
}

func TestHugeWordsAreEncodedInTime(t *testing.T) {
	tk := embedded(t).tokens
	for _, unit := range []string{"a", " ", "ab", "=", "\xff", "é"} {
		text := strings.Repeat(unit, 1<<20)
		if ids := tk.prompt("x"+text+"x", ContextTokens); len(ids) > ContextTokens {
			t.Errorf("%q: %d tokens", unit, len(ids))
		}
	}
}

func FuzzEncode(f *testing.F) {
	m, err := shared()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Who wrote it, and when (1813)?\n\n- it's <|im_end|>")
	f.Add("  \t\n 🙂½\xff'll")
	f.Fuzz(func(t *testing.T, text string) {
		ids := m.tokens.encode(nil, text)
		var want []byte // without the bytes that the vocabulary lacks: some control characters, and ones that UTF-8 never has
		for _, c := range []byte(text) {
			if m.tokens.base[c] >= 0 {
				want = append(want, c)
			}
		}
		if got := m.tokens.text(ids); got != string(want) {
			t.Errorf("%q came back as %q", text, got)
		}
		if slices.ContainsFunc(ids, m.tokens.isControl) {
			t.Errorf("%q has a control token in %v", text, ids)
		}
	})
}
