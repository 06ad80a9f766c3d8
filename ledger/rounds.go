package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// Value is what an instance agrees on: S of the seal stage, V of the settle stage.
type Value struct {
	Task    TaskID
	Stage   Stage
	Seal    SealValue // StageSeal
	Outcome Outcome   // StageSettle
}

// Hash is what votes name: H(S) or H(V).
func (v *Value) Hash(d crypto.Domain) crypto.Hash {
	if v.Stage == StageSeal {
		return v.Seal.Hash(d)
	}
	return v.Outcome.Hash(d)
}

func (v *Value) append(b []byte) []byte {
	b = append(append(b, v.Task[:]...), byte(v.Stage))
	if v.Stage == StageSeal {
		return v.Seal.append(b)
	}
	return v.Outcome.append(b)
}

func readValue(r *crypto.Reader) *Value {
	v := &Value{Task: r.Hash(), Stage: Stage(r.Uint8())}
	switch v.Stage {
	case StageSeal:
		v.Seal = readSealValue(r)
	case StageSettle:
		v.Outcome = readOutcome(r)
	default:
		r.Fail()
	}
	return v
}

// Prepared proves that a quorum prepared a value in a round: from then on no other can be decided in
// a lower round.
type Prepared struct {
	Votes Certificate
	Value Value
}

func (p *Prepared) append(b []byte) []byte { return p.Value.append(p.Votes.append(b)) }

func readPrepared(r *crypto.Reader) *Prepared {
	return &Prepared{readCertificate(r), *readValue(r)}
}

// RoundChange is a NewRound vote with what it stands for: all that the validator knows of the instance.
// The vote binds it to what it says it holds. The certificates and signatures that prove this are not
// bound: any quorum's do (I15).
type RoundChange struct {
	Task     TaskID
	Stage    Stage
	Round    uint32
	Fast     bool              // it sent FastCommit; then all reveals are here
	Prepared *Prepared         // the highest prepared certificate that it holds, if any
	Claim    *Leaf             // in a justification, instead of a Prepared that another one is above: its vote
	Commits  SealValue         // seal: the score commitments that it holds
	Reveals  []RevealedOpening // settle: the openings that it holds, ascending by member
	Lock     *LockCert         // seal: so that whoever missed it can join
	Seal     *SealCert         // settle: the same
	Proof    VoteProof
}

func (m *RoundChange) validator() uint16 { return m.Proof.Header.Statement.Validator }

// claim is the vote of the prepared certificate that the validator says it holds, nil if none.
func (m *RoundChange) claim() *Leaf {
	if m.Prepared != nil {
		return &m.Prepared.Votes.Vote
	}
	return m.Claim
}

// Leaf is the vote that proves m.
func (m *RoundChange) Leaf(d crypto.Domain) Leaf {
	b := append(m.appendHead(nil), boolByte(m.Fast))
	b = appendClaim(b, m.claim())
	if m.Stage == StageSeal {
		b = m.Commits.appendStatements(b)
	} else {
		b = appendReveals(b, m.Reveals)
	}
	return Leaf{NewRound, m.Task, m.Stage, m.Round, d.Hash(kindRoundChange, b)}
}

func (m *RoundChange) appendHead(b []byte) []byte {
	b = append(append(b, m.Task[:]...), byte(m.Stage))
	return binary.BigEndian.AppendUint32(b, m.Round)
}

func appendClaim(b []byte, l *Leaf) []byte {
	b = append(b, boolByte(l != nil))
	if l != nil {
		b = append(binary.BigEndian.AppendUint32(b, l.Round), l.Value[:]...)
	}
	return b
}

func (m *RoundChange) append(b []byte) []byte {
	b = append(m.appendHead(b), boolByte(m.Fast), boolByte(m.Prepared != nil))
	if m.Prepared != nil {
		b = m.Prepared.append(b)
	}
	if m.Stage == StageSeal {
		b = m.Lock.append(m.Commits.append(b))
	} else {
		b = m.Seal.append(appendReveals(b, m.Reveals))
	}
	return m.Proof.append(b)
}

func readRoundChange(r *crypto.Reader) *RoundChange {
	m := &RoundChange{Task: r.Hash(), Stage: Stage(r.Uint8()), Round: r.Uint32(), Fast: readBool(r)}
	if readBool(r) {
		m.Prepared = readPrepared(r)
	}
	switch m.Stage {
	case StageSeal:
		m.Commits = readSealValue(r)
		m.Lock = readLockCert(r)
	case StageSettle:
		m.Reveals = readReveals(r)
		m.Seal = new(readSealCert(r))
	default:
		r.Fail()
	}
	m.Proof = readVoteProof(r)
	return m
}

