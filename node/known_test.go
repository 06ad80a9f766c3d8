package node

import (
	"fmt"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

func TestWhatChangesNothingIsStaleBeforeItsSignatureIsVerified(t *testing.T) {
	k := newKnown()
	task := ledger.TaskID{1}
	worker := func(i int) ledger.AccountID { return ledger.AccountID(crypto.Sum(fmt.Append(nil, i))) }
	commit := func(i int) ledger.Message {
		return &ledger.Signed[ledger.AnswerCommit]{Statement: ledger.AnswerCommit{Task: task, Worker: worker(i)}}
	}
	answer := func(i int) ledger.Message {
		return &ledger.AnswerMessage{Answer: ledger.Signed[ledger.Answer]{Statement: ledger.Answer{Task: task, Worker: worker(i)}}}
	}
	score := func(member int) ledger.Message {
		return &ledger.Signed[ledger.ScoreCommit]{Statement: ledger.ScoreCommit{Task: task, Member: uint16(member)}}
	}
	check := func(what string, m ledger.Message, wantStale, wantEarly bool) {
		t.Helper()
		if stale, early := k.stale(task, m); stale != wantStale || early != wantEarly {
			t.Errorf("%s: stale %v, early %v, want %v, %v", what, stale, early, wantStale, wantEarly)
		}
	}
	step := func(s ledger.Step, w ledger.AccountID) {
		k.observe(Event{Progress: ledger.Progress{Task: task, Step: s, Worker: w}})
	}
	lock, seal := &ledger.LockCert{}, &ledger.SealCert{}
	check("commitment before the lock", commit(1), false, true)
	check("lock", lock, false, false)
	k.heard(task, lock)
	check("commitment once the lock was verified", commit(1), false, false)
	check("the lock again, before the loop has it", lock, false, false)
	step(ledger.Locked, ledger.AccountID{})
	check("the lock again", lock, true, false)
	check("seal", seal, false, false)

	k.heard(task, commit(1))
	check("a second commitment, which is evidence", commit(1), false, false)
	k.heard(task, commit(1))
	check("a third", commit(1), true, false)
	step(ledger.Committed, worker(1))
	for i := 2; i < 1+maxVoices; i++ {
		check("commitment of another", commit(i), false, false)
		k.heard(task, commit(i))
	}
	check("one worker more than anybody counts", commit(1000), true, false)
	check("who has spoken before", commit(5), false, false)
	for i := range 64 {
		check("score of a member", score(i), false, false)
		k.heard(task, score(i))
	}

	check("answer before commitments are closed", answer(7), false, false)
	step(ledger.Closed, ledger.AccountID{})
	check("commitment after that", commit(5), true, false)
	check("answer without a commitment that counts", answer(7), true, false)
	check("answer with one", answer(1), false, false)
	step(ledger.Sealed, ledger.AccountID{})
	check("the seal again", seal, true, false)
	step(ledger.Settled, ledger.AccountID{})
	k.heard(task, answer(1))
}
