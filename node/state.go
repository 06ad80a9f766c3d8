package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// State is how a node is at one moment. Its JSON form is stable: fields are added, never changed.
type State struct {
	Network   string           `json:"network"`
	Chain     crypto.Hash      `json:"chain"`
	PeerID    string           `json:"peer_id"`
	Account   ledger.AccountID `json:"account"`
	Balance   int64            `json:"balance"` // µ-credits
	Started   time.Time        `json:"started"`
	Addrs     []string         `json:"addrs"`
	Reach     Reach            `json:"reach"`
	Ready     bool             `json:"ready"`
	Problems  []Problem        `json:"problems"` // none if all is well
	Bandwidth p2p.Bandwidth    `json:"bandwidth"`
	Gossip    p2p.Stats        `json:"gossip"`
	Topics    []p2p.TopicStats `json:"topics"`
	Links     []p2p.LinkStats  `json:"links"`
	Peers     []PeerState      `json:"peers"`
	Models    []ModelCount     `json:"models"` // see Node.Models
	Committee []Member         `json:"committee"`
	Attempts  []Attempt        `json:"attempts"` // to join the network, by address, the latest first
	Ledger    LedgerState      `json:"ledger"`
	Validator *ValidatorState  `json:"validator,omitempty"`
	Worker    *WorkerState     `json:"worker,omitempty"`
	Double    string           `json:"double,omitempty"`   // where another process with this identity was seen
	Compared  []Comparison     `json:"compared,omitempty"` // see Node.Compare
}

// Problem is something that is not as it should be, in plain words.
type Problem struct {
	What string `json:"what"`
	Mend string `json:"mend,omitempty"` // what to do about it
}

// PeerState is another peer.
type PeerState struct {
	p2p.PeerInfo
	Name string `json:"name,omitempty"` // that of a validator in the genesis
}

// Reach is how others can reach a node, as far as it knows.
type Reach struct {
	State    string      `json:"state"`    // public: others can dial it; private: they tried and could not; unknown
	Addrs    []ReachAddr `json:"addrs"`    // the public addresses that others were asked to try
	Mapped   []string    `json:"mapped"`   // addresses that the router opened on request
	Relays   []string    `json:"relays"`   // peers through which others reach it
	Relaying bool        `json:"relaying"` // it serves as a relay
	Through  []string    `json:"through"`  // peers that carry its gossip, since it has only relayed connections
}

// ReachAddr is an address and its state.
type ReachAddr struct {
	Addr  string `json:"addr"`
	State string `json:"state"`
}

// Attempt is the latest try to reach a peer at an address.
type Attempt struct {
	PeerID  string    `json:"peer_id"`
	Addr    string    `json:"addr"`
	Source  string    `json:"source"` // how the address came here
	Outcome string    `json:"outcome"`
	Detail  string    `json:"detail"` // a sentence
	Time    time.Time `json:"time"`
	Next    time.Time `json:"next,omitzero"` // when it is tried again; zero if that is not planned
}

// Member is a validator of the genesis as this node sees it.
type Member struct {
	Index     int       `json:"index"`
	Name      string    `json:"name"`
	PeerID    string    `json:"peer_id"`
	Self      bool      `json:"self"`
	Connected bool      `json:"connected"`
	Gone      bool      `json:"gone"`
	Heard     time.Time `json:"heard,omitzero"`
	Link      bool      `json:"link"` // the stream for votes is open; between validators only
}

// LedgerState is what a node's ledger holds and takes.
type LedgerState struct {
	Tasks       int           `json:"tasks"` // settled: the ledger's height
	Open        int           `json:"open"`
	Escrow      ledger.Amount `json:"escrow"`
	Digest      crypto.Hash   `json:"digest"`
	Bytes       int64         `json:"bytes"` // on disk
	DiskFree    uint64        `json:"disk_free"`
	LastSettled time.Time     `json:"last_settled,omitzero"` // since the start
	Agreed      time.Time     `json:"agreed,omitzero"`       // when it was last found equal to that of a peer
	CaughtUp    time.Time     `json:"caught_up,omitzero"`    // when a peer last had nothing that was missing here
}

