package votelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

// small is a segment that is soon full.
const small = 16 * sector

var testGenesis = &ledger.Genesis{Network: "votelog", Epoch: 1}

// finished is a ledger of settled tasks.
type finished struct{ tasks, durable map[ledger.TaskID]bool }

func newFinished() *finished { return &finished{map[ledger.TaskID]bool{}, map[ledger.TaskID]bool{}} }

func (f *finished) IsSettled(t ledger.TaskID) bool { return f.tasks[t] }
func (f *finished) Digest() ledger.Digest          { return ledger.Digest{Tasks: len(f.tasks)} }
func (f *finished) Flush() error                   { f.durable = maps.Clone(f.tasks); return nil }

// recorder keeps what a log replays, in order.
type recorder struct{ seen []string }

func (r *recorder) replayer() Replayer {
	return Replayer{
		Message: func(m ledger.Message) { r.seen = append(r.seen, fmt.Sprintf("%T", m)) },
		Bundle: func(u *ledger.Bundle) {
			r.seen = append(r.seen, fmt.Sprint("bundle ", u.Header.Statement.Seq))
		},
		Opening: func(c ledger.ScoreCommit, o ledger.Opening) {
			r.seen = append(r.seen, fmt.Sprint("opening ", c.Task[0], o.Scores))
		},
	}
}

func config(d Disk) Config { return Config{Genesis: testGenesis, Self: 1, Disk: d, Segment: small} }

// reopen opens a log and returns what it replays.
func reopen(c Config) (*Log, []string, error) {
	var r recorder
	l, err := Open(c, r.replayer())
	return l, r.seen, err
}

func task(n int) ledger.TaskID { return crypto.Sum(fmt.Appendf(nil, "task %d", n)) }

