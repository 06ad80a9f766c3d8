package votelog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// peer is a validator: the host of an engine, with a real outbox over a disk in memory and a ledger in memory.
type peer struct {
	*Outbox
	state   *ledger.State
	genesis *ledger.Genesis
	disk    *memory
	wire    *wire
	done    *finished
	locked  []ledger.TaskID
}

func key(name string) crypto.PrivateKey {
	seed := crypto.Sum([]byte("votelog test " + name))
	k, err := crypto.GenerateKey(rand.NewChaCha8(seed))
	if err != nil {
		panic(err)
	}
	return k
}

func committee(n int) *ledger.Genesis {
	g := &ledger.Genesis{Network: "votelog", Epoch: 1, MinFee: 1, Splits: []ledger.Split{ledger.DefaultSplit()}}
	for i := range n {
		g.Validators = append(g.Validators, ledger.Validator{
			Name: fmt.Sprint("v", i), Consensus: key(fmt.Sprint("validator ", i)).Public(), Account: key(fmt.Sprint("account ", i)).Public(), Peer: fmt.Sprint("peer", i),
		})
	}
	g.Accounts = []ledger.GenesisAccount{{ID: key("payer").Public(), Name: "payer", Balance: ledger.Credit}}
	return g
}

// start makes validator 0 of n over a disk; restart does it again with what the disk and the ledger hold.
func start(t testing.TB, n int, d *memory) *peer {
	t.Helper()
	g := committee(n)
	must(t, g.Validate())
	p := &peer{genesis: g, disk: d, state: ledger.NewState(g), done: newFinished()}
	p.restart(t)
	return p
}

func (p *peer) restart(t testing.TB) {
	t.Helper()
	var err error
	p.Outbox, err = NewOutbox(Config{
		Genesis: p.genesis, Verifier: ledger.NewVerifier(p.genesis), Engine: ledger.NewEngine(p.genesis, 0, p), Key: key("validator 0"),
		Disk: p.disk, Ledger: p.done, Segment: small,
	})
	must(t, err)
	p.wire = &wire{t: t, peer: p}
}

func (p *peer) IsSettled(t ledger.TaskID) bool                             { return p.done.IsSettled(t) }
func (p *peer) SendReceipt(int, ledger.TaskID)                             {}
func (p *peer) Fetch(ledger.TaskID)                                        {}
func (p *peer) SetTimer(ledger.Timer, time.Duration)                       {}
func (p *peer) Score(ledger.TaskID, ledger.Order, ledger.AnswerID, []byte) {}
func (p *peer) Salt() [32]byte                                             { return [32]byte{} }
func (p *peer) Observe(ledger.Progress)                                    {}
func (p *peer) Account(id ledger.AccountID) ledger.Account                 { return p.state.Account(id) }
func (p *peer) LockedAt(a ledger.AccountID, n uint64) (ledger.TaskID, bool) {
	return p.state.LockedAt(a, n)
}
func (p *peer) SignedOrder(ledger.TaskID) (o ledger.Signed[ledger.Order], ok bool) { return o, false }
func (p *peer) Settle(*ledger.Receipt) error                                       { return nil }
func (p *peer) Lock(c *ledger.LockCert) error {
	p.locked = append(p.locked, c.Votes.Vote.Task)
	_, err := p.state.Lock(c.Votes.Vote.Task, c.Order.Statement)
	return err
}

// wire is a network that looks at the disk whenever something comes that was signed.
type wire struct {
	t       testing.TB
	peer    *peer
	bundles []*ledger.Bundle
	signed  int // commitments and reveals
	others  int
}

// synced returns what a restart would replay if the power went off now.
func (m *memory) replay(t testing.TB, c Config) []string {
	t.Helper()
	after := newMemory()
	for name, f := range m.synced {
		after.now[name] = &memoryFile{disk: after, now: f.synced, synced: f.synced}
	}
	c.Disk, c.Segment = after, small
	_, seen, err := reopen(c)
	must(t, err)
	return seen
}

