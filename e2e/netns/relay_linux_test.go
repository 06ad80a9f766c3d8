package netns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p"

	"github.com/poqmesh/poq/p2p"
)

// relayAddress is the variable of the environment that makes this program a relay, with the address to listen on.
const relayAddress = "POQ_NETNS_RELAY"

// runRelay is a relay as others run it: it speaks libp2p and nothing of poq. It ends with its stdin.
func runRelay(addr string) int {
	h, err := libp2p.New(libp2p.ListenAddrStrings(addr), libp2p.ForceReachabilityPublic(), libp2p.EnableRelayService())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer h.Close()
	fmt.Printf("%s/p2p/%s\n", addr, h.ID())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// relay starts a relay on a machine of the internet and returns its multiaddr.
func (w *world) relay(name, address string) string {
	w.t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=/ip4/%s/udp/4001/quic-v1", relayAddress, address))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = w.public(name, address).start(c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		in.Close()
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		w.t.Fatalf("the relay says no address: %v", err)
	}
	return strings.TrimSpace(line)
}

// Nobody can dial anybody: votes, gossip and requests go through a relay that is no peer.
func TestPeersMeetThroughARelayThatIsNone(t *testing.T) {
	w := newWorld(t)
	n := w.newNetwork([]string{"validator-1", "validator-2"}, []string{"worker"})
	relay := w.relay("relay", "11.1.0.1")
	first := n.up(w.home("left", "11.10.0.1", symmetric, quality{}).host("desktop"), "validator-1", "--roles", "validator", "--relay", relay)
	meet := relay + "/p2p-circuit/p2p/" + first.id()
	n.up(w.home("middle", "11.20.0.1", symmetric, quality{}).host("server"), "validator-2", "--roles", "validator", "--relay", relay, "--bootstrap", meet)
	worker := n.up(w.home("right", "11.30.0.1", symmetric, quality{}).host("laptop"), "worker", "--roles", "worker", "--engine", "extract", "--relay", relay, "--bootstrap", meet)
	n.until(func() string { return first.answersOf(worker) })
	if missing := worker.sees(first, p2p.PathRelayed); missing != "" {
		t.Error(missing)
	}
	n.agree(1)
}