// Proposal is a leader's Propose vote with the value and the quorum of round changes that leaves it no
// choice but this value.
type Proposal struct {
	Round         uint32
	Value         Value
	Justification []*RoundChange // ascending by validator, each once; they share their certificates
	Proof         VoteProof
}

// Leaf is the vote that proves m.
func (m *Proposal) Leaf(d crypto.Domain) Leaf {
	return Leaf{Propose, m.Value.Task, m.Value.Stage, m.Round, m.Value.Hash(d)}
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func readBool(r *crypto.Reader) bool {
	v := r.Uint8()
	if v > 1 {
		r.Fail()
	}
	return v == 1
}

// Leader returns the index of the validator that proposes in a round.
func Leader(g *Genesis, d crypto.Domain, task TaskID, s Stage, round uint32) int {
	h := d.Hash(kindLeader, append(task[:], byte(s)))
	return int((binary.BigEndian.Uint64(h[:]) + uint64(round)) % uint64(len(g.Validators)))
}

// preparedClaims checks a prepared certificate for an instance, below a round.
func (v *Verifier) preparedClaims(p *Prepared, task TaskID, s Stage, below uint32) ([]crypto.Claim, error) {
	want := Leaf{Prepare, task, s, p.Votes.Vote.Round, p.Value.Hash(v.domain)}
	if p.Value.Task != task || p.Value.Stage != s || p.Votes.Vote != want || want.Round >= below {
		return nil, malformed("prepared certificate is not of this instance and a lower round")
	}
	claims, err := v.certificateClaims(p.Votes)
	if err != nil || s != StageSeal {
		return claims, err
	}
	sealed, err := v.commitClaims(p.Value.Seal, task)
	return append(claims, sealed...), err
}

// commitClaims checks score commitments of a task.
func (v *Verifier) commitClaims(s SealValue, task TaskID) ([]crypto.Claim, error) {
	if err := s.check(v.genesis, task); err != nil {
		return nil, err
	}
	var claims []crypto.Claim
	for _, c := range s {
		k, err := claim(v, c)
		if err != nil {
			return nil, err
		}
		claims = append(claims, k)
	}
	return claims, nil
}

// voteClaim checks that a proof holds a leaf, and returns the signature on which that rests.
func (v *Verifier) voteClaim(p VoteProof, l Leaf) (crypto.Claim, error) {
	if err := l.check(); err != nil {
		return crypto.Claim{}, err
	}
	if err := p.proves(l); err != nil {
		return crypto.Claim{}, err
	}
	return claim(v, p.Header)
}

func (v *Verifier) roundChangeClaims(m *RoundChange) ([]crypto.Claim, error) {
	c, err := v.voteClaim(m.Proof, m.Leaf(v.domain))
	if err != nil {
		return nil, err
	}
	claims := []crypto.Claim{c}
	if l := m.Claim; l != nil && l.Round >= m.Round {
		return nil, malformed("round change that reports a prepared certificate of round %d", l.Round)
	}
	if m.Prepared != nil {
		more, err := v.preparedClaims(m.Prepared, m.Task, m.Stage, m.Round)
		if err != nil {
			return nil, err
		}
		claims = append(claims, more...)
	}
	if m.Stage == StageSeal {
		if m.Fast || m.Lock.Votes.Vote.Task != m.Task {
			return nil, malformed("round change of the seal stage")
		}
		lock, err := v.lockClaims(m.Lock.Order, m.Lock.Votes)
		if err != nil {
			return nil, err
		}
		commits, err := v.commitClaims(m.Commits, m.Task)
		return append(append(claims, lock...), commits...), err
	}
	if m.Seal.Votes.Vote.Task != m.Task {
		return nil, malformed("round change with the seal of another task")
	}
	for i, r := range m.Reveals {
		j := slices.IndexFunc(m.Seal.Value, func(c Signed[ScoreCommit]) bool { return c.Statement.Member == r.Member })
		if j < 0 || !r.Opening.Opens(v.domain, m.Seal.Value[j].Statement) || i > 0 && r.Member <= m.Reveals[i-1].Member {
			return nil, malformed("round change with a reveal that opens no sealed commitment")
		}
	}
	if m.Fast && len(m.Reveals) < len(m.Seal.Value) {
		return nil, malformed("round change that reports FastCommit without all reveals")
	}
	seal, err := v.sealClaims(*m.Seal, m.Task)
	return append(claims, seal...), err
}

func (v *Verifier) roundChange(m *RoundChange) error {
	claims, err := v.roundChangeClaims(m)
	if err != nil {
		return err
	}
	return v.verifyClaims(claims)
}

// proposal checks everything but that the value follows from the justification, which takes the order.
func (v *Verifier) proposal(m *Proposal) error {
	c, err := v.voteClaim(m.Proof, m.Leaf(v.domain))
	if err != nil {
		return err
	}
	if l := Leader(v.genesis, v.domain, m.Value.Task, m.Value.Stage, m.Round); int(m.Proof.Header.Statement.Validator) != l {
		return malformed("proposal of validator %d, the leader of round %d is %d", m.Proof.Header.Statement.Validator, m.Round, l)
	}
	if len(m.Justification) < v.genesis.Quorum() {
		return malformed("proposal with %d round changes, want %d", len(m.Justification), v.genesis.Quorum())
	}
	claims, err := v.commitClaims(m.Value.Seal, m.Value.Task)
	if err != nil {
		return err
	}
	claims = append(claims, c)
	highest := highestPrepared(m.Justification)
	for i, j := range m.Justification {
		if j.Claim != nil && (highest == nil || j.Claim.Round > highest.Votes.Vote.Round) {
			return malformed("validator %d reports a prepared certificate of round %d, which the proposal does not prove", j.validator(), j.Claim.Round)
		}
		if j.Task != m.Value.Task || j.Stage != m.Value.Stage || j.Round != m.Round || i > 0 && j.validator() <= m.Justification[i-1].validator() {
			return malformed("round changes of a proposal are not of its round, ascending by validator")
		}
		more, err := v.roundChangeClaims(j)
		if err != nil {
			return err
		}
		claims = append(claims, more...)
	}
	return v.verifyClaims(claims)
}

// Justified is value(J) of protocol §6, a pure function: (1) the value of the highest prepared
// certificate in J; else (2, 3) for settle what follows from all reveals in J, which are complete if
// a member of J sent FastCommit; for seal all commitments in J of members that have one there.
func Justified(g *Genesis, d crypto.Domain, task TaskID, s Stage, o Order, j []*RoundChange) Value {
	if highest := highestPrepared(j); highest != nil {
		return highest.Value
	}
	v := Value{Task: task, Stage: s}
	if s == StageSeal {
		v.Seal = unionCommits(j)
	} else {
		var reveals []RevealedOpening
		for _, m := range j {
			for _, r := range m.Reveals {
				if !slices.ContainsFunc(reveals, func(o RevealedOpening) bool { return o.Member == r.Member }) {
					reveals = append(reveals, r)
				}
			}
		}
		v.Outcome = Settle(g, d, task, o, j[0].Seal.Value, reveals)
	}
	return v
}

func highestPrepared(j []*RoundChange) (highest *Prepared) {
	for _, m := range j {
		if m.Prepared != nil && (highest == nil || m.Prepared.Votes.Vote.Round > highest.Votes.Vote.Round) {
			highest = m.Prepared
		}
	}
	return highest
}

// unionCommits collects the commitments of members that made exactly one.
func unionCommits(j []*RoundChange) (s SealValue) {
	commits := map[uint16]Signed[ScoreCommit]{}
	twice := map[uint16]bool{}
	for _, m := range j {
		for _, c := range m.Commits {
			member := c.Statement.Member
			if known, ok := commits[member]; ok && !bytes.Equal(known.Statement.append(nil), c.Statement.append(nil)) {
				twice[member] = true
			} else if !ok {
				commits[member] = c
			}
		}
	}
	for member, c := range commits {
		if !twice[member] {
			s = append(s, c)
		}
	}
	slices.SortFunc(s, func(a, b Signed[ScoreCommit]) int { return int(a.Statement.Member) - int(b.Statement.Member) })
	return s
}

// roundOver leaves a round that took too long, if a quorum came to it. With fewer validators the next one
// would bring no more, and the number of rounds would tell how long they were away. But who has lost what
// it said of the round in a crash goes on: the others may wait for just that.
func (e *Engine) roundOver(t *task, in *instance) {
	came := 0
	for _, m := range in.changes {
		if m.Round >= in.round {
			came++
		}
	}
	if in.round > 0 && in.own != nil && came < e.genesis.Quorum() {
		e.host.SetTimer(Timer{t.id, roundTimer(in.stage), in.round}, roundTime(in.round))
		return
	}
	e.enterRound(t, in, in.round+1)
}

// enterRound leaves the current round of an instance for a later one, and tells the others all that is
// known of it here.
func (e *Engine) enterRound(t *task, in *instance, round uint32) {
	if in.decided || round <= in.round || round > maxRound || e.self < 0 {
		return
	}
	in.round, in.proposal = round, nil
	m := &RoundChange{Task: t.id, Stage: in.stage, Round: round, Prepared: in.prepared}
	if in.stage == StageSeal {
		m.Lock = &LockCert{*t.order, t.lock}
		for member := range e.genesis.Validators {
			if c, ok := t.scoreCommits[uint16(member)]; ok {
				m.Commits = append(m.Commits, c)
			}
		}
	} else {
		m.Seal, m.Reveals = t.sealed, t.revealed()
		m.Fast = slices.ContainsFunc(e.sent[t.id], func(l Leaf) bool { return l.Kind == FastCommit })
	}
	in.own = m
	e.vote(m.Leaf(e.domain))
	e.host.SetTimer(Timer{t.id, roundTimer(in.stage), round}, roundTime(round))
}

func roundTimer(s Stage) TimerKind {
	if s == StageSeal {
		return SealRound
	}
	return SettleRound
}

// sendProven sends what belongs to an own vote, now that its bundle proves it.
func (e *Engine) sendProven(t *task, in *instance, l Leaf, u *Bundle, i int) {
	switch {
	case l.Kind == NewRound && in.own != nil && in.own.Leaf(e.domain) == l:
		m := *in.own
		m.Proof = u.Proof(i)
		e.host.Send(Everyone, &m)
		e.onRoundChange(t, &m)
	case l.Kind == Propose && in.proposal != nil && in.proposal.Leaf(e.domain) == l:
		m := *in.proposal
		m.Proof = u.Proof(i)
		e.host.Send(Everyone, &m)
		e.onProposal(t, &m)
	}
}

// onRoundChange takes what another validator knows of an instance.
func (e *Engine) onRoundChange(t *task, m *RoundChange) {
	in := t.instance(m.Stage)
	if in.decided {
		e.host.Send(int(m.validator()), t.sealed) // of a settled task, the host has the receipt
		return
	}
	if old, ok := in.changes[m.validator()]; ok && old.Round >= m.Round {
		return
	}
	in.changes[m.validator()] = m
	if m.Prepared != nil {
		in.values[m.Prepared.Value.Hash(e.domain)] = m.Prepared.Value
	}
	if m.Stage == StageSeal {
		for _, c := range m.Commits {
			e.onScoreCommit(t, c)
		}
	} else {
		e.onSealCert(t, m.Seal)
		for _, r := range m.Reveals {
			e.openReveal(t, r.Member, r.Opening)
		}
	}
	if e.tasks[t.id] != t || in.decided {
		return
	}
	e.joinRound(t, in)
	e.propose(t, in)
	e.step(t, m.Stage)
}

// joinRound follows when f+1 validators, so at least one honest, are in later rounds.
func (e *Engine) joinRound(t *task, in *instance) {
	var later []uint32
	for _, m := range in.changes {
		if m.Round > in.round {
			later = append(later, m.Round)
		}
	}
	if f := e.genesis.Faults(); len(later) > f {
		slices.Sort(later)
		e.enterRound(t, in, later[len(later)-1-f])
	}
}

// propose proposes a value once a quorum has entered the round that this validator leads.
func (e *Engine) propose(t *task, in *instance) {
	if in.round == 0 || in.proposal != nil || Leader(e.genesis, e.domain, t.id, in.stage, in.round) != e.self {
		return
	}
	var j []*RoundChange
	for member := range e.genesis.Validators {
		if m, ok := in.changes[uint16(member)]; ok && m.Round == in.round {
			j = append(j, m)
		}
	}
	if len(j) < e.genesis.Quorum() {
		return
	}
	v := Justified(e.genesis, e.domain, t.id, in.stage, t.order.Statement, j)
	in.proposal = &Proposal{Round: in.round, Value: v, Justification: j}
	e.vote(in.proposal.Leaf(e.domain))
}

// onProposal prepares the leader's value if it is the one that its justification leaves.
func (e *Engine) onProposal(t *task, m *Proposal) {
	in := t.instance(m.Value.Stage)
	for _, j := range m.Justification { // brings this validator into the round, if it is not there
		e.onRoundChange(t, j)
	}
	if e.tasks[t.id] != t || in.decided || in.round != m.Round {
		return
	}
	v := Justified(e.genesis, e.domain, t.id, in.stage, t.order.Statement, m.Justification)
	if v.Hash(e.domain) != m.Value.Hash(e.domain) {
		e.odd(t.id, fmt.Sprintf("the leader of round %d of the %v stage proposed a value that does not follow", m.Round, in.stage))
		return
	}
	e.prepare(t, in, v)
	e.step(t, in.stage)
}
