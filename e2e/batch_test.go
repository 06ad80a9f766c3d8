package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

// batchResult is a line of what poq ask --batch prints.
type batchResult struct {
	Line       int                `json:"line"`
	ID         string             `json:"id"`
	Prompt     string             `json:"prompt"`
	Answer     string             `json:"answer"`
	Worker     node.Party         `json:"worker"`
	Score      ledger.Score       `json:"score"`
	Outcome    ledger.OutcomeKind `json:"outcome"`
	Task       ledger.TaskID      `json:"task"`
	Cost       ledger.Amount      `json:"cost"`
	Error      string             `json:"error"`
	Settlement *node.Settlement   `json:"settlement"`
}

// batchResults reads results; of those with the same line the last one counts.
func batchResults(t *testing.T, text string) map[int]batchResult {
	t.Helper()
	results := map[int]batchResult{}
	for line := range strings.Lines(text) {
		var r batchResult
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		results[r.Line] = r
	}
	return results
}

// about is a line of a batch that the extracting engine can answer.
func about(question string) string {
	line, err := json.Marshal(question + "\n\n" + passage)
	if err != nil {
		panic(err)
	}
	return string(line)
}

func writeFile(t *testing.T, path string, lines ...string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// endsWith asserts an exit code and what the last line on stderr says; results may have been printed.
func (r *result) endsWith(code int, words ...string) *result {
	r.t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	last := lines[len(lines)-1]
	if r.code != code || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(last, w) }) {
		r.t.Errorf("poq %q: exit code %d and %q, want %d and %q\nstdout: %s", r.args, r.code, last, code, words, r.stdout)
	}
	return r
}