func (w *wire) mustHold(record string) {
	w.t.Helper()
	if seen := w.peer.disk.replay(w.t, w.peer.Config); !slices.Contains(seen, record) {
		w.t.Errorf("%s left, and the synced log holds %v", record, seen)
	}
}

func (w *wire) take(m ledger.Message) {
	w.t.Helper()
	switch m := m.(type) {
	case *ledger.Bundle:
		w.bundles = append(w.bundles, m)
		w.mustHold(fmt.Sprint("bundle ", m.Header.Statement.Seq))
	case *ledger.Signed[ledger.ScoreCommit]:
		w.signed++
		w.mustHold(fmt.Sprint("opening ", m.Statement.Task[0], []ledger.Score{7}))
	case *ledger.Signed[ledger.Reveal]:
		w.signed++
		w.mustHold("*ledger.SealCert")
	default:
		w.others++
	}
}

func (w *wire) Send(_ int, m ledger.Message) { w.take(m) }
func (w *wire) Gossip(m ledger.Message)      { w.take(m) }

func vote(n int) ledger.Leaf {
	return ledger.Leaf{Kind: ledger.FastCommit, Stage: ledger.StageSettle, Task: task(n), Value: crypto.Sum([]byte("value"))}
}

// decide has the outbox take one of everything that an engine decides.
func (p *peer) decide(n int) {
	p.Publish(&ledger.Query{Task: task(n)})
	p.Log(&ledger.SealCert{})
	p.Vote(vote(n))
	p.CommitScores(ledger.ScoreCommit{Task: task(n), Answers: make([]ledger.AnswerID, 1)}, ledger.Opening{Scores: []ledger.Score{7}})
	p.Reveal(ledger.Reveal{Task: task(n)})
	p.Send(ledger.Everyone, &ledger.Query{Task: task(n)})
}

// mark is what a peer says that it saw of validator 0.
func mark(u *ledger.Bundle) *ledger.Mark {
	if u == nil {
		return &ledger.Mark{}
	}
	return &ledger.Mark{Header: &u.Header}
}

func TestNothingLeavesBeforeItIsSyncedAndWhatItRestsOnComesFirst(t *testing.T) {
	p := start(t, 1, newMemory())
	for i := range 3 {
		p.decide(i)
		must(t, p.Flush(p.wire))
	}
	if w := p.wire; len(w.bundles) != 3 || w.signed != 6 || w.others != 6 {
		t.Errorf("%d bundles, %d other statements and %d messages left", len(w.bundles), w.signed, w.others)
	}
	seen := p.disk.replay(t, p.Config)
	for i := range 3 {
		group := seen[3*i : 3*i+3]
		if group[0] != "*ledger.SealCert" || !strings.HasPrefix(group[1], "opening") || group[2] != fmt.Sprint("bundle ", i) {
			t.Errorf("the log holds %v", seen)
		}
	}
}

