package control

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/poqmesh/poq/node"
)

// NodeState is how a peer is.
type NodeState struct {
	Name    string  `json:"name"`
	Role    string  `json:"role"`
	Version string  `json:"version"`
	Process Process `json:"process"`
	node.State
	Recent []Task `json:"recent"` // the latest settlements, newest first
}

// Process is what the process of a peer takes; in a devnet of one process, that of all peers.
type Process struct {
	PID        int     `json:"pid"`
	CPUSeconds float64 `json:"cpu_seconds"` // since it started; 0 if the system does not tell
	Memory     uint64  `json:"memory"`      // bytes that the Go runtime has from the system
	Goroutines int     `json:"goroutines"`
}

// Look says what else a peer shall find out before it tells its state.
type Look struct {
	Compare bool // ask others for the digest of their ledgers
	Latency bool // ping all that are connected
}

// Ping is the answer of a peer to a ping.
type Ping struct {
	PeerID string `json:"peer_id"`
	Name   string `json:"name,omitempty"`
	RTTUS  int64  `json:"rtt_us"`
}

// recentTasks is how many settlements a NodeState has.
const recentTasks = 5

func (s *Server) getNode(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	q := r.URL.Query()
	if q.Has("latency") {
		p.Node.PingPeers(r.Context())
	}
	var compared []node.Comparison
	if q.Has("compare") {
		compared = p.Node.Compare(r.Context())
	}
	st := NodeState{Name: p.Name, Role: p.Role, Version: s.status.Version, Process: process(), State: p.Node.State()}
	st.Compared = compared
	for i := range st.Peers {
		if st.Peers[i].Name == "" {
			st.Peers[i].Name = s.nameOf(st.Peers[i].ID)
		}
	}
	if st.Recent, err = ReadTasks(p.Node.Ledger(), recentTasks); err != nil {
		replyError(w, err)
		return
	}
	reply(w, st)
}

// nameOf names a peer of this process, "" if it is none.
func (s *Server) nameOf(id peer.ID) string {
	for _, p := range s.peers {
		if p.Node.Host().ID() == id {
			return p.Name
		}
	}
	return ""
}

func process() Process {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Process{PID: os.Getpid(), CPUSeconds: cpuSeconds(), Memory: m.Sys - m.HeapReleased, Goroutines: runtime.NumGoroutine()}
}

// minShortID is how many characters of a peer id stand for it.
const minShortID = 4

// find returns the peer that is meant by a name, an id, the beginning or end of an id, or a multiaddr, which is connected to.
func (s *Server) find(ctx context.Context, p Peer, meant string) (id peer.ID, name string, err error) {
	st := p.Node.State()
	names := map[string]string{} // by id, of all that are known
	for _, o := range st.Peers {
		names[o.ID.String()] = o.Name
	}
	for _, o := range st.Committee {
		names[o.PeerID] = o.Name
	}
	for _, o := range s.peers {
		names[o.Node.Host().ID().String()] = o.Name
	}
	if strings.HasPrefix(meant, "/") {
		return s.connect(ctx, p, meant, names)
	}
	var found []string
	for id, name := range names {
		if id == meant || strings.EqualFold(name, meant) {
			found = []string{id}
			break
		}
		if len(meant) >= minShortID && (strings.HasSuffix(id, meant) || strings.HasPrefix(id, meant)) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) > 1:
		return "", "", &Error{Code: CodeUsage, Message: fmt.Sprintf("%q may be any of %d peers: give more of the id", meant, len(found))}
	case len(found) == 0:
		if id, err = peer.Decode(meant); err != nil {
			return "", "", &Error{Code: CodeNotFound, Message: fmt.Sprintf("%s knows no peer %q: see poq peers, or give its multiaddr", p.Name, meant)}
		}
		return id, "", nil
	}
	id, err = peer.Decode(found[0])
	return id, names[found[0]], err
}

