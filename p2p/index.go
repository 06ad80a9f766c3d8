package p2p

import (
	"maps"
	"sync"
	"sync/atomic"
)

// index is a map for many readers at once, who take no lock: each change makes a new map, so it suits what is looked up several
// times for each message and seldom changes. A sync.Map has interfaces for keys, so it allocates each time a
// string is looked up.
type index[K comparable, V any] struct {
	mu sync.Mutex // of who makes a new map
	m  atomic.Pointer[map[K]V]
}

func (t *index[K, V]) load(k K) (V, bool) {
	v, ok := t.all()[k]
	return v, ok
}

// loadOrMake returns what k has, or gives it what fresh makes.
func (t *index[K, V]) loadOrMake(k K, fresh func() V) V {
	if v, ok := t.load(k); ok {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.load(k)
	if !ok {
		v = fresh()
		t.change(func(m map[K]V) { m[k] = v })
	}
	return v
}

func (t *index[K, V]) store(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.change(func(m map[K]V) { m[k] = v })
}

func (t *index[K, V]) drop(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.change(func(m map[K]V) { delete(m, k) })
}

func (t *index[K, V]) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m.Store(nil)
}

// change replaces the map by a changed copy. t.mu must be held.
func (t *index[K, V]) change(f func(map[K]V)) {
	m := maps.Clone(t.all())
	if m == nil {
		m = make(map[K]V)
	}
	f(m)
	t.m.Store(&m)
}

// all returns the map as it is now, which must not be changed.
func (t *index[K, V]) all() map[K]V {
	if m := t.m.Load(); m != nil {
		return *m
	}
	return nil
}
