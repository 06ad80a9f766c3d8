package devnet

import (
	"context"
	"fmt"
	"testing"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/quality"
)

type lengthJudge struct{}

func (lengthJudge) ID() crypto.Hash { return crypto.Sum([]byte("length")) }
func (lengthJudge) Score(_ context.Context, _, answer string) (quality.Score, error) {
	return quality.Score(min(10000, 2000+100*len(answer))), nil
}

type echo string

func (e echo) Name() string     { return "echo" }
func (e echo) Models() []string { return []string{"echo"} }
func (e echo) Generate(_ context.Context, r llm.Request, _ func(string)) (*llm.Answer, error) {
	return &llm.Answer{Text: string(e) + r.Prompt}, nil
}

func TestX(t *testing.T) {
	d, err := Start(t.Context(), Config{Dir: t.TempDir(), Validators: 4, Engines: []llm.Engine{echo(""), echo("a"), echo("bb")}, Judge: lengthJudge{}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range 50 {
		s, err := d.Payer().Node.Ask(t.Context(), fmt.Sprint("hello ", i), node.AskOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(s.Outcome, s.Timeline, s.Answers[0].Text, s.Answers[0].Paid)
	}
	for _, p := range d.Peers {
		p.Node.Ledger().Flush()
		v, err := p.Node.Ledger().Verify()
		t.Log(p.Name, v, err)
	}
}
