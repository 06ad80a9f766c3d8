package ledger

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

func element(i int) crypto.Hash { return crypto.Sum(binary.BigEndian.AppendUint64(nil, uint64(i))) }

// naive adds up lanes one by one, as the definition says.
func naive(elements []crypto.Hash) (l LtHash) {
	var lanes [1024]uint16
	for _, e := range elements {
		one := expand(e)
		raw := one.Encode()
		for i := range lanes {
			lanes[i] += binary.BigEndian.Uint16(raw[2*i:])
		}
	}
	var raw []byte
	for _, v := range lanes {
		raw = binary.BigEndian.AppendUint16(raw, v)
	}
	l.fill(raw)
	return l
}

func TestLtHashIsTheSumOfItsElementsInAnyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for round := range 50 {
		elements := make([]crypto.Hash, r.IntN(40))
		for i := range elements {
			elements[i] = element(r.IntN(25)) // some of them more than once
		}
		want := naive(elements)
		r.Shuffle(len(elements), func(i, j int) { elements[i], elements[j] = elements[j], elements[i] })
		var whole, left, right LtHash
		for i, e := range elements {
			whole.Add(e)
			if i < len(elements)/3 {
				left.Add(e)
			} else {
				right.Add(e)
			}
		}
		left.Combine(&right)
		if whole != want || left != want {
			t.Fatalf("round %d: %d elements give another sum", round, len(elements))
		}
		again, err := DecodeLtHash(whole.Encode())
		if err != nil || *again != whole {
			t.Fatalf("does not survive encoding: %v", err)
		}
		r.Shuffle(len(elements), func(i, j int) { elements[i], elements[j] = elements[j], elements[i] })
		for _, e := range elements {
			whole.Remove(e)
		}
		if whole != (LtHash{}) {
			t.Fatalf("round %d: something is left when all is removed", round)
		}
	}
}

func TestLtHashTellsSetsApart(t *testing.T) {
	seen := map[crypto.Hash]string{}
	note := func(name string, elements ...crypto.Hash) {
		var l LtHash
		for _, e := range elements {
			l.Add(e)
		}
		if other, ok := seen[l.Sum()]; ok {
			t.Errorf("%s and %s have one sum", name, other)
		}
		seen[l.Sum()] = name
	}
	note("nothing")
	note("one", element(1))
	note("one twice", element(1), element(1))
	note("two", element(2))
	note("one and two", element(1), element(2))
	var l LtHash
	l.Remove(element(1))
	if _, ok := seen[l.Sum()]; ok {
		t.Error("less than nothing is something")
	}
	if _, err := DecodeLtHash(make([]byte, ltHashSize-1)); err == nil {
		t.Error("a cut sum was accepted")
	}
}

func TestDigestBelongsToTasksOutcomesAndChain(t *testing.T) {
	base := crypto.Domain{Chain: element(0), Epoch: 1}
	digest := func(d crypto.Domain, task TaskID, outcome crypto.Hash) Digest {
		s := NewSums(d)
		s.Add(task, outcome)
		return s.Digest()
	}
	first := digest(base, element(1), element(2))
	for name, other := range map[string]Digest{
		"task":    digest(base, element(3), element(2)),
		"outcome": digest(base, element(1), element(3)),
		"swapped": digest(base, element(2), element(1)),
		"chain":   digest(crypto.Domain{Chain: element(9), Epoch: 1}, element(1), element(2)),
		"epoch":   digest(crypto.Domain{Chain: element(0), Epoch: 2}, element(1), element(2)),
		"none":    NewSums(base).Digest(),
	} {
		if other.Sum == first.Sum {
			t.Errorf("another %s has the same digest", name)
		}
	}
}

func TestBucketsAddUpToTheWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	s, again := NewSums(crypto.Domain{}), NewSums(crypto.Domain{})
	tasks := r.Perm(700)
	for _, i := range tasks {
		s.Add(element(i), element(-i))
	}
	var all LtHash
	total := 0
	for i := range Buckets {
		hash, n := s.Bucket(i)
		if d := s.BucketDigest(i); d.Tasks != n || d.Sum != hash.Sum() {
			t.Errorf("bucket %d: %v", i, d)
		}
		all.Combine(&hash)
		total += n
		again.Restore(i, hash, n)
	}
	want := Digest{all.Sum(), len(tasks)}
	if got := s.Digest(); got != want || total != len(tasks) {
		t.Errorf("%d tasks in buckets; the whole is %v, the buckets make %v", total, got, want)
	}
	again.Add(element(1000), element(1))
	s.Add(element(1000), element(1))
	if s.Digest() != again.Digest() {
		t.Error("restored sums go on otherwise")
	}
}

// digestVector is for other implementations.
type digestVector struct {
	Chain   crypto.Hash     `json:"chain"`
	Epoch   uint64          `json:"epoch"`
	Settled []settledVector `json:"settled"`
	Digest  Digest          `json:"digest"`
}

type settledVector struct {
	Task    TaskID      `json:"task"`
	Outcome crypto.Hash `json:"outcome"` // H(V)
	Element crypto.Hash `json:"element"`
	Lanes   []uint16    `json:"first_lanes"` // of the element
}

func TestDigestStaysAsItIs(t *testing.T) {
	var vectors []digestVector
	for _, n := range []int{0, 1, 3} {
		v := digestVector{Chain: crypto.Sum([]byte("chain")), Epoch: 1}
		d := crypto.Domain{Chain: v.Chain, Epoch: v.Epoch}
		s := NewSums(d)
		v.Settled = make([]settledVector, n)
		for i := range v.Settled {
			e := &v.Settled[i]
			e.Task, e.Outcome = element(i), element(100+i)
			e.Element = settledElement(d, e.Task, e.Outcome)
			w := expand(e.Element).lanes[0]
			e.Lanes = []uint16{uint16(w >> 48), uint16(w >> 32), uint16(w >> 16), uint16(w)}
			s.Add(e.Task, e.Outcome)
		}
		v.Digest = s.Digest()
		vectors = append(vectors, v)
	}
	got, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", "digest.json")
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("the digest changed:\n%s", got)
	}
}

// A ledger's digest is that of its settled tasks, whatever the order and however often they come (I8, I10).
func TestStateHasOneDigestInAnyOrder(t *testing.T) {
	s := newSwarm(t, 4, 1)
	r := rand.New(rand.NewPCG(3, 3))
	type settlement struct {
		task  TaskID
		order Order
	}
	var all []settlement
	last := TaskID{}
	for n := range uint64(30) {
		id, m := s.order(n, last, 100, 1)
		all, last = append(all, settlement{id, m.Order.Statement}), id
	}
	var want Digest
	for round := range 10 {
		st := NewState(s.genesis)
		for i, e := range all {
			v := Outcome{Credits: []CreditAmount{{Account: s.payer.Public(), Amount: 100}}}
			for range 1 + r.IntN(2) {
				if _, err := st.Settle(e.task, e.order, v, element(int(e.order.Nonce))); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := st.Settle(e.task, e.order, v, element(99)); err == nil {
				t.Fatal("a second outcome was applied")
			}
			if got := st.Digest().Tasks; got != i+1 || got != st.Tasks() {
				t.Fatalf("%d tasks of %d", got, i+1)
			}
		}
		if round == 0 {
			want = st.Digest()
		} else if st.Digest() != want {
			t.Fatalf("round %d: %v, want %v", round, st.Digest(), want)
		}
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
}

func BenchmarkSums(b *testing.B) {
	s := NewSums(crypto.Domain{})
	for i := range 5000 {
		s.Add(element(i), element(i))
	}
	b.Run("Add", func(b *testing.B) {
		b.ReportAllocs()
		task := element(1)
		for b.Loop() {
			s.Add(task, task)
		}
	})
	b.Run("Digest", func(b *testing.B) {
		for b.Loop() {
			s.Digest()
		}
	})
	b.Run("BucketDigests", func(b *testing.B) {
		for b.Loop() {
			for i := range Buckets {
				s.BucketDigest(i)
			}
		}
	})
}
