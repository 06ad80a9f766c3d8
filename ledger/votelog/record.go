package votelog

import (
	"errors"
	"fmt"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

type recordType byte

const (
	recordMessage recordType = iota + 1
	recordBundle
	recordOpening
)

var errRecord = errors.New("a record is cut")

// record is one of these.
type record struct {
	message ledger.Message
	bundle  *ledger.Bundle
	opening *opening
}

// opening is a score commitment with the secret behind it.
type opening struct {
	commit  ledger.ScoreCommit
	opening ledger.Opening
}

func decode(typ recordType, payload []byte) (rec record, err error) {
	switch typ {
	case recordMessage:
		rec.message, err = ledger.Decode(ledger.TopicVotes, payload)
		if m, ok := rec.message.(*ledger.Mark); ok && m.Header == nil {
			err = errors.New("a mark of nothing")
		}
	case recordBundle:
		var m ledger.Message
		if m, err = ledger.Decode(ledger.TopicVotes, payload); err == nil {
			var ok bool
			if rec.bundle, ok = m.(*ledger.Bundle); !ok {
				err = fmt.Errorf("%T where a bundle should be", m)
			}
		}
	case recordOpening:
		rec.opening = new(opening)
		rec.opening.commit, rec.opening.opening, err = ledger.DecodeOpening(payload)
	default:
		err = fmt.Errorf("record of unknown type %d", typ)
	}
	return rec, err
}

func (rec record) deliver(r Replayer) {
	switch {
	case rec.bundle != nil:
		r.Bundle(rec.bundle)
	case rec.opening != nil:
		r.Opening(rec.opening.commit, rec.opening.opening)
	default:
		r.Message(rec.message)
	}
}

// tasks returns what the record is about.
func (rec record) tasks(d crypto.Domain) (tasks []ledger.TaskID) {
	switch {
	case rec.bundle != nil:
		for _, l := range rec.bundle.Leaves {
			tasks = append(tasks, l.Task)
		}
	case rec.opening != nil:
		tasks = append(tasks, rec.opening.commit.Task)
	default:
		tasks = append(tasks, taskOf(rec.message, d))
	}
	return tasks
}

// taskOf returns the task of what a vote refers to.
func taskOf(m ledger.Message, d crypto.Domain) ledger.TaskID {
	switch m := m.(type) {
	case *ledger.OrderMessage:
		return ledger.OrderID(d, m.Order.Statement)
	case *ledger.SealCert:
		return m.Votes.Vote.Task
	case *ledger.Value:
		return m.Task
	case *ledger.Prepared:
		return m.Value.Task
	}
	return ledger.TaskID{} // never settled
}
