package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/poqmesh/poq/crypto"
)

var update = flag.Bool("update", false, "write the golden files anew")

// receipt makes the receipt of a task without running it, the same every time.
func (s *swarm) receipt() *Receipt {
	id, order := s.order(0, TaskID{}, Credit, 3)
	r := &Receipt{Order: order.Order, Lock: s.certificate(Leaf{LockVote, id, StageLock, 0, id})}
	ids := []AnswerID{{s.workers[0].Public(), crypto.Sum([]byte("one"))}, {s.workers[1].Public(), crypto.Sum([]byte("two"))}}
	sortAnswerIDs(ids)
	var reveals []RevealedOpening
	for i, k := range s.keys {
		o := Opening{Scores: []Score{8000 + Score(i), 3000}, Salt: crypto.Sum([]byte{byte(i)})}
		r.Seal.Value = append(r.Seal.Value, Sign(s.domain, k, CommitScores(s.domain, id, uint16(i), ids, o)))
		reveals = append(reveals, RevealedOpening{uint16(i), o})
	}
	r.Seal.Votes = s.certificate(Leaf{Commit, id, StageSeal, 0, r.Seal.Value.Hash(s.domain)})
	r.Outcome = Settle(s.genesis, s.domain, id, order.Order.Statement, r.Seal.Value, reveals)
	r.Settle = s.certificate(Leaf{FastCommit, id, StageSettle, 0, r.Outcome.Hash(s.domain)})
	return r
}

// certificate has a quorum vote, each member in a bundle of two leaves.
func (s *swarm) certificate(vote Leaf) Certificate {
	c := Certificate{Vote: vote}
	for i, k := range s.keys[:s.genesis.Quorum()] {
		u := NewBundle(uint16(i), 100, crypto.Hash{}, []Leaf{{LockVote, TaskID{1}, StageLock, 0, TaskID{1}}, vote})
		u.Sign(s.domain, k)
		c.Proofs = append(c.Proofs, u.Proof(1))
	}
	return c
}

// prove has a validator vote, in a bundle of its own.
func (s *swarm) prove(member int, l Leaf) VoteProof {
	u := NewBundle(uint16(member), 200, crypto.Hash{}, []Leaf{l})
	u.Sign(s.domain, s.keys[member])
	return u.Proof(0)
}

// samples has one valid message of each type that travels.
func samples(t testing.TB) (*swarm, []Message) {
	s := newSwarm(t, 4, 1)
	r := s.receipt()
	id, order := s.order(1, r.Task(), 5, 2)
	answer := Answer{Task: id, Worker: s.workers[0].Public(), Text: crypto.Sum([]byte("text")), Salt: crypto.Sum([]byte("salt"))}
	ids := []AnswerID{answer.ID()}
	opening := Opening{Scores: []Score{7000}, Salt: crypto.Sum([]byte("salt 2"))}
	bundle := NewBundle(2, 9, crypto.Sum([]byte("previous")), []Leaf{
		{LockVote, id, StageLock, 0, id}, {Prepare, id, StageSeal, 3, crypto.Sum([]byte("s"))}, {FastCommit, id, StageSettle, 0, crypto.Sum([]byte("v"))},
	})
	bundle.Sign(s.domain, s.keys[2])
	task := r.Task()
	reveals := r.Outcome.Reveals
	seal := Value{Task: task, Stage: StageSeal, Seal: r.Seal.Value}
	prepared := &Prepared{s.certificate(Leaf{Prepare, task, StageSeal, 1, seal.Hash(s.domain)}), seal}
	change := func(member int, m RoundChange) *RoundChange {
		m.Proof = s.prove(member, m.Leaf(s.domain))
		return &m
	}
	proposal := &Proposal{Round: 2, Value: Value{Task: task, Stage: StageSettle, Outcome: r.Outcome}}
	for member := range 3 {
		proposal.Justification = append(proposal.Justification, change(member, RoundChange{Task: task, Stage: StageSettle, Round: 2, Reveals: reveals[:member+1], Seal: &r.Seal}))
	}
	proposal.Proof = s.prove(Leader(s.genesis, s.domain, task, StageSettle, 2), proposal.Leaf(s.domain))
	messages := []Message{
		proposal,
		change(1, RoundChange{Task: task, Stage: StageSeal, Round: 2, Prepared: prepared, Commits: r.Seal.Value[1:], Lock: &LockCert{r.Order, r.Lock}}),
		change(2, RoundChange{Task: task, Stage: StageSettle, Round: 1, Fast: true, Reveals: reveals, Seal: &r.Seal}),
		order,
		new(Sign(s.domain, s.workers[0], AnswerCommit{id, answer.Worker, answer.Commitment(s.domain)})),
		&AnswerMessage{Sign(s.domain, s.workers[0], answer), []byte("text")},
		new(Sign(s.domain, s.workers[1], Decline{id, s.workers[1].Public(), "no passage to extract from"})),
		new(Sign(s.domain, s.keys[1], CommitScores(s.domain, id, 1, ids, opening))),
		new(Sign(s.domain, s.keys[1], Reveal{id, 1, opening})),
		&LockCert{r.Order, r.Lock}, &r.Seal, r, &bundle, &Query{id}, &Mark{2, &bundle.Header}}
	for _, p := range proofs(s) {
		messages = append(messages, p)
	}
	return s, messages
}

