package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/poqmesh/poq/crypto"
)

// This file decides votes (protocol §6). Each locked task runs two instances of the agreement:
//
//	seal:   closes the set S of score commitments
//	settle: decides the outcome V
//
// In round 0 there is no leader: every validator that holds all score commitments, or all reveals,
// computes the one complete value by itself. In seal it prepares it; in settle, where no other value
// is possible, it sends FastCommit at once, the only phase. When something is missing for too long,
// validators leave the round, tell each other what they hold (NewRound), and the round's leader
// proposes the value that a quorum of these leaves it. A quorum of Prepare in a round leads to Commit,
// a quorum of Commit in any round, or of FastCommit, decides.

// maxRound bounds the rounds, so that a validator can't fill the memory of others. A round ends only
// after a quorum came to it, so this many have failed with a quorum at work.
const maxRound = 128

// How long a round lasts. Protocol §6 starts from 20 to 50 ms between machines of their own; these
// leave room for a whole network that shares two cores (poq bench settle).
const (
	sealGrace    = 500 * time.Millisecond // after all but f score commitments came
	silentGrace  = 50 * time.Millisecond  // the same, if those that are missing come from validators that were silent before
	revealGrace  = 500 * time.Millisecond // after the seal
	firstRound   = 200 * time.Millisecond // round 1; each further one lasts twice as long
	longestRound = 10 * time.Second
)

func roundTime(round uint32) time.Duration {
	if round > 6 {
		return longestRound
	}
	return min(longestRound, firstRound<<(round-1))
}

// instance is one agreement as this peer sees it.
type instance struct {
	stage    Stage
	round    uint32
	decided  bool
	complete bool // the value of round 0 was computed and voted for
	votes    tally
	values   map[crypto.Hash]Value   // those whose content is held
	prepared *Prepared               // the highest that is held
	changes  map[uint16]*RoundChange // the latest of each validator
	own      *RoundChange            // of this round; waits for the proof that it was voted
	proposal *Proposal               // this validator's, as the leader of this round
}

func newInstance(s Stage) instance {
	return instance{stage: s, values: map[crypto.Hash]Value{}, changes: map[uint16]*RoundChange{}}
}

// instance returns the instance of a stage.
func (t *task) instance(s Stage) *instance {
	if s == StageSeal {
		return &t.seal
	}
	return &t.settle
}

// tally counts votes. The first vote of a validator on a ballot is the one that counts.
type tally struct {
	first map[cast]crypto.Hash
	votes map[Leaf]map[uint16]VoteProof
}

type cast struct {
	validator uint16
	ballot    ballot
}

// add counts a vote. It reports false if the validator voted for something else before, and that vote.
func (t *tally) add(validator uint16, l Leaf, proof func() VoteProof) (first ProvenVote, ok bool) {
	if t.first == nil {
		t.first, t.votes = map[cast]crypto.Hash{}, map[Leaf]map[uint16]VoteProof{}
	}
	by := cast{validator, l.ballot()}
	if known, ok := t.first[by]; ok {
		same := l
		same.Value = known
		return ProvenVote{same, t.votes[same][validator]}, known == l.Value
	}
	t.first[by] = l.Value
	if t.votes[l] == nil {
		t.votes[l] = map[uint16]VoteProof{}
	}
	t.votes[l][validator] = proof()
	return ProvenVote{l, t.votes[l][validator]}, true
}

// certificate assembles a quorum of one vote, if there is one.
func (t *tally) certificate(vote Leaf, quorum int) (Certificate, bool) {
	votes := t.votes[vote]
	if len(votes) < quorum {
		return Certificate{}, false
	}
	c := Certificate{Vote: vote}
	for _, p := range votes {
		c.Proofs = append(c.Proofs, p)
	}
	slices.SortFunc(c.Proofs, func(a, b VoteProof) int {
		return int(a.Header.Statement.Validator) - int(b.Header.Statement.Validator)
	})
	c.Proofs = c.Proofs[:quorum]
	return c, true
}

// quorum finds the vote of some kind and round that a quorum cast. There is at most one.
func (t *tally) quorum(match func(Leaf) bool, quorum int) (Certificate, bool) {
	var best *Leaf
	for l, votes := range t.votes {
		if match(l) && len(votes) >= quorum && (best == nil || l.Round < best.Round) {
			best = &l
		}
	}
	if best == nil {
		return Certificate{}, false
	}
	return t.certificate(*best, quorum)
}