func TestDiskThatFailsStopsEverythingAtOnce(t *testing.T) {
	run := func(d *memory) (*peer, error) {
		p := start(t, 1, d)
		for i := range 40 {
			p.decide(i)
			if err := p.Flush(p.wire); err != nil {
				return p, err
			}
			p.done.tasks[task(i)] = true
		}
		return p, nil
	}
	d := newMemory()
	p, err := run(d)
	must(t, err)
	if p.log.header.number < 3 {
		t.Errorf("the log is in segment %d", p.log.header.number)
	}
	first := 0
	fresh := newMemory()
	start(t, 1, fresh)
	first = fresh.steps
	for step := first + 1; step <= d.steps; step++ {
		for _, half := range []bool{false, true} {
			d := newMemory()
			d.fail, d.half = step, half
			p, err := run(d) // the wire checks that what leaves is synced
			if !errors.Is(err, errDisk) {
				t.Fatalf("step %d: %v", step, err)
			}
			d.fail = 0 // the disk may work again; the log is done all the same
			was := *p.wire
			p.decide(100)
			if err := p.Flush(p.wire); !errors.Is(err, errDisk) || p.wire.others != was.others || p.wire.signed != was.signed || len(p.wire.bundles) != len(was.bundles) {
				t.Errorf("step %d: after the failure %v, and more left", step, err)
			}
			p.clear()
			p.Publish(&ledger.Query{})
			if err := p.Flush(p.wire); !errors.Is(err, errDisk) || p.wire.others != was.others {
				t.Errorf("step %d: after the failure %v, and a message left", step, err)
			}
			// A restart goes on, and what had left is there or settled.
			sent := uint64(len(was.bundles))
			p.restart(t)
			if next := p.log.tip.seq; next < sent || next > sent && !slices.Contains(p.disk.replay(t, p.Config), fmt.Sprint("bundle ", sent)) {
				t.Errorf("step %d: %d bundles left, the next one is %d", step, sent, next)
			}
			p.decide(101)
			must(t, p.Flush(p.wire))
		}
	}
}

func TestOutboxIsHeldBackUntilAQuorumKnows(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 7, 16} {
		p := start(t, n, newMemory())
		p.decide(0)
		check := func(from int, signs bool) {
			t.Helper()
			must(t, p.Flush(p.wire))
			if ok, err := p.Signing(); ok != signs || err != nil {
				t.Errorf("n=%d: after the mark of %d it signs: %v, %v", n, from, ok, err)
			}
			if p.wire.others != 2 || (len(p.wire.bundles) > 0) != signs || (p.wire.signed > 0) != signs {
				t.Errorf("n=%d: after the mark of %d left %d bundles, %d statements, %d messages", n, from, len(p.wire.bundles), p.wire.signed, p.wire.others)
			}
		}
		check(-1, n == 1)
		q := p.genesis.Quorum()
		for from := 1; from < q; from++ {
			must(t, p.Mark(0, mark(nil)))                     // its own
			must(t, p.Mark(from, &ledger.Mark{Validator: 1})) // about somebody else
			check(from-1, q == 1)
			for range 3 {
				must(t, p.Mark(from, mark(nil)))
			}
			check(from, from == q-1)
		}
	}
}

