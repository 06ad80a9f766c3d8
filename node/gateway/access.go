package gateway

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/apikeys"
)

// maxAtOnce bounds the requests that are served at once, whoever they come from.
const maxAtOnce = 512

// access decides who may ask.
type access struct {
	next    http.Handler
	foreign *http.CrossOriginProtection // refuses what pages of other origins ask
	origins []string                    // whose pages may ask
	keys    *apikeys.Guard              // nil: nobody needs a key
	must    bool                        // a key is needed even if there is none yet
	slots   chan struct{}
}

// newAccess refuses origins that are none.
func newAccess(next http.Handler, c config) (*access, error) {
	a := &access{next: next, foreign: http.NewCrossOriginProtection(), origins: c.origins, slots: make(chan struct{}, maxAtOnce)}
	a.foreign.SetDenyHandler(http.HandlerFunc(forbid))
	for _, o := range c.origins {
		if err := a.foreign.AddTrustedOrigin(o); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// ServeHTTP lets a request in, or says why not.
func (a *access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Request-Id", requestID())
	if len(a.origins) > 0 && a.share(w, r) {
		return
	}
	a.foreign.Handler(http.HandlerFunc(a.admit)).ServeHTTP(w, r)
}

func forbid(w http.ResponseWriter, _ *http.Request) {
	reject(w, newError(http.StatusForbidden, "invalid_request_error", "forbidden", "requests of web pages are not served"))
}

// exposed are the headers that a page may read beside the few that it always may.
const exposed = "Retry-After, X-Request-Id, X-Should-Retry, X-PoQ-Task, X-PoQ-Outcome, X-PoQ-Fee, X-PoQ-Refund, X-PoQ-Winner, X-PoQ-Score, " +
	"X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests"

// share lets pages of the origins read the answer, and answers a browser that asks beforehand whether they may.
func (a *access) share(w http.ResponseWriter, r *http.Request) (answered bool) {
	h, origin := w.Header(), r.Header.Get("Origin")
	h.Add("Vary", "Origin")
	if !slices.Contains(a.origins, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		h.Set("Access-Control-Expose-Headers", exposed)
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" { // clients of OpenAI have a dozen of their own
		h.Set("Access-Control-Allow-Headers", asked)
	}
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// admit asks for a key where one is wanted. Where none is, it refuses names that were made to point to this machine (DNS
// rebinding): a browser takes their pages for the origin's own.
func (a *access) admit(w http.ResponseWriter, r *http.Request) {
	wanted := a.must
	var err error
	if a.keys != nil {
		var some bool
		some, err = a.keys.Wanted()
		wanted = wanted || some
	}
	switch {
	case err != nil:
		reject(w, keysFailed())
		return
	case !wanted && !namesAddress(r.Host):
		forbid(w, r)
		return
	case wanted:
		c, err := a.keys.Admit(bearer(r))
		if err != nil {
			a.unknown(w, r, err)
			return
		}
		rate, ok := c.Take(time.Now())
		tell(w.Header(), rate)
		if !ok {
			tooMany(w, "rate_limit_exceeded", rate.Wait, "API key "+c.Name()+" may send "+strconv.Itoa(rate.Limit)+" requests a minute")
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
		a.next.ServeHTTP(w, r)
	default:
		tooMany(w, "too_many_requests", time.Second, "this gateway serves "+strconv.Itoa(cap(a.slots))+" requests at once")
	}
}

func (a *access) unknown(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, apikeys.ErrUnknownKey) {
		reject(w, keysFailed())
		return
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	message := "this is no API key here, or it was revoked"
	if r.Header.Get("Authorization") == "" {
		message = "an API key is missing: send it as Authorization: Bearer KEY; poq api-keys new makes one"
	}
	reject(w, newError(http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "%s", message))
}

// keysFailed leaves out the cause, which names files.
func keysFailed() error {
	return newError(http.StatusInternalServerError, "server_error", "", "the API keys can't be read: poq api-keys list tells why")
}

// bearer is the key that comes with a request, "" without one.
func bearer(r *http.Request) string {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(key)
}

// namesAddress reports whether the Host header is an address or localhost.
func namesAddress(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

// tell sets the headers with which OpenAI tells how a key stands with its rate.
func tell(h http.Header, r apikeys.Rate) {
	if r.Limit == 0 {
		return
	}
	h.Set("X-RateLimit-Limit-Requests", strconv.Itoa(r.Limit))
	h.Set("X-RateLimit-Remaining-Requests", strconv.Itoa(r.Remaining))
	h.Set("X-RateLimit-Reset-Requests", r.Reset.Round(time.Millisecond).String())
}

func tooMany(w http.ResponseWriter, code string, wait time.Duration, why string) {
	seconds := strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
	w.Header().Set("Retry-After", seconds)
	reject(w, newError(http.StatusTooManyRequests, "requests", code, "%s: try again in %s s", why, seconds))
}

type callerKey struct{}

// ask orders a task, when it is its turn, and waits for the outcome, with wait. What it costs is counted against the key that the request
// came with, if it came with one.
func (g *gateway) ask(ctx context.Context, prompt string, o node.AskOptions, wait func(*node.Task) (*node.Settlement, error)) (*node.Settlement, error) {
	if !g.pace.enter(ctx) {
		return nil, errEnding
	}
	c, ok := ctx.Value(callerKey{}).(*apikeys.Caller)
	if !ok {
		task, err := g.order(ctx, prompt, o)
		if err != nil {
			return nil, err
		}
		return wait(task)
	}
	if o.Fee == 0 {
		o.Fee = max(node.DefaultFee, g.node.Ledger().Genesis().MinFee)
	}
	spending, err := c.Reserve(o.Fee)
	if err != nil {
		g.pace.leave()
		return nil, err
	}
	defer spending.End()
	task, err := g.order(ctx, prompt, o)
	if err != nil {
		return nil, err
	}
	spending.Ordered(task.ID)
	s, err := wait(task)
	if err == nil {
		spending.Settled(s.Task, s.Fee-s.Refund)
	}
	return s, err
}

// order orders a task that has entered.
func (g *gateway) order(ctx context.Context, prompt string, o node.AskOptions) (*node.Task, error) {
	task, err := g.node.Order(ctx, prompt, o)
	if err != nil {
		g.pace.leave()
		return nil, err
	}
	go g.pace.follow(task) // ends with ctx at the latest
	return task, nil
}

// cost returns what tasks cost their payer, from their receipts.
func cost(n Asker) func(ledger.TaskID) (ledger.Amount, bool) {
	return func(task ledger.TaskID) (ledger.Amount, bool) {
		r, err := receipt(n.Ledger(), task)
		if err != nil { // open; or the disk fails, and the node stops
			return 0, false
		}
		s := node.Describe(n.Ledger().Genesis(), r, nil, func(crypto.Hash) string { return "" })
		return s.Fee - s.Refund, true
	}
}
