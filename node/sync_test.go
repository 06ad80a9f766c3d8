package node

import (
	"errors"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

func TestPeerThatWasAwayFetchesWhatItMissed(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("one"), says("another"))
	away := s.workers[1]
	s.stop(away)
	var tasks []ledger.TaskID
	for range 3 {
		tasks = append(tasks, s.ask("while it is away", AskOptions{MaxAnswers: 1}).Task)
	}
	s.launch(away)
	for _, task := range tasks {
		s.await(task, away)
	}
	s.check()
}

func TestLedgerIsServedToWhoAsksProperly(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("one"))
	task := s.ask("q", AskOptions{MaxAnswers: 1}).Task
	v := s.validators[0].node
	h := s.bareHost(testIdentity(t, "stranger"))
	if err := h.Connect(soon(t), v.Host().Addrs()...); err != nil {
		t.Fatal(err)
	}
	s.await(task, s.validators...)
	ask := func(kind byte, id ledger.TaskID, more ...byte) ([]byte, error) {
		return h.Request(soon(t), v.Host().ID(), protocolLedger, append(append([]byte{kind}, id[:]...), more...), ledger.MaxMessage)
	}
	if got, err := ask(askTasks, ledger.TaskID{}); err != nil || string(got) != string(task[:]) {
		t.Errorf("tasks: %x, %v", got, err)
	}
	if got, err := ask(askTasks, task); err != nil || len(got) != 0 {
		t.Errorf("tasks above the last: %x, %v", got, err)
	}
	data, err := ask(askReceipt, task)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := ledger.DecodeReceipt(data); err != nil || r.Task() != task || v.verifier.Receipt(r) != nil {
		t.Errorf("receipt: %v", err)
	}
	if _, err := ask(askReceipt, crypto.Sum(nil)); !errors.Is(err, p2p.ErrNotFound) {
		t.Errorf("receipt of an unknown task: %v", err)
	}
	if _, err := ask(9, task); !errors.Is(err, p2p.ErrBadRequest) {
		t.Errorf("unknown request: %v", err)
	}
	if _, err := ask(askTasks, task, 1); !errors.Is(err, p2p.ErrBadRequest) {
		t.Errorf("long request: %v", err)
	}
}
