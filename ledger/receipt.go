package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// Receipt is the complete proof of one settlement: whoever holds it and the genesis can check every
// step from the order to the payments. A settled task's certificate travels in this form, so that a
// peer that missed everything before can still apply it.
type Receipt struct {
	Order   Signed[Order]
	Lock    Certificate
	Seal    SealCert
	Outcome Outcome
	Settle  Certificate
}

// Task returns the task that the receipt settles, as the votes name it.
func (r *Receipt) Task() TaskID { return r.Settle.Vote.Task }

// Encode returns the canonical bytes of the receipt.
func (r *Receipt) Encode() []byte { return r.append(make([]byte, 0, 4<<10)) } // enough for four validators

func (r *Receipt) append(b []byte) []byte {
	b = r.Lock.append(r.Order.append(b))
	return r.Settle.append(r.Outcome.append(r.Seal.append(b)))
}

func readReceipt(r *crypto.Reader) *Receipt {
	return &Receipt{readSigned[Order](r), readCertificate(r), readSealCert(r), readOutcome(r), readCertificate(r)}
}

// DecodeReceipt reads what [Receipt.Encode] wrote. It checks no signature: see [Verifier.Receipt].
func DecodeReceipt(data []byte) (*Receipt, error) {
	rd := crypto.NewReader(data)
	r := readReceipt(rd)
	if err := rd.End(); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return r, nil
}

// ErrOutcome is wrapped when a receipt's outcome is not what [Settle] gives.
var ErrOutcome = errors.New("outcome does not follow from order and reveals")

// Receipt checks a settlement from the order to the payments: every signature, every opening, and
// Settle run again (I7, I11, I12). It needs nothing but the genesis. The error says what does not hold, and
// wraps ErrMalformed, ErrSignature, ErrNoQuorum or ErrOutcome.
func (v *Verifier) Receipt(r *Receipt) error {
	stages, err := v.receiptClaims(r)
	if err != nil {
		return err
	}
	bad := v.sigs.VerifyAll(slices.Concat(stages...)) // one batch costs half of three
	if len(bad) == 0 {
		return nil
	}
	i, s := bad[0], StageLock
	for ; i >= len(stages[s]); s++ {
		i -= len(stages[s])
	}
	return fmt.Errorf("%v: %w", s, v.forged(stages[s][i]))
}

// Receipts is Verify for many receipts. It checks their signatures in one batch: for 64 receipts of 4 validators that
// takes a third less time than one by one. The error is about the first that does not hold, and names its task.
func (v *Verifier) Receipts(receipts []*Receipt) ([]Verified, error) {
	verified := make([]Verified, len(receipts))
	var claims []crypto.Claim
	for i, r := range receipts {
		stages, err := v.receiptClaims(r)
		if err != nil {
			return nil, fmt.Errorf("receipt of task %s: %w", r.Task().Short(), err)
		}
		claims = append(claims, slices.Concat(stages...)...)
		verified[i] = Verified{r, r.Task()}
	}
	if len(v.sigs.VerifyAll(claims)) == 0 {
		return verified, nil
	}
	for _, r := range receipts { // what holds is known now, and not verified again
		if err := v.Receipt(r); err != nil {
			return nil, fmt.Errorf("receipt of task %s: %w", r.Task().Short(), err)
		}
	}
	return nil, fmt.Errorf("%w: in a batch of receipts of which each one holds", ErrSignature) // cofactored checks can't disagree
}

// receiptClaims makes every check of a receipt but those of its signatures, which it returns by stage.
func (v *Verifier) receiptClaims(r *Receipt) ([][]crypto.Claim, error) {
	task := v.TaskID(r.Order.Statement)
	lock, err := v.lockClaims(r.Order, r.Lock)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	seal, err := v.sealClaims(r.Seal, task)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	again := Settle(v.genesis, v.domain, task, r.Order.Statement, r.Seal.Value, r.Outcome.Reveals)
	if !bytes.Equal(again.append(nil), r.Outcome.append(nil)) {
		return nil, fmt.Errorf("%w: %w", ErrOutcome, r.departure(v.domain, again))
	}
	if err := r.Settle.Vote.decides(StageSettle, task, again.Hash(v.domain)); err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	settle, err := v.certificateClaims(r.Settle)
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	return [][]crypto.Claim{StageLock: lock, StageSeal: seal, StageSettle: settle}, nil
}

