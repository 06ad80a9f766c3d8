package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/devnet"
)

func newAsk(g *globals) *cobra.Command {
	var dir, file string
	var fee credits
	var answers int
	var answerTimeout, scoreTimeout time.Duration
	var wishes wishFlags
	var batch batchFlags
	var stream bool
	c := &cobra.Command{
		Use:   "ask PROMPT | --batch FILE",
		Short: "Ask the network, and see how the answers were judged and paid",
		Long:  "Ask the network, and see how the answers were judged and paid.\n\n" + batchHelp,
		Example: `  poq ask "Who wrote Pride and Prejudice, and when was it published?"
  cat article.txt | poq ask --file - "Summarise this article in two sentences."
  poq ask --fee 2.5 --max-answers 2 --json "Name three rivers in Peru." | jq .answers[0].text
  poq ask --stream "How does a lighthouse work?"
  poq ask --temperature 0 --max-tokens 40 --stop . "Name a river in Peru."
  poq ask --model extract --file article.txt "When was it built?"
  poq ask --batch prompts.jsonl --cost-limit 50 > results.jsonl
  poq ask --batch prompts.jsonl --out results.jsonl`,
		Args: args(func(c *cobra.Command, a []string) error {
			if batch.file != "" || c.Flags().Changed("batch") {
				return nil // check says more
			}
			return cobra.ExactArgs(1)(c, a)
		}),
	}
	c.Flags().StringVar(&dir, "dir", "", "directory of the network to ask, if several run")
	c.Flags().StringVar(&file, "file", "", "text that the prompt is about; - reads it from stdin")
	c.Flags().Var(&fee, "fee", "what answering and judging is worth to you (default 1.000000)")
	c.Flags().IntVar(&answers, "max-answers", 0, fmt.Sprintf("answers to judge, 1 to %d (default: one for each worker of a devnet, else for each that the peer is connected to, at most %d)", ledger.MaxAnswers, node.DefaultMaxAnswers))
	c.Flags().DurationVar(&answerTimeout, "answer-timeout", node.DefaultAnswerTimeout, "how long workers may take")
	c.Flags().DurationVar(&scoreTimeout, "score-timeout", 0, "how long workers and judges together may take (default twice the answer timeout, at least 1m)")
	c.Flags().BoolVar(&stream, "stream", false, "show the answer that begins first while it is written, and then how it was judged; workers learn which account is at your peer")
	wishes.add(c)
	batch.add(c)
	c.RunE = func(c *cobra.Command, a []string) error {
		if err := batch.check(c, a); err != nil {
			return err
		}
		switch {
		case stream && batch.file != "":
			return usagef("--stream shows one answer: not with --batch")
		case stream && g.json:
			return usagef("--stream shows text as it is written: not with --json")
		}
		options, err := wishes.options(c)
		if err != nil {
			return err
		}
		terms := control.AskRequest{
			Fee: ledger.Amount(fee), MaxAnswers: answers,
			AnswerTimeoutMS: answerTimeout.Milliseconds(), ScoreTimeoutMS: scoreTimeout.Milliseconds(),
			Options: options, Stream: stream,
		}
		if batch.file == "" {
			if terms.Prompt, err = readPrompt(c.InOrStdin(), a[0], file); err != nil {
				return err
			}
		}
		client, err := dial(c, dir)
		if err != nil {
			return err
		}
		validators, workers := 0, 0
		for _, p := range client.Status.Peers {
			if p.Role == string(devnet.Worker) && p.State != devnet.Down {
				workers++
			}
		}
		if len(client.Status.Peers) > 1 && !c.Flags().Changed("max-answers") && options.Model == "" {
			terms.MaxAnswers = min(workers, ledger.MaxAnswers)
		}
		if n, err := client.Node(c.Context(), "", control.Look{}); err == nil { // else Ask says what is wrong
			validators, workers = len(n.Committee), max(workers, workersOf(n.State))
			if note := quorumNote(n.Committee); note != "" {
				fmt.Fprintln(c.ErrOrStderr(), note)
			}
		}
		if batch.file != "" {
			return batch.run(c, g, client, terms)
		}
		line := newStageLine(c.ErrOrStderr(), validators, workers, answerTimeout)
		text := newStreamed(c.OutOrStdout(), line)
		s, err := client.Ask(c.Context(), terms, text.step)
		text.end()
		if c.Context().Err() != nil && !line.task.IsZero() {
			return fmt.Errorf("interrupted: the order stands and is paid; look later with poq ledger task %s", line.task.Short())
		}
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), s)
		}
		if text.begun() {
			return text.verdict(c.ErrOrStderr(), s)
		}
		printSettlement(c.OutOrStdout(), s)
		return nil
	}
	return c
}

