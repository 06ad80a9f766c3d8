package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/poqmesh/poq/node/devnet"
)

// proxy answers for peers that run as processes of their own: it passes a request on to the one that is meant.
type proxy struct {
	processes *devnet.Processes
	name      *Name

	mu    sync.Mutex
	known map[string]PeerInfo // what peers last said of themselves
}

// ServeProcesses opens the control socket of a network whose peers serve theirs at name.Peer. Requests that name no
// peer go to the last one. The server owns the name from now on.
func ServeProcesses(version, dir string, name *Name, p *devnet.Processes) (*Server, error) {
	s := newServer(version, dir, p.Genesis)
	s.end = name.Release
	s.proxy = &proxy{processes: p, name: name, known: map[string]PeerInfo{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.getStatus)
	mux.HandleFunc("GET /v1/genesis", s.getGenesis)
	mux.HandleFunc("GET /v1/verify", s.proxy.all(func(peer string, why error) any { return PeerVerification{Peer: peer, Reason: why.Error()} }))
	mux.HandleFunc("GET /v1/digests", s.proxy.all(nil))
	mux.HandleFunc("POST /v1/peers/{name}/start", s.proxy.do(p.Start))
	mux.HandleFunc("POST /v1/peers/{name}/stop", s.proxy.do(p.Stop))
	mux.HandleFunc("POST /v1/peers/{name}/kill", s.proxy.do(p.Kill))
	mux.HandleFunc("/", s.proxy.pass)
	return s, s.listen(name.base+socketSuffix, mux)
}

// infoTimeout is how long a peer may take to tell its state.
const infoTimeout = 2 * time.Second

// infos describes all peers; those that are down, or too busy to tell, as they were last known.
func (x *proxy) infos() []PeerInfo {
	list := x.processes.List()
	infos := make([]PeerInfo, len(list))
	var asking sync.WaitGroup
	for i, p := range list {
		asking.Go(func() { infos[i] = x.info(p) })
	}
	asking.Wait()
	return infos
}

func (x *proxy) info(p devnet.Process) PeerInfo {
	if p.State != devnet.Down {
		ctx, cancel := context.WithTimeout(context.Background(), infoTimeout)
		defer cancel()
		c := newClient(x.name.Peer(p.Name))
		if err := c.get(ctx, "/v1/status", nil, &c.Status); err == nil && len(c.Status.Peers) == 1 {
			x.mu.Lock()
			x.known[p.Name] = c.Status.Peers[0]
			x.mu.Unlock()
		}
	}
	x.mu.Lock()
	info := x.known[p.Name]
	x.mu.Unlock()
	info.Name, info.Role, info.Account, info.PeerID, info.Addrs = p.Name, string(p.Role), p.Account, p.PeerID.String(), []string{p.Addr}
	info.State, info.PID, info.Reason = p.State, p.PID, p.Reason
	if p.State == devnet.Down {
		info.Refusal = "" // the next start shows
	}
	return info
}

// do answers a request to start or end a peer.
func (x *proxy) do(f func(ctx context.Context, name string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if err := f(r.Context(), name); err != nil {
			replyError(w, err)
			return
		}
		p, err := x.find(name)
		if err != nil {
			replyError(w, err)
			return
		}
		reply(w, x.info(p))
	}
}

// find returns the peer with a name; the last one if there is no name.
func (x *proxy) find(name string) (devnet.Process, error) {
	list := x.processes.List()
	if name == "" {
		return list[len(list)-1], nil
	}
	var all []string
	for _, p := range list {
		if strings.EqualFold(p.Name, name) {
			return p, nil
		}
		all = append(all, p.Name)
	}
	return devnet.Process{}, noPeer(name, all)
}

// down says why a peer does not answer.
func down(p devnet.Process, err error) *Error {
	switch p.State {
	case devnet.Down:
		return &Error{Code: CodeDown, Message: fmt.Sprintf("%s is down (%s): start it with poq devnet start %s", p.Name, p.Reason, p.Name)}
	case devnet.Starting:
		return &Error{Code: CodeDown, Message: p.Name + " is starting: try again in a moment"}
	}
	return &Error{Code: CodeDown, Message: fmt.Sprintf("%s does not answer: %v; see poq devnet status", p.Name, err)}
}

// pass hands a request to the peer that it names, and its answer back while it comes.
func (x *proxy) pass(w http.ResponseWriter, r *http.Request) {
	p, err := x.find(r.URL.Query().Get("peer"))
	if err != nil {
		replyError(w, err)
		return
	}
	if p.State == devnet.Down {
		replyError(w, down(p, nil))
		return
	}
	(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "poq" },
		Transport:     transport(x.name.Peer(p.Name)),
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // the client is told
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			replyError(w, down(p, err))
		},
		ModifyResponse: func(resp *http.Response) error {
			if r.URL.Path == "/v1/ask" {
				resp.Body = &askBody{ReadCloser: resp.Body, peer: p.Name}
			}
			return nil
		},
	}).ServeHTTP(w, r)
}

// askBody is a peer's stream of AskUpdates. If it breaks off it ends with an update that says so.
type askBody struct {
	io.ReadCloser
	peer string
	tail io.Reader
}

// Read implements io.Reader.
func (b *askBody) Read(data []byte) (int, error) {
	if b.tail != nil {
		return b.tail.Read(data)
	}
	n, err := b.ReadCloser.Read(data)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	line, err := json.Marshal(AskUpdate{Error: &Error{Code: CodePending, Message: fmt.Sprintf(
		"%s ended before the task was settled: start it with poq devnet start %s; the order stands, look then with poq ledger tasks", b.peer, b.peer)}})
	b.tail = bytes.NewReader(append(line, '\n'))
	return n, err
}

// all puts together what every peer answers, a list each, if the request names no peer. absent says what stands
// for a peer that can't answer; nil leaves it out.
func (x *proxy) all(absent func(name string, why error) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("peer") != "" {
			x.pass(w, r)
			return
		}
		results := []any{}
		for _, p := range x.processes.List() {
			var list []json.RawMessage
			var err error
			if p.State == devnet.Down {
				err = down(p, nil)
			} else {
				err = newClient(x.name.Peer(p.Name)).get(r.Context(), r.URL.Path, query("peer", p.Name), &list)
			}
			for _, v := range list {
				results = append(results, v)
			}
			if err != nil && absent != nil {
				results = append(results, absent(p.Name, err))
			}
		}
		reply(w, results)
	}
}

// transport connects to a socket, whatever the address says.
func transport(socket string) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true, // a connection costs nothing here, and none is left to be closed
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
}

func newClient(socket string) *Client {
	return &Client{http: &http.Client{Transport: transport(socket)}}
}
