package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
)

// Peer is a node that a server speaks for.
type Peer struct {
	Name, Role string
	Node       *node.Node
	Metrics    prometheus.Gatherer // nil: metrics are not registered
	Log        *Log                // nil: the log is not kept
	API        string              // base URL of the peer's gateway, "" without one
}

// Server answers on a control socket.
type Server struct {
	status  Status
	genesis *ledger.Genesis
	peers   []Peer // of this process
	proxy   *proxy // to peers with processes of their own
	http    *http.Server
	end     func() error // gives the socket back
	done    chan error
	cancel  context.CancelFunc // ends the requests that run

	running sync.RWMutex // held for reading by each request
	closed  bool         // under running

	closing  sync.Once
	closeErr error
}

// maxRequest bounds a request's body: a prompt in JSON, escaped, with room.
const maxRequest = 4 << 20

// Serve opens a control socket for a process whose data lies in dir. Requests that need a payer go to
// the last peer. Close ends it.
func Serve(version, dir string, peers []Peer) (*Server, error) {
	name, err := Reserve()
	if err != nil {
		return nil, err
	}
	s := newServer(version, dir, peers[0].Node.Genesis())
	s.peers, s.end = peers, name.Release
	return s, s.listen(name.base+socketSuffix, s.routes())
}

// ServePeer answers for one peer at a path that the process has which runs the network; see [Name.Peer].
func ServePeer(version, dir, path string, p Peer) (*Server, error) {
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = ignoreMissing(os.Remove(path)) // a killed process left it
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := newServer(version, dir, p.Node.Genesis())
	s.peers, s.end = []Peer{p}, func() error { return ignoreMissing(os.Remove(path)) }
	return s, s.listen(path, s.routes())
}

func newServer(version, dir string, g *ledger.Genesis) *Server {
	if abs, err := filepath.Abs(dir); err == nil { // else there is no working directory, and dir is as good
		dir = abs
	}
	return &Server{done: make(chan error, 1), genesis: g, status: Status{
		Version: version, PID: os.Getpid(), Dir: dir, Started: time.Now(), Network: g.Network, Chain: g.Chain(), Judge: g.Judge,
	}}
}

// routes answers for the peers of this process.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.getStatus)
	mux.HandleFunc("GET /v1/genesis", s.getGenesis)
	mux.HandleFunc("GET /v1/node", s.getNode)
	mux.HandleFunc("POST /v1/ping", s.ping)
	mux.HandleFunc("GET /v1/clock", s.clock)
	mux.HandleFunc("GET /v1/metrics", s.metrics)
	mux.HandleFunc("GET /v1/log", s.log)
	mux.HandleFunc("POST /v1/ask", s.ask)
	mux.HandleFunc("GET /v1/orders", s.orders)
	mux.HandleFunc("GET /v1/accounts", s.accounts)
	mux.HandleFunc("GET /v1/tasks", s.tasks)
	mux.HandleFunc("GET /v1/tasks/{id}", s.task)
	mux.HandleFunc("GET /v1/tasks/{id}/receipt", s.receipt)
	mux.HandleFunc("GET /v1/verify", s.verify)
	mux.HandleFunc("GET /v1/digests", s.digests)
	mux.HandleFunc("GET /v1/diff", s.diff)
	mux.HandleFunc("GET /v1/evidence", s.evidence)
	mux.HandleFunc("GET /v1/export", s.export)
	mux.HandleFunc("POST /v1/peers/{name}/{do}", func(w http.ResponseWriter, _ *http.Request) {
		replyError(w, &Error{Code: CodeUsage, Message: "all peers of this network run in one process: start it with poq devnet --processes"})
	})
	return mux
}

// listen begins to serve; the server is closed if it can't.
func (s *Server) listen(path string, h http.Handler) error {
	l, err := listen(path)
	if err != nil {
		return errors.Join(err, s.end())
	}
	s.status.Socket = path
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.http = &http.Server{Handler: s.count(h), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() { s.done <- s.http.Serve(l) }()
	return nil
}

// Socket returns the path of the socket.
func (s *Server) Socket() string { return s.status.Socket }

// count lets Close wait for requests.
func (s *Server) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.running.RLock()
		defer s.running.RUnlock()
		if !s.closed {
			h.ServeHTTP(w, r)
		}
	})
}

// Close ends the server. Requests that run are cut off, and waited for: none uses a node afterwards. It
// may be called more than once.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.cancel()
		err := s.http.Close()
		s.running.Lock()
		s.closed = true
		s.running.Unlock()
		if e := <-s.done; !errors.Is(e, http.ErrServerClosed) && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
		s.closeErr = errors.Join(err, s.end())
	})
	return s.closeErr
}

