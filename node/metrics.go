package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/votelog"
	"github.com/poqmesh/poq/llm"
)

// meter times and counts what a node does, whether or not anybody registered it. Its methods are safe for concurrent
// use, but for observe.
type meter struct {
	spans     *prometheus.HistogramVec // by span
	settled   *prometheus.CounterVec   // by outcome
	proofs    prometheus.Counter
	messages  *prometheus.CounterVec   // by kind
	votes     *prometheus.CounterVec   // cast, by stage
	rounds    *prometheus.HistogramVec // by stage
	synclog   prometheus.Histogram
	judge     *prometheus.HistogramVec // by result
	scores    prometheus.Histogram
	answers   *prometheus.HistogramVec // by result
	compares  *prometheus.CounterVec   // by result
	receipts  prometheus.Counter
	openTasks atomic.Int64
	signing   atomic.Bool
	settledAt atomic.Int64 // unix nanoseconds, of the last settlement since the start
	agreedAt  atomic.Int64 // when the digest was last that of a peer
	caughtAt  atomic.Int64 // when a peer last had nothing that was missing here

	steps *lru.Cache[ledger.TaskID, *steps]

	registered []prometheus.Collector
	registerer prometheus.Registerer
}

// steps are the moments of an open task.
type steps struct{ ordered, locked, revealed time.Time }

// Buckets in seconds: settling takes milliseconds in a LAN, judging and answering seconds.
var (
	quickBuckets = []float64{.001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 5, 10}
	slowBuckets  = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}
)

func newMeter() *meter {
	histograms := func(name, help string, buckets []float64, label string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{label})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	steps, err := lru.New[ledger.TaskID, *steps](knownTasks)
	if err != nil {
		panic(err) // the size is positive
	}
	m := &meter{
		steps:    steps,
		spans:    histograms("poq_task_span_seconds", "Time between steps of tasks as this peer saw them: order_to_lock, lock_to_seal, reveal_to_settle (the last reveal), order_to_settle.", quickBuckets, "span"),
		settled:  counters("poq_task_settled_total", "Tasks settled since the start, by outcome.", "outcome"),
		proofs:   counter("poq_task_contradictions_total", "Contradictions that this peer noticed: somebody signed two things that exclude each other."),
		messages: counters("poq_engine_messages_total", "Verified messages that the engine was given, by kind.", "kind"),
		votes:    counters("poq_vote_cast_total", "Votes that this validator decided to cast, repeated ones included, by stage.", "stage"),
		rounds:   histograms("poq_vote_decided_round", "Round in which a task was decided, by stage; 0 is the first.", []float64{0, 1, 2, 4, 8}, "stage"),
		synclog:  histogram("poq_votelog_sync_seconds", "Time of one sync of the vote log to disk.", quickBuckets),
		judge:    histograms("poq_judge_score_seconds", "Time to score an answer, by result: ok, failed.", slowBuckets, "result"),
		scores:   histogram("poq_judge_score_points", "Scores given, in basis points.", []float64{1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000}),
		answers:  histograms("poq_worker_answer_seconds", "Time of the answer engine, by result: ok, declined, failed.", slowBuckets, "result"),
		compares: counters("poq_sync_comparisons_total", "Comparisons of the ledger with a peer's, by result: equal, different, failed, lie.", "result"),
		receipts: counter("poq_sync_receipts_total", "Settlements that were fetched from peers."),
	}
	// What has not happened yet is shown as 0, not left out.
	for _, span := range []string{spanLock, spanSeal, spanReveal, spanTask} {
		m.spans.WithLabelValues(span)
	}
	for _, stage := range []ledger.Stage{ledger.StageLock, ledger.StageSeal, ledger.StageSettle} {
		m.votes.WithLabelValues(stage.String())
	}
	for _, stage := range []string{"seal", "settle"} {
		m.rounds.WithLabelValues(stage)
	}
	for _, outcome := range []ledger.OutcomeKind{ledger.Paid, ledger.NoAnswers, ledger.Unscored} {
		m.settled.WithLabelValues(outcome.String())
	}
	for _, result := range []string{resultOK, resultDeclined, resultFailed} {
		m.answers.WithLabelValues(result)
		if result != resultDeclined {
			m.judge.WithLabelValues(result)
		}
	}
	for _, result := range []string{resultEqual, resultDifferent, resultFailed, resultLie} {
		m.compares.WithLabelValues(result)
	}
	return m
}

// Values of labels.
const (
	spanLock   = "order_to_lock"
	spanSeal   = "lock_to_seal"
	spanReveal = "reveal_to_settle"
	spanTask   = "order_to_settle"

	resultOK        = "ok"
	resultDeclined  = "declined"
	resultFailed    = "failed"
	resultEqual     = "equal"
	resultDifferent = "different"
	resultLie       = "lie"
)

