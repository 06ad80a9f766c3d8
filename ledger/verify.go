package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/poqmesh/poq/crypto"
)

// Message is what peers send each other: one of *OrderMessage, *Signed[AnswerCommit],
// *AnswerMessage, *Signed[Decline], *Signed[ScoreCommit], *Signed[Reveal], *LockCert, *SealCert,
// *Receipt, *Bundle, *RoundChange, *Proposal, *Query, *Mark and *Evidence; *Value and *Prepared are in vote logs alone.
type Message interface{ append(b []byte) []byte }

// OrderMessage is an order on its way, with its prompt unless that is longer than MaxInline.
type OrderMessage struct {
	Order  Signed[Order]
	Prompt []byte
}

func (m *OrderMessage) append(b []byte) []byte {
	return crypto.AppendBytes(m.Order.append(b), m.Prompt)
}

// AnswerMessage is an answer on its way, with its text unless that is longer than MaxInline.
type AnswerMessage struct {
	Answer Signed[Answer]
	Text   []byte
}

func (m *AnswerMessage) append(b []byte) []byte {
	return crypto.AppendBytes(m.Answer.append(b), m.Text)
}

// Query asks another validator for the certificates that it holds of a task. It is not signed: it
// travels on streams only, where libp2p tells who asks.
type Query struct{ Task TaskID }

func (q *Query) append(b []byte) []byte { return append(b, q.Task[:]...) }

// Mark tells a validator what the sender saw of its bundles. It needs no signature of the sender: the
// validator's own proves it.
type Mark struct {
	Validator uint16                // whose bundles
	Header    *Signed[BundleHeader] // the highest that was seen, nil if none was
}

func (m *Mark) append(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint16(b, m.Validator), boolByte(m.Header != nil))
	if m.Header != nil {
		b = m.Header.append(b)
	}
	return b
}

func readMark(r *crypto.Reader) *Mark {
	m := &Mark{Validator: r.Uint16()}
	if readBool(r) {
		m.Header = new(readSigned[BundleHeader](r))
	}
	return m
}

// Bounds of messages in bytes. The largest that is gossiped is a receipt of 64 members with 16 answers
// each, the largest on streams a proposal, which holds a quorum of round changes.
const (
	MaxMessage = 192 << 10
	MaxFrame   = 1 << 20
	// usualMessage is the room that Encode begins with: enough for a bundle of a few votes.
	usualMessage = 512
)

// Topic groups messages: one gossip topic each. TopicVotes stands for the direct streams between
// validators, on which messages of the other topics may travel too when they are sent again.
type Topic string

// Topics.
const (
	TopicOrder  Topic = "order"
	TopicAnswer Topic = "answer"
	TopicScore  Topic = "score"
	TopicCert   Topic = "cert"
	TopicVotes  Topic = "votes"
)

// Types of messages on the wire, the first byte of each.
const (
	typeOrder = iota + 1
	typeAnswerCommit
	typeAnswer
	typeDecline
	typeScoreCommit
	typeReveal
	typeLockCert
	typeSealCert
	typeReceipt
	typeBundle
	typeQuery
	typeRoundChange
	typeProposal
	typeValue
	typePrepared
	typeMark
	typeEvidence
)

// topicOf returns the topic of a message type, "" if there is no such type.
func topicOf(typ byte) Topic {
	switch typ {
	case typeOrder:
		return TopicOrder
	case typeAnswerCommit, typeAnswer, typeDecline:
		return TopicAnswer
	case typeScoreCommit, typeReveal:
		return TopicScore
	case typeLockCert, typeSealCert, typeReceipt, typeEvidence:
		return TopicCert
	case typeBundle, typeQuery, typeRoundChange, typeProposal, typeValue, typePrepared, typeMark:
		return TopicVotes
	}
	return ""
}

