package main

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node/control"
)

func TestLineOfABatchSaysWhatToAskOrWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", ledger.MaxPrompt+1)
	for _, c := range []struct {
		line string
		want batchLine
		err  string
	}{
		{`"Why?"`, batchLine{id: "line-9", prompt: "Why?"}, ""},
		{`{"prompt": "Why?"}`, batchLine{id: "line-9", prompt: "Why?"}, ""},
		{`{"id": "a", "prompt": "Why?", "fee": 2.5, "max_answers": 2, "topic": [1]}`, batchLine{id: "a", prompt: "Why?", fee: 2_500_000, maxAnswers: 2}, ""},
		{`{"id": 12, "prompt": "Why?", "fee": "0.25"}`, batchLine{id: "12", prompt: "Why?", fee: 250_000}, ""},
		{`{"id": null, "prompt": "Why?", "fee": null}`, batchLine{id: "line-9", prompt: "Why?"}, ""},
		{`{"prompt": "Why?", "temperature": 0, "max_tokens": 9, "stop": ["x"], "top_p": null}`, batchLine{id: "line-9", prompt: "Why?", wishes: llm.Options{Temperature: new(0.0), MaxTokens: 9, Stop: []string{"x"}}}, ""},
		{`{"prompt": "Why?", "top_p": 2}`, batchLine{id: "line-9", prompt: "Why?", wishes: llm.Options{TopP: new(2.0)}}, "top_p is 2, want 0 to 1"},
		{`{"prompt": "Why?", "seed": "x"}`, batchLine{id: "line-9", prompt: "Why?", wishes: llm.Options{Seed: new(int64)}}, "cannot unmarshal"},
		{`Why?`, batchLine{id: "line-9"}, "neither a JSON string nor an object"},
		{`17`, batchLine{id: "line-9"}, "neither a JSON string nor an object"},
		{`{"prompt": "Why?"`, batchLine{id: "line-9"}, "neither a JSON string nor an object"},
		{`"  "`, batchLine{id: "line-9", prompt: "  "}, "empty"},
		{`{"id": "a"}`, batchLine{id: "a"}, "empty"},
		{`{"id": "", "prompt": "Why?"}`, batchLine{id: "line-9"}, "id must be"},
		{`{"id": true, "prompt": "Why?"}`, batchLine{id: "line-9"}, "id must be"},
		{`{"prompt": 7, "id": "a"}`, batchLine{id: "a"}, "cannot unmarshal"},
		{`{"prompt": "Why?", "fee": -1}`, batchLine{id: "line-9", prompt: "Why?"}, "fee:"},
		{`{"prompt": "Why?", "fee": 1e3}`, batchLine{id: "line-9", prompt: "Why?"}, "fee:"},
		{`{"prompt": "Why?", "fee": 0}`, batchLine{id: "line-9", prompt: "Why?"}, "above zero"},
		{`{"prompt": "Why?", "max_answers": 17}`, batchLine{id: "line-9", prompt: "Why?", maxAnswers: 17}, "max_answers"},
		{`"` + long + `"`, batchLine{id: "line-9", prompt: long}, "more than the limit"},
	} {
		got := parseLine(9, []byte(c.line))
		err := got.err
		c.want.number, got.err = 9, nil
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.80s: %.100v, %v; want %.100v, %q", c.line, got, err, c.want, c.err)
		}
	}
}

func TestWishesOfALineStandAboveThoseOfItsBatch(t *testing.T) {
	all := llm.Options{Model: "a", MaxTokens: 1, Temperature: new(1.0), TopP: new(1.0), Seed: new(int64(1)), Stop: []string{"a"}}
	other := llm.Options{Model: "b", MaxTokens: 2, Temperature: new(0.0), TopP: new(0.0), Seed: new(int64(0)), Stop: []string{"b"}}
	for _, c := range []struct{ batch, line, want llm.Options }{
		{all, llm.Options{}, all}, {llm.Options{}, all, all}, {all, other, other},
		{all, llm.Options{Seed: other.Seed}, llm.Options{Model: "a", MaxTokens: 1, Temperature: all.Temperature, TopP: all.TopP, Seed: other.Seed, Stop: all.Stop}},
	} {
		if got := above(c.batch, c.line); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v above %+v: %+v, want %+v", c.line, c.batch, got, c.want)
		}
	}
}

