package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/poqmesh/poq/ledger"
)

// request is a line that a process of a peer reads, reply one that it writes.
type (
	request struct {
		ID     int          `json:"id"`
		Dial   []string     `json:"dial,omitempty"`
		Ready  *int         `json:"ready,omitempty"`
		Topic  ledger.Topic `json:"topic,omitempty"` // publish
		Number uint64       `json:"number,omitempty"`
		Size   int          `json:"size,omitempty"`
	}
	reply struct {
		ID    int      `json:"id,omitempty"` // of the request; 0 tells of a message that came, and at first of Addrs
		Error string   `json:"error,omitempty"`
		Addrs []string `json:"addrs,omitempty"`
		When  int64    `json:"when,omitempty"` // ns since 1970: it was published, or came
		Got   uint64   `json:"got,omitempty"`  // number of the message that came
		Usage *Usage   `json:"usage,omitempty"`
	}
)

// ServePeer runs one host of a stack, which does what in says and tells of it to out, until in ends. See Config.Command.
func ServePeer(ctx context.Context, stack Stack, in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	lines := json.NewEncoder(out)
	say := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		_ = lines.Encode(r) // who reads it has ended if this fails, and in ends too
	}
	g, err := stack.start(nil, func(number uint64) { say(reply{Got: number, When: time.Now().UnixNano()}) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	var addrs []string
	for _, a := range g.Addrs() {
		addrs = append(addrs, a.String())
	}
	say(reply{Addrs: addrs})
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	for requests := json.NewDecoder(in); ; {
		var q request
		if err := requests.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		work.Go(func() {
			r, err := g.do(ctx, q)
			if r.ID = q.ID; err != nil {
				r.Error = err.Error()
			}
			say(r)
		})
	}
}

func (g *gossip) do(ctx context.Context, q request) (r reply, err error) {
	switch {
	case q.Dial != nil:
		addrs, err := parse(q.Dial)
		if err != nil {
			return r, err
		}
		return r, g.Dial(ctx, addrs)
	case q.Ready != nil:
		return r, g.Ready(ctx, *q.Ready)
	case q.Topic != "":
		if _, ok := g.topics[q.Topic]; !ok || q.Size < 8 || q.Size > ledger.MaxMessage {
			return r, fmt.Errorf("can't publish %d bytes on topic %q", q.Size, q.Topic)
		}
		when, err := g.Publish(ctx, q.Topic, q.Number, q.Size)
		return reply{When: when.UnixNano()}, err
	default:
		u, err := g.Usage(ctx)
		u.CPU, u.Memory = CPU(), resident()
		return reply{Usage: &u}, err
	}
}

func parse(list []string) (addrs []multiaddr.Multiaddr, err error) {
	for _, s := range list {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// process is a peer in a process of its own.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	addrs []multiaddr.Multiaddr

	mu      sync.Mutex
	lines   *json.Encoder
	last    int // ID of a request
	waiting map[int]chan reply
	ended   chan struct{} // closed when the process says nothing more
}

func startProcess(ctx context.Context, argv []string, got func(number uint64, when time.Time)) (_ *process, err error) {
	p := &process{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), waiting: map[int]chan reply{}, ended: make(chan struct{})} // #nosec G204 -- the caller's own program
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.lines = json.NewEncoder(p.in)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	replies := json.NewDecoder(out)
	var hello reply
	if err = replies.Decode(&hello); err == nil {
		p.addrs, err = parse(hello.Addrs)
	}
	go p.read(replies, got)
	if err != nil || len(p.addrs) == 0 {
		return nil, errors.Join(errors.New("the process does not tell its address"), err, p.Close())
	}
	return p, nil
}

func (p *process) read(replies *json.Decoder, got func(uint64, time.Time)) {
	defer close(p.ended)
	for {
		var r reply
		if replies.Decode(&r) != nil {
			return
		}
		if r.ID == 0 {
			got(r.Got, time.Unix(0, r.When))
			continue
		}
		p.mu.Lock()
		c := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
}

func (p *process) ask(ctx context.Context, q request) (r reply, err error) {
	c := make(chan reply, 1)
	p.mu.Lock()
	p.last++
	q.ID = p.last
	p.waiting[q.ID] = c
	err = p.lines.Encode(q)
	p.mu.Unlock()
	if err != nil {
		return r, fmt.Errorf("the process is gone: %w", err)
	}
	select {
	case r = <-c:
	case <-p.ended:
		return r, errors.New("the process ended")
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (p *process) Addrs() []multiaddr.Multiaddr { return p.addrs }

func (p *process) Dial(ctx context.Context, addrs []multiaddr.Multiaddr) error {
	var q request
	for _, a := range addrs {
		q.Dial = append(q.Dial, a.String())
	}
	_, err := p.ask(ctx, q)
	return err
}

func (p *process) Ready(ctx context.Context, others int) error {
	_, err := p.ask(ctx, request{Ready: &others})
	return err
}

func (p *process) Publish(ctx context.Context, topic ledger.Topic, number uint64, size int) (time.Time, error) {
	r, err := p.ask(ctx, request{Topic: topic, Number: number, Size: size})
	return time.Unix(0, r.When), err
}

func (p *process) Usage(ctx context.Context) (Usage, error) {
	r, err := p.ask(ctx, request{})
	if err != nil || r.Usage == nil {
		return Usage{}, err
	}
	return *r.Usage, nil
}

// Close has the process end, which it does when its stdin does.
func (p *process) Close() error {
	_ = p.in.Close()
	<-p.ended
	return p.cmd.Wait()
}
