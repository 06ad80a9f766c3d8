package extract

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/poqmesh/poq/llm"
)

const (
	tide = `The town of Harrow Bay opened its new tidal power station on Monday. The plant, built over six years at a cost of 240 million euros, will
supply about 40,000 homes. Engineers lowered the last of its twelve turbines into the channel in March. Local fishers had opposed the
project, fearing for the herring that spawn in the bay, and the operator agreed to stop the turbines for three weeks each spring. The
mayor, Dr. Ines Albrecht, said the station would pay for itself within fifteen years.`

	bridge = `Notes on the old bridge

The stone bridge at Orrel was finished in 1742 by the mason T. K. Whitlow. It spans 31.5 m and rests on three arches, the widest of which
measures 12.2 m. "No flood has moved it," wrote the surveyor in 1801. Traffic was banned in 1968 because lorries had cracked the parapet,
e.g. near the north end. Today it carries walkers and the water main. Repairs cost £1.2 million in 2009; the county paid half.`

	list = `The reading room has a few rules:
- Bags stay in the lockers by the entrance.
- Pencils only, no ink.
- Up to five volumes may be ordered at a time.
1. Orders placed before 3 p.m. arrive on the same day
2. Photographs are allowed without flash.`
)

func ask(t *testing.T, prompt string) (*llm.Answer, error) {
	t.Helper()
	return New().Generate(context.Background(), llm.Request{Prompt: prompt}, nil)
}

func TestQuestionsGetTheSentenceThatAnswersThem(t *testing.T) {
	for _, c := range []struct{ question, passage, want string }{
		{"How many homes will the plant supply?", tide, "supply about 40,000 homes."},
		{"Who is the mayor?", tide, "Dr. Ines Albrecht"},
		{"Why did the fishers oppose the project?", tide, "fearing for the herring"},
		{"When did the power station open?", tide, "on Monday."},
		{"When were the last turbines lowered?", tide, "in March."},
		{"How much did the plant cost?", tide, "240 million euros"},
		{"Who built the bridge, and when was it finished?", bridge, "finished in 1742 by the mason T. K. Whitlow."},
		{"Why was traffic banned?", bridge, "because lorries had cracked the parapet, e.g. near the north end."},
		{"How long is the span of the bridge?", bridge, "It spans 31.5 m"},
		{"What did the surveyor write about floods?", bridge, `"No flood has moved it," wrote the surveyor in 1801.`},
		{"What did the repairs cost?", bridge, "Repairs cost £1.2 million in 2009; the county paid half."},
		{"How many volumes can I order?", list, "Up to five volumes may be ordered at a time."},
		{"When do orders arrive on the same day?", list, "Orders placed before 3 p.m. arrive on the same day"},
		{"Where do bags stay?", list, "Bags stay in the lockers by the entrance."},
	} {
		t.Run(c.question, func(t *testing.T) {
			a, err := ask(t, c.question+"\n\n"+c.passage)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(a.Text, c.want) || a.Stop != llm.StopEnd {
				t.Errorf("got %q, want %q in it", a.Text, c.want)
			}
		})
	}
}

func TestSummariesHaveTheLengthAskedFor(t *testing.T) {
	for _, c := range []struct {
		task      string
		sentences int // 0: any number
		words     int // 0: any number
		points    bool
	}{
		{"Summarise this article in two sentences.", 2, 0, false},
		{"Summarize the article in one sentence.", 1, 0, false},
		{"Please give a one-sentence summary.", 1, 0, false},
		{"Sum up the text below in 3 short sentences:", 3, 0, false},
		{"Write a summary in 50 words.", 0, 50, false},
		{"Summarise in at most 25 words", 0, 25, false},
		{"Summarise in 8 words.", 0, 8, false},
		{"List the three main points.", 3, 0, true},
		{"What is this article about?", 2, 0, false},
		{"TL;DR", 1, 0, false},
		{"Summarise.", 2, 0, false},
	} {
		t.Run(c.task, func(t *testing.T) {
			a, err := ask(t, c.task+"\n\n"+tide)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(sentencesOf(a.Text)); c.sentences > 0 && n != c.sentences {
				t.Errorf("%d sentences, want %d: %q", n, c.sentences, a.Text)
			}
			if n := len(strings.Fields(a.Text)); n == 0 || c.words > 0 && n > c.words {
				t.Errorf("%d words, want at most %d: %q", n, c.words, a.Text)
			}
			if c.points != strings.HasPrefix(a.Text, "- ") {
				t.Errorf("points: %q", a.Text)
			}
			t.Log(a.Text)
		})
	}
}

