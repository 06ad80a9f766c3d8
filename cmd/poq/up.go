package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/token"
)

// upFlags are those of poq up.
type upFlags struct {
	dir, join, engine, model string
	roles                    []string
	port                     uint16
	bind, bootstrap          []string
	verbose                  bool
}

// defaultPort is where a peer listens unless it is told otherwise, over UDP and TCP.
const defaultPort = 4777

// Roles of a peer. One without any is an observer: it follows the ledger and may ask.
const (
	roleWorker    = "worker"
	roleValidator = "validator"
	roleObserver  = "observer"
)

func newUp(g *globals) *cobra.Command {
	var f upFlags
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a peer of a network, or join one",
		Long: `Runs this machine's peer of a network, with what lies in its directory: the genesis,
keys (made if there are none) and the ledger. Ctrl-C ends it.

With --join it first takes the genesis from a token, which poq token prints on a peer
that runs. After that, poq up alone goes on where it was.

Without --roles the peer is an observer: it follows the ledger and may ask.`,
		Example: `  poq up --join poq1... --roles worker
  poq up --roles validator
  poq up --roles worker --engine openai=http://127.0.0.1:11434/v1,model=llama3.2`,
		Args: args(cobra.NoArgs),
	}
	c.Flags().StringVar(&f.dir, "dir", defaultDir(), "directory of the peer")
	c.Flags().StringVar(&f.join, "join", "", "join the network of this token")
	c.Flags().StringSliceVar(&f.roles, "roles", nil, "what the peer does: worker, validator or both")
	c.Flags().StringVar(&f.engine, "engine", "smol", "answer engine of a worker: smol, extract or openai=URL, with options")
	c.Flags().StringVar(&f.model, "judge-model", "", "directory of another judge model instead of the one in the binary")
	c.Flags().Uint16Var(&f.port, "port", defaultPort, "port to listen on, UDP and TCP; 0 takes a free one")
	c.Flags().StringArrayVar(&f.bind, "bind", nil, "address to listen on instead of all: an IP, host:port or a multiaddr; may be repeated")
	c.Flags().StringArrayVar(&f.bootstrap, "bootstrap", nil, "multiaddr of a peer to begin with, ending in /p2p/ID; may be repeated")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log everything that the peer does")
	c.RunE = func(c *cobra.Command, _ []string) error { return runUp(c, g, f) }
	return c
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

func runUp(c *cobra.Command, g *globals, f upFlags) (err error) {
	ctx := c.Context()
	progress := func(format string, a ...any) { fmt.Fprintf(c.ErrOrStderr(), format+"\n", a...) }
	for _, r := range f.roles {
		if r != roleWorker && r != roleValidator {
			return usagef("--roles %s: want worker, validator or both, or nothing for an observer", r)
		}
	}
	listen, err := listenAddrs(f.bind, f.port)
	if err != nil {
		return err
	}
	peers, err := parseAddrs("--bootstrap", f.bootstrap)
	if err != nil {
		return err
	}
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	var invitation token.Token
	if f.join != "" {
		if invitation, err = token.Parse(f.join); err != nil {
			return usagef("--join: %w", err)
		}
		peers = append(peers, invitation.Addresses...)
	}
	genesis, err := upGenesis(f.dir, invitation)
	if err != nil {
		return err
	}
	progress("starting %s of network %s in %s ...", rolesText(f.roles), genesis.Network, f.dir)
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	opts := []node.Option{
		node.WithDataDir(f.dir), node.WithGenesis(genesis), node.WithListen(listen...), node.WithPeers(peers...),
		node.WithLogger(newLogger(c.ErrOrStderr(), level)),
	}
	if slices.Contains(f.roles, roleWorker) {
		e, err := engines.New(f.engine)
		if err != nil {
			return usageError{err}
		}
		opts = append(opts, node.WithEngine(e))
	}
	if slices.Contains(f.roles, roleValidator) {
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
	server, err := control.Serve(versionText(), f.dir, []control.Peer{{Name: upName(n), Role: rolesText(f.roles), Node: n}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := n.Start(ctx); err != nil {
		return err
	}
	debug.FreeOSMemory() // loading took more than running does
	card := server.Status()
	if g.json {
		err = printJSON(c.OutOrStdout(), card)
	} else {
		printUp(c.OutOrStdout(), card)
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		progress("stopping ...")
		return nil
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

// upGenesis returns the genesis of a directory. If it has none, that of a token is written there.
func upGenesis(dir string, t token.Token) (*ledger.Genesis, error) {
	path := filepath.Join(dir, "genesis.json")
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && t.Genesis != nil:
		return t.Genesis, devnet.PutGenesis(dir, t.Genesis)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no %s: join a network with poq up --join TOKEN, or copy its genesis.json there", path)
	case err != nil:
		return nil, fmt.Errorf("reading the genesis: %w", err)
	}
	g := new(ledger.Genesis)
	if err := json.Unmarshal(data, g); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if t.Genesis != nil {
		return g, devnet.PutGenesis(dir, t.Genesis)
	}
	return g, nil
}

func printUp(w io.Writer, s control.Status) {
	p := s.Peers[0]
	fmt.Fprintf(w, "\nNetwork %s   chain %s   judge %s\n\n", s.Network, s.Chain.Short(), s.Judge.Short())
	fmt.Fprintf(w, "Peer            %s (%s)\nPeer id         %s\nAccount         %s, %s credits\n", p.Name, p.Role, p.PeerID, p.Account, formatAmount(p.Balance))
	if p.Engine != "" {
		fmt.Fprintf(w, "Engine          %s\n", p.Engine)
	}
	for i, a := range p.Addrs {
		fmt.Fprintf(w, "%-15s %s\n", []string{"Listening on", ""}[min(i, 1)], a)
	}
	fmt.Fprintf(w, "Data            %s\nControl socket  %s\n", s.Dir, s.Socket)
}

// listenAddrs returns where to listen: on all addresses, or on those of --bind, at a port unless they bring their own.
func listenAddrs(bind []string, port uint16) (list []multiaddr.Multiaddr, err error) {
	if len(bind) == 0 {
		bind = []string{"0.0.0.0", "::"}
	}
	for _, b := range bind {
		addrs, err := bindAddrs(b, port)
		if err != nil {
			return nil, err
		}
		list = append(list, addrs...)
	}
	return list, nil
}

// parseAddrs reads multiaddrs of peers.
func parseAddrs(flag string, list []string) (addrs []multiaddr.Multiaddr, err error) {
	for _, s := range list {
		a, err := multiaddr.NewMultiaddr(s)
		if err == nil {
			_, err = a.ValueForProtocol(multiaddr.P_P2P)
		}
		if err != nil {
			return nil, usagef("%s %s: want a multiaddr that ends in /p2p/ID, like those that poq up prints: %w", flag, s, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}
