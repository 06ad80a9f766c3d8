package sim

import (
	"fmt"
	"strings"
	"time"
)

// Faults is a set of what goes wrong in a run until it turns calm.
type Faults uint16

// The faults.
const (
	Loss      Faults = 1 << iota // gossip is lost, links between validators break
	Delay                        // messages are late, some very late
	Reorder                      // messages on a link overtake each other
	Duplicate                    // messages come twice
	Partition                    // some do not reach others, in both directions or in one
	Crash                        // processes die at any moment, between log and send too, and start again; at most f are away
	Mass                         // with Crash: any number is away at a time
	Disk                         // with Crash: the disk tears what was not synced, spoils sectors, and syncs the ledger late
	Skew                         // clocks run at other speeds
	Restore                      // a validator starts with an older copy of its vote log; it counts as faulty
	allFaults Faults = 1<<iota - 1
)

const faultKinds = 10

var faultNames = [faultKinds]string{"loss", "delay", "reorder", "duplicate", "partition", "crash", "mass", "disk", "skew", "restore"}

// kind returns the index of a single fault.
func (f Faults) kind() int {
	for i := range faultKinds {
		if f == 1<<i {
			return i
		}
	}
	panic("sim: not a single fault")
}

// Names lists the faults of the set.
func (f Faults) Names() (names []string) {
	for i, name := range faultNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String joins the names; the empty set is "none".
func (f Faults) String() string {
	if f == 0 {
		return "none"
	}
	return strings.Join(f.Names(), ",")
}

// ParseFaults reads names separated by commas; "none" is the empty set, "all" the full one.
func ParseFaults(s string) (f Faults, err error) {
	for name := range strings.SplitSeq(s, ",") {
		switch name {
		case "none":
		case "all":
			f = allFaults
		default:
			i := -1
			for k, known := range faultNames {
				if known == name {
					i = k
				}
			}
			if i < 0 {
				return 0, fmt.Errorf("unknown fault %q: want none, all, or some of %s", name, strings.Join(faultNames[:], ", "))
			}
			f |= 1 << i
		}
	}
	return f, nil
}

// faulty reports whether a fault happens at this time.
func (w *world) faulty(f Faults) bool { return w.faults&f != 0 && w.now < w.calm }

// inject counts a fault.
func (w *world) inject(f Faults) { w.result.Injected[f.kind()]++ }

// schedule plans the faults that have their moments.
func (w *world) schedule() {
	r := w.random
	if w.faults&Loss != 0 && w.n > 1 {
		for range r.IntN(2 * w.n) {
			w.after(w.between(0, w.calm), func() {
				a, b := w.nodes[r.IntN(w.n)], w.nodes[r.IntN(w.n)]
				if a != b && a.up && b.up {
					w.inject(Loss)
					w.tell(a, "break", "link to %s", b.name)
					w.reconnect(a, b)
				}
			})
		}
	}
	if w.faults&Partition != 0 {
		for range 1 + r.IntN(4) {
			w.after(w.between(0, w.calm*3/4), w.partition)
		}
	}
	if w.faults&Crash != 0 {
		for range 1 + r.IntN(2+w.n) {
			w.after(w.between(0, w.calm), w.crashOne)
		}
	}
	if w.faults&Mass != 0 && r.IntN(3) == 0 {
		w.after(w.between(0, w.calm), w.crashAll)
	}
	if w.faults&Restore != 0 {
		for range 1 + r.IntN(3) {
			w.after(w.between(0, w.calm), w.restoreOne)
		}
	}
}

// partition keeps some nodes from others for a while.
func (w *world) partition() {
	w.inject(Partition)
	r := w.random
	side := make([]bool, len(w.nodes))
	for i := range side {
		side[i] = r.IntN(2) == 0
	}
	oneWay := r.IntN(3) == 0
	apart := func(i, j int) bool { return side[i] != side[j] && (!oneWay || side[i]) }
	w.tell(nil, "part", "%v, one way: %v", side, oneWay)
	w.cut(apart, 1)
	d := min(w.between(time.Millisecond, 10*time.Millisecond<<r.IntN(9)), w.calm-w.now)
	w.after(d, func() {
		w.tell(nil, "heal", "%v", side)
		w.cut(apart, -1)
	})
}

// cut adds to the partitions between nodes, and connects anew where none is left.
func (w *world) cut(apart func(i, j int) bool, by int) {
	for i := range w.nodes {
		for j := range w.nodes {
			if i == j || !apart(i, j) {
				continue
			}
			l := &w.links[i][j]
			l.blocked += by
			l.epoch++
		}
	}
	for i := range w.n {
		for j := range i {
			if by < 0 && (apart(i, j) || apart(j, i)) && w.nodes[i].up && w.nodes[j].up {
				w.reconnect(w.nodes[i], w.nodes[j])
			}
		}
	}
}

// away counts the validators that are down or Byzantine.
func (w *world) away() (n int) {
	for _, v := range w.nodes[:w.n] {
		if !v.up || !v.honest() || v.fuse > 0 {
			n++
		}
	}
	return n
}

// crashOne has a process die, now or at one of its next steps.
func (w *world) crashOne() {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	if !n.up || n.fuse > 0 || n.evil != nil || w.now >= w.calm {
		return
	}
	if n.self >= 0 && w.faults&Mass == 0 && w.away() >= w.genesis.Faults() {
		return
	}
	if n.fuse = w.random.IntN(12); n.fuse == 0 {
		n.crash()
	} else {
		w.after(w.between(0, time.Second), func() { // in case that it has nothing more to do
			if n.up && n.fuse > 0 {
				n.crash()
			}
		})
	}
}

// crashAll is a power cut: all honest processes die at once.
func (w *world) crashAll() {
	w.tell(nil, "outage", "")
	for _, n := range w.nodes {
		if n.up && n.evil == nil {
			n.crash()
		}
	}
}

// crashed plans the next start of a process that died.
func (w *world) crashed(n *node) {
	w.inject(Crash)
	if w.faults&Mass != 0 && n.self >= 0 && w.away() > w.genesis.Faults() {
		w.inject(Mass)
	}
	if w.faults&Disk != 0 && n.self >= 0 {
		w.inject(Disk)
	}
	d := w.between(0, time.Millisecond<<w.random.IntN(12))
	if w.now+d > w.calm {
		d = max(0, w.calm-w.now)
	}
	w.after(d, func() {
		if n.up {
			return
		}
		fuse := 0
		if w.faulty(Crash) && w.chance(15) { // it dies again while it starts
			fuse = 1 + w.random.IntN(8)
		}
		n.start(fuse)
	})
}

// restoreOne remembers the disk of a validator, and later has it start with that.
func (w *world) restoreOne() {
	n := w.nodes[w.random.IntN(w.n)]
	saved := n.disk.copySynced()
	w.after(w.between(0, time.Second), func() {
		if !n.up || n.fuse > 0 || !n.honest() || w.now >= w.calm || w.away() >= w.genesis.Faults() {
			return
		}
		w.inject(Restore)
		w.tell(n, "restore", "an older vote log")
		n.crash()
		n.restored = true
		saved.step = n.step
		for _, f := range saved.files {
			f.disk = saved
		}
		n.disk = saved
	})
}
