package netns

import (
	"slices"
	"strings"
	"testing"

	"github.com/poqmesh/poq/node"
)

func TestUserIsToldWhyABootstrapIsNotReached(t *testing.T) {
	w := newWorld(t)
	n := w.newNetwork([]string{"validator"}, []string{"worker"})
	other := w.newNetwork([]string{"stranger"}, nil)
	validator := n.up(w.public("server", "11.1.0.1"), "validator", "--roles", "validator")
	stranger := other.up(w.public("elsewhere", "11.2.0.1"), "stranger", "--roles", "validator")
	w.public("idle", "11.3.0.1")
	w.home("closed", "11.10.0.1", cone, quality{})
	id := "/p2p/" + validator.id()
	tries := []struct{ addr, id, outcome string }{
		{"/ip4/11.3.0.1/tcp/4777", id, "refused"},      // a machine where nothing runs
		{"/ip4/11.10.0.1/tcp/4777", id, "timed out"},   // a router that drops what it does not expect
		{"/ip4/11.99.0.1/tcp/4777", id, "unreachable"}, // no machine
		{"/ip4/11.2.0.1/tcp/4777", id, "wrong peer id"},
		{"/ip4/11.2.0.1/udp/4777/quic-v1", "/p2p/" + stranger.id(), "wrong genesis"},
	}
	args := []string{"--roles", "worker", "--engine", "extract"}
	for _, try := range tries {
		args = append(args, "--bootstrap", try.addr+try.id)
	}
	worker := n.up(w.home("home", "11.20.0.1", cone, quality{}).host("laptop"), "worker", args...)
	n.until(func() string {
		attempts := worker.state().Attempts
		for _, try := range tries {
			i := slices.IndexFunc(attempts, func(a node.Attempt) bool { return a.Addr == try.addr })
			if i < 0 {
				return "nothing is said about " + try.addr
			}
			if a := attempts[i]; !strings.HasPrefix(a.Outcome, try.outcome) || a.Detail == "" {
				return "of " + try.addr + " it says " + a.Outcome + ": " + a.Detail
			}
		}
		return ""
	})
	shown, err := worker.poq("status")
	if err != nil {
		t.Fatal(err)
	}
	for _, try := range tries {
		if !strings.Contains(shown, try.addr) {
			t.Errorf("poq status does not tell of %s:\n%s", try.addr, shown)
		}
	}
}