// ValidatorState is a validator's part.
type ValidatorState struct {
	Index        int         `json:"index"`
	Judge        crypto.Hash `json:"judge"`
	Signing      bool        `json:"signing"` // false until a quorum has confirmed what it signed before
	Refusal      string      `json:"refusal,omitempty"`
	Scored       uint64      `json:"scored"` // answers, since the start
	ScoresFailed uint64      `json:"scores_failed"`
	ScoreMS      float64     `json:"score_ms"` // mean
	SettleMS     float64     `json:"settle_ms"`
	VotelogBytes int64       `json:"votelog_bytes"`
}

// WorkerState is a worker's part.
type WorkerState struct {
	Engine   string  `json:"engine"`
	Busy     int     `json:"busy"`     // tasks that it has to do with
	Answered uint64  `json:"answered"` // since the start
	Declined uint64  `json:"declined"`
	Failed   uint64  `json:"failed"`
	AnswerMS float64 `json:"answer_ms"` // mean
}

// doubleFor is how long it is said that another process has the same identity, after a peer told of it last.
const doubleFor = 10 * time.Minute

// caughtUpFor is how long a node counts as caught up: with every syncEvery it is seen anew.
const caughtUpFor = 10 * syncEvery

// State returns how the node is.
func (n *Node) State() State {
	now := time.Now()
	s := State{
		Network: n.genesis.Network, Chain: n.domain.Chain, PeerID: n.host.ID().String(),
		Account: n.Account(), Balance: n.store.Account(n.Account()).Balance, Started: n.born, Addrs: []string{},
		Bandwidth: n.host.Bandwidth(), Gossip: n.host.Stats(), Topics: n.host.Topics(), Links: n.host.Links(), Peers: []PeerState{}, Models: n.Models(),
	}
	for _, a := range n.host.Addrs() {
		s.Addrs = append(s.Addrs, a.String())
	}
	s.Reach = reachOf(n.host.Reachability())
	names := map[string]string{}
	for _, v := range n.genesis.Validators {
		names[v.Peer] = v.Name
	}
	for _, p := range n.host.PeerInfos() {
		s.Peers = append(s.Peers, PeerState{p, names[p.ID.String()]})
	}
	s.Committee, s.Attempts = n.members(s.Peers), []Attempt{}
	for _, a := range n.host.Attempts() {
		s.Attempts = append(s.Attempts, Attempt{a.Peer.String(), a.Addr.String(), string(a.Source), string(a.Outcome), a.Detail, a.Time, a.Next})
	}
	if d, ok := n.host.Double(); ok && now.Sub(d.Time) < doubleFor {
		s.Double = d.Addr
	}
	s.Ledger = n.ledgerState()
	if n.self >= 0 {
		s.Validator = n.validatorState()
	}
	if n.worker != nil {
		m := n.meter
		ok := read(m.answers.WithLabelValues(resultOK))
		s.Worker = &WorkerState{
			Engine: n.cfg.engine.Name(), Busy: n.worker.busy(), Answered: ok.count, AnswerMS: ok.ms(),
			Declined: read(m.answers.WithLabelValues(resultDeclined)).count, Failed: read(m.answers.WithLabelValues(resultFailed)).count,
		}
	}
	s.Ready, s.Problems = n.judgeState(s, now)
	return s
}

func reachOf(r p2p.Reachability) Reach {
	out := Reach{State: r.Status, Addrs: []ReachAddr{}, Mapped: []string{}, Relays: []string{}, Relaying: r.Relaying, Through: []string{}}
	for _, a := range r.Addrs {
		out.Addrs = append(out.Addrs, ReachAddr{a.Addr.String(), a.Status})
	}
	for _, a := range r.Mapped {
		out.Mapped = append(out.Mapped, a.String())
	}
	for _, p := range r.Relays {
		out.Relays = append(out.Relays, p.String())
	}
	for _, p := range r.Through {
		out.Through = append(out.Through, p.String())
	}
	return out
}

