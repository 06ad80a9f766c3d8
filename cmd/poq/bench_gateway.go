package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/gateway"
	"github.com/poqmesh/poq/node/scale"
)

// gatewayBench is what bench gateway measured: runs, or streams. Times are µs.
type gatewayBench struct {
	Cores      int           `json:"cores"`
	Validators int           `json:"validators"`
	Workers    int           `json:"workers"`
	Runs       []gatewayRun  `json:"runs,omitempty"`
	Streams    *gatewayUsage `json:"streams,omitempty"`

	tasks   int
	clients []int
	length  time.Duration // of the streams
	asked   atomic.Int64  // prompts of which no two are alike
}

// gatewayRun is a number of tasks that so many clients asked for, each one after another.
type gatewayRun struct {
	Judge     string        `json:"judge"` // cached, or real
	Clients   int           `json:"clients"`
	Tasks     int           `json:"tasks"`
	PerSecond float64       `json:"tasks_per_second"`
	CPU       int64         `json:"cpu_us_per_task"` // of all peers and clients
	Spans     []benchedSpan `json:"spans"`
}

// gatewayUsage is what streaming clients took.
type gatewayUsage struct {
	Clients int             `json:"clients"`
	Seconds float64         `json:"seconds"`
	Answers int             `json:"answers"`
	Errors  int             `json:"errors"`
	Span    benchedSpan     `json:"answer"`
	Samples []gatewaySample `json:"samples"`
}

// gatewaySample is what the process holds at one moment.
type gatewaySample struct {
	At         string       `json:"at"`
	Answers    int64        `json:"answers"` // until then
	Heap       uint64       `json:"heap"`    // bytes, after a garbage collection
	Goroutines int          `json:"goroutines"`
	Load       gateway.Load `json:"load"`
}

func benchGateway(g *globals) *cobra.Command {
	b := &gatewayBench{Cores: runtime.NumCPU()}
	var streams int
	c := &cobra.Command{
		Use: "gateway", Short: "Time whole tasks through the API for clients of OpenAI, or hold many streams open",
		Long: `Starts a network in this process, with real hosts, gossip and Badger, instant answers and the
real judge, serves the API on loopback and asks it over HTTP. First the clients repeat the same
prompts, whose scores the judge remembers (cached), then each asks for something new (real).

With --streams so many clients stream answers for the time of --for, each one after another, with
scores that the judge remembers. It says what the process holds meanwhile and afterwards, and fails
if an answer did not come, or if anything is left of the clients.`,
		Example: `  poq bench gateway
  poq bench gateway --clients 1,64 --tasks 500 --json
  poq bench gateway --streams 200 --for 1m`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().IntVar(&b.Validators, "validators", 4, "size of the committee")
	c.Flags().IntVar(&b.Workers, "workers", 3, "number of workers")
	c.Flags().IntVar(&b.tasks, "tasks", 200, "tasks to settle with each number of clients")
	c.Flags().IntSliceVar(&b.clients, "clients", []int{1, 4, 16, 64}, "numbers of clients that ask at a time")
	c.Flags().IntVar(&streams, "streams", 0, "clients that stream instead")
	c.Flags().DurationVar(&b.length, "for", time.Minute, "how long they stream")
	c.MarkFlagsMutuallyExclusive("streams", "clients")
	c.MarkFlagsMutuallyExclusive("streams", "tasks")
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case b.Validators < 1 || b.Validators > ledger.MaxValidators || b.Workers < 1 || b.Workers > ledger.MaxAnswers:
			return usagef("want 1 to %d validators and 1 to %d workers", ledger.MaxValidators, ledger.MaxAnswers)
		case b.tasks < 1 || b.length <= 0 || streams < 0 || slices.ContainsFunc(b.clients, func(n int) bool { return n < 1 }):
			return usagef("want positive numbers")
		case c.Flags().Changed("for") && streams == 0:
			return usagef("--for is the time of --streams")
		}
		if streams > 0 {
			b.Streams = &gatewayUsage{Clients: streams}
		}
		return measure(c, g, b)
	}
	return c
}

