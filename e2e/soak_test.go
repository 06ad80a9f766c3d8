//go:build unix

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/poqmesh/poq/node/control"
)

// A soak runs a network of processes for a long time, with tasks all the time and peers that come and go, and fails
// if what a peer takes grows without end. The rule: over the second half of the run a straight line is fitted to what
// was sampled of each peer that stayed. It may rise by no more than a tenth of the mean, or by the slack below. What
// a peer must keep of each settled task is taken off its disk before.
var soaked = []struct {
	name  string
	unit  float64
	slack float64 // what comes and goes: three connections, garbage, a memtable of Badger
	of    func(sample) float64
}{
	{"goroutines", 1, 40, func(s sample) float64 { return s.goroutines }},
	{"files open", 1, 12, func(s sample) float64 { return s.files }},
	{"heap MB", 1e6, 16e6, func(s sample) float64 { return s.heap }},
	{"resident MB", 1e6, 48e6, func(s sample) float64 { return s.resident }},
	{"disk MB", 1e6, 40e6, func(s sample) float64 { return s.disk - keptPerTask*s.tasks }},
}

// keptPerTask is what a peer keeps of a settled task, in bytes: the receipt of 4 validators (3.8 kB), the lock, the
// texts, and their keys in two logs of Badger.
const keptPerTask = 7 << 10

// sample is what a peer takes at a moment.
type sample struct {
	at                                             time.Duration // since the run began
	tasks, goroutines, files, heap, resident, disk float64
}

// growth is by how much the line fitted to the second half of what was sampled rises, and the mean there.
func growth(samples []sample, of func(sample) float64) (rise, mean float64) {
	late := samples[len(samples)/2:]
	var x, y []float64
	for _, s := range late {
		x, y = append(x, s.at.Seconds()), append(y, of(s))
	}
	mean = average(y)
	mx, xx, xy := average(x), 0.0, 0.0
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - mean)
	}
	if xx == 0 {
		return 0, mean
	}
	return xy / xx * (x[len(x)-1] - x[0]), mean
}

func average(list []float64) (sum float64) {
	for _, v := range list {
		sum += v
	}
	return sum / float64(len(list))
}

func TestGrowthOfASoakIsThatOfItsSecondHalf(t *testing.T) {
	series := func(f func(i int) float64) (list []sample) {
		for i := range 100 {
			list = append(list, sample{at: time.Duration(i) * time.Second, heap: f(i)})
		}
		return list
	}
	noise := rand.New(rand.NewPCG(1, 2))
	for name, c := range map[string]struct {
		f    func(int) float64
		rise float64
	}{
		"flat":                {func(int) float64 { return 100 }, 0},
		"warms up":            {func(i int) float64 { return 100 - 50*math.Exp(-float64(i)/8) }, 0.2},
		"goes up and down":    {func(i int) float64 { return 100 + 20*math.Sin(float64(i)) + noise.Float64() }, 0},
		"rises":               {func(i int) float64 { return 100 + 2*float64(i) }, 98},
		"rises under the ups": {func(i int) float64 { return 100 + 2*float64(i) + 20*math.Sin(float64(i)) }, 98},
		"rises at last":       {func(i int) float64 { return 100 + math.Max(0, float64(i-50)) }, 49},
	} {
		if rise, _ := growth(series(c.f), func(s sample) float64 { return s.heap }); math.Abs(rise-c.rise) > 4+0.05*c.rise {
			t.Errorf("%s: rises by %.1f, want %.1f", name, rise, c.rise)
		}
	}
}

// soakTime is POQ_SOAK, or what a test run has time for.
func soakTime(t *testing.T) time.Duration {
	v := os.Getenv("POQ_SOAK")
	if v == "" {
		return 45 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("POQ_SOAK: %v", err)
	}
	return d
}

// soaking is a peer that stays.
type soaking struct {
	name    string
	n       *network
	client  *control.Client
	samples []sample
}

func TestPeersTakeNoMoreAfterALongTime(t *testing.T) {
	const validators = 4
	m := newMachines(t, validators)
	t.Setenv("XDG_RUNTIME_DIR", m.user.runtimeDir)
	var staying []*soaking
	stay := func(name string, more ...string) *network {
		n := m.up(name, more...)
		c, err := control.Dial(t.Context(), n.card.Dir)
		if err != nil {
			t.Fatal(err)
		}
		staying = append(staying, &soaking{name: name, n: n, client: c})
		return n
	}
	first := stay("validator-1", "--roles", "validator")
	invitation := first.token()
	stay("validator-2", "--roles", "validator", "--join", invitation)
	stay("validator-3", "--roles", "validator", "--join", invitation)
	coming := m.up("validator-4", "--roles", "validator", "--join", invitation)
	stay("worker-1", "--roles", "worker", "--engine", "extract", "--join", invitation)
	stay("worker-2", "--roles", "worker", "--engine", "extract", "--join", invitation)
	payer := stay("payer", "--join", invitation)
	payer.askQuick(0) // all have found each other

	span := soakTime(t)
	begin := time.Now()
	ctx, cancel := context.WithDeadline(t.Context(), begin.Add(span))
	defer cancel()
	var all sync.WaitGroup
	l := &load{client: staying[len(staying)-1].client}
	all.Go(func() { l.ask(ctx) })
	c := &churn{m: m, token: invitation, validator: coming}
	all.Go(func() { c.run(ctx) })
	tick := time.NewTicker(min(5*time.Second, span/30))
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
			for _, s := range staying {
				if err := s.sample(t.Context(), time.Since(begin)); err != nil {
					t.Fatal(err)
				}
			}
		case <-ctx.Done():
			over = true
		}
	}
	all.Wait()

	t.Logf("%v: %d tasks settled, %d not; %d peers came and went, %d of them killed; validator-4 was down %d times",
		span, l.settled, l.failed, c.came, c.killed, c.down)
	t.Log("\n" + soakTable(staying) + "\n" + verdicts(t, staying))
	if l.settled == 0 || c.came == 0 {
		t.Error("nothing was settled, or nobody came")
	}
	if l.failed > l.settled/20 {
		t.Errorf("%d of %d tasks were not settled: %v", l.failed, l.failed+l.settled, l.last)
	}
	for _, s := range staying {
		s.n.waitSettled(l.settled + l.failed + 1)
	}
}

