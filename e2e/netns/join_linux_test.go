package netns

import "testing"

func TestWorkerBehindNATJoinsByToken(t *testing.T) {
	for _, kind := range []nat{cone, symmetric} {
		t.Run(kind.String(), func(t *testing.T) {
			w := newWorld(t)
			n := w.newNetwork([]string{"validator"}, nil)
			validator := n.up(w.public("server", "11.1.0.1"), "validator", "--roles", "validator")
			worker := n.up(w.home("home", "11.10.0.1", kind, quality{}).host("laptop"), "worker", "--join", validator.token(), "--roles", "worker", "--engine", "extract")
			if s := validator.ask("Who built the lighthouse?", 1); !answered(s, worker) {
				t.Errorf("the worker's answer is missing: %+v", s.Answers)
			}
			n.agree(1)

			// Its router still knows the connections of before.
			worker.stop()
			worker.restart()
			if s := validator.ask("How high is it?", 1); !answered(s, worker) {
				t.Errorf("the worker's answer is missing after a restart: %+v", s.Answers)
			}
			worker.kill()
			worker.restart()
			if s := validator.ask("What does it stand on?", 1); !answered(s, worker) {
				t.Errorf("the worker's answer is missing after a crash: %+v", s.Answers)
			}
			n.agree(3)
		})
	}
}
