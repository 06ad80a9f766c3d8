package ledger

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// swarm runs real engines over a virtual network and clock, all from one seed: every message is
// encoded, delivered after a random delay in virtual time, decoded and verified.
type swarm struct {
	t        testing.TB
	genesis  *Genesis
	domain   crypto.Domain
	verifier *Verifier
	random   *rand.Rand
	now      time.Duration
	queue    []delivery // by time
	seq      int
	peers    []*peer // validators first, then one that only follows
	keys     []crypto.PrivateKey
	payer    crypto.PrivateKey
	workers  []crypto.PrivateKey
	score    func(member int, a AnswerID) Score
	drop     func(from, to int, m Message) bool
	twist    func(from, to int, m Message) Message // what a Byzantine peer sends instead
}

type delivery struct {
	at  time.Duration
	seq int
	do  func()
}

// peer is the host of one engine.
type peer struct {
	*State
	swarm    *swarm
	index    int
	self     int
	engine   *Engine
	seq      uint64
	previous crypto.Hash
	progress []Progress
	receipts []*Receipt
	orders   map[TaskID]Order
	votes    []Leaf
	logged   []Message
	openings []logged
	retries  int  // retry timers that run
	down     bool // takes and sends nothing
}

func testKey(name string, i int) crypto.PrivateKey {
	seed := crypto.Sum(fmt.Appendf(nil, "test key %s %d", name, i))
	k, err := crypto.GenerateKey(sliceReader(seed[:]))
	if err != nil {
		panic(err)
	}
	return k
}

type sliceReader []byte

func (r sliceReader) Read(p []byte) (int, error) { return copy(p, r), nil }

func newSwarm(t testing.TB, validators int, seed uint64) *swarm {
	s := &swarm{t: t, random: rand.New(rand.NewPCG(seed, 1)), payer: testKey("payer", 0)}
	g := &Genesis{Network: "test", Epoch: 1, Judge: crypto.Sum([]byte("judge")), MinFee: 1, Splits: []Split{DefaultSplit()}}
	for i := range validators {
		s.keys = append(s.keys, testKey("validator", i))
		g.Validators = append(g.Validators, Validator{
			Name: fmt.Sprint("v", i), Consensus: s.keys[i].Public(), Account: testKey("validator account", i).Public(), Peer: fmt.Sprint("peer", i),
		})
	}
	for i := range 3 {
		s.workers = append(s.workers, testKey("worker", i))
	}
	g.Accounts = []GenesisAccount{{ID: s.payer.Public(), Name: "payer", Balance: 100 * Credit}}
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	s.genesis, s.domain, s.verifier = g, Domain(g), NewVerifier(g)
	s.score = func(_ int, a AnswerID) Score { return Score(binary.BigEndian.Uint16(a.Text[:]) % 10001) }
	for i := range validators + 1 {
		p := &peer{swarm: s, index: i, self: i, State: NewState(g), orders: map[TaskID]Order{}}
		if i == validators {
			p.self = -1
		}
		p.engine = NewEngine(g, p.self, p)
		s.peers = append(s.peers, p)
	}
	return s
}

func (s *swarm) after(d time.Duration, do func()) {
	s.seq++
	e := delivery{s.now + d, s.seq, do}
	i, _ := slices.BinarySearchFunc(s.queue, e, func(a, b delivery) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.seq - b.seq
	})
	s.queue = slices.Insert(s.queue, i, e)
}

// run delivers until nothing is left to do or until virtual time has passed.
func (s *swarm) run(until time.Duration) {
	for len(s.queue) > 0 && s.queue[0].at <= until {
		e := s.queue[0]
		s.queue = s.queue[1:]
		s.now = e.at
		e.do()
	}
}

