package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/node/control"
)

// pings is what came of pinging a peer.
type pings struct {
	PeerID   string  `json:"peer_id"`
	Name     string  `json:"name,omitempty"`
	Sent     int     `json:"sent"`
	Answered int     `json:"answered"`
	TimesUS  []int64 `json:"times_us"` // of those that were answered
	LeastUS  int64   `json:"least_us"`
	MeanUS   int64   `json:"mean_us"`
	MostUS   int64   `json:"most_us"`
	SpreadUS int64   `json:"spread_us"` // standard deviation
	Error    string  `json:"error,omitempty"`
}

func (p *pings) add(us int64) {
	p.Answered++
	p.TimesUS = append(p.TimesUS, us)
	p.LeastUS, p.MostUS = p.TimesUS[0], p.TimesUS[0]
	sum := 0.0
	for _, t := range p.TimesUS {
		p.LeastUS, p.MostUS = min(p.LeastUS, t), max(p.MostUS, t)
		sum += float64(t)
	}
	mean := sum / float64(len(p.TimesUS))
	squares := 0.0
	for _, t := range p.TimesUS {
		squares += (float64(t) - mean) * (float64(t) - mean)
	}
	p.MeanUS, p.SpreadUS = int64(mean), int64(math.Sqrt(squares/float64(len(p.TimesUS))))
}

func newPing(g *globals) *cobra.Command {
	var f seeFlags
	var n int
	var interval, timeout time.Duration
	c := &cobra.Command{
		Use: "ping PEER", Short: "Measure the time until a peer answers", Args: args(cobra.ExactArgs(1)),
		Long: `Has the running peer ping another one over libp2p. PEER is a name, a peer id, the
beginning or end of an id that it knows, as poq peers shows it, or a multiaddr that ends
in /p2p/ID. The exit code is 1 if it never answers.`,
		Example: `  poq ping validator-2
  poq ping /ip4/203.0.113.7/udp/4777/quic-v1/p2p/12D3KooW...`,
	}
	f.add(c, "the one that runs, or the last one")
	c.Flags().IntVarP(&n, "number", "n", 4, "how many times")
	c.Flags().DurationVar(&interval, "interval", time.Second, "time between two")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for one")
	c.RunE = func(c *cobra.Command, a []string) error {
		if n < 1 || interval < 0 || timeout <= 0 {
			return usagef("want a positive --number and --timeout, and an --interval of 0 or more")
		}
		client, err := dial(c, f.dir)
		if err != nil {
			return err
		}
		p, err := runPings(c, client, f.peer, a[0], n, interval, timeout, !g.json)
		if err != nil {
			return err
		}
		if g.json {
			err = printJSON(c.OutOrStdout(), p)
		} else {
			fmt.Fprintf(c.OutOrStdout(), "%d sent, %d answered", p.Sent, p.Answered)
			if p.Answered > 0 {
				fmt.Fprintf(c.OutOrStdout(), "; least %s, mean %s, most %s, spread %s", formatLatency(p.LeastUS), formatLatency(p.MeanUS), formatLatency(p.MostUS), formatLatency(p.SpreadUS))
			}
			fmt.Fprintln(c.OutOrStdout())
		}
		if err == nil && p.Answered == 0 {
			err = fmt.Errorf("%w: %s does not answer", errShown, a[0])
		}
		return err
	}
	return c
}

// runPings pings until it has done so n times or is interrupted. It returns an error only if the peer is not known.
func runPings(c *cobra.Command, client *control.Client, from, to string, n int, interval, timeout time.Duration, show bool) (p pings, err error) {
	p.TimesUS = []int64{}
	tick := time.NewTicker(max(interval, 1))
	defer tick.Stop()
	for i := range n {
		if i > 0 {
			select {
			case <-tick.C:
			case <-c.Context().Done():
				return p, nil
			}
		}
		ctx, cancel := context.WithTimeout(c.Context(), timeout)
		r, err := client.Ping(ctx, from, to)
		cancel()
		var remote *control.Error
		if errors.As(err, &remote) && remote.Code != control.CodeFailed && remote.Code != control.CodePending {
			return p, err
		}
		if c.Context().Err() != nil {
			return p, nil
		}
		p.Sent++
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("no answer within %v", timeout)
			}
			p.Error = err.Error()
			if show {
				fmt.Fprintln(c.OutOrStdout(), p.Error)
			}
			continue
		}
		p.PeerID, p.Name = r.PeerID, r.Name
		p.add(r.RTTUS)
		if show {
			who := shortID(r.PeerID)
			if r.Name != "" {
				who = r.Name + " (" + who + ")"
			}
			fmt.Fprintf(c.OutOrStdout(), "%s answers in %s\n", who, formatLatency(r.RTTUS))
		}
	}
	return p, nil
}
