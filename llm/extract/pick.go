package extract

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// rarity weighs a term by how few sentences have it.
func rarity(sentences []sentence) map[string]float64 {
	n := map[string]int{}
	for _, s := range sentences {
		for _, t := range s.terms {
			n[t]++
		}
	}
	weights := make(map[string]float64, len(n))
	for t, k := range n {
		weights[t] = math.Log(1 + float64(len(sentences))/float64(k))
	}
	return weights
}

// answer picks the sentence that shares the rarest terms with the question and has what the question asks for, such as a year; and a
// second one if the first lacks something asked for that it has, or more was asked than one thing. None is picked if no sentence
// shares a term.
func answer(sentences []sentence, question string, want wish) []int {
	weights := rarity(sentences)
	asked := newSentence(question)
	open := map[string]bool{}
	for _, t := range asked.terms {
		open[t] = weights[t] > 0
	}
	needs := needsOf(question)

	score := func(s sentence) (shared, total float64) {
		for _, t := range s.terms {
			if open[t] {
				shared += weights[t]
			}
		}
		total = shared
		for _, n := range needs {
			if n.met(s, asked) {
				total += n.weight * (0.3 + shared)
			}
		}
		// Of equals the shorter one says less beside the point.
		return shared, total / math.Log(math.E+float64(len(s.raw))/20)
	}

	most := 2
	if want.sentences > 0 {
		most = min(want.sentences, 10)
	}
	var picked []int
	var first float64
	for len(picked) < most {
		best, at := 0.0, -1
		for i, s := range sentences {
			if shared, total := score(s); shared > 0 && total > best && !slices.Contains(picked, i) {
				best, at = total, i
			}
		}
		if at < 0 {
			break
		}
		if len(picked) > 0 && want.sentences == 0 {
			lacks := slices.ContainsFunc(needs, func(n need) bool { return n.met(sentences[at], asked) })
			if !lacks && !several.MatchString(question) || best < 0.6*first {
				break
			}
		}
		if len(picked) == 0 {
			first = best
		}
		picked = append(picked, at)
		for _, t := range sentences[at].terms {
			delete(open, t)
		}
		needs = slices.DeleteFunc(needs, func(n need) bool { return n.met(sentences[at], asked) })
	}
	slices.Sort(picked)
	return picked
}

// need is something the answer to a question must have.
type need struct {
	weight float64
	met    func(s, question sentence) bool
}

var (
	asksWhen   = regexp.MustCompile(`(?i)\b(when|(what|which) (year|date|day|month|century)|how long ago)\b`)
	asksAmount = regexp.MustCompile(`(?i)\b(how (many|much|long|far|old|tall|high|deep|big|large|fast|often|heavy|wide)|` +
		`(what|which) (number|percentage|share|amount|price|cost))\b`)
	asksWho   = regexp.MustCompile(`(?i)\b(who|whom|whose)\b`)
	asksWhere = regexp.MustCompile(`(?i)\b(where|(what|which) (place|city|town|country))\b`)
	asksWhy   = regexp.MustCompile(`(?i)\b(why|for what reason|what (caused|led))\b`)

	several = regexp.MustCompile(`(?i)(\?.+\?|\b(and|or) (who|when|where|why|how|what|which)\b)`)

	moment = regexp.MustCompile(`(?i)\b(1\d{3}|20\d{2}|` +
		`january|february|march|april|june|july|august|september|october|november|december|` +
		`monday|tuesday|wednesday|thursday|friday|saturday|sunday|yesterday|today|tomorrow|century|spring|summer|autumn|winter|` +
		`(last|next) (year|month|week)|\d{1,2}(:\d\d)? ?[ap]\.?m)\b`)
	year   = regexp.MustCompile(`\b(1\d{3}|20\d{2})\b`)
	amount = regexp.MustCompile(`(?i)(\d|\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|` +
		`hundred|thousand|million|billion|half|third|quarter|dozen|once|twice)\b)`)
	place  = regexp.MustCompile(`\b(in|at|near|from|off|outside|between|into|on|to|along|across|under|beside) (the |a |an )?([a-z]+ )?\p{Lu}`)
	reason = regexp.MustCompile(`(?i)\b(because|since|due to|owing to|so that|in order|to (avoid|prevent|protect|make|keep|reduce|save)|` +
		`caused|fear(ing|ed)?|thanks to|as a result|after|reason|led to|therefore)\b`)
)

