package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

const batchHelp = `A batch (--batch FILE, - for stdin) has a prompt in each line: a JSON string, or an object

  {"id": "a1", "prompt": "Who built it?", "fee": 2.5, "max_answers": 2, "model": "small", "temperature": 0}

of which only the prompt is needed. fee is in credits; model, temperature, top_p, seed, max_tokens and
stop (a list of texts) are as the flags are. What a line has stands above the flag. An id is any string or
number, by default line- and the line's number; other fields are left alone. Each result is one line
of JSON, in the order in which tasks settle:

  line, id, prompt     what was asked
  answer               the best answer
  worker, score        whose it is, and the score in basis points
  outcome, task, cost  of the settlement; the cost is in µ-credits
  error                why there is no answer
  settlement           all of it, with --json

A line that fails does not end the batch. To go on after an interruption, give the results so far
with --out: lines that were asked are not asked again, only their outcome is awaited if it was not
known, and those that failed before they were ordered are tried again. The new results are added to
the file; if an id has several, the last one counts. --cost-limit bounds what all results in the
file cost together.

With --out from the first time on, this holds even after kill -9. A file beside it, with .lock after
its name, notes which order of the account comes first; a line without a result is taken to have been
asked if there is an order with its prompt from there on. That file also keeps a second batch away
while one runs, and is gone when the batch is done.

The exit code is 0 when every line has its answer, 1 if not, 2 for wrong usage.`

// batchSize bounds the tasks of a batch that are under way at once.
const batchSize = 256

// orderGrace is how long an interrupted batch waits to hear that an order was given whose task it would not know otherwise.
const orderGrace = 5 * time.Second

// progressEvery is how often a batch says how far it is when nobody looks at a terminal.
const progressEvery = 10 * time.Second

// batchLine is a line of a batch.
type batchLine struct {
	number     int // from 1
	id, prompt string
	fee        ledger.Amount // 0: that of the batch
	maxAnswers int           // 0: that of the batch
	wishes     llm.Options   // above those of the batch
	task       ledger.TaskID // ordered earlier, if not zero
	err        error         // cannot be asked
}

// batchResult is the result of a line. Fields are added, never changed.
type batchResult struct {
	Line       int                `json:"line"`
	ID         string             `json:"id"`
	Prompt     string             `json:"prompt"`
	Answer     string             `json:"answer,omitempty"`
	Worker     node.Party         `json:"worker,omitzero"`
	Score      ledger.Score       `json:"score,omitempty"`
	Outcome    ledger.OutcomeKind `json:"outcome,omitzero"` // 0: not settled
	Task       ledger.TaskID      `json:"task,omitzero"`    // 0: not ordered
	Cost       ledger.Amount      `json:"cost"`             // the fee less the refund; the fee as long as the task is open
	Error      string             `json:"error,omitempty"`
	Settlement *node.Settlement   `json:"settlement,omitempty"`
}

// batch is one run over a file of prompts. Its fields belong to the goroutine of run.
type batch struct {
	client       *control.Client
	terms        control.AskRequest // for lines that say nothing else; the fee is set
	answersGiven bool               // the answers wanted were given, not those of all workers
	concurrency  int
	limit        ledger.Amount // 0: none
	full         bool          // results have the settlement
	out          io.Writer
	progress     *progressLine
	wait         time.Duration // for tasks that an earlier run has ordered

	spent, reserved ledger.Amount // by settled tasks and those of earlier runs that are open, and by tasks under way
}

// readBatch reads all lines. What is wrong with one stands in it.
func readBatch(r io.Reader) ([]batchLine, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("reading the batch: %w", err)
	}
	var lines []batchLine
	seen := map[string]int{}
	number := 0
	for raw := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		number++
		if raw = bytes.TrimSpace(raw); len(raw) == 0 {
			continue
		}
		l := parseLine(number, raw)
		if first, twice := seen[l.id]; twice {
			l.err = fmt.Errorf("line %d has the same id %q", first, l.id)
			l.id = fmt.Sprintf("%s (line %d)", l.id, number)
		}
		seen[l.id] = number
		lines = append(lines, l)
	}
	return lines, nil
}

