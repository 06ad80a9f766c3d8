package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
	"github.com/poqmesh/poq/node"
)

// Client talks to a running process.
type Client struct {
	http   *http.Client
	Status Status
}

// statusTimeout is how long Dial waits for a process to say who it is.
const statusTimeout = 5 * time.Second

// Errors of Dial.
var (
	ErrNotRunning = errors.New("nothing is running: start a peer with poq up, or a network on this machine with poq devnet")
	ErrSeveral    = errors.New("several networks or peers are running")
	ErrSilent     = errors.New("what runs does not answer: it is suspended, ending, or has too much to do; try again")
)

// Running returns a client for each process that runs and answers. If others do not, the error wraps [ErrSilent]
// beside them.
func Running(ctx context.Context) ([]*Client, error) {
	paths, err := sockets()
	if err != nil {
		return nil, err
	}
	clients, errs := make([]*Client, len(paths)), make([]error, len(paths))
	var asking sync.WaitGroup
	for i, p := range paths {
		asking.Go(func() {
			hurry, cancel := context.WithTimeout(ctx, statusTimeout)
			defer cancel()
			clients[i] = newClient(p)
			errs[i] = clients[i].get(hurry, "/v1/status", nil, &clients[i].Status)
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var found []*Client
	for i, c := range clients {
		if errs[i] == nil {
			found = append(found, c)
		} else {
			err = fmt.Errorf("%w (%s)", ErrSilent, paths[i])
		}
	}
	return found, err
}

// Dial finds the process whose data lies in dir, or the only one that runs if dir is "".
func Dial(ctx context.Context, dir string) (*Client, error) {
	found, silent := Running(ctx)
	if silent != nil && !errors.Is(silent, ErrSilent) {
		return nil, silent
	}
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("directory: %w", err)
		}
		dir = abs
		found = slices.DeleteFunc(found, func(c *Client) bool { return c.Status.Dir != dir })
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && silent != nil: // it may be the one that is meant
		return nil, silent
	case len(found) == 0 && dir != "":
		return nil, fmt.Errorf("%w, with --dir %s", ErrNotRunning, dir)
	case len(found) == 0:
		return nil, ErrNotRunning
	}
	var dirs []string
	for _, c := range found {
		dirs = append(dirs, "--dir "+c.Status.Dir)
	}
	return nil, fmt.Errorf("%w: say which with one of %s", ErrSeveral, strings.Join(dirs, ", "))
}

// Ask asks and calls step for each step until the settlement is there.
func (c *Client) Ask(ctx context.Context, q AskRequest, step func(Step)) (*node.Settlement, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	r, err := c.do(ctx, http.MethodPost, "/v1/ask", nil, body)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	for in := json.NewDecoder(r.Body); ; {
		var u AskUpdate
		if err := in.Decode(&u); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the network ended before the task was settled; look later with poq ledger tasks")
			}
			return nil, err
		}
		switch {
		case u.Error != nil:
			return nil, u.Error
		case u.Settlement != nil:
			return u.Settlement, nil
		case u.Step != nil && step != nil:
			step(*u.Step)
		}
	}
}

// Genesis returns the genesis of the network.
func (c *Client) Genesis(ctx context.Context) (*ledger.Genesis, error) {
	g := new(ledger.Genesis)
	if err := c.get(ctx, "/v1/genesis", nil, g); err != nil {
		return nil, err
	}
	return g, g.Validate()
}

// Accounts returns the accounts in a peer's ledger; peer may be "".
func (c *Client) Accounts(ctx context.Context, peer string) (a Accounts, err error) {
	return a, c.get(ctx, "/v1/accounts", query("peer", peer), &a)
}

// Tasks returns the last n settled tasks.
func (c *Client) Tasks(ctx context.Context, peer string, n int) (t []Task, err error) {
	return t, c.get(ctx, "/v1/tasks", query("peer", peer, "n", fmt.Sprint(n)), &t)
}

// Task returns a task by its id or the beginning of it.
func (c *Client) Task(ctx context.Context, peer, id string) (t node.TaskStatus, err error) {
	return t, c.get(ctx, "/v1/tasks/"+url.PathEscape(id), query("peer", peer), &t)
}

