package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/node/control"
)

// seeFlags say which peer is looked at.
type seeFlags struct{ dir, peer string }

func (f *seeFlags) add(c *cobra.Command, all string) {
	c.Flags().StringVar(&f.dir, "dir", "", "directory of the peer or network, if several run")
	c.Flags().StringVar(&f.peer, "peer", "", "which peer of a network on this machine (default: "+all+")")
}

// dial finds what runs, and says if it is of another version than this program.
func dial(c *cobra.Command, dir string) (*control.Client, error) {
	client, err := control.Dial(c.Context(), dir)
	if err != nil {
		return nil, err
	}
	if note := versionNote(versionText(), client.Status.Version); note != "" {
		fmt.Fprintln(c.ErrOrStderr(), note)
	}
	return client, nil
}

func versionNote(own, running string) string {
	if own == running {
		return ""
	}
	return fmt.Sprintf("this is poq %s, but what runs is %s: restart it to have both the same", own, running)
}

// view is a peer as it was found.
type view struct {
	name string
	control.NodeState
	err error // why it did not tell
}

// views asks the peers that are meant: the one that is named, or all.
func (f *seeFlags) views(c *cobra.Command, client *control.Client, look control.Look) []view {
	var list []view
	if f.peer != "" || len(client.Status.Peers) < 2 {
		list = []view{{name: f.peer}}
	} else {
		for _, p := range client.Status.Peers {
			list = append(list, view{name: p.Name})
		}
	}
	var asking sync.WaitGroup
	for i := range list {
		v := &list[i]
		asking.Go(func() { v.NodeState, v.err = client.Node(c.Context(), v.name, look) })
	}
	asking.Wait()
	return list
}

// Figures for people.

func formatBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1000, 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1000, u+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %cB", v, units[u])
	}
	return fmt.Sprintf("%.0f %cB", v, units[u])
}

// formatSpan tells a duration in at most two units.
func formatSpan(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(0, d.Milliseconds()))
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d m", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// formatLatency tells a round trip; "-" if it is not known.
func formatLatency(us int64) string {
	switch {
	case us <= 0:
		return "-"
	case us < 10_000:
		return fmt.Sprintf("%.2f ms", float64(us)/1000)
	default:
		return fmt.Sprintf("%d ms", us/1000)
	}
}

func ago(t time.Time, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if d := now.Sub(t); d >= time.Second {
		return formatSpan(d) + " ago"
	}
	return "now"
}

// shortID is the end of a peer id, which tells peers apart where the beginning does not.
func shortID(id string) string {
	if len(id) <= 8 {
		return id
	}
	return id[len(id)-8:]
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// field prints a named line of a status.
func field(w io.Writer, name, format string, a ...any) {
	fmt.Fprintf(w, "%-11s %s\n", name, fmt.Sprintf(format, a...))
}
