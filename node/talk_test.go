package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/llm/pool"
	"github.com/poqmesh/poq/p2p"
)

// writer answers with a function that is given emit.
type writer func(ctx context.Context, prompt string, emit func(string)) (*llm.Answer, error)

func (writer) Name() string     { return "test" }
func (writer) Models() []string { return []string{"test"} }
func (w writer) Generate(ctx context.Context, r llm.Request, emit func(string)) (*llm.Answer, error) {
	return w(ctx, r.Prompt, emit)
}

// order gives an order and listens.
func (s *swarm) order(prompt string, o AskOptions) *Task {
	s.t.Helper()
	o.Listen = true
	t, err := s.payer.node.Order(soon(s.t), prompt, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

// hears gathers what is told of a task, by worker, and how each ended.
func hears(t *Task) (texts map[string]string, ends map[string]Piece) {
	texts, ends = map[string]string{}, map[string]Piece{}
	for p := range t.Text() {
		if texts[p.Worker.Name] += p.Text; p.Last {
			ends[p.Worker.Name] = p
		}
	}
	return texts, ends
}

func TestPayerHearsTheTextWhileItIsMade(t *testing.T) {
	t.Parallel()
	heard := make(chan struct{})
	told := llm.Answer{Text: "The keeper lived in it.", Model: "keeper-1", Stop: llm.StopLength, PromptTokens: 7, AnswerTokens: 5}
	s := startSwarm(t, 4, writer(func(ctx context.Context, _ string, emit func(string)) (*llm.Answer, error) {
		emit("The keeper ")
		select { // the rest is written only once the beginning was read
		case <-heard:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		emit("lived in it.")
		return &told, nil
	}))
	task := s.order("Who lived in the tower?", AskOptions{MaxAnswers: 1})
	text := ""
	var last Piece
	for p := range task.Text() {
		if text == "" {
			close(heard)
		}
		text += p.Text
		last = p
	}
	want := Told{Model: "keeper-1", Stop: llm.StopLength, PromptTokens: 7, AnswerTokens: 5}
	if text != told.Text || !last.Last || last.Failed != "" || last.Told != want || last.Worker.Name != "worker-1" {
		t.Errorf("heard %q, and last %+v", text, last)
	}
	got, err := task.Wait()
	if err != nil || len(got.Answers) != 1 || got.Answers[0].Text != text || got.Answers[0].Told != want || got.Answers[0].Changed {
		t.Fatalf("settled as %+v, %v", got, err)
	}
	if again, _ := hears(task); again["worker-1"] != text {
		t.Errorf("read again: %q", again)
	}
	stored, err := s.payer.node.Settlement(soon(t), task.ID)
	if err != nil || stored.Answers[0].Told != (Told{}) {
		t.Errorf("what nobody signed is kept: %+v, %v", stored, err)
	}
}

func TestSettlementHasWhatWorkersToldHoweverTheyEnded(t *testing.T) {
	t.Parallel()
	long := text(3 * maxPiece)
	s := startSwarm(t, 4,
		writer(func(_ context.Context, _ string, emit func(string)) (*llm.Answer, error) {
			emit("half of ")
			return nil, errors.New("connection refused to 10.0.0.1")
		}),
		writer(func(_ context.Context, _ string, emit func(string)) (*llm.Answer, error) {
			emit("something else")
			return &llm.Answer{Text: "what it commits to", Model: "liar\n", Stop: "whatever", AnswerTokens: -1}, nil
		}),
		says(long)) // says nothing before it is done
	task := s.order("q", AskOptions{MaxAnswers: 3, AnswerTimeout: ledger.MaxDeadline})
	texts, ends := hears(task)
	got, err := task.Wait()
	if err != nil || len(got.Answers) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if texts["worker-1"] != "half of " || ends["worker-1"].Failed != "the engine failed" {
		t.Errorf("the one that failed: %q, %+v", texts["worker-1"], ends["worker-1"])
	}
	for _, a := range got.Answers {
		switch a.Worker.Name {
		case "worker-2":
			if texts["worker-2"] != "something else" || !a.Changed || a.Text != "what it commits to" || a.Told != (Told{Model: "liar "}) {
				t.Errorf("the one that says one thing and commits to another: %q, %+v", texts["worker-2"], a)
			}
		case "worker-3":
			if texts["worker-3"] != long || a.Changed || a.Model != "test" || ends["worker-3"].Stop != llm.StopEnd {
				t.Errorf("the one that says nothing while it writes: %d bytes, %+v", len(texts["worker-3"]), ends["worker-3"])
			}
		}
	}
}

func TestTextIsToldAsFarAsItIsAnswered(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, writer(func(_ context.Context, _ string, emit func(string)) (*llm.Answer, error) { // knows nothing of where to stop
		for _, p := range []string{"one, t", "wo, th", "ree"} {
			emit(p)
		}
		return &llm.Answer{Text: "one, two, three", Stop: llm.StopLength, PromptTokens: 3, AnswerTokens: 5}, nil
	}))
	task := s.order("q", AskOptions{MaxAnswers: 1, Options: llm.Options{Stop: []string{", three"}}})
	texts, _ := hears(task)
	got, err := task.Wait()
	if err != nil || texts["worker-1"] != "one, two" || got.Answers[0].Text != "one, two" || got.Answers[0].Changed || got.Answers[0].Told != (Told{Stop: llm.StopEnd, PromptTokens: 3}) {
		t.Errorf("told %q, settled as %+v, %v", texts, got, err)
	}
}

func TestEngineThatFailsWhileItWritesIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	fails := writer(func(_ context.Context, _ string, emit func(string)) (*llm.Answer, error) {
		emit("half of")
		return nil, errors.New("cut off")
	})
	s := startSwarm(t, 1, pool.New(pool.Member{Engine: fails}, pool.Member{Engine: says("the answer")}))
	task := s.order("q", AskOptions{MaxAnswers: 1})
	texts, ends := hears(task)
	got, err := task.Wait()
	if err != nil || len(got.Answers) != 1 || got.Answers[0].Text != "the answer" || !got.Answers[0].Changed || texts["worker-1"] != "half of" || ends["worker-1"].Failed != "" {
		t.Errorf("told %q, settled as %+v, %v", texts, got, err)
	}
}

func TestWorkerHearsItselfWhenItAsks(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 1)
	s.payer.opts = append(s.payer.opts, WithEngine(says("an answer of one's own")))
	s.start(s.all()...)
	task := s.order("q", AskOptions{MaxAnswers: 1})
	texts, _ := hears(task)
	if got, err := task.Wait(); err != nil || texts["payer"] != "an answer of one's own" || got.Answers[0].Model != "test" {
		t.Errorf("%q, %+v, %v", texts, got, err)
	}
}

func TestSlowPayerHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says(text(ledger.MaxAnswer)))
	// It follows with the payer's key, so it would hear everything, and never reads.
	payer, worker := s.payer.node, s.workers[0].node
	following, ctx := make(chan struct{}), soon(t)
	ctx, leave := context.WithCancel(ctx)
	gone := make(chan error)
	go func() {
		gone <- payer.host.Follow(ctx, worker.host.ID(), protocolTalk, payer.introduce(worker.host.ID()), maxTalk, func([]byte) error {
			close(following)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-following
	for range 8 { // each is a quarter of what is on the way at most
		task := s.order("q", AskOptions{MaxAnswers: 1})
		if texts, _ := hears(task); len(texts["worker-1"]) != ledger.MaxAnswer {
			t.Errorf("the one that reads hears %d bytes", len(texts["worker-1"]))
		}
		if got, err := task.Wait(); err != nil || got.Outcome != ledger.Paid {
			t.Errorf("%+v, %v", got, err)
		}
	}
	leave()
	<-gone
}

func TestOnlyThePayerMayListen(t *testing.T) {
	t.Parallel()
	s := startSwarm(t, 1, says("x"), says("y"))
	payer, worker, other := s.payer.node, s.workers[0].node, s.workers[1].node
	w := worker.host.ID()
	flipped := payer.introduce(w)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		from  *Node
		intro []byte
		want  error
	}{
		"somebody without credits":                    {other, other.introduce(w), p2p.ErrNotFound},
		"who repeats what the payer said":             {other, payer.introduce(w), p2p.ErrBadRequest},
		"the payer, by what it said to somebody else": {payer, payer.introduce(other.host.ID()), p2p.ErrBadRequest},
		"a signature that does not hold":              {payer, flipped, p2p.ErrBadRequest},
		"a part of an introduction":                   {payer, flipped[:50], p2p.ErrBadRequest},
	} {
		err := c.from.host.Follow(soon(t), w, protocolTalk, c.intro, maxTalk, func([]byte) error { return errors.New("it is told something") })
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// tellerOf makes a teller without a node.
func tellerOf() *teller { return newTeller(nil) }

func TestTextIsToldToItsPayerAloneAndOnlyOnce(t *testing.T) {
	t.Parallel()
	tell := tellerOf()
	k := tell.begin(task(1), ledger.AccountID{1})
	k.say("a")
	k.say("b")
	payer, other := &follower{payer: ledger.AccountID{1}, told: map[ledger.TaskID]int{}}, &follower{payer: ledger.AccountID{2}, told: map[ledger.TaskID]int{}}
	k.answered(&llm.Answer{Text: "abc"})
	if f := tell.next(other); len(f) != 0 {
		t.Errorf("another one is told %q", f)
	}
	want := []talkFrame{{task: task(1), text: "abc"}, {task: task(1), at: 3}}
	for _, w := range want { // who comes late hears all
		if f := tell.next(payer); len(f) != 1 || !bytes.Equal(f[0], w.encode()) {
			t.Errorf("told %q, want %+v", f, w)
		}
	}
	if f := tell.next(payer); len(f) != 0 {
		t.Errorf("told again: %q", f)
	}
}

func TestWhatIsOverIsForgottenInTheEnd(t *testing.T) {
	t.Parallel()
	tell := tellerOf()
	f := &follower{payer: ledger.AccountID{1}, told: map[ledger.TaskID]int{}}
	tell.followers[f] = true
	for i := range 3 * talksKept {
		k := tell.begin(task(byte(i)), f.payer)
		k.answered(&llm.Answer{Text: "x"})
		tell.next(f)
		tell.next(f)
		k.failed("once more") // the first end counts
	}
	if len(tell.talks) != talksKept || len(tell.over) != talksKept || len(f.told) != talksKept {
		t.Errorf("%d talks and %d of a follower are kept", len(tell.talks), len(f.told))
	}
	k := tell.begin(task(255), f.payer)
	k.say(text(ledger.MaxAnswer))
	k.say("more than an answer may have")
	k.say("\xff")
	if len(k.text) != ledger.MaxAnswer {
		t.Errorf("%d bytes are kept", len(k.text))
	}
}

func TestPayerWithoutTasksGivesItsPlaceUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tell := tellerOf()
		k := tell.begin(task(1), ledger.AccountID{1})
		begin, frames := time.Now(), 0
		done := make(chan error)
		go func() {
			done <- tell.follow(t.Context(), ledger.AccountID{1}, func([]byte) error { frames++; return nil })
		}()
		time.AfterFunc(5*talkIdle/2, func() { k.failed("it took long") })
		if err := <-done; err != nil || frames != 1 || time.Since(begin) != 7*talkIdle/2 || len(tell.followers) != 0 {
			t.Errorf("%v with %d frames after %v", err, frames, time.Since(begin))
		}
	})
}