// Encode returns the bytes of m that travel, and the topic on which they do.
func Encode(m Message) (Topic, []byte) {
	var typ byte
	switch m.(type) {
	case *OrderMessage:
		typ = typeOrder
	case *Signed[AnswerCommit]:
		typ = typeAnswerCommit
	case *AnswerMessage:
		typ = typeAnswer
	case *Signed[Decline]:
		typ = typeDecline
	case *Signed[ScoreCommit]:
		typ = typeScoreCommit
	case *Signed[Reveal]:
		typ = typeReveal
	case *LockCert:
		typ = typeLockCert
	case *SealCert:
		typ = typeSealCert
	case *Receipt:
		typ = typeReceipt
	case *Bundle:
		typ = typeBundle
	case *Query:
		typ = typeQuery
	case *RoundChange:
		typ = typeRoundChange
	case *Proposal:
		typ = typeProposal
	case *Value:
		typ = typeValue
	case *Prepared:
		typ = typePrepared
	case *Mark:
		typ = typeMark
	case *Evidence:
		typ = typeEvidence
	default:
		panic(fmt.Sprintf("ledger: no message: %T", m))
	}
	return topicOf(typ), m.append(append(make([]byte, 0, usualMessage), typ))
}

// Decode reads a message from bytes that a peer sent on a topic. It checks the form alone, which is
// cheap; [Verifier.Verify] checks the rest. The message may share memory with data. The error wraps
// ErrMalformed.
func Decode(topic Topic, data []byte) (Message, error) {
	most := MaxMessage
	if topic == TopicVotes {
		most = MaxFrame
	}
	if len(data) > most {
		return nil, malformed("message of %d bytes, at most %d are allowed", len(data), most)
	}
	r := crypto.NewReader(data)
	var m Message
	typ := r.Uint8()
	if home := topicOf(typ); home == "" || topic != home && topic != TopicVotes {
		return nil, malformed("no message of type %d on topic %q", typ, topic)
	}
	switch typ {
	case typeOrder:
		m = &OrderMessage{readSigned[Order](r), r.Bytes(MaxInline)}
	case typeAnswerCommit:
		m = new(readSigned[AnswerCommit](r))
	case typeAnswer:
		m = &AnswerMessage{readSigned[Answer](r), r.Bytes(MaxInline)}
	case typeDecline:
		m = new(readSigned[Decline](r))
	case typeScoreCommit:
		m = new(readSigned[ScoreCommit](r))
	case typeReveal:
		m = new(readSigned[Reveal](r))
	case typeLockCert:
		m = readLockCert(r)
	case typeSealCert:
		m = new(readSealCert(r))
	case typeReceipt:
		m = readReceipt(r)
	case typeBundle:
		m = new(readBundle(r))
	case typeQuery:
		m = &Query{r.Hash()}
	case typeRoundChange:
		m = readRoundChange(r)
	case typeProposal:
		m = readProposal(r)
	case typeValue:
		m = readValue(r)
	case typePrepared:
		m = readPrepared(r)
	case typeMark:
		m = readMark(r)
	case typeEvidence:
		m = readEvidence(r)
	}
	if err := r.End(); err != nil {
		return nil, malformed("%T: %w", m, err)
	}
	return m, nil
}

// Verified is a message that passed every check that needs no state. Only a [Verifier] makes one, so
// that the [Engine] cannot be given anything else.
type Verified struct {
	message Message
	task    TaskID // zero for a bundle
}

// Message returns what was verified. It must not be changed.
func (v Verified) Message() Message { return v.message }

// Task returns the task that the message is about; a bundle has none.
func (v Verified) Task() TaskID { return v.task }

// Verifier checks messages against the rules and keys of a genesis. It is safe for concurrent use.
type Verifier struct {
	genesis *Genesis
	domain  crypto.Domain
	sigs    *crypto.Verifier
}

// NewVerifier returns a Verifier for a valid genesis.
func NewVerifier(g *Genesis) *Verifier {
	return &Verifier{genesis: g, domain: Domain(g), sigs: crypto.NewVerifier()}
}

