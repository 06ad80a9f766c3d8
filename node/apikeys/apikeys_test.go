package apikeys

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
)

const credit = ledger.Credit

// open opens a guard; costs is what its ledger knows, under mu.
func open(t *testing.T, dir string, cost func(ledger.TaskID) (ledger.Amount, bool)) *Guard {
	t.Helper()
	if cost == nil {
		cost = func(ledger.TaskID) (ledger.Amount, bool) { return 0, false }
	}
	g, err := Open(dir, cost)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func newKey(t *testing.T, dir, name string, limit ledger.Amount, rate int) (secret string, k Key) {
	t.Helper()
	secret, k, err := New(dir, name, limit, rate)
	if err != nil {
		t.Fatal(err)
	}
	return secret, k
}

func admit(t *testing.T, g *Guard, secret string) *Caller {
	t.Helper()
	c, err := g.Admit(secret)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func task(n int) ledger.TaskID { return crypto.Sum([]byte(fmt.Sprint("task ", n))) }

func usage(t *testing.T, dir string, k Key) Usage {
	t.Helper()
	all, err := ReadUsage(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all[k.Hash]
}

func TestOnlyTheHashOfAKeyIsOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", 5*credit, 60)
	if !strings.HasPrefix(secret, "poq-") || len(secret) != 68 {
		t.Errorf("a key of %d characters", len(secret))
	}
	if k.Hash != crypto.Sum([]byte(secret)) {
		t.Error("the hash is that of something else")
	}
	data, err := os.ReadFile(Path(dir))
	if err != nil || strings.Contains(string(data), secret[4:]) || !strings.Contains(string(data), k.Hash.String()) {
		t.Errorf("%s, %v", data, err)
	}
	if info, err := os.Stat(Path(dir)); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	list, err := List(dir)
	if err != nil || len(list) != 1 || list[0] != k {
		t.Errorf("%+v, %v, want %+v", list, err, k)
	}
	if other, _ := newKey(t, dir, "other", 0, 0); other == secret {
		t.Error("two keys are the same")
	}
}

func TestKeysThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newKey(t, dir, "web", 0, 0)
	for name, want := range map[string]error{"web": ErrTaken, "": ErrName, "a b": ErrName, "a\x1b": ErrName, strings.Repeat("a", 65): ErrName} {
		if _, _, err := New(dir, name, 0, 0); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, _, err := New(dir, "fast", 0, -1); !errors.Is(err, ErrTerms) {
		t.Error(err)
	}
	if _, err := Change(dir, "web", func(k *Key) { k.Rate = MaxRate + 1 }); !errors.Is(err, ErrTerms) {
		t.Error(err)
	}
	if _, err := Change(dir, "none", func(*Key) {}); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	if err := Revoke(dir, "none"); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
	if list, err := List(dir); err != nil || len(list) != 1 || list[0].Rate != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := List(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

func TestEditsAtOnceLoseNoKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var editing sync.WaitGroup
	for i := range 16 {
		editing.Go(func() {
			name := fmt.Sprint("key-", i)
			_, _, err := New(dir, name, 0, 0)
			if err == nil {
				_, err = Change(dir, name, func(k *Key) { k.Rate = 1 + i })
			}
			if err == nil && i%2 == 0 {
				err = Revoke(dir, name)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	editing.Wait()
	list, err := List(dir)
	if err != nil || len(list) != 8 || slices.ContainsFunc(list, func(k Key) bool { return k.Rate == 0 }) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestGuardSeesChangesAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g := open(t, dir, nil)
	wanted := func(want bool) {
		t.Helper()
		if got, err := g.Wanted(); got != want || err != nil {
			t.Errorf("wanted: %v, %v", got, err)
		}
	}
	wanted(false)
	web, _ := newKey(t, dir, "web", 0, 0)
	wanted(true)
	if c := admit(t, g, web); c.Name() != "web" {
		t.Errorf("%q came", c.Name())
	}
	for _, other := range []string{"", "poq-", web[:67], web + "0", strings.ToUpper(web)} {
		if _, err := g.Admit(other); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("%q: %v", other, err)
		}
	}
	if _, err := Change(dir, "web", func(k *Key) { k.Limit = credit }); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(t, g, web).Reserve(2 * credit); err == nil {
		t.Error("a limit counts for nothing")
	}
	second, _ := newKey(t, dir, "second", 0, 0)
	if err := Revoke(dir, "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Admit(web); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("a revoked key: %v", err)
	}
	admit(t, g, second)
	if err := Revoke(dir, "second"); err != nil {
		t.Fatal(err)
	}
	wanted(true) // nobody has one
	if err := os.WriteFile(Path(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := g.Wanted(); !got || err == nil {
		t.Errorf("a damaged file opens the door: %v, %v", got, err)
	}
	if _, err := g.Admit(second); err == nil || errors.Is(err, ErrUnknownKey) {
		t.Errorf("a damaged file: %v", err)
	}
	if err := os.Remove(Path(dir)); err != nil {
		t.Fatal(err)
	}
	wanted(false)
}

func TestRequestsAreAsManyAsTheRateAllows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, _ := newKey(t, dir, "web", 0, 30) // one in two seconds
	free, _ := newKey(t, dir, "free", 0, 0)
	g := open(t, dir, nil)
	now := time.Now()
	for i := range 30 {
		if r, ok := admit(t, g, secret).Take(now); !ok || r.Limit != 30 || r.Remaining != 29-i || r.Wait != 0 {
			t.Fatalf("request %d: %+v, %v", i, r, ok)
		}
	}
	r, ok := admit(t, g, secret).Take(now.Add(500 * time.Millisecond))
	if ok || r.Remaining != 0 || r.Wait.Round(time.Millisecond) != 1500*time.Millisecond || r.Reset.Round(time.Millisecond) != 59500*time.Millisecond {
		t.Errorf("one too many: %+v, %v", r, ok)
	}
	if r, ok := admit(t, g, secret).Take(now.Add(2 * time.Second)); !ok {
		t.Errorf("after the wait: %+v", r)
	}
	if _, err := Change(dir, "web", func(k *Key) { k.Rate = 60 }); err != nil {
		t.Fatal(err)
	}
	if r, ok := admit(t, g, secret).Take(now.Add(3 * time.Second)); !ok || r.Limit != 60 || r.Remaining > 3 {
		t.Errorf("with twice the rate: %+v, %v", r, ok)
	}
	for range 1000 {
		if r, ok := admit(t, g, free).Take(now); !ok || r != (Rate{}) {
			t.Fatalf("without a limit: %+v, %v", r, ok)
		}
	}
}

func TestSpendingStaysWithinTheLimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", 3*credit, 0)
	g := open(t, dir, nil)
	c := admit(t, g, secret)
	reserve := func(fee ledger.Amount) *Spending {
		t.Helper()
		s, err := c.Reserve(fee)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	refused := func(fee, spent, reserved ledger.Amount) {
		t.Helper()
		_, err := c.Reserve(fee)
		var limit *LimitError
		if !errors.As(err, &limit) || limit.Name != "web" || limit.Limit != 3*credit || limit.Spent != spent || limit.Reserved != reserved || limit.Fee != fee {
			t.Errorf("%+v, %v", limit, err)
		}
	}
	first, second := reserve(2*credit), reserve(credit)
	refused(1, 0, 3*credit)
	second.End() // nothing was ordered
	second.End()
	refused(credit+1, 0, 2*credit)
	first.Ordered(task(1))
	first.Ordered(task(2)) // is ignored
	if got := usage(t, dir, k); got != (Usage{0, 2 * credit}) {
		t.Errorf("while it is open: %+v", got)
	}
	first.Settled(task(1), credit/2)
	first.End()
	if got := usage(t, dir, k); got != (Usage{credit / 2, 0}) {
		t.Errorf("after it: %+v", got)
	}
	refused(3*credit, credit/2, 0)
	refused(^ledger.Amount(0), credit/2, 0)
	reserve(5 * credit / 2).End()
}

func TestManyAtOnceStayWithinTheLimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", 100*credit, 0)
	g := open(t, dir, nil)
	var asking sync.WaitGroup
	for i := range 8 {
		asking.Go(func() {
			for j := range 50 {
				c, err := g.Admit(secret)
				if err != nil {
					t.Error(err)
					return
				}
				s, err := c.Reserve(credit)
				if limit := (*LimitError)(nil); errors.As(err, &limit) {
					if limit.Spent+limit.Reserved+credit <= limit.Limit {
						t.Errorf("refused too early: %v", err)
					}
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if id := task(i*1000 + j); j%3 > 0 {
					s.Ordered(id)
					s.Settled(id, credit/ledger.Amount(j%3))
				}
				s.End()
			}
		})
	}
	asking.Wait()
	// They want to spend 200 credits, so some were refused, and at that moment no more than the seven others held a credit each.
	if got := usage(t, dir, k); got.Reserved != 0 || got.Spent > 100*credit || got.Spent <= 92*credit {
		t.Errorf("%+v", got)
	}
}

// left returns a copy of a directory as a process leaves it that is killed.
func left(t *testing.T, dir string) string {
	t.Helper()
	c := t.TempDir()
	if err := os.CopyFS(c, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestKilledGuardForgetsNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", 10*credit, 0)
	g := open(t, dir, nil)
	spend := func(n int) *Spending {
		s, err := admit(t, g, secret).Reserve(credit)
		if err != nil {
			t.Fatal(err)
		}
		s.Ordered(task(n))
		return s
	}
	spend(1).Settled(task(1), 900_000)
	spend(2).End() // its client left
	spend(3)       // its client waits
	after := left(t, dir)
	for _, tail := range []string{"", `{"key":"`, strings.Repeat("\x00", 1000)} { // what a crash may leave of the last line
		crashed := left(t, after)
		f, err := os.OpenFile(filepath.Join(crashed, usageFile), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(tail)
		f.Close()
		costs := map[ledger.TaskID]ledger.Amount{task(2): 800_000}
		again := open(t, crashed, func(id ledger.TaskID) (ledger.Amount, bool) { c, ok := costs[id]; return c, ok })
		again.collect()
		if got := usage(t, crashed, k); got != (Usage{1_700_000, credit}) {
			t.Errorf("after %q: %+v", tail, got)
		}
		if _, err := admit(t, again, secret).Reserve(7_300_001); err == nil {
			t.Errorf("after %q more may be spent", tail)
		}
		if s, err := admit(t, again, secret).Reserve(7_300_000); err != nil {
			t.Errorf("after %q less may be spent: %v", tail, err)
		} else {
			s.Settled(task(4), 300_000)
		}
		if got := usage(t, crashed, k); got != (Usage{2_000_000, credit}) {
			t.Errorf("after %q nothing more is counted: %+v", tail, got)
		}
	}
	if err := os.WriteFile(filepath.Join(after, usageFile), []byte("{}\nnonsense\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g, err := Open(after, nil); err == nil {
		g.Close()
		t.Error("a damaged log is taken")
	}
}

func TestTaskOfAClientThatLeftCountsWhenItSettles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", credit, 0)
	var mu sync.Mutex
	costs := map[ledger.TaskID]ledger.Amount{}
	g := open(t, dir, func(id ledger.TaskID) (ledger.Amount, bool) {
		mu.Lock()
		defer mu.Unlock()
		c, ok := costs[id]
		return c, ok
	})
	s, err := admit(t, g, secret).Reserve(credit)
	if err != nil {
		t.Fatal(err)
	}
	s.Ordered(task(1))
	s.End()
	if _, err := admit(t, g, secret).Reserve(1); err == nil {
		t.Error("the fee is not reserved while the task is open")
	}
	mu.Lock()
	costs[task(1)] = 400_000
	mu.Unlock()
	if s, err = admit(t, g, secret).Reserve(600_000); err != nil { // nothing else tells the guard
		t.Fatal(err)
	}
	s.End()
	if got := usage(t, dir, k); got != (Usage{400_000, 0}) {
		t.Errorf("%+v", got)
	}
}

func TestLogIsRewrittenWhenItIsLong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, k := newKey(t, dir, "web", 0, 0)
	gone, old := newKey(t, dir, "gone", 0, 0)
	g := open(t, dir, nil)
	spend := func(secret string, n int, settle bool) {
		s, err := admit(t, g, secret).Reserve(credit)
		if err != nil {
			t.Fatal(err)
		}
		if s.Ordered(task(n)); settle {
			s.Settled(task(n), credit)
		}
		s.End()
	}
	spend(gone, 0, true)
	spend(secret, 1, false)
	for n := range 100 {
		spend(secret, 2+n, true)
	}
	if err := Revoke(dir, "gone"); err != nil {
		t.Fatal(err)
	}
	admit(t, g, secret)
	g.mu.Lock()
	g.log.short = g.log.size - rewriteBytes // one more line is too much
	g.mu.Unlock()
	spend(secret, 1000, false)
	info, err := os.Stat(filepath.Join(dir, usageFile))
	if err != nil || info.Size() > 1000 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	spend(secret, 1001, true)
	all, err := ReadUsage(dir)
	if err != nil || all[k.Hash] != (Usage{101 * credit, 2 * credit}) || all[old.Hash] != (Usage{}) {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestNothingIsSpentThatCannotBeCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret, _ := newKey(t, dir, "web", 0, 0)
	g, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, usageFile), 0o700); err != nil { // can't be written to
		t.Fatal(err)
	}
	s, err := admit(t, g, secret).Reserve(credit)
	if err != nil {
		t.Fatal(err)
	}
	s.Ordered(task(1))
	s.Settled(task(1), credit)
	s.End()
	if _, err := admit(t, g, secret).Reserve(credit); err == nil {
		t.Error("more is spent")
	}
	if g.Close() == nil {
		t.Error("the guard ends as if all were counted")
	}
}

func FuzzUsage(f *testing.F) {
	k, other := crypto.Sum([]byte("k")), crypto.Sum([]byte("other"))
	lines := func(list ...string) string {
		return strings.NewReplacer("K", k.String(), "O", other.String(), "T", task(1).String()).Replace(strings.Join(list, "\n") + "\n")
	}
	for _, s := range []string{
		lines(`{"key":"K","spent":5}`, `{"key":"K","task":"T","fee":7}`, `{"key":"K","task":"T","cost":0}`),
		lines(`{"key":"K","task":"T","fee":7}`, `{"key":"O","task":"T","cost":3}`),
		lines(`{"key":"K","task":"T","fee":7}`, `{"key":"K","task":"T","fee":7}`), "{}\n", "half",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := replay(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		again := newBook()
		for _, e := range b.records() {
			if err := again.apply(e); err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
		}
		used := func(b *book) map[crypto.Hash]Usage {
			m := map[crypto.Hash]Usage{}
			for k, u := range b.usage {
				if *u != (Usage{}) {
					m[k] = *u
				}
			}
			return m
		}
		if !maps.Equal(used(b), used(again)) || len(b.open) != len(again.open) {
			t.Errorf("%+v became %+v", used(b), used(again))
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"name":"web","sha256":"52cffd124bb3f946af433d24532945ea871d6fd1f18a932dc93c1070de02016d","created":"2026-11-26T19:23:58Z","limit":5,"rate":60}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parse(data)
		if err == nil && check(keys) != nil {
			t.Errorf("%+v", keys)
		}
	})
}

// BenchmarkRequest tells what a key adds to a request that costs something: who it is, its rate, the fee reserved, ordered, settled.
func BenchmarkRequest(b *testing.B) {
	for _, keys := range []int{1, 100} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			dir := b.TempDir()
			var secret string
			for i := range keys {
				var err error
				if secret, _, err = New(dir, fmt.Sprint("key-", i), 1<<60, MaxRate); err != nil {
					b.Fatal(err)
				}
			}
			g, err := Open(dir, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			for n := 0; b.Loop(); n++ {
				c, err := g.Admit(secret)
				if err != nil {
					b.Fatal(err)
				}
				c.Take(time.Now())
				s, err := c.Reserve(credit)
				if err != nil {
					b.Fatal(err)
				}
				s.Settled(task(n), credit)
				s.End()
			}
		})
	}
}
