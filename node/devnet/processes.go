package devnet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// ProcessConfig says what StartProcesses starts.
type ProcessConfig struct {
	// Dir keeps the network. If it holds one already, that one is taken up again.
	Dir string
	// Validators is the size of the committee, 1 to ledger.MaxValidators; Workers at most MaxWorkers.
	Validators, Workers int
	// Judge is what the committee of a new network judges with.
	Judge crypto.Hash
	// Seed makes the keys of a new network, and so its accounts; nil draws them at random.
	Seed *uint64
	// Command returns the command that runs a peer with StartPeer and ends when [Parent] says so. It is given pipes
	// for stdin and stdout, the latter for Peer.Announce.
	Command func(p Peer, look Look) *exec.Cmd
	// Stderr gets what peers write to theirs, each line behind the peer's name.
	Stderr io.Writer
	// Died, if set, is called when a peer that was up ends unasked, from a goroutine of its own.
	Died func(Process)
}

// Look says how many other peers a new one shall see before it is ready, or how long it shall look for them:
// one of them may go away meanwhile.
type Look struct {
	Others int
	Most   time.Duration
}

// State says whether a peer runs.
type State string

// States.
const (
	Down     State = "down"
	Starting State = "starting"
	Up       State = "up"
)

// Process is a peer that runs in a process of its own, as it stood at one moment.
type Process struct {
	Name    string
	Role    Role
	Account ledger.AccountID
	PeerID  peer.ID
	Addr    string
	State   State
	PID     int    // 0 when it is down
	Reason  string // why it is down
}

// Processes is a network whose peers are processes, so that each can be killed and started alone. Its methods are
// safe for concurrent use.
type Processes struct {
	Genesis *ledger.Genesis

	config  ProcessConfig
	network *network
	list    []*process
	stderr  sync.Mutex // one line at a time

	closed   atomic.Bool
	closing  sync.Once
	closeErr error
}

// process is a peer's place: its command is another one after each start.
type process struct {
	peer Peer // without a node

	mu   sync.Mutex
	info Process
	run  *run // nil when it is down
}

// run is one life of a process.
type run struct {
	stdin  io.Closer
	cmd    *exec.Cmd
	ready  chan struct{} // closed when it is
	exited chan struct{} // closed when it has ended and its place says so
	asked  bool          // to end
}

// lookTimeout is how long a peer that is started alone looks for those that run, and firstTimeout how long each one
// does when all are started.
const (
	lookTimeout  = 5 * time.Second
	firstTimeout = time.Minute
)

// stopTimeout is how long a peer that is asked to end may take before it is killed.
const stopTimeout = 20 * time.Second

// Errors of a request about a peer.
var (
	ErrNoPeer = errors.New("no such peer")
	ErrIsUp   = errors.New("it runs already")
	ErrIsDown = errors.New("it is down")
	ErrClosed = errors.New("the network ends")
)

