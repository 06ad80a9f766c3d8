package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/llm/openai"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/genesis"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/node/token"
	"github.com/poqmesh/poq/p2p"
	"github.com/poqmesh/poq/quality/crossencoder"
)

// result is what a check came to.
type result string

const (
	good  result = "ok"
	hint  result = "note"  // not as it could be, but the peer works
	wrong result = "WRONG" // somebody must mend it
)

// finding is the result of one check.
type finding struct {
	Check  string `json:"check"`
	Peer   string `json:"peer,omitempty"` // of several on this machine
	Result result `json:"result"`
	Says   string `json:"says"`
	Mend   string `json:"mend,omitempty"` // what to do: often a command
}

// doctor looks for what is wrong with a peer's directory, machine and network.
type doctor struct {
	c        *cobra.Command
	client   *control.Client // nil: nothing runs
	dir      string
	up       upFlags // the peer's settings
	settings []setting
	plan     upPlan
	findings []finding
	views    []view
}

func newDoctor(g *globals) *cobra.Command {
	var f seeFlags
	var bundle string
	c := &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong here, and say how to mend it", Args: args(cobra.NoArgs),
		Long: `Checks the peer's directory, its settings, the machine and the network, whether or not
the peer runs, and says of everything that is wrong how to mend it. The exit code is 1 if
anything is.

With --bundle it also writes all that somebody else needs to help you into a file: what
the doctor found, status, settings, genesis, metrics and the latest lines of the log.
Keys, passphrases, prompts and answers are not in it; addresses of peers are.`,
	}
	f.add(c, "all")
	c.Flags().StringVar(&bundle, "bundle", "", "write findings, status, settings, metrics and log to this tar.gz file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		d := &doctor{c: c, dir: f.dir}
		client, err := control.Dial(c.Context(), f.dir)
		switch {
		case err == nil:
			d.client, d.dir = client, client.Status.Dir
		case !errors.Is(err, control.ErrNotRunning):
			return err
		case d.dir == "":
			d.dir = defaultDir()
		}
		if d.dir, err = filepath.Abs(d.dir); err != nil {
			return fmt.Errorf("directory: %w", err)
		}
		d.examine(&f)
		if g.json {
			err = printJSON(c.OutOrStdout(), d.findings)
		} else {
			printFindings(c.OutOrStdout(), d.findings)
		}
		if err == nil && bundle != "" {
			if err = d.writeBundle(bundle); err == nil {
				fmt.Fprintf(c.ErrOrStderr(), "wrote %s: look through it before you give it away, it names peers and their addresses\n", bundle)
			}
		}
		if err == nil && slices.ContainsFunc(d.findings, func(f finding) bool { return f.Result == wrong }) {
			err = fmt.Errorf("%w: something is wrong", errShown)
		}
		return err
	}
	return c
}

func (d *doctor) add(f finding) { d.findings = append(d.findings, f) }

func (d *doctor) ok(check, format string, a ...any) {
	d.add(finding{Check: check, Result: good, Says: fmt.Sprintf(format, a...)})
}

func (d *doctor) note(check, mend, format string, a ...any) {
	d.add(finding{Check: check, Result: hint, Says: fmt.Sprintf(format, a...), Mend: mend})
}

func (d *doctor) wrong(check, mend, format string, a ...any) {
	d.add(finding{Check: check, Result: wrong, Says: fmt.Sprintf(format, a...), Mend: mend})
}

// examine makes all checks that apply.
func (d *doctor) examine(f *seeFlags) {
	if d.client != nil {
		d.views = f.views(d.c, d.client, control.Look{Compare: true, Latency: true})
	}
	d.checkProcess()
	_, err := os.Stat(filepath.Join(d.dir, "devnet.json"))
	devnet := err == nil
	if _, err := os.Stat(d.dir); err != nil && d.client == nil {
		d.wrong("directory", "poq up --join TOKEN, or poq init to begin a network; --dir names another directory", "there is no peer in %s", d.dir)
		return
	}
	d.checkKeys(devnet)
	if !devnet {
		d.checkSettings()
	}
	g := d.checkGenesis()
	d.checkDisk()
	if !devnet && g != nil {
		d.checkJudge(g)
		d.checkEngine()
	}
	if d.client == nil {
		if !devnet && g != nil {
			d.checkPorts()
			d.checkBootstraps(g)
		}
		return
	}
	for _, v := range d.views {
		d.checkPeer(v, len(d.views) > 1)
	}
	d.checkReach()
	d.checkClock()
	d.checkVersions()
}

