package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

// What of the ledger the gateway shows. Everything is read from memory where it can be, and the disk is waited for only where
// something is known to be on its way there: readers don't hold up what settles.

// errOpen says that a task has no receipt yet.
var errOpen = errors.New("the task is open: it has a receipt once it is settled")

// find finds a task by its id, which may be shortened.
func find(l *store.Reader, id string) (task ledger.TaskID, err error) {
	if task.UnmarshalText([]byte(id)) == nil {
		if !l.IsLocked(task) {
			return task, fmt.Errorf("task %s: %w", id, store.ErrNotFound)
		}
		return task, nil
	}
	return l.Resolve(id)
}

// receipt returns a receipt, which may have to be written first.
func receipt(l *store.Reader, task ledger.TaskID) (*ledger.Receipt, error) {
	if !l.IsSettled(task) {
		return nil, errOpen
	}
	r, err := l.Receipt(task)
	if errors.Is(err, store.ErrNotFound) {
		if err = l.Flush(); err == nil {
			r, err = l.Receipt(task)
		}
	}
	return r, err
}

func (g *gateway) task(w http.ResponseWriter, r *http.Request) {
	task, err := find(g.node.Ledger(), r.PathValue("id"))
	var status *node.TaskStatus
	if err == nil {
		status, err = g.node.Status(r.Context(), task)
	}
	if err != nil {
		reject(w, notShown("id", err))
		return
	}
	reply(w, http.StatusOK, status)
}

func (g *gateway) receipt(w http.ResponseWriter, r *http.Request) {
	l := g.node.Ledger()
	task, err := find(l, r.PathValue("id"))
	var proof *ledger.Receipt
	if err == nil {
		proof, err = receipt(l, task)
	}
	var file []byte
	if err == nil {
		file, err = ledger.EncodeReceiptFile(l.Genesis().Chain(), proof)
	}
	if err != nil {
		reject(w, notShown("id", err))
		return
	}
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="receipt-%s.json"`, task.Short()))
	reply(w, http.StatusOK, json.RawMessage(file))
}

// receiptLink is where a client finds a receipt, from the root of the gateway.
func receiptLink(task ledger.TaskID) string { return "/v1/poq/receipts/" + task.String() }

func (g *gateway) accounts(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, control.ReadAccounts("", g.node.Ledger()))
}

func (g *gateway) account(w http.ResponseWriter, r *http.Request) {
	l, meant := g.node.Ledger(), r.PathValue("account")
	names := node.Names(l.Genesis())
	var id ledger.AccountID
	if id.UnmarshalText([]byte(meant)) != nil {
		found := false
		for account, name := range names {
			// Names need not be unique; the lowest account has it.
			if name == meant && (!found || account.Compare(id) < 0) {
				id, found = account, true
			}
		}
		if !found {
			reject(w, notShown("account", fmt.Errorf("account %q: %w", meant, store.ErrNotFound)))
			return
		}
	}
	a := l.Account(id)
	if a == (ledger.Account{}) && names[id] == "" {
		reject(w, notShown("account", fmt.Errorf("account %s: %w", id, store.ErrNotFound)))
		return
	}
	reply(w, http.StatusOK, control.Account{Account: id, Name: names[id], Balance: a.Balance, Orders: a.Nonce})
}

// notShown turns an error of reading the ledger into one for the client.
func notShown(param string, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		e := badRequest(param, "not_found", "%v", err)
		e.status = http.StatusNotFound
		return e
	case errors.Is(err, errOpen):
		e := badRequest(param, "not_settled", "%v", err)
		e.status = http.StatusNotFound
		return e
	case errors.Is(err, store.ErrBadID), errors.Is(err, store.ErrAmbiguous):
		return badRequest(param, "", "%v", err)
	}
	return newError(http.StatusInternalServerError, "server_error", "", "%v", err)
}
