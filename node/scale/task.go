package scale

import (
	"bytes"
	"fmt"

	"github.com/poqmesh/poq/crypto"
	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/ledgertest"
)

// Sizes of the texts, in bytes: a question, and an answer of a short paragraph.
const (
	promptBytes = 120
	answerBytes = 600
)

// role is who says something in a task.
type role int

const (
	payer role = iota
	validator
	worker
)

// says is one kind of message in a task: so many peers of a role say so many bytes on a topic.
type says struct {
	topic  ledger.Topic
	bytes  int
	role   role
	number int
}

// messagesOf lists what is gossiped for a task of so many validators and answers, in order: each message rests on
// those before it. Votes are not gossiped: they travel on links between validators.
func messagesOf(validators, answers int) []says {
	p := ledgertest.NewPayer(ledgertest.Key("payer"))
	g, keys := ledgertest.NewGenesis("scale", validators, p)
	c := ledgertest.New(g, keys, answers)
	lock, receipt := c.Next(p)
	w := ledgertest.Key("worker 0")
	answer := ledger.Answer{Task: receipt.Task(), Worker: w.Public(), Text: crypto.Sum([]byte("worker 0"))}
	reveal := ledger.Reveal{Task: receipt.Task(), Member: 0, Opening: receipt.Outcome.Reveals[0].Opening}
	f := g.Faults()
	var list []says
	for _, m := range []struct {
		m      ledger.Message
		role   role
		number int
	}{
		{&ledger.OrderMessage{Order: receipt.Order, Prompt: bytes.Repeat([]byte{'q'}, promptBytes)}, payer, 1},
		{lock, validator, f + 1}, // whoever's turn it is: see ledger.Engine
		{new(ledger.Sign(c.Domain, w, ledger.AnswerCommit{Task: answer.Task, Worker: answer.Worker, Commitment: answer.Commitment(c.Domain)})), worker, answers},
		{&ledger.AnswerMessage{Answer: ledger.Sign(c.Domain, w, answer), Text: bytes.Repeat([]byte{'a'}, answerBytes)}, worker, answers},
		{&receipt.Seal.Value[0], validator, validators},
		{&ledger.SealCert{Value: receipt.Seal.Value, Votes: receipt.Seal.Votes}, validator, f + 1},
		{new(ledger.Sign(c.Domain, keys[0], reveal)), validator, validators},
		{receipt, validator, f + 1},
	} {
		topic, data := ledger.Encode(m.m)
		list = append(list, says{topic, len(data), m.role, m.number})
	}
	return list
}

// Describe tells which messages a task is made of.
func Describe(validators, answers int) (messages, size int, text string) {
	for i, s := range messagesOf(validators, answers) {
		messages += s.number
		size += s.number * s.bytes
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%d on %s of %d B", s.number, s.topic, s.bytes)
	}
	return messages, size, text
}