func TestFramesOfAWorkerAreHeldToTheRules(t *testing.T) {
	t.Parallel()
	one := task(1)
	piece := func(at int, text string) []byte { return talkFrame{task: one, at: uint32(at), text: text}.encode() }
	end := func(at int) []byte { return talkFrame{task: one, at: uint32(at)}.encode() }
	many := func() (list [][]byte) { // as much as an answer may have, and then one more
		for at := 0; at < ledger.MaxAnswer; at += maxPiece {
			list = append(list, piece(at, strings.Repeat("x", maxPiece)))
		}
		return append(list, piece(ledger.MaxAnswer, "x"))
	}
	for name, c := range map[string]struct {
		frames [][]byte
		text   string
		bad    bool
	}{
		"in order":                        {[][]byte{piece(0, "ab"), piece(2, "c"), end(3)}, "abc", false},
		"all again, of a feed begun anew": {[][]byte{piece(0, "ab"), piece(0, "abc"), piece(1, "b"), end(3), piece(0, "abc"), end(3)}, "abc", false},
		"of another task":                 {[][]byte{talkFrame{task: task(2), text: "x"}.encode()}, "", false},
		"a gap":                           {[][]byte{piece(0, "ab"), piece(3, "c")}, "ab", true},
		"an end too early":                {[][]byte{piece(0, "ab"), end(1)}, "ab", true},
		"an end too late":                 {[][]byte{end(1)}, "", true},
		"without end":                     {many(), strings.Repeat("x", ledger.MaxAnswer), true},
		"not UTF-8":                       {[][]byte{piece(0, "\xff")}, "", true},
		"too long a piece":                {[][]byte{piece(0, strings.Repeat("x", maxPiece+1))}, "", true},
		"of an unknown kind":              {[][]byte{append([]byte{9}, one[:]...)}, "", true},
		"nothing":                         {[][]byte{{}}, "", true},
	} {
		h := newHearer(nil)
		h.closed = true
		g := h.listen(one)
		feed, err := &heardFeed{worker: ledger.AccountID{1}}, error(nil)
		for _, f := range c.frames {
			if err = h.take(feed, f); err != nil {
				break
			}
		}
		heard := ""
		if w := g.said[feed.worker]; w != nil {
			heard = string(w.text)
		}
		if errors.Is(err, p2p.ErrReject) != c.bad || heard != c.text {
			t.Errorf("%s: %v after %d bytes, want bad %v after %d", name, err, len(heard), c.bad, len(c.text))
		}
	}
}