func (d *doctor) checkProcess() {
	if d.client == nil {
		d.note("process", "poq up --dir "+d.dir, "nothing runs in %s", d.dir)
		return
	}
	s := d.client.Status
	if note := versionNote(versionText(), s.Version); note != "" {
		d.note("process", "restart the peer", "%s", note)
		return
	}
	d.ok("process", "process %d runs version %s since %s", s.PID, s.Version, s.Started.Format(time.DateTime))
}

// checkKeys checks the permissions and the content of what only its owner may read.
func (d *doctor) checkKeys(devnet bool) {
	dirs := []string{d.dir}
	if devnet {
		dirs = nil
		entries, err := os.ReadDir(d.dir)
		if err != nil {
			d.wrong("keys", "look at the directory's owner", "%v", err)
			return
		}
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(d.dir, e.Name()))
			}
		}
	}
	before := len(d.findings)
	for _, dir := range dirs {
		for _, p := range keystore.Check(dir) {
			d.wrong("keys", p.Mend, "%s: %s", p.Path, p.What)
		}
	}
	if len(d.findings) == before {
		d.ok("keys", "only you can read them")
	}
}

func (d *doctor) checkSettings() {
	flags := newUpWith(&globals{}, &d.up).Flags()
	err := flags.Set("dir", d.dir)
	var from map[string]string
	if err == nil {
		from, err = configure(flags)
	}
	if err == nil {
		d.plan, err = d.up.check()
	}
	if err != nil {
		d.wrong("settings", "correct it; poq config explain tells what each setting takes", "%v", err)
		return
	}
	d.settings = settings(flags, from)
	set := 0
	for _, s := range d.settings {
		if s.From != fromDefault && s.Key != "dir" {
			set++
		}
	}
	d.ok("settings", "%s differ from the defaults; poq config show tells them", plural(set, "setting", "settings"))
}

func (d *doctor) checkGenesis() *ledger.Genesis {
	path := genesis.Path(d.dir)
	g, err := genesis.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.wrong("genesis", "join a network with poq up --join TOKEN, or copy its genesis.json there", "there is no %s", path)
		return nil
	case err != nil:
		d.wrong("genesis", "copy it anew from another peer of the network", "%v", err)
		return nil
	case d.client != nil && d.client.Status.Chain != g.Chain():
		d.wrong("genesis", "put back the genesis of chain "+d.client.Status.Chain.Short()+" before the next start", "%s was changed: it is of chain %s now", path, g.Chain().Short())
		return g
	}
	d.ok("genesis", "network %s, chain %s, %s", g.Network, g.Chain().Short(), plural(len(g.Validators), "validator", "validators"))
	return g
}

// Space below which the doctor speaks up.
const (
	leastDisk  = 64 << 20 // the ledger stops there
	littleDisk = 1 << 30
)

func (d *doctor) checkDisk() {
	free, err := store.FreeSpace(d.dir)
	const mend = "make room on the disk of the directory"
	switch {
	case err != nil:
		d.wrong("disk", mend, "%s: %v", d.dir, err)
	case free < leastDisk:
		d.wrong("disk", mend, "%s are free for %s: the ledger needs 64 MB at least and does not start", formatBytes(free), d.dir)
	case free < littleDisk:
		d.note("disk", mend, "only %s are free for %s", formatBytes(free), d.dir)
	default:
		if err := tryWrite(d.dir); err != nil {
			d.wrong("disk", "look at the directory's owner and at the disk", "%v", err)
			return
		}
		d.ok("disk", "%s are free", formatBytes(free))
	}
}

func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".poq-doctor-*")
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

func (d *doctor) checkJudge(g *ledger.Genesis) {
	id, err := crossencoder.Identity(d.up.model)
	isValidator := slices.Contains(d.up.roles, roleValidator) || slices.ContainsFunc(d.views, func(v view) bool { return v.Validator != nil })
	switch {
	case err != nil:
		d.wrong("judge", "name a directory with the model's files with --judge-model, or leave it out", "%v", err)
	case id != g.Judge && isValidator:
		d.wrong("judge", "start the validator with the judge of its network: --judge-model DIR, or the version of poq that the network began with", "this judge is %s, the network's is %s", id.Short(), g.Judge.Short())
	case id != g.Judge:
		d.note("judge", "", "this judge is %s, the network's is %s; only validators need it", id.Short(), g.Judge.Short())
	default:
		d.ok("judge", "%s is the network's", id.Short())
	}
}

