package node_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/keystore"
	"github.com/poqmesh/poq/quality"
)

// shout is an engine that says the prompt back, louder.
type shout struct{}

func (shout) Name() string     { return "shout" }
func (shout) Models() []string { return []string{"shout"} }

func (shout) Generate(_ context.Context, r llm.Request, emit func(string)) (*llm.Answer, error) {
	text := strings.ToUpper(r.Prompt)
	if text == r.Prompt {
		return nil, &llm.DeclineError{Reason: "this is loud already"}
	}
	if emit != nil {
		emit(text)
	}
	return &llm.Answer{Text: text, Model: "shout", Stop: llm.StopEnd}, nil
}

// loudness is a judge: it counts capital letters.
type loudness struct{}

func (loudness) ID() crypto.Hash { return crypto.Sum([]byte("loudness, version 1")) }

func (loudness) Score(_ context.Context, _, answer string) (quality.Score, error) {
	loud := 0
	for _, r := range answer {
		if 'A' <= r && r <= 'Z' {
			loud++
		}
	}
	return quality.Score(min(int(quality.MaxScore), 1000*loud)), nil
}

// A payer asks and gets the settlement: answers, the best first, with scores and pay. The
// network around it runs in this process.
func ExampleNode_Ask() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	network, err := devnet.Start(ctx, devnet.Config{
		Dir: dir, Validators: 4, Judge: loudness{}, Engines: []llm.Engine{shout{}}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	n := network.Payer().Node
	s, err := n.Ask(ctx, "hello and more", node.AskOptions{
		Fee: 2 * ledger.Credit, MaxAnswers: 1,
		Options: llm.Options{Temperature: new(0.0), Stop: []string{" AND"}}, // for the engines
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Outcome, s.Answers[0].Text, s.Answers[0].Score)
	// Output: PAID HELLO 5000
}

// Order is Ask in its steps: the task's id at once, the stages as they come, then the settlement.
func ExampleNode_Order() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	network, err := devnet.Start(ctx, devnet.Config{
		Dir: dir, Validators: 1, Judge: loudness{}, Engines: []llm.Engine{shout{}}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	task, err := network.Payer().Node.Order(ctx, "hello", node.AskOptions{})
	if err != nil {
		log.Fatal(err) // nothing was ordered
	}
	for e := range task.Events() {
		switch e.Step {
		case ledger.Locked, ledger.Answered, ledger.Settled: // there are more
			fmt.Println(e.Step)
		}
	}
	s, err := task.Wait()
	if err != nil {
		log.Fatal(err) // a *node.PendingError: the order stands
	}
	fmt.Println(s.Answers[0].Text, s.Task == task.ID)
	// Output:
	// locked
	// answered
	// settled
	// HELLO true
}

// A program watches what is settled, and reads it in the ledger.
func ExampleNode_Events() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	network, err := devnet.Start(ctx, devnet.Config{
		Dir: dir, Validators: 1, Judge: loudness{}, Engines: []llm.Engine{shout{}}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	worker := network.Peer("worker-1").Node
	events := worker.Events(ctx) // of all tasks, from now on
	if _, err := network.Payer().Node.Ask(ctx, "hello", node.AskOptions{Fee: 2 * ledger.Credit}); err != nil {
		log.Fatal(err)
	}
	for e := range events {
		if e.Step != ledger.Settled {
			continue
		}
		l := worker.Ledger()
		if err := l.Flush(); err != nil { // a receipt is on disk some milliseconds later
			log.Fatal(err)
		}
		receipt, err := l.Receipt(e.Task)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.Outcome.Kind, receipt.Order.Statement.Fee == 2*ledger.Credit, l.Account(worker.Account()).Balance > 0)
		break // which ends the subscription
	}
	// Output: PAID true true
}

// A node of one's own joins a running network as a worker with an engine of its own. The network has no other worker,
// so the answer is this one's.
func ExampleWithEngine() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	network, err := devnet.Start(ctx, devnet.Config{Dir: filepath.Join(dir, "network"), Validators: 1, Judge: loudness{}, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	opts := []node.Option{
		node.WithDataDir(filepath.Join(dir, "worker")), // keys are made there
		node.WithGenesis(network.Genesis),
		node.WithEngine(shout{}),
		node.WithLogger(quiet),
	}
	for _, p := range network.Peers {
		opts = append(opts, node.WithPeers(p.Node.Host().Addrs()...))
	}
	worker, err := node.New(ctx, opts...)
	if err != nil {
		log.Fatal(err)
	}
	defer worker.Close()
	if err := worker.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := worker.WaitReady(ctx, len(network.Peers)); err != nil {
		log.Fatal(err)
	}

	s, err := network.Payer().Node.Ask(ctx, "who is there?", node.AskOptions{MaxAnswers: 1})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Answers[0].Text, s.Answers[0].Worker.Account == worker.Account())
	// Output: WHO IS THERE? true
}

// A network of two nodes, made by hand: a validator with a judge of its own, and a peer that is worker and payer. The
// genesis names the judge, the committee and who has credits.
func ExampleWithJudge() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	judging, err := keystore.New(nil, true) // with a consensus key
	if err != nil {
		log.Fatal(err)
	}
	asking, err := keystore.New(nil, false)
	if err != nil {
		log.Fatal(err)
	}
	member, err := judging.Validator("judge")
	if err != nil {
		log.Fatal(err)
	}
	genesis := &ledger.Genesis{
		Network: "by-hand", Epoch: 1, Judge: loudness{}.ID(), MinFee: 1000, Splits: []ledger.Split{ledger.DefaultSplit()},
		Validators: []ledger.Validator{member},
		Accounts:   []ledger.GenesisAccount{{ID: asking.Account.Public(), Name: "asker", Balance: 10 * ledger.Credit}},
	}
	quiet := node.WithLogger(slog.New(slog.DiscardHandler))

	validator, err := node.New(ctx, node.WithDataDir(filepath.Join(dir, "validator")), node.WithGenesis(genesis), node.WithIdentity(judging),
		node.WithJudge(loudness{}), quiet)
	if err != nil {
		log.Fatal(err)
	}
	defer validator.Close()
	asker, err := node.New(ctx, node.WithDataDir(filepath.Join(dir, "asker")), node.WithGenesis(genesis), node.WithIdentity(asking),
		node.WithEngine(shout{}), node.WithPeers(validator.Host().Addrs()...), quiet)
	if err != nil {
		log.Fatal(err)
	}
	defer asker.Close()
	for _, n := range []*node.Node{validator, asker} {
		if err := n.Start(ctx); err != nil {
			log.Fatal(err)
		}
	}
	for _, n := range []*node.Node{validator, asker} {
		if err := n.WaitReady(ctx, 1); err != nil {
			log.Fatal(err)
		}
	}

	s, err := asker.Ask(ctx, "ok", node.AskOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Answers[0].Text, s.Answers[0].Score, "judged by", s.Validators[0].Name)
	// Output: OK 2000 judged by judge
}
