package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p"
)

// ModelCount is a name that workers may be asked for, a model's or another one that they give to theirs, and how many of them have it.
type ModelCount struct {
	Model   string `json:"model"`
	Workers int    `json:"workers"`
}

// Models returns the names of models that workers announce, ascending: those of the peers that this node is connected to, and its
// own if it is a worker.
func (n *Node) Models() []ModelCount {
	count := map[string]int{}
	offers, _ := n.workersInSight()
	for _, names := range offers {
		for _, m := range names {
			count[m]++
		}
	}
	list := make([]ModelCount, 0, len(count))
	for m, workers := range count {
		list = append(list, ModelCount{m, workers})
	}
	slices.SortFunc(list, func(a, b ModelCount) int { return cmp.Compare(a.Model, b.Model) })
	return list
}

// ErrNoModel says that no worker in sight has the model that was asked for: nothing was ordered. Ask's error is a *[ModelError].
var ErrNoModel = errors.New(ledger.NoModel)

// ModelError says which models there are instead of the one that was asked for.
type ModelError struct {
	Model string
	Have  []ModelCount // see Node.Models
}

// maxModelsNamed bounds the models in an error: strangers name them.
const maxModelsNamed = 16

// Error names the models.
func (e *ModelError) Error() string {
	names := make([]string, 0, maxModelsNamed)
	for _, m := range e.Have[:min(len(e.Have), maxModelsNamed)] {
		names = append(names, m.Model)
	}
	text := fmt.Sprintf("%v: %s; there are %s", ErrNoModel, e.Model, strings.Join(names, ", "))
	if more := len(e.Have) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Unwrap returns ErrNoModel.
func (*ModelError) Unwrap() error { return ErrNoModel }

// checkModel returns a *ModelError if no worker in sight has a model, though there are some, and all say what they have.
func (n *Node) checkModel(model string) error {
	offers, all := n.workersInSight()
	if model == "" || !all || len(offers) == 0 || slices.ContainsFunc(offers, func(names []string) bool { return len(names) == 0 || slices.Contains(names, model) }) {
		return nil
	}
	return &ModelError{model, n.Models()}
}

// workersInSight returns the names that each worker announces, and whether all peers that hear of orders have said what they do. A
// worker that announces none has yet to ask its server.
func (n *Node) workersInSight() (offers [][]string, all bool) {
	if n.worker != nil {
		offers = append(offers, n.offers())
	}
	all = true
	for _, p := range n.topics[ledger.TopicOrder].Peers() {
		h, ok := n.host.Hello(p)
		switch {
		case !ok:
			all = false
		case slices.Contains(h.Labels, labelWorker):
			offers = append(offers, h.Offers)
		}
	}
	return offers, all
}

// offers are the names that this node announces as a worker. What a hello has no room for is left out.
func (n *Node) offers() []string {
	if n.cfg.engine == nil {
		return nil
	}
	names := slices.DeleteFunc(slices.Clone(n.cfg.engine.Models()), func(m string) bool { return !p2p.ValidOffer(m) })
	names = names[:min(len(names), p2p.MaxOffers)] // the first are asked first
	slices.Sort(names)
	return slices.Compact(names)
}

// announce tells the peers which models this worker has, if that has changed.
func (w *worker) announce() {
	w.announcing.Lock() // or an older list might replace a newer one
	defer w.announcing.Unlock()
	if err := w.node.host.Offer(w.node.offers()); err != nil {
		w.node.log.Error("models are not announced", "error", err)
	}
}

// findModels has an engine that does not know its models yet ask for them.
func (w *worker) findModels(ctx context.Context) {
	n := w.node
	if f, ok := n.cfg.engine.(interface{ FindModels(context.Context) error }); ok {
		if err := f.FindModels(ctx); err != nil && ctx.Err() == nil {
			n.heard.Warn("the models of an engine are not known yet", "error", err)
		}
	}
	w.announce()
}