// bundle is the log's next one, with votes on tasks.
func (l *Log) bundle(tasks ...ledger.TaskID) *ledger.Bundle {
	var leaves []ledger.Leaf
	for _, t := range tasks {
		leaves = append(leaves, ledger.Leaf{Kind: ledger.FastCommit, Task: t, Stage: ledger.StageSettle})
	}
	u := ledger.NewBundle(1, l.tip.seq, l.tip.previous, leaves)
	return &u
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// filled is a disk with a log of groups, one bundle each, and the end of each group.
func filled(t testing.TB, groups int) (*memory, []int64) {
	t.Helper()
	d := newMemory()
	l, _, err := reopen(config(d))
	must(t, err)
	ends := []int64{l.end.at}
	for i := range groups {
		l.Bundle(l.bundle(task(i)))
		must(t, l.Sync())
		ends = append(ends, l.end.at)
	}
	must(t, l.Close())
	return d, ends
}

// with returns a disk that holds one segment.
func with(data []byte) *memory {
	d := newMemory()
	d.now[segmentName(1)] = &memoryFile{disk: d, now: data, synced: data}
	d.synced = maps.Clone(d.now)
	return d
}

func (m *memory) segment(t testing.TB) []byte {
	t.Helper()
	names, _ := m.List()
	if len(names) != 1 {
		t.Fatalf("the disk holds %v", names)
	}
	return bytes.Clone(m.now[names[0]].now)
}

func TestLogReplaysWhatWasSyncedInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	open := func() (*Log, []string) {
		d, err := Dir(path)
		must(t, err)
		l, seen, err := reopen(config(d))
		must(t, err)
		return l, seen
	}
	l, _ := open()
	l.Message(&ledger.OrderMessage{})
	l.Bundle(l.bundle(task(0)))
	l.Opening(ledger.ScoreCommit{Task: ledger.TaskID{7}, Answers: make([]ledger.AnswerID, 2)}, ledger.Opening{Scores: []ledger.Score{1, 2}})
	must(t, l.Sync())
	l.Message(&ledger.SealCert{})
	l.Bundle(l.bundle(task(0)))
	must(t, l.Close())
	l, seen := open()
	want := []string{"*ledger.OrderMessage", "bundle 0", "opening 7 [1 2]", "*ledger.SealCert", "bundle 1"}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
	l.Bundle(l.bundle(task(1)))
	must(t, l.Close())
	l, seen = open()
	if len(seen) != 6 || seen[5] != "bundle 2" {
		t.Errorf("after going on: %v", seen)
	}
	must(t, l.Close())
	for _, name := range []string{segmentName(1), lockName} {
		info, err := os.Stat(filepath.Join(path, name))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestBundleThatDoesNotFollowIsNotLogged(t *testing.T) {
	for name, change := range map[string]func(*ledger.BundleHeader){
		"number again":   func(h *ledger.BundleHeader) { h.Seq-- },
		"number left":    func(h *ledger.BundleHeader) { h.Seq++ },
		"other previous": func(h *ledger.BundleHeader) { h.Previous[3] ^= 1 },
	} {
		d, _ := filled(t, 2)
		l, _, err := reopen(config(d))
		must(t, err)
		u := l.bundle(task(9))
		change(&u.Header.Statement)
		l.Bundle(u)
		if l.Sync() == nil {
			t.Errorf("%s: logged", name)
		}
		if _, seen, err := reopen(config(d)); err != nil || len(seen) != 2 {
			t.Errorf("%s: the log holds %v, %v", name, seen, err)
		}
	}
}

// script is a run of a log whose every step can be the last one: groups of records on tasks that
// are settled now and then, so that the log rotates.
type script struct {
	ledger *finished
	synced []string // what must be there again, unless its task is settled
	about  map[string]ledger.TaskID
	trying []string // the group that is not synced yet
	next   int
}

func (s *script) config(d *memory) Config {
	c := config(d)
	c.Ledger = s.ledger
	return c
}

// group logs a group of one to four records.
func (s *script) group(l *Log, r *rand.Rand) error {
	s.trying = nil
	for range 1 + r.IntN(4) {
		t := task(s.next)
		s.next++
		name := ""
		if r.IntN(2) == 0 {
			u := l.bundle(t)
			name = fmt.Sprint("bundle ", u.Header.Statement.Seq)
			l.Bundle(u)
		} else {
			o := ledger.Opening{Scores: []ledger.Score{ledger.Score(s.next)}}
			name = fmt.Sprint("opening ", t[0], o.Scores)
			l.Opening(ledger.ScoreCommit{Task: t, Answers: make([]ledger.AnswerID, 1)}, o)
		}
		s.trying = append(s.trying, name)
		s.about[name] = t
	}
	if err := l.Sync(); err != nil {
		return err
	}
	s.synced = append(s.synced, s.trying...)
	s.trying = nil
	for range r.IntN(4) {
		s.ledger.tasks[task(r.IntN(s.next))] = true
	}
	return nil
}

// check compares what a log replayed.
func (s *script) check(seen []string) error {
	open := slices.DeleteFunc(slices.Clone(s.synced), func(n string) bool { return s.ledger.tasks[s.about[n]] })
	last := len(seen) - len(s.trying)
	whole := len(s.trying) > 0 && last >= 0 && slices.Equal(seen[last:], s.trying)
	if whole {
		s.synced = append(s.synced, s.trying...)
		open = append(open, s.trying...)
	} else {
		for _, n := range s.trying { // its number is given again
			delete(s.about, n)
		}
	}
	s.trying = nil
	at := 0
	for _, n := range seen {
		if !slices.Contains(s.synced, n) {
			return fmt.Errorf("%s was never logged", n)
		}
		if at < len(open) && open[at] == n {
			at++
		}
	}
	if at < len(open) {
		return fmt.Errorf("%s is missing in %v, want %v", open[at], seen, open)
	}
	return nil
}

// run logs groups, crashes at the given step, and returns the disk that is found then.
func (s *script) run(d *memory, groups, stop int, r *rand.Rand) (after *memory, err error) {
	d.stop = stop
	defer func() {
		if p := recover(); p != nil {
			if p != any(errCrash) {
				panic(p)
			}
			if r.IntN(3) == 0 { // the process was killed: the system still has what was not synced
				d.steps = 0
				after, err = d, nil
				return
			}
			after, err = d.crash(r), nil
			s.ledger.tasks = maps.Clone(s.ledger.durable)
		}
	}()
	l, seen, err := reopen(s.config(d))
	if err != nil {
		return nil, err
	}
	if err := s.check(seen); err != nil {
		return nil, err
	}
	for range groups {
		if err := s.group(l, r); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func TestCrashAtAnyStepLosesNothingThatWasSynced(t *testing.T) {
	outcomes := 10
	if testing.Short() {
		outcomes = 2
	}
	const groups = 60
	whole := newMemory()
	rotations := 0
	whole.trace = func(step string) {
		if step == "remove" {
			rotations++
		}
	}
	s := &script{ledger: newFinished(), about: map[string]ledger.TaskID{}}
	if _, err := s.run(whole, groups, 0, rand.New(rand.NewPCG(1, 0))); err != nil {
		t.Fatal(err)
	}
	if rotations < 2 {
		t.Fatalf("the log rotated %d times", rotations)
	}
	for stop := 1; stop <= whole.steps; stop++ {
		for outcome := range uint64(outcomes) {
			s := &script{ledger: newFinished(), about: map[string]ledger.TaskID{}}
			r := rand.New(rand.NewPCG(1, 0)) // the same groups each time
			d, err := s.run(newMemory(), groups, stop, r)
			crash := rand.New(rand.NewPCG(uint64(stop), outcome))
			for life := 0; err == nil && d != nil && life < 4; life++ {
				stop := 1 + crash.IntN(30) // and again, soon after the start
				if life == 3 {
					stop = 0
				}
				d, err = s.run(d, 5, stop, crash)
			}
			if err != nil {
				t.Fatalf("crash at step %d, outcome %d: %v", stop, outcome, err)
			}
		}
	}
	t.Logf("%d steps, %d rotations", whole.steps, rotations)
}

func TestDamageBeforeTheLastGroupStopsTheValidator(t *testing.T) {
	d, ends := filled(t, 4)
	whole := d.segment(t)
	flip := func(at int64) (seen []string, err error, same bool) {
		broken := bytes.Clone(whole)
		broken[at] ^= 0x10
		d := with(broken)
		l, seen, err := reopen(config(d))
		if err == nil {
			if !isZero(d.segment(t)[l.end.at:]) {
				t.Errorf("byte %d: something stands behind the end", at)
			}
			must(t, l.Close())
		}
		return seen, err, bytes.Equal(d.segment(t), broken)
	}
	for at := range ends[3] {
		if _, err, same := flip(at); !errors.Is(err, ErrCorrupt) || !same {
			t.Fatalf("byte %d: %v; the file is untouched: %v", at, err, same)
		}
	}
	for at := ends[3]; at < ends[4]; at++ { // looks like a group that a crash tore
		if seen, err, _ := flip(at); err != nil || len(seen) != 3 {
			t.Fatalf("byte %d of the last group: %v, %v", at, seen, err)
		}
	}
	for at := ends[4]; at < small; at++ {
		if seen, err, _ := flip(at); err != nil || len(seen) != 4 {
			t.Fatalf("byte %d behind the last group: %v, %v", at, seen, err)
		}
	}
	for _, size := range []int64{0, 1, sector, ends[1], ends[4], small - 1, small + 1, small + sector} {
		other := append(bytes.Clone(whole), make([]byte, 2*sector)...)[:size]
		want := size >= sector
		if l, _, err := reopen(config(with(other))); errors.Is(err, ErrCorrupt) != want {
			t.Errorf("%d of %d bytes: %v", size, small, err)
		} else if err == nil {
			must(t, l.Close())
		}
	}
}

func TestDamageToWhatWasCarriedOverStopsTheValidator(t *testing.T) {
	d, _ := filled(t, 3)
	l, _, err := reopen(config(d))
	must(t, err)
	must(t, l.rotate(0))
	carried := l.end.at
	must(t, l.Close())
	name, whole := segmentName(2), d.segment(t)
	for at := range carried {
		broken := bytes.Clone(whole)
		broken[at] ^= 1
		d := newMemory()
		d.now[name] = &memoryFile{disk: d, now: broken, synced: broken}
		if _, _, err := reopen(config(d)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
}

func TestGroupThatIsNotTheNextOneIsNotTakenForIt(t *testing.T) {
	d, ends := filled(t, 4)
	whole := d.segment(t)
	var other []byte
	{ // the same log up to the second group
		broken := bytes.Clone(whole)
		clear(broken[ends[2]:])
		d := with(broken)
		l, _, err := reopen(config(d))
		must(t, err)
		for i := range 2 {
			l.Bundle(l.bundle(task(100 + i)))
			must(t, l.Sync())
		}
		must(t, l.Close())
		other = d.segment(t)
	}
	group := func(log []byte, i int) []byte { return log[ends[i]:ends[i+1]] }
	cut := bytes.Clone(group(whole, 3)) // a byte shorter, with a header that holds
	binary.BigEndian.PutUint32(cut[12:], binary.BigEndian.Uint32(cut[12:])-1)
	binary.BigEndian.PutUint32(cut[48:], crc32.Checksum(cut[:48], castagnoli))
	for name, c := range map[string]struct {
		groups [][]byte
		seen   int // -1: ErrCorrupt
	}{
		"as they were":                 {[][]byte{group(whole, 0), group(whole, 1), group(whole, 2), group(whole, 3)}, 4},
		"two swapped":                  {[][]byte{group(whole, 0), group(whole, 2), group(whole, 1), group(whole, 3)}, -1},
		"one left out":                 {[][]byte{group(whole, 0), group(whole, 2), group(whole, 3)}, -1},
		"the first left out":           {[][]byte{group(whole, 1), group(whole, 2), group(whole, 3)}, -1},
		"one twice":                    {[][]byte{group(whole, 0), group(whole, 1), group(whole, 1), group(whole, 2)}, -1},
		"one of another log":           {[][]byte{group(whole, 0), group(other, 3), group(whole, 2), group(whole, 3)}, -1},
		"the last follows another":     {[][]byte{group(whole, 0), group(whole, 1), group(other, 2), group(whole, 3)}, 3},
		"the last is of another log":   {[][]byte{group(whole, 0), group(whole, 1), group(whole, 2), group(other, 3)}, 3},
		"the last has another length":  {[][]byte{group(whole, 0), group(whole, 1), group(whole, 2), cut}, 3},
		"the last is an earlier one":   {[][]byte{group(whole, 0), group(whole, 1), group(whole, 2), group(whole, 1)}, 3},
		"the last are of another log":  {[][]byte{group(whole, 0), group(whole, 1), group(other, 2), group(other, 3)}, 4},
		"one was zeroed":               {[][]byte{group(whole, 0), make([]byte, ends[2]-ends[1]), group(whole, 2), group(whole, 3)}, -1},
		"the one before last is empty": {[][]byte{group(whole, 0), group(whole, 1), make([]byte, ends[3]-ends[2]), group(whole, 3)}, -1},
	} {
		segment := append(bytes.Clone(whole[:sector]), slices.Concat(c.groups...)...)
		segment = append(segment, make([]byte, small-len(segment))...)
		_, seen, err := reopen(config(with(segment)))
		if c.seen < 0 && !errors.Is(err, ErrCorrupt) || c.seen >= 0 && (err != nil || len(seen) != c.seen) {
			t.Errorf("%s: %v, %v", name, seen, err)
		}
	}
}

func TestLogOfSomebodyElseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"validator": func(c *Config) { c.Self = 2 },
		"network":   func(c *Config) { c.Genesis = &ledger.Genesis{Network: "another", Epoch: 1} },
		"epoch":     func(c *Config) { c.Genesis = &ledger.Genesis{Network: "votelog", Epoch: 2} },
	} {
		d, _ := filled(t, 1)
		c := config(d)
		change(&c)
		if _, _, err := reopen(c); !errors.Is(err, ErrForeign) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	d, _ := filled(t, 1)
	segment := d.segment(t)
	d.now[segmentName(2)] = &memoryFile{disk: d, now: segment, synced: segment}
	if _, _, err := reopen(config(d)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a segment with the name of the next: %v", err)
	}
	binary.BigEndian.PutUint32(segment[len(magic):], version+1)
	binary.BigEndian.PutUint32(segment[sector-4:], crc32.Checksum(segment[:sector-4], castagnoli))
	if _, _, err := reopen(config(with(segment))); err == nil || !strings.Contains(err.Error(), "newer poq") {
		t.Errorf("a newer version: %v", err)
	}
}

func TestTwoProcessesCannotOpenOneLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	d, err := Dir(path)
	must(t, err)
	if _, err := Dir(path); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	l, _, err := reopen(config(d))
	must(t, err)
	if _, err := Dir(path); !errors.Is(err, ErrInUse) {
		t.Errorf("opened beside a log: %v", err)
	}
	must(t, l.Close())
	d, err = Dir(path)
	must(t, err)
	c := config(d)
	c.Self = 2
	if _, _, err := reopen(c); !errors.Is(err, ErrForeign) {
		t.Errorf("another validator: %v", err)
	}
	d, err = Dir(path) // a log that did not open closed it
	must(t, err)
	must(t, d.Close())
}

func TestSizeIsBoundedByOpenTasksAndTheChainOfBundlesGoesOn(t *testing.T) {
	d, f := newMemory(), newFinished()
	c := config(d)
	c.Ledger = f
	l, _, err := reopen(c)
	must(t, err)
	const forever, tasks = 3, 1000
	for i := range tasks {
		l.Bundle(l.bundle(task(i)))
		must(t, l.Sync())
		if len(d.synced) != 1 {
			t.Fatal("the old segment may come back")
		}
		if i >= forever {
			f.tasks[task(i)] = true
		}
	}
	if n := l.header.number; n < tasks/32 {
		t.Errorf("the log is in segment %d", n)
	}
	must(t, l.Close())
	if size := len(d.segment(t)); size != small {
		t.Errorf("the log has %d bytes, want %d", size, small)
	}
	l, seen, err := reopen(c)
	must(t, err)
	if want := []string{"bundle 0", "bundle 1", "bundle 2"}; !slices.Equal(seen[:forever], want) || len(seen) > 32 {
		t.Errorf("it holds %v", seen)
	}
	if l.tip.seq != tasks {
		t.Errorf("the next bundle is %d, want %d", l.tip.seq, tasks)
	}
	if s := l.header.settled; s == 0 || int(s) > len(f.durable) {
		t.Errorf("the ledger held %d tasks when votes were purged, of them %d durably", s, len(f.durable))
	}
	// A group that is larger than a segment, and tasks that stay open, get the space that they need.
	var many []ledger.TaskID
	for i := range 500 {
		many = append(many, task(2*tasks+i))
	}
	for range 4 {
		l.Bundle(l.bundle(many...))
		must(t, l.Sync())
	}
	must(t, l.Close())
	_, seen, err = reopen(c)
	if err != nil || len(seen) < 4+forever || seen[len(seen)-1] != fmt.Sprint("bundle ", tasks+3) {
		t.Errorf("with large bundles: %v, %v", seen, err)
	}
}

// oldLog is a log in the first layout.
func oldLog(bundles int) (log []byte, ends []int) {
	var l Log
	l.domain = ledger.Domain(testGenesis)
	add := func(typ recordType, payload []byte) {
		h := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
		h = append(h, byte(typ))
		h = binary.BigEndian.AppendUint32(h, crc32.Checksum(payload, castagnoli))
		h = binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
		log = append(append(log, h...), payload...)
		ends = append(ends, len(log))
	}
	for i := range bundles {
		u := l.bundle(task(i))
		_, data := ledger.Encode(u)
		add(recordBundle, data)
		if err := l.tip.follow(u, l.domain); err != nil {
			panic(err)
		}
	}
	add(recordOpening, ledger.EncodeOpening(ledger.ScoreCommit{Task: ledger.TaskID{1}}, ledger.Opening{}))
	return log, ends
}

func withOld(data []byte) *memory {
	d := newMemory()
	d.now[oldName] = &memoryFile{disk: d, now: data, synced: data}
	d.synced = maps.Clone(d.now)
	return d
}

func TestLogOfTheFirstLayoutIsTakenOverWhateverCrashes(t *testing.T) {
	old, ends := oldLog(20)
	whole := withOld(old)
	_, want, err := reopen(config(whole))
	if err != nil || len(want) != 21 || want[20] != "opening 1 []" {
		t.Fatalf("took over %v, %v", want, err)
	}
	if names, _ := whole.List(); !slices.Equal(names, []string{segmentName(1)}) {
		t.Errorf("the disk holds %v", names)
	}
	for stop := 1; stop <= whole.steps; stop++ {
		for outcome := range uint64(20) {
			s := &script{ledger: newFinished()}
			d := withOld(old)
			d.stop = stop
			func() {
				defer func() { _ = recover() }()
				_, _, _ = reopen(s.config(d))
			}()
			after := d.crash(rand.New(rand.NewPCG(uint64(stop), outcome)))
			l, seen, err := reopen(config(after))
			if err != nil || !slices.Equal(seen, want) {
				t.Fatalf("crash at step %d, outcome %d: %v, %v", stop, outcome, seen, err)
			}
			l.Bundle(l.bundle(task(50)))
			must(t, l.Close())
		}
	}
	for cut := ends[4] + 1; cut < ends[5]; cut++ { // its last record may be torn
		if l, seen, err := reopen(config(withOld(old[:cut]))); err != nil || !slices.Equal(seen, want[:5]) || l.tip.seq != 5 {
			t.Fatalf("cut at byte %d: %v, %v", cut, seen, err)
		}
	}
	for at := range ends[3] {
		broken := bytes.Clone(old)
		broken[at] ^= 4
		if _, _, err := reopen(config(withOld(broken))); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d is damaged: %v", at, err)
		}
	}
	d, _ := filled(t, 1)
	d.now[oldName] = &memoryFile{disk: d, now: old}
	if _, _, err := reopen(config(d)); !errors.Is(err, errTwoLogs) {
		t.Errorf("two logs: %v", err)
	}
}

func TestLogBesideTheDirectoryIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	old, _ := oldLog(3)
	must(t, os.WriteFile(path+".log", old, 0o600))
	for range 2 {
		d, err := Dir(path)
		must(t, err)
		l, seen, err := reopen(config(d))
		if err != nil || len(seen) != 4 {
			t.Fatalf("took over %v, %v", seen, err)
		}
		must(t, l.Close())
	}
	must(t, os.WriteFile(path+".log", old, 0o600))
	if _, err := Dir(path); !errors.Is(err, errTwoLogs) {
		t.Errorf("two logs: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	d, _ := filled(f, 3)
	segment := d.segment(f)
	f.Add(segment, []byte{}, []byte{})
	f.Add(segment[:sector], segment, []byte{})
	f.Add(segment, make([]byte, sector), []byte{})
	old, _ := oldLog(2)
	f.Add([]byte{}, []byte{}, old)
	f.Add(segment[:3*sector], make([]byte, sector), old)
	l, _, err := reopen(config(d))
	if err != nil {
		f.Fatal(err)
	}
	for range 20 {
		l.Bundle(l.bundle(task(1)))
		if err := l.Sync(); err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte{}, d.segment(f), []byte{})
	f.Fuzz(func(t *testing.T, first, second, old []byte) {
		d := newMemory()
		for name, data := range map[string][]byte{segmentName(1): first, segmentName(2): second, oldName: old} {
			if len(data) > 0 {
				d.now[name] = &memoryFile{disk: d, now: data}
			}
		}
		l, seen, err := reopen(config(d))
		if err != nil {
			return
		}
		l.Bundle(l.bundle(task(9)))
		must(t, l.Close())
		_, again, err := reopen(config(d))
		if err != nil || len(again) != len(seen)+1 || !slices.Equal(again[:len(seen)], seen) {
			t.Fatalf("first %v, then %v, %v", seen, again, err)
		}
	})
}

func BenchmarkSync(b *testing.B) {
	d, err := Dir(b.TempDir())
	must(b, err)
	c := config(d)
	c.Segment, c.Ledger = SegmentSize, newFinished()
	l, _, err := reopen(c)
	must(b, err)
	c.Ledger.(*finished).tasks[task(0)] = true
	for b.Loop() {
		l.Bundle(l.bundle(task(0)))
		must(b, l.Sync())
	}
	must(b, l.Close())
}