// modelTimeout is how long a model server may take to list its models.
const modelTimeout = 5 * time.Second

func (d *doctor) checkEngine() {
	if !slices.Contains(d.up.roles, roleWorker) || d.plan.engine == nil {
		return
	}
	for _, e := range d.plan.engine.Engines() {
		remote, ok := e.(*openai.Engine)
		if !ok {
			d.ok("engine", "%s is in the program", e.Name())
			continue
		}
		ctx, cancel := context.WithTimeout(d.c.Context(), modelTimeout)
		models, err := remote.ServerModels(ctx)
		cancel()
		if err != nil {
			d.wrong("engine", "start the model server, or name another with --engine", "%v", err)
			continue
		}
		d.ok("engine", "the model server has %s", plural(len(models), "model", "models"))
	}
}

func (d *doctor) checkPorts() {
	if d.up.port == 0 {
		d.note("ports", "--port 4777, so that others find the peer where it was", "the peer takes a free port at every start")
		return
	}
	if err := checkPorts(d.c.Context(), d.plan.listen, len(d.up.bind) > 0); err != nil {
		d.wrong("ports", "stop what listens there, or choose another --port", "%v", err)
		return
	}
	d.ok("ports", "port %d is free, UDP and TCP", d.up.port)
}

// dialTimeout is how long one bootstrap may take.
const dialTimeout = 5 * time.Second

// checkBootstraps tries to reach the peers to begin with, as a stranger would.
func (d *doctor) checkBootstraps(g *ledger.Genesis) {
	addrs := slices.Clone(d.plan.peers)
	invited, err := (&home{dir: d.dir}).remember(token.Token{})
	if err != nil {
		d.wrong("bootstraps", "", "%v", err)
	}
	addrs = append(addrs, invited...)
	if len(addrs) == 0 {
		d.note("bootstraps", "poq up --bootstrap ADDRESS, or poq up --join TOKEN", "none are known: others must find this peer")
		return
	}
	h, err := p2p.New(p2p.Config{Network: g.Network, Hello: node.Hello(g), Agent: "poq/" + versionText()})
	if err != nil {
		d.wrong("bootstraps", "", "%v", err)
		return
	}
	defer func() { _ = h.Close() }() // it kept nothing
	errs := make([]error, len(addrs))
	var dials sync.WaitGroup
	for i, a := range addrs {
		dials.Go(func() {
			ctx, cancel := context.WithTimeout(d.c.Context(), dialTimeout)
			defer cancel()
			errs[i] = h.Connect(ctx, a)
		})
	}
	dials.Wait()
	d.tellBootstraps(addrs, errs)
}

func (d *doctor) tellBootstraps(addrs []multiaddr.Multiaddr, errs []error) {
	reached := 0
	var failed []string
	for i, err := range errs {
		if err == nil {
			reached++
		} else {
			failed = append(failed, fmt.Sprintf("%s: %v", addrs[i], err))
		}
	}
	const mend = "ask somebody in the network for a new token; a firewall may be in the way, here or there"
	switch {
	case reached == 0:
		d.wrong("bootstraps", mend, "none of %s can be reached:\n%s", plural(len(addrs), "address", "addresses"), strings.Join(failed, "\n"))
	case len(failed) > 0:
		d.note("bootstraps", "", "%d of %d addresses can be reached; not\n%s", reached, len(addrs), strings.Join(failed, "\n"))
	default:
		d.ok("bootstraps", "%s can be reached", plural(reached, "address", "addresses"))
	}
}

