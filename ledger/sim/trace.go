package sim

import (
	"fmt"
	"strings"

	"github.com/poqmesh/poq/ledger"
)

// This file says in words what happens in a run.

func (w *world) who(i int) string {
	if i < 0 {
		return "client"
	}
	return w.nodes[i].name
}

// task returns a task's name in this run.
func (w *world) task(id ledger.TaskID) string {
	if id.IsZero() {
		return ""
	}
	if t, ok := w.known[id]; ok {
		return t.name
	}
	return "T?" + id.Short()
}

func (w *world) leaf(l ledger.Leaf) string {
	if l.Stage == ledger.StageLock {
		return "lock " + w.task(l.Task)
	}
	return fmt.Sprintf("%v %v r%d %s %s", l.Stage, l.Kind, l.Round, w.task(l.Task), l.Value.Short()[:6])
}

func (w *world) describe(m ledger.Message) string {
	switch m := m.(type) {
	case *ledger.OrderMessage:
		return "order " + w.task(w.verifier.TaskID(m.Order.Statement))
	case *ledger.Bundle:
		var leaves []string
		for _, l := range m.Leaves {
			leaves = append(leaves, w.leaf(l))
		}
		return fmt.Sprintf("bundle %d of v%d: %s", m.Header.Statement.Seq, m.Header.Statement.Validator, strings.Join(leaves, "; "))
	case *ledger.RoundChange:
		s := fmt.Sprintf("round change of v%d: %v r%d %s", m.Proof.Header.Statement.Validator, m.Stage, m.Round, w.task(m.Task))
		if m.Prepared != nil {
			s += fmt.Sprintf(", prepared %s in r%d", m.Prepared.Votes.Vote.Value.Short()[:6], m.Prepared.Votes.Vote.Round)
		}
		if m.Fast {
			s += ", sent fast-commit"
		}
		return s + fmt.Sprintf(", %d commitments, %d reveals", len(m.Commits), len(m.Reveals))
	case *ledger.Proposal:
		var from []int
		for _, j := range m.Justification {
			from = append(from, int(j.Proof.Header.Statement.Validator))
		}
		return fmt.Sprintf("proposal of v%d: %v r%d %s %s, justified by %v", m.Proof.Header.Statement.Validator, m.Value.Stage, m.Round,
			w.task(m.Value.Task), m.Value.Hash(w.domain).Short()[:6], from)
	case *ledger.LockCert:
		return fmt.Sprintf("lock certificate %s by %v", w.task(m.Votes.Vote.Task), m.Votes.Signers())
	case *ledger.SealCert:
		return fmt.Sprintf("seal certificate %s of %d by %v in r%d", w.task(m.Votes.Vote.Task), len(m.Value), m.Votes.Signers(), m.Votes.Vote.Round)
	case *ledger.Receipt:
		return fmt.Sprintf("receipt %s %v by %v in r%d", w.task(m.Task()), m.Outcome.Kind, m.Settle.Signers(), m.Settle.Vote.Round)
	case *ledger.Mark:
		if m.Header == nil {
			return fmt.Sprintf("mark: nothing seen of v%d", m.Validator)
		}
		return fmt.Sprintf("mark: seen bundle %d of v%d", m.Header.Statement.Seq, m.Validator)
	case *ledger.Signed[ledger.ScoreCommit]:
		return fmt.Sprintf("score commitment of v%d to %d answers of %s", m.Statement.Member, len(m.Statement.Answers), w.task(m.Statement.Task))
	case *ledger.Signed[ledger.Reveal]:
		return fmt.Sprintf("reveal of v%d in %s", m.Statement.Member, w.task(m.Statement.Task))
	case *ledger.Evidence:
		return "evidence: " + m.Describe(w.domain)
	}
	name := strings.TrimPrefix(fmt.Sprintf("%T", m), "*ledger.")
	return strings.ToLower(name) + " " + w.task(w.verifier.Task(m))
}
