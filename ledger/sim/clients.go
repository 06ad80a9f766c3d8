package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// payer gives orders. One that equivocates signs two for one nonce and shows them to different peers.
type payer struct {
	name       string
	key        crypto.PrivateKey
	balance    ledger.Amount
	equivocate bool
	tasks      []*task // by nonce; the second orders of an equivocator are in twin
}

// task is a planned task.
type task struct {
	name    string
	payer   *payer
	nonce   uint64
	fee     ledger.Amount
	answers uint8
	at      time.Duration
	limits  [2]uint32 // deadlines in ms
	workers []worker
	twin    bool // the second order of an equivocating payer
	prev    *task

	id      ledger.TaskID
	message *ledger.OrderMessage
}

// worker is what a worker does with a task.
type worker struct {
	deed
	commit, show time.Duration // after lock and close
	done         [2]bool
}

type deed uint8

const (
	answers  deed = iota // as it should
	copies               // the text of the first worker, as if it knew
	hides                // commits and never shows
	declines             // says that it will not
	forgets              // shows what it did not commit to
	commits2             // commits twice
	deedCount
)

func (p *plan) drawTasks(r *rand.Rand) {
	payers := 1 + r.IntN(3)
	for i := range payers {
		y := &payer{name: fmt.Sprint("p", i), key: keys.payers[i], equivocate: r.IntN(12) == 0}
		if r.IntN(6) == 0 {
			y.key = keys.workers[i] // it may earn what it spends
		}
		p.payers = append(p.payers, y)
	}
	count := 1
	if r.IntN(3) > 0 {
		count += r.IntN(3)
	} else if r.IntN(3) == 0 {
		count += r.IntN(6)
	}
	for i := range count {
		y := p.payers[r.IntN(payers)]
		t := &task{
			name: fmt.Sprint("T", i), payer: y, nonce: uint64(len(y.tasks)), fee: 1 + ledger.Amount(r.IntN(1_000_000)),
			answers: uint8(1 + r.IntN(3)), at: between(r, 0, p.calm/2),
		}
		if len(y.tasks) > 0 {
			t.prev = y.tasks[len(y.tasks)-1]
			if r.IntN(2) == 0 {
				t.at = t.prev.at + between(r, 0, 20*time.Millisecond) // pipelined
			}
		}
		t.limits[0] = uint32(20 + r.IntN(600))
		t.limits[1] = t.limits[0] + uint32(r.IntN(800))
		for range 1 + r.IntN(3) {
			d := answers
			if r.IntN(3) == 0 {
				d = deed(r.IntN(int(deedCount)))
			}
			t.workers = append(t.workers, worker{deed: d, commit: between(r, 0, time.Duration(t.limits[0])*time.Millisecond*5/4), show: between(r, 0, 40*time.Millisecond)})
			if r.IntN(2) == 0 {
				t.workers[len(t.workers)-1].commit /= 8
			}
		}
		y.tasks = append(y.tasks, t)
		p.tasks = append(p.tasks, t)
		if y.equivocate && r.IntN(2) == 0 {
			second := *t
			second.twin, second.name, second.fee, second.workers = true, t.name+"'", t.fee+1, slices.Clone(t.workers)
			p.tasks = append(p.tasks, &second)
		}
	}
	for _, y := range p.payers {
		for _, t := range y.tasks {
			y.balance += t.fee
		}
		switch r.IntN(4) {
		case 0: // just enough
		case 1:
			if len(y.tasks) < 2 {
				break
			}
			y.balance -= y.balance / ledger.Amount(2+r.IntN(4)) // too little, until something comes back
		default:
			y.balance *= 3
		}
	}
}

// clients signs the orders and has them published.
func (w *world) clients() {
	for _, t := range w.tasks {
		prompt := []byte("prompt of " + t.name)
		o := ledger.Order{
			Payer: t.payer.key.Public(), Nonce: t.nonce, Fee: t.fee, Split: 1, Prompt: crypto.Sum(prompt), Judge: judge,
			MaxAnswers: t.answers, AnswerDeadline: t.limits[0], ScoreDeadline: t.limits[1],
		}
		if t.prev != nil {
			o.Previous = t.prev.id
		}
		t.id, t.message = ledger.OrderID(w.domain, o), &ledger.OrderMessage{Order: *ledger.SignTrusted(w.verifier, t.payer.key, o), Prompt: prompt}
		w.known[t.id] = t
		w.after(t.at, func() { w.publish(t) })
	}
}

// publish gossips an order, again and again until it is locked somewhere.
func (w *world) publish(t *task) {
	if w.check.lockedAnywhere(t.id) {
		return
	}
	e := w.pack(nil, t.message)
	w.tell(nil, "order", "%s of %s, nonce %d, fee %d", t.name, t.payer.name, t.nonce, t.fee)
	first := e.reached == 0
	for _, to := range w.nodes {
		if first && t.payer.equivocate && w.now < w.calm && (to.index%2 == 0) == t.twin {
			continue // its two orders go to different halves
		}
		if w.faulty(Loss) && w.chance(w.loss) {
			w.inject(Loss)
			continue
		}
		w.arrive(nil, to, e, w.delay())
	}
	w.after(w.between(500*time.Millisecond, time.Second), func() { w.publish(t) })
}

// observe has the workers act on what the first follower sees of a task.
func (w *world) observe(p ledger.Progress) {
	t, ok := w.known[p.Task]
	if !ok {
		return
	}
	switch p.Step {
	case ledger.Locked:
		for i := range t.workers {
			w.after(t.workers[i].commit, func() { w.work(t, i, false) })
		}
	case ledger.Closed:
		for i := range t.workers {
			w.after(t.workers[i].show, func() { w.work(t, i, true) })
		}
	}
}

// work is a worker's commitment, or its answer.
func (w *world) work(t *task, i int, show bool) {
	me, key := &t.workers[i], keys.workers[i]
	step := 0
	if show {
		step = 1
	}
	if me.done[step] {
		return // said before the peer that it listens to restarted
	}
	me.done[step] = true
	text := fmt.Appendf(nil, "answer %d of %s", i, t.name)
	if me.deed == copies {
		text = fmt.Appendf(nil, "answer 0 of %s", t.name)
	}
	a := ledger.Answer{Task: t.id, Worker: key.Public(), Text: crypto.Sum(text), Salt: crypto.Sum(append(text, byte(i)))}
	switch {
	case me.deed == declines:
		if !show {
			w.gossip(nil, ledger.SignTrusted(w.verifier, key, ledger.Decline{Task: t.id, Worker: a.Worker, Reason: "busy"}))
		}
	case !show && me.deed != forgets:
		w.gossip(nil, ledger.SignTrusted(w.verifier, key, ledger.AnswerCommit{Task: t.id, Worker: a.Worker, Commitment: a.Commitment(w.domain)}))
		if me.deed == commits2 {
			a.Text = crypto.Sum(append(text, '!'))
			w.gossip(nil, ledger.SignTrusted(w.verifier, key, ledger.AnswerCommit{Task: t.id, Worker: a.Worker, Commitment: a.Commitment(w.domain)}))
		}
	case show && me.deed != hides:
		w.gossip(nil, &ledger.AnswerMessage{Answer: *ledger.SignTrusted(w.verifier, key, a), Text: text})
	}
}

// sortAccounts puts a genesis's accounts in order, each once.
func sortAccounts(list []ledger.GenesisAccount) {
	slices.SortFunc(list, func(a, b ledger.GenesisAccount) int { return a.ID.Compare(b.ID) })
}
