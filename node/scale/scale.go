package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// Config says what to measure.
type Config struct {
	// Peers is how many there are: Validators, then Answers workers that answer, then others, and a payer.
	Peers, Validators, Answers int
	// Degree is how many others each peer dials; in the mean it is connected to twice as many. Zero connects all with all.
	// Validators are connected with each other in any case.
	Degree int
	// Tasks is how many are played, one after another.
	Tasks int
	// Host makes the host of a peer, which the measurement closes. Nil stands for hosts as each stack makes them, on TCP
	// ports of 127.0.0.1.
	Host func(i int) (host.Host, error)
	// Command, if set, runs every host in a process of its own: it is a program with arguments, to which the stack is added,
	// that calls ServePeer. Host has no place then.
	Command []string
}

// Validate returns an error that says what is wrong.
func (c Config) Validate() error {
	switch {
	case c.Validators < 1 || c.Answers < 1 || c.Peers < c.Validators+c.Answers+1:
		return fmt.Errorf("%d peers: want at least a validator, a worker for each answer, and a payer", c.Peers)
	case c.Degree < 0 || c.Degree >= c.Peers:
		return fmt.Errorf("degree %d: want 0 to %d", c.Degree, c.Peers-1)
	case c.Tasks < 1:
		return fmt.Errorf("%d tasks: want 1 at least", c.Tasks)
	}
	return nil
}

// Figures are what was measured of one stack. Per task and peer means divided by both. Times of deliveries are from
// Publish to the handler of another peer.
type Figures struct {
	Stack       Stack         `json:"stack"`
	Connections float64       `json:"connections_per_peer"`
	Meshed      time.Duration `json:"meshed_ns"` // from the first dial until every peer has its meshes
	Sent        float64       `json:"messages_per_task_and_peer"`
	Bytes       float64       `json:"bytes_per_task_and_peer"`
	Duplicates  float64       `json:"duplicates"` // copies received for each message delivered
	P50         time.Duration `json:"delivery_p50_ns"`
	P99         time.Duration `json:"delivery_p99_ns"`
	Max         time.Duration `json:"delivery_max_ns"`
	Task        time.Duration `json:"task_p50_ns"`           // until all peers have the last message of a task
	CPU         time.Duration `json:"cpu_per_task_ns"`       // of all peers together
	Memory      int64         `json:"memory_bytes_per_peer"` // in one process what is reachable, else resident
	Lost        uint64        `json:"lost"`                  // messages and RPCs that were dropped, over all peers
}

// Measure measures one stack. The figures of several, measured with the same Config, can be compared: hosts, topology and
// messages are the same.
func (c Config) Measure(ctx context.Context, stack Stack) (Figures, error) {
	if err := c.Validate(); err != nil {
		return Figures{}, err
	}
	f, err := c.measure(ctx, stack)
	if err != nil {
		return f, fmt.Errorf("%s: %w", stack, err)
	}
	return f, nil
}

// Overhead is by how much one stack costs more than another, as parts of the other's cost: 0.1 is a tenth more.
type Overhead struct {
	Messages float64 `json:"messages"`
	Bytes    float64 `json:"bytes"`
	CPU      float64 `json:"cpu"`
}

// Over compares f with the figures of another stack.
func (f Figures) Over(other Figures) Overhead {
	return Overhead{f.Sent/other.Sent - 1, f.Bytes/other.Bytes - 1, float64(f.CPU)/float64(other.CPU) - 1}
}

// Print prints figures side by side, and what the first costs more than each of the others.
func Print(w io.Writer, list []Figures) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "STACK\tPEERS EACH\tMESHED\tMSGS/TASK/PEER\tKB/TASK/PEER\tCOPIES\tDELIVERY P50\tP99\tMAX\tTASK P50\tCPU/TASK\tMEMORY/PEER\tLOST\t")
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	for _, f := range list {
		fmt.Fprintf(t, "%s\t%.1f\t%v\t%.1f\t%.1f\t%.2f\t%v\t%v\t%v\t%v\t%v\t%.2f MB\t%d\t\n", f.Stack, f.Connections, round(f.Meshed), f.Sent, f.Bytes/1000,
			f.Duplicates, round(f.P50), round(f.P99), round(f.Max), round(f.Task), round(f.CPU), float64(f.Memory)/1e6,
			f.Lost)
	}
	_ = t.Flush() // w keeps its error, if it has any
	fmt.Fprintln(w)
	for _, other := range list[1:] {
		o := list[0].Over(other)
		fmt.Fprintf(w, "%s over %s: messages %+.1f%%, bytes %+.1f%%, processor time %+.1f%%\n", list[0].Stack, other.Stack, 100*o.Messages, 100*o.Bytes, 100*o.CPU)
	}
}

