package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/quality"
)

// committee signs with the keys of the swarm's validators, none of which runs.
func (s *swarm) committee() *ledgertest.Committee {
	var keys []crypto.PrivateKey
	for _, v := range s.validators {
		keys = append(keys, v.id.Consensus)
	}
	return ledgertest.New(s.genesis, keys, 2)
}

// history makes the receipts of n tasks, and the lock of one that is open.
func (s *swarm) history(n int) (*ledgertest.Committee, []*ledger.Receipt, *ledger.LockCert) {
	c, p := s.committee(), ledgertest.NewPayer(s.payer.id.Account)
	var receipts []*ledger.Receipt
	for range n {
		_, r := c.Next(p)
		receipts = append(receipts, r)
	}
	open, _ := c.Next(p)
	return c, receipts, open
}

// follower makes a peer without a part in the network, whose ledger holds what it is given.
func (s *swarm) follower(name string, receipts []*ledger.Receipt, opts ...Option) *member {
	s.t.Helper()
	m := &member{name: name, dir: filepath.Join(s.t.TempDir(), name), id: testIdentity(s.t, name)}
	m.opts = append([]Option{
		WithDataDir(m.dir), WithIdentity(m.id), WithLogger(slog.New(slog.DiscardHandler)),
	}, opts...)
	s.t.Cleanup(func() { s.stop(m) })
	s.make(m)
	for _, r := range receipts {
		if err := m.node.store.Settle(r); err != nil {
			s.t.Fatal(err)
		}
	}
	return m
}

// syncEach shortens the time between comparisons.
func syncEach(d time.Duration) Option {
	return func(c *config) error { c.syncEvery = d; return nil }
}

