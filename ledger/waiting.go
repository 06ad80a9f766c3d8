package ledger

import "slices"

// Bounds on the orders that a validator keeps though it can't vote for them yet. Nobody has paid for them.
const (
	maxWaiting      = 4096
	maxWaitingPayer = 1024 // of one payer
	maxPoor         = 256  // of those whose payer has not got the fee
)

// waitingOrders are orders that wait for the one before them, or for funds. Those whose payer has the fee, and those whose payer has not,
// are kept apart, so that who has nothing takes no room from others. Among those who have, the one with
// the most orders gives way.
type waitingOrders struct {
	tasks map[nonce]TaskID
	of    map[AccountID][]nonce // oldest first
	n     int                   // in of
	poor  []nonce               // oldest first
}

func newWaitingOrders() waitingOrders {
	return waitingOrders{tasks: map[nonce]TaskID{}, of: map[AccountID][]nonce{}}
}

// add keeps an order and returns those that have to go for it, which may be itself.
func (w *waitingOrders) add(at nonce, id TaskID, funded bool) (out []TaskID) {
	if before, ok := w.take(at); ok && before != id {
		out = append(out, before)
	}
	switch {
	case !funded:
		if len(w.poor) >= maxPoor {
			out = append(out, w.drop(w.poor[0]))
		}
		w.poor = append(w.poor, at)
	case len(w.of[at.payer]) >= maxWaitingPayer:
		return append(out, id)
	default:
		if w.n >= maxWaiting {
			most := w.most()
			if len(w.of[at.payer])+1 >= len(w.of[most]) {
				return append(out, id)
			}
			out = append(out, w.drop(w.of[most][len(w.of[most])-1])) // the last: the others may lead to it, not it to them
		}
		w.of[at.payer] = append(w.of[at.payer], at)
		w.n++
	}
	w.tasks[at] = id
	return out
}

// most returns the payer with the most orders, of several the first by id.
func (w *waitingOrders) most() (most AccountID) {
	for payer, list := range w.of {
		if n := len(w.of[most]); len(list) > n || len(list) == n && payer.Compare(most) < 0 {
			most = payer
		}
	}
	return most
}

// take removes the order at a nonce and returns its task.
func (w *waitingOrders) take(at nonce) (TaskID, bool) {
	_, ok := w.tasks[at]
	if !ok {
		return TaskID{}, false
	}
	return w.drop(at), true
}

func (w *waitingOrders) drop(at nonce) TaskID {
	id := w.tasks[at]
	delete(w.tasks, at)
	if i := slices.Index(w.poor, at); i >= 0 {
		w.poor = slices.Delete(w.poor, i, i+1)
	} else if i := slices.Index(w.of[at.payer], at); i >= 0 {
		w.n--
		if w.of[at.payer] = slices.Delete(w.of[at.payer], i, i+1); len(w.of[at.payer]) == 0 {
			delete(w.of, at.payer)
		}
	}
	return id
}