// Status returns what the server says about its process.
func (s *Server) Status() Status {
	st := s.status
	if s.proxy != nil {
		st.Peers = s.proxy.infos()
	}
	for _, p := range s.peers {
		info := PeerInfo{State: devnet.Up, PID: st.PID, Name: p.Name, API: p.API, Role: p.Role, Account: p.Node.Account(), Balance: p.Node.Ledger().Account(p.Node.Account()).Balance, PeerID: p.Node.Host().ID().String()}
		for _, a := range p.Node.Host().Addrs() {
			info.Addrs = append(info.Addrs, a.String())
		}
		if e := p.Node.Engine(); e != nil {
			info.Engine = e.Name()
		}
		if err := p.Node.Refusal(); err != nil {
			info.Refusal = err.Error()
		}
		st.Peers = append(st.Peers, info)
	}
	return st
}

func (s *Server) getStatus(w http.ResponseWriter, _ *http.Request) { reply(w, s.Status()) }

func (s *Server) getGenesis(w http.ResponseWriter, _ *http.Request) { reply(w, s.genesis) }

// peer finds the peer that a request names; the last one, which asks, if it names none.
func (s *Server) peer(r *http.Request) (Peer, error) {
	name := r.URL.Query().Get("peer")
	if name == "" {
		return s.peers[len(s.peers)-1], nil
	}
	var all []string
	for _, p := range s.peers {
		if strings.EqualFold(p.Name, name) {
			return p, nil
		}
		all = append(all, p.Name)
	}
	return Peer{}, noPeer(name, all)
}

func noPeer(name string, all []string) *Error {
	return &Error{Code: CodeNotFound, Message: fmt.Sprintf("no peer %q here: there are %s", name, strings.Join(all, ", "))}
}

// oneOrAll returns the peer that a request names, all of them if it names none.
func (s *Server) oneOrAll(r *http.Request) ([]Peer, error) {
	if r.URL.Query().Get("peer") == "" {
		return s.peers, nil
	}
	p, err := s.peer(r)
	return []Peer{p}, err
}

func (s *Server) ask(w http.ResponseWriter, r *http.Request) {
	var q AskRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&q); err != nil {
		replyError(w, &Error{Code: CodeUsage, Message: fmt.Sprintf("request: %v", err)})
		return
	}
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	names := node.Names(p.Node.Genesis())
	out, begin := json.NewEncoder(w), time.Now()
	var sending sync.Mutex
	send := func(u AskUpdate) {
		sending.Lock()
		defer sending.Unlock()
		if out.Encode(u) == nil { // a client that left ends r's context
			_ = http.NewResponseController(w).Flush()
		}
	}
	task, err := p.Node.Order(r.Context(), q.Prompt, node.AskOptions{
		Fee: q.Fee, MaxAnswers: q.MaxAnswers, Options: q.Options, Listen: q.Stream,
		AnswerTimeout: time.Duration(q.AnswerTimeoutMS) * time.Millisecond, ScoreTimeout: time.Duration(q.ScoreTimeoutMS) * time.Millisecond,
	})
	if err != nil {
		replyError(w, err)
		return
	}
	var telling sync.WaitGroup
	telling.Go(func() {
		for p := range task.Text() {
			send(AskUpdate{Step: new(newPiece(task.ID, p, begin))})
		}
	})
	for e := range task.Events() {
		send(AskUpdate{Step: new(NewStep(e, begin, names))})
	}
	telling.Wait()
	settlement, err := task.Wait()
	if err != nil {
		send(AskUpdate{Error: toError(err)})
		return
	}
	send(AskUpdate{Settlement: settlement})
}

func (s *Server) orders(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		replyError(w, &Error{Code: CodeUsage, Message: fmt.Sprintf("from: %v", err)})
		return
	}
	own, next, err := p.Node.OwnOrders(from)
	if err != nil {
		replyError(w, err)
		return
	}
	all := Orders{Account: p.Node.Account(), Next: next, Orders: []Order{}}
	for _, o := range own {
		all.Orders = append(all.Orders, Order{o.Task, o.Nonce, o.Fee, crypto.Sum([]byte(o.Prompt)), o.Options})
	}
	reply(w, all)
}

func (s *Server) accounts(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, ReadAccounts(p.Name, p.Node.Ledger()))
}