func parseLine(number int, raw []byte) batchLine {
	l := batchLine{number: number, id: fmt.Sprintf("line-%d", number)}
	var o struct {
		ID         json.RawMessage `json:"id"`
		Prompt     *string         `json:"prompt"`
		Fee        json.RawMessage `json:"fee"`
		MaxAnswers int             `json:"max_answers"`
		llm.Options
	}
	if !json.Valid(raw) || raw[0] != '"' && raw[0] != '{' {
		l.err = errors.New(`the line is neither a JSON string nor an object with "prompt"`)
		return l
	}
	into := any(&o)
	if raw[0] == '"' {
		into = &o.Prompt
	}
	// A field of the wrong type is told only after the others were read: the id names the result.
	err := json.Unmarshal(raw, into)
	var id string
	switch {
	case len(o.ID) == 0 || string(o.ID) == "null":
	case json.Unmarshal(o.ID, &id) == nil && id != "":
		l.id = id
	case bytes.ContainsAny(o.ID[:1], "-0123456789"):
		l.id = string(o.ID)
	default:
		l.err = errors.New("id must be a string with something in it, or a number")
		return l
	}
	if o.Prompt != nil {
		l.prompt = *o.Prompt
	}
	l.maxAnswers, l.wishes = o.MaxAnswers, o.Options
	switch {
	case err != nil:
		l.err = err
	case strings.TrimSpace(l.prompt) == "":
		l.err = node.ErrEmptyPrompt
	case l.maxAnswers < 0 || l.maxAnswers > ledger.MaxAnswers:
		l.err = fmt.Errorf("max_answers must be 1 to %d", ledger.MaxAnswers)
	case l.wishes.Check() != nil:
		l.err = l.wishes.Check()
	default:
		l.err = checkPrompt(l.prompt)
	}
	if l.err == nil && len(o.Fee) > 0 && string(o.Fee) != "null" {
		var fee credits
		if err := fee.Set(strings.Trim(string(o.Fee), `"`)); err != nil {
			l.err = fmt.Errorf("fee: %w", err)
		}
		l.fee = ledger.Amount(fee)
	}
	return l
}

// readResults reads the results of earlier runs, the last one of each id, and tells how many bytes of them are whole: a
// run that was killed may have left the beginning of a line.
func readResults(data []byte) (results map[string]batchResult, whole int, err error) {
	results = map[string]batchResult{}
	number := 0
	for raw := range bytes.Lines(data) {
		number++
		var r batchResult
		err := json.Unmarshal(raw, &r)
		const begin = `{"line":`
		switch {
		case err != nil && raw[len(raw)-1] != '\n' && strings.HasPrefix(string(raw), begin[:min(len(begin), len(raw))]):
			return results, whole, nil
		case err != nil || r.Line < 1 || r.ID == "":
			return nil, 0, usagef("line %d is not the result of a batch", number)
		}
		results[r.ID] = r
		whole += len(raw)
	}
	return results, whole, nil
}

// openResults opens the file of results and reads what it has. The beginning of a line at its end is cut off.
func openResults(path string, source os.FileInfo) (*os.File, map[string]batchResult, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("results: %w", err)
	}
	fail := func(err error) (*os.File, map[string]batchResult, error) {
		return nil, nil, errors.Join(fmt.Errorf("results in %s: %w", path, err), f.Close())
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if source != nil && os.SameFile(info, source) {
		return fail(usagef("they cannot go to the file of the batch itself"))
	}
	if !info.Mode().IsRegular() { // a pipe or a terminal has no earlier results
		return f, nil, nil
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return fail(err)
	}
	results, whole, err := readResults(data)
	if err != nil {
		return fail(fmt.Errorf("%w: give --out another file", err))
	}
	if whole < len(data) {
		if err := f.Truncate(int64(whole)); err != nil {
			return fail(err)
		}
	}
	if whole > 0 && data[whole-1] != '\n' { // left so by an editor
		if _, err := f.WriteString("\n"); err != nil {
			return fail(err)
		}
	}
	return f, results, nil
}

// remaining takes out the lines whose outcome is known, and tells how many of them failed and what earlier runs have cost.
func remaining(lines []batchLine, results map[string]batchResult) (left []batchLine, failed int, spent ledger.Amount, err error) {
	for _, l := range lines {
		r, ok := results[l.id]
		if ok && l.err == nil && r.Prompt != l.prompt {
			return nil, 0, 0, usagef("the result with id %s is of another prompt than line %d: give lines ids of their own, or --out another file", l.id, l.number)
		}
		switch {
		case !ok, r.Task.IsZero() && l.err == nil:
			left = append(left, l)
		case !r.Task.IsZero() && r.Outcome == 0:
			l.task, l.fee = r.Task, r.Cost
			left = append(left, l)
		case r.Error != "": // told before
			failed++
		}
	}
	for _, r := range results {
		spent += r.Cost
	}
	return left, failed, spent, nil
}

