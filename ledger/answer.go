package ledger

import (
	"bytes"
	"strings"

	"github.com/poqmesh/poq/crypto"
)

// AnswerID names an answer: who gave it, and the hash of its text.
type AnswerID struct {
	Worker AccountID   `json:"worker"`
	Text   crypto.Hash `json:"text"`
}

const answerIDSize = 64

// Compare orders answer ids by their bytes.
func (a AnswerID) Compare(o AnswerID) int {
	if c := a.Worker.Compare(o.Worker); c != 0 {
		return c
	}
	return bytes.Compare(a.Text[:], o.Text[:])
}

func (a AnswerID) append(b []byte) []byte { return append(append(b, a.Worker[:]...), a.Text[:]...) }

func readAnswerID(r *crypto.Reader) AnswerID { return AnswerID{Worker: r.Key(), Text: r.Hash()} }

// AnswerCommit binds a worker to an answer before anybody can read it, which blocks copying.
type AnswerCommit struct {
	Task       TaskID
	Worker     AccountID
	Commitment crypto.Hash // see AnswerOpening
}

func (AnswerCommit) kind() crypto.Kind { return kindAnswerCommit }
func (c AnswerCommit) append(b []byte) []byte {
	return append(append(append(b, c.Task[:]...), c.Worker[:]...), c.Commitment[:]...)
}
func (c *AnswerCommit) read(r *crypto.Reader) {
	c.Task, c.Worker, c.Commitment = r.Hash(), r.Key(), r.Hash()
}
func (c AnswerCommit) signer(*Genesis) (crypto.PublicKey, error) { return c.Worker, nil }
func (c AnswerCommit) check(*Genesis) error                      { return checkWorker(c.Worker) }

func checkWorker(w AccountID) error {
	if w == Burned {
		return malformed("the account for what is burned cannot be a worker")
	}
	return nil
}

// Answer opens an AnswerCommit.
type Answer struct {
	Task   TaskID
	Worker AccountID
	Text   crypto.Hash // of the answer's bytes
	Salt   [32]byte
}

// ID names the answer.
func (a Answer) ID() AnswerID { return AnswerID{a.Worker, a.Text} }

// Commitment is what the worker had to commit to: H(worker, task, text hash, salt).
func (a Answer) Commitment(d crypto.Domain) crypto.Hash {
	return d.Hash(kindAnswerOpening, a.append(nil))
}

func (Answer) kind() crypto.Kind { return kindAnswer }
func (a Answer) append(b []byte) []byte {
	b = append(append(b, a.Task[:]...), a.Worker[:]...)
	return append(append(b, a.Text[:]...), a.Salt[:]...)
}
func (a *Answer) read(r *crypto.Reader) {
	a.Task, a.Worker, a.Text = r.Hash(), r.Key(), r.Hash()
	r.Fixed(a.Salt[:])
}
func (a Answer) signer(*Genesis) (crypto.PublicKey, error) { return a.Worker, nil }
func (a Answer) check(*Genesis) error {
	if a.Text == crypto.Sum(nil) {
		return malformed("answer without text")
	}
	return checkWorker(a.Worker)
}

// NoModel begins the reason of a worker that has not got the model asked for. A payer does not count on such workers, so
// they take nobody's place.
const NoModel = "no such model"

// Decline says that a worker will not answer, and why. It moves no money: it saves the others
// from waiting.
type Decline struct {
	Task   TaskID
	Worker AccountID
	Reason string // one printable line of at most MaxReason bytes
}

// takesPlace says whether the order wants one answer less to wait for.
func (d Decline) takesPlace() bool { return !strings.HasPrefix(d.Reason, NoModel) }

func (Decline) kind() crypto.Kind { return kindDecline }
func (d Decline) append(b []byte) []byte {
	return crypto.AppendBytes(append(append(b, d.Task[:]...), d.Worker[:]...), d.Reason)
}
func (d *Decline) read(r *crypto.Reader) {
	d.Task, d.Worker, d.Reason = r.Hash(), r.Key(), string(r.Bytes(MaxReason))
}
func (d Decline) signer(*Genesis) (crypto.PublicKey, error) { return d.Worker, nil }
func (d Decline) check(*Genesis) error {
	if !printable(d.Reason) {
		return malformed("reason of a decline is not one printable line")
	}
	return checkWorker(d.Worker)
}