// topology lists whom each peer dials.
func (c Config) topology() [][]int {
	random := rand.New(rand.NewPCG(uint64(c.Peers), uint64(c.Degree)))
	dials := make([][]int, c.Peers)
	known := make(map[[2]int]bool)
	link := func(i, j int) bool {
		key := [2]int{min(i, j), max(i, j)}
		if i == j || known[key] {
			return false
		}
		known[key] = true
		dials[i] = append(dials[i], j)
		return true
	}
	for i := range c.Peers {
		for j := range i {
			if c.Degree == 0 || i < c.Validators {
				link(i, j)
			}
		}
	}
	for i := range c.Peers {
		for n, tries := 0, 0; n < c.Degree && tries < 100*c.Peers; tries++ {
			if link(i, random.IntN(c.Peers)) {
				n++
			}
		}
	}
	return dials
}

// member is a host of a stack, in this process or in one of its own.
type member interface {
	// Addrs are where others dial it, each with the peer id.
	Addrs() []multiaddr.Multiaddr
	Dial(ctx context.Context, addrs []multiaddr.Multiaddr) error
	// Ready returns when so many others are in each topic and the meshes have enough of them.
	Ready(ctx context.Context, others int) error
	// Publish publishes a message with a number, and returns when it did so.
	Publish(ctx context.Context, topic ledger.Topic, number uint64, size int) (time.Time, error)
	Usage(ctx context.Context) (Usage, error)
	Close() error
}

// Usage is what a peer has used since it began; processor time and memory only if its process is its own.
type Usage struct {
	Traffic p2p.Traffic   `json:"traffic"`
	Lost    uint64        `json:"lost"`
	CPU     time.Duration `json:"cpu"`
	Memory  int64         `json:"memory"` // resident now
}

// delivery is a message that came to a peer.
type delivery struct {
	number uint64
	at     int
	when   time.Time
}

// publication is a message that a peer published.
type publication struct {
	by   int
	when time.Time
}

// settling is a few heartbeats of the slowest stack.
const settling = 3 * time.Second

// swarm is the running hosts of one stack.
type swarm struct {
	c     Config
	peers []member

	published []publication // by number of the message

	mu        sync.Mutex
	delivered []delivery
	awaited   int           // how many must have been delivered
	enough    chan struct{} // closed then
}

func (s *swarm) start(ctx context.Context, stack Stack) error {
	for i := range s.c.Peers {
		got := func(number uint64, when time.Time) { s.got(delivery{number, i, when}) }
		p, err := s.c.start(ctx, i, stack, got)
		if err != nil {
			return fmt.Errorf("host %d: %w", i, err)
		}
		s.peers = append(s.peers, p)
	}
	return nil
}

func (c Config) start(ctx context.Context, i int, stack Stack, got func(uint64, time.Time)) (member, error) {
	if len(c.Command) > 0 {
		return startProcess(ctx, append(c.Command[:len(c.Command):len(c.Command)], string(stack)), got)
	}
	var h host.Host
	if c.Host != nil {
		var err error
		if h, err = c.Host(i); err != nil {
			return nil, err
		}
	}
	return stack.start(h, func(number uint64) { got(number, time.Now()) })
}

func (c Config) measure(ctx context.Context, stack Stack) (f Figures, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before := heap()
	s := &swarm{c: c}
	defer func() {
		if e := s.close(); err == nil { // else it only says what became of the peers
			err = e
		}
	}()
	if err := s.start(ctx, stack); err != nil {
		return f, err
	}
	f.Stack = stack
	begin := time.Now()
	if f.Connections, err = s.connect(ctx); err != nil {
		return f, err
	}
	f.Meshed = time.Since(begin)
	select { // for heartbeats to prune meshes that all peers joined at once
	case <-time.After(settling):
	case <-ctx.Done():
		return f, ctx.Err()
	}
	had, err := s.usage(ctx)
	if err != nil {
		return f, err
	}
	var tasks []time.Duration
	for i := range c.Tasks {
		begin := time.Now()
		if err := s.task(ctx, i); err != nil {
			return f, fmt.Errorf("task %d: %w", i, err)
		}
		tasks = append(tasks, time.Since(begin))
	}
	has, err := s.usage(ctx)
	if err != nil {
		return f, err
	}
	share := float64(c.Tasks * c.Peers)
	f.CPU = (has.CPU - had.CPU) / time.Duration(c.Tasks)
	f.Sent = float64(has.Traffic.MessagesSent-had.Traffic.MessagesSent) / share
	f.Bytes = float64(has.Traffic.BytesSent-had.Traffic.BytesSent) / share
	delivered := has.Traffic.Delivered - had.Traffic.Delivered
	f.Duplicates = float64(delivered+has.Traffic.Duplicates-had.Traffic.Duplicates) / float64(delivered)
	f.Lost = has.Lost
	if f.Memory = has.Memory / int64(c.Peers); f.Memory == 0 {
		f.Memory = (heap() - before) / int64(c.Peers)
	}
	slices.Sort(tasks)
	f.Task = tasks[len(tasks)/2]
	took := s.took()
	f.P50, f.P99, f.Max = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	return f, nil
}