// fee is what a line costs at most.
func (b *batch) fee(l batchLine) ledger.Amount {
	if l.fee > 0 {
		return l.fee
	}
	return b.terms.Fee
}

// errStopped wraps what ends a batch before all lines are asked.
var errStopped = errors.New("the batch is not done")

// outcome is what has become of a line.
type outcome struct {
	line   batchLine
	result *batchResult // nil: none, it was not asked
	stop   error        // no further line can be asked
}

// run asks the lines, some at a time, until all have a result, ctx ends, the limit is reached, or nothing answers.
func (b *batch) run(ctx context.Context, lines []batchLine) error {
	outcomes := make(chan outcome)
	underWay := 0
	late, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	var stop error
	tick := time.NewTicker(b.progress.every)
	defer tick.Stop()
	for {
		for len(lines) > 0 && underWay < b.concurrency && stop == nil && ctx.Err() == nil {
			l := lines[0]
			fee := b.fee(l)
			if l.err != nil || !l.task.IsZero() {
				fee = 0 // nothing is ordered
			}
			if b.limit > 0 && fee > b.limit-min(b.limit, b.spent+b.reserved) {
				if underWay == 0 { // else a refund may make room
					stop = fmt.Errorf("line %d would cost up to %s credits, and %s of the limit of %s are spent: raise --cost-limit",
						l.number, formatFee(fee), formatFee(b.spent), formatFee(b.limit))
				}
				break
			}
			lines = lines[1:]
			b.reserved += fee
			underWay++
			go func() { outcomes <- b.one(ctx, late, l) }()
		}
		if underWay == 0 {
			break
		}
		select {
		case o := <-outcomes:
			underWay--
			if o.line.err == nil && o.line.task.IsZero() {
				b.reserved -= b.fee(o.line)
			}
			if stop == nil {
				stop = o.stop
			}
			if o.result == nil {
				continue
			}
			if o.line.task.IsZero() {
				b.spent += o.result.Cost
			} else { // its fee is among what was spent
				b.spent = b.spent - o.line.fee + o.result.Cost
			}
			b.progress.add(*o.result, b.spent)
			if o.result.Outcome == 0 && !o.line.task.IsZero() {
				continue // the file has it already
			}
			if err := b.write(*o.result); err != nil && stop == nil {
				stop = fmt.Errorf("writing results: %w", err)
			}
		case <-tick.C:
			b.progress.show()
		}
	}
	b.progress.end()
	if p := b.progress; stop == nil && ctx.Err() != nil && (p.before+p.done < p.total || p.open > 0) {
		stop = errors.New("interrupted")
	}
	if stop != nil {
		return fmt.Errorf("%w: %w", errStopped, stop)
	}
	return nil
}

func (b *batch) write(r batchResult) error {
	e := json.NewEncoder(b.out) // one write a line
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// one asks one line, or waits until late ends for what becomes of its task. When ctx ends it leaves as soon as it knows the task.
func (b *batch) one(ctx, late context.Context, l batchLine) outcome {
	r := &batchResult{Line: l.number, ID: l.id, Prompt: l.prompt, Task: l.task}
	switch {
	case l.err != nil:
		r.Error = l.err.Error()
		return outcome{l, r, nil}
	case !l.task.IsZero():
		s, err := b.await(late, l.task)
		if s != nil {
			b.settled(r, s)
			return outcome{l, r, nil}
		}
		*r = unsettled(l, fmt.Sprintf("task %s is not settled yet", l.task.Short()))
		return outcome{l, r, gone(err)}
	}
	q := b.terms
	q.Prompt, q.Fee = l.prompt, b.fee(l)
	q.Options = above(q.Options, l.wishes)
	switch {
	case l.maxAnswers > 0:
		q.MaxAnswers = l.maxAnswers
	case q.Model != "" && !b.answersGiven:
		q.MaxAnswers = 0 // the peer knows how many have it
	}
	s, task, err := askOrLeave(ctx, b.client, q)
	var remote *control.Error
	switch {
	case err == nil:
		b.settled(r, s)
		return outcome{l, r, nil}
	case !task.IsZero():
		r.Task, r.Cost, r.Error = task, q.Fee, err.Error()
		if ctx.Err() != nil {
			r.Error = fmt.Sprintf("interrupted: the order stands and is paid; task %s", task.Short())
		}
		return outcome{l, r, gone(err)}
	case ctx.Err() != nil:
		return outcome{l, nil, nil}
	case errors.As(err, &remote) && remote.Code == control.CodeFunds && l.fee == 0:
		return outcome{l, nil, err}
	case gone(err) != nil:
		return outcome{l, nil, err}
	}
	r.Error = err.Error()
	return outcome{l, r, nil}
}

// lookGrace is how much longer than the score deadline a batch waits for such an outcome.
const lookGrace = 30 * time.Second

// lookEvery is how often a batch looks for the outcome of a task that it did not order itself.
const lookEvery = 250 * time.Millisecond

// await returns a settlement once it is there, or nil when ctx ends or an error would stay.
func (b *batch) await(ctx context.Context, task ledger.TaskID) (*node.Settlement, error) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		st, err := b.client.Task(ctx, "", task.String())
		if st.Settlement != nil || gone(err) != nil || ctx.Err() != nil {
			return st.Settlement, err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// gone is an error that other lines would meet as well.
func gone(err error) error {
	var remote *control.Error
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &remote) && remote.Code != control.CodeDown {
		return nil
	}
	return err
}

// askOrLeave asks, and returns the task as well if it has no settlement, so that it can be looked up later. When ctx ends
// it leaves as soon as it knows the task.
func askOrLeave(ctx context.Context, client *control.Client, q control.AskRequest) (*node.Settlement, ledger.TaskID, error) {
	asking, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	known := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		late := time.NewTimer(orderGrace)
		defer late.Stop()
		select {
		case <-known:
		case <-late.C:
		case <-asking.Done():
		}
		leave()
	})
	defer stop()
	var task ledger.TaskID
	s, err := client.Ask(asking, q, func(s control.Step) {
		if task.IsZero() {
			task = s.Task
			close(known)
		}
	})
	var remote *control.Error
	if task.IsZero() && errors.As(err, &remote) {
		task = remote.Task
	}
	return s, task, err
}

