package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// This file decides votes (protocol §6). Each locked task runs two instances of the agreement:
//
//	seal:   Prepare(r, H(S)), then Commit(r, H(S)) by a quorum closes the set of score commitments
//	settle: FastCommit(H(V)) by a quorum in round 0 decides the outcome; no other value is possible
//	        there, since the sealed commitments bind the scores
//
// In round 0 there is no leader: every validator that holds all score commitments, or all reveals,
// computes the one value by itself.

// maxRound bounds the rounds for which votes are counted, so that a validator can't fill the memory.
const maxRound = 64

// instance is one agreement as this peer sees it.
type instance struct {
	round   uint32
	votes   tally
	decided bool
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

// add counts a vote. It reports false if the validator voted for something else before.
func (t *tally) add(validator uint16, l Leaf, proof func() VoteProof) bool {
	if t.first == nil {
		t.first, t.votes = map[cast]crypto.Hash{}, map[Leaf]map[uint16]VoteProof{}
	}
	by := cast{validator, l.ballot()}
	if known, ok := t.first[by]; ok {
		return known == l.Value
	}
	t.first[by] = l.Value
	if t.votes[l] == nil {
		t.votes[l] = map[uint16]VoteProof{}
	}
	t.votes[l][validator] = proof()
	return true
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

// vote casts a vote, once. It never contradicts an earlier one (I2).
func (e *Engine) vote(l Leaf) {
	for _, cast := range e.sent[l.Task] {
		if cast.ballot() != l.ballot() {
			continue
		}
		if cast.Value != l.Value {
			e.evidence(l.Task, fmt.Sprintf("refused to contradict the own %v vote of the %v stage", l.Kind, l.Stage))
		}
		return
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
	validator := u.Header.Statement.Validator
	if !votes.add(validator, l, func() VoteProof { return u.proof(i) }) {
		e.evidence(t.id, fmt.Sprintf("validator %d signed two %v votes of the %v stage", validator, l.Kind, l.Stage))
		return
	}
	switch l.Stage {
	case StageLock:
		e.countLocks(t)
	case StageSeal:
		e.stepSeal(t)
	case StageSettle:
		e.stepSettle(t)
	}
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

// stepSeal takes the steps of the seal instance that are possible now.
func (e *Engine) stepSeal(t *task) {
	if t.seal.decided || t.seal.round != 0 || !t.locked || e.self < 0 {
		return
	}
	value, ok := e.sealValue(t)
	if !ok {
		return
	}
	leaf := func(k LeafKind) Leaf { return Leaf{k, t.id, StageSeal, t.seal.round, value.Hash(e.domain)} }
	e.vote(leaf(Prepare))
	if _, prepared := t.seal.votes.certificate(leaf(Prepare), e.genesis.Quorum()); !prepared {
		return
	}
	e.vote(leaf(Commit)) // I4: the prepared certificate of this round is held
	if cert, ok := t.seal.votes.certificate(leaf(Commit), e.genesis.Quorum()); ok {
		s := &SealCert{value, cert}
		e.onSealCert(t, s)
	}
}

// onSealCert closes the set of score commitments. Only now does this member show its scores (I13).
func (e *Engine) onSealCert(t *task, s *SealCert) {
	if t.seal.decided {
		return
	}
	t.seal.decided, t.sealed = true, s
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
	e.stepSettle(t)
}

// stepSettle takes the steps of the settle instance that are possible now.
func (e *Engine) stepSettle(t *task) {
	if t.settle.decided || t.settle.round != 0 || t.sealed == nil || len(t.reveals) < len(t.sealed.Value) || e.self < 0 {
		return
	}
	value := e.outcome(t)
	vote := Leaf{FastCommit, t.id, StageSettle, 0, value.Hash(e.domain)}
	e.vote(vote)
	cert, ok := t.settle.votes.certificate(vote, e.genesis.Quorum())
	if !ok {
		return
	}
	t.settle.decided = true
	r := &Receipt{Order: *t.order, Lock: t.lock, Seal: *t.sealed, Outcome: value, Settle: cert}
	if err := e.host.Settle(r); err != nil {
		e.evidence(t.id, err.Error())
		return
	}
	e.finish(r)
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

// outcome is V_full: Settle over the reveals that are held, ascending by member.
func (e *Engine) outcome(t *task) Outcome {
	var reveals []RevealedOpening
	for _, c := range t.sealed.Value {
		if o, ok := t.reveals[c.Statement.Member]; ok {
			reveals = append(reveals, RevealedOpening{c.Statement.Member, o})
		}
	}
	return Settle(e.genesis, e.domain, t.id, t.order.Statement, t.sealed.Value, reveals)
}

func sortAnswerIDs(ids []AnswerID) { slices.SortFunc(ids, AnswerID.Compare) }
