package extract

import (
	"regexp"
	"strconv"
	"strings"
)

// wish is what a task asks for.
type wish struct {
	summary   bool
	sentences int  // how many to pick at most; 0 if the task sets no number
	words     int  // how many words at most; 0 if the task sets no number
	points    bool // each sentence on a line of its own
	declined  string
}

const count = `(?:a|an|one|two|three|four|five|six|seven|eight|nine|ten|\d{1,4})`

var (
	labels = regexp.MustCompile(`(?im)^[ \t>*_#]*(passage|context|text|article|document|source|excerpt|` +
		`question|query|task|instructions?|prompt)[*_]*[ \t]*:[*_]*[ \t]*`)

	// Tasks begin so. Words that begin as many statements ("is", "a", "the") are left out: a question mark tells those.
	tasks = regexp.MustCompile(`(?i)^(please |can you |could you |would you |now )*(` +
		`summari[sz]e|sum up|condense|shorten|tl;?dr|give|list|name|` +
		`state|tell|find|extract|identify|describe|explain|outline|answer|write|rewrite|rephrase|paraphrase|translate|convert|` +
		`compose|draft|based on|according to|using|read|from the|in (the )?(passage|text|article)|` +
		`who|whom|whose|what|when|where|why|which|how|in (one|two|three|four|five|\d+) (sentences?|words?))\b`)

	summaries = regexp.MustCompile(`(?i)\b(` +
		`summar(y|ies|i[sz]e|i[sz]ing)|sum up|condense|shorten|tl;?dr|gist|abstract|overview|headline|` +
		`(main|key|central|most important) (ideas?|points?|messages?|facts?|takeaways?|themes?|topics?)|what (is|does) .{0,40}\b(about|say)\b)`)

	others = regexp.MustCompile(`(?i)\b(translate|rewrite|rephrase|paraphrase|poem|story|essay|code|program|convert|correct|proofread|continue the)\b`)

	lengths = regexp.MustCompile(`(?i)\b(` + count + `)(?: |-)` +
		`(?:(?:short|simple|clear|concise|brief|single|plain|key|main|bullet|complete|full|or fewer|or less) )*` +
		`(sentences?|words?|points?|bullets?|lines?|takeaways?|facts?|ideas?|paragraphs?)\b`)
)

// split takes a prompt apart. It fails if there is nothing that could be a passage.
func split(prompt string) (task, passage string, ok bool) {
	prompt = strings.TrimSpace(strings.ReplaceAll(prompt, "\r\n", "\n"))
	if task, passage, ok = splitLabelled(prompt); ok {
		return task, passage, true
	}
	blocks := paragraphs(prompt)
	if n := len(blocks); n > 1 {
		first, last := blocks[0], blocks[n-1]
		before, after := strings.Join(blocks[:n-1], "\n\n"), strings.Join(blocks[1:], "\n\n")
		switch {
		case isTask(first):
			return first, unquote(after), hasText(after)
		case isTask(last):
			return last, unquote(before), hasText(before)
		}
		return "", "", false
	}
	// One paragraph: the task is its first line or sentence, or the last.
	if line, rest, found := strings.Cut(prompt, "\n"); found && isTask(line) && hasText(rest) {
		return line, unquote(rest), true
	}
	if at := strings.LastIndexByte(prompt, '\n'); at >= 0 && isTask(prompt[at+1:]) && hasText(prompt[:at]) {
		return prompt[at+1:], unquote(prompt[:at]), true
	}
	if at := strings.Index(prompt, ": "); at > 0 && isTask(prompt[:at]) && hasText(prompt[at+2:]) {
		return prompt[:at], unquote(prompt[at+2:]), true
	}
	return "", "", false
}