// Orders returns the orders of the peer that [Client.Ask] asks, from a nonce on.
func (c *Client) Orders(ctx context.Context, from uint64) (o Orders, err error) {
	return o, c.get(ctx, "/v1/orders", query("from", fmt.Sprint(from)), &o)
}

// Receipt returns the file form of a settled task's receipt.
func (c *Client) Receipt(ctx context.Context, peer, id string) (file json.RawMessage, err error) {
	return file, c.get(ctx, "/v1/tasks/"+url.PathEscape(id)+"/receipt", query("peer", peer), &file)
}

// Verify verifies a peer's ledger, or all of them if peer is "".
func (c *Client) Verify(ctx context.Context, peer string) (v []PeerVerification, err error) {
	return v, c.get(ctx, "/v1/verify", query("peer", peer), &v)
}

// Digests returns the digest of a peer's ledger, or of all of them if peer is "".
func (c *Client) Digests(ctx context.Context, peer string) (d []PeerDigest, err error) {
	return d, c.get(ctx, "/v1/digests", query("peer", peer), &d)
}

// Evidence returns the proofs of contradictions that a peer keeps.
func (c *Client) Evidence(ctx context.Context, peer string) (e []Evidence, err error) {
	return e, c.get(ctx, "/v1/evidence", query("peer", peer), &e)
}

// Start starts a peer that runs as a process of its own, and returns when it sees the others that run.
func (c *Client) Start(ctx context.Context, peer string) (PeerInfo, error) {
	return c.order(ctx, peer, "start")
}

// Stop asks such a peer to end, and waits for it.
func (c *Client) Stop(ctx context.Context, peer string) (PeerInfo, error) {
	return c.order(ctx, peer, "stop")
}

// Kill ends such a peer as a crash does.
func (c *Client) Kill(ctx context.Context, peer string) (PeerInfo, error) {
	return c.order(ctx, peer, "kill")
}

func (c *Client) order(ctx context.Context, peer, what string) (p PeerInfo, err error) {
	r, err := c.do(ctx, http.MethodPost, "/v1/peers/"+url.PathEscape(peer)+"/"+what, nil, nil)
	if err != nil {
		return p, err
	}
	return p, decode(r, &p)
}

// Diff has a peer, the last one if it is "", compare its ledger with that of another, over the network. The other
// one is named, as the process or the genesis does, or given by its libp2p id.
func (c *Client) Diff(ctx context.Context, peer, with string) (d LedgerDiff, err error) {
	name := with
	g, err := c.Genesis(ctx)
	if err != nil {
		return d, err
	}
	for _, v := range g.Validators {
		if strings.EqualFold(v.Name, name) {
			name, with = v.Name, v.Peer
		}
	}
	for _, p := range c.Status.Peers {
		if strings.EqualFold(p.Name, name) {
			name, with = p.Name, p.PeerID
		}
	}
	if err := c.get(ctx, "/v1/diff", query("peer", peer, "with", with), &d); err != nil {
		return d, err
	}
	d.With = name
	return d, nil
}

// Export writes a peer's ledger as an archive and checks that it is whole; peer may be "". If that fails,
// what was written is of no use.
func (c *Client) Export(ctx context.Context, peer string, w io.Writer) (totals archive.Totals, err error) {
	r, err := c.do(ctx, http.MethodGet, "/v1/export", query("peer", peer), nil)
	if err != nil {
		return totals, err
	}
	defer r.Body.Close()
	a, err := archive.NewReader(io.TeeReader(r.Body, w))
	for err == nil {
		_, err = a.Next()
	}
	if !errors.Is(err, io.EOF) {
		return totals, fmt.Errorf("export of the running network: %w", err)
	}
	return a.Totals(), nil
}

func query(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

func (c *Client) get(ctx context.Context, path string, q url.Values, v any) error {
	r, err := c.do(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	return decode(r, v)
}

func decode(r *http.Response, v any) error {
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		return fmt.Errorf("answer of the running network: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	//nolint:gosec // whatever the path, it goes to a socket of the user's own
	r, err := http.NewRequestWithContext(ctx, method, "http://poq"+path+"?"+q.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	resp, err := c.http.Do(r) //nolint:gosec // see above
	if err != nil {
		return nil, fmt.Errorf("talking to the running network: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e struct{ Error *Error }
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Error == nil {
		return nil, fmt.Errorf("the running network answers %s", resp.Status)
	}
	return nil, e.Error
}
