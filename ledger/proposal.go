package ledger

import (
	"encoding/binary"

	"github.com/poqmesh/poq/crypto"
)

// A proposal carries what its round changes have in common once: the lock or the seal, the highest
// prepared certificate, and each score commitment or reveal. Written out, the round changes of 64
// validators would take megabytes.

func (m *Proposal) append(b []byte) []byte {
	b = m.Value.append(binary.BigEndian.AppendUint32(b, m.Round))
	sealing := m.Value.Stage == StageSeal
	if sealing {
		b = m.Justification[0].Lock.append(b)
	} else {
		b = m.Justification[0].Seal.append(b)
	}
	highest := highestPrepared(m.Justification)
	if b = append(b, boolByte(highest != nil)); highest != nil {
		b = highest.append(b)
	}
	var commits table[Signed[ScoreCommit]]
	var reveals table[RevealedOpening]
	var reports []byte
	for _, j := range m.Justification {
		reports = appendClaim(append(reports, boolByte(j.Fast)), j.claim())
		reports = crypto.AppendCount(reports, len(j.Commits)+len(j.Reveals))
		for _, c := range j.Commits {
			reports = binary.BigEndian.AppendUint16(reports, commits.index(c, c.Statement.append(nil)))
		}
		for _, r := range j.Reveals {
			reports = binary.BigEndian.AppendUint16(reports, reveals.index(r, appendReveals(nil, []RevealedOpening{r})))
		}
		reports = j.Proof.append(reports)
	}
	if sealing {
		b = SealValue(commits.entries).append(b)
	} else {
		b = appendReveals(b, reveals.entries)
	}
	b = append(crypto.AppendCount(b, len(m.Justification)), reports...)
	return m.Proof.append(b)
}

func readProposal(r *crypto.Reader) *Proposal {
	m := &Proposal{Round: r.Uint32(), Value: *readValue(r)}
	all := RoundChange{Task: m.Value.Task, Stage: m.Value.Stage, Round: m.Round}
	if all.Stage == StageSeal {
		all.Lock = readLockCert(r)
	} else {
		all.Seal = new(readSealCert(r))
	}
	if readBool(r) {
		all.Prepared = readPrepared(r)
	}
	if all.Stage == StageSeal {
		for range r.Count(maxDistinctCommits, 32+2+2+32+64) {
			all.Commits = append(all.Commits, readSigned[ScoreCommit](r))
		}
	} else {
		all.Reveals = readReveals(r)
	}
	named, proven := 0, all.Prepared == nil
	for range r.Count(MaxValidators, 1+1+2+headerSize+64+2+2) {
		j := &RoundChange{Task: all.Task, Stage: all.Stage, Round: all.Round, Lock: all.Lock, Seal: all.Seal, Fast: readBool(r)}
		if readBool(r) {
			j.Claim = &Leaf{Prepare, j.Task, j.Stage, r.Uint32(), r.Hash()}
			if all.Prepared != nil && *j.Claim == all.Prepared.Votes.Vote {
				j.Prepared, j.Claim, proven = all.Prepared, nil, true
			}
		}
		for range r.Count(MaxValidators, 2) {
			h := int(r.Uint16())
			if h > named || h >= len(all.Commits)+len(all.Reveals) { // they stand in the order in which they are named first
				r.Fail()
				return m
			}
			named = max(named, h+1)
			if all.Stage == StageSeal {
				j.Commits = append(j.Commits, all.Commits[h])
			} else {
				j.Reveals = append(j.Reveals, all.Reveals[h])
			}
		}
		j.Proof = readVoteProof(r)
		m.Justification = append(m.Justification, j)
	}
	if len(m.Justification) == 0 || named != len(all.Commits)+len(all.Reveals) || !proven { // what no report names has no place here
		r.Fail()
	}
	m.Proof = readVoteProof(r)
	return m
}

// maxDistinctCommits bounds the commitments in a proposal: of members that commit twice there can be as
// many as there are round changes.
const maxDistinctCommits = MaxValidators * MaxValidators

// table lists what is different, in the order in which it comes first.
type table[T any] struct {
	entries []T
	at      map[crypto.Hash]uint16
}

func (t *table[T]) index(entry T, canonical []byte) uint16 {
	h := crypto.Sum(canonical)
	i, ok := t.at[h]
	if !ok {
		if t.at == nil {
			t.at = map[crypto.Hash]uint16{}
		}
		i = uint16(len(t.entries))
		t.entries, t.at[h] = append(t.entries, entry), i
	}
	return i
}