func TestPassageIsFoundWhereverItStands(t *testing.T) {
	const q = "How many homes will it supply?"
	flat := strings.ReplaceAll(tide, "\n", " ")
	for name, prompt := range map[string]string{
		"after the question":       q + "\n\n" + tide,
		"before the question":      tide + "\n\n" + q,
		"labelled":                 "Passage: " + tide + "\n\nQuestion: " + q,
		"labelled, question first": "Question: " + q + "\nContext: " + tide,
		"labelled in bold":         "**Text:** " + tide + "\n**Question:** " + q,
		"with an instruction":      "Answer from the passage.\n\nPassage: " + tide + "\n\nQuestion: " + q + "\n\nAnswer:",
		"on the next line":         q + "\n" + flat,
		"on the line before":       flat + "\n" + q,
		"behind a colon":           "Tell me how many homes it will supply: " + flat,
		"in quotes":                q + "\n\n\"\"\"\n" + tide + "\n\"\"\"",
		"in several paragraphs":    q + "\n\n" + tide + "\n\n" + bridge,
		"windows line ends":        q + "\r\n\r\n" + strings.ReplaceAll(tide, "\n", "\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := ask(t, prompt)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(a.Text, "40,000 homes") || strings.Contains(a.Text, "?") {
				t.Errorf("got %q", a.Text)
			}
		})
	}
}

func TestDeclinesWhatItCannotDo(t *testing.T) {
	for _, c := range []struct{ prompt, reason string }{
		{"", "no passage"},
		{"What is the capital of France?", "no passage"},
		{"What is the capital of France? Answer in one sentence.", "no passage"},
		{"Why is the sky blue?\n\nPlease answer in two sentences.", "no passage"},
		{"Write a poem about rivers.", "no passage"},
		{"Translate this into French.\n\n" + tide, "only questions"},
		{"Rewrite the text in a friendlier tone.\n\n" + tide, "only questions"},
		{"What is the airspeed velocity of unladen swallows?\n\n" + tide, "shares a word"},
	} {
		t.Run(c.prompt[:min(len(c.prompt), 40)], func(t *testing.T) {
			a, err := ask(t, c.prompt)
			var d *llm.DeclineError
			if !errors.As(err, &d) || !strings.Contains(d.Reason, c.reason) || strings.Contains(d.Reason, "\n") {
				t.Errorf("got %+v, %v, want decline with %q", a, err, c.reason)
			}
		})
	}
}

