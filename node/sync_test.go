package node

import (
	"testing"

	"github.com/poqmesh/poq/ledger"
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