func (s *Server) connect(ctx context.Context, p Peer, addr string, names map[string]string) (peer.ID, string, error) {
	a, err := multiaddr.NewMultiaddr(addr)
	var info *peer.AddrInfo
	if err == nil {
		info, err = peer.AddrInfoFromP2pAddr(a)
	}
	if err != nil {
		return "", "", &Error{Code: CodeUsage, Message: fmt.Sprintf("%s is no multiaddr that ends in /p2p/ID: %v", addr, err)}
	}
	if info.ID != p.Node.Host().ID() {
		err = p.Node.Host().Connect(ctx, a)
	}
	return info.ID, names[info.ID.String()], err
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	id, name, err := s.find(r.Context(), p, r.URL.Query().Get("to"))
	if err == nil && id == p.Node.Host().ID() {
		err = &Error{Code: CodeUsage, Message: fmt.Sprintf("%s is the peer that pings: name another one", p.Name)}
	}
	var rtt time.Duration
	if err == nil {
		rtt, err = p.Node.Host().Ping(r.Context(), id)
	}
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, Ping{PeerID: id.String(), Name: name, RTTUS: rtt.Microseconds()})
}

func (s *Server) clock(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, p.Node.Clock(r.Context()))
}

func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err == nil && p.Log == nil {
		err = &Error{Code: CodeNotFound, Message: p.Name + " keeps no log to show"}
	}
	if err != nil {
		replyError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(p.Log.Bytes()) // a client that left is no concern of ours
}

// Log keeps the end of what is written to it, whole lines of at most a quarter of a megabyte, for whoever looks for a fault. The
// zero value is ready. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	all []byte
}

const maxLog = 256 << 10

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, b...)
	if len(l.all) > 2*maxLog { // cut seldom: it costs a copy
		l.all = append([]byte(nil), tail(l.all)...)
	}
	return len(b), nil
}

// Bytes returns the latest lines.
func (l *Log) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(tail(l.all))
}

// tail returns the lines that end the text, at most maxLog bytes.
func tail(b []byte) []byte {
	if len(b) <= maxLog {
		return b
	}
	b = b[len(b)-maxLog:]
	return b[bytes.IndexByte(b, '\n')+1:]
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err == nil && p.Metrics == nil {
		err = &Error{Code: CodeNotFound, Message: p.Name + " has no metrics of its own: peers that are processes have, poq up and poq devnet --processes"}
	}
	if err != nil {
		replyError(w, err)
		return
	}
	promhttp.HandlerFor(p.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

// Node returns how a peer is; peer may be "".
func (c *Client) Node(ctx context.Context, peer string, look Look) (s NodeState, err error) {
	q := query("peer", peer)
	if look.Compare {
		q.Set("compare", "1")
	}
	if look.Latency {
		q.Set("latency", "1")
	}
	if err := c.get(ctx, "/v1/node", q, &s); err != nil {
		return s, err
	}
	for i := range s.Peers {
		if s.Peers[i].Name == "" {
			s.Peers[i].Name = c.nameOf(s.Peers[i].ID.String())
		}
	}
	return s, nil
}

// nameOf names a peer of the network that runs here, "" if it is none.
func (c *Client) nameOf(id string) string {
	if i := slices.IndexFunc(c.Status.Peers, func(p PeerInfo) bool { return p.PeerID == id }); i >= 0 {
		return c.Status.Peers[i].Name
	}
	return ""
}

// Ping has a peer, the last one if it is "", ping another one: a name, an id, the beginning or end of an id of four characters or
// more, or a multiaddr.
func (c *Client) Ping(ctx context.Context, peer, to string) (p Ping, err error) {
	for _, o := range c.Status.Peers {
		if strings.EqualFold(o.Name, to) {
			to = o.PeerID
		}
	}
	r, err := c.do(ctx, http.MethodPost, "/v1/ping", query("peer", peer, "to", to), nil)
	if err != nil {
		return p, err
	}
	if err := decode(r, &p); err != nil {
		return p, err
	}
	if p.Name == "" {
		p.Name = c.nameOf(p.PeerID)
	}
	return p, nil
}

// maxText bounds an answer that is text.
const maxText = 64 << 20

// Metrics returns a peer's metrics in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context, peer string) ([]byte, error) {
	return c.text(ctx, "/v1/metrics", query("peer", peer))
}

// Log returns the latest lines of a peer's log.
func (c *Client) Log(ctx context.Context, peer string) ([]byte, error) {
	return c.text(ctx, "/v1/log", query("peer", peer))
}

// Clock tells how a peer's clock compares with those of others.
func (c *Client) Clock(ctx context.Context, peer string) (v node.Clock, err error) {
	return v, c.get(ctx, "/v1/clock", query("peer", peer), &v)
}

func (c *Client) text(ctx context.Context, path string, q url.Values) ([]byte, error) {
	r, err := c.do(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, maxText))
	if err != nil {
		return nil, fmt.Errorf("answer of the running network: %w", err)
	}
	return text, nil
}