// StartProcesses starts a network, each peer a process of its own, and returns when every peer sees every other
// one. ctx bounds StartProcesses alone. A directory that another process uses gives an error that wraps
// store.ErrInUse.
func StartProcesses(ctx context.Context, c ProcessConfig) (*Processes, error) {
	n, err := openNetwork(c.Dir, c.Validators, c.Workers, c.Judge, c.Seed)
	if err != nil {
		return nil, err
	}
	d := &Processes{Genesis: n.genesis, config: c, network: n}
	if err := n.address(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := d.find(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	starting, cancel := context.WithCancel(ctx) // the first that fails ends the wait for the others
	defer cancel()
	var g errgroup.Group
	for _, p := range d.list {
		g.Go(func() error {
			err := d.start(starting, p, Look{len(d.list) - 1, firstTimeout})
			if err != nil {
				cancel()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// find says who the peers are.
func (d *Processes) find() error {
	accounts := map[string]ledger.AccountID{}
	for _, a := range d.Genesis.Accounts {
		accounts[a.Name] = a.ID
	}
	for i, p := range d.network.peers() {
		addr := d.network.manifest.Addresses[i]
		info, err := peer.AddrInfoFromString(addr)
		if err != nil {
			return fmt.Errorf("address of %s: %w", p.Name, err)
		}
		d.list = append(d.list, &process{peer: p, info: Process{
			Name: p.Name, Role: p.Role, Account: accounts[p.Name], PeerID: info.ID, Addr: addr, State: Down, Reason: "not started yet",
		}})
	}
	return nil
}

// List returns all peers: validators, workers, payer.
func (d *Processes) List() (list []Process) {
	for _, p := range d.list {
		list = append(list, p.get())
	}
	return list
}

func (p *process) get() Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info
}

func (d *Processes) peer(name string) (*process, error) {
	for _, p := range d.list {
		if strings.EqualFold(p.peer.Name, name) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrNoPeer, name)
}

// Start starts a peer that is down. It returns when the peer sees the others that run, or has looked for them for five
// seconds, and with an error when it ends before. ctx bounds the wait, not the peer. The error wraps ErrNoPeer or ErrIsUp if there is nothing to start.
func (d *Processes) Start(ctx context.Context, name string) error {
	p, err := d.peer(name)
	if err != nil {
		return err
	}
	others := 0
	for _, o := range d.list {
		if o != p && o.get().State != Down {
			others++
		}
	}
	return d.start(ctx, p, Look{others, lookTimeout})
}

func (d *Processes) start(ctx context.Context, p *process, look Look) error {
	r, err := d.spawn(p, look)
	if err != nil {
		return fmt.Errorf("%s: %w", p.peer.Name, err)
	}
	select {
	case <-r.ready:
		return nil
	case <-r.exited:
		return fmt.Errorf("%s ended before it was ready: %s", p.peer.Name, p.get().Reason)
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready: %w", p.peer.Name, ctx.Err())
	}
}

// spawn begins a life of a process and follows it in the background.
func (d *Processes) spawn(p *process, look Look) (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case d.closed.Load(): // if Close begins after this, it finds the run
		return nil, ErrClosed
	case p.run != nil:
		return nil, ErrIsUp
	}
	cmd := d.config.Command(p.peer, look)
	log := &lines{d: d, name: p.peer.Name}
	cmd.Stderr = log
	cmd.WaitDelay = stopTimeout
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &run{stdin: stdin, cmd: cmd, ready: make(chan struct{}), exited: make(chan struct{})}
	p.run = r
	p.info.State, p.info.PID, p.info.Reason = Starting, cmd.Process.Pid, ""
	go func() {
		in := bufio.NewScanner(stdout)
		if in.Scan() && in.Text() == readyLine {
			p.mu.Lock()
			p.info.State = Up
			p.mu.Unlock()
			close(r.ready)
		}
		_, _ = io.Copy(io.Discard, stdout)
		err := cmd.Wait()
		log.end()
		p.mu.Lock()
		p.run = nil
		wasUp := p.info.State == Up
		p.info.State, p.info.PID, p.info.Reason = Down, 0, reason(err, log.last)
		info, report := p.info, wasUp && !r.asked && d.config.Died != nil
		p.mu.Unlock()
		close(r.exited)
		if report {
			d.config.Died(info)
		}
	}()
	return r, nil
}

// reason says why a process ended.
func reason(err error, last string) string {
	switch {
	case err == nil:
		return "stopped"
	case last != "":
		return fmt.Sprintf("%s (%v)", last, err)
	}
	return err.Error()
}

// Stop asks a peer to end, and waits for it. The error wraps ErrNoPeer or ErrIsDown if there is nothing to stop.
func (d *Processes) Stop(ctx context.Context, name string) error {
	return d.end(ctx, name, (*run).stop)
}

// Kill ends a peer without a warning (SIGKILL), as a crash does, and waits for it. The error wraps ErrNoPeer or
// ErrIsDown if there is nothing to kill.
func (d *Processes) Kill(ctx context.Context, name string) error {
	return d.end(ctx, name, func(r *run) { _ = r.cmd.Process.Kill() }) // it fails only if the process has ended
}

// stop closes the pipe that the process reads from, and kills it if that does not help.
func (r *run) stop() {
	r.stdin.Close()
	late := time.AfterFunc(stopTimeout, func() { _ = r.cmd.Process.Kill() })
	go func() {
		<-r.exited
		late.Stop()
	}()
}

func (d *Processes) end(ctx context.Context, name string, how func(*run)) error {
	p, err := d.peer(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	r := p.run
	if r != nil {
		r.asked = true
	}
	p.mu.Unlock()
	if r == nil {
		return fmt.Errorf("%s: %w", p.peer.Name, ErrIsDown)
	}
	how(r)
	select {
	case <-r.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s has not ended: %w", p.peer.Name, ctx.Err())
	}
}

// Close ends all peers and waits for them. It may be called more than once. Nothing is started afterwards.
func (d *Processes) Close() error {
	d.closing.Do(func() {
		d.closed.Store(true)
		var g errgroup.Group
		for _, p := range d.list {
			g.Go(func() error {
				if err := d.Stop(context.Background(), p.peer.Name); !errors.Is(err, ErrIsDown) {
					return err
				}
				return nil
			})
		}
		d.closeErr = errors.Join(g.Wait(), d.network.close())
	})
	return d.closeErr
}

// lines passes on what a process writes to stderr, line by line, and remembers what it said last of its end.
type lines struct {
	d    *Processes
	name string
	rest []byte
	last string
}

// diePrefix begins the line in which a command says why it failed.
const diePrefix = "poq: "

// longestLine bounds what is kept of a line.
const longestLine = 64 << 10

// Write implements io.Writer. It is called by one goroutine.
func (l *lines) Write(data []byte) (int, error) {
	l.rest = append(l.rest, data...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok && len(l.rest) < longestLine {
			return len(data), nil
		}
		l.line(line)
		l.rest = rest
	}
}

// end passes on a last line that was not ended.
func (l *lines) end() {
	if len(l.rest) > 0 {
		l.line(l.rest)
		l.rest = nil
	}
}

func (l *lines) line(text []byte) {
	if bytes.HasPrefix(text, []byte(diePrefix)) {
		l.last = string(text[len(diePrefix):])
		return // the reason of its end
	}
	if l.d.config.Stderr == nil {
		return
	}
	l.d.stderr.Lock()
	defer l.d.stderr.Unlock()
	fmt.Fprintf(l.d.config.Stderr, "%s: %s\n", l.name, text)
}