// Domain returns the domain of everything signed under g.
func Domain(g *Genesis) crypto.Domain { return crypto.Domain{Chain: g.Chain(), Epoch: g.Epoch} }

// TaskID returns the id of an order's task.
func (v *Verifier) TaskID(o Order) TaskID { return OrderID(v.domain, o) }

// bodyRoom is enough for most statements, so that their bytes do not move while they grow.
const bodyRoom = 256

// OrderID returns the id of an order's task.
func OrderID(d crypto.Domain, o Order) TaskID {
	return d.Hash(kindOrder, o.append(make([]byte, 0, bodyRoom)))
}

// Sign signs what a payer, worker or panel member states. Votes are signed as a [Bundle].
func Sign[S statement](d crypto.Domain, key crypto.PrivateKey, s S) Signed[S] {
	return Signed[S]{s, key.Sign(d.SigningBytes(s.kind(), s.append(make([]byte, 0, bodyRoom))))}
}

// Sign signs the bundle's header.
func (u *Bundle) Sign(d crypto.Domain, key crypto.PrivateKey) {
	u.Header = Sign(d, key, u.Header.Statement)
}

// claim checks a statement's form and returns the signature that remains to be verified.
func claim[S statement](v *Verifier, s Signed[S]) (crypto.Claim, error) {
	key, err := s.Statement.signer(v.genesis)
	if err != nil {
		return crypto.Claim{}, err
	}
	if err := s.Statement.check(v.genesis); err != nil {
		return crypto.Claim{}, err
	}
	return crypto.Claim{Key: key, Message: v.domain.SigningBytes(s.Statement.kind(), s.Statement.append(make([]byte, 0, bodyRoom))), Sig: s.Sig}, nil
}

// SignTrusted is [Sign], and has v remember that the signature holds: it is not verified when it comes back.
func SignTrusted[S statement](v *Verifier, key crypto.PrivateKey, s S) *Signed[S] {
	signed := Sign(v.domain, key, s)
	if c, err := claim(v, signed); err == nil { // a malformed one is refused by Verify
		v.sigs.Trust(c)
	}
	return &signed
}

// verifySigned checks a lone statement.
func verifySigned[S statement](v *Verifier, s Signed[S]) error {
	c, err := claim(v, s)
	if err != nil {
		return err
	}
	return v.verifyClaims([]crypto.Claim{c})
}

func (v *Verifier) verifyClaims(claims []crypto.Claim) error {
	if bad := v.sigs.VerifyAll(claims); len(bad) > 0 {
		return v.forged(claims[bad[0]])
	}
	return nil
}

// forged names a statement by its kind and by whose it claims to be.
func (v *Verifier) forged(c crypto.Claim) error {
	who := "account " + c.Key.Short()
	if i := slices.IndexFunc(v.genesis.Validators, func(w Validator) bool { return w.Consensus == c.Key }); i >= 0 {
		who = fmt.Sprintf("validator %d", i)
	}
	return fmt.Errorf("%w: %q by %s", ErrSignature, crypto.KindOf(c.Message), who)
}

// Task returns the task that a message is about, before it is verified; zero for a bundle, which may be
// about many.
func (v *Verifier) Task(m Message) TaskID {
	switch m := m.(type) {
	case *OrderMessage:
		return v.TaskID(m.Order.Statement)
	case *Signed[AnswerCommit]:
		return m.Statement.Task
	case *AnswerMessage:
		return m.Answer.Statement.Task
	case *Signed[Decline]:
		return m.Statement.Task
	case *Signed[ScoreCommit]:
		return m.Statement.Task
	case *Signed[Reveal]:
		return m.Statement.Task
	case *LockCert:
		return m.Votes.Vote.Task
	case *SealCert:
		return m.Votes.Vote.Task
	case *Receipt:
		return m.Task()
	case *Query:
		return m.Task
	case *RoundChange:
		return m.Task
	case *Proposal:
		return m.Value.Task
	}
	return TaskID{}
}