// splitLabelled handles "Passage: ... Question: ..." in either order.
func splitLabelled(prompt string) (task, passage string, ok bool) {
	marks := labels.FindAllStringSubmatchIndex(prompt, -1)
	if len(marks) == 0 {
		return "", "", false
	}
	task = strings.TrimSpace(prompt[:marks[0][0]])
	for i, m := range marks {
		end := len(prompt)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		part := strings.TrimSpace(prompt[m[1]:end])
		switch strings.ToLower(prompt[m[2]:m[3]]) {
		case "passage", "context", "text", "article", "document", "source", "excerpt":
			passage = strings.TrimSpace(passage + "\n\n" + part)
		default:
			task = strings.TrimSpace(task + " " + part)
		}
	}
	if task == "" {
		// "Passage: ..." with the question in a paragraph of its own behind it
		if blocks := paragraphs(passage); len(blocks) > 1 && isTask(blocks[len(blocks)-1]) {
			task, passage = blocks[len(blocks)-1], strings.Join(blocks[:len(blocks)-1], "\n\n")
		}
	}
	if task == "" || passage == "" || len(strings.Fields(task)) > 100 {
		return "", "", false
	}
	return task, unquote(passage), true
}

// isTask tells whether a paragraph asks for something rather than tells.
func isTask(s string) bool {
	s = strings.TrimLeft(strings.TrimSpace(s), "\"'*_#> ")
	if n := len(strings.Fields(s)); n == 0 || n > 60 {
		return false
	}
	end := strings.TrimRight(s, "\"'*_ ")
	return strings.HasSuffix(end, "?") || tasks.MatchString(s)
}

// hasText tells whether there is something to pick from: more than a remark about the answer.
func hasText(s string) bool {
	n := len(strings.Fields(s))
	return n >= 12 || n >= 4 && !isTask(s)
}

func paragraphs(s string) []string {
	var out []string
	var b []string
	flush := func() {
		if len(b) > 0 {
			out = append(out, strings.Join(b, "\n"))
			b = nil
		}
	}
	for line := range strings.SplitSeq(s, "\n") {
		if strings.TrimSpace(line) == "" {
			flush()
			continue
		}
		b = append(b, line)
	}
	flush()
	return out
}

// unquote removes what people put around a passage.
func unquote(s string) string {
	s = strings.TrimSpace(s)
	for _, q := range [][2]string{{`"""`, `"""`}, {"```", "```"}, {"'''", "'''"}, {"<<<", ">>>"}, {`"`, `"`}, {"“", "”"}} {
		inner, ok := strings.CutPrefix(s, q[0])
		if !ok {
			continue
		}
		inner, ok = strings.CutSuffix(inner, q[1])
		// Quotes that open and close inside are not around the whole.
		if ok && !strings.Contains(inner, q[0]) && !strings.Contains(inner, q[1]) {
			return strings.TrimSpace(inner)
		}
	}
	return s
}

// understand reads a task.
func understand(task string) wish {
	var w wish
	w.summary = summaries.MatchString(task)
	if others.MatchString(task) && !w.summary {
		w.declined = "only questions about a passage and summaries of it are answered"
		return w
	}
	for _, m := range lengths.FindAllStringSubmatch(task, -1) {
		n := number(m[1])
		switch unit := strings.ToLower(m[2]); {
		case n < 1:
		case strings.HasPrefix(unit, "word"):
			if n > 1 { // not "in a word"
				w.words = n
			}
		case strings.HasPrefix(unit, "paragraph"):
			w.sentences = 3 * n
		case strings.HasPrefix(unit, "sentence"), strings.HasPrefix(unit, "line"):
			w.sentences = n
		default:
			w.sentences, w.points = n, n > 1
		}
	}
	lower := strings.ToLower(task)
	if w.sentences == 0 && w.words == 0 {
		switch {
		case strings.Contains(lower, "bullet"), w.summary && strings.Contains(lower, "points"):
			w.sentences, w.points = 3, true
		case strings.Contains(lower, "headline"), strings.Contains(lower, "tl;dr"), strings.Contains(lower, "tldr"):
			w.sentences = 1
		}
	}
	return w
}

func number(word string) int {
	for i, w := range []string{"a", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"} {
		if strings.EqualFold(w, word) {
			return max(i, 1)
		}
	}
	if strings.EqualFold(word, "an") {
		return 1
	}
	n, _ := strconv.Atoi(word)
	return n
}
