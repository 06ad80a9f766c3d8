package sim

import (
	"github.com/poqmesh/poq/ledger"
)

// store stands for Badger: certificates take effect at once and become durable in groups; a crash loses
// the last group. What it keeps is the list of certificates, out of which the state is made anew.
type store struct {
	genesis  *ledger.Genesis
	state    *ledger.State
	list     []any // *ledger.LockCert, *ledger.Receipt, *ledger.Evidence, as they were applied
	synced   int   // of list
	receipts map[ledger.TaskID]*ledger.Receipt
	locks    map[ledger.TaskID]*ledger.LockCert
}

func newStore(g *ledger.Genesis) *store {
	return &store{genesis: g, state: ledger.NewState(g), receipts: map[ledger.TaskID]*ledger.Receipt{}, locks: map[ledger.TaskID]*ledger.LockCert{}}
}

// reopen makes the store that the process finds after a crash.
func (s *store) reopen() *store {
	n := newStore(s.genesis)
	for _, c := range s.list[:s.synced] {
		switch c := c.(type) {
		case *ledger.LockCert:
			if n.lock(c) != nil {
				panic("sim: a lock that was applied is refused")
			}
		case *ledger.Receipt:
			if n.settle(c) != nil {
				panic("sim: a receipt that was applied is refused")
			}
		case *ledger.Evidence:
			n.list = append(n.list, c)
		}
	}
	n.synced = len(n.list)
	return n
}

func (s *store) lock(l *ledger.LockCert) error {
	applied, err := s.state.Lock(l.Votes.Vote.Task, l.Order.Statement)
	if applied {
		s.locks[l.Votes.Vote.Task] = l
		s.list = append(s.list, l)
	}
	return err
}

func (s *store) settle(r *ledger.Receipt) error {
	applied, err := s.state.Settle(r.Task(), r.Order.Statement, r.Outcome, r.Settle.Vote.Value)
	if applied {
		s.receipts[r.Task()] = r
		s.list = append(s.list, r)
	}
	return err
}

// order returns the signed order of a task that was locked or settled.
func (s *store) order(id ledger.TaskID) (ledger.Signed[ledger.Order], bool) {
	if r, ok := s.receipts[id]; ok {
		return r.Order, true
	}
	if l, ok := s.locks[id]; ok {
		return l.Order, true
	}
	return ledger.Signed[ledger.Order]{}, false
}

// open returns the locks of tasks without outcome, in the order in which they were applied.
func (s *store) open() (locks []*ledger.LockCert) {
	for _, c := range s.list {
		if l, ok := c.(*ledger.LockCert); ok && s.receipts[l.Votes.Vote.Task] == nil {
			locks = append(locks, l)
		}
	}
	return locks
}

// headers returns the highest bundle header of each validator that stands in a certificate.
func (s *store) headers() []*ledger.Signed[ledger.BundleHeader] {
	highest := make([]*ledger.Signed[ledger.BundleHeader], len(s.genesis.Validators))
	see := func(certs ...ledger.Certificate) {
		for _, c := range certs {
			for _, p := range c.Proofs {
				h := p.Header.Statement
				if old := highest[h.Validator]; old == nil || old.Statement.Seq < h.Seq {
					highest[h.Validator] = &p.Header
				}
			}
		}
	}
	for _, c := range s.list {
		switch c := c.(type) {
		case *ledger.LockCert:
			see(c.Votes)
		case *ledger.Receipt:
			see(c.Lock, c.Seal.Votes, c.Settle)
		}
	}
	return highest
}

// evidence returns the proofs that were kept.
func (s *store) evidence() (list []*ledger.Evidence) {
	for _, c := range s.list {
		if p, ok := c.(*ledger.Evidence); ok {
			list = append(list, p)
		}
	}
	return list
}

// settledList returns the receipts in the order in which they were applied.
func (s *store) settledList() (list []*ledger.Receipt) {
	for _, c := range s.list {
		if r, ok := c.(*ledger.Receipt); ok {
			list = append(list, r)
		}
	}
	return list
}

// lockedList returns the tasks that were locked, in the order in which they were.
func (s *store) lockedList() (list []ledger.TaskID) {
	for _, c := range s.list {
		switch c := c.(type) {
		case *ledger.LockCert:
			list = append(list, c.Votes.Vote.Task)
		case *ledger.Receipt:
			if s.locks[c.Task()] == nil {
				list = append(list, c.Task())
			}
		}
	}
	return list
}