// Names of the spans, in the order in which they are shown: as the client and the payer see them.
const (
	spanRequest  = "request -> order asked for"
	spanKept     = "order signed and kept"
	spanOut      = "order kept -> out"
	spanOrder    = "order out -> lock"
	spanWorkers  = "lock -> last answer"
	spanJudges   = "last answer -> last score commitment"
	spanSealed   = "last score commitment -> sealed"
	spanRevealed = "sealed -> last reveal"
	spanDecided  = "last reveal -> certificate"
	spanResponse = "certificate -> response read"
	spanGateway  = "request -> order out, certificate -> response"
	spanWhole    = "request -> response read"
)

// repeated is how many prompts the clients ask for that take remembered scores.
const repeated = 32

func (b *gatewayBench) run(ctx context.Context, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "poq-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	judge, closeJudge, err := loadJudge(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeJudge()) }()
	var engines []llm.Engine
	for i := range b.Workers {
		engines = append(engines, instant(fmt.Sprint(i+1)))
	}
	d, err := devnet.Start(ctx, devnet.Config{Dir: dir, Validators: b.Validators, Engines: engines, Judge: judge, Logger: newLogger(progress, slog.LevelWarn)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	orders := &timedOrders{Asker: d.Payer().Node}
	server, err := gateway.Serve("127.0.0.1:0", orders)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	c := &apiClient{url: server.URL() + "/completions", workers: b.Workers, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1 << 16}}}
	fmt.Fprintln(progress, "judging what will be asked again ...")
	for i := range repeated {
		if _, err := c.ask(ctx, samePrompt(i)); err != nil {
			return err
		}
	}
	if b.Streams != nil {
		return b.stream(ctx, progress, c, server)
	}
	for _, judge := range []string{"cached", "real"} {
		for _, n := range b.clients {
			fmt.Fprintf(progress, "%s judge, %d clients: settling %d tasks ...\n", judge, n, b.tasks)
			r, err := b.ask(ctx, c, orders, judge, n)
			if err != nil {
				return err
			}
			b.Runs = append(b.Runs, r)
		}
	}
	return d.CheckLedgers(ctx)
}

func samePrompt(i int) string {
	return fmt.Sprintf("What do the tides of harbour %d have to do with the moon, and who found out first?", i%repeated)
}

func newPrompt(i int64) string {
	return fmt.Sprintf("What do the winds of island %d have to do with the sea, and who found out first?", i)
}

