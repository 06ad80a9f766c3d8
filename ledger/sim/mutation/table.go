package main

// mutation is one way to break the core.
type mutation struct {
	name    string
	why     string   // why it is unsafe, or stops the ledger
	breaks  []string // invariants of the simulator; one of them must be noticed
	profile profile
	edits   []edit
}

// edit replaces a text that occurs once in a file, which is named by its path in the module.
type edit struct{ file, old, new string }

// Files of the core.
const (
	engine      = "ledger/engine.go"
	agreement   = "ledger/agreement.go"
	rounds      = "ledger/rounds.go"
	verify      = "ledger/verify.go"
	certificate = "ledger/certificate.go"
	vote        = "ledger/vote.go"
	settle      = "ledger/settle.go"
	score       = "ledger/score.go"
	state       = "ledger/state.go"
	genesis     = "ledger/genesis.go"
	lthash      = "ledger/lthash.go"
	outbox      = "ledger/votelog/outbox.go"
	receipt     = "ledger/receipt.go"
	votelog     = "ledger/votelog/votelog.go"
	segment     = "ledger/votelog/segment.go"
	domain      = "crypto/domain.go"
)

// mutations are all that the simulator must notice: first those that protocol §6 names.
var mutations = []mutation{
	{
		name: "fast-commit-after-new-round", why: "§6: a round's leader no longer knows who may have decided without a leader",
		breaks: []string{"I1", "I3"},
		edits: []edit{
			{agreement, "in.round == 0 && !in.complete && len(t.reveals)", "!in.complete && len(t.reveals)"},
			{agreement, "ok && l.Stage != StageLock && l.Round <", "ok && l.Stage != StageLock && l.Kind != FastCommit && l.Round <"},
		},
	},
	{
		name: "reported-fast-commit-ignored", why: "§6: a round decides something else than the FastCommits that somebody holds",
		breaks: []string{"I1"},
		edits: []edit{
			{rounds, "		for _, m := range j {\n			for _, r := range m.Reveals {", "		for _, m := range j {\n			if m.Fast {\n				continue\n			}\n			for _, r := range m.Reveals {"},
		},
	},
	{
		name: "highest-prepared-ignored", why: "§6: what a quorum prepared may be decided, and another value after it",
		breaks: []string{"I1"},
		edits:  []edit{{rounds, "	if highest := highestPrepared(j); highest != nil {", "	if highest := highestPrepared(j); highest != nil && s > StageSettle {"}},
	},
	{
		name: "votes-forgotten-in-a-crash", why: "§6: a validator that restarts contradicts itself",
		breaks: []string{"I1", "I2", "I3"},
		edits:  []edit{{engine, "	if !e.host.IsSettled(l.Task) && !slices.Contains(e.sent[l.Task], l) {", "	if !e.host.IsSettled(l.Task) && !slices.Contains(e.sent[l.Task], l) && l.Kind == LockVote {"}},
	},
	{
		name: "fast-commit-of-two-values", why: "§6: without all reveals there is more than one outcome, and no leader to choose",
		breaks: []string{"I1"},
		edits: []edit{
			{agreement, "!in.complete && len(t.reveals) == len(t.sealed.Value)", "!in.complete && len(t.reveals) >= min(e.genesis.Quorum(), len(t.sealed.Value))"},
			{rounds, "	if m.Fast && len(m.Reveals) < len(m.Seal.Value) {", "	if m.Fast && len(m.Reveals) < len(m.Seal.Value)-v.genesis.Faults() {"},
		},
	},

	// Quorums
	{
		name: "quorum-less-one", why: "two quorums need not share an honest validator",
		breaks: []string{"I1", "I4", "I8", "I11"},
		edits:  []edit{{genesis, "return len(g.Validators) - g.Faults() }", "return max(1, len(g.Validators)-g.Faults()-1) }"}},
	},
	{
		name: "faults-rounded-up", why: "n = 6 does not bear two Byzantine validators: a quorum of four may be two honest ones",
		breaks: []string{"I1", "I4", "I8", "I11"},
		edits:  []edit{{genesis, "return (len(g.Validators) - 1) / 3 }", "return len(g.Validators) / 3 }"}},
	},
	{
		name: "commit-without-quorum-of-prepare", why: "a value that is committed can be unknown to the next round's leader",
		breaks: []string{"I4"},
		edits:  []edit{{agreement, "l.Kind == Prepare && l.Round == in.round }, quorum)", "l.Kind == Prepare && l.Round == in.round }, max(1, quorum-1))"}},
	},
	{
		name: "decided-by-commits-of-many-rounds", why: "votes of different rounds add up to a quorum that never was",
		breaks: []string{"I1", "refused", "I11"},
		edits: []edit{
			{agreement, "	t.first[by] = l.Value\n", "	t.first[by] = l.Value\n	if l.Kind == Commit {\n		l.Round = 0\n	}\n"},
		},
	},
	{
		name: "votes-of-one-validator-add-up", why: "a vote that is sent again counts again",
		breaks: []string{"I11", "I4", "I1", "I8", "refused"},
		edits: []edit{
			{agreement, "	by := cast{validator, l.ballot()}", "	validator |= uint16(proof().Header.Statement.Seq%16) << 8\n	by := cast{validator, l.ballot()}"},
		},
	},
	{
		name: "signer-twice-in-a-certificate", why: "one Byzantine validator makes a quorum of its own votes",
		breaks: []string{"I9", "I11"}, profile: profile{adversary: "forger"},
		edits: []edit{{certificate, "if i > 0 && h.Validator == c.Proofs[i-1].Header.Statement.Validator {", "if i > 0 && h.Count == 0 {"}},
	},
	{
		name: "votes-of-a-certificate-not-counted", why: "a certificate proves nothing",
		breaks: []string{"I9", "I11"}, profile: profile{adversary: "forger"},
		edits: []edit{{certificate, "len(c.Proofs) < q {", "len(c.Proofs) < min(q, 1) {"}},
	},
	{
		name: "merkle-path-not-checked", why: "a signed bundle proves votes that are not in it",
		breaks: []string{"I9", "I11"}, profile: profile{adversary: "forger"},
		edits: []edit{{vote, "	case root != h.Root:", "	case root.IsZero():"}},
	},
	{
		name: "signatures-not-checked", why: "anybody votes for anybody",
		breaks: []string{"I9", "I11"}, profile: profile{adversary: "forger"},
		edits: []edit{{verify, "	if bad := v.sigs.VerifyAll(claims); len(bad) > 0 {", "	if bad := v.sigs.VerifyAll(claims); len(bad) > len(claims) {"}},
	},
	{
		name: "certificate-of-another-task", why: "the votes on one task settle another",
		breaks: []string{"I9", "I11"}, profile: profile{adversary: "forger"},
		edits: []edit{{vote, "	case l.Task != task:", "	case l.Task != task && s != StageLock:"}, {vote, "	case l.Value != value:", "	case l.Value != value && s != StageLock:"}},
	},

	// What is signed
	{
		name: "kind-not-signed", why: "a statement of one kind passes as one of another",
		breaks: []string{"I11"},
		edits:  []edit{{domain, "	b = append(b, kind...)\n", ""}},
	},
	{
		name: "chain-not-signed", why: "statements of one network hold in another",
		breaks: []string{"I11"},
		edits:  []edit{{domain, "	b = append(b, d.Chain[:]...)\n", "	b = append(b, make([]byte, len(d.Chain))...)\n"}},
	},
	{
		name: "epoch-not-signed", why: "votes of one committee hold in the next",
		breaks: []string{"I11"},
		edits:  []edit{{domain, "AppendUint64(b, d.Epoch)", "AppendUint64(b, 0)"}},
	},
	{
		name: "round-not-signed", why: "a vote of one round counts in another",
		breaks: []string{"I1", "I2", "I3", "I11", "refused", "I4"},
		edits:  []edit{{vote, "	b = binary.BigEndian.AppendUint32(b, l.Round)\n	return append(b, l.Value[:]...)", "	b = binary.BigEndian.AppendUint32(b, 0)\n	return append(b, l.Value[:]...)"}},
	},

	// Rounds
	{
		name: "votes-in-a-round-that-was-left", why: "what the next round's leader was told is no longer true",
		breaks: []string{"I1", "I3"},
		edits: []edit{
			{agreement, "ok && l.Stage != StageLock && l.Round <", "ok && l.Stage > StageSettle && l.Round <"},
			{agreement, "l.Kind == Prepare && l.Round == in.round }", "l.Kind == Prepare && l.Round <= in.round }"},
			{agreement, "e.vote(Leaf{Commit, t.id, in.stage, in.round, cert", "e.vote(Leaf{Commit, t.id, in.stage, cert.Vote.Round, cert"},
		},
	},
	{
		name: "proposal-of-a-round-that-was-left", why: "a late proposal brings votes of the present round without a justification",
		breaks: []string{"I1", "I3", "value(J)"},
		edits:  []edit{{rounds, "in.decided || in.round != m.Round {", "in.decided || in.round < m.Round {"}},
	},
	{
		name: "lowest-prepared-wins", why: "a value that a later round decided is overruled by an older one",
		breaks: []string{"I1", "value(J)"}, profile: profile{validators: 4, faults: "delay,crash", adversary: "mixed"},
		edits: []edit{{rounds, "	if highest := highestPrepared(j); highest != nil {", "	highest := highestPrepared(j)\n	for _, m := range j {\n		if m.Prepared != nil && m.Prepared.Votes.Vote.Round < highest.Votes.Vote.Round {\n			highest = m.Prepared\n		}\n	}\n	if highest != nil {"}},
	},
	{
		name: "prepared-not-reported", why: "the next leader does not learn what may be decided",
		breaks: []string{"I1", "reported"},
		edits:  []edit{{rounds, "Round: round, Prepared: in.prepared}", "Round: round}"}},
	},
	{
		name: "proposal-not-compared", why: "a Byzantine leader proposes what it likes",
		breaks: []string{"I1", "value(J)"}, profile: profile{adversary: "forger"},
		edits: []edit{
			{rounds, "	if v.Hash(e.domain) != m.Value.Hash(e.domain) {", "	v = m.Value\n	if v.Hash(e.domain) != m.Value.Hash(e.domain) {"},
		},
	},
	{
		name: "justification-without-quorum", why: "a Byzantine leader leaves out who could have decided",
		breaks: []string{"I1", "value(J)"}, profile: profile{adversary: "forger"},
		edits: []edit{
			{rounds, "	if len(m.Justification) < v.genesis.Quorum() {", "	if len(m.Justification) < 1 {"},
		},
	},
	{
		name: "justification-counts-twice", why: "a Byzantine leader makes a quorum of one validator's word",
		breaks: []string{"I1", "value(J)"}, profile: profile{adversary: "forger"},
		edits: []edit{{rounds, "i > 0 && j.validator() <= m.Justification[i-1].validator()", "i > 0 && j.validator() < m.Justification[i-1].validator()"}},
	},
	{
		name: "claim-without-certificate", why: "a Byzantine leader leaves out what an honest validator has prepared",
		breaks: []string{"I1", "value(J)"}, profile: profile{adversary: "forger"},
		edits: []edit{{rounds, "if j.Claim != nil && (highest == nil || j.Claim.Round > highest.Votes.Vote.Round) {", "if j.Claim != nil && highest == nil && j.Claim.Round > m.Round {"}},
	},
	{
		name: "prepared-of-another-task", why: "a Byzantine validator forces a value that nobody prepared",
		breaks: []string{"I1", "I3", "value(J)", "refused", "liveness", "panic"}, profile: profile{adversary: "forger"},
		edits: []edit{
			{rounds, "	want := Leaf{Prepare, task, s, p.Votes.Vote.Round, p.Value.Hash(v.domain)}\n	if p.Value.Task != task || p.Value.Stage != s || p.Votes.Vote != want || want.Round >= below {", "	want := Leaf{Prepare, p.Value.Task, p.Value.Stage, p.Votes.Vote.Round, p.Value.Hash(v.domain)}\n	if p.Votes.Vote != want {"},
			{rounds, "	sealed, err := v.commitClaims(p.Value.Seal, task)", "	sealed, err := v.commitClaims(p.Value.Seal, p.Value.Task)"},
		},
	},
	{
		name: "prepared-without-votes", why: "a Byzantine validator forces a value that nobody prepared",
		breaks: []string{"I1", "value(J)"}, profile: profile{adversary: "forger"},
		edits: []edit{{rounds, "	claims, err := v.certificateClaims(p.Votes)\n	if err != nil || s != StageSeal {", "	claims, err := []crypto.Claim(nil), p.Votes.Vote.check()\n	if err != nil || s != StageSeal {"}},
	},
	{
		name: "double-commitments-count", why: "§6: who commits twice chooses by its leader which of them is sealed",
		breaks: []string{"I1", "value(J)"},
		edits:  []edit{{rounds, "				twice[member] = true", "				twice[member] = false"}},
	},

	// Durability
	{
		name: "sent-before-the-log-is-synced", why: "a crash forgets a vote that others hold",
		breaks: []string{"I5", "I2"},
		edits: []edit{
			{outbox, "	if err := o.log.Sync(); err != nil {\n		return nil, nil, err\n	}\n", ""},
			{outbox, "		for _, f := range append(signed, outgoing...) {\n			f(n)\n		}\n", "		for _, f := range append(signed, outgoing...) {\n			f(n)\n		}\n		if own {\n			if err := o.log.Sync(); err != nil {\n				return err\n			}\n		}\n"},
		},
	},
	{
		name: "sync-without-sync", why: "the loss of power forgets votes that others hold",
		breaks: []string{"I5", "I2"},
		edits:  []edit{{votelog, "	return f.Sync()\n}\n\n// rotate", "	return nil\n}\n\n// rotate"}},
	},
	{
		name: "basis-not-logged", why: "after a crash a validator no longer shows what its votes rest on",
		breaks: []string{"I5", "reported"},
		edits:  []edit{{outbox, "range o.basis {\n		o.log.Message(m)\n", "range o.basis {\n		_ = m\n"}},
	},
	{
		name: "openings-not-logged", why: "§6: after a crash a member commits to other scores",
		breaks: []string{"I5", "innocent"},
		edits:  []edit{{outbox, "		o.log.Opening(s.commit, s.opening)\n", "		_ = s\n"}},
	},
	{
		name: "new-round-forgotten-in-a-crash", why: "a validator votes in a round that it had left",
		breaks: []string{"I3", "innocent", "I1"},
		edits:  []edit{{engine, "	if !e.host.IsSettled(l.Task) && !slices.Contains(e.sent[l.Task], l) {", "	if !e.host.IsSettled(l.Task) && !slices.Contains(e.sent[l.Task], l) && l.Kind != NewRound {"}},
	},
	{
		name: "round-lowered-by-a-restart", why: "a validator votes in a round that it had left",
		breaks: []string{"I3", "innocent", "I1"},
		edits:  []edit{{engine, "			in.round = max(in.round, l.Round)\n", "			in.round = max(in.round, l.Round-1)\n"}},
	},
	{
		name: "lock-votes-forgotten-in-a-crash", why: "after a restart a payer's money is promised twice",
		breaks: []string{"I8", "I9"},
		edits:  []edit{{engine, "!applied && e.voted[nonceOf(o)].IsZero() {", "!applied && e.voted[nonceOf(o)].IsZero() && o.Fee == 0 {"}},
	},
	{
		name: "prepared-forgotten-in-a-crash", why: "after a restart a validator no longer reports what it committed to",
		breaks: []string{"I1", "reported"},
		edits:  []edit{{engine, "m.Votes.Vote.Round {\n				in.prepared = m", "m.Votes.Vote.Round {\n				in.prepared = nil"}},
	},
	{
		name: "reveals-forgotten-in-a-crash", why: "after a restart a validator no longer reports the reveals of its FastCommit",
		breaks: []string{"I1", "reported", "refused"},
		edits:  []edit{{engine, "				t.reveals[r.Member] = r.Opening\n", "				_ = r\n"}},
	},
	{
		name: "numbers-begin-anew-after-a-restart", why: "two bundles with one number",
		breaks: []string{"I2"},
		edits:  []edit{{votelog, "u != nil && u.Header.Statement.Seq >= l.header.tip.seq {", "u != nil && l.header.number == 0 {"}},
	},
	{
		name: "marks-ignored", why: "a validator with an older log signs again what it has forgotten",
		breaks: []string{"silent"},
		edits:  []edit{{outbox, "if end := o.log.tip.seq; h.Seq >= end {", "if end := o.log.tip.seq; h.Seq > end+1<<32 {"}},
	},
	{
		name: "signs-before-others-have-told", why: "a validator with an older log signs before it can know",
		breaks: []string{"silent"}, profile: profile{validators: 4, faults: "restore,partition", adversary: "none"},
		edits: []edit{{outbox, "len(o.marked) >= o.Genesis.Quorum()-1, o.refused", "len(o.marked) >= 0, o.refused"}},
	},
	{
		name: "torn-group-taken-for-whole", why: "what a crash left of a group is replayed as if it had been synced",
		breaks: []string{"log opens", "I5", "I2"}, profile: profile{faults: "crash,disk"},
		edits: []edit{{segment, "end > h.size || groupHash(p.chain, segment[p.at:end]) != g.hash {", "end > h.size {"}},
	},
	{
		name: "open-tasks-purged", why: "a new segment of the log forgets votes on tasks that are not settled",
		breaks: []string{"I5", "I2"},
		edits:  []edit{{votelog, "func(t ledger.TaskID) bool { return !p.ledger.IsSettled(t) }) {", "func(t ledger.TaskID) bool { return p.ledger.IsSettled(t) }) {"}},
	},
	{
		name: "purged-before-settled-durably", why: "a crash forgets a settlement, and the log its votes",
		breaks: []string{"I5", "I2", "I1", "log opens"}, profile: profile{faults: "crash,disk"},
		edits: []edit{{votelog, "	if err := p.ledger.Flush(); err != nil {", "	if err := error(nil); err != nil {"}},
	},
	{
		name: "old-segment-removed-first", why: "a crash while the log moves to a new segment loses both",
		breaks: []string{"I5", "I2", "log opens"}, profile: profile{faults: "crash,disk"},
		edits: []edit{
			{votelog, "	before, name := l.file, segmentName(l.header.number)\n", "	before, name := l.file, segmentName(l.header.number)\n	if err := errors.Join(l.config.Disk.Remove(name), l.config.Disk.Sync()); err != nil {\n		return err\n	}\n"},
		},
	},
	{
		name: "segment-valid-before-it-is-whole", why: "a crash leaves a segment without what was carried over to it",
		breaks: []string{"I5", "I2", "log opens"}, profile: profile{faults: "crash,disk"},
		edits: []edit{{votelog, "	data := make([]byte, h.size)\n", "	data := make([]byte, h.size)\n	copy(data, h.encode())\n"}},
	},

	// Locks and money
	{
		name: "two-orders-with-one-nonce", why: "a payer spends twice",
		breaks: []string{"I8", "I2"},
		edits: []edit{
			{engine, "ok && other != t.id {\n		if first", "ok && other != t.id && o.Fee == 0 {\n		if first"},
			{engine, "	if _, again := e.voted[at]; !again {", "	if other, again := e.voted[at]; !again || other != t.id {"},
		},
	},
	{
		name: "promised-fees-not-reserved", why: "a payer's balance is promised to many orders",
		breaks: []string{"I9"},
		edits:  []edit{{engine, "balance < int64(e.reserved[o.Payer]+o.Fee)", "balance < int64(o.Fee)"}},
	},
	{
		name: "previous-order-not-compared", why: "§4: orders that no validator can pay together are certified",
		breaks: []string{"I9", "order chain"},
		edits:  []edit{{engine, "		if before != o.Previous {", "		if before != o.Previous && o.Fee == 0 {"}},
	},
	{
		name: "lock-applied-twice", why: "a fee is taken twice",
		breaks: []string{"I6", "I8", "I9", "I10"},
		edits:  []edit{{state, "(I8)\", ErrConflict, known.Short(), task.Short(), o.Nonce, o.Payer.Short())\n		}\n		return false, nil", "(I8)\", ErrConflict, known.Short(), task.Short(), o.Nonce, o.Payer.Short())\n		}\n		if _, open := s.escrow[task]; !open {\n			return false, nil\n		}"}},
	},
	{
		name: "outcome-applied-twice", why: "a fee is paid out twice",
		breaks: []string{"I6", "I8", "I10"},
		edits:  []edit{{state, "(I1)\", ErrConflict, task.Short(), known.Short(), outcome.Short())\n		}\n		return false, nil", "(I1)\", ErrConflict, task.Short(), known.Short(), outcome.Short())\n		}"}},
	},
	{
		name: "escrow-not-freed", why: "money is made",
		breaks: []string{"I6"},
		edits:  []edit{{state, "	delete(s.escrow, task)\n	s.escrowed -= o.Fee\n", ""}},
	},
	{
		name: "digest-depends-on-order", why: "two peers with one ledger do not know that they agree",
		breaks: []string{"I10"},
		edits:  []edit{{lthash, "	b.hash.Add(settledElement(s.domain, task, outcome))", "	d := s.Digest()\n	b.hash.Add(settledElement(s.domain, d.Sum, outcome))"}},
	},

	// Scores and outcomes
	{
		name: "reveal-before-the-seal", why: "scores can be copied",
		breaks: []string{"I13"},
		edits:  []edit{{engine, "	e.openings[t.id] = logged{c, o}\n", "	e.openings[t.id] = logged{c, o}\n	e.host.Reveal(Reveal{t.id, uint16(e.self), o})\n"}},
	},
	{
		name: "reveal-need-not-open", why: "a member shows other scores than it committed to",
		breaks: []string{"I11", "I12"}, profile: profile{adversary: "forger"},
		edits: []edit{{score, "	if o.commitment(d, c) != c.Commitment {", "	if o.commitment(d, c) == (crypto.Hash{}) {"}},
	},
	{
		name: "commitment-of-any-member", why: "a member copies another's commitment, and later its reveal",
		breaks: []string{"I11", "I12"},
		edits:  []edit{{score, "	c.Commitment = crypto.Hash{}\n", "	c.Commitment, c.Member = crypto.Hash{}, 0\n"}},
	},
	{
		name: "credits-unsorted", why: "peers compute different outcomes",
		breaks: []string{"I11", "liveness", "refused", "I1", "I10", "I15", "innocent"},
		edits:  []edit{{settle, "	slices.SortFunc(v.Outcome.Credits, func(a, b CreditAmount) int { return a.Account.Compare(b.Account) })\n", ""}},
	},
	{
		name: "ties-broken-by-arrival", why: "peers rank equal answers differently",
		breaks: []string{"I11", "liveness", "refused", "I1", "innocent"},
		edits:  []edit{{settle, "return cmp.Or(cmp.Compare(b.Score, a.Score), bytes.Compare(x[:], y[:]))", "return cmp.Or(cmp.Compare(b.Score, a.Score), 0*bytes.Compare(x[:], y[:]))"}},
	},
	{
		name: "ties-broken-by-id", why: "§7: a worker grinds its place",
		breaks: []string{"I11"},
		edits:  []edit{{settle, "a.Answer.append(v.Outcome.Seal[:]))", "a.Answer.append(nil))"}},
	},
	{
		name: "upper-median", why: "§7: b liars of 3b+1 move a score",
		breaks: []string{"I11"},
		edits:  []edit{{settle, "return list[(len(list)-1)/2]", "return list[len(list)/2]"}},
	},
	{
		name: "remainder-dropped", why: "an outcome pays less than its fee",
		breaks: []string{"I7", "I11", "liveness"},
		edits:  []edit{{settle, "	for _, i := range order[:left] {", "	for _, i := range order[:0*left] {"}},
	},
	{
		name: "refund-to-a-validator", why: "§7: validators earn by censoring",
		breaks: []string{"I11"},
		edits:  []edit{{settle, "	credits[order.Payer] += v.Refund", "	credits[g.Validators[0].Account] += v.Refund"}},
	},
	{
		name: "eligible-by-fewer", why: "§7: liars alone make an answer eligible",
		breaks: []string{"I11"},
		edits:  []edit{{settle, "v.rank(d, 2*((panel-1)/3)+1)", "v.rank(d, max(1, 2*((panel-1)/3)))"}},
	},
	{
		name: "paid-by-its-own-median", why: "§7: a lonely liar pulls the median that it is compared with",
		breaks: []string{"I11"},
		edits:  []edit{{settle, "lowerMedian(a.Scores, j)) <= split.Band", "lowerMedian(a.Scores, -1)) <= split.Band"}},
	},
	{
		name: "outcome-names-signers", why: "I15: whoever assembles a certificate chooses the outcome",
		breaks: []string{"I11", "I15", "I1", "liveness", "refused"},
		edits:  []edit{{agreement, "		h := v.Hash(e.domain)\n		in.values[h] = v\n		e.vote(Leaf{FastCommit", "		v.Outcome.Seal = crypto.Sum(v.Outcome.Seal[:])\n		for _, p := range t.sealed.Votes.Proofs {\n			v.Outcome.Seal = crypto.Sum(append(v.Outcome.Seal[:], byte(p.Header.Statement.Validator)))\n		}\n		h := v.Hash(e.domain)\n		in.values[h] = v\n		e.vote(Leaf{FastCommit"}},
	},
	{
		name: "outcome-of-a-receipt-not-compared", why: "whoever hands on a receipt says who is paid",
		breaks: []string{"I10", "I11"}, profile: profile{adversary: "forger"},
		edits: []edit{{receipt, "	if !bytes.Equal(again.append(nil), r.Outcome.append(nil)) {", "	if bytes.Equal(again.append(nil), nil) {"}},
	},

	// What stops the ledger
	{
		name: "nothing-sent-again", why: "what was lost stays lost",
		breaks: []string{"liveness"},
		edits:  []edit{{engine, "			e.resend(t)\n", ""}},
	},
	{
		name: "round-timer-not-set", why: "a round whose leader is down never ends",
		breaks: []string{"liveness"},
		edits:  []edit{{rounds, "	e.vote(m.Leaf(e.domain))\n	e.host.SetTimer(Timer{t.id, roundTimer(in.stage), round}, roundTime(round))\n", "	e.vote(m.Leaf(e.domain))\n"}},
	},
	{
		name: "rounds-not-joined", why: "validators stay in different rounds",
		breaks: []string{"liveness"},
		edits:  []edit{{rounds, "len(later) > f {", "len(later) > f+len(e.genesis.Validators) {"}},
	},
	{
		name: "one-validator-moves-the-round", why: "a Byzantine validator drives the others through the rounds",
		breaks: []string{"liveness"},
		edits: []edit{{rounds, "len(later) > f {", "len(later) > 0*f {"},
			{rounds, "later[len(later)-1-f]", "later[len(later)-1]"}},
	},
	{
		name: "waiting-orders-forgotten", why: "an order that came before the one before it is never voted for",
		breaks: []string{"liveness"},
		edits:  []edit{{engine, "	if t, ok := e.tasks[id]; ok && !t.locked && t.order != nil {\n		e.voteLock(t)", "	if t, ok := e.tasks[id]; ok && !t.locked && t.order == nil {\n		e.voteLock(t)"}},
	},
	{
		name: "reserved-fees-not-freed", why: "a payer's balance is promised for ever",
		breaks: []string{"liveness"},
		edits:  []edit{{engine, "	e.reserved[o.Payer] -= o.Fee\n	if e.reserved", "	if e.reserved"}},
	},
	{
		name: "seal-of-round-0-waits-for-all", why: "one silent validator keeps every task open",
		breaks: []string{"liveness"},
		edits: []edit{{engine, "		e.host.SetTimer(Timer{t.id, SealRound, 0}, time.Duration(o.ScoreDeadline)*time.Millisecond+sealGrace)\n", ""},
			{engine, "		e.host.SetTimer(Timer{t.id, SealRound, 0}, e.sealGrace(t))\n", ""}},
	},
}