// quorumNote says that too few validators are connected for a settlement now.
func quorumNote(committee []node.Member) string {
	here := 0
	for _, m := range committee {
		if m.Self || m.Connected {
			here++
		}
	}
	n := len(committee)
	quorum := n - (n-1)/3
	if here >= quorum {
		return ""
	}
	return fmt.Sprintf("connected to %d of %d validators; it takes %d to settle: the task waits until they are there; see poq status", here, n, quorum)
}

// workersOf counts the workers that a peer knows of: itself, and those that it is connected to.
func workersOf(s node.State) (workers int) {
	if s.Worker != nil {
		workers++
	}
	for _, p := range s.Peers {
		if p.Connected && slices.Contains(p.Labels, string(devnet.Worker)) {
			workers++
		}
	}
	return workers
}

// readPrompt puts a question and the text that it is about together.
func readPrompt(stdin io.Reader, question, file string) (string, error) {
	if strings.TrimSpace(question) == "" {
		return "", usageError{node.ErrEmptyPrompt}
	}
	if file == "" {
		return question, checkPrompt(question)
	}
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the text: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, ledger.MaxPrompt+1))
	if err != nil {
		return "", fmt.Errorf("reading the text: %w", err)
	}
	if strings.TrimSpace(string(text)) == "" {
		return "", usagef("the text of --file %s is empty", file)
	}
	prompt := question + "\n\n" + string(text)
	return prompt, checkPrompt(prompt)
}

func checkPrompt(p string) error {
	if len(p) > ledger.MaxPrompt {
		return usagef("the prompt has more than the limit of %d bytes: shorten it", ledger.MaxPrompt)
	}
	if !utf8.ValidString(p) {
		return usagef("the prompt is not valid UTF-8")
	}
	if strings.HasPrefix(p, "\x00") {
		return usageError{node.ErrNulPrompt}
	}
	return nil
}

// stageLine shows how far a task has come: one line that changes on a terminal, else a line a stage.
type stageLine struct {
	w          io.Writer
	live       bool
	validators int
	workers    int // that are connected
	answering  time.Duration
	closes     int64 // when the time for answers is over, µs after the request
	answers    int
	declined   int
	scores     int
	task       ledger.TaskID
	last       string
	revealed   int64
}

func newStageLine(w io.Writer, validators, workers int, answering time.Duration) *stageLine {
	f, ok := w.(*os.File)
	return &stageLine{w: w, live: ok && term.IsTerminal(int(f.Fd())), validators: validators, workers: workers, answering: answering}
}

func (l *stageLine) step(s control.Step) {
	text := ""
	l.task = s.Task
	switch s.Step {
	case "ordered":
		text = "order gossiped"
	case "locked":
		l.closes = s.TimeUS + l.answering.Microseconds()
		text = fmt.Sprintf("fee locked in %d ms, workers are answering", s.TimeUS/1000)
	case "committed":
		l.answers++
		text = fmt.Sprintf("answers %d", l.answers)
	case "declined":
		l.declined++
		text = fmt.Sprintf("%s declined: %s", s.Worker, s.Reason)
	case "closed":
		text = fmt.Sprintf("answers %d/%d, judging", l.answers, l.answers+l.declined)
	case "scored":
		l.scores++
		text = fmt.Sprintf("scores %d/%d", l.scores, l.validators)
	case "sealed":
		text = "sealed"
	case "revealed":
		l.revealed = s.TimeUS
		return
	case "settled":
		text = fmt.Sprintf("settled %.1f ms after the last reveal", float64(s.TimeUS-l.revealed)/1000)
	default:
		return
	}
	l.show(s.TimeUS, text, s.Step == "declined")
	if s.Step == "declined" && l.declined == l.workers && l.answers == 0 {
		left := (time.Duration(l.closes-s.TimeUS) * time.Microsecond).Round(time.Second)
		l.show(s.TimeUS, fmt.Sprintf("no connected worker answers; if no other one does, the outcome is due in %s: wait, or Ctrl-C and later poq ledger task %s",
			max(left, 0), s.Task.Short()), true)
	}
}