// vote casts a vote, once, after what it rests on is logged. It never contradicts an earlier one (I2)
// nor votes in a round that this validator has left (I3).
func (e *Engine) vote(l Leaf, basis ...Message) {
	if t, ok := e.tasks[l.Task]; ok && l.Stage != StageLock && l.Round < t.instance(l.Stage).round {
		return
	}
	for _, cast := range e.sent[l.Task] {
		if cast.ballot() != l.ballot() {
			continue
		}
		if cast.Value != l.Value {
			e.odd(l.Task, fmt.Sprintf("refused to contradict the own %v vote of the %v stage", l.Kind, l.Stage))
		}
		return
	}
	for _, m := range basis {
		e.host.Log(m)
	}
	e.sent[l.Task] = append(e.sent[l.Task], l)
	e.host.Vote(l)
}

// castLeaf counts leaf i of a bundle and takes the step that it may allow.
func (e *Engine) castLeaf(t *task, l Leaf, u *Bundle, i int) {
	votes := &t.locks
	switch l.Stage {
	case StageSeal:
		votes = &t.seal.votes
	case StageSettle:
		votes = &t.settle.votes
	}
	if l.Round > maxRound {
		return
	}
	validator, vote := u.Header.Statement.Validator, ProvenVote{l, VoteProof{}}
	if l.Stage != StageLock {
		end, left := t.instance(l.Stage).changes[validator]
		if left && l.Round < end.Round && u.Header.Statement.Seq > end.Proof.Header.Statement.Seq { // I3
			vote.Proof = u.Proof(i)
			e.accuse(&Evidence{Offence: VoteAfterEnd, Votes: [2]ProvenVote{{end.Leaf(e.domain), end.Proof}, vote}})
			return
		}
	}
	if first, ok := votes.add(validator, l, func() VoteProof { return u.Proof(i) }); !ok {
		vote.Proof = u.Proof(i)
		e.accuse(votesEvidence(first, vote))
		return
	}
	if l.Stage == StageLock {
		e.countLocks(t)
		return
	}
	if int(validator) == e.self {
		e.sendProven(t, t.instance(l.Stage), l, u, i)
	}
	e.step(t, l.Stage)
}

// sealGrace is how long round 0 of the seal still waits, now that all but f score commitments are there.
// A validator that is down costs every task little: only the first one waits for it.
func (e *Engine) sealGrace(t *task) time.Duration {
	for member := range e.genesis.Validators {
		if _, ok := t.scoreCommits[uint16(member)]; !ok && !e.silent[uint16(member)] {
			return sealGrace
		}
	}
	return silentGrace
}

// sealValue returns S_full once the commitments of the whole panel are held.
func (e *Engine) sealValue(t *task) (SealValue, bool) {
	if len(t.scoreCommits) < len(e.genesis.Validators) {
		return nil, false
	}
	s := make(SealValue, len(e.genesis.Validators))
	for member, c := range t.scoreCommits {
		s[member] = c
	}
	return s, true
}

// step takes the steps of an instance that are possible now.
func (e *Engine) step(t *task, s Stage) {
	if in := t.instance(s); e.tasks[t.id] != t || in.decided || !t.locked || e.self < 0 {
		return
	}
	if s == StageSeal {
		e.stepSeal(t)
	} else {
		e.stepSettle(t)
	}
}

func (e *Engine) stepSeal(t *task) {
	in := &t.seal
	if s, ok := e.sealValue(t); ok && in.round == 0 && !in.complete {
		in.complete = true
		e.prepare(t, in, Value{Task: t.id, Stage: StageSeal, Seal: s})
	}
	e.count(t, in)
}

func (e *Engine) stepSettle(t *task) {
	in := &t.settle
	if t.sealed == nil {
		return
	}
	if in.round == 0 && !in.complete && len(t.reveals) == len(t.sealed.Value) {
		in.complete = true
		v := Value{Task: t.id, Stage: StageSettle}
		v.Outcome = Settle(e.genesis, e.domain, t.id, t.order.Statement, t.sealed.Value, t.revealed())
		h := v.Hash(e.domain)
		in.values[h] = v
		e.vote(Leaf{FastCommit, t.id, StageSettle, 0, h}, &v)
	}
	e.count(t, in)
}

