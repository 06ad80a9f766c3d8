package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/p2p"
)

func newStatus(g *globals) *cobra.Command {
	var f seeFlags
	c := &cobra.Command{
		Use: "status", Short: "Show how the running peer is: peers, gossip, ledger, work, and what is wrong", Args: args(cobra.NoArgs),
		Long: `Shows how the peer that runs here is, on one screen: its roles, who is connected, the
gossip, the ledger and how it compares with those of others at this moment, its work, and
in plain words what is not as it should be.

Of a network of several peers on this machine it shows a table; --peer NAME shows one of
them. The exit code is 1 if nothing runs.`,
	}
	f.add(c, "a table of all")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := dial(c, f.dir)
		if err != nil {
			return err
		}
		list := f.views(c, client, control.Look{Compare: true})
		if len(list) == 1 {
			if list[0].err != nil {
				return list[0].err
			}
			if g.json {
				return printJSON(c.OutOrStdout(), list[0].NodeState)
			}
			printStatus(c.OutOrStdout(), list[0].NodeState, time.Now())
			return nil
		}
		if g.json {
			return printJSON(c.OutOrStdout(), statusList(list))
		}
		printStatusTable(c.OutOrStdout(), client.Status, list, time.Now())
		return nil
	}
	return c
}

// statusEntry is a peer of several in JSON.
type statusEntry struct {
	Name  string             `json:"name"`
	Error string             `json:"error,omitempty"` // why there is no state
	State *control.NodeState `json:"state,omitempty"`
}

func statusList(list []view) (entries []statusEntry) {
	for _, v := range list {
		e := statusEntry{Name: v.name}
		if v.err != nil {
			e.Error = v.err.Error()
		} else {
			e.State = &v.NodeState
		}
		entries = append(entries, e)
	}
	return entries
}

func printStatus(w io.Writer, s control.NodeState, now time.Time) {
	ready := "ready"
	if !s.Ready {
		ready = "NOT READY"
	}
	field(w, "Peer", "%s (%s), %s, up %s, version %s", s.Name, s.Role, ready, formatSpan(now.Sub(s.Started)), s.Version)
	field(w, "Network", "%s, chain %s", s.Network, s.Chain.Short())
	field(w, "Peer id", "%s", s.PeerID)
	field(w, "Account", "%s, %s credits", s.Account.Short(), formatAmount(s.Balance))
	for i, a := range s.Addrs {
		field(w, []string{"Address", ""}[min(i, 1)], "%s", strings.TrimSuffix(a, "/p2p/"+s.PeerID))
	}
	if text := reachText(s); text != "" {
		field(w, "Reachable", "%s", text)
	}
	silent, paths := 0, map[p2p.Path]int{}
	for _, p := range s.Peers {
		paths[p.Path]++
		if p.Gone && p.Connected {
			silent++
		}
	}
	peers := plural(here(s.Peers), "peer", "peers") + " connected"
	if paths[p2p.PathPunched]+paths[p2p.PathRelayed] > 0 {
		peers += fmt.Sprintf(" (%d direct, %d punched, %d relayed)", paths[p2p.PathDirect], paths[p2p.PathPunched], paths[p2p.PathRelayed])
	}
	if silent > 0 {
		peers += fmt.Sprintf(", %d silent for more than 15 s", silent)
	}
	field(w, "Peers", "%s; validators: %s", peers, committeeText(s, now))
	if len(s.Models) > 0 {
		field(w, "Models", "%s", modelsText(s.Models))
	}
	field(w, "Bandwidth", "in %s/s (%s so far), out %s/s (%s)", formatBytes(s.Bandwidth.InRate), formatBytes(s.Bandwidth.In), formatBytes(s.Bandwidth.OutRate), formatBytes(s.Bandwidth.Out))
	if g := s.Gossip; g.Crowded+g.OverQuota+g.Refused+g.Banned > 0 {
		field(w, "Refused", "%d messages over quota, %d crowded out, %d requests; %s", g.OverQuota, g.Crowded, g.Refused, plural(int(g.Banned), "ban", "bans"))
	}
	l := s.Ledger
	field(w, "Ledger", "%d settled, %d open with %s in escrow, digest %s", l.Tasks, l.Open, formatFee(l.Escrow), l.Digest.Short())
	field(w, "", "%s", comparedText(s))
	if v := s.Validator; v != nil {
		signing := "signs"
		switch {
		case v.Refusal != "":
			signing = "SIGNS NOTHING"
		case !v.Signing:
			signing = "does not sign yet"
		}
		if v.SettleMS > 0 {
			signing += fmt.Sprintf("; settled in %.1f ms after the last reveal (mean)", v.SettleMS)
		}
		field(w, "Validator", "%s", signing)
		field(w, "Judge", "%s: %s scored%s, %d failed", v.Judge.Short(), plural(int(v.Scored), "answer", "answers"), inMean(v.Scored, "%.0f ms", v.ScoreMS), v.ScoresFailed)
	}
	if e := s.Worker; e != nil {
		field(w, "Worker", "%s: %d answered%s, %d declined, %d failed, %d in work", e.Engine, e.Answered, inMean(e.Answered, "%.1f s", e.AnswerMS/1000), e.Declined, e.Failed, e.Busy)
	}
	field(w, "Process", "pid %d, %.1f s of CPU, %s of memory, %d goroutines", s.Process.PID, s.Process.CPUSeconds, formatBytes(s.Process.Memory), s.Process.Goroutines)
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GOSSIP\tPEERS\tMESH\tDELIVERED\tDUPLICATES\tIGNORED\tREJECTED\tLOST\tIN\tOUT")
	for _, topic := range s.Topics {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", topic.Name, topic.Peers, len(topic.Mesh), topic.Delivered, topic.Duplicates, topic.Ignored, topic.Rejected,
			topic.Throttled+topic.Undelivered, formatBytes(topic.BytesIn), formatBytes(topic.BytesOut))
	}
	t.Flush()
	if len(s.Recent) > 0 {
		fmt.Fprintln(w)
		printTasks(w, s.Recent)
	}
	printAttempts(w, s.Attempts, now)
	printProblems(w, "", s.Problems)
}