// register gives the metrics and those of the node to a registerer.
func (m *meter) register(r prometheus.Registerer, n *Node) error {
	m.registerer = r
	for _, c := range []prometheus.Collector{
		m.spans, m.settled, m.proofs, m.messages, m.votes, m.rounds, m.synclog, m.judge, m.scores, m.answers, m.compares, m.receipts, collector{n},
	} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("metrics: give every node a registry of its own, or labels: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return nil
}

func (m *meter) unregister() {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}

// observe takes a step of a task. It is called from the loop.
func (m *meter) observe(e Event) {
	span := func(name string, from time.Time) {
		if !from.IsZero() {
			m.spans.WithLabelValues(name).Observe(e.Time.Sub(from).Seconds())
		}
	}
	s, ok := m.steps.Get(e.Task)
	if !ok {
		s = &steps{}
	}
	switch e.Step {
	case ledger.Ordered:
		s.ordered = e.Time
		m.steps.Add(e.Task, s)
	case ledger.Locked:
		s.locked = e.Time
		span(spanLock, s.ordered)
		if s.ordered.IsZero() { // the certificate overtook the order
			s.ordered = e.Time
		}
		m.steps.Add(e.Task, s)
	case ledger.Sealed:
		span(spanSeal, s.locked)
	case ledger.Revealed:
		s.revealed = e.Time
	case ledger.Settled:
		span(spanReveal, s.revealed)
		span(spanTask, s.ordered)
		m.steps.Remove(e.Task)
		m.settled.WithLabelValues(e.Receipt.Outcome.Kind.String()).Inc()
		m.rounds.WithLabelValues("seal").Observe(float64(e.Receipt.Seal.Votes.Vote.Round))
		m.rounds.WithLabelValues("settle").Observe(float64(e.Receipt.Settle.Vote.Round))
		m.settledAt.Store(e.Time.UnixNano())
	case ledger.Contradiction:
		m.proofs.Inc()
	}
}

// received counts a message.
func (m *meter) received(v ledger.Message) {
	kind := "other"
	switch v.(type) {
	case *ledger.OrderMessage:
		kind = "order"
	case *ledger.Signed[ledger.AnswerCommit]:
		kind = "answer_commit"
	case *ledger.AnswerMessage:
		kind = "answer"
	case *ledger.Signed[ledger.Decline]:
		kind = "decline"
	case *ledger.Signed[ledger.ScoreCommit]:
		kind = "score_commit"
	case *ledger.Signed[ledger.Reveal]:
		kind = "reveal"
	case *ledger.LockCert:
		kind = "lock_certificate"
	case *ledger.SealCert:
		kind = "seal_certificate"
	case *ledger.Receipt:
		kind = "receipt"
	case *ledger.Bundle:
		kind = "bundle"
	case *ledger.RoundChange:
		kind = "round_change"
	case *ledger.Proposal:
		kind = "proposal"
	case *ledger.Evidence:
		kind = "evidence"
	case *ledger.Query:
		kind = "query"
	case *ledger.Mark:
		kind = "mark"
	}
	m.messages.WithLabelValues(kind).Inc()
}

func (m *meter) cast(l ledger.Leaf) { m.votes.WithLabelValues(l.Stage.String()).Inc() }

// turn is called after each turn of the loop.
func (m *meter) turn(open int, signing bool) {
	m.openTasks.Store(int64(open))
	m.signing.Store(signing)
}

func (m *meter) judged(begin time.Time, s ledger.Score, err error) {
	if err != nil {
		m.judge.WithLabelValues(resultFailed).Observe(time.Since(begin).Seconds())
		return
	}
	m.judge.WithLabelValues(resultOK).Observe(time.Since(begin).Seconds())
	m.scores.Observe(float64(s))
}

func (m *meter) answered(begin time.Time, err error) {
	result := resultOK
	switch {
	case errors.As(err, new(*llm.DeclineError)):
		result = resultDeclined
	case err != nil:
		result = resultFailed
	}
	m.answers.WithLabelValues(result).Observe(time.Since(begin).Seconds())
}

func (m *meter) compared(equal bool) {
	if !equal {
		m.compares.WithLabelValues(resultDifferent).Inc()
		return
	}
	m.compares.WithLabelValues(resultEqual).Inc()
	m.agreedAt.Store(time.Now().UnixNano())
}

// synced is called after each pass over a peer's ledger; again says that there may be more to fetch.
func (m *meter) synced(receipts int, again bool, err error) {
	m.receipts.Add(float64(receipts))
	switch {
	case err == nil && !again:
		m.caughtAt.Store(time.Now().UnixNano())
	case errors.Is(err, errLie):
		m.compares.WithLabelValues(resultLie).Inc()
	case err != nil:
		m.compares.WithLabelValues(resultFailed).Inc()
	}
}

// timed sums up a histogram.
type timed struct {
	count uint64
	mean  time.Duration
}

func read(o prometheus.Observer) (t timed) {
	var v dto.Metric
	if o.(prometheus.Metric).Write(&v) == nil {
		h := v.GetHistogram()
		if t.count = h.GetSampleCount(); t.count > 0 {
			t.mean = time.Duration(h.GetSampleSum() / float64(t.count) * float64(time.Second))
		}
	}
	return t
}

// timedDisk times the syncs of the vote log.
type timedDisk struct {
	votelog.Disk
	meter *meter
}

// Open implements votelog.Disk.
func (d timedDisk) Open(name string) (votelog.File, error) {
	f, err := d.Disk.Open(name)
	if err != nil {
		return nil, err
	}
	return timedFile{f, d.meter}, nil
}

type timedFile struct {
	votelog.File
	meter *meter
}

// Sync implements votelog.File.
func (f timedFile) Sync() error {
	begin := time.Now()
	err := f.File.Sync()
	f.meter.synclog.Observe(time.Since(begin).Seconds())
	return err
}

var (
	descHeight      = desc("poq_ledger_settled_tasks", "Settled tasks in the ledger, its height.")
	descOpen        = desc("poq_ledger_open_tasks", "Tasks whose fee is in escrow.")
	descEscrow      = desc("poq_ledger_escrow_microcredits", "Fees in escrow.")
	descBalance     = desc("poq_ledger_balance_microcredits", "Balance of this peer's account.")
	descStore       = desc("poq_ledger_store_bytes", "Bytes on disk, as Badger counts them about once a minute.", "part")
	descFree        = desc("poq_ledger_disk_free_bytes", "Bytes that are free on the ledger's disk; below 64 MiB the peer stops.")
	descWaiting     = desc("poq_ledger_waiting_writes", "Writes that are not durable yet.")
	descSettledAt   = desc("poq_ledger_last_settlement_timestamp_seconds", "When a task was last settled here since the start; 0 if none was.")
	descAgreedAt    = desc("poq_sync_agreed_timestamp_seconds", "When the ledger was last found equal to that of a peer since the start; 0 if it was not.")
	descEngineTasks = desc("poq_engine_tasks", "Tasks that the engine holds, unpaid orders included.")
	descQueue       = desc("poq_engine_queue_events", "Events that wait for the engine, and messages that wait to be gossiped.", "queue")
	descSigning     = desc("poq_vote_signing", "1 if this peer is a validator that signs, 0 if it does not sign, or not yet.")
	descRefusing    = desc("poq_vote_refusing", "1 if this validator signs nothing any more.")
	descVotelog     = desc("poq_votelog_bytes", "Bytes of the vote log on disk.")
	descWorking     = desc("poq_worker_tasks", "Tasks that the worker has to do with: answering, or waiting to show an answer.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// collector reads a node's state when somebody asks.
type collector struct{ n *Node }

var _ prometheus.Collector = collector{}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descHeight, descOpen, descEscrow, descBalance, descStore, descFree, descWaiting, descSettledAt, descAgreedAt, descEngineTasks, descQueue,
		descSigning, descRefusing, descVotelog, descWorking,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	n := c.n
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(d *prometheus.Desc, v bool) {
		if v {
			gauge(d, 1)
		} else {
			gauge(d, 0)
		}
	}
	seconds := func(nanos int64) float64 { return float64(nanos) / float64(time.Second) }
	t := n.store.Totals()
	gauge(descHeight, float64(t.Tasks))
	gauge(descOpen, float64(t.Open))
	gauge(descEscrow, float64(t.Escrow))
	gauge(descBalance, float64(n.store.Account(n.Account()).Balance))
	gauge(descStore, float64(t.Tables), "tables")
	gauge(descStore, float64(t.ValueLog), "values")
	gauge(descFree, float64(t.Free))
	gauge(descWaiting, float64(t.Waiting))
	gauge(descSettledAt, seconds(n.meter.settledAt.Load()))
	gauge(descAgreedAt, seconds(n.meter.agreedAt.Load()))
	gauge(descEngineTasks, float64(n.meter.openTasks.Load()))
	gauge(descQueue, float64(len(n.loop.events)), "events")
	gauge(descQueue, float64(len(n.loop.publish)), "publish")
	flag(descSigning, n.meter.signing.Load())
	flag(descRefusing, n.Refusal() != nil)
	gauge(descVotelog, float64(dirSize(n.votesDir())))
	working := 0
	if n.worker != nil {
		working = n.worker.busy()
	}
	gauge(descWorking, float64(working))
}

// dirSize returns the bytes of the files below a directory, 0 if it can't be read.
func dirSize(dir string) (bytes int64) {
	_ = fs.WalkDir(os.DirFS(dir), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // a file that is gone meanwhile counts nothing
		}
		if i, err := e.Info(); err == nil {
			bytes += i.Size()
		}
		return nil
	})
	return bytes
}
