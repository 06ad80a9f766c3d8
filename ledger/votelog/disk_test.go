package votelog

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
)

// memory is a disk that knows what was synced, so that it can crash: what was not may then be there, be gone, or be
// something else, sector by sector and name by name.
type memory struct {
	now, synced map[string]*memoryFile // by name
	steps       int                    // operations that change something so far
	stop        int                    // at this one it panics with errCrash, 0 never
	fail        int                    // from this one on all fail with errDisk, 0 never
	half        bool                   // a write that fails writes half
	trace       func(step string)
}

type memoryFile struct {
	disk        *memory
	name        string
	now, synced []byte
}

var (
	errCrash = errors.New("crash")
	errDisk  = errors.New("no space left on device")
)

func newMemory() *memory {
	return &memory{now: map[string]*memoryFile{}, synced: map[string]*memoryFile{}}
}

// step counts an operation. done tells whether it may go on; otherwise it fails.
func (m *memory) step(name string) error {
	m.steps++
	if m.trace != nil {
		m.trace(name)
	}
	if m.fail > 0 && m.steps >= m.fail {
		return errDisk
	}
	return nil
}

// crashed is called when the operation is carried out, but for syncs.
func (m *memory) crashed() {
	if m.steps == m.stop {
		panic(errCrash)
	}
}

func (m *memory) Open(name string) (File, error) {
	if f, ok := m.now[name]; ok {
		return f, nil
	}
	if err := m.step("open"); err != nil {
		return nil, err
	}
	f := &memoryFile{disk: m, name: name}
	m.now[name] = f
	m.crashed()
	return f, nil
}

func (m *memory) List() ([]string, error) { return slices.Sorted(maps.Keys(m.now)), nil }

func (m *memory) Remove(name string) error {
	if err := m.step("remove"); err != nil {
		return err
	}
	delete(m.now, name)
	m.crashed()
	return nil
}

func (m *memory) Sync() error {
	if err := m.step("sync directory"); err != nil {
		return err
	}
	m.crashed()
	m.synced = maps.Clone(m.now)
	return nil
}

func (m *memory) Close() error { return nil }

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(f.now)) {
		return 0, io.EOF
	}
	n := copy(b, f.now[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	err := f.disk.step("write")
	if err != nil {
		if !f.disk.half {
			return 0, err
		}
		b = b[:len(b)/2]
	}
	if need := int(at) + len(b); need > len(f.now) {
		f.now = append(slices.Clip(f.now), make([]byte, need-len(f.now))...)
	} else {
		f.now = slices.Clone(f.now)
	}
	copy(f.now[at:], b)
	f.disk.crashed()
	return len(b), err
}

func (f *memoryFile) Size() (int64, error) { return int64(len(f.now)), nil }
func (f *memoryFile) Close() error         { return nil }

func (f *memoryFile) Sync() error {
	if err := f.disk.step("sync"); err != nil {
		return err
	}
	f.disk.crashed()
	f.synced = f.now
	return nil
}

// crash returns what a restart may find.
func (m *memory) crash(r *rand.Rand) *memory {
	after := newMemory()
	names := maps.Clone(m.now)
	maps.Copy(names, m.synced)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f, old := m.now[name], m.synced[name]
		if f != old && r.IntN(2) == 0 {
			f = old
		}
		if f != nil {
			data := f.torn(r)
			after.now[name] = &memoryFile{disk: after, name: name, now: data, synced: data}
		}
	}
	after.synced = maps.Clone(after.now)
	return after
}

// torn mixes what was synced and what was written since.
func (f *memoryFile) torn(r *rand.Rand) []byte {
	size := len(f.synced)
	if len(f.now) != size {
		size += r.IntN(len(f.now) - size + 1) // files only grow
	}
	data := make([]byte, size)
	copy(data, f.synced)
	all := r.IntN(4) // now and then everything, or nothing, arrived
	for at := 0; at < size; at += sector {
		end := min(at+sector, size)
		was := make([]byte, end-at)
		copy(was, f.synced[min(at, len(f.synced)):])
		if string(was) == string(f.now[at:end]) {
			continue
		}
		switch which := r.IntN(4); {
		case all == 0 || all > 1 && which < 2:
			copy(data[at:end], f.now[at:end])
		case all > 1 && which == 2:
			for i := range data[at:end] {
				data[at+i] = byte(r.Uint32())
			}
		}
	}
	return data
}