func TestBatchAsksEveryLineOnceWhateverHappens(t *testing.T) {
	u := newUser(t)
	n := u.devnet("--seed", "5", "--engine", "extract")
	dir, tasks := t.TempDir(), 0

	// Lines that are good, and lines that are not.
	var good []string
	for i := range 6 {
		good = append(good, about(fmt.Sprintf("Question %d: who built the lighthouse on Gull Rock?", i+1)))
	}
	mixed := append(slices.Clone(good), "no JSON", `{"id": "poor", "fee": 5000, "prompt": "Who?"}`,
		`{"id": "mine", "fee": 0.5, "max_answers": 2, "prompt": `+about("How high is the lighthouse?")+`}`)
	file := writeFile(t, filepath.Join(dir, "mixed.jsonl"), mixed...)
	r := u.poq("ask", "--batch", file, "--json").endsWith(1, "2 of 9 lines have no answer")
	tasks += 7
	results := batchResults(t, r.stdout)
	if len(results) != 9 || strings.Count(r.stdout, "\n") != 9 {
		t.Errorf("%d results, want 9:\n%s", len(results), r.stdout)
	}
	for line, got := range results {
		switch {
		case line == 7 || line == 8:
			if got.Error == "" || !got.Task.IsZero() || got.Cost != 0 {
				t.Errorf("a line that cannot be asked: %+v", got)
			}
		case got.Outcome != ledger.Paid || got.Answer == "" || got.Settlement == nil || got.Settlement.Answers[0].Text != got.Answer || got.Cost != got.Settlement.Fee-got.Settlement.Refund:
			t.Errorf("line %d: %+v", line, got)
		}
	}
	if s := results[9].Settlement; results[9].ID != "mine" || s == nil || s.Fee != ledger.Credit/2 {
		t.Errorf("a line with terms of its own: %+v", results[9])
	}
	if !strings.Contains(r.stderr, "9 of 9 done, 2 failed") || !strings.Contains(r.stderr, "/s") {
		t.Errorf("no progress: %s", r.stderr)
	}

	// Nobody can answer the third line, so its task stays open until the answer deadline: the batch is interrupted there.
	file = writeFile(t, filepath.Join(dir, "stuck.jsonl"), good[0], good[1], `"What is this?"`, good[2])
	c := u.command("ask", "--batch", file, "--concurrency", "1", "--answer-timeout", "15s")
	var stdout bytes.Buffer
	stderr := newRecord()
	c.Stdout, c.Stderr = &stdout, stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for a := (control.Accounts{}); a.Tasks != tasks+2 || a.Open != 1; {
		a = decode[control.Accounts](u.poq("ledger", "accounts", "--json"))
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	tasks += 3
	results = batchResults(t, stdout.String())
	if code := c.ProcessState.ExitCode(); code != 1 || len(results) != 3 || results[3].Task.IsZero() || results[3].Outcome != 0 || results[3].Cost != ledger.Credit {
		t.Fatalf("interrupted: exit code %d, results %+v", code, results)
	}
	if said := stderr.String(); !strings.Contains(said, "interrupted; to go on: poq ask --batch "+file+" --out FILE") {
		t.Errorf("an interrupted batch says %s", said)
	}
	out := writeFile(t, filepath.Join(dir, "results.jsonl"), strings.TrimSpace(stdout.String()), `{"line":4,"id":"line-4","pro`) // as if killed
	if data, err := os.ReadFile(out); err != nil || os.WriteFile(out, bytes.TrimSpace(data), 0o600) != nil {
		t.Fatal(err)
	}
	n.waitSettled(tasks)
	u.poq("ask", "--batch", file, "--out", out).endsWith(1, "1 of 4 lines have no answer")
	tasks++
	for range 2 { // the second time there is nothing left to do
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		results = batchResults(t, string(data))
		if len(results) != 4 || results[4].Answer == "" || results[3].Outcome != ledger.NoAnswers || results[3].Error != "nobody answered" || results[3].Cost == ledger.Credit {
			t.Errorf("after going on: %+v", results)
		}
		n.waitSettled(tasks)
		u.poq("ask", "--batch", file, "--out", out).endsWith(1, "1 of 4 lines have no answer")
	}

	// The limit holds for all runs together.
	file, out = writeFile(t, filepath.Join(dir, "dear.jsonl"), good...), filepath.Join(dir, "dear-results.jsonl")
	for range 2 {
		u.poq("ask", "--batch", file, "--out", out, "--cost-limit", "1.5").endsWith(1, "of the limit of 1.500000", "raise --cost-limit", "run the same command again")
	}
	sum := func() (results map[int]batchResult, sum ledger.Amount) {
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		results = batchResults(t, string(data))
		for _, r := range results {
			sum += r.Cost
		}
		return results, sum
	}
	if some, cost := sum(); len(some) == 0 || len(some) == 6 || cost > 1_500_000 {
		t.Errorf("%d lines for %d, with a limit of 1.5 credits", len(some), cost)
	}
	u.poq("ask", "--batch", file, "--out", out, "--cost-limit", "20").ok()
	tasks += 6
	if all, _ := sum(); len(all) != 6 {
		t.Errorf("%d lines of 6 with a higher limit", len(all))
	}

	// What was typed wrongly asks nothing.
	for _, c := range []struct{ args, says string }{
		{"--batch " + file + " Who?", "give --batch or PROMPT"},
		{"--batch " + file + " --file " + file, "--file goes with PROMPT"},
		{"--batch " + file + " --concurrency 0", "want 1 to"},
		{"--batch " + file + " --out " + file, "file of the batch itself"},
		{"--batch " + writeFile(t, filepath.Join(dir, "empty.jsonl"), "", " "), "no lines"},
		{"--batch " + writeFile(t, filepath.Join(dir, "other.jsonl"), good[5]) + " --out " + out, "another prompt than line 1"},
		{"--batch " + file + " --out " + filepath.Join(dir, "mixed.jsonl"), "not the result of a batch"},
		{"--out " + out + " Who?", "--out needs the file of a batch"},
	} {
		u.poq(append([]string{"ask"}, strings.Fields(c.args)...)...).fails(2, c.says)
	}
	n.checkLedgers(tasks)

	// When the network ends, the batch says so and not that every line failed.
	n.stop()
	u.poqIn(good[0], "ask", "--batch", "-").fails(1, "nothing is running")
}

func TestKilledBatchPaysEveryPromptOnce(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	n := u.devnet("--engine", "extract", "--workers", "1", "--validators", "1")
	lines := []string{`"What is this?"`} // nobody can answer it: its task stays open until the answer deadline
	for i := range 11 {
		lines = append(lines, about(fmt.Sprintf("Question %d: who built the lighthouse on Gull Rock?", i/2))) // most twice
	}
	dir := t.TempDir()
	file, out := writeFile(t, filepath.Join(dir, "prompts.jsonl"), lines...), filepath.Join(dir, "results.jsonl")
	args := []string{"ask", "--batch", file, "--out", out, "--answer-timeout", "8s"}
	for _, tasks := range []int{1, 3, 6} {
		c := u.command(args...)
		stderr := newRecord()
		c.Stderr = stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for a := (control.Accounts{}); a.Tasks+a.Open < tasks; {
			a = decode[control.Accounts](u.poq("ledger", "accounts", "--json"))
		}
		if tasks == 1 {
			if err := c.Process.Signal(syscall.SIGSTOP); err != nil { // it shall not be done before the other one looks
				t.Fatal(err)
			}
			u.poq(args...).fails(1, "another batch adds its results to "+out)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	u.poq(args...).endsWith(1, "1 of 12 lines have no answer")
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	tasks := map[ledger.TaskID]bool{}
	for line, r := range batchResults(t, string(data)) {
		tasks[r.Task] = true
		if want := map[bool]ledger.OutcomeKind{true: ledger.NoAnswers, false: ledger.Paid}[line == 1]; r.Outcome != want {
			t.Errorf("line %d: %+v, want %s", line, r, want)
		}
	}
	if len(tasks) != len(lines) {
		t.Errorf("%d lines have %d tasks", len(lines), len(tasks))
	}
	if left, err := filepath.Glob(out + "?*"); err != nil || len(left) > 0 {
		t.Errorf("beside the results are %q, %v", left, err)
	}
	n.checkLedgers(len(lines))
}