func TestMarkOfMoreThanTheLogHoldsEndsSigningForGood(t *testing.T) {
	origin := start(t, 1, newMemory())
	for i := range 3 {
		origin.decide(i)
		must(t, origin.Flush(origin.wire))
	}
	sent := origin.wire.bundles
	other := ledger.NewBundle(0, 1, sent[0].Header.Statement.Hash(origin.domain), []ledger.Leaf{vote(9)})
	other.Sign(origin.domain, key("validator 0"))
	for name, c := range map[string]struct {
		mark  *ledger.Bundle
		after int // marks that were fine
		from  int
	}{
		"seen more, at once":                       {sent[2], 0, 3},
		"seen more, before the last":               {sent[2], 1, 3},
		"seen more, after signing began":           {sent[2], 2, 3},
		"seen something else, at once":             {&other, 0, 3},
		"seen something else, after signing began": {&other, 2, 3},
		"its own ledger has seen more":             {sent[2], 0, 0},
	} {
		d := newMemory()
		{ // a log that holds two of the three
			p := start(t, 4, d)
			p.Self = 0
			must(t, p.Mark(1, mark(nil)))
			must(t, p.Mark(2, mark(nil)))
			for i := range 2 {
				p.Log(&ledger.SealCert{})
				p.Vote(vote(i))
				must(t, p.Flush(p.wire))
			}
			// The same committee of four signs other headers: the chain is another one.
			if c.mark == sent[2] {
				u := ledger.NewBundle(0, 2, p.log.tip.previous, []ledger.Leaf{vote(2)})
				u.Sign(p.domain, key("validator 0"))
				c.mark = &u
			}
			must(t, p.Close())
		}
		p := start(t, 4, d)
		p.decide(5)
		for from := range c.after {
			must(t, p.Mark(1+from, mark(nil)))
			must(t, p.Flush(p.wire))
		}
		was := len(p.wire.bundles)
		if (was > 0) != (c.after == 2) {
			t.Errorf("%s: %d bundles left", name, was)
		}
		p.decide(6)
		if err := p.Mark(c.from, mark(c.mark)); !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), "signs nothing more in this epoch") {
			t.Errorf("%s: %v", name, err)
		}
		signed, others := p.wire.signed, p.wire.others
		for from := 1; from < 4; from++ {
			must(t, p.Mark(from, mark(nil)))
			p.decide(7)
			must(t, p.Flush(p.wire))
		}
		if ok, err := p.Signing(); ok || !errors.Is(err, ErrBehind) {
			t.Errorf("%s: signing %v, %v", name, ok, err)
		}
		if len(p.wire.bundles) != was || p.wire.signed != signed {
			t.Errorf("%s: it went on to sign", name)
		}
		if p.wire.others <= others || p.waiting() > 0 {
			t.Errorf("%s: %d messages left, %d wait", name, p.wire.others-others, p.waiting())
		}
		// Nor after another start, when those who saw it have forgotten, whatever was purged meanwhile.
		for i := range 10 {
			p.done.tasks[task(i)] = true
		}
		must(t, p.log.rotate(0))
		must(t, p.Close())
		p.restart(t)
		for from := 1; from < 4; from++ {
			must(t, p.Mark(from, mark(nil)))
		}
		p.decide(11)
		must(t, p.Flush(p.wire))
		if ok, err := p.Signing(); ok || !errors.Is(err, ErrBehind) || len(p.wire.bundles) > 0 {
			t.Errorf("%s: after another start it signs: %v, %v", name, ok, err)
		}
	}
}

func TestManyVotesLeaveInAChainOfBundles(t *testing.T) {
	p := start(t, 1, newMemory())
	const votes = 2*ledger.MaxBundleLeaves + 5
	for range 2 { // the same votes again make no more
		for i := range votes {
			p.Vote(vote(i))
		}
	}
	must(t, p.Flush(p.wire))
	var previous crypto.Hash
	total := 0
	for i, u := range p.wire.bundles {
		if _, err := p.Verifier.Verify(u); err != nil {
			t.Errorf("bundle %d: %v", i, err)
		}
		h := u.Header.Statement
		if h.Seq != uint64(i) || h.Previous != previous {
			t.Errorf("bundle %d has number %d and follows %v, want %v", i, h.Seq, h.Previous, previous)
		}
		previous = h.Hash(p.domain)
		total += len(u.Leaves)
	}
	if len(p.wire.bundles) != 3 || total != votes {
		t.Errorf("%d votes left in %d bundles", total, len(p.wire.bundles))
	}
	p.Vote(vote(0)) // sent again by the engine
	must(t, p.Flush(p.wire))
	if len(p.wire.bundles) != 4 {
		t.Error("a vote can't be sent again")
	}
}

func TestOwnVotesComeToTheEngine(t *testing.T) {
	p := start(t, 1, newMemory())
	o := ledger.Order{Payer: key("payer").Public(), Fee: 1000, Split: 1, Prompt: crypto.Sum([]byte("prompt")), MaxAnswers: 1, AnswerDeadline: 1000, ScoreDeadline: 2000}
	v, err := p.Verifier.Verify(&ledger.OrderMessage{Order: ledger.Sign(p.domain, key("payer"), o)})
	must(t, err)
	p.Engine.Receive(v)
	must(t, p.Flush(p.wire))
	if id := ledger.OrderID(p.domain, o); !slices.Equal(p.locked, []ledger.TaskID{id}) {
		t.Errorf("locked %v, want %v", p.locked, id)
	}
	if seen := p.disk.replay(t, p.Config); !slices.Equal(seen, []string{"*ledger.OrderMessage", "bundle 0"}) {
		t.Errorf("the log holds %v", seen)
	}
}

