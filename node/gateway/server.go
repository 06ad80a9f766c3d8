package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// ErrAddress is wrapped when the gateway must not or can't be served at an address.
var ErrAddress = errors.New("not an address to serve the API at")

// Server serves the gateway over HTTP.
type Server struct {
	addr   string
	http   *http.Server
	done   chan error
	cancel context.CancelFunc
}

// Serve begins to listen at HOST:PORT, where no host stands for 127.0.0.1 and port 0 for a free one. Callers need no key and spend the
// credits of n, so it must be an address of this machine alone, and requests of web pages from elsewhere are refused. Close
// ends it, and must come before the node is closed.
func Serve(addr string, n Asker) (*Server, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: want HOST:PORT, or :PORT: %w", ErrAddress, addr, err)
	}
	switch host {
	case "", "localhost":
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%w: %q is not this machine alone, and whoever reaches the API spends the account's credits: use 127.0.0.1, behind a proxy that asks who comes", ErrAddress, addr)
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{l.Addr().String(), &http.Server{
		Handler: guard(Handler(n)), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}, make(chan error, 1), cancel}
	go func() {
		s.done <- s.http.Serve(l)
		close(s.done)
	}()
	return s, nil
}

// guard refuses what a web page of somebody else makes a browser ask: by its origin, and, where a name was made to point to this
// machine (DNS rebinding), by the name.
func guard(h http.Handler) http.Handler {
	deny := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reject(w, newError(http.StatusForbidden, "invalid_request_error", "forbidden", "requests of web pages are not served"))
	})
	origins := http.NewCrossOriginProtection()
	origins.SetDenyHandler(deny)
	h = origins.Handler(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", requestID())
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			deny(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// URL is the base URL for clients.
func (s *Server) URL() string { return "http://" + s.addr + "/v1" }

// closeTime is how long Close waits for answers to requests that it called off.
const closeTime = 5 * time.Second

// Close calls off the requests that run, and waits for them. Their orders stand. It may be called more than
// once.
func (s *Server) Close() error {
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	if e := <-s.done; !errors.Is(e, http.ErrServerClosed) { // nil the second time
		err = errors.Join(err, e)
	}
	return err
}
