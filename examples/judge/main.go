// Judge runs a network in this process whose validators judge with a judge of their own, and asks it one question:
//
//	go run ./examples/judge
//
// The judge likes answers that a program can read: JSON. Its identity is in the genesis of the network and in
// every order, so a validator with another judge can't take part.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/quality"
)

// jsonJudge is the judge: two methods. Validators must come to the same score for the same texts, so it may depend on
// nothing else: no clock, no randomness, no order of a map.
type jsonJudge struct{}

// ID changes when the rule does.
func (jsonJudge) ID() crypto.Hash { return crypto.Sum([]byte("examples/judge: JSON, version 1")) }

func (jsonJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	var object map[string]any
	switch {
	case json.Unmarshal([]byte(answer), &object) == nil:
		return quality.MaxScore, nil
	case json.Valid([]byte(answer)):
		return quality.MaxScore / 2, nil
	}
	return 0, nil
}

// fixed always gives the same answer.
type fixed string

func (fixed) Name() string     { return "fixed" }
func (fixed) Models() []string { return []string{"fixed"} }

func (f fixed) Generate(_ context.Context, _ llm.Request, emit func(string)) (*llm.Answer, error) {
	if emit != nil {
		emit(string(f))
	}
	return &llm.Answer{Text: string(f), Model: "fixed", Stop: llm.StopEnd}, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		stop()
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "poq-judge-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := devnet.Start(ctx, devnet.Config{
		Dir: dir, Validators: 4, Judge: jsonJudge{},
		Engines: []llm.Engine{fixed("Paris, I would say."), fixed(`"Paris"`), fixed(`{"capital": "Paris"}`)},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	s, err := d.Payer().Node.Ask(ctx, "What is the capital of France?", node.AskOptions{})
	if err != nil {
		return err
	}
	for _, a := range s.Answers {
		fmt.Printf("%5d  %s  %s\n", a.Score, a.Worker.Name, a.Text)
	}
	return nil
}
