package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/multiformats/go-multiaddr"
	"github.com/spf13/cobra"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm/engines"
	"github.com/poqmesh/poq/llm/pool"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/gateway"
	"github.com/poqmesh/poq/node/token"
	"github.com/poqmesh/poq/p2p"
)

// upFlags are those of poq up.
type upFlags struct {
	dir, join, model         string
	roles, engines           []string
	port                     uint16
	bind, bootstrap, relays  []string
	announce, allow, deny    []string
	logLevel, logFormat, dht string
	verbose, mdns            bool
	portMap, relayService    bool
	passphrase               passphraseFlag
	metrics, api             string
	minFee                   credits
	payers, origins          []string
}

// defaultPort is where a peer listens unless it is told otherwise, over UDP and TCP.
const defaultPort = 4777

// Roles of a peer. One without any is an observer: it follows the ledger and may ask.
const (
	roleWorker    = "worker"
	roleValidator = "validator"
	roleObserver  = "observer"
)

func newUp(g *globals) *cobra.Command { return newUpWith(g, &upFlags{}) }

func newUpWith(g *globals, f *upFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a peer of a network, or join one",
		Long: `Runs this machine's peer of a network, with what lies in its directory: the genesis,
keys (made if there are none) and the ledger. Ctrl-C ends it.

With --join it first takes the genesis from a token, which poq token prints on a peer
that runs. After that, poq up alone goes on where it was.

Without --roles the peer is an observer: it follows the ledger and may ask.

Every flag may be set in the environment or in config.toml too: see poq config --help.`,
		Example: `  poq up --join poq1... --roles worker
  poq up --roles validator
  poq up --roles worker --engine openai=http://127.0.0.1:11434/v1,model=llama3.2
  poq up --roles worker --engine openai=http://gpu.example:8000/v1,concurrency=8 --engine smol`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().StringVar(&f.dir, "dir", defaultDir(), "directory of the peer")
	c.Flags().StringVar(&f.join, "join", "", "join the network of this token")
	c.Flags().StringSliceVar(&f.roles, "roles", nil, "what the peer does: worker, validator or both; without a role it observes")
	c.Flags().StringArrayVar(&f.engines, "engine", []string{"smol"}, "answer engine of a worker: smol, extract or openai=URL, with options; if repeated, the first that is well and takes the task answers")
	c.Flags().Var(&f.minFee, "min-fee", "a worker declines tasks whose whole fee is below this")
	c.Flags().StringSliceVar(&f.payers, "payers", nil, "a worker declines tasks of others than these accounts; may be repeated")
	c.Flags().StringVar(&f.model, "judge-model", "", "directory of another judge model instead of the one in the binary")
	c.Flags().Uint16Var(&f.port, "port", defaultPort, "port to listen on, UDP and TCP; 0 takes a free one")
	c.Flags().StringArrayVar(&f.bind, "bind", nil, "address to listen on instead of all: an IP, IP:PORT or a multiaddr; may be repeated")
	c.Flags().StringArrayVar(&f.announce, "announce", nil, "address to tell others besides: where a router or container leads here; IP, name, with :PORT, or a multiaddr; may be repeated")
	c.Flags().StringArrayVar(&f.allow, "allow", nil, "admit only these: an IP, a range (192.0.2.0/24), private, public or a peer id; may be repeated")
	c.Flags().StringArrayVar(&f.deny, "deny", nil, "never admit these, whatever --allow says; may be repeated")
	c.Flags().StringArrayVar(&f.bootstrap, "bootstrap", nil, "multiaddr of a peer to begin with, ending in /p2p/ID; may be repeated")
	c.Flags().BoolVar(&f.mdns, "mdns", true, "find peers in the local network by multicast DNS, and be found there")
	c.Flags().StringVar(&f.dht, "dht", string(p2p.DHTAuto), "find peers in a table that all share: auto, server (answer others), client (only ask) or off")
	c.Flags().BoolVar(&f.portMap, "port-map", true, "ask the router to open the port, by UPnP or NAT-PMP")
	c.Flags().StringArrayVar(&f.relays, "relay", nil, "multiaddr of a relay to be reached through when nobody can dial this peer, ending in /p2p/ID; may be repeated")
	c.Flags().BoolVar(&f.relayService, "relay-service", true, "let others be reached through this peer while it is publicly reachable")
	c.Flags().StringVar(&f.metrics, "metrics", "", "serve /metrics, /healthz and /readyz at HOST:PORT; without a host on this machine alone")
	c.Flags().StringVar(&f.api, "api", "", "serve an API for clients of OpenAI at HOST:PORT, which spends this peer's credits; on this machine alone, unless poq api-keys made a key")
	c.Flags().StringArrayVar(&f.origins, "api-cors", nil, "let web pages of this origin, as https://chat.example, use the API with a key; may be repeated")
	c.Flags().StringVar(&f.logLevel, "log-level", "info", "what to log: debug, info, warn or error")
	c.Flags().StringVar(&f.logFormat, "log-format", "text", "how to log to stderr: text or json")
	f.passphrase.add(c.Flags())
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log everything: --log-level debug")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := configure(c.Flags()); err != nil {
			return err
		}
		return runUp(c, g, f)
	}
	return c
}