func TestBatchLinesKeepTheirNumbersAndOneIDEach(t *testing.T) {
	lines, err := readBatch(strings.NewReader("\ufeff\"one\"\r\n\n{\"id\":\"x\",\"prompt\":\"two\"}\n{\"id\":\"x\",\"prompt\":\"three\"}\n\"four\""))
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, l := range lines {
		got += fmt.Sprintf("%d %s %s %v; ", l.number, l.id, l.prompt, l.err)
	}
	if want := `1 line-1 one <nil>; 3 x two <nil>; 4 x (line 4) three line 3 has the same id "x"; 5 line-5 four <nil>; `; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestResultsOfAKilledBatchAreReadUpToTheBrokenLine(t *testing.T) {
	first := `{"line":1,"id":"1","prompt":"one","answer":"1","outcome":"PAID","cost":5}` + "\n"
	for text, want := range map[string]int{ // whole bytes
		"":                                 0,
		first:                              len(first),
		first + first:                      2 * len(first),
		strings.TrimSpace(first):           len(first) - 1, // whole, without the end of the line
		first + `{"line":2,"id":"2","prom`: len(first),
		first + `{`:                        len(first),
	} {
		results, whole, err := readResults([]byte(text))
		if err != nil || whole != want || (len(results) == 1) != (want > 0) {
			t.Errorf("%q: %d results in %d bytes, %v; want %d bytes", text, len(results), whole, err, want)
		}
	}
	for _, text := range []string{"notes", "\"Why?\"\n", "{\"id\":\"a\",\"prompt\":\"Why?\"}\n", "{\"line\":1,\n" + first, first + "\n" + first} {
		var usage usageError
		if _, _, err := readResults([]byte(text)); !errors.As(err, &usage) {
			t.Errorf("%q is taken for results: %v", text, err)
		}
	}
}

func FuzzResultsAreReadOrRefused(f *testing.F) {
	f.Add([]byte(`{"line":1,"id":"1","prompt":"one","answer":"1","outcome":"PAID","cost":5}` + "\n{\"li"))
	f.Add([]byte("{\"line\":2,\"id\":\"b\",\"prompt\":\"\",\"cost\":0}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		results, whole, err := readResults(data)
		if err != nil {
			return
		}
		again, same, err := readResults(data[:whole])
		if err != nil || same != whole || len(again) != len(results) {
			t.Errorf("what is kept of %q reads as %d results in %d bytes, %v; want %d in %d", data, len(again), same, err, len(results), whole)
		}
	})
}

func TestBatchGoesOnWithWhatHasNoOutcome(t *testing.T) {
	task := ledger.TaskID{1}
	lines := []batchLine{
		{number: 1, id: "1", prompt: "answered"},
		{number: 2, id: "2", prompt: "open"},
		{number: 3, id: "3", prompt: "never ordered"},
		{number: 4, id: "4", prompt: "new"},
		{number: 5, id: "5", err: errors.New("bad")},
		{number: 6, id: "6", prompt: "nobody answered"},
	}
	results := map[string]batchResult{
		"1": {Line: 1, ID: "1", Prompt: "answered", Task: task, Outcome: ledger.Paid, Cost: 7},
		"2": {Line: 2, ID: "2", Prompt: "open", Task: task, Cost: 5, Error: "interrupted"},
		"3": {Line: 3, ID: "3", Prompt: "never ordered", Error: "out of range"},
		"5": {Line: 5, ID: "5", Error: "bad"},
		"6": {Line: 6, ID: "6", Prompt: "nobody answered", Task: task, Outcome: ledger.NoAnswers, Error: "nobody answered"},
	}
	left, failed, spent, err := remaining(lines, results)
	got := ""
	for _, l := range left {
		got += fmt.Sprintf("%d %v %d; ", l.number, l.task == task, l.fee)
	}
	if want := "2 true 5; 3 false 0; 4 false 0; "; got != want || failed != 2 || spent != 12 || err != nil {
		t.Errorf("%s%d failed, %d spent, %v; want %s2 failed, 12 spent", got, failed, spent, err, want)
	}
	var usage usageError
	lines[0].prompt = "changed"
	if _, _, _, err := remaining(lines, results); !errors.As(err, &usage) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a line that was changed: %v", err)
	}
}

