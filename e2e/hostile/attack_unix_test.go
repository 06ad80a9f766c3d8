//go:build unix

package hostile

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/p2p/p2ptest"
)

// orders says whom to attack. It comes on the attackers' stdin, and they end when that does.
type orders struct {
	Genesis *ledger.Genesis
	Victims [][]string // addresses, by victim
}

// report is what an attacker did, in a line of the attackers' stdout for each.
type report struct {
	Attack string
	ID     peer.ID
	Sent   int64 // messages, requests, streams: what the attack is made of
	Out    int64 // times that a victim threw it out
}

const attackersEnv = "POQ_TEST_ATTACKERS"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(attackersEnv) {
	case "":
		os.Exit(m.Run())
	case "1":
		err = giveWay()
	default:
		err = attackAll(os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "attackers:", err)
		os.Exit(1)
	}
}

// giveWay starts the program anew with the lowest priority, which is a thread's: all those of the new one have it from its first.
func giveWay() error {
	runtime.LockOSThread()
	if err := lowestPriority(); err != nil {
		return fmt.Errorf("giving way: %w", err)
	}
	if err := os.Setenv(attackersEnv, "2"); err != nil {
		return err
	}
	return syscall.Exec(os.Args[0], os.Args, os.Environ())
}

// attackAll runs the attackers until in ends. What they compute themselves should take no time from the victims: on a small machine
// one would otherwise measure the attackers. So they have one processor, as long as nobody else wants it.
func attackAll(in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1)
	var o orders
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&o); err != nil {
		return fmt.Errorf("whom to attack: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reports := make([]report, len(attacks))
	var running sync.WaitGroup
	for i, a := range attacks {
		running.Go(func() { reports[i] = a.run(ctx, o) })
	}
	_, _ = io.Copy(io.Discard, in)
	cancel()
	running.Wait()
	for _, r := range reports {
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// attack is what a hostile peer does to a victim over and over. do returns how much it has done once it can't go on.
type attack struct {
	name string
	do   func(ctx context.Context, s *session) int
}

// session is an attacker's connection to one victim.
type session struct {
	*p2ptest.Attacker
	*replay
	genesis *ledger.Genesis
	domain  crypto.Domain
	victim  peer.ID
	random  *rand.Rand
}

// replay is what an attacker has heard.
type replay struct {
	mu    sync.Mutex
	heard map[string][][]byte
}

func (r *replay) add(topic string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.heard[topic]) < 4096 {
		r.heard[topic] = append(r.heard[topic], data)
	}
}

func (r *replay) of(topic string, from, n int) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.heard[topic]
	if len(list) == 0 {
		return nil
	}
	batch := make([][]byte, 0, n)
	for i := range n {
		batch = append(batch, list[(from+i)%len(list)])
	}
	return batch
}

// run attacks all victims side by side. Thrown out, the attacker knocks once a second.
func (a attack) run(ctx context.Context, o orders) report {
	r := &replay{heard: make(map[string][][]byte)}
	p, err := p2ptest.NewListener(o.Genesis.Network, r.add)
	if err != nil {
		return report{Attack: err.Error()}
	}
	defer func() { _ = p.Close() }()
	var sent, out atomic.Int64
	var all sync.WaitGroup
	for i, addrs := range o.Victims {
		all.Go(func() {
			at := make([]multiaddr.Multiaddr, len(addrs))
			for i, s := range addrs {
				at[i] = multiaddr.StringCast(s)
			}
			infos, err := peer.AddrInfosFromP2pAddrs(at...)
			if err != nil {
				return
			}
			s := &session{p, r, o.Genesis, ledger.Domain(o.Genesis), infos[0].ID, rand.New(rand.NewPCG(uint64(i), 1))}
			for ctx.Err() == nil {
				dial, cancel := context.WithTimeout(ctx, 10*time.Second)
				err := p.Connect(dial, at...)
				cancel()
				if err == nil {
					sent.Add(int64(a.do(ctx, s)))
					if ctx.Err() == nil {
						out.Add(1)
					}
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	all.Wait()
	return report{a.name, p.ID(), sent.Load(), out.Load()}
}

// flooding is an attack by gossip.
func flooding(topic ledger.Topic, next func(s *session, i int) []byte) func(context.Context, *session) int {
	return func(ctx context.Context, s *session) int {
		g, err := s.Gossip(ctx, s.victim, string(topic))
		if err != nil {
			return 0
		}
		i := 0
		sent, _ := g.Flood(ctx, string(topic), func() (batch [][]byte) {
			for ; len(batch) < 32; i++ {
				batch = append(batch, next(s, i))
			}
			return batch
		})
		return sent
	}
}

// repeating is an attack that does one thing again and again until it fails.
func repeating(begin func(ctx context.Context, s *session) (func(i int) error, error)) func(context.Context, *session) int {
	return func(ctx context.Context, s *session) int {
		do, err := begin(ctx, s)
		for i := 0; ; i++ {
			if err == nil && ctx.Err() == nil {
				err = do(i)
			}
			select {
			case <-s.Gone(s.victim):
				return i
			default:
			}
			if err != nil || ctx.Err() != nil {
				return i
			}
		}
	}
}

func (s *session) key() crypto.PrivateKey {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(s.random.Uint32())
	}
	k, err := crypto.GenerateKey(rand.NewChaCha8(seed))
	if err != nil {
		panic(err) // its source never fails
	}
	return k
}

func (s *session) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.random.Uint32())
	}
	return b
}

func encode(m ledger.Message) []byte {
	_, data := ledger.Encode(m)
	return data
}

func (s *session) order(k crypto.PrivateKey) ledger.Order {
	return ledger.Order{
		Payer: k.Public(), Fee: ledger.Credit, Split: s.genesis.Splits[0].ID, Prompt: crypto.Hash(s.noise(32)), Judge: s.genesis.Judge,
		MaxAnswers: 3, AnswerDeadline: 1000, ScoreDeadline: 2000,
	}
}

var attacks = []attack{
	{"orders nobody can pay", flooding(ledger.TopicOrder, func(s *session, _ int) []byte {
		k := s.key()
		return encode(&ledger.OrderMessage{Order: ledger.Sign(s.domain, k, s.order(k))})
	})},
	{"orders with false signatures", flooding(ledger.TopicOrder, func(s *session, _ int) []byte {
		o := ledger.Signed[ledger.Order]{Statement: s.order(s.key())}
		o.Statement.Payer = s.genesis.Accounts[s.random.IntN(len(s.genesis.Accounts))].ID // one who has funds, perhaps
		copy(o.Sig[:], s.noise(64))
		return encode(&ledger.OrderMessage{Order: o})
	})},
	{"noise", flooding(ledger.TopicCert, func(s *session, i int) []byte {
		b := s.noise(1 + s.random.IntN(2000))
		b[0] = byte(1 + i%11)
		return b
	})},
	{"commitments on tasks that do not exist", flooding(ledger.TopicAnswer, func(s *session, _ int) []byte {
		k := s.key()
		c := ledger.AnswerCommit{Task: ledger.TaskID(s.noise(32)), Worker: k.Public(), Commitment: crypto.Hash(s.noise(32))}
		return encode(new(ledger.Sign(s.domain, k, c)))
	})},
	{"what others said, replayed", func(ctx context.Context, s *session) int {
		topic := string(ledger.TopicCert)
		g, err := s.Gossip(ctx, s.victim, topic)
		i := 0
		for ; err == nil && ctx.Err() == nil; i += 32 {
			batch := s.of(s.Topic(topic), i, 32)
			if batch == nil {
				select {
				case <-time.After(100 * time.Millisecond): // nothing was said yet
				case <-ctx.Done():
				}
				continue
			}
			err = g.Publish(topic, batch...)
		}
		return i
	}},
	{"announcements and wishes", repeating(func(ctx context.Context, s *session) (func(int) error, error) {
		g, err := s.Gossip(ctx, s.victim, string(ledger.TopicOrder))
		ids := make([]string, 4000)
		for i := range ids {
			ids[i] = string(s.noise(20))
		}
		return func(i int) error {
			if i%2 == 0 {
				return g.Have(string(ledger.TopicOrder), ids...)
			}
			return g.Want(ids...)
		}, err
	})},
	{"coming into topics and leaving", repeating(func(ctx context.Context, s *session) (func(int) error, error) {
		g, err := s.Gossip(ctx, s.victim)
		return func(i int) error { return g.Subscribe(i%2 == 0, string(ledger.TopicOrder), string(ledger.TopicCert)) }, err
	})},
	{"RPCs over the limit", repeating(func(ctx context.Context, s *session) (func(int) error, error) {
		return func(int) error {
			g, err := s.Gossip(ctx, s.victim)
			if err != nil {
				return err
			}
			_ = g.Raw(binary.AppendUvarint(nil, 1<<30)) // the victim ends the stream at any moment
			_ = g.Raw(s.noise(1 << 10))
			return nil
		}, nil
	})},
	{"requests that never end", func(ctx context.Context, s *session) int {
		for i := range 8 {
			st, err := s.Open(ctx, s.victim, "content")
			if err == nil {
				_, err = st.Write([]byte{32, 1})
			}
			if err != nil {
				return i
			}
		}
		select {
		case <-s.Gone(s.victim):
		case <-ctx.Done():
		}
		return 8
	}},
	{"streams without end", repeating(func(ctx context.Context, s *session) (func(int) error, error) {
		return func(int) error {
			st, err := s.OpenBare(ctx, s.victim)
			if err == nil {
				_, err = st.Write([]byte{1})
				_ = st.Reset()
			}
			return err
		}, nil
	})},
}