func checkRoles(roles []string) error {
	for _, r := range roles {
		if r != roleWorker && r != roleValidator {
			return usagef("--roles %s: want worker, validator or both, or nothing for an observer", r)
		}
	}
	return nil
}

// defaultDir is POQ_DIR, or .poq in the home directory.
func defaultDir() string {
	if d := os.Getenv("POQ_DIR"); d != "" {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ".poq"
	}
	return filepath.Join(home, ".poq")
}

// upPlan is what the flags ask for.
type upPlan struct {
	listen, peers []multiaddr.Multiaddr
	announce      []multiaddr.Multiaddr
	access        p2p.Access
	nat           p2p.NAT
	discovery     p2p.Discovery
	invitation    token.Token
	engine        *pool.Pool
	policy        node.Policy
	level         slog.Level
}

// check reads the flags. Every error is one of usage.
func (f *upFlags) check() (p upPlan, err error) {
	if err := checkRoles(f.roles); err != nil {
		return p, err
	}
	slices.Sort(f.roles)
	f.roles = slices.Compact(f.roles)
	if p.listen, err = listenAddrs(f.bind, f.port); err != nil {
		return p, err
	}
	for _, a := range f.announce {
		addrs, err := announceAddrs(a, f.port)
		if err != nil {
			return p, err
		}
		p.announce = append(p.announce, addrs...)
	}
	if p.access.Allow, err = accessRules("--allow", f.allow); err != nil {
		return p, err
	}
	if p.access.Deny, err = accessRules("--deny", f.deny); err != nil {
		return p, err
	}
	if p.peers, err = parseAddrs("--bootstrap", f.bootstrap); err != nil {
		return p, err
	}
	p.discovery = p2p.Discovery{Bootstraps: p.peers, MDNS: f.mdns}
	if p.discovery.DHT, err = p2p.ParseDHTMode(f.dht); err != nil {
		return p, usagef("--dht %s: want auto, server, client or off", f.dht)
	}
	p.nat = p2p.NAT{On: true, PortMap: f.portMap, RelayService: f.relayService}
	if p.nat.Relays, err = parseAddrs("--relay", f.relays); err != nil {
		return p, err
	}
	if p.engine, err = engines.New(f.engines...); err != nil {
		return p, usagef("--engine: %w", err)
	}
	p.policy.MinFee = ledger.Amount(f.minFee)
	for _, text := range f.payers {
		var a ledger.AccountID
		if err := a.UnmarshalText([]byte(text)); err != nil {
			return p, usagef("--payers %s: %w: see poq keys show account", text, err)
		}
		p.policy.Payers = append(p.policy.Payers, a)
	}
	if err := p.level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return p, usagef("--log-level %s: want debug, info, warn or error", f.logLevel)
	}
	if f.verbose {
		p.level = slog.LevelDebug
	}
	if f.logFormat != "text" && f.logFormat != "json" {
		return p, usagef("--log-format %s: want text or json", f.logFormat)
	}
	if len(f.origins) > 0 && f.api == "" {
		return p, usagef("--api-cors goes with --api")
	}
	if f.join != "" {
		if p.invitation, err = token.Parse(f.join); err != nil {
			return p, usagef("--join: %w", err)
		}
	}
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return p, fmt.Errorf("directory: %w", err)
	}
	return p, nil
}

// logger makes the log of a peer. It goes to stderr alone: whoever runs the peer keeps it, and keeps it small.
func (f *upFlags) logger(w io.Writer, level slog.Level) *slog.Logger {
	if f.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return newLogger(w, level)
}