// modelsText names models with how many workers have each, first those that most have.
func modelsText(models []node.ModelCount) string {
	models = slices.Clone(models)
	slices.SortStableFunc(models, func(a, b node.ModelCount) int { return cmp.Compare(b.Workers, a.Workers) })
	const most = 12
	var names []string
	for _, m := range models[:min(len(models), most)] {
		names = append(names, fmt.Sprintf("%s (%d)", m.Model, m.Workers))
	}
	text := strings.Join(names, ", ")
	if len(models) > most {
		text += fmt.Sprintf(" and %d more", len(models)-most)
	}
	return text
}

// printAttempts shows which addresses were tried in vain.
func printAttempts(w io.Writer, attempts []node.Attempt, now time.Time) {
	failed := slices.DeleteFunc(slices.Clone(attempts), func(a node.Attempt) bool { return a.Outcome == string(p2p.Reached) })
	if len(failed) == 0 {
		return
	}
	const most = 8
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NOT REACHED\tPEER\tFROM\tTRIED\tAGAIN\tWHY")
	for _, a := range failed[:min(len(failed), most)] {
		again := "-"
		if left := a.Next.Sub(now); left > 0 {
			again = "in " + formatSpan(left)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Addr, shortID(a.PeerID), a.Source, ago(a.Time, now), again, why(a))
	}
	t.Flush()
	if len(failed) > most {
		fmt.Fprintf(w, "and %d more addresses\n", len(failed)-most)
	}
}

func why(a node.Attempt) string {
	if a.Detail == "" {
		return a.Outcome
	}
	return a.Outcome + ": " + a.Detail
}

// inMean tells the mean time of n things; "" if there were none.
func inMean(n uint64, format string, mean float64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" in "+format+" (mean)", mean)
}