// settled puts a settlement into a result.
func (b *batch) settled(r *batchResult, s *node.Settlement) {
	r.Task, r.Outcome, r.Cost = s.Task, s.Outcome, s.Fee-s.Refund
	if b.full {
		r.Settlement = s
	}
	switch {
	case len(s.Answers) > 0 && s.Answers[0].Rank == 1:
		best := s.Answers[0]
		r.Answer, r.Worker, r.Score = best.Text, best.Worker, best.Score
		if best.Text == "" {
			r.Error = "the text of the best answer could not be fetched: see poq ledger task " + s.Task.Short()
		}
	case s.Outcome == ledger.NoAnswers:
		why := []string{"nobody answered"}
		for _, d := range s.Declined {
			why = append(why, partyName(d.Worker)+" declined: "+d.Reason)
		}
		r.Error = strings.Join(why, "; ")
	default:
		r.Error = "too few validators judged the answers"
	}
}

// progressLine says how far a batch is: a line that changes on a terminal, else a line now and then.
type progressLine struct {
	w       io.Writer
	live    bool
	every   time.Duration
	begin   time.Time
	total   int // lines of the batch
	before  int // whose outcome was known at the begin
	done    int // since then
	failed  int // without an answer, of all
	open    int // ordered, not settled
	spent   ledger.Amount
	written bool
}

func newProgressLine(w io.Writer, total, before int) *progressLine {
	f, ok := w.(*os.File)
	p := &progressLine{w: w, live: ok && term.IsTerminal(int(f.Fd())), every: progressEvery, begin: time.Now(), total: total, before: before}
	if p.live {
		p.every = time.Second
	}
	return p
}

func (p *progressLine) add(r batchResult, spent ledger.Amount) {
	p.done++
	p.spent = spent
	switch {
	case r.Outcome == 0 && !r.Task.IsZero():
		p.open++
	case r.Error != "":
		p.failed++
	}
	if p.live {
		p.show()
	}
}

func (p *progressLine) show() {
	text := p.text(time.Since(p.begin))
	if p.live {
		fmt.Fprintf(p.w, "\r\033[K%s", text)
		p.written = true
		return
	}
	fmt.Fprintln(p.w, text)
}

// text has the rate and the time left as of this run so far.
func (p *progressLine) text(since time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d done", p.before+p.done, p.total)
	if p.failed > 0 {
		fmt.Fprintf(&b, ", %d failed", p.failed)
	}
	if p.open > 0 {
		fmt.Fprintf(&b, ", %d not settled yet", p.open)
	}
	if p.done > 0 && since > 0 {
		fmt.Fprintf(&b, ", %.2f/s", float64(p.done)/since.Seconds())
		if left := p.total - p.before - p.done; left > 0 {
			fmt.Fprintf(&b, ", %s left", (since / time.Duration(p.done) * time.Duration(left)).Round(time.Second))
		}
	}
	fmt.Fprintf(&b, ", cost %s", formatFee(p.spent))
	return b.String()
}