func runUp(c *cobra.Command, g *globals, f *upFlags) (err error) {
	ctx := c.Context()
	progress := func(format string, a ...any) { fmt.Fprintf(c.ErrOrStderr(), format+"\n", a...) }
	if f.port == 0 {
		if f.port, err = freePort(); err != nil {
			return err
		}
	}
	plan, err := f.check()
	if err != nil {
		return err
	}
	home, err := openHome(f.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.close()) }()
	genesis, err := home.genesis(ctx, plan.invitation, plan.peers, progress)
	if err != nil {
		return err
	}
	invited, err := home.remember(plan.invitation)
	if err != nil {
		return err
	}
	plan.discovery.Bootstraps, plan.discovery.File = append(plan.peers, invited...), home.peersFile()
	if len(plan.discovery.Bootstraps) == 0 && !home.remembers() {
		where := ""
		if plan.discovery.MDNS {
			where = " and looks for them in the local network"
		}
		progress("this peer knows no other: it waits for others to come%s; to begin with one, give it --join TOKEN or --bootstrap ADDRESS", where)
	}
	if err := checkPorts(ctx, plan.listen, len(f.bind) > 0); err != nil {
		return err
	}
	id, err := home.identity(c, slices.Contains(f.roles, roleValidator), &f.passphrase)
	if err != nil {
		return err
	}
	roles, err := takeRoles(f.dir, f.roles, genesis, &id, progress)
	if err != nil {
		return err
	}
	progress("starting %s of network %s in %s ...", rolesText(roles), genesis.Network, f.dir)
	registry, recent := control.NewRegistry(versionText()), &control.Log{}
	log := f.logger(io.MultiWriter(c.ErrOrStderr(), recent), plan.level)
	opts := []node.Option{
		node.WithVersion(versionText()), node.WithRegisterer(registry),
		node.WithDataDir(f.dir), node.WithGenesis(genesis), node.WithIdentity(id), node.WithListen(plan.listen...),
		node.WithAnnounce(plan.announce...), node.WithAccess(plan.access),
		node.WithDiscovery(plan.discovery),
		node.WithNAT(plan.nat),
		node.WithLogger(log),
	}
	if slices.Contains(roles, roleWorker) {
		plan.engine.SetLogger(log)
		opts = append(opts, node.WithEngine(plan.engine), node.WithPolicy(plan.policy))
	}
	if slices.Contains(roles, roleValidator) {
		judge, closeJudge, e := loadJudge(ctx, f.model)
		if e != nil {
			return e
		}
		defer func() { err = errors.Join(err, closeJudge()) }()
		opts = append(opts, node.WithJudge(judge))
	}
	n, err := node.New(ctx, opts...)
	if err != nil {
		return err
	}
	defer func() {
		if n.Err() == nil { // else it ends like in a crash, and writes nothing more
			err = errors.Join(err, n.Close())
		}
	}()
	peer := control.Peer{Name: upName(n), Role: rolesText(roles), Node: n, Metrics: registry, Log: recent}
	if f.api != "" {
		api, e := gateway.Serve(f.api, n, gateway.WithKeys(f.dir), gateway.WithOrigins(f.origins...))
		if e != nil {
			return usagef("--api: %w", e)
		}
		defer func() { err = errors.Join(err, api.Close()) }()
		if err := registry.Register(api); err != nil {
			return fmt.Errorf("metrics of the API: %w", err)
		}
		peer.API = api.URL()
	}
	server, err := control.Serve(versionText(), f.dir, []control.Peer{peer})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if f.metrics != "" {
		monitor, e := control.ServeMonitor(f.metrics, peer)
		if e != nil {
			return usagef("--metrics: %w", e)
		}
		defer func() { err = errors.Join(err, monitor.Close()) }()
		progress("metrics at http://%s/metrics, health at /healthz and /readyz", monitor.Addr())
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	debug.FreeOSMemory() // loading took more than running does
	log.Info("peer is up", "network", genesis.Network, "chain", genesis.Chain().Short(), "peer", n.Host().ID(), "roles", rolesText(roles), "version", versionText())
	card := server.Status()
	if g.json {
		err = printJSON(c.OutOrStdout(), card)
	} else {
		printUp(c.OutOrStdout(), card)
	}
	if err == nil {
		err = notify(ctx, "READY=1\nSTATUS="+rolesText(roles)+" of network "+genesis.Network)
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		progress("stopping ...")
		return notify(context.WithoutCancel(ctx), "STOPPING=1")
	case <-n.Done():
		return n.Err()
	}
}

// upName is what the genesis calls the peer, or else the end of its peer id.
func upName(n *node.Node) string {
	if i := n.Validator(); i >= 0 && n.Genesis().Validators[i].Name != "" {
		return n.Genesis().Validators[i].Name
	}
	if name := node.Names(n.Genesis())[n.Account()]; name != "" {
		return name
	}
	id := n.Host().ID().String()
	return id[len(id)-8:]
}

func rolesText(roles []string) string {
	if len(roles) == 0 {
		return roleObserver
	}
	return strings.Join(roles, ",")
}

func printUp(w io.Writer, s control.Status) {
	p := s.Peers[0]
	fmt.Fprintf(w, "\nNetwork %s   chain %s   judge %s\n\n", s.Network, s.Chain.Short(), s.Judge.Short())
	fmt.Fprintf(w, "Peer            %s (%s)\nPeer id         %s\nAccount         %s, %s credits\n", p.Name, p.Role, p.PeerID, p.Account, formatAmount(p.Balance))
	if p.Engine != "" {
		fmt.Fprintf(w, "Engine          %s\n", p.Engine)
	}
	if p.API != "" {
		fmt.Fprintf(w, "API             %s\n", p.API)
	}
	for i, a := range p.Addrs {
		fmt.Fprintf(w, "%-15s %s\n", []string{"Listening on", ""}[min(i, 1)], a)
	}
	fmt.Fprintf(w, "Data            %s\nControl socket  %s\n", s.Dir, s.Socket)
}