func TestEveryMessageSurvivesEncodingAndVerifies(t *testing.T) {
	s, messages := samples(t)
	for _, m := range messages {
		topic, data := Encode(m)
		for _, on := range []Topic{topic, TopicVotes} { // on streams everything may travel
			got, err := Decode(on, data)
			if err != nil {
				t.Errorf("%T on %s: %v", m, on, err)
				continue
			}
			if _, again := Encode(got); !bytes.Equal(again, data) || reflect.TypeOf(got) != reflect.TypeOf(m) {
				t.Errorf("%T does not survive encoding", m)
			}
			if _, err := s.verifier.Verify(got); err != nil {
				t.Errorf("%T: %v", m, err)
			}
		}
		for _, other := range []Topic{TopicOrder, TopicAnswer, TopicScore, TopicCert} {
			if _, err := Decode(other, data); other != topic && !errors.Is(err, ErrMalformed) {
				t.Errorf("%T was accepted on topic %s: %v", m, other, err)
			}
		}
	}
}

func TestEveryTruncatedOrExtendedMessageIsMalformed(t *testing.T) {
	_, messages := samples(t)
	for _, m := range messages {
		topic, data := Encode(m)
		for n := range data {
			if n > 600 && n%97 != 0 {
				continue
			}
			if _, err := Decode(topic, data[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%T cut to %d of %d bytes: %v", m, n, len(data), err)
			}
		}
		if _, err := Decode(topic, append(bytes.Clone(data), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%T with a byte more: %v", m, err)
		}
	}
	if _, err := Decode(TopicOrder, make([]byte, MaxMessage+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
}

// A flipped bit anywhere must be noticed: nothing in a message is outside of a signature or a hash.
// Only a query is not signed.
func TestNoBitOfAMessageCanBeFlipped(t *testing.T) {
	s, messages := samples(t)
	for _, m := range messages {
		if _, ok := m.(*Query); ok {
			continue
		}
		topic, data := Encode(m)
		step := max(1, len(data)/400)
		for i := 0; i < len(data); i += step {
			broken := bytes.Clone(data)
			broken[i] ^= 1 << (i % 8)
			got, err := Decode(topic, broken)
			if err != nil {
				continue
			}
			if v, err := s.verifier.Verify(got); err == nil {
				t.Fatalf("%T: bit flipped in byte %d of %d: accepted as %T", m, i, len(data), v.Message())
			}
		}
	}
}

func TestMessagesOfAnotherChainOrEpochAreRefused(t *testing.T) {
	s, messages := samples(t)
	for name, change := range map[string]func(*Genesis){
		"network": func(g *Genesis) { g.Network = "other" },
		"epoch":   func(g *Genesis) { g.Epoch++ },
	} {
		g := *s.genesis
		change(&g)
		v := NewVerifier(&g)
		for _, m := range messages {
			if _, ok := m.(*Query); ok {
				continue
			}
			if _, err := v.Verify(m); err == nil {
				t.Errorf("%T was accepted by another %s", m, name)
			}
		}
	}
}

func TestOrdersAgainstTheRulesAreRefused(t *testing.T) {
	s := newSwarm(t, 4, 1)
	for name, change := range map[string]func(*Order){
		"no such split":            func(o *Order) { o.Split = 9 },
		"another judge":            func(o *Order) { o.Judge[0]++ },
		"no fee":                   func(o *Order) { o.Fee = 0 },
		"a fee beyond 63 bits":     func(o *Order) { o.Fee = 1 << 63 },
		"no answers":               func(o *Order) { o.MaxAnswers = 0 },
		"too many answers":         func(o *Order) { o.MaxAnswers = MaxAnswers + 1 },
		"no time to answer":        func(o *Order) { o.AnswerDeadline = 0 },
		"scores before answers":    func(o *Order) { o.ScoreDeadline = o.AnswerDeadline - 1 },
		"too much time":            func(o *Order) { o.ScoreDeadline = 1 << 31 },
		"first order with a past":  func(o *Order) { o.Previous[3] = 1 },
		"later order without past": func(o *Order) { o.Nonce = 1 },
	} {
		_, m := s.order(0, TaskID{}, Credit, 3)
		o := m.Order.Statement
		change(&o)
		if _, err := s.verifier.Verify(&OrderMessage{Order: Sign(s.domain, s.payer, o)}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A change of these bytes breaks every signature and every ledger: it takes a new version in the tag.
func TestEncodingsStayAsTheyAre(t *testing.T) {
	s, messages := samples(t)
	golden := map[string]string{"chain": s.domain.Chain.String(), "genesis": hex.EncodeToString(s.genesis.Encode())}
	for i, m := range messages {
		name := strings.TrimPrefix(fmt.Sprintf("%T", m), "*")
		name = strings.NewReplacer("ledger.", "", "github.com/poqmesh/poq/", "").Replace(name)
		_, data := Encode(m)
		golden[fmt.Sprintf("%02d %s", i, name)] = hex.EncodeToString(data)
	}
	got, err := json.MarshalIndent(golden, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "encodings.json")
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got)+"\n" {
		t.Error("encodings changed; if that is meant, run the test with -update")
	}
}

func TestMerklePathsProveTheirLeafAndNoOther(t *testing.T) {
	for n := 1; n <= 40; n++ {
		leaves := make([]Leaf, n)
		for i := range leaves {
			leaves[i] = Leaf{Prepare, TaskID{byte(i)}, StageSeal, uint32(i), crypto.Hash{1}}
		}
		u := NewBundle(0, 0, crypto.Hash{}, leaves)
		for i := range leaves {
			p := u.Proof(i)
			for j, l := range leaves {
				if (p.proves(l) == nil) != (i == j) {
					t.Fatalf("%d leaves: path of leaf %d and leaf %d: %v", n, i, j, p.proves(l))
				}
			}
			if n > 1 {
				p.Path = p.Path[1:]
				if p.proves(leaves[i]) == nil {
					t.Fatal("a shortened path proves a leaf")
				}
			}
		}
	}
	u := NewBundle(0, 0, crypto.Hash{}, make([]Leaf, MaxBundleLeaves))
	if got := len(u.Proof(0).Path); got != maxPath {
		t.Errorf("path of the largest bundle has %d hashes, maxPath is %d", got, maxPath)
	}
}

func FuzzDecode(f *testing.F) {
	s, messages := samples(f)
	for _, r := range s.madeOfAllKinds() {
		seal := Value{Task: r.Task(), Stage: StageSeal, Seal: r.Seal.Value}
		messages = append(messages, r, &seal, &Value{Task: r.Task(), Stage: StageSettle, Outcome: r.Outcome}, &Prepared{r.Seal.Votes, seal})
	}
	for _, m := range messages {
		_, data := Encode(m)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(TopicVotes, data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of no class: %v", err)
			}
			return
		}
		if _, again := Encode(m); !bytes.Equal(again, data) {
			t.Fatalf("%T has two encodings", m)
		}
		_, _ = s.verifier.Verify(m) // must not panic
	})
}

func FuzzDecodeStored(f *testing.F) {
	r := newSwarm(f, 4, 1).receipt()
	f.Add(r.Encode())
	f.Add((&LockCert{r.Order, r.Lock}).Encode())
	f.Add(EncodeOpening(r.Seal.Value[0].Statement, r.Outcome.Reveals[0].Opening))
	f.Add(EncodeHeader(r.Lock.Proofs[0].Header))
	f.Add((&LtHash{}).Encode())
	for i, commit := range r.Seal.Value[:2] {
		votes := r.Settle.Proofs[i]
		for _, e := range []*Evidence{
			{Offence: TwoOrders, Orders: [2]Signed[Order]{r.Order, r.Order}},
			{Offence: TwoCommits, Commits: [2]Signed[ScoreCommit]{commit, commit}},
			{Offence: TwoBundles, Bundles: [2]Signed[BundleHeader]{votes.Header, votes.Header}},
			{Offence: TwoVotes, Votes: [2]ProvenVote{{r.Settle.Vote, votes}, {r.Settle.Vote, votes}}},
		} {
			f.Add(e.Encode())
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := DecodeEvidence(data); err == nil && !bytes.Equal(e.Encode(), data) {
			t.Fatal("evidence has two encodings")
		}
		if h, err := DecodeHeader(data); err == nil && !bytes.Equal(EncodeHeader(*h), data) {
			t.Fatal("header has two encodings")
		}
		if l, err := DecodeLtHash(data); err == nil && !bytes.Equal(l.Encode(), data) {
			t.Fatal("LtHash has two encodings")
		}
		if r, err := DecodeReceipt(data); err == nil && !bytes.Equal(r.Encode(), data) {
			t.Fatal("receipt has two encodings")
		}
		if l, err := DecodeLock(data); err == nil && !bytes.Equal(l.Encode(), data) {
			t.Fatal("lock has two encodings")
		}
		if c, o, err := DecodeOpening(data); err == nil && !bytes.Equal(EncodeOpening(c, o), data) {
			t.Fatal("opening has two encodings")
		}
	})
}

// BenchmarkBundle is what a validator does with the votes of another one: it decodes and checks the bundle, and proves each leaf.
func BenchmarkBundle(b *testing.B) {
	s := newSwarm(b, 4, 1)
	for _, n := range []int{1, 16, 256, MaxBundleLeaves} {
		leaves := make([]Leaf, n)
		for i := range leaves {
			leaves[i] = Leaf{Prepare, TaskID{byte(i), byte(i >> 8)}, StageSeal, 0, crypto.Hash{1}}
		}
		u := NewBundle(0, 0, crypto.Hash{}, leaves)
		u.Sign(s.domain, s.keys[0])
		_, data := Encode(&u)
		v := NewVerifier(s.genesis)
		b.Run(fmt.Sprintf("leaves=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := Decode(TopicVotes, data)
				if err == nil {
					_, err = v.Verify(m)
				}
				if err != nil {
					b.Fatal(err)
				}
				for i := range leaves {
					m.(*Bundle).Proof(i)
				}
			}
		})
	}
}
