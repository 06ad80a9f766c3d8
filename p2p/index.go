package p2p

import (
	"maps"
	"sync"
)

// index is a map for many readers at once. A sync.Map has interfaces for keys, so it allocates each time a
// string is looked up, which gossip does several times for each message.
type index[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]V
}

func (t *index[K, V]) load(k K) (V, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.m[k]
	return v, ok
}

// loadOrMake returns what k has, or gives it what fresh makes.
func (t *index[K, V]) loadOrMake(k K, fresh func() V) V {
	if v, ok := t.load(k); ok {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[k]
	if !ok {
		if t.m == nil {
			t.m = make(map[K]V)
		}
		v = fresh()
		t.m[k] = v
	}
	return v
}

func (t *index[K, V]) store(k K, v V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
}

func (t *index[K, V]) drop(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, k)
}

func (t *index[K, V]) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.m)
}

// all returns a copy.
func (t *index[K, V]) all() map[K]V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.m)
}