// begin starts a follower that is connected to hosts.
func (s *swarm) begin(m *member, hosts ...*p2p.Host) {
	s.t.Helper()
	for _, h := range hosts {
		if err := m.node.Host().Keep(h.Addrs()...); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := m.node.Start(soon(s.t)); err != nil {
		s.t.Fatal(err)
	}
}

// server serves a ledger through a function that may change what it says, and counts what it is asked.
type server struct {
	*p2p.Host
	mu    sync.Mutex
	asked map[askKind]int
	tasks map[ledger.TaskID]int // receipts asked for
	quiet chan struct{}         // holds an element for each request
}

func (s *swarm) server(name string, from *member, change func(ctx context.Context, a ask, truth []byte) []byte) *server {
	s.t.Helper()
	if !from.node.started {
		s.begin(from) // its loop answers some questions
	}
	v := &server{Host: s.bareHost(testIdentity(s.t, name)), asked: map[askKind]int{}, tasks: map[ledger.TaskID]int{}, quiet: make(chan struct{}, 1<<16)}
	err := v.Serve(p2p.ServeConfig{Name: protocolSync, MaxRequest: maxAsk, Handle: func(ctx context.Context, p peer.ID, request []byte) ([]byte, error) {
		a, err := decodeAsk(request)
		if err != nil {
			return nil, err
		}
		v.mu.Lock()
		v.asked[a.kind]++
		if a.kind == askReceipts {
			for _, t := range a.tasks {
				v.tasks[t]++
			}
		}
		v.mu.Unlock()
		v.quiet <- struct{}{}
		truth, err := from.node.serveSync(ctx, p, request)
		if err != nil || change == nil {
			return truth, err
		}
		return change(ctx, a, truth), nil
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (v *server) count(k askKind) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked[k]
}

// lines is a logger's handler that keeps what is logged.
func lines() (Option, <-chan string) {
	c := make(chan string, 1<<10)
	return WithLogger(slog.New(slog.NewTextHandler(lineWriter(c), nil))), c
}

type lineWriter chan<- string

func (w lineWriter) Write(b []byte) (int, error) {
	w <- string(b)
	return len(b), nil
}

// awaitLine returns the first line that holds a text.
func awaitLine(t testing.TB, c <-chan string, text string) string {
	t.Helper()
	var seen []string
	for timeout := soon(t); ; {
		select {
		case line := <-c:
			if strings.Contains(line, text) {
				return line
			}
			seen = append(seen, line)
		case <-timeout.Done():
			t.Fatalf("waited in vain for %q, the log says %v", text, seen)
		}
	}
}

func tasksOf(receipts []*ledger.Receipt) (tasks []ledger.TaskID) {
	for _, r := range receipts {
		tasks = append(tasks, r.Task())
	}
	return tasks
}

func (s *swarm) awaitAll(receipts []*ledger.Receipt, members ...*member) {
	s.t.Helper()
	for _, task := range tasksOf(receipts) {
		s.await(task, members...)
	}
}

func TestPeerThatWasAwayFetchesWhatItMissed(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("one"), says("another"))
	away := s.workers[1]
	s.stop(away)
	var tasks []ledger.TaskID
	for range 3 {
		tasks = append(tasks, s.ask("while it is away", AskOptions{MaxAnswers: 1}).Task)
	}
	s.launch(away)
	for _, task := range tasks {
		s.await(task, away)
	}
	s.check()
}

func TestLongAbsentPeerCatchesUpWhileTasksGoOnSettling(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 4, says("one"), says("another"))
	away := s.validators[3]
	s.stop(away)
	var tasks []ledger.TaskID
	for range 10 {
		tasks = append(tasks, s.ask("while it is away", AskOptions{MaxAnswers: 1}).Task)
	}
	s.launch(away)
	for range 10 {
		tasks = append(tasks, s.ask("while it catches up", AskOptions{MaxAnswers: 1}).Task)
	}
	for _, task := range tasks {
		s.await(task, s.all()...)
	}
	s.check()
}

func TestFreshPeerGetsWholeLedgerFromSeveralPeersAndFetchesNothingTwice(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, receipts, open := s.history(600)
	full := s.follower("full", receipts)
	if err := full.node.store.Lock(open); err != nil {
		t.Fatal(err)
	}
	a, b := s.server("a", full, nil), s.server("b", full, nil)
	fresh := s.follower("fresh", nil)
	s.begin(fresh, a.Host, b.Host)
	s.awaitAll(receipts, fresh)
	s.record.await("the open lock", func(who string, e Event) bool {
		return who == "fresh" && e.Step == ledger.Locked && e.Task == open.Votes.Vote.Task
	})
	if got, want := fresh.node.store.Digest(), full.node.store.Digest(); got != want {
		t.Errorf("digest is %v, want %v", got, want)
	}
	a.mu.Lock()
	b.mu.Lock()
	defer a.mu.Unlock()
	defer b.mu.Unlock()
	for _, task := range tasksOf(receipts) {
		// What does not fit into a response is asked for again, so the second bound is not 1.
		if a.tasks[task]+b.tasks[task] == 0 {
			t.Errorf("the receipt of %s came from nowhere", task.Short())
		}
		if a.tasks[task] > 0 && b.tasks[task] > 0 {
			t.Errorf("both peers were asked for the receipt of %s", task.Short())
		}
	}
	if _, err := fresh.node.store.Verify(); err != nil {
		t.Error(err)
	}
}

func TestPeerWithHoleFetchesTheHoleAlone(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, receipts, _ := s.history(400)
	full := s.follower("full", receipts)
	v := s.server("server", full, nil)
	const from, to = 190, 205
	hole := receipts[from:to]
	holey := s.follower("holey", append(slices.Clone(receipts[:from]), receipts[to:]...))
	s.begin(holey, v.Host)
	s.awaitAll(hole, holey)
	// The pass that finds nothing any more ends with a question for open tasks.
	for v.count(askOpen) < 2 {
		receive(t, v.quiet)
	}
	buckets := map[int]bool{}
	for _, r := range hole {
		buckets[ledger.BucketOf(r.Task())] = true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked[askTasks] != len(buckets) || v.asked[askBuckets] != 1 || v.asked[askReceipts] != 1 || len(v.tasks) != len(hole) {
		t.Errorf("for %d receipts in %d buckets it asked for %v, receipts of %d tasks", len(hole), len(buckets), v.asked, len(v.tasks))
	}
	for _, r := range hole {
		if v.tasks[r.Task()] != 1 {
			t.Errorf("it asked %d times for the receipt of %s", v.tasks[r.Task()], r.Task().Short())
		}
	}
}

func TestMissedReceiptComesWithoutRestart(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, receipts, _ := s.history(3)
	full, behind := s.follower("full", receipts[:2]), s.follower("behind", receipts[:2], syncEach(50*time.Millisecond))
	v := s.server("server", full, nil)
	s.begin(behind, v.Host)
	for v.count(askDigest) == 0 {
		receive(t, v.quiet)
	}
	if err := full.node.store.Settle(receipts[2]); err != nil { // gossip of it was lost
		t.Fatal(err)
	}
	s.await(receipts[2].Task(), behind)
}

func TestOutcomeThatContradictsTheLedgerIsReportedOnceAndNeverTaken(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	s.record.lenient = true
	c, receipts, _ := s.history(5)
	theirs := slices.Clone(receipts)
	theirs[1] = c.Another(receipts[1])
	v := s.server("server", s.follower("other", theirs), nil)
	log, logged := lines()
	ours := s.follower("ours", receipts[:2], log, syncEach(20*time.Millisecond))
	s.begin(ours, v.Host)
	s.awaitAll(receipts[2:], ours)
	awaitLine(t, logged, "more validators are faulty than the network bears")
	s.record.await("a contradiction", func(who string, e Event) bool {
		return who == "ours" && e.Step == ledger.Contradiction && e.Task == receipts[1].Task()
	})
	for before := v.count(askDigest); v.count(askDigest) < before+5; {
		receive(t, v.quiet)
	}
	if outcome, _ := ours.node.store.Outcome(receipts[1].Task()); outcome != receipts[1].Settle.Vote.Value {
		t.Errorf("the outcome became %s", outcome.Short())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := v.tasks[receipts[1].Task()]; n != 1 {
		t.Errorf("the other outcome was fetched %d times", n)
	}
}

// made returns a full page of tasks that nobody ordered, above one of a bucket.
func made(bucket int, after ledger.TaskID) (page []store.BucketTask) {
	n := binary.BigEndian.Uint64(after[8:])
	for i := range uint64(syncPage) {
		t := ledger.TaskID{byte(bucket)}
		binary.BigEndian.PutUint64(t[8:], n+i+1)
		page = append(page, store.BucketTask{Task: t, Outcome: crypto.Sum(t[:])})
	}
	return page
}

func TestPeersThatLieAreFoundOutAndOthersAreAsked(t *testing.T) {
	t.Parallel()
	only := func(kind askKind, change func(a ask, truth []byte) []byte) func(context.Context, ask, []byte) []byte {
		return func(_ context.Context, a ask, truth []byte) []byte {
			if a.kind != kind {
				return truth
			}
			return change(a, truth)
		}
	}
	listed := func(truth []byte) []store.BucketTask {
		tasks, err := decodeBucketTasks(truth)
		if err != nil {
			t.Error(err)
		}
		return tasks
	}
	parts := func(a ask, truth []byte, change func([][]byte) [][]byte) []byte {
		p, err := decodeParts(truth, len(a.tasks))
		if err != nil {
			t.Error(err)
		}
		return encodeParts(change(p))
	}
	digests := func(truth []byte, change func(*ledger.Digest)) []byte {
		d, err := decodeDigests(truth, ledger.Buckets)
		if err != nil {
			t.Error(err)
		}
		for i := range d {
			if d[i].Tasks > 0 {
				change(&d[i])
			}
		}
		return encodeDigests(d...)
	}
	flip := func(data []byte, at int) []byte {
		data = bytes.Clone(data)
		data[at] ^= 1
		return data
	}
	for name, c := range map[string]struct {
		change func(context.Context, ask, []byte) []byte
		reason string
	}{
		"cut digest":         {only(askDigest, func(_ ask, b []byte) []byte { return b[:39] }), "digests: not a canonical encoding"},
		"long digest":        {only(askDigest, func(_ ask, b []byte) []byte { return append(b, 0) }), "over the size limit"},
		"cut list":           {only(askTasks, func(_ ask, b []byte) []byte { return b[:len(b)-1] }), "list of tasks: not a canonical encoding"},
		"tasks withheld":     {only(askTasks, func(ask, []byte) []byte { return encodeBucketTasks(nil) }), "lists 0 tasks, its digest is of"},
		"digest of too much": {only(askBuckets, func(_ ask, b []byte) []byte { return digests(b, func(d *ledger.Digest) { d.Tasks++ }) }), "tasks, its digest is of"},
		"digest of another":  {only(askBuckets, func(_ ask, b []byte) []byte { return digests(b, func(d *ledger.Digest) { d.Sum[0]++ }) }), "lists tasks that do not make its digest"},
		"same task again": {only(askTasks, func(_ ask, b []byte) []byte {
			l := listed(b)
			return encodeBucketTasks(append(l, l...))
		}), "lists"},
		"task of another bucket": {only(askTasks, func(a ask, b []byte) []byte {
			return encodeBucketTasks([]store.BucketTask{{Task: ledger.TaskID{byte(a.bucket + 1), 1}}})
		}), "lists"},
		"another outcome": {only(askTasks, func(_ ask, b []byte) []byte {
			l := listed(b)
			l[0].Outcome[0]++
			return encodeBucketTasks(l)
		}), "lists tasks that do not make its digest"},
		"tasks without end": {only(askTasks, func(a ask, _ []byte) []byte { return encodeBucketTasks(made(a.bucket, a.after)) }), "listed, and not there"},
		"no receipt":        {only(askReceipts, func(a ask, b []byte) []byte { return parts(a, b, func(p [][]byte) [][]byte { p[0] = nil; return p }) }), "listed, and not there"},
		"false receipt": {only(askReceipts, func(a ask, b []byte) []byte {
			return parts(a, b, func(p [][]byte) [][]byte { p[0] = flip(p[0], 200); return p })
		}), "signature does not hold"},
		"cut receipt": {only(askReceipts, func(a ask, b []byte) []byte {
			return parts(a, b, func(p [][]byte) [][]byte { p[1] = p[1][:99]; return p })
		}), "receipt: not a canonical encoding"},
		"receipts exchanged": {only(askReceipts, func(a ask, b []byte) []byte {
			return parts(a, b, func(p [][]byte) [][]byte { p[0], p[1] = p[1], p[0]; return p })
		}), "of another task or outcome than listed"},
		"receipts withheld": {only(askReceipts, func(a ask, b []byte) []byte { return parts(a, b, func(p [][]byte) [][]byte { return p[:1] }) }), "where more have room"},
		"nothing at all":    {only(askReceipts, func(a ask, b []byte) []byte { return encodeParts(nil) }), "where more have room"},
		"more than asked":   {only(askReceipts, func(a ask, b []byte) []byte { return parts(a, b, func(p [][]byte) [][]byte { return append(p, p...) }) }), "parts: not a canonical encoding"},
		"open task again": {only(askOpen, func(_ ask, b []byte) []byte {
			l, _ := decodeTasks(b)
			return appendTasks(nil, append(l, l...))
		}), "the list of open tasks"},
		"false lock": {only(askLocks, func(a ask, b []byte) []byte {
			return parts(a, b, func(p [][]byte) [][]byte { p[0] = flip(p[0], 200); return p })
		}), "signature does not hold"},
		"false answer": {only(askSaid, func(a ask, _ []byte) []byte {
			w := testIdentity(t, "worker").Account
			m := ledger.Signed[ledger.Decline]{Statement: ledger.Decline{Task: a.tasks[0], Worker: w.Public(), Reason: "no"}}
			return encodeParts([][]byte{encodeSaid([]ledger.Message{&m})})
		}), "signature does not hold"},
		"cut answer": {only(askSaid, func(ask, []byte) []byte { return encodeParts([][]byte{encodeParts([][]byte{{2, 1}})}) }), "malformed"},
		"cut lock": {only(askLocks, func(a ask, b []byte) []byte {
			return parts(a, b, func(p [][]byte) [][]byte { p[0] = p[0][:50]; return p })
		}), "lock certificate: not a canonical encoding"},
		"another lock": {only(askOpen, func(_ ask, b []byte) []byte { return appendTasks(nil, []ledger.TaskID{task(9)}) }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSwarm(t, 4)
			_, receipts, open := s.history(20)
			full := s.follower("full", receipts)
			if err := full.node.store.Lock(open); err != nil {
				t.Fatal(err)
			}
			change := c.change
			if name == "another lock" { // one that is open, for a task that is not
				lock := open.Encode()
				list := change
				change = func(ctx context.Context, a ask, truth []byte) []byte {
					if a.kind == askLocks {
						return encodeParts([][]byte{lock})
					}
					return list(ctx, a, truth)
				}
				c.reason = "the peer sent what is of another one"
			}
			liar := s.server("liar", full, change)
			log, logged := lines()
			victim := s.follower("victim", nil, log)
			s.begin(victim, liar.Host)
			if line := awaitLine(t, logged, "not asked for its ledger any more"); !strings.Contains(line, c.reason) || !strings.Contains(line, liar.ID().String()) {
				t.Errorf("dropped for %s, want %q", line, c.reason)
			}
			// A list without end is not followed further than receipts come.
			if n := liar.count(askTasks); n > ledger.Buckets+syncAhead+2 {
				t.Errorf("%d lists were asked for", n)
			}
			honest := s.server("honest", full, nil)
			if err := victim.node.Host().Keep(honest.Addrs()...); err != nil {
				t.Fatal(err)
			}
			s.awaitAll(receipts, victim)
			if got, want := victim.node.store.Digest(), full.node.store.Digest(); got != want {
				t.Errorf("digest is %v, want %v", got, want)
			}
			s.record.await("the open lock", func(who string, e Event) bool {
				return who == "victim" && e.Step == ledger.Locked && e.Task == open.Votes.Vote.Task
			})
			if got := victim.node.store.Summary(); got.Open != 1 {
				t.Errorf("%d open tasks", got.Open)
			}
		})
	}
}

func TestListOfOpenTasksWithoutEndIsLeft(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, receipts, _ := s.history(1)
	v := s.server("server", s.follower("full", receipts), func(_ context.Context, a ask, truth []byte) []byte {
		if a.kind == askOpen {
			var page []ledger.TaskID
			for _, t := range made(9, a.after) {
				page = append(page, t.Task)
			}
			return appendTasks(nil, page)
		}
		return truth
	})
	victim := s.follower("victim", nil)
	victim.node.tasks.Go(victim.node.loop.run) // the loop alone: nothing else asks the server
	if err := victim.node.Host().Connect(soon(t), v.Addrs()...); err != nil {
		t.Fatal(err)
	}
	if err := victim.node.syncer.takeOpen(soon(t), remote{victim.node, v.ID()}); err != nil {
		t.Fatal(err)
	}
	if n := v.count(askOpen); n != maxOpenTaken/syncPage {
		t.Errorf("%d pages were taken", n)
	}
}

func TestResponsesUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, receipts, _ := s.history(syncPeers*(syncAhead+1)*syncBatch + 1)
	full := s.follower("full", receipts)
	var mu sync.Mutex
	now, most := 0, 0
	full6, release := make(chan struct{}), make(chan struct{})
	hang := func(ctx context.Context, a ask, truth []byte) []byte {
		if a.kind != askReceipts {
			return truth
		}
		mu.Lock()
		now++
		if most = max(most, now); most == syncPeers*syncAhead {
			select {
			case <-full6:
			default:
				close(full6)
			}
		}
		mu.Unlock()
		select {
		case <-release:
		case <-ctx.Done():
		}
		mu.Lock()
		now--
		mu.Unlock()
		return truth
	}
	var hosts []*p2p.Host
	for i := range syncPeers + 2 {
		hosts = append(hosts, s.server(fmt.Sprint("server ", i), full, hang).Host)
	}
	fresh := s.follower("fresh", nil)
	s.begin(fresh, hosts...)
	receive(t, full6)
	close(release)
	s.awaitAll(receipts, fresh)
	mu.Lock()
	defer mu.Unlock()
	if most != syncPeers*syncAhead {
		t.Errorf("%d responses were under way, want at most %d", most, syncPeers*syncAhead)
	}
}

func TestResponsesHoldAsManyReceiptsAsFit(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, receipts, _ := s.history(600)
	full := s.follower("full", receipts)
	size := len(receipts[0].Encode())
	request := ask{kind: askReceipts, tasks: tasksOf(receipts)}
	data, err := full.node.serveSync(soon(t), "", request.encode())
	if err != nil {
		t.Fatal(err)
	}
	parts, err := decodeParts(data, len(receipts))
	if err != nil || len(data) > syncBytes || len(data) < syncBytes-size-partHeader || len(parts) >= len(receipts) {
		t.Errorf("%d receipts of %d bytes in a response of %d: %v", len(parts), size, len(data), err)
	}
	for i, p := range parts {
		if !bytes.Equal(p, receipts[i].Encode()) {
			t.Errorf("receipt %d is another one", i)
		}
	}
	unknown := ask{kind: askReceipts, tasks: []ledger.TaskID{task(1)}}
	if data, err = full.node.serveSync(soon(t), "", unknown.encode()); err != nil || !bytes.Equal(data, encodeParts([][]byte{nil})) {
		t.Errorf("receipt of an unknown task: %x, %v", data, err)
	}
}

// BenchmarkCatchUp is `poq bench sync` within one process, for profiles.
func BenchmarkCatchUp(b *testing.B) {
	const tasks = 10_000
	s := newSwarm(b, 4)
	_, receipts, _ := s.history(tasks)
	full := s.follower("full", receipts)
	if err := full.node.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		fresh := s.follower(fmt.Sprint("fresh ", i), nil)
		events, settled := fresh.node.Events(soon(b)), 0
		s.begin(fresh, full.node.Host())
		for e := range events {
			if settled += 1 + e.Missed; settled == tasks {
				break
			}
		}
		s.stop(fresh)
	}
	b.ReportMetric(float64(tasks*b.N)/b.Elapsed().Seconds(), "settlements/s")
}

// judged tells of each answer that it judges.
type judged struct {
	lengthJudge
	answers chan string
}

func (j judged) Score(ctx context.Context, prompt, answer string) (quality.Score, error) {
	j.answers <- answer
	return j.lengthJudge.Score(ctx, prompt, answer)
}

func TestValidatorThatWasAwayJudgesTheAnswersOfOpenTasks(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4)
	_, _, open := s.history(1)
	holder := s.follower("holder", nil)
	n, id, worker := holder.node, open.Votes.Vote.Task, testIdentity(t, "worker").Account
	answer := ledger.Answer{Task: id, Worker: worker.Public(), Text: crypto.Sum([]byte("42"))}
	n.content.keep([]byte(ledgertest.Prompt))
	s.begin(holder)
	var said []ledger.Verified
	for _, m := range []ledger.Message{
		open,
		new(ledger.Sign(n.domain, worker, ledger.AnswerCommit{Task: id, Worker: worker.Public(), Commitment: answer.Commitment(n.domain)})),
		&ledger.AnswerMessage{Answer: ledger.Sign(n.domain, worker, answer), Text: []byte("42")},
	} {
		v, err := n.verifier.Verify(m)
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, v)
	}
	if err := n.give(soon(t), said); err != nil {
		t.Fatal(err)
	}
	away := s.validators[3]
	judge := judged{answers: make(chan string, 9)}
	away.opts = append(away.opts, WithJudge(judge))
	s.make(away)
	s.begin(away, n.Host())
	if got := receive(t, judge.answers); got != "42" {
		t.Errorf("it judged %q", got)
	}
}
