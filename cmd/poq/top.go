package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

func newTop(g *globals) *cobra.Command {
	var f seeFlags
	var interval time.Duration
	c := &cobra.Command{
		Use: "top", Short: "Watch what runs: tasks per second, peers, gossip, CPU", Args: args(cobra.NoArgs),
		Long: `Shows what runs and how it changes, until you press q. It needs a terminal; with --json it
prints what poq status --json does, once.`,
	}
	f.add(c, "all")
	c.Flags().DurationVar(&interval, "interval", time.Second, "time between two looks")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if interval < 100*time.Millisecond {
			return usagef("--interval %v: want 100ms or more", interval)
		}
		client, err := dial(c, f.dir)
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), statusList(f.views(c, client, control.Look{})))
		}
		in, out := int(os.Stdin.Fd()), int(os.Stdout.Fd())
		if !term.IsTerminal(in) || !term.IsTerminal(out) {
			return fmt.Errorf("poq top needs a terminal to draw on: poq status shows the same once")
		}
		return watch(c, client, &f, interval, in, out)
	}
	return c
}

// Codes of the terminal.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another screen, no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	topLeft     = "\x1b[H"
	restOfLine  = "\x1b[K"
	restOfAll   = "\x1b[J"
	bold        = "\x1b[1m"
	red         = "\x1b[31m"
	plain       = "\x1b[0m"
	ctrlC       = 3
)

// watch draws until the user quits or the network ends.
func watch(c *cobra.Command, client *control.Client, f *seeFlags, interval time.Duration, in, out int) (err error) {
	old, err := term.MakeRaw(in)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	w := c.OutOrStdout()
	fmt.Fprint(w, enterScreen)
	defer func() {
		fmt.Fprint(w, leaveScreen)
		if e := term.Restore(in, old); err == nil && e != nil {
			err = fmt.Errorf("terminal: %w", e)
		}
	}()
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	go func() { // ends with the process: a read of a terminal can't be interrupted
		for b := make([]byte, 1); ; {
			if n, err := os.Stdin.Read(b); err != nil || n == 1 && (b[0] == 'q' || b[0] == 'Q' || b[0] == ctrlC) {
				cancel()
				return
			}
		}
	}()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var t top
	for {
		views := f.views(c, client, control.Look{})
		if ctx.Err() != nil {
			return nil
		}
		if !slices.ContainsFunc(views, func(v view) bool { return v.err == nil }) {
			return fmt.Errorf("what ran has ended: %w", views[0].err)
		}
		t.sample(views, time.Now())
		width, height, err := term.GetSize(out)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		draw(w, t.lines(client.Status, time.Now()), width, height, os.Getenv("NO_COLOR") == "")
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// line is a line of the screen.
type line struct{ style, text string }

// draw replaces what is on the screen, without a moment in which it is empty.
func draw(w io.Writer, lines []line, width, height int, colour bool) {
	var b strings.Builder
	b.WriteString(topLeft)
	for i, l := range lines[:min(len(lines), max(0, height))] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		text := cut(l.text, width)
		if colour && l.style != "" {
			text = l.style + text + plain
		}
		b.WriteString(text + restOfLine)
	}
	b.WriteString(restOfAll)
	_, _ = io.WriteString(w, b.String()) // a terminal that is gone ends the program
}

// cut shortens a line to a width in characters.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width)])
}

// curveLength is how many looks the curve of tasks shows.
const curveLength = 60

// top keeps what it saw at the last looks.
type top struct {
	views   []view
	at      time.Time
	settled int
	cpu     map[int]float64 // seconds, by process
	in, out map[string]uint64

	rates    []float64 // tasks per second, the oldest first
	load     float64   // processors in use
	inRates  map[string]float64
	outRates map[string]float64
}

// sample takes what the peers said at a moment.
func (t *top) sample(views []view, now time.Time) {
	first := t.at.IsZero()
	since := max(now.Sub(t.at).Seconds(), 0.001)
	settled, cpu := 0, map[int]float64{}
	in, out := map[string]uint64{}, map[string]uint64{}
	t.inRates, t.outRates, t.load = map[string]float64{}, map[string]float64{}, 0
	rate := func(now, before uint64) float64 { return float64(now-min(now, before)) / since }
	for _, v := range views {
		if v.err != nil {
			continue
		}
		settled = max(settled, v.Ledger.Tasks)
		cpu[v.Process.PID] = v.Process.CPUSeconds
		in[v.Name], out[v.Name] = v.Bandwidth.In, v.Bandwidth.Out
		if before, ok := t.in[v.Name]; ok {
			t.inRates[v.Name], t.outRates[v.Name] = rate(v.Bandwidth.In, before), rate(v.Bandwidth.Out, t.out[v.Name])
		}
	}
	for pid, seconds := range cpu {
		if before, ok := t.cpu[pid]; ok {
			t.load += max(0, seconds-before) / since
		}
	}
	if !first {
		t.rates = append(t.rates, float64(max(0, settled-t.settled))/since)
		t.rates = t.rates[max(0, len(t.rates)-curveLength):]
	}
	t.views, t.at, t.settled, t.cpu, t.in, t.out = views, now, max(settled, t.settled), cpu, in, out
}