// ask has n clients ask for b.tasks tasks.
func (b *gatewayBench) ask(ctx context.Context, c *apiClient, orders *timedOrders, judge string, n int) (gatewayRun, error) {
	var mu sync.Mutex
	spans := map[string][]time.Duration{}
	r := gatewayRun{Judge: judge, Clients: n, Tasks: b.tasks}
	begin, used := time.Now(), scale.CPU()
	var g errgroup.Group
	g.SetLimit(n)
	for i := range b.tasks {
		prompt := samePrompt(i)
		if judge == "real" {
			prompt = newPrompt(b.asked.Add(1))
		}
		g.Go(func() error {
			sent := time.Now()
			a, err := c.ask(ctx, prompt)
			if err != nil {
				return err
			}
			done := time.Now()
			mu.Lock()
			defer mu.Unlock()
			orders.split(sent, done, a, spans)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return r, err
	}
	r.PerSecond = float64(b.tasks) / time.Since(begin).Seconds()
	r.CPU = (scale.CPU() - used).Microseconds() / int64(b.tasks)
	for _, name := range []string{spanRequest, spanKept, spanOut, spanOrder, spanWorkers, spanJudges, spanSealed, spanRevealed, spanDecided, spanResponse, spanGateway, spanWhole} {
		r.Spans = append(r.Spans, newSpan(name, spans[name]))
	}
	return r, nil
}

// timedOrders notes when the gateway asked for each order, and when it was given.
type timedOrders struct {
	gateway.Asker
	times sync.Map // orderTimes by ledger.TaskID
}

type orderTimes struct{ asked, given time.Time }

// Order implements gateway.Asker.
func (t *timedOrders) Order(ctx context.Context, prompt string, o node.AskOptions) (*node.Task, error) {
	asked := time.Now()
	task, err := t.Asker.Order(ctx, prompt, o)
	if err == nil {
		t.times.Store(task.ID, orderTimes{asked, time.Now()})
	}
	return task, err
}

// split adds the spans of a task to those of others.
func (t *timedOrders) split(sent, done time.Time, a *apiAnswer, spans map[string][]time.Duration) {
	v, ok := t.times.LoadAndDelete(a.PoQ.Task)
	if !ok {
		return
	}
	order, l := v.(orderTimes), a.PoQ.Timeline
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	for name, d := range map[string]time.Duration{
		spanRequest:  order.asked.Sub(sent),
		spanKept:     order.given.Sub(order.asked),
		spanOut:      us(l.Ordered),
		spanOrder:    us(l.Locked - l.Ordered),
		spanWorkers:  us(l.Answered - l.Locked),
		spanJudges:   us(l.Scored - l.Answered),
		spanSealed:   us(l.Sealed - l.Scored),
		spanRevealed: us(l.Revealed - l.Sealed),
		spanDecided:  us(l.Settled - l.Revealed),
		spanResponse: done.Sub(order.given) - us(l.Settled),
		spanGateway:  done.Sub(sent) - us(l.Settled-l.Ordered),
		spanWhole:    done.Sub(sent),
	} {
		spans[name] = append(spans[name], max(0, d))
	}
}

// apiClient is a client of the API.
type apiClient struct {
	url     string
	workers int
	http    *http.Client
}

// apiAnswer is what is read of an answer.
type apiAnswer struct {
	PoQ struct {
		Task     ledger.TaskID
		Outcome  ledger.OutcomeKind
		Timeline node.Timeline
	}
}

func (c *apiClient) post(ctx context.Context, prompt string, stream bool) (*http.Response, error) {
	body, err := json.Marshal(map[string]any{
		"model": gateway.Model, "prompt": prompt, "stream": stream, "poq": map[string]any{"fee": 1000, "max_answers": c.workers},
	})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(r)
	if err == nil && resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return nil, errors.Join(fmt.Errorf("the API answered %s: %s", resp.Status, text), resp.Body.Close())
	}
	return resp, err
}

func (c *apiClient) ask(ctx context.Context, prompt string) (*apiAnswer, error) {
	r, err := c.post(ctx, prompt, false)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body) // to its end, so that the connection is used again
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	a := new(apiAnswer)
	if err := json.Unmarshal(data, a); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return a, nil
}

// stream reads an answer as a stream, to its end.
func (c *apiClient) stream(ctx context.Context, prompt string) error {
	r, err := c.post(ctx, prompt, true)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, settled, done := 0, false, false
	lines := bufio.NewScanner(r.Body)
	for lines.Buffer(nil, 1<<20); lines.Scan(); {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		switch {
		case !ok:
		case string(data) == "[DONE]":
			done = true
		default:
			var e struct {
				apiAnswer
				Choices []struct{ Text string }
			}
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("reading the stream: %w", err)
			}
			for _, choice := range e.Choices {
				text += len(choice.Text)
			}
			settled = settled || e.PoQ.Outcome == ledger.Paid
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the stream: %w", err)
	}
	if text == 0 || !settled || !done {
		return fmt.Errorf("the stream has %d bytes of text, settled: %v, ended: %v", text, settled, done)
	}
	return nil
}