// departure says where the outcome of r first departs from what Settle gives.
func (r *Receipt) departure(d crypto.Domain, again Outcome) error {
	got := r.Outcome
	switch {
	case got.Task != again.Task:
		return fmt.Errorf("it is of task %s, the order is of %s", got.Task.Short(), again.Task.Short())
	case got.Seal != again.Seal:
		return fmt.Errorf("it is of the sealed set %s, the one here is %s", got.Seal.Short(), again.Seal.Short())
	}
	for i, o := range got.Reveals {
		if i > 0 && o.Member <= got.Reveals[i-1].Member {
			return fmt.Errorf("reveals do not ascend by member: %d after %d", o.Member, got.Reveals[i-1].Member)
		}
		j := slices.IndexFunc(r.Seal.Value, func(c Signed[ScoreCommit]) bool { return c.Statement.Member == o.Member })
		if j < 0 {
			return fmt.Errorf("reveal of member %d, of whom no commitment is sealed", o.Member)
		}
		if err := o.Opening.opens(d, r.Seal.Value[j].Statement); err != nil {
			return err
		}
	}
	if got.Kind != again.Kind {
		return fmt.Errorf("it says %v, Settle gives %v", got.Kind, again.Kind)
	}
	for i := range max(len(got.Ranking), len(again.Ranking)) {
		if i >= len(got.Ranking) || i >= len(again.Ranking) {
			return fmt.Errorf("it ranks %d answers, Settle ranks %d", len(got.Ranking), len(again.Ranking))
		}
		if a, b := got.Ranking[i], again.Ranking[i]; a != b {
			return fmt.Errorf("entry %d of the ranking is %v, Settle gives %v", i, a, b)
		}
	}
	left, enough := r.Order.Statement.Fee, true
	for _, c := range got.Credits {
		enough = enough && c.Amount <= left
		left -= c.Amount
	}
	if !enough || left > 0 {
		return fmt.Errorf("credits do not sum to the fee of %d", r.Order.Statement.Fee)
	}
	for i, c := range got.Credits {
		if i >= len(again.Credits) || c != again.Credits[i] {
			return fmt.Errorf("credit %d is %v, Settle gives %v", i, c, again.Credits[min(i, len(again.Credits)-1)])
		}
	}
	return fmt.Errorf("it has %d credits, Settle gives %d", len(got.Credits), len(again.Credits))
}

// String writes the answer, its score and its rank for people.
func (r Ranked) String() string {
	return fmt.Sprintf("%s/%s of score %d and rank %d", r.Answer.Worker.Short(), r.Answer.Text.Short(), r.Score, r.Rank)
}

// String writes the credit for people.
func (c CreditAmount) String() string { return fmt.Sprintf("%d to %s", c.Amount, c.Account.Short()) }

// ReceiptFormat names the file form of a receipt and its version.
const ReceiptFormat = "poq-receipt/1"

// MaxReceiptFile bounds the file form of a receipt in bytes: the largest receipt in base64, with room.
const MaxReceiptFile = 2 * MaxMessage

// receiptFile is the file form of a receipt. Task and chain are for readers; they stand in the bytes too.
type receiptFile struct {
	Format  string      `json:"format"`
	Chain   crypto.Hash `json:"chain"`
	Task    TaskID      `json:"task"`
	Receipt []byte      `json:"receipt"` // canonical
}

// EncodeReceiptFile returns the file form of a receipt of a chain, a JSON document.
func EncodeReceiptFile(chain crypto.Hash, r *Receipt) ([]byte, error) {
	data, err := json.MarshalIndent(receiptFile{ReceiptFormat, chain, r.Task(), r.Encode()}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return append(data, '\n'), nil
}

// ReceiptFile reads what [EncodeReceiptFile] wrote and makes every check of [Verifier.Receipt]. Nothing in
// the file is left unchecked. Errors about its form wrap ErrMalformed.
func (v *Verifier) ReceiptFile(data []byte) (*Receipt, error) {
	fields, err := receiptFields(data)
	if err != nil {
		return nil, err
	}
	if chain := v.domain.Chain.String(); fields["chain"] != chain {
		return nil, malformed("receipt of the chain %.12q, the genesis makes %.12q: give the genesis of the receipt's network", fields["chain"], chain)
	}
	canonical, err := base64.StdEncoding.DecodeString(fields["receipt"])
	if err != nil || base64.StdEncoding.EncodeToString(canonical) != fields["receipt"] {
		return nil, malformed("the field receipt is not canonical base64")
	}
	r, err := DecodeReceipt(canonical)
	if err != nil {
		return nil, malformed("%w", err)
	}
	if err := v.Receipt(r); err != nil {
		return nil, err
	}
	if task := r.Task().String(); fields["task"] != task {
		return nil, malformed("the file says task %.12q, the receipt is of task %.12q", fields["task"], task)
	}
	return r, nil
}

// receiptFields takes a file apart more strictly than package json does: each field once, spelled as it is, and no
// other. Two readers of one file must not see two receipts.
func receiptFields(data []byte) (map[string]string, error) {
	if len(data) > MaxReceiptFile {
		return nil, malformed("receipt file of %d bytes, at most %d are allowed", len(data), MaxReceiptFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed("a receipt file holds one JSON object")
	}
	raw := map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, malformed("receipt file: %w", err)
		}
		field := name.(string)
		if _, twice := raw[field]; twice {
			return nil, malformed("receipt file has the field %.20q twice", field)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, malformed("receipt file: %w", err)
		}
		raw[field] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, malformed("receipt file: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("receipt file goes on after its JSON object")
	}
	fields := map[string]string{}
	for _, name := range []string{"format", "chain", "task", "receipt"} {
		var text string
		if err := json.Unmarshal(raw[name], &text); err != nil {
			return nil, malformed("receipt file needs the text field %s", name)
		}
		fields[name] = text
		if name == "format" && text != ReceiptFormat {
			return nil, malformed("receipt file has the format %.40q, this program knows %q: use one that knows both, or get the receipt anew", text, ReceiptFormat)
		}
	}
	if len(raw) > len(fields) {
		return nil, malformed("receipt file has fields that %s does not have", ReceiptFormat)
	}
	return fields, nil
}