func TestLinesOfAKilledBatchGetTheirOrdersBack(t *testing.T) {
	order := func(n uint64, prompt string, o llm.Options) control.Order {
		return control.Order{Task: ledger.TaskID{byte(n)}, Nonce: n, Fee: 10 + n, Prompt: crypto.Sum([]byte(prompt)), Options: o}
	}
	plain, warm, seeded := llm.Options{}, llm.Options{Temperature: new(0.123)}, llm.Options{Temperature: new(0.123), Seed: new(int64(7))}
	lines := []batchLine{
		{number: 1, id: "1", prompt: "twice"},
		{number: 2, id: "2", prompt: "never ordered"},
		{number: 3, id: "3", prompt: "twice"},
		{number: 4, id: "4", prompt: "told", task: ledger.TaskID{3}, fee: 13},
		{number: 5, id: "5", prompt: "twice"},
		{number: 6, id: "6", prompt: "bad", err: errors.New("bad")},
		{number: 7, id: "7", prompt: "told"},
		{number: 8, id: "8", prompt: "drawn"},
		{number: 9, id: "9", prompt: "drawn", wishes: llm.Options{Seed: new(int64(7))}},
		{number: 10, id: "10", prompt: "other options"},
	}
	results := map[string]batchResult{"0": {Line: 9, ID: "0", Task: ledger.TaskID{1}}, "4": {Line: 4, ID: "4", Task: ledger.TaskID{3}}}
	orders := []control.Order{
		order(1, "twice", warm), order(2, "twice", warm), order(3, "told", warm), order(4, "of another program", warm), order(5, "twice", warm), order(6, "bad", warm),
		order(7, "drawn", seeded), order(8, "drawn", warm), order(9, "other options", plain),
	}
	got := ""
	for _, r := range adopt(lines, llm.Options{Temperature: new(0.12345)}, results, orders) {
		got += fmt.Sprintf("%s %d %d; ", r.ID, r.Task[0], r.Cost)
	}
	if want := "1 2 12; 3 5 15; 8 8 18; 9 7 17; 10 9 19; "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if lines[0].task != (ledger.TaskID{2}) || lines[0].fee != 12 || !lines[4].task.IsZero() || lines[3].task != (ledger.TaskID{3}) {
		t.Errorf("the lines are %+v", lines)
	}
}

func TestProgressOfABatchHasRateAndTimeLeft(t *testing.T) {
	p := newProgressLine(&strings.Builder{}, 40, 10)
	if got, want := p.text(0), "10 of 40 done, cost 0.000000"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for i := range 10 {
		r := batchResult{Task: ledger.TaskID{1}, Outcome: ledger.Paid}
		switch i {
		case 3:
			r.Outcome, r.Error = ledger.NoAnswers, "nobody answered"
		case 4:
			r.Outcome, r.Error = 0, "interrupted"
		}
		p.add(r, 1_500_000)
	}
	if got, want := p.text(20*time.Second), "20 of 40 done, 1 failed, 1 not settled yet, 0.50/s, 40s left, cost 1.500000"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