func (s *Server) tasks(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	n := 20
	if v := r.URL.Query().Get("n"); err == nil && v != "" {
		if n, err = strconv.Atoi(v); err != nil || n < 1 {
			err = &Error{Code: CodeUsage, Message: fmt.Sprintf("n=%s: want a positive number", v)}
		}
	}
	if err == nil {
		err = p.Node.Ledger().Flush()
	}
	var tasks []Task
	if err == nil {
		tasks, err = ReadTasks(p.Node.Ledger(), n)
	}
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, tasks)
}

func (s *Server) task(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err == nil {
		err = p.Node.Ledger().Flush()
	}
	if err != nil {
		replyError(w, err)
		return
	}
	id, err := p.Node.Ledger().Resolve(r.PathValue("id"))
	if err != nil {
		replyError(w, err)
		return
	}
	status, err := p.Node.Status(r.Context(), id)
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, status)
}

func (s *Server) receipt(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err == nil {
		err = p.Node.Ledger().Flush()
	}
	var file json.RawMessage
	if err == nil {
		file, err = ReadReceipt(p.Node.Ledger(), r.PathValue("id"))
	}
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, file)
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	peers, err := s.oneOrAll(r)
	if err != nil {
		replyError(w, err)
		return
	}
	results := []PeerVerification{}
	for _, p := range peers {
		if err := p.Node.Ledger().Flush(); err != nil {
			replyError(w, err)
			return
		}
		results = append(results, Verify(p.Name, p.Node.Ledger()))
	}
	reply(w, results)
}

func (s *Server) diff(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	with := r.URL.Query().Get("with")
	id, err := peer.Decode(with)
	if err != nil {
		replyError(w, &Error{Code: CodeUsage, Message: fmt.Sprintf("%q is neither a peer of this network nor a libp2p peer id", with)})
		return
	}
	if id == p.Node.Host().ID() {
		replyError(w, &Error{Code: CodeUsage, Message: p.Name + " can't be compared with itself: name two peers"})
		return
	}
	d, err := p.Node.Diff(r.Context(), id)
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, LedgerDiff{p.Name, with, d})
}

func (s *Server) digests(w http.ResponseWriter, r *http.Request) {
	peers, err := s.oneOrAll(r)
	if err != nil {
		replyError(w, err)
		return
	}
	digests := []PeerDigest{}
	for _, p := range peers {
		digests = append(digests, PeerDigest{p.Name, p.Node.Ledger().Digest()})
	}
	reply(w, digests)
}

func (s *Server) evidence(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	if err := p.Node.Ledger().Flush(); err != nil {
		replyError(w, err)
		return
	}
	list, err := ReadEvidence(p.Node.Ledger())
	if err != nil {
		replyError(w, err)
		return
	}
	reply(w, list)
}

func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	p, err := s.peer(r)
	if err != nil {
		replyError(w, err)
		return
	}
	out := &stream{w: w}
	if _, err = p.Node.Ledger().Export(out); err == nil {
		return
	}
	if out.begun {
		panic(http.ErrAbortHandler) // cuts the connection: the client sees that the archive is not whole
	}
	replyError(w, err)
}

// stream knows whether anything was written.
type stream struct {
	w     http.ResponseWriter
	begun bool
}

func (s *stream) Write(b []byte) (int, error) {
	if !s.begun {
		s.w.Header().Set("Content-Type", "application/octet-stream")
		s.begun = true
	}
	return s.w.Write(b)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that left is no concern of ours
}

// toError gives an error its code.
func toError(err error) *Error {
	var own *Error
	var size *node.PromptSizeError
	var funds *node.FundsError
	var pending *node.PendingError
	code := CodeFailed
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &size), errors.Is(err, node.ErrEmptyPrompt), errors.Is(err, node.ErrNulPrompt), errors.Is(err, node.ErrBadOption), errors.Is(err, store.ErrAmbiguous), errors.Is(err, store.ErrBadID):
		code = CodeUsage
	case errors.As(err, &funds):
		code = CodeFunds
	case errors.Is(err, node.ErrNoModel):
		code = CodeNoModel
	case errors.As(err, &pending), errors.Is(err, context.DeadlineExceeded):
		code = CodePending
	case errors.Is(err, store.ErrNotFound), errors.Is(err, devnet.ErrNoPeer):
		code = CodeNotFound
	case errors.Is(err, devnet.ErrIsDown):
		code = CodeDown
	}
	e := &Error{Code: code, Message: err.Error()}
	if pending != nil {
		e.Task = pending.Task
	}
	return e
}

func replyError(w http.ResponseWriter, err error) {
	e := toError(err)
	status := map[Code]int{CodeUsage: http.StatusBadRequest, CodeNotFound: http.StatusNotFound, CodeNoModel: http.StatusNotFound, CodeFunds: http.StatusPaymentRequired}[e.Code]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]*Error{"error": e})
}