// lines describes what was seen last.
func (t *top) lines(s control.Status, now time.Time) (list []line) {
	add := func(style, format string, a ...any) {
		list = append(list, line{style, strings.TrimRight(fmt.Sprintf(format, a...), " \t")})
	}
	var first *view
	open, lost, memory, goroutines, begun := 0, uint64(0), map[int]uint64{}, map[int]int{}, now
	for i := range t.views {
		v := &t.views[i]
		if v.err != nil {
			continue
		}
		if first == nil || v.Ledger.Tasks > first.Ledger.Tasks {
			first = v
		}
		open, lost = max(open, v.Ledger.Open), lost+v.Gossip.Lost()
		memory[v.Process.PID], goroutines[v.Process.PID] = v.Process.Memory, v.Process.Goroutines
		if v.Started.Before(begun) {
			begun = v.Started
		}
	}
	bytes, routines := uint64(0), 0
	for pid, m := range memory {
		bytes, routines = bytes+m, routines+goroutines[pid]
	}
	add(bold, "poq top   network %s   up %s   %s   q quits", s.Network, formatSpan(now.Sub(begun)), now.Format(time.TimeOnly))
	add("", "")
	latest := 0.0
	if n := len(t.rates); n > 0 {
		latest = t.rates[n-1]
	}
	add("", "tasks     %d settled, %d open, %.1f/s   %s", t.settled, open, latest, curve(t.rates))
	add("", "machine   %.0f%% CPU, %s of memory, %d goroutines", 100*t.load, formatBytes(bytes), routines)
	if lost > 0 {
		add(red, "lost      %d gossip messages", lost)
	}
	add("", "")
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PEER\tREADY\tPEERS\tMESH\tSETTLED\tOPEN\tDIGEST\tLOST\tIN/s\tOUT/s\tWORK")
	for _, v := range t.views {
		t.row(w, v)
	}
	w.Flush()
	for i, text := range strings.Split(strings.TrimRight(table.String(), "\n"), "\n") {
		style := ""
		switch {
		case i == 0:
			style = bold
		case t.views[i-1].err != nil || !t.views[i-1].Ready:
			style = red
		}
		add(style, "%s", text)
	}
	if first != nil && len(first.Recent) > 0 {
		table.Reset()
		printTasks(&table, first.Recent)
		add("", "")
		for i, text := range strings.Split(strings.TrimRight(table.String(), "\n"), "\n") {
			add([]string{bold, ""}[min(i, 1)], "%s", text)
		}
	}
	for _, v := range t.views {
		problems := v.Problems
		if v.err != nil {
			problems = []node.Problem{{What: v.err.Error()}}
		}
		for _, p := range problems {
			add(red, "! %s: %s", v.name, p.What)
		}
	}
	return list
}

func (t *top) row(w io.Writer, v view) {
	if v.err != nil {
		fmt.Fprintf(w, "%s\tdown\n", v.name)
		return
	}
	ready := "yes"
	if !v.Ready {
		ready = "NO"
	}
	work := "-"
	switch {
	case v.Worker != nil:
		work = fmt.Sprintf("%d answered, %d in work", v.Worker.Answered, v.Worker.Busy)
	case v.Validator != nil:
		work = fmt.Sprintf("%d scored", v.Validator.Scored)
	}
	fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%d\t%s\t%s\t%s\n", v.Name, ready, here(v.Peers), leastMesh(v.Topics), v.Ledger.Tasks, v.Ledger.Open,
		v.Ledger.Digest.Short(), v.Gossip.Lost(), formatBytes(uint64(t.inRates[v.Name])), formatBytes(uint64(t.outRates[v.Name])), work)
}

// curve draws figures as bars, the highest of them full.
func curve(values []float64) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	var b strings.Builder
	for _, v := range values {
		i := 0
		if most > 0 {
			i = int(v / most * float64(len(bars)-1))
		}
		b.WriteRune(bars[i])
	}
	return b.String()
}