func TestOutboxThatIsHeldBackForLongKeepsOnlyWhatIsOpen(t *testing.T) {
	p := start(t, 4, newMemory())
	const open, tasks = 5, 20000
	most := 0
	for i := range tasks {
		p.Log(&ledger.Value{Task: task(i), Stage: ledger.StageSettle})
		p.Vote(vote(i))
		p.CommitScores(ledger.ScoreCommit{Task: task(i)}, ledger.Opening{})
		p.Reveal(ledger.Reveal{Task: task(i)})
		must(t, p.Flush(p.wire))
		most = max(most, p.waiting())
		if i >= open {
			p.done.tasks[task(i)] = true
		}
	}
	if most > minHeld+8 {
		t.Errorf("%d decisions waited", most)
	}
	p.forgetSettled()
	if p.waiting() != 4*open || len(p.queued) != open {
		t.Errorf("%d decisions on %d open tasks wait", p.waiting(), open)
	}
	must(t, p.Mark(1, mark(nil)))
	must(t, p.Mark(2, mark(nil)))
	p.disk.trace = nil
	must(t, p.Flush(&counting{}))
	if len(p.log.buf) != 0 || p.log.tip.seq != 1 {
		t.Errorf("%d bundles are logged", p.log.tip.seq)
	}
}

// counting is a network that only counts.
type counting struct{ messages int }

func (c *counting) Send(int, ledger.Message) { c.messages++ }
func (c *counting) Gossip(ledger.Message)    { c.messages++ }

func TestChainOfBundlesAndHighWaterMarkOutliveThePurge(t *testing.T) {
	p := start(t, 1, newMemory())
	var last *ledger.Bundle
	for i := range 3 {
		p.Vote(vote(i))
		must(t, p.Flush(p.wire))
		last = p.wire.bundles[i]
		p.done.tasks[task(i)] = true
	}
	must(t, p.log.rotate(0))
	must(t, p.Close())
	if seen := p.disk.replay(t, p.Config); len(seen) > 0 {
		t.Errorf("the log still holds %v", seen)
	}
	p.restart(t)
	if h := last.Header.Statement; p.log.tip != (tip{h.Seq + 1, h.Hash(p.domain)}) {
		t.Errorf("the next bundle is %+v after %d", p.log.tip, h.Seq)
	}
	must(t, p.Mark(3, mark(last)))
	fork := ledger.NewBundle(0, last.Header.Statement.Seq, crypto.Hash{1}, []ledger.Leaf{vote(9)})
	if err := p.Mark(2, mark(&fork)); !errors.Is(err, ErrBehind) {
		t.Errorf("another last bundle: %v", err)
	}
}

func TestLedgerThatWentBackEndsSigningUntilItCaughtUp(t *testing.T) {
	p := start(t, 1, newMemory())
	for i := range 100 {
		p.Vote(vote(i))
		must(t, p.Flush(p.wire))
		p.done.tasks[task(i)] = true
	}
	must(t, p.Close())
	whole := p.done
	p.done = newFinished()
	p.restart(t)
	p.decide(1) // settled long ago
	must(t, p.Flush(p.wire))
	if ok, err := p.Signing(); ok || !errors.Is(err, ErrLedgerBehind) || len(p.wire.bundles) > 0 || p.wire.signed > 0 {
		t.Errorf("signing %v, %v, %d bundles left", ok, err, len(p.wire.bundles))
	}
	must(t, p.Close())
	p.done = whole
	p.restart(t)
	if ok, err := p.Signing(); !ok || err != nil {
		t.Errorf("after it caught up: signing %v, %v", ok, err)
	}
}