// reachText tells how others can reach the peer; "" if it listens on this machine alone.
func reachText(s control.NodeState) string {
	local := func(a string) bool { return strings.HasPrefix(a, "/ip4/127.") || strings.HasPrefix(a, "/ip6/::1/") }
	if !slices.ContainsFunc(s.Addrs, func(a string) bool { return !local(a) }) {
		return ""
	}
	r := s.Reach
	text := map[string]string{
		p2p.ReachPublic: "from everywhere", p2p.ReachPrivate: "not from outside: others tried and could not", p2p.ReachUnknown: "unknown: no peer with a public address has tried",
	}[r.State]
	add := func(n int, one, many string) {
		if n > 0 {
			text += "; " + plural(n, one, many)
		}
	}
	add(len(r.Mapped), "address opened by the router", "addresses opened by the router")
	add(len(r.Relays), "relay keeps a place for it", "relays keep a place for it")
	add(len(r.Through), "peer carries its gossip", "peers carry its gossip")
	if r.Relaying {
		text += "; relays for others"
	}
	return text
}

func committeeText(s control.NodeState, now time.Time) string {
	here, links, others := 0, 0, 0
	var away []string
	for _, m := range s.Committee {
		if !m.Self {
			others++
		}
		if m.Link {
			links++
		}
		switch {
		case m.Self || !m.Gone:
			here++
		case m.Heard.IsZero():
			away = append(away, m.Name+" was not met")
		default:
			away = append(away, m.Name+" was last heard "+ago(m.Heard, now))
		}
	}
	text := fmt.Sprintf("%d of %d", here, len(s.Committee))
	if s.Validator != nil && others > 0 {
		text += fmt.Sprintf(", links to %d of %d", links, others)
	}
	const most = 4
	if len(away) > most {
		away = append(away[:most], fmt.Sprintf("and %d more", len(away)-most))
	}
	if len(away) > 0 {
		text += " (" + strings.Join(away, ", ") + ")"
	}
	return text
}

// comparedText tells how the ledger compares with those of others.
func comparedText(s control.NodeState) string {
	equal, ahead, behind, other, silent := 0, 0, 0, 0, 0
	most := 0
	for _, c := range s.Compared {
		switch {
		case c.Error != "":
			silent++
		case c.Equal:
			equal++
		case c.Tasks > s.Ledger.Tasks:
			behind++
			most = max(most, c.Tasks-s.Ledger.Tasks)
		case c.Tasks < s.Ledger.Tasks:
			ahead++
		default:
			other++
		}
	}
	if len(s.Compared) == 0 {
		return "compared with nobody"
	}
	parts := []string{fmt.Sprintf("equal to those of %d of %s", equal, plural(len(s.Compared), "peer", "peers"))}
	add := func(n int, format string, a ...any) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(format, a...))
		}
	}
	add(behind, "behind %d by up to %s", behind, plural(most, "task", "tasks"))
	add(ahead, "ahead of %d", ahead)
	add(other, "differs from %d with as many tasks", other)
	add(silent, "no answer from %d", silent)
	return strings.Join(parts, ", ")
}

func printProblems(w io.Writer, who string, problems []node.Problem) {
	if len(problems) > 0 && who == "" {
		fmt.Fprintln(w)
	}
	if who != "" {
		who += ": "
	}
	for _, p := range problems {
		fmt.Fprintf(w, "! %s%s\n", who, p.What)
		if p.Mend != "" {
			fmt.Fprintf(w, "  -> %s\n", p.Mend)
		}
	}
}