func TestTalkHasItsBytes(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]talkFrame{
		"01" + strings.Repeat("07", 32) + "00000102" + "68c3a9": {task: task(7), at: 258, text: "hé"},
		"02" + strings.Repeat("07", 32) + "00000003" + "02" + "00000009" + "01000000" + "000000016d" + "00000002" + "6e6f": {
			task: task(7), at: 3, fail: "no", told: Told{Model: "m", Stop: llm.StopLength, PromptTokens: 9, AnswerTokens: 1 << 30},
		},
	} {
		if got := hex.EncodeToString(f.encode()); got != want {
			t.Errorf("%+v is\n%s, want\n%s", f, got, want)
		}
	}
}

func FuzzTalk(f *testing.F) {
	f.Add(talkFrame{task: task(1), at: 5, text: "hé"}.encode())
	f.Add(talkFrame{task: task(1), at: 5, fail: "busy", told: Told{Model: "m", Stop: llm.StopEnd, PromptTokens: 1, AnswerTokens: 2}}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := decodeTalk(data)
		if err == nil && !bytes.Equal(frame.encode(), data) {
			t.Errorf("%x is read as %+v, which is %x", data, frame, frame.encode())
		}
	})
}

func FuzzIntroduction(f *testing.F) {
	f.Add([]byte{1})
	f.Add(make([]byte, introSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		account, sig, err := decodeIntro(data)
		if err == nil && !bytes.Equal(append(account[:], sig[:]...), data) {
			t.Errorf("%x is read as %x and %x", data, account, sig)
		}
	})
}