// prepare votes for a value in the current round.
func (e *Engine) prepare(t *task, in *instance, v Value) {
	h := v.Hash(e.domain)
	in.values[h] = v
	e.vote(Leaf{Prepare, t.id, in.stage, in.round, h})
}

// count looks for quorums.
func (e *Engine) count(t *task, in *instance) {
	quorum := e.genesis.Quorum()
	if cert, ok := in.votes.quorum(func(l Leaf) bool { return l.Kind == Prepare && l.Round == in.round }, quorum); ok {
		if v, held := in.values[cert.Vote.Value]; held {
			if in.prepared == nil || in.prepared.Votes.Vote.Round < in.round {
				in.prepared = &Prepared{cert, v}
			}
			e.vote(Leaf{Commit, t.id, in.stage, in.round, cert.Vote.Value}, in.prepared) // I4
		}
	}
	cert, ok := in.votes.quorum(func(l Leaf) bool { return l.Kind == Commit || l.Kind == FastCommit }, quorum)
	if !ok {
		return
	}
	v, held := in.values[cert.Vote.Value]
	if !held {
		return // whoever holds the content sends the certificate with it
	}
	if in.stage == StageSeal {
		e.onSealCert(t, &SealCert{v.Seal, cert})
		return
	}
	in.decided = true
	r := &Receipt{Order: *t.order, Lock: t.lock, Seal: *t.sealed, Outcome: v.Outcome, Settle: cert}
	if err := e.host.Settle(r); err != nil {
		e.odd(t.id, err.Error())
		return
	}
	e.finish(r)
}

// onSealCert closes the set of score commitments. Only now does this member show its scores (I13).
func (e *Engine) onSealCert(t *task, s *SealCert) {
	if t.seal.decided {
		if s.Votes.Vote.Value != t.sealed.Votes.Vote.Value {
			e.odd(t.id, fmt.Sprintf("two sets of score commitments are sealed (I1): more than %d validators contradict themselves", e.genesis.Faults()))
			for _, p := range contradictions(s.Votes, t.sealed.Votes) {
				e.accuse(p)
			}
		}
		return
	}
	t.seal.decided, t.sealed = true, s
	for member := range e.genesis.Validators {
		if !slices.ContainsFunc(s.Value, func(c Signed[ScoreCommit]) bool { return int(c.Statement.Member) == member }) {
			e.silent[uint16(member)] = true
		}
	}
	e.host.Log(s) // the settle vote will rest on it
	e.publish(t.id, StageSeal, s)
	e.host.Observe(Progress{Task: t.id, Step: Sealed})
	if own, ok := e.openings[t.id]; ok {
		for _, c := range s.Value {
			if int(c.Statement.Member) == e.self && c.Statement.Commitment == own.commit.Commitment {
				e.host.Reveal(Reveal{t.id, uint16(e.self), own.opening})
			}
		}
	}
	for _, c := range s.Value {
		if o, ok := t.earlyReveals[c.Statement.Member]; ok {
			e.openReveal(t, c.Statement.Member, o)
		}
	}
	clear(t.earlyReveals)
	e.host.SetTimer(Timer{t.id, SettleRound, t.settle.round}, revealGrace)
	e.step(t, StageSettle)
}

// publish gossips a certificate if this validator is one of the f+1 whose turn it is: at least one of
// them is honest, and n copies would only cost everybody's time. It does so for a certificate that it
// was sent, too: the sender may have had no turn. Gossip drops what it delivered here before.
func (e *Engine) publish(id TaskID, s Stage, cert Message) {
	if e.self < 0 {
		return
	}
	n := len(e.genesis.Validators)
	first := int(binary.BigEndian.Uint32(id[:])%uint32(n)) + int(s)
	if turn := (e.self - first%n + n) % n; turn <= e.genesis.Faults() {
		e.host.Publish(cert)
	}
}

// revealed returns the reveals that are held of a sealed task, ascending by member.
func (t *task) revealed() (reveals []RevealedOpening) {
	for _, c := range t.sealed.Value {
		if o, ok := t.reveals[c.Statement.Member]; ok {
			reveals = append(reveals, RevealedOpening{c.Statement.Member, o})
		}
	}
	return reveals
}

func sortAnswerIDs(ids []AnswerID) { slices.SortFunc(ids, AnswerID.Compare) }