func printStatusTable(w io.Writer, s control.Status, list []view, now time.Time) {
	fmt.Fprintf(w, "Network %s, chain %s, version %s\n\n", s.Network, s.Chain.Short(), s.Version)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PEER\tREADY\tUP\tPEERS\tMESH\tSETTLED\tOPEN\tDIGEST\tEQUAL\tLOST\tIN\tOUT\tBALANCE")
	for _, v := range list {
		if v.err != nil {
			fmt.Fprintf(t, "%s\tdown\n", v.name)
			continue
		}
		ready, equal := "yes", 0
		if !v.Ready {
			ready = "NO"
		}
		for _, c := range v.Compared {
			if c.Equal {
				equal++
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%d/%d\t%d\t%s\t%s\t%s\n", v.name, ready, formatSpan(now.Sub(v.Started)), here(v.Peers), leastMesh(v.Topics),
			v.Ledger.Tasks, v.Ledger.Open, v.Ledger.Digest.Short(), equal, len(v.Compared), v.Gossip.Lost(), formatBytes(v.Bandwidth.In), formatBytes(v.Bandwidth.Out), formatAmount(v.Balance))
	}
	t.Flush()
	begun := false
	for _, v := range list {
		problems := v.Problems
		if v.err != nil {
			problems = []node.Problem{{What: v.err.Error()}}
		}
		if len(problems) > 0 && !begun {
			fmt.Fprintln(w)
			begun = true
		}
		printProblems(w, v.name, problems)
	}
}

func newPeers(g *globals) *cobra.Command {
	var f seeFlags
	var latency, scores bool
	c := &cobra.Command{
		Use: "peers", Short: "Show whom the running peer is connected to, and when each was last heard", Args: args(cobra.NoArgs),
		Long: `Shows the peers that are connected, or were within the last ten minutes. A peer is gone
if it is not connected, or was not heard for 15 seconds.`,
	}
	f.add(c, "the one that runs, or the last one")
	c.Flags().BoolVar(&latency, "latency", false, "ping each of them first")
	c.Flags().BoolVar(&scores, "scores", false, "show what this peer holds against them")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := dial(c, f.dir)
		if err != nil {
			return err
		}
		s, err := client.Node(c.Context(), f.peer, control.Look{Latency: latency})
		if err != nil {
			return err
		}
		if g.json {
			return printJSON(c.OutOrStdout(), s.Peers)
		}
		printPeerList(c.OutOrStdout(), s, scores, time.Now())
		return nil
	}
	return c
}

func printPeerList(w io.Writer, s control.NodeState, scores bool, now time.Time) {
	if len(s.Peers) == 0 {
		fmt.Fprintf(w, "%s is connected to nobody; poq status tells why\n", s.Name)
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "PEER\tID\tROLE\tSTATE\tPATH\tHEARD\tLATENCY\tMESH\tIN\tOUT\tVERSION")
	if scores {
		fmt.Fprint(t, "\tSCORE\tFAULTS\tBANNED")
	}
	fmt.Fprintln(t, "\tADDRESS")
	slices.SortStableFunc(s.Peers, func(a, b node.PeerState) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range s.Peers {
		name := p.Name
		if name == "" {
			name = "-"
		}
		addr := p.Addr
		if addr == "" {
			addr = "-"
		}
		role := strings.Join(p.Labels, ",")
		if role == "" {
			role = "-"
		}
		path := string(p.Path)
		if p.Path == p2p.PathNone {
			path = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d/%d\t%s\t%s\t%s", name, shortID(p.ID.String()), role, peerState(p), path, ago(p.Heard, now), formatLatency(p.LatencyUS),
			len(p.Topics), len(s.Topics), formatBytes(p.In), formatBytes(p.Out), strings.TrimPrefix(p.Agent, "poq/"))
		if scores {
			banned := "-"
			if left := p.Score.BannedUntil.Sub(now); left > 0 {
				banned = "for " + formatSpan(left)
			}
			fmt.Fprintf(t, "\t%.1f\t%.1f\t%s", p.Score.Total, p.Score.Faults, banned)
		}
		fmt.Fprintf(t, "\t%s\n", addr)
	}
	t.Flush()
	fmt.Fprintf(w, "\n%d of %s connected (seen by %s)\n", here(s.Peers), plural(len(s.Peers), "peer", "peers"), s.Name)
}

// here counts the peers that are connected and heard.
func here(peers []node.PeerState) (n int) {
	for _, p := range peers {
		if !p.Gone {
			n++
		}
	}
	return n
}

// leastMesh is the size of the smallest mesh.
func leastMesh(topics []p2p.TopicStats) (n int) {
	for i, t := range topics {
		if i == 0 || len(t.Mesh) < n {
			n = len(t.Mesh)
		}
	}
	return n
}

func peerState(p node.PeerState) string {
	switch {
	case !p.Connected:
		return "gone"
	case p.Gone:
		return "silent"
	default:
		return "here"
	}
}
