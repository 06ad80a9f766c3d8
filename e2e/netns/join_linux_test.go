package netns

import (
	"testing"

	"github.com/poqmesh/poq/p2p"
)

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

func TestPeersInOneHomeMeetByMDNS(t *testing.T) {
	w := newWorld(t)
	n := w.newNetwork([]string{"validator"}, []string{"worker"})
	h := w.home("home", "11.10.0.1", cone, quality{})
	validator := n.up(h.host("desktop"), "validator", "--roles", "validator", "--dht", "off")
	worker := n.up(h.host("laptop"), "worker", "--roles", "worker", "--engine", "extract", "--dht", "off")
	if s := validator.ask("Who built the lighthouse?", 1); !answered(s, worker) {
		t.Errorf("the worker's answer is missing: %+v", s.Answers)
	}
	n.agree(1)
}

func TestPeerFindsInTheTableWhoItsBootstrapDoesNotKnow(t *testing.T) {
	w := newWorld(t)
	n := w.newNetwork([]string{"validator"}, []string{"middle", "door"})
	// Nobody can dial the worker, so it is the worker that has to find the validator.
	args := []string{"--mdns=false", "--relay-service=false"}
	middle := n.up(w.public("middle", "11.1.0.1"), "middle", args...)
	validator := n.up(w.public("server", "11.2.0.1"), "validator", append(args, "--join", middle.token(), "--roles", "validator")...)
	door := n.up(w.public("door", "11.3.0.1"), "door", append(args, "--join", middle.token(), "--deny", validator.id())...)
	args = append(args, "--join", door.token(), "--roles", "worker", "--engine", "extract")
	h := w.home("home", "11.10.0.1", cone, quality{})
	without := n.up(h.host("tablet"), "without", append(args, "--dht", "off")...)
	n.until(func() string { return without.sees(middle, p2p.PathDirect) })
	worker := n.up(h.host("laptop"), "worker", args...)
	n.until(func() string { return worker.sees(validator, p2p.PathDirect) })
	if missing := without.sees(validator, p2p.PathDirect); missing == "" {
		t.Error("a peer that does not ask the table has found the validator too")
	}
	n.until(func() string { return validator.answersOf(worker) })
	n.agree(1)
}
