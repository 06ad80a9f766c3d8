package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry makes a registry for the metrics of one peer. The Go runtime, the process and the version are in it.
func NewRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "poq_build_info", Help: "1; the labels tell the version of the program.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Monitor serves a peer's /metrics, /healthz and /readyz over HTTP.
type Monitor struct {
	addr string
	http *http.Server
	done chan error
}

// ServeMonitor begins to listen at HOST:PORT, where no host stands for 127.0.0.1. Everybody who reaches the address can read
// what it says, so the caller should say so if that is not this machine alone. Close ends it, and must come before the
// node is closed.
func ServeMonitor(addr string, p Peer) (*Monitor, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%q: want HOST:PORT, or :PORT for this machine alone: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("serving metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-p.Node.Done():
			err := p.Node.Err()
			if err == nil {
				err = errors.New("the peer is ending")
			}
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := p.Node.State()
		if !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if s.Ready {
			fmt.Fprintln(w, "ready")
		}
		for _, p := range s.Problems {
			fmt.Fprintln(w, p.What)
		}
	})
	m := &Monitor{l.Addr().String(), &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}, make(chan error, 1)}
	go func() { m.done <- m.http.Serve(l) }()
	return m, nil
}

// Addr is the address that it listens at.
func (m *Monitor) Addr() string { return m.addr }

// Close ends it; requests that run are cut off.
func (m *Monitor) Close() error {
	err := m.http.Close()
	if e := <-m.done; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
