package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/poqmesh/poq/node/gateway"
)

// until waits for something that nobody tells.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			var stacks bytes.Buffer
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("waited in vain: %s\n%s", what, &stacks)
		}
	}
}

// serving is the number of goroutines that serve connections of HTTP.
func serving() int {
	var stacks bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&stacks, 2)
	return strings.Count(stacks.String(), "net/http.(*conn).serve(")
}

// crowd has many clients, each with a connection of its own, which end together.
func crowd(clients int, each func(i int, c *http.Client)) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	c := &http.Client{Timeout: 2 * time.Minute, Transport: transport}
	var crowd sync.WaitGroup
	for i := range clients {
		crowd.Go(func() { each(i, c) })
	}
	crowd.Wait()
	transport.CloseIdleConnections()
}

// open begins to stream an answer, with a request that cut ends.
func open(ctx context.Context, c *http.Client, s *gateway.Server, prompt string) (*http.Response, error) {
	body := fmt.Sprintf(`{"model":"poq-best","prompt":%q,"stream":true,"poq":{"fee":1000,"max_answers":1}}`, prompt)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return c.Do(r)
}

// The tests of this file count goroutines, so none of them runs beside another one.

func TestManyStreamsLeaveNothingBehind(t *testing.T) {
	const clients, each = 80, 2 // more than have their turn at once
	n := network(t, after("a"))
	s := serve(t, n)
	before := runtime.NumGoroutine()
	crowd(clients, func(i int, c *http.Client) {
		for j := range each {
			r, err := open(t.Context(), c, s, fmt.Sprint(i, " and ", j))
			if err != nil {
				t.Error(err)
				return
			}
			data, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || !bytes.HasSuffix(data, []byte("data: [DONE]\n\n")) || !bytes.Contains(data, fmt.Appendf(nil, `"a%d and %d"`, i, j)) {
				t.Errorf("%v: %s", err, data)
			}
		}
	})
	gone(t, s, before, clients)
	if done, left := metric(t, s, "200"), metric(t, s, "499"); done+left != clients*each {
		t.Errorf("%d answered requests and %d of clients that left were counted, want %d", done, left, clients*each)
	}
}

func TestClientsThatLeaveBeforeTheSettlementFreeWhatTheyHeld(t *testing.T) {
	const clients = 20
	let := make(chan struct{})
	n := network(t, engine(func(ctx context.Context, _ string) (string, error) {
		select {
		case <-let:
		case <-ctx.Done():
		}
		return "late", ctx.Err()
	}))
	s := serve(t, n)
	before := runtime.NumGoroutine()
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		defer leave()
		until(t, "all requests are under way", func() bool { return s.Load().Requests == clients })
	}()
	crowd(clients, func(i int, c *http.Client) {
		if r, err := open(ctx, c, s, fmt.Sprint("question ", i)); err == nil {
			r.Body.Close()
			t.Errorf("answered with %d", r.StatusCode)
		}
	})
	left(t, s)
	if got := metric(t, s, "499"); got != clients {
		t.Errorf("%d clients are counted that left, want %d", got, clients)
	}
	close(let) // the orders stand: until they are settled the worker has goroutines for them
	gone(t, s, before, clients)
}

func TestClientsThatLeaveInTheMiddleOfAStreamFreeWhatTheyHeld(t *testing.T) {
	const clients = 20
	n := network(t, after(strings.Repeat("a long answer ", 2300)))
	s := serve(t, n)
	before := runtime.NumGoroutine()
	crowd(clients, func(i int, c *http.Client) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		r, err := open(ctx, c, s, fmt.Sprint("question ", i))
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Body.Close()
		if line, err := bufio.NewReader(r.Body).ReadString('\n'); err != nil || !strings.Contains(line, "a long answer") {
			t.Errorf("%q, %v", line, err)
		}
	})
	gone(t, s, before, clients)
}

// left waits until the gateway holds nothing of clients.
func left(t *testing.T, s *gateway.Server) {
	t.Helper()
	until(t, "no request is under way", func() bool { return s.Load() == gateway.Load{} })
	until(t, "no goroutine serves a connection", func() bool { return serving() == 0 })
}

// gone waits until nothing is left of clients and their tasks.
func gone(t *testing.T, s *gateway.Server, before, clients int) {
	t.Helper()
	left(t, s)
	// The network's own come and go, by less than one for each client.
	until(t, "goroutines are as many as before", func() bool { return runtime.NumGoroutine() < before+clients/2 })
}

// metric returns how many requests have ended with a status.
func metric(t *testing.T, s *gateway.Server, status string) int {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if len(m.Label) == 1 && m.Label[0].GetValue() == status {
				return int(m.Histogram.GetSampleCount())
			}
		}
	}
	return 0
}