// connect makes the topology and waits until every peer has its meshes. It returns how many connections a peer
// has in the mean.
func (s *swarm) connect(ctx context.Context) (float64, error) {
	dials := s.c.topology()
	neighbours := make([]int, len(s.peers))
	edges := 0
	for i, to := range dials {
		for _, j := range to {
			neighbours[i]++
			neighbours[j]++
			edges++
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, to := range dials {
		g.Go(func() error {
			for _, j := range to {
				if err := s.peers[i].Dial(ctx, s.peers[j].Addrs()); err != nil {
					return fmt.Errorf("peer %d dials %d: %w", i, j, err)
				}
			}
			return nil
		})
		g.Go(func() error {
			if err := s.peers[i].Ready(ctx, neighbours[i]); err != nil {
				return fmt.Errorf("peer %d: %w", i, err)
			}
			return nil
		})
	}
	return 2 * float64(edges) / float64(len(s.peers)), g.Wait()
}

// task plays what is said in a task. What rests on other messages is said when all have them.
func (s *swarm) task(ctx context.Context, n int) error {
	c := s.c
	for _, m := range messagesOf(c.Validators, c.Answers) {
		var from []int
		for i := range m.number {
			switch m.role {
			case payer:
				from = append(from, c.Peers-1)
			case validator:
				from = append(from, (n+i)%c.Validators)
			case worker:
				from = append(from, c.Validators+i)
			}
		}
		all := s.await((len(s.published) + len(from)) * c.Peers)
		for _, by := range from {
			when, err := s.peers[by].Publish(ctx, m.topic, uint64(len(s.published)), m.bytes)
			if err != nil {
				return err
			}
			s.published = append(s.published, publication{by, when})
		}
		select {
		case <-all:
		case <-ctx.Done():
			return fmt.Errorf("not all peers have what was published on topic %s: %w", m.topic, ctx.Err())
		}
	}
	return nil
}

// await returns a channel that is closed when there were so many deliveries.
func (s *swarm) await(deliveries int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.awaited, s.enough = deliveries, make(chan struct{})
	return s.enough
}

func (s *swarm) got(d delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivered = append(s.delivered, d); len(s.delivered) == s.awaited {
		close(s.enough)
	}
}

// took returns how long messages took to other peers, ascending.
func (s *swarm) took() (list []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.delivered {
		if p := s.published[d.number]; p.by != d.at {
			list = append(list, d.when.Sub(p.when))
		}
	}
	slices.Sort(list)
	return list
}

// usage sums up over all peers.
func (s *swarm) usage(ctx context.Context) (sum Usage, err error) {
	for i, p := range s.peers {
		u, err := p.Usage(ctx)
		if err != nil {
			return sum, fmt.Errorf("peer %d: %w", i, err)
		}
		add(&sum.Traffic, u.Traffic)
		sum.Lost += u.Lost
		sum.CPU += u.CPU
		sum.Memory += u.Memory
	}
	if len(s.c.Command) == 0 {
		sum.CPU = CPU()
	}
	return sum, nil
}

func add(sum *p2p.Traffic, t p2p.Traffic) {
	sum.MessagesSent += t.MessagesSent
	sum.MessagesReceived += t.MessagesReceived
	sum.Delivered += t.Delivered
	sum.Duplicates += t.Duplicates
	sum.BytesSent += t.BytesSent
	sum.BytesReceived += t.BytesReceived
}

func (s *swarm) close() error {
	errs := make([]error, len(s.peers))
	var g sync.WaitGroup
	for i, p := range s.peers {
		g.Go(func() { errs[i] = p.Close() })
	}
	g.Wait()
	return errors.Join(errs...)
}

// heap is how many bytes are reachable.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// resident is how much memory the process takes: as Linux tells, elsewhere what Go's runtime holds.
func resident() int64 {
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, pages int64
		if _, err := fmt.Sscan(string(data), &size, &pages); err == nil {
			return pages * int64(os.Getpagesize())
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}