// stream has clients stream answers, and looks at what that takes.
func (b *gatewayBench) stream(ctx context.Context, progress io.Writer, c *apiClient, server *gateway.Server) error {
	u := b.Streams
	var answers atomic.Int64
	sample := func(at string) gatewaySample {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s := gatewaySample{at, answers.Load(), m.HeapAlloc, runtime.NumGoroutine(), server.Load()}
		u.Samples = append(u.Samples, s)
		fmt.Fprintf(progress, "%s: %d answers, %d MiB, %d goroutines\n", s.At, s.Answers, s.Heap>>20, s.Goroutines)
		return s
	}
	c.http.CloseIdleConnections()
	before := sample("before")
	begin := time.Now()
	var mu sync.Mutex
	var took []time.Duration
	var first error
	var clients sync.WaitGroup
	for i := range u.Clients {
		clients.Go(func() {
			for n := i; time.Since(begin) < b.length && ctx.Err() == nil; n++ {
				sent := time.Now()
				err := c.stream(ctx, samePrompt(n))
				answers.Add(1)
				mu.Lock()
				if took = append(took, time.Since(sent)); err != nil {
					if u.Errors++; first == nil {
						first = err
					}
				}
				mu.Unlock()
			}
		})
	}
	for _, percent := range []int{25, 50, 100} {
		select {
		case <-time.After(time.Until(begin.Add(b.length * time.Duration(percent) / 100))):
			sample(fmt.Sprintf("%d%%", percent))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	clients.Wait()
	u.Seconds = time.Since(begin).Seconds()
	u.Answers, u.Span = len(took)-u.Errors, newSpan(spanWhole, took)
	c.http.CloseIdleConnections()
	left := func() bool {
		l := server.Load()
		return l.Requests+l.Connections > 0 || runtime.NumGoroutine() > before.Goroutines
	}
	for deadline := time.Now().Add(30 * time.Second); left() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // nobody tells that goroutines have ended
	}
	after := sample("after")
	switch {
	case u.Errors > 0:
		return fmt.Errorf("%d of %d streams failed, the first one: %w", u.Errors, len(took), first)
	case after.Load != gateway.Load{}:
		return fmt.Errorf("the clients have left, and the gateway has %d requests and %d connections", after.Load.Requests, after.Load.Connections)
	}
	return nil
}

func newSpan(name string, d []time.Duration) benchedSpan {
	if len(d) == 0 {
		return benchedSpan{Name: name}
	}
	slices.Sort(d)
	return benchedSpan{name, len(d), d[len(d)/2].Microseconds(), d[min(len(d)-1, len(d)*99/100)].Microseconds()}
}

func (b *gatewayBench) print(w io.Writer) {
	fmt.Fprintf(w, "%d validators, %d workers, a payer with the API; HTTP on loopback; %d cores for all of it and the clients\n", b.Validators, b.Workers, b.Cores)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	if u := b.Streams; u != nil {
		fmt.Fprintf(w, "%d clients that stream, for %.0f s: %d answers, %d errors, %.1f answers/s; an answer takes %s (p50), %s (p99)\n\n", u.Clients, u.Seconds, u.Answers, u.Errors, float64(u.Answers)/u.Seconds, ms(u.Span.P50), ms(u.Span.P99))
		fmt.Fprintln(t, "AT\tANSWERS\tHEAP\tGOROUTINES\tREQUESTS\tCONNECTIONS")
		for _, s := range u.Samples {
			fmt.Fprintf(t, "%s\t%d\t%.1f MiB\t%d\t%d\t%d\n", s.At, s.Answers, float64(s.Heap)/(1<<20), s.Goroutines, s.Load.Requests, s.Load.Connections)
		}
		return
	}
	fmt.Fprintln(w)
	fmt.Fprintln(t, "JUDGE\tCLIENTS\tTASKS\tTASKS/S\tCPU/TASK\tTASK P50\tP99\tGATEWAY P50\tP99")
	for _, r := range b.Runs {
		over, whole := r.Spans[len(r.Spans)-2], r.Spans[len(r.Spans)-1]
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%s\t%s\t%s\t%s\t%s\n", r.Judge, r.Clients, r.Tasks, r.PerSecond, ms(r.CPU), ms(whole.P50), ms(whole.P99), ms(over.P50), ms(over.P99))
	}
	fmt.Fprintln(t)
	fmt.Fprint(t, "SPAN, P50 / P99")
	for _, r := range b.Runs {
		fmt.Fprintf(t, "\t%s, %d", r.Judge, r.Clients)
	}
	fmt.Fprintln(t)
	for i := range b.Runs[0].Spans {
		fmt.Fprint(t, b.Runs[0].Spans[i].Name)
		for _, r := range b.Runs {
			fmt.Fprintf(t, "\t%.1f / %.1f ms", float64(r.Spans[i].P50)/1000, float64(r.Spans[i].P99)/1000)
		}
		fmt.Fprintln(t)
	}
}