// send carries a message to one peer, as bytes.
func (s *swarm) send(from, to int, topic Topic, m Message) {
	if s.peers[from].down || s.drop != nil && s.drop(from, to, m) {
		return
	}
	if s.twist != nil {
		m = s.twist(from, to, m)
	}
	home, data := Encode(m)
	if topic == "" {
		topic = home
	}
	delay := time.Duration(s.random.IntN(5000)) * time.Microsecond
	if from == to {
		delay = 0
	}
	s.after(delay, func() {
		got, err := Decode(topic, data)
		if err != nil {
			s.t.Fatalf("decoding %T: %v", m, err)
		}
		v, err := s.verifier.Verify(got)
		if err != nil {
			s.t.Fatalf("verifying %T: %v", m, err)
		}
		p := s.peers[to]
		if p.down {
			return
		}
		if q, ok := got.(*Query); ok {
			p.engine.Query(from, q.Task)
			return
		}
		p.engine.Receive(v)
	})
}

func (s *swarm) gossip(from int, m Message) {
	for to := range s.peers {
		s.send(from, to, "", m)
	}
}

func (p *peer) Log(m Message) { p.logged = append(p.logged, m) }

func (p *peer) Vote(l Leaf) {
	p.votes = append(p.votes, l)
	u := NewBundle(uint16(p.self), p.seq, p.previous, []Leaf{l})
	u.Sign(p.swarm.domain, p.swarm.keys[p.self])
	p.seq, p.previous = p.seq+1, u.Header.Statement.Hash(p.swarm.domain)
	for to := range p.swarm.genesis.Validators {
		p.swarm.send(p.index, to, TopicVotes, &u)
	}
}

func (p *peer) CommitScores(c ScoreCommit, o Opening) {
	p.openings = append(p.openings, logged{c, o})
	p.swarm.gossip(p.index, new(Sign(p.swarm.domain, p.swarm.keys[p.self], c)))
}

func (p *peer) Reveal(r Reveal) {
	p.swarm.gossip(p.index, new(Sign(p.swarm.domain, p.swarm.keys[p.self], r)))
}

func (p *peer) Publish(m Message) { p.swarm.gossip(p.index, m) }

func (p *peer) Send(to int, m Message) {
	for i := range p.swarm.genesis.Validators {
		if i != p.index && (to == Everyone || to == i) {
			p.swarm.send(p.index, i, TopicVotes, m)
		}
	}
}

func (p *peer) SendReceipt(to int, id TaskID) {
	for _, r := range p.receipts {
		if r.Task() == id {
			p.Send(to, r)
		}
	}
}

func (p *peer) Fetch(id TaskID) {
	from := p.swarm.random.IntN(len(p.swarm.genesis.Validators))
	for _, r := range p.swarm.peers[from].receipts {
		if r.Task() == id {
			p.swarm.send(from, p.index, "", r)
		}
	}
}

func (p *peer) SetTimer(t Timer, d time.Duration) {
	engine := p.engine
	if t.Kind == Retry {
		p.retries++
	}
	p.swarm.after(d, func() {
		if t.Kind == Retry {
			p.retries--
		}
		if p.engine == engine && !p.down {
			p.engine.Timer(t)
		}
	})
}

func (p *peer) Score(task TaskID, _ Order, a AnswerID, _ []byte) {
	p.swarm.after(time.Millisecond, func() { p.engine.Scored(task, a, p.swarm.score(p.self, a), nil) })
}

// restart makes the peer's engine anew out of its log and its ledger, as a process does.
func (p *peer) restart() {
	old := p.engine
	p.down = false
	p.engine = NewEngine(p.swarm.genesis, p.self, p)
	for _, m := range p.logged {
		p.engine.Restore(m)
	}
	for _, l := range p.votes {
		p.engine.RestoreVote(l)
	}
	for _, o := range p.openings {
		p.engine.RestoreOpening(o.commit, o.opening)
	}
	for id := range p.escrow {
		p.engine.Resume(&LockCert{*old.tasks[id].order, old.tasks[id].lock})
	}
}

func (p *peer) Salt() [32]byte {
	return crypto.Sum(fmt.Appendf(nil, "salt %d %d", p.index, p.swarm.random.Uint64()))
}

func (p *peer) Observe(g Progress) { p.progress = append(p.progress, g) }

func (p *peer) SignedOrder(id TaskID) (o Signed[Order], ok bool) {
	for _, r := range p.receipts {
		if r.Task() == id {
			return r.Order, true
		}
	}
	return o, false
}