// end shows the last state.
func (p *progressLine) end() {
	p.show()
	if p.written {
		fmt.Fprintln(p.w)
	}
}

// batchFlags are the flags of poq ask that need --batch.
type batchFlags struct {
	file, out   string
	concurrency int
	limit       credits
}

func (f *batchFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "batch", "", "ask all prompts in this file, - for stdin, and print a JSON document for each")
	c.Flags().StringVar(&f.out, "out", "", "add the results of the batch to this file, and leave out lines that have theirs in it")
	c.Flags().IntVar(&f.concurrency, "concurrency", 4, fmt.Sprintf("tasks of the batch under way at once, 1 to %d", batchSize))
	c.Flags().Var(&f.limit, "cost-limit", "end the batch before it costs more than so many credits")
}

// check returns what is wrong with the flags and arguments of a command that has them.
func (f *batchFlags) check(c *cobra.Command, a []string) error {
	if f.file == "" {
		for _, name := range []string{"batch", "out", "concurrency", "cost-limit"} {
			if c.Flags().Changed(name) {
				return usagef("--%s needs the file of a batch: --batch prompts.jsonl", name)
			}
		}
		return nil
	}
	switch {
	case len(a) > 0:
		return usagef("a batch has its prompts in its file: give --batch or PROMPT")
	case c.Flags().Changed("file"):
		return usagef("--file goes with PROMPT, not with --batch")
	case f.concurrency < 1 || f.concurrency > batchSize:
		return usagef("--concurrency %d: want 1 to %d", f.concurrency, batchSize)
	}
	return nil
}

// run asks the batch.
func (f *batchFlags) run(c *cobra.Command, g *globals, client *control.Client, terms control.AskRequest) (err error) {
	in, source := c.InOrStdin(), os.FileInfo(nil)
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		defer file.Close()
		if source, err = file.Stat(); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		in = file
	}
	lines, err := readBatch(in)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return usagef("the batch %s has no lines", f.file)
	}
	out, results := c.OutOrStdout(), map[string]batchResult(nil)
	var hold *batchHold
	again := false
	if f.out != "" {
		if hold, err = holdResults(f.out); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, hold.release()) }()
		_, missing := os.Stat(f.out)
		again = missing == nil
		file, earlier, err := openResults(f.out, source)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out, results = file, earlier
	}
	left, failed, spent, err := remaining(lines, results)
	if err != nil {
		return err
	}
	if terms.Fee == 0 {
		genesis, err := client.Genesis(c.Context())
		if err != nil {
			return err
		}
		terms.Fee = max(node.DefaultFee, genesis.MinFee)
	}
	wait := node.DefaultScoreTimeout
	if terms.ScoreTimeoutMS > 0 {
		wait = time.Duration(terms.ScoreTimeoutMS) * time.Millisecond
	}
	p := newProgressLine(c.ErrOrStderr(), len(lines), len(lines)-len(left))
	p.failed, p.spent = failed, spent
	b := &batch{
		client: client, terms: terms, answersGiven: c.Flags().Changed("max-answers"), concurrency: f.concurrency, limit: ledger.Amount(f.limit), full: g.json, out: out, progress: p,
		wait: wait + lookGrace, spent: spent,
	}
	if hold != nil && len(left) > 0 {
		orders, err := hold.begin(c.Context(), client, again)
		if err != nil {
			return err
		}
		for _, r := range adopt(left, terms.Options, results, orders) {
			b.spent += r.Cost
			p.spent = b.spent
			if err := b.write(r); err != nil {
				return fmt.Errorf("writing results: %w", err)
			}
		}
	}
	err = b.run(c.Context(), left)
	if hold != nil {
		hold.keep = err != nil || p.open > 0
	}
	switch {
	case err != nil || p.open > 0:
		if err == nil {
			err = fmt.Errorf("%w: %d tasks are not settled yet", errStopped, p.open)
		}
		return fmt.Errorf("%w; %s", err, f.goOn())
	case p.failed > 0:
		return fmt.Errorf("%d of %d lines have no answer: see error in their results", p.failed, len(lines))
	}
	return nil
}

// goOn says how to go on with a batch.
func (f *batchFlags) goOn() string {
	switch {
	case f.out != "":
		return fmt.Sprintf("to go on, run the same command again: what is in %s is not asked again", f.out)
	case f.file == "-":
		return "to go on, give the same lines again, and the file with the results so far as --out"
	}
	return fmt.Sprintf("to go on: poq ask --batch %s --out FILE, with the results so far in FILE", f.file)
}
