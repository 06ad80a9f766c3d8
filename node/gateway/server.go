package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/netutil"

	"github.com/poqmesh/poq/node/apikeys"
)

// ErrAddress is wrapped when the gateway must not or can't be served at an address.
var ErrAddress = errors.New("not an address to serve the API at")

// Server serves the gateway over HTTP.
type Server struct {
	addr   net.Addr
	http   *http.Server
	keys   *apikeys.Guard // nil without
	done   chan error
	cancel context.CancelFunc
	meter  *meter
}

// Option is an option of [Serve].
type Option func(*config)

type config struct {
	dir     string
	origins []string
}

// WithKeys asks callers for one of the keys of a peer's directory as soon as there is one; see package apikeys. The keys may change
// while the gateway is served. What callers spend is counted in the directory, in which one gateway may do so at a time.
func WithKeys(dir string) Option { return func(c *config) { c.dir = dir } }

// WithOrigins lets web pages of these origins ask (CORS), such as https://chat.example. They need a key as everybody does.
func WithOrigins(origins ...string) Option { return func(c *config) { c.origins = origins } }

// maxConnections bounds the clients that are connected at once. Others wait.
const maxConnections = 4096

// Serve begins to listen at HOST:PORT, where no host stands for 127.0.0.1 and port 0 for a free one. Callers spend the credits of n.
// As long as there are no keys they need none, so it must be an address of this machine alone, and requests of web pages from
// elsewhere are refused. Close ends it, and must come before the node is closed.
func Serve(addr string, n Asker, opts ...Option) (*Server, error) {
	var c config
	for _, o := range opts {
		o(&c)
	}
	a, err := newAccess(Handler(n), c)
	if err != nil {
		return nil, fmt.Errorf("web pages are let in by their origin, SCHEME://HOST or SCHEME://HOST:PORT: %w", err)
	}
	addr, local, err := listenAddr(addr)
	if err != nil {
		return nil, err
	}
	if c.dir != "" {
		if a.keys, err = apikeys.Open(c.dir, cost(n)); err != nil {
			return nil, err
		}
	}
	s := &Server{keys: a.keys, done: make(chan error, 1), meter: newMeter()}
	if a.must = !local || len(c.origins) > 0; a.must {
		err = a.mustHaveKeys(addr, local)
	}
	var l net.Listener
	if err == nil {
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", addr); err != nil {
			err = fmt.Errorf("%w: %w", ErrAddress, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.closeKeys())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.addr, s.cancel = l.Addr(), cancel
	s.http = &http.Server{
		Handler: s.meter.observe(a), ConnState: s.meter.connection, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	go func() {
		s.done <- s.http.Serve(netutil.LimitListener(l, maxConnections))
		close(s.done)
	}()
	return s, nil
}

// listenAddr completes an address, and tells whether only this machine reaches it.
func listenAddr(addr string) (full string, local bool, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", false, fmt.Errorf("%w: %q: want HOST:PORT, or :PORT: %w", ErrAddress, addr, err)
	}
	switch host {
	case "", "localhost":
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", false, fmt.Errorf("%w: %q: the host must be an IP address or localhost", ErrAddress, addr)
	}
	return net.JoinHostPort(host, port), ip.IsLoopback(), nil
}

// mustHaveKeys says what there must be keys for, if there are none.
func (a *access) mustHaveKeys(addr string, local bool) error {
	if a.keys != nil {
		if some, err := a.keys.Wanted(); some || err != nil {
			return err
		}
	}
	if local {
		return fmt.Errorf("%w: web pages are served only where callers need a key, and there is none: make one with poq api-keys new NAME", ErrAddress)
	}
	return fmt.Errorf("%w: %q is not this machine alone, and whoever reaches the API spends the account's credits: make a key with poq api-keys new NAME, or use 127.0.0.1", ErrAddress, addr)
}

// URL is the base URL for clients; for those of this machine if it listens on all addresses.
func (s *Server) URL() string {
	host, port, _ := net.SplitHostPort(s.addr.String()) // what a listener says is right
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/v1"
}

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
	e, first := <-s.done
	if !first {
		return err
	}
	if !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, s.closeKeys())
}

func (s *Server) closeKeys() error {
	if s.keys == nil {
		return nil
	}
	return s.keys.Close()
}