func (p *peer) IsSettled(id TaskID) bool {
	_, ok := p.Settled(id)
	return ok
}

func (p *peer) Lock(l *LockCert) error {
	p.orders[l.Votes.Vote.Task] = l.Order.Statement
	_, err := p.State.Lock(l.Votes.Vote.Task, l.Order.Statement)
	if err == nil {
		err = p.Check()
	}
	return err
}

func (p *peer) Settle(r *Receipt) error {
	applied, err := p.State.Settle(r.Task(), r.Order.Statement, r.Outcome, r.Settle.Vote.Value)
	if applied {
		p.receipts = append(p.receipts, r)
	}
	if err == nil {
		err = p.Check()
	}
	return err
}

// order signs an order on top of an earlier one.
func (s *swarm) order(nonce uint64, previous TaskID, fee Amount, answers uint8) (TaskID, *OrderMessage) {
	prompt := fmt.Appendf(nil, "prompt %d", nonce)
	o := Order{
		Payer: s.payer.Public(), Nonce: nonce, Previous: previous, Fee: fee, Split: 1, Prompt: crypto.Sum(prompt), Judge: s.genesis.Judge,
		MaxAnswers: answers, AnswerDeadline: 1000, ScoreDeadline: 2000,
	}
	return OrderID(s.domain, o), &OrderMessage{Sign(s.domain, s.payer, o), prompt}
}

// answer has a worker commit at one moment and show its answer at another.
func (s *swarm) answer(task TaskID, w int, text string, commit, show time.Duration) AnswerID {
	a := Answer{Task: task, Worker: s.workers[w].Public(), Text: crypto.Sum([]byte(text)), Salt: crypto.Sum([]byte(text))}
	follower := len(s.peers) - 1
	s.after(commit, func() {
		s.gossip(follower, new(Sign(s.domain, s.workers[w], AnswerCommit{task, a.Worker, a.Commitment(s.domain)})))
	})
	s.after(show, func() {
		s.gossip(follower, &AnswerMessage{Sign(s.domain, s.workers[w], a), []byte(text)})
	})
	return a.ID()
}

// checkAgreement asserts what must hold at every peer after all is done.
func (s *swarm) checkAgreement(tasks int) {
	s.t.Helper()
	first := s.peers[slices.IndexFunc(s.peers, func(p *peer) bool { return !p.down })]
	for i, p := range s.peers {
		if p.down {
			continue
		}
		if err := p.CheckComplete(); err != nil {
			s.t.Errorf("peer %d: %v", i, err)
		}
		if p.Tasks() != tasks {
			s.t.Errorf("peer %d settled %d tasks, want %d", i, p.Tasks(), tasks)
		}
		for id, v := range first.settled {
			if p.settled[id] != v {
				s.t.Errorf("peer %d: another outcome of task %s (I1)", i, id.Short())
			}
		}
		if !slices.Equal(p.Accounts(), first.Accounts()) {
			s.t.Errorf("peer %d: other accounts (I10)", i)
		}
		for _, id := range p.Accounts() {
			if p.Account(id) != first.Account(id) {
				s.t.Errorf("peer %d: account %s is %+v, elsewhere %+v (I10)", i, id.Short(), p.Account(id), first.Account(id))
			}
		}
		again, err := Replay(s.genesis, func(yield func(*Receipt, error) bool) {
			for _, r := range p.receipts {
				if !yield(r, nil) {
					return
				}
			}
		}, func(func(*LockCert, error) bool) {})
		if err != nil {
			s.t.Errorf("peer %d: replay: %v", i, err)
		} else if again.Account(s.payer.Public()) != p.Account(s.payer.Public()) {
			s.t.Errorf("peer %d: replay gives the payer another balance", i)
		}
		cast := map[ballot]crypto.Hash{}
		for _, l := range p.votes {
			if v, ok := cast[l.ballot()]; ok && v != l.Value {
				s.t.Errorf("peer %d contradicted its %v vote (I2)", i, l.Kind)
			}
			cast[l.ballot()] = l.Value
		}
	}
}