// load asks one question after another, one a second at most.
type load struct {
	client          *control.Client
	settled, failed int
	last            error // of a task that failed
}

func (l *load) ask(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// Not cut short at the end: what was ordered is settled.
		_, err := l.client.Ask(context.WithoutCancel(ctx), control.AskRequest{
			Prompt: question(i), Fee: 10_000, MaxAnswers: 2, AnswerTimeoutMS: 2000, ScoreTimeoutMS: 4000,
		}, nil)
		if err != nil {
			l.failed++
			l.last = err
		} else {
			l.settled++
		}
	}
}

// churn has peers come and go: workers that nobody knew, and now and then a validator that starts again.
type churn struct {
	m                  *machines
	token              string
	validator          *network
	came, killed, down int
}

func (c *churn) run(ctx context.Context) {
	t := c.m.user.t
	random := rand.New(rand.NewPCG(4, 5))
	stay := func(most time.Duration) {
		select {
		case <-time.After(most/2 + time.Duration(random.Int64N(int64(most/2)))):
		case <-ctx.Done():
		}
	}
	end := func(n *network) {
		how := os.Interrupt
		if random.IntN(2) == 0 {
			how = syscall.SIGKILL
			c.killed++
		}
		if err := n.signal(how); err != nil && how == os.Interrupt {
			t.Errorf("a peer that was to end ended with %v\n%s", err, n.stderr)
		}
	}
	for i := 1; ctx.Err() == nil; i++ {
		name := fmt.Sprint("guest-", i)
		n, err := c.m.user.launch(c.m.args(name, "--roles", "worker", "--engine", "extract", "--join", c.token)...)
		if err != nil {
			t.Error(err)
			return
		}
		c.came++
		stay(8 * time.Second)
		end(n)
		if err := os.RemoveAll(c.m.path(name)); err != nil {
			t.Error(err)
		}
		if i%4 == 0 {
			end(c.validator)
			c.down++
			stay(2 * time.Second)
			if c.validator, err = c.m.user.launch(c.m.args("validator-4", "--roles", "validator", "--join", c.token)...); err != nil {
				t.Error(err)
				return
			}
		}
		stay(2 * time.Second)
	}
}

// sample adds what the peer takes now.
func (s *soaking) sample(ctx context.Context, at time.Duration) error {
	text, err := s.client.Metrics(ctx, "")
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	accounts, err := s.client.Accounts(ctx, "")
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	v := sample{at: at, tasks: float64(accounts.Tasks)}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		to, ok := map[string]*float64{
			"go_goroutines": &v.goroutines, "process_open_fds": &v.files, "process_resident_memory_bytes": &v.resident,
			"go_memstats_next_gc_bytes": &v.heap, // twice what the last collection left, and so steadier than what is in use
		}[name]
		if !ok {
			continue
		}
		if *to, err = strconv.ParseFloat(value, 64); err != nil {
			return fmt.Errorf("%s: metric %s: %w", s.name, name, err)
		}
	}
	v.disk, err = allocated(s.n.card.Dir)
	s.samples = append(s.samples, v)
	return err
}

// allocated is how many bytes a directory takes on disk: Badger's files have holes.
func allocated(dir string) (sum float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !e.IsDir() {
			sum += float64(st.Blocks) * 512
		}
		return nil
	})
	return sum, err
}

// ignoreGone is for files that were removed while their directory was read.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// soakTable shows a dozen moments, summed over the peers that stayed.
func soakTable(staying []*soaking) string {
	var out strings.Builder
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "AT\tTASKS\t")
	for _, m := range soaked {
		fmt.Fprintf(t, "%s\t", strings.ToUpper(m.name))
	}
	fmt.Fprintf(t, "\n")
	n := len(staying[0].samples)
	const rows = 12
	for row := range min(rows, n) {
		i := n - 1 - (min(rows, n)-1-row)*n/min(rows, n)
		fmt.Fprintf(t, "%v\t%.0f\t", staying[0].samples[i].at.Round(time.Second), staying[0].samples[i].tasks)
		for _, m := range soaked {
			sum := 0.0
			for _, s := range staying {
				sum += m.of(s.samples[i])
			}
			fmt.Fprintf(t, "%.1f\t", sum/m.unit)
		}
		fmt.Fprintf(t, "\n")
	}
	_ = t.Flush()
	return fmt.Sprintf("sums over %d peers; disk without %d B for each settled task\n%s", len(staying), keptPerTask, out.String())
}

// verdicts shows what each peer takes in the second half of the run, and fails the test for what grows.
func verdicts(t *testing.T, staying []*soaking) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "PEER\tWHAT\tMEAN\tGROWTH\tALLOWED\t")
	for _, s := range staying {
		for _, m := range soaked {
			rise, mean := growth(s.samples, m.of)
			allowed := math.Max(m.slack, mean/10)
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%+.1f\t%.1f\t\n", s.name, m.name, mean/m.unit, rise/m.unit, allowed/m.unit)
			if rise > allowed {
				t.Errorf("%s: %s grew by %.1f over the second half of the run, from about %.1f", s.name, m.name, rise/m.unit, (mean-rise/2)/m.unit)
			}
		}
	}
	_ = w.Flush()
	return out.String()
}