// needsOf tells what a question asks for.
func needsOf(question string) []need {
	matches := func(re *regexp.Regexp) func(s, _ sentence) bool {
		return func(s, _ sentence) bool { return re.MatchString(s.text) }
	}
	var needs []need
	for _, q := range []struct {
		asked  *regexp.Regexp
		weight float64
		met    func(s, question sentence) bool
	}{
		{asksWhen, 0.5, matches(moment)},
		{asksAmount, 0.5, func(s, _ sentence) bool { return amount.MatchString(year.ReplaceAllString(s.text, "")) }},
		{asksWho, 0.4, newName},
		{asksWhere, 0.3, matches(place)},
		{asksWhy, 0.5, matches(reason)},
	} {
		if q.asked.MatchString(question) {
			needs = append(needs, need{q.weight, q.met})
		}
	}
	return needs
}

// newName tells whether a sentence names someone the question does not.
func newName(s, question sentence) bool {
	for i, w := range s.raw {
		if first := []rune(w)[0]; !unicode.IsUpper(first) || i == 0 && openers[strings.ToLower(w)] || stopWords[strings.ToLower(w)] {
			continue
		}
		if !slices.ContainsFunc(question.raw, func(q string) bool { return strings.EqualFold(q, w) }) {
			return true
		}
	}
	return false
}

// summarise picks the sentences most like all others, no two of them alike.
func summarise(sentences []sentence, want wish) []int {
	most := want.sentences
	if most == 0 {
		most = 2
		if want.words > 0 {
			most = len(sentences)
		}
	}
	weights := rarity(sentences)
	like := similarities(sentences, weights)
	rank := centrality(like)
	for i := range rank {
		// What comes first in a text mostly says what it is about; a sentence that leans on the one before does not stand alone.
		rank[i] *= 1 + 0.5/float64(1+i)
		if leans(sentences[i]) {
			rank[i] *= 0.8
		}
		if n := len(sentences[i].raw); n < 5 {
			rank[i] *= 0.5
		}
	}
	var picked []int
	left := want.words
	for len(picked) < min(most, len(sentences)) {
		best, at := 0.0, -1
		for i := range sentences {
			if slices.Contains(picked, i) || want.words > 0 && len(strings.Fields(sentences[i].text)) > left {
				continue
			}
			score := rank[i]
			for _, p := range picked {
				score *= 1 - like[i][p]
			}
			if at < 0 || score > best {
				best, at = score, i
			}
		}
		if at < 0 {
			break
		}
		picked = append(picked, at)
		left -= len(strings.Fields(sentences[at].text))
	}
	if len(picked) == 0 { // none is short enough: the best one is cut
		best := 0
		for i := range rank {
			if rank[i] > rank[best] {
				best = i
			}
		}
		picked = []int{best}
	}
	slices.Sort(picked)
	return picked
}

var leaning = wordSet(`he she it they this that these those but however also then so such instead meanwhile still yet therefore and his her its their both`)

func leans(s sentence) bool { return len(s.raw) > 0 && leaning[strings.ToLower(s.raw[0])] }

// similarities is the cosine of the weighted terms of each two sentences.
func similarities(sentences []sentence, weights map[string]float64) [][]float64 {
	norms := make([]float64, len(sentences))
	where := map[string][]int{}
	for i, s := range sentences {
		for _, t := range s.terms {
			norms[i] += weights[t] * weights[t]
			where[t] = append(where[t], i)
		}
	}
	like := make([][]float64, len(sentences))
	for i, s := range sentences {
		like[i] = make([]float64, len(sentences))
		for _, t := range s.terms { // in order, so that sums come out the same each time
			for _, j := range where[t] {
				if i != j {
					like[i][j] += weights[t] * weights[t] / math.Sqrt(norms[i]*norms[j])
				}
			}
		}
	}
	return like
}

// centrality is PageRank over the likeness of sentences.
func centrality(like [][]float64) []float64 {
	const damping, rounds = 0.85, 30
	n := len(like)
	out := make([]float64, n)
	for i := range like {
		for _, v := range like[i] {
			out[i] += v
		}
	}
	rank, next := make([]float64, n), make([]float64, n)
	for i := range rank {
		rank[i] = 1 / float64(n)
	}
	for range rounds {
		for i := range next {
			next[i] = (1 - damping) / float64(n)
			for j := range like {
				if out[j] > 0 {
					next[i] += damping * rank[j] * like[j][i] / out[j]
				}
			}
		}
		rank, next = next, rank
	}
	return rank
}
