// Ask joins a network with a token, asks one question and prints the best answer:
//
//	go run ./examples/ask -join "$(poq token)" -data ~/asker "Who wrote Emma?"
//
// The account whose key is in the data directory pays. A first run makes that key and names the account.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/token"
)

func main() {
	log.SetFlags(0)
	join := flag.String("join", "", "token of the network")
	data := flag.String("data", "asker", "directory for keys and ledger")
	answers := flag.Int("answers", 0, "answers to wait for; by default one of each worker in sight, up to 3")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *join, *data, flag.Arg(0), node.AskOptions{MaxAnswers: *answers}); err != nil {
		stop()
		log.Fatal(err)
	}
}

func run(ctx context.Context, join, data, prompt string, o node.AskOptions) (err error) {
	t, err := token.Parse(join)
	if err != nil {
		return err
	}
	genesis := t.Genesis
	if genesis == nil { // it was too long for the token
		if genesis, err = node.FetchGenesis(ctx, t.Network, t.Chain, t.Addresses...); err != nil {
			return err
		}
	}
	n, err := node.New(ctx, node.WithDataDir(data), node.WithGenesis(genesis), node.WithPeers(t.Addresses...))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.Start(ctx); err != nil {
		return err
	}
	connecting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := n.WaitReady(connecting, 1); err != nil {
		return err
	}
	task, err := n.Order(ctx, prompt, o)
	if funds := (*node.FundsError)(nil); errors.As(err, &funds) {
		return fmt.Errorf("account %s can't pay: %w", n.Account(), err)
	}
	if err != nil {
		return err
	}
	for e := range task.Events() {
		log.Println(e.Step)
	}
	s, err := task.Wait()
	if err != nil {
		return err
	}
	if s.Outcome != ledger.Paid {
		return fmt.Errorf("task %s ended as %v", s.Task, s.Outcome)
	}
	best := s.Answers[0]
	fmt.Println(best.Text)
	log.Printf("from %s, score %d of 10000, for %s credits", best.Worker.Account.Short(), best.Score, ledger.FormatAmount(int64(s.Fee)))
	return nil
}
