package sim

import "github.com/poqmesh/poq/ledger"

// double commits to two sets of scores and shows each half of the others another one.
type double struct {
	faithful
	other map[ledger.TaskID]*ledger.Signed[ledger.ScoreCommit]
}

func (d *double) sends(n *node, to int, m ledger.Message) []ledger.Message {
	c, ok := m.(*ledger.Signed[ledger.ScoreCommit])
	if !ok || !n.own(m) || to%2 == 0 {
		return []ledger.Message{m}
	}
	s := c.Statement
	if d.other[s.Task] == nil {
		o := ledger.Opening{Salt: n.Salt(), Scores: make([]ledger.Score, len(s.Answers))}
		d.other[s.Task] = ledger.SignTrusted(n.w.verifier, keys.validators[n.self], ledger.CommitScores(n.w.domain, s.Task, s.Member, s.Answers, o))
	}
	return []ledger.Message{d.other[s.Task]}
}
