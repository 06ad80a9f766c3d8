package extract

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSentences bounds the work, which grows with the square of their number. What comes later is not looked at.
const maxSentences = 400

// sentence is a piece of the passage that can be picked.
type sentence struct {
	text  string
	terms []string // what it is about: words without endings, no word twice, in order; without words that stand everywhere
	raw   []string // its words as they stand
}

var bullet = regexp.MustCompile(`^\s*(?:[-*•–—‣◦]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+`)

// sentencesOf takes a passage apart. Lines of a paragraph belong together; an item of a list stands alone; a headline is left out.
func sentencesOf(passage string) []sentence {
	var out []sentence
	add := func(text string) {
		text = strings.Join(strings.Fields(text), " ")
		if len(out) < maxSentences && strings.IndexFunc(text, unicode.IsLetter) >= 0 {
			out = append(out, newSentence(text))
		}
	}
	for _, p := range paragraphs(strings.ReplaceAll(passage, "\r\n", "\n")) {
		var block strings.Builder
		flush := func() {
			for _, s := range splitSentences(block.String()) {
				add(s)
			}
			block.Reset()
		}
		lines := strings.Split(p, "\n")
		listed := false
		for i, line := range lines {
			line = strings.TrimLeft(line, "> \t")
			if mark := bullet.FindString(line); mark != "" {
				flush()
				line, listed = line[len(mark):], true
			} else if i == 1 && !listed && headline(lines[0]) && begins(line) && len(lines[0])*3 < len(line)*2 {
				block.Reset()
			}
			block.WriteString(strings.TrimSpace(line) + " ")
		}
		if len(lines) == 1 && headline(lines[0]) && !listed {
			continue
		}
		flush()
	}
	if len(out) == 0 { // nothing but headlines
		add(passage)
	}
	return out
}

// headline tells whether a line stands above a text rather than in it: short, and not ended like a sentence.
func headline(line string) bool {
	line = strings.TrimSpace(line)
	last, _ := utf8.DecodeLastRuneInString(strings.TrimRight(line, `"'”’)]`))
	return strings.HasPrefix(line, "#") || len(strings.Fields(line)) <= 10 && !strings.ContainsRune(".!?…,;:", last)
}

// splitSentences cuts running text where a sentence ends.
func splitSentences(text string) []string {
	var out []string
	start := 0
	for i, r := range text {
		if !strings.ContainsRune(".!?…", r) || i < start {
			continue
		}
		end := i + utf8.RuneLen(r)
		for end < len(text) { // further marks, and what closes a quotation
			c, n := utf8.DecodeRuneInString(text[end:])
			if !strings.ContainsRune(".!?…\"'”’)]»", c) {
				break
			}
			end += n
		}
		rest := strings.TrimLeft(text[end:], " \t")
		if len(rest) == len(text[end:]) && rest != "" || !begins(rest) || r == '.' && abbreviated(text[start:i], rest) {
			continue
		}
		out = append(out, text[start:end])
		start = end
	}
	return append(out, text[start:])
}

// begins tells whether a sentence could begin so.
func begins(rest string) bool {
	rest = strings.TrimLeft(rest, "\"'“‘([«")
	r, _ := utf8.DecodeRuneInString(rest)
	return rest == "" || unicode.IsUpper(r) || unicode.IsDigit(r) || unicode.IsLetter(r) && !unicode.IsLower(r)
}

// Abbreviations that a name or number follows, so that they never end a sentence, and ones that may.
var (
	titles = wordSet(`mr mrs ms dr prof sr jr st mt ft gen col capt lt sgt rev hon gov sen rep pres fig figs eq no nos vol p pp ch sec vs cf
		al e.g i.e approx ca est dept univ jan feb mar apr jun jul aug sept sep oct nov dec mon tue tues wed thu thur thurs fri`)
	endings = wordSet(`etc inc ltd co corp u.s u.k u.n e.u a.m p.m b.c a.d ph.d m.d d.c`)
	// Words that begin a sentence rather than a name.
	openers = wordSet(`the a an it he she they we i you this that these those there in on at by for from with after before but and so however
		when while although as its his her their our if since during both most many some all no one`)
)

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// abbreviated tells whether the point between before and rest belongs to an abbreviation rather than ends a sentence.
func abbreviated(before, rest string) bool {
	word := before[strings.LastIndexAny(before, " \t(\"'“‘[-")+1:]
	lower := strings.ToLower(word)
	next, _, _ := strings.Cut(rest, " ")
	opens := openers[strings.ToLower(strings.Trim(next, `"'“‘,.;:`))]
	switch {
	case rest == "":
		return false
	case lower == "no": // "No. 5", but "He said no. Then ..."
		return next != "" && unicode.IsDigit(rune(next[0]))
	case titles[lower]:
		return true
	case endings[lower]:
		return !opens
	case utf8.RuneCountInString(word) == 1 && unicode.IsUpper([]rune(word)[0]): // "J. K. Rowling"
		return !opens || word != "I" && strings.HasSuffix(next, ".")
	}
	return false
}

func newSentence(text string) sentence {
	s := sentence{text: text}
	seen := map[string]bool{}
	between := func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '\'' && r != '’' }
	for w := range strings.FieldsFuncSeq(text, between) {
		w = strings.Trim(w, "'’")
		if w == "" {
			continue
		}
		s.raw = append(s.raw, w)
		if t := term(w); t != "" && !seen[t] {
			seen[t] = true
			s.terms = append(s.terms, t)
		}
	}
	return s
}

var stopWords = wordSet(`a an the and or but nor so yet of in on at by for from to with without into onto over under about as than then that this
		these those there here it its he his him she her hers they their them we our us you your i my me is are was were be been
		being am do does did done doing have has had having will would shall should can could may might must not no what which
		who whom whose when where why how if because while during also just only very more most some any each such other same
		both all one's s t d ll re ve m passage text article according please answer sentence sentences word words tell give say
		says said many much long kind`)

// term is what counts of a word: without its ending, so that "opened" and "opening" meet; empty for words that stand everywhere.
func term(word string) string {
	w := strings.ToLower(strings.ReplaceAll(word, "’", "'"))
	w = strings.TrimSuffix(w, "'s")
	if stopWords[w] {
		return ""
	}
	if strings.IndexFunc(w, unicode.IsDigit) >= 0 {
		return w
	}
	for _, e := range []struct{ from, to string }{
		{"ies", "y"}, {"ied", "y"}, {"sses", "ss"}, {"ization", "ize"}, {"isation", "ize"}, {"ising", "ize"}, {"ised", "ize"}, {"ise", "ize"},
		{"ingly", ""}, {"edly", ""}, {"ing", ""}, {"ed", ""}, {"es", ""}, {"ly", ""}, {"s", ""}, {"e", ""},
	} {
		if stem, ok := strings.CutSuffix(w, e.from); ok && len(stem) >= 3 && !strings.HasSuffix(w, "ss") {
			w = stem + e.to
			break
		}
	}
	if n := len(w); n > 3 && w[n-1] == w[n-2] && w[n-1] != 'l' && w[n-1] != 's' { // "stopped", "stop"
		w = w[:n-1]
	}
	return strings.TrimSuffix(w, "e")
}
