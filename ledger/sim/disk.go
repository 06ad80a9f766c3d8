package sim

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/poqmesh/poq/ledger/votelog"
)

// sector is what a disk writes at once: after a crash each sector that was not synced has its old bytes,
// the new ones, or neither.
const sector = 512

var errCrashed = errors.New("the process has crashed")

// disk is a votelog.Disk. What is written is there at once for who reads it, and stays after a crash only
// if it was synced.
type disk struct {
	files  map[string]*file // as the process sees them
	synced map[string]*file // as the directory was last synced
	// step is called before each write and sync; it reports false when the process dies in it.
	step  func() bool
	fresh []byte // what the last sync made durable
}

type file struct {
	disk    *disk
	data    []byte
	durable []byte
	dirty   [][2]int64 // ranges of data that were written since the last sync
}

func newDisk(step func() bool) *disk {
	return &disk{files: map[string]*file{}, synced: map[string]*file{}, step: step}
}

// Open implements votelog.Disk.
func (d *disk) Open(name string) (votelog.File, error) {
	f, ok := d.files[name]
	if !ok {
		f = &file{disk: d}
		d.files[name] = f
	}
	return f, nil
}

// List implements votelog.Disk.
func (d *disk) List() ([]string, error) { return slices.Sorted(maps.Keys(d.files)), nil }

// Remove implements votelog.Disk.
func (d *disk) Remove(name string) error {
	if !d.step() {
		return errCrashed
	}
	delete(d.files, name)
	return nil
}

// Sync implements votelog.Disk.
func (d *disk) Sync() error {
	if !d.step() {
		return errCrashed
	}
	d.synced = maps.Clone(d.files)
	return nil
}

// Close implements votelog.Disk.
func (d *disk) Close() error { return nil }

// ReadAt implements votelog.File.
func (f *file) ReadAt(p []byte, at int64) (int, error) {
	if at >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements votelog.File.
func (f *file) WriteAt(p []byte, at int64) (int, error) {
	alive := f.disk.step()
	end := at + int64(len(p))
	if grow := end - int64(len(f.data)); grow > 0 {
		f.data = append(f.data, make([]byte, grow)...)
	}
	copy(f.data[at:], p) // a crash decides below, sector by sector, what stays of it
	f.dirty = append(f.dirty, [2]int64{at, end})
	if !alive {
		return 0, errCrashed
	}
	return len(p), nil
}

// Size implements votelog.File.
func (f *file) Size() (int64, error) { return int64(len(f.data)), nil }

// Close implements votelog.File.
func (f *file) Close() error { return nil }

// Sync implements votelog.File.
func (f *file) Sync() error {
	if !f.disk.step() {
		return errCrashed
	}
	d := f.disk
	d.fresh = d.fresh[:0]
	f.durable = resize(f.durable, len(f.data))
	for _, r := range f.dirty {
		if hi := min(r[1], int64(len(f.data))); r[0] < hi {
			copy(f.durable[r[0]:hi], f.data[r[0]:hi])
			d.fresh = append(d.fresh, f.data[r[0]:hi]...)
		}
	}
	f.dirty = f.dirty[:0]
	return nil
}

func resize(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

// crash leaves on the disk what the loss of power does: of everything that was not synced, each sector
// anew, old, or garbage if the disk is a bad one.
func (d *disk) crash(r *rand.Rand, garbage bool) {
	names := slices.Sorted(maps.Keys(d.files))
	for name := range d.synced {
		if _, ok := d.files[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	after := map[string]*file{}
	for _, name := range names {
		now, old := d.files[name], d.synced[name]
		f := now
		if now != old && (now == nil || r.IntN(2) == 0) {
			f = old // the change of the directory is lost
		}
		if now == nil && r.IntN(2) == 0 {
			f = nil // or not
		}
		if f == nil {
			continue
		}
		f.tear(r, garbage)
		after[name] = f
	}
	d.files, d.synced = after, maps.Clone(after)
}

func (f *file) tear(r *rand.Rand, garbage bool) {
	size := len(f.durable)
	if size != len(f.data) {
		lo, hi := min(size, len(f.data)), max(size, len(f.data))
		size = []int{size, len(f.data), lo + r.IntN(hi-lo+1)}[r.IntN(3)]
	}
	out := resize(slices.Clone(f.durable), size)
	for _, w := range f.dirty {
		for at := w[0] / sector * sector; at < w[1]; at += sector {
			lo, hi := max(at, w[0]), min(at+sector, w[1], int64(len(f.data)), int64(size))
			if lo >= hi {
				continue
			}
			switch k := r.IntN(8); {
			case k < 4:
				copy(out[lo:hi], f.data[lo:hi])
			case k == 4 && garbage:
				for i := lo; i < hi; i++ {
					out[i] = byte(r.Uint32())
				}
			case k == 5: // the head of it stands
				mid := lo + r.Int64N(hi-lo+1)
				copy(out[lo:mid], f.data[lo:mid])
			}
		}
	}
	f.data, f.durable, f.dirty = slices.Clone(out), out, nil
}

// copySynced returns a disk with what is durable alone, for a look into it.
func (d *disk) copySynced() *disk {
	c := newDisk(func() bool { return true })
	for name, f := range d.synced {
		c.files[name] = &file{disk: c, data: slices.Clone(f.durable), durable: slices.Clone(f.durable)}
	}
	c.synced = maps.Clone(c.files)
	return c
}
