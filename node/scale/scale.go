package scale

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"golang.org/x/sync/errgroup"

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
	Task        time.Duration `json:"task_p50_ns"`     // until all peers have the last message of a task
	CPU         time.Duration `json:"cpu_per_task_ns"` // of all peers together
	Heap        int64         `json:"heap_bytes_per_peer"`
	Lost        uint64        `json:"lost"` // messages and RPCs that were dropped, over all peers
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
	fmt.Fprintln(t, "STACK\tPEERS EACH\tMESHED\tMSGS/TASK/PEER\tKB/TASK/PEER\tCOPIES\tDELIVERY P50\tP99\tMAX\tTASK P50\tCPU/TASK\tHEAP/PEER\tLOST\t")
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	for _, f := range list {
		fmt.Fprintf(t, "%s\t%.1f\t%v\t%.1f\t%.1f\t%.2f\t%v\t%v\t%v\t%v\t%v\t%.2f MB\t%d\t\n", f.Stack, f.Connections, round(f.Meshed), f.Sent, f.Bytes/1000,
			f.Duplicates, round(f.P50), round(f.P99), round(f.Max), round(f.Task), round(f.CPU), float64(f.Heap)/1e6,
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

// publication is when a peer published a message.
type publication struct {
	by int
	at time.Time
}

// settling is a few heartbeats of the slowest stack.
const settling = 5 * time.Second

// swarm is the running hosts of one stack.
type swarm struct {
	c     Config
	peers []*gossip

	mu        sync.Mutex
	published []publication // by number of the message
	took      []time.Duration
	awaited   int
	all       chan struct{} // closed when awaited falls to zero
}

func (c Config) measure(ctx context.Context, stack Stack) (f Figures, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before := heap()
	s := &swarm{c: c}
	defer func() { err = errors.Join(err, s.close()) }()
	for i := range c.Peers {
		var h host.Host
		if c.Host != nil {
			if h, err = c.Host(i); err != nil {
				return f, fmt.Errorf("host %d: %w", i, err)
			}
		}
		g, err := stack.start(h, func(data []byte) { s.handle(i, data) })
		if err != nil {
			return f, fmt.Errorf("host %d: %w", i, err)
		}
		s.peers = append(s.peers, g)
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
	traffic, used := s.traffic(), cpu()
	var tasks []time.Duration
	for i := range c.Tasks {
		begin := time.Now()
		if err := s.task(ctx, i); err != nil {
			return f, fmt.Errorf("task %d: %w", i, err)
		}
		tasks = append(tasks, time.Since(begin))
	}
	f.CPU = (cpu() - used) / time.Duration(c.Tasks)
	t := s.traffic()
	share := float64(c.Tasks * c.Peers)
	f.Sent = float64(t.MessagesSent-traffic.MessagesSent) / share
	f.Bytes = float64(t.BytesSent-traffic.BytesSent) / share
	delivered := t.Delivered - traffic.Delivered
	f.Duplicates = float64(delivered+t.Duplicates-traffic.Duplicates) / float64(delivered)
	f.Heap = (heap() - before) / int64(c.Peers)
	for _, p := range s.peers {
		l := p.lost()
		f.Lost += l.Lost() + l.Rejected + l.Ignored
	}
	slices.Sort(tasks)
	f.Task = tasks[len(tasks)/2]
	slices.Sort(s.took)
	f.P50, f.P99, f.Max = s.took[len(s.took)/2], s.took[len(s.took)*99/100], s.took[len(s.took)-1]
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
				if err := s.peers[i].connect(ctx, s.peers[j].addrs...); err != nil {
					return fmt.Errorf("peer %d dials %d: %w", i, j, err)
				}
			}
			return nil
		})
		for name, wait := range s.peers[i].wait {
			g.Go(func() error {
				if err := wait(ctx, neighbours[i]); err != nil {
					return fmt.Errorf("peer %d in topic %s: %w", i, name, err)
				}
				return nil
			})
		}
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
		all := s.await(len(from) * c.Peers)
		for _, p := range from {
			if err := s.peers[p].publish[m.topic](ctx, s.message(m.bytes, p)); err != nil {
				return err
			}
		}
		select {
		case <-all:
		case <-ctx.Done():
			return fmt.Errorf("%d deliveries are missing: %w", s.missing(), ctx.Err())
		}
	}
	return nil
}

func (s *swarm) await(deliveries int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.awaited, s.all = deliveries, make(chan struct{})
	return s.all
}

func (s *swarm) missing() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.awaited
}

// message makes a message that carries its number.
func (s *swarm) message(size, by int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := binary.BigEndian.AppendUint64(make([]byte, 0, size), uint64(len(s.published)))
	s.published = append(s.published, publication{by, time.Now()})
	return data[:size]
}

func (s *swarm) handle(at int, data []byte) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.published[binary.BigEndian.Uint64(data)]; p.by != at {
		s.took = append(s.took, now.Sub(p.at))
	}
	if s.awaited--; s.awaited == 0 {
		close(s.all)
	}
}

func (s *swarm) traffic() (sum p2p.Traffic) {
	for _, p := range s.peers {
		add(&sum, p.traffic())
	}
	return sum
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
		g.Go(func() { errs[i] = p.close() })
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