// checkPeer tells of what a running peer says that is wrong.
func (d *doctor) checkPeer(v view, several bool) {
	who := ""
	if several {
		who = v.name
	}
	if v.err != nil {
		d.add(finding{Check: "peer", Peer: who, Result: wrong, Says: v.err.Error(), Mend: "poq devnet start " + v.name})
		return
	}
	for _, p := range v.Problems {
		d.add(finding{Check: "peer", Peer: who, Result: wrong, Says: p.What, Mend: p.Mend})
	}
	if v.Ready {
		d.add(finding{Check: "peer", Peer: who, Result: good, Says: plural(here(v.Peers), "peer", "peers") + " connected; the ledger is " + comparedText(v.NodeState)})
	}
	if !several && here(v.Peers) == 0 {
		for _, a := range v.Attempts {
			d.add(finding{Check: "peer", Peer: who, Result: hint, Says: fmt.Sprintf("%s (%s): %s", a.Addr, a.Source, why(a))})
		}
	}
}

// checkReach tells whether others can reach the peer from outside of its own network.
func (d *doctor) checkReach() {
	if len(d.views) != 1 || d.views[0].err != nil {
		return
	}
	v := d.views[0]
	text := reachText(v.NodeState)
	switch {
	case text == "":
		d.note("reach", "leave --bind out if others are to reach it", "it listens on this machine alone")
	case v.Reach.State == p2p.ReachPrivate && len(v.Reach.Relays)+len(v.Reach.Through) == 0:
		d.note("reach", "forward the port, UDP and TCP, in your router, and tell the address with --announce; or name a relay with --relay", "%s; it can dial others and works so, but nobody can dial it", text)
	default:
		d.ok("reach", "%s", text)
	}
}

// clockLimit is by how much clocks may differ before the doctor minds.
const clockLimit = 2 * time.Second

func (d *doctor) checkClock() {
	peer := ""
	if len(d.views) == 1 {
		peer = d.views[0].name
	}
	k, err := d.client.Clock(d.c.Context(), peer)
	ahead := time.Duration(k.AheadUS) * time.Microsecond
	switch {
	case err != nil:
		d.note("clock", "", "%v", err)
	case k.Peers == 0:
		d.note("clock", "", "no peer has told its time")
	case ahead.Abs() > clockLimit:
		how := "ahead of"
		if ahead < 0 {
			how = "behind"
		}
		d.wrong("clock", "set it: timedatectl set-ntp true, or your system's way to do so", "this machine's clock is %s %s those of %s: times in lists and logs are wrong", formatSpan(ahead.Abs()), how, plural(k.Peers, "peer", "peers"))
	default:
		d.ok("clock", "%s apart from %s", formatSpan(ahead.Abs()), plural(k.Peers, "peer", "peers"))
	}
}

// checkVersions names the versions of others if they differ from the own one.
func (d *doctor) checkVersions() {
	versions, met := map[string]int{}, 0
	for _, v := range d.views {
		for _, p := range v.Peers {
			if p.Connected && p.Agent != "" {
				met++
				versions[strings.TrimPrefix(p.Agent, "poq/")]++
			}
		}
	}
	own := d.client.Status.Version
	delete(versions, own)
	switch {
	case met == 0:
		return
	case len(versions) == 0:
		d.ok("versions", "peers run version %s, too", own)
		return
	}
	var list []string
	for v, n := range versions {
		list = append(list, fmt.Sprintf("%s (%d)", v, n))
	}
	slices.Sort(list)
	d.note("versions", "run the same version everywhere, when it suits", "this peer runs %s, others %s", own, strings.Join(list, ", "))
}

func printFindings(w io.Writer, list []finding) {
	wide := 0
	for _, f := range list {
		wide = max(wide, len(f.Check))
	}
	bad := 0
	for _, f := range list {
		says := f.Says
		if f.Peer != "" {
			says = f.Peer + ": " + says
		}
		indent := strings.Repeat(" ", 6+1+wide+2)
		fmt.Fprintf(w, "%-6s %-*s  %s\n", f.Result, wide, f.Check, strings.ReplaceAll(says, "\n", "\n"+indent+"  "))
		if f.Mend != "" && f.Result != good {
			fmt.Fprintf(w, "%s-> %s\n", indent, f.Mend)
		}
		if f.Result == wrong {
			bad++
		}
	}
	if bad == 0 {
		fmt.Fprintln(w, "\nnothing is wrong")
	} else {
		fmt.Fprintf(w, "\n%s wrong\n", plural(bad, "thing is", "things are"))
	}
}

// machine describes where the program runs.
func machine() map[string]string {
	return map[string]string{"version": versionText(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "cpus": fmt.Sprint(runtime.NumCPU())}
}