func TestSentencesEndWhereReadersEndThem(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"It rained. Then it stopped.", "It rained.|Then it stopped."},
		{"Dr. Ahn met Mrs. Roe at 5 p.m. They talked.", "Dr. Ahn met Mrs. Roe at 5 p.m.|They talked."},
		{"It weighs 3.5 kg. No. 7 is lighter.", "It weighs 3.5 kg.|No. 7 is lighter."},
		{"They came from the U.S. Navy yard. Some left.", "They came from the U.S. Navy yard.|Some left."},
		{"J. R. Moore wrote it. Read it!", "J. R. Moore wrote it.|Read it!"},
		{`"Stop!" he said. "Why?" she asked.`, `"Stop!" he said.|"Why?" she asked.`},
		{`He said, "Go home." Then he left.`, `He said, "Go home."|Then he left.`},
		{"Wait... what? Yes.", "Wait... what?|Yes."},
		{"See fig. 3, e.g. the left part. It is red (see p. 4).", "See fig. 3, e.g. the left part.|It is red (see p. 4)."},
		{"Tools, etc. The rest followed.", "Tools, etc.|The rest followed."},
		{"Visit poq.example.org for more. 40 people did.", "Visit poq.example.org for more.|40 people did."},
		{"- One thing\n- Another thing. And more.\n* Last", "One thing|Another thing.|And more.|Last"},
		{"wrapped over\ntwo lines. Next.", "wrapped over two lines.|Next."},
		{"A Heading\n\nThe text under it is here.", "The text under it is here."},
		{"They first wrapped it after\nOslo, a city of the north. Next.", "They first wrapped it after Oslo, a city of the north.|Next."},
		{"A Heading\nThe text under it is here.", "The text under it is here."},
		{"¿Qué pasa? Nada. Ça va. Être ou ne pas être.", "¿Qué pasa?|Nada.|Ça va.|Être ou ne pas être."},
		{"no mark at all", "no mark at all"},
	} {
		var got []string
		for _, s := range sentencesOf(c.text) {
			got = append(got, s.text)
		}
		if want := strings.Split(c.want, "|"); !slices.Equal(got, want) {
			t.Errorf("%q\n got %q\nwant %q", c.text, got, want)
		}
	}
}

func TestMaxTokensBoundsTheWords(t *testing.T) {
	a, err := New().Generate(context.Background(), llm.Request{Prompt: "Summarise this article.\n\n" + tide, Options: llm.Options{MaxTokens: 7}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(strings.Fields(a.Text)) != 7 || a.Stop != llm.StopLength {
		t.Errorf("got %q, %s", a.Text, a.Stop)
	}
}

func TestAnswerEndsAtATextToStopAt(t *testing.T) {
	const prompt = "Summarise this article.\n\n" + tide
	whole, err := ask(t, prompt)
	if err != nil {
		t.Fatal(err)
	}
	stop := llm.Options{Stop: strings.Fields(whole.Text)[2:3]}
	a, err := New().Generate(context.Background(), llm.Request{Prompt: prompt, Options: stop}, nil)
	if want := llm.Cut(whole.Text, stop.Stop); err != nil || a.Text != want || len(want) >= len(whole.Text) || a.Stop != llm.StopEnd {
		t.Errorf("got %+v, %v, want %q", a, err, want)
	}
}

func TestSameAnswerEachTime(t *testing.T) {
	prompt := "Summarise in three sentences.\n\n" + tide + "\n\n" + bridge + "\n\n" + list
	first, err := ask(t, prompt)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if again, err := ask(t, prompt); err != nil || *again != *first {
			t.Fatalf("got %+v, %v, before %+v", again, err, first)
		}
	}
}

func TestStopsWhenTheContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := New().Generate(ctx, llm.Request{Prompt: "Summarise.\n\n" + tide}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add("Summarise this in two sentences.\n\n" + tide)
	f.Add("Passage: " + bridge + "\nQuestion: Who built it?")
	f.Add("Who?\n\n" + list)
	f.Add("TL;DR\n\n...\n- \n1.\n\"'”’")
	f.Fuzz(func(t *testing.T, prompt string) {
		var emitted strings.Builder
		a, err := New().Generate(context.Background(), llm.Request{Prompt: prompt}, func(s string) { emitted.WriteString(s) })
		if d := (*llm.DeclineError)(nil); err != nil {
			if !errors.As(err, &d) {
				t.Error(err)
			}
			return
		}
		if a.Text == "" || a.Text != emitted.String() || a.Text != strings.TrimSpace(a.Text) || !utf8.ValidString(a.Text) {
			t.Errorf("got %q, emitted %q", a.Text, emitted.String())
		}
	})
}

func BenchmarkSummary(b *testing.B) {
	prompt := "Summarise this in two sentences.\n\n" + strings.Repeat(tide+"\n\n"+bridge+"\n\n", 20)
	for b.Loop() {
		if _, err := New().Generate(context.Background(), llm.Request{Prompt: prompt}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
