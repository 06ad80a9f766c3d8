package ledger

import "time"

// Host is the engine's world: network, log, clock, judge and ledger. The engine calls it from
// within its own methods; a host only takes note of the call and acts later. It must never call
// the engine back from here.
type Host interface {
	// Log appends a message that the next vote refers to. It need not be durable before the vote is.
	Log(Message)
	// Vote bundles the leaf, logs and syncs the bundle, signs it, sends it to the other validators and
	// hands it to Engine.Receive, in this order (I5).
	Vote(Leaf)
	// CommitScores logs and syncs the opening, signs the commitment, gossips it and hands it to
	// Engine.Receive.
	CommitScores(ScoreCommit, Opening)
	// Reveal signs, gossips, and hands the reveal to Engine.Receive.
	Reveal(Reveal)
	// Publish gossips a certificate.
	Publish(Message)
	// Send sends a message over the direct streams, to one validator or with Everyone to all others.
	Send(to int, m Message)
	// SendReceipt sends the receipt of a settled task to a validator.
	SendReceipt(to int, task TaskID)
	// Fetch asks any peers for the receipt of a task that should be settled by now, and hands it to
	// Engine.Receive.
	Fetch(TaskID)
	// SetTimer has Engine.Timer called with t after d.
	SetTimer(t Timer, d time.Duration)
	// Score gets the texts of prompt and answer, has the judge grade them outside of the engine's
	// goroutine and hands the result to Engine.Scored. Text may be nil: it is then fetched by hash.
	Score(task TaskID, o Order, a AnswerID, text []byte)
	// Salt returns 32 secret random bytes.
	Salt() [32]byte
	// Observe tells of a task's progress.
	Observe(Progress)
	// Ledger is where certificates are applied.
	Ledger
}

// Everyone addresses all other validators.
const Everyone = -1

// Ledger is the applied state as the engine needs it. Lock and Settle take effect at once for the
// reading methods; they may become durable later, since the certificate is the finality.
type Ledger interface {
	Account(AccountID) Account
	LockedAt(payer AccountID, nonce uint64) (TaskID, bool)
	IsSettled(TaskID) bool
	// SignedOrder returns the order of a task that was locked or settled.
	SignedOrder(TaskID) (Signed[Order], bool)
	Lock(*LockCert) error
	Settle(*Receipt) error
}

// Timer names a deadline of a task.
type Timer struct {
	Task  TaskID
	Kind  TimerKind
	Round uint32 // SealRound, SettleRound
}

// TimerKind is the kind of a deadline.
type TimerKind uint8

// Deadlines.
const (
	AnswerDeadline TimerKind = iota + 1 // commitments to answers that come later don't count
	ShowDeadline                        // answers that were committed to and not shown are not waited for
	ScoreDeadline                       // the panel commits to the scores that it has
	Retry                               // an undecided task's messages are sent again
	SealRound                           // a round of the seal instance is over
	SettleRound                         // a round of the settle instance is over
	LinkUp                              // of no task: links came up
)

// Progress is a step of a task as one peer sees it.
type Progress struct {
	Task    TaskID
	Step    Step
	Worker  AccountID // Committed, Declined, Answered
	Member  int       // Scored, Revealed
	Order   *Order    // Ordered, Locked
	Prompt  []byte    // Ordered: the text, if it came inline
	Answer  AnswerID  // Answered
	Text    []byte    // Answered: the text, if it came inline
	Reason  string    // Declined, Contradiction
	Receipt *Receipt  // Settled
	Proof   *Evidence // Contradiction, if there is a proof: to be kept
}

// Step is a kind of progress.
type Step uint8

// Steps, in the order in which a task usually takes them.
const (
	Ordered       Step = iota + 1 // the order arrived
	Locked                        // the fee is in escrow: workers may answer
	Committed                     // a worker committed to an answer in time
	Declined                      // a worker will not answer
	Closed                        // no more commitments count: workers show their answers
	Answered                      // an answer arrived that opens its commitment
	Scored                        // a panel member committed to its scores
	Sealed                        // the set of score commitments is closed
	Revealed                      // a panel member opened its commitment
	Settled                       // the outcome is final
	Contradiction                 // somebody contradicted itself
)

var stepNames = [...]string{Ordered: "ordered", Locked: "locked", Committed: "committed", Declined: "declined", Closed: "closed",
	Answered: "answered", Scored: "scored", Sealed: "sealed", Revealed: "revealed", Settled: "settled", Contradiction: "contradiction"}

// String names the step.
func (s Step) String() string { return stepNames[s] }

// MarshalText implements [encoding.TextMarshaler].
func (s Step) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