// show writes what has happened; on a terminal the next thing takes its place, unless it stays.
func (l *stageLine) show(us int64, text string, stays bool) {
	line := fmt.Sprintf("%6.2f s  %s", float64(us)/1e6, text)
	if !l.live {
		fmt.Fprintln(l.w, line)
		return
	}
	fmt.Fprint(l.w, "\r\033[K", line)
	l.last = text
	if stays {
		fmt.Fprintln(l.w)
	}
}

// end leaves the last stage on the screen.
func (l *stageLine) end() {
	if l.live && l.last != "" {
		fmt.Fprintln(l.w)
	}
}

// printSettlement shows first the answer, then how it came about.
func printSettlement(w io.Writer, s *node.Settlement) {
	switch {
	case len(s.Answers) > 0 && s.Answers[0].Rank == 1:
		fmt.Fprintf(w, "\n%s\n\n", printable(s.Answers[0].Text))
	case s.Outcome == ledger.NoAnswers:
		fmt.Fprintf(w, "\nNobody answered.\n\n")
	default:
		fmt.Fprintf(w, "\nToo few validators judged the answers.\n\n")
	}
	printVerdict(w, s)
}

// printVerdict shows how the answers were judged and paid.
func printVerdict(w io.Writer, s *node.Settlement) {
	printTables(w, s)
	for _, d := range s.Declined {
		fmt.Fprintf(w, "%s declined: %s\n", partyName(d.Worker), d.Reason)
	}
	fmt.Fprintf(w, "\n%s   %s\n", s.Outcome, sums(s))
	fmt.Fprintf(w, "task %s\n", s.Task)
	if t := s.Timeline; t != nil {
		fmt.Fprintf(w, "locked %s, answers %s, scores %s, sealed %s, revealed %s, settled %s (%s after the last reveal)\n",
			ms(t.Locked), ms(t.Answered), ms(t.Scored), ms(t.Sealed), ms(t.Revealed), ms(t.Settled), ms(t.Settlement))
	}
}

// printTables shows who answered, who judged, and who is paid what.
func printTables(w io.Writer, s *node.Settlement) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(s.Answers) > 0 {
		fmt.Fprint(t, "RANK\tWORKER\tSCORE")
		for _, v := range s.Validators {
			fmt.Fprintf(t, "\tV%d", v.Index+1)
		}
		fmt.Fprintln(t, "\tPAID\tANSWER")
		for _, a := range s.Answers {
			rank, score := "-", "-"
			if a.Rank > 0 {
				rank, score = fmt.Sprint(a.Rank), formatScore(a.Score)
			}
			fmt.Fprintf(t, "%s\t%s\t%s", rank, partyName(a.Worker), score)
			for _, v := range s.Validators {
				fmt.Fprintf(t, "\t%s", memberScore(a, v.Index))
			}
			fmt.Fprintf(t, "\t%s\t%s\n", formatFee(a.Paid), answerText(a))
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintln(t, "VALIDATOR\tJUDGED\tIN BAND\tPAID\tBURNED")
	for _, v := range s.Validators {
		note := ""
		switch {
		case !v.Sealed:
			note = "\tnot sealed"
		case !v.Revealed:
			note = "\tdid not reveal"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s%s\n", v.Name, v.Judged, v.InBand, formatFee(v.Paid), formatFee(v.Burned), note)
	}
	t.Flush()
}

// sums says where the fee went.
func sums(s *node.Settlement) string {
	return fmt.Sprintf("fee %s = paid %s + refund %s + burned %s", formatFee(s.Fee), formatFee(s.Fee-s.Refund-s.Burned), formatFee(s.Refund), formatFee(s.Burned))
}

// answerText is the beginning of an answer, or its hash if the text is not held.
func answerText(a node.SettledAnswer) string {
	if a.Text == "" {
		return "hash " + a.Hash.Short()
	}
	return excerpt(a.Text, 48)
}

func ms(us int64) string {
	if us == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", float64(us)/1000)
}

func memberScore(a node.SettledAnswer, validator int) string {
	for _, s := range a.Scores {
		if s.Validator == validator {
			if a.Rank > 0 && !s.InBand {
				return formatScore(s.Score) + "!"
			}
			return formatScore(s.Score)
		}
	}
	return "-"
}

func partyName(p node.Party) string {
	if p.Name != "" {
		return p.Name
	}
	return p.Account.Short()
}

// printable takes control and format characters out of a stranger's text, which could drive the terminal
// or turn the direction of what stands around it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// excerpt is the beginning of a text on one line.
func excerpt(text string, most int) string {
	r := []rune(strings.Join(strings.Fields(printable(text)), " "))
	if len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return string(r)
}
