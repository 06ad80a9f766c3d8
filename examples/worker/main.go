// Worker joins a network with a token and earns credits with an engine of its own, one that calculates:
//
//	go run ./examples/worker -join "$(poq token)" -data ~/calculator
//
// It answers "2 * (3 + 4)" and declines all that is not arithmetic. It runs until it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/constant"
	gotoken "go/token"
	"go/types"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/token"
	"github.com/poqmesh/poq/p2p"
)

// calculator is the engine: three methods.
type calculator struct{}

func (calculator) Name() string     { return "calculator" }
func (calculator) Models() []string { return []string{"calculator"} }

// Generate must be quick to give up when ctx ends; here nothing takes long. A text that comes in pieces goes to emit as
// it is made.
func (calculator) Generate(_ context.Context, r llm.Request, emit func(string)) (*llm.Answer, error) {
	if len(r.Prompt) > 200 {
		return nil, &llm.DeclineError{Reason: "too long for a calculation"}
	}
	v, err := types.Eval(gotoken.NewFileSet(), nil, gotoken.NoPos, r.Prompt)
	if err != nil || v.Value == nil || v.Value.Kind() != constant.Int && v.Value.Kind() != constant.Float {
		return nil, &llm.DeclineError{Reason: "this is no arithmetic"}
	}
	text := v.Value.String()
	if emit != nil {
		emit(text)
	}
	return &llm.Answer{Text: text, Model: "calculator", Stop: llm.StopEnd}, nil
}

func main() {
	log.SetFlags(0)
	join := flag.String("join", "", "token of the network")
	data := flag.String("data", "calculator", "directory for keys and ledger")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *join, *data); err != nil {
		stop()
		log.Fatal(err)
	}
}

func run(ctx context.Context, join, data string) (err error) {
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
	n, err := node.New(ctx, node.WithDataDir(data), node.WithGenesis(genesis), node.WithEngine(calculator{}),
		// It stays for long, so it remembers peers and finds others when those of the token are gone.
		node.WithDiscovery(p2p.Discovery{Bootstraps: t.Addresses, File: filepath.Join(data, "peers.json")}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.Start(ctx); err != nil {
		return err
	}
	if err := n.WaitReady(ctx, 1); err != nil {
		return err
	}
	fmt.Printf("ready, account %s\n", n.Account())
	for e := range n.Events(ctx) { // until it is interrupted, or had to stop
		if e.Step != ledger.Settled {
			continue
		}
		for _, c := range e.Receipt.Outcome.Credits {
			if c.Account == n.Account() {
				log.Printf("earned %s credits with task %s", ledger.FormatAmount(int64(c.Amount)), e.Task.Short())
			}
		}
	}
	return n.Err()
}