// Verify makes every check of a message that needs no state, the cheap ones first. Errors wrap
// ErrMalformed, ErrSignature, ErrNoQuorum or ErrOutcome and are the sender's fault.
func (v *Verifier) Verify(m Message) (Verified, error) {
	if err := v.verify(m); err != nil {
		return Verified{}, err
	}
	return Verified{m, v.Task(m)}, nil
}

func (v *Verifier) verify(m Message) error {
	switch m := m.(type) {
	case *OrderMessage:
		if err := checkInline(m.Prompt, m.Order.Statement.Prompt); err != nil {
			return err
		}
		return verifySigned(v, m.Order)
	case *Signed[AnswerCommit]:
		return verifySigned(v, *m)
	case *AnswerMessage:
		if err := checkInline(m.Text, m.Answer.Statement.Text); err != nil {
			return err
		}
		return verifySigned(v, m.Answer)
	case *Signed[Decline]:
		return verifySigned(v, *m)
	case *Signed[ScoreCommit]:
		return verifySigned(v, *m)
	case *Signed[Reveal]:
		return verifySigned(v, *m)
	case *LockCert:
		return v.lock(m)
	case *SealCert:
		return v.seal(*m)
	case *Receipt:
		return v.Receipt(m)
	case *Bundle:
		return v.bundle(m)
	case *RoundChange:
		return v.roundChange(m)
	case *Proposal:
		return v.proposal(m)
	case *Mark:
		return v.mark(m)
	case *Evidence:
		return v.evidence(m)
	case *Query:
		return nil
	}
	return malformed("no message: %T", m)
}

func checkInline(text []byte, want crypto.Hash) error {
	if len(text) > 0 && crypto.Sum(text) != want {
		return malformed("text does not have the hash that stands for it")
	}
	return nil
}

func (v *Verifier) mark(m *Mark) error {
	if m.Header == nil {
		return nil
	}
	if m.Header.Statement.Validator != m.Validator {
		return malformed("mark of validator %d with a bundle of validator %d", m.Validator, m.Header.Statement.Validator)
	}
	return verifySigned(v, *m.Header)
}

func (v *Verifier) bundle(u *Bundle) error {
	for _, l := range u.Leaves {
		if err := l.check(); err != nil {
			return err
		}
	}
	h := u.Header.Statement
	if err := h.check(v.genesis); err != nil {
		return err
	}
	if int(h.Count) != len(u.Leaves) {
		return malformed("bundle of %d leaves says that it has %d", len(u.Leaves), h.Count)
	}
	tree := newMerkleTree(u.Leaves)
	if tree.root() != h.Root {
		return malformed("bundle's leaves do not have its Merkle root")
	}
	if err := verifySigned(v, u.Header); err != nil {
		return err
	}
	u.tree = tree
	return nil
}

func (v *Verifier) lock(l *LockCert) error {
	claims, err := v.lockClaims(l.Order, l.Votes)
	if err != nil {
		return err
	}
	return v.verifyClaims(claims)
}

func (v *Verifier) lockClaims(order Signed[Order], votes Certificate) ([]crypto.Claim, error) {
	task := v.TaskID(order.Statement)
	if err := votes.Vote.decides(StageLock, task, task); err != nil {
		return nil, err
	}
	c, err := claim(v, order)
	if err != nil {
		return nil, err
	}
	claims, err := v.certificateClaims(votes)
	return append(claims, c), err
}

func (v *Verifier) seal(s SealCert) error {
	claims, err := v.sealClaims(s, s.Votes.Vote.Task)
	if err != nil {
		return err
	}
	return v.verifyClaims(claims)
}

func (v *Verifier) sealClaims(s SealCert, task TaskID) ([]crypto.Claim, error) {
	if err := s.Votes.Vote.decides(StageSeal, task, s.Value.Hash(v.domain)); err != nil {
		return nil, err
	}
	claims, err := v.certificateClaims(s.Votes)
	if err != nil {
		return nil, err
	}
	commits, err := v.commitClaims(s.Value, task)
	return append(claims, commits...), err
}