func (n *Node) members(peers []PeerState) []Member {
	list := make([]Member, len(n.genesis.Validators))
	for i, v := range n.genesis.Validators {
		m := Member{Index: i, Name: v.Name, PeerID: v.Peer, Self: i == n.self, Gone: i != n.self}
		at := slices.IndexFunc(peers, func(p PeerState) bool { return p.ID.String() == v.Peer })
		if at >= 0 {
			p := peers[at]
			m.Connected, m.Gone, m.Heard = p.Connected, p.Gone, p.Heard
		}
		if id, err := peer.Decode(v.Peer); err == nil && n.self >= 0 && i != n.self {
			m.Link = n.links.Up(id)
		}
		list[i] = m
	}
	return list
}

func (n *Node) ledgerState() LedgerState {
	t := n.store.Totals()
	return LedgerState{
		Tasks: t.Tasks, Open: t.Open, Escrow: t.Escrow, Digest: n.store.Digest().Sum, Bytes: t.Tables + t.ValueLog, DiskFree: t.Free,
		LastSettled: moment(n.meter.settledAt.Load()), Agreed: moment(n.meter.agreedAt.Load()), CaughtUp: moment(n.meter.caughtAt.Load()),
	}
}

func moment(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

func (n *Node) validatorState() *ValidatorState {
	scored, settled := read(n.meter.judge.WithLabelValues(resultOK)), read(n.meter.spans.WithLabelValues(spanReveal))
	v := &ValidatorState{
		Index: n.self, Judge: n.genesis.Judge, Signing: n.meter.signing.Load(), Scored: scored.count, ScoreMS: scored.ms(), SettleMS: settled.ms(),
		ScoresFailed: read(n.meter.judge.WithLabelValues(resultFailed)).count, VotelogBytes: dirSize(n.votesDir()),
	}
	if err := n.Refusal(); err != nil {
		v.Refusal = err.Error()
	}
	return v
}

// judgeState says whether the node is ready, and what is not as it should be.
func (n *Node) judgeState(s State, now time.Time) (ready bool, problems []Problem) {
	problems = []Problem{}
	say := func(mend, format string, a ...any) {
		problems = append(problems, Problem{fmt.Sprintf(format, a...), mend})
	}
	ready = true
	if err := n.Err(); err != nil {
		ready = false
		say("start it again when the cause is mended", "this peer has stopped: %v", err)
	}
	if s.Validator != nil && s.Validator.Refusal != "" {
		ready = false
		say("see docs/operations.md, When something fails", "this validator signs nothing: %s", s.Validator.Refusal)
	}
	here := 0
	for _, p := range s.Peers {
		if !p.Gone {
			here++
		}
	}
	switch {
	case here == 0:
		ready = false
		mend := "let UDP and TCP through the firewall, start the others, or join with a new token; poq doctor tells more"
		if len(s.Attempts) == 0 {
			mend = "give it somebody to begin with, poq up --join TOKEN or --bootstrap ADDRESS, or start another one in its local network"
		}
		say(mend, "no other peer is connected%s", whyNot(s.Attempts))
	case now.Sub(s.Ledger.CaughtUp) > caughtUpFor:
		ready = false
		say("wait half a minute; if it stays, poq status shows who does not answer", "the ledger has not been compared with that of a peer yet")
	}
	away := 0
	for _, m := range s.Committee {
		if m.Gone && !m.Self {
			away++
		}
	}
	if faulty := len(s.Committee) - n.genesis.Quorum(); s.Validator != nil && away > faulty {
		say("start the validators that are away", "%d of %d validators are away: nothing is settled until at most %d are", away, len(s.Committee), faulty)
	}
	if s.Validator != nil && !s.Validator.Signing && s.Validator.Refusal == "" && here > 0 {
		say("start the other validators", "this validator does not sign yet: a quorum must first confirm what it signed before")
	}
	if lost := s.Gossip.Lost(); lost > 0 {
		say("give the machine more processor time, or run fewer peers on it", "%d gossip messages were lost for want of room: the machine, or a peer's, is too slow", lost)
	}
	if w := s.Worker; w != nil && w.Failed > max(2, w.Answered+w.Declined) {
		say("look into its log, and whether its model server runs", "the answer engine failed at %d of %d tasks", w.Failed, w.Failed+w.Answered+w.Declined)
	}
	if s.Double != "" {
		say("stop one of the two, or give it a directory of its own with poq init", "another process runs with this peer's identity at %s", s.Double)
	}
	if free := s.Ledger.DiskFree; free > 0 && free < lowDisk {
		say("make room on the disk", "only %d MiB are free for the ledger: below 64 the peer stops", free>>20)
	}
	return ready, problems
}

// whyNot tells what came of the latest attempts to reach somebody.
func whyNot(attempts []Attempt) string {
	const most = 3
	text := ""
	for i, a := range attempts {
		if i == most {
			return text + fmt.Sprintf("; and %d more addresses, see poq status", len(attempts)-most)
		}
		text += fmt.Sprintf("; %s: %s", a.Addr, a.Outcome)
		if a.Detail != "" {
			text += ", " + a.Detail
		}
	}
	if text == "" {
		return ": it knows nobody yet"
	}
	return text
}

// lowDisk is the space below which State complains.
const lowDisk = 512 << 20

// ms returns the mean in milliseconds.
func (t timed) ms() float64 { return float64(t.mean.Microseconds()) / 1000 }

// Comparison is how a peer's ledger compares with this one at one moment. While tasks are being settled ledgers differ
// by the latest of them.
type Comparison struct {
	PeerID string      `json:"peer_id"`
	Equal  bool        `json:"equal"`
	Tasks  int         `json:"tasks"` // settled there
	Digest crypto.Hash `json:"digest"`
	Error  string      `json:"error,omitempty"` // why it did not tell
}

const (
	maxCompared    = 32
	compareTimeout = 2 * time.Second
)

// Compare asks connected peers, validators first and at most 32, for the digest of their ledgers.
func (n *Node) Compare(ctx context.Context) []Comparison {
	peers := slices.DeleteFunc(n.host.PeerInfos(), func(p p2p.PeerInfo) bool { return p.Gone })
	rank := func(p p2p.PeerInfo) int {
		if i := n.genesis.ValidatorByPeer(p.ID.String()); i >= 0 {
			return i
		}
		return len(n.genesis.Validators)
	}
	slices.SortStableFunc(peers, func(a, b p2p.PeerInfo) int { return cmp.Compare(rank(a), rank(b)) })
	peers = peers[:min(len(peers), maxCompared)]
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	list := make([]Comparison, len(peers))
	var asking sync.WaitGroup
	for i, p := range peers {
		asking.Go(func() {
			list[i].PeerID = p.ID.String()
			before := n.store.Digest()
			d, err := remote{n, p.ID}.Digest(ctx)
			if err != nil {
				list[i].Error = err.Error()
				if errors.Is(err, context.DeadlineExceeded) {
					list[i].Error = "no answer in time"
				}
				return
			}
			list[i].Tasks, list[i].Digest = d.Tasks, d.Sum
			list[i].Equal = d == before || d == n.store.Digest()
		})
	}
	asking.Wait()
	return list
}

// PingPeers measures the latency of all connected peers at once, which State then tells. It returns after two seconds at
// the latest.
func (n *Node) PingPeers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	var pings sync.WaitGroup
	for _, p := range n.host.Peers() {
		pings.Go(func() { _, _ = n.host.Ping(ctx, p) }) // who does not answer keeps its old latency, and is gone soon
	}
	pings.Wait()
}
