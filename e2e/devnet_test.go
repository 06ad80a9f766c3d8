package e2e

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/ledger/archive"
	"github.com/poqmesh/poq/ledger/store"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
)

const passage = `The lighthouse on Gull Rock was built in 1871 by the engineer Marta Lindqvist. It is 34 metres high and
stands on granite. For ninety years its lamp was tended by three keepers who rowed out every second week. In 1961
the lamp was switched to electricity and the keepers left. Today the tower is a museum with about 9,000 visitors a year.`

func slicesSortByNonce(list []*node.Settlement) {
	slices.SortFunc(list, func(a, b *node.Settlement) int { return cmp.Compare(a.Nonce, b.Nonce) })
}

func (n *network) ask(args ...string) *node.Settlement {
	n.user.t.Helper()
	return decode[*node.Settlement](n.user.poq(append([]string{"ask", "--json", "--dir", n.card.Dir}, args...)...))
}

// checkSettlement compares what ask said with what the ledger says.
func (n *network) checkSettlement(s *node.Settlement) {
	n.user.t.Helper()
	t := n.user.t
	sum := ledger.Amount(0)
	for _, c := range s.Credits {
		sum += c.Amount
	}
	if sum != s.Fee {
		t.Errorf("credits make %d of a fee of %d", sum, s.Fee)
	}
	paid, quorum := s.Refund+s.Burned, len(s.Validators)-(len(s.Validators)-1)/3
	for _, a := range s.Answers {
		paid += a.Paid
		if len(a.Scores) < quorum {
			t.Errorf("answer of %s has %d scores of %d validators", a.Worker.Name, len(a.Scores), len(s.Validators))
		}
	}
	took := 0
	for _, v := range s.Validators {
		paid += v.Paid
		if v.Sealed && v.Revealed {
			took++
		}
	}
	if took < quorum { // usually all, but one may be late on a busy machine
		t.Errorf("%d of %d validators took part: %+v", took, len(s.Validators), s.Validators)
	}
	if paid != s.Fee {
		t.Errorf("the tables make %d of a fee of %d", paid, s.Fee)
	}
	if !slices.IsSortedFunc(s.Answers, func(a, b node.SettledAnswer) int { return cmp.Compare(b.Score, a.Score) }) {
		t.Errorf("answers are not ranked by score: %+v", s.Answers)
	}
	again := decode[node.TaskStatus](n.user.poq("ledger", "task", s.Task.Short(), "--json", "--dir", n.card.Dir)).Settlement
	if fmt.Sprint(again.Credits, again.Answers, again.Validators) != fmt.Sprint(s.Credits, s.Answers, s.Validators) {
		t.Errorf("the ledger tells another story of task %s:\n%+v\n%+v", s.Task.Short(), again, s)
	}
}

func TestNetworkAnswersJudgesPaysAndVerifies(t *testing.T) {
	u := newUser(t)
	n := u.devnet("--seed", "5")
	if len(n.card.Peers) != 8 {
		t.Fatalf("%d peers, want 8", len(n.card.Peers))
	}
	balances := map[string]int64{}
	for _, p := range n.card.Peers {
		balances[p.Name] = p.Balance
		if p.PeerID == "" || len(p.Addrs) == 0 {
			t.Errorf("the card says too little of %s: %+v", p.Name, p)
		}
	}
	if balances["payer"] != 1000*int64(ledger.Credit) {
		t.Errorf("the payer begins with %d", balances["payer"])
	}

	fact := n.ask("What is the capital of France?")
	if fact.Outcome != ledger.Paid || len(fact.Answers) != 2 {
		t.Errorf("a factual question: %v with %d answers, want two of language models", fact.Outcome, len(fact.Answers))
	}
	if !strings.Contains(fact.Answers[0].Text, "Paris") {
		t.Errorf("best answer: %q", fact.Answers[0].Text)
	}
	if len(fact.Declined) != 1 || fact.Declined[0].Worker.Name != "worker-3" || fact.Declined[0].Reason == "" {
		t.Errorf("declined: %+v, want worker-3, which needs a passage", fact.Declined)
	}
	n.checkSettlement(fact)

	about := decode[*node.Settlement](u.poqIn(passage, "ask", "--json", "--file", "-", "Who built the lighthouse on Gull Rock?"))
	if about.Outcome != ledger.Paid || len(about.Answers) != 3 {
		t.Errorf("a question on a passage: %v with %d answers, want three", about.Outcome, len(about.Answers))
	}
	n.checkSettlement(about)
	if !strings.HasPrefix(about.Prompt, "Who built") || !strings.Contains(about.Prompt, "granite") {
		t.Errorf("the ledger keeps the prompt as %q", about.Prompt)
	}

	shown := u.poq("ask", "--fee", "0.5", "Name a colour.").ok()
	for _, want := range []string{"RANK", "worker-1", "V4", "validator-4", "PAID   fee 0.500000", "task ", "after the last reveal"} {
		if !strings.Contains(shown.stdout, want) {
			t.Errorf("ask does not show %q:\n%s", want, shown.stdout)
		}
	}
	for _, want := range []string{"order gossiped", "fee locked", "declined", "scores 4/4", "sealed", "settled"} {
		if !strings.Contains(shown.stderr, want) {
			t.Errorf("ask does not tell of %q:\n%s", want, shown.stderr)
		}
	}
	n.checkLedgers(3)
	n.stop()
	if _, err := os.Stat(n.card.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory of a network without --dir is still there: %v", err)
	}
	u.poq("ask", "anyone?").fails(1, "poq devnet")
}

func TestDevnetWithAskPrintsVerifiesAndExits(t *testing.T) {
	u := newUser(t)
	r := decode[struct {
		Devnet      control.Status
		Settlements []*node.Settlement
		Ledgers     []control.PeerVerification
	}](u.poq("devnet", "--json", "--validators", "1", "--workers", "2", "--engine", "extract", "--ask", "Who built the tower?\n\n"+passage, "--ask", "How high is it?\n\n"+passage))
	if len(r.Settlements) != 2 || r.Settlements[0].Outcome != ledger.Paid || len(r.Ledgers) != 4 {
		t.Errorf("%+v", r)
	}
	for _, l := range r.Ledgers {
		if !l.OK || l.Tasks != 2 {
			t.Errorf("ledger of %s: %+v", l.Peer, l)
		}
	}
	text := u.poq("devnet", "--workers", "1", "--engine", "extract", "--ask", "Who built it?\n\n"+passage).ok().stdout
	for _, want := range []string{">>> Who built it?", "Marta Lindqvist", "VERIFIED"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestExportIsABackup(t *testing.T) {
	u := newUser(t)
	dir, backup, part := filepath.Join(t.TempDir(), "net"), filepath.Join(t.TempDir(), "ledger.poq"), filepath.Join(t.TempDir(), "part.poq")
	n := u.devnet("--dir", dir, "--engine", "extract", "--workers", "1")
	n.ask("When was the lighthouse built?\n\n" + passage)
	n.ask("Who built it?\n\n" + passage)
	n.checkLedgers(2)
	type digests struct {
		Agree   bool
		Ledgers []control.PeerDigest
	}
	type imported struct {
		Peer string
		store.Imported
	}
	running := decode[digests](u.poq("ledger", "digest", "--json"))
	if !running.Agree || len(running.Ledgers) != 6 || running.Ledgers[0].Tasks != 2 {
		t.Errorf("digests: %+v", running)
	}
	accounts := u.poq("ledger", "accounts", "--json").ok().stdout
	totals := decode[archive.Totals](u.poq("ledger", "export", backup, "--json"))
	if totals.Receipts != 2 || totals.Digest != running.Ledgers[0].Sum {
		t.Errorf("exported %+v", totals)
	}
	u.poq("ledger", "import", backup, "--dir", dir).fails(1, "in use")
	n.stop()
	whole := u.poq("ledger", "export", "--dir", dir, "--peer", "validator-2").ok().stdout
	u.poq("ledger", "digest", "--dir", dir).ok()

	// Into a new directory: at first half of it, then all, then once more, from stdin.
	restored := filepath.Join(t.TempDir(), "new")
	if err := os.WriteFile(part, []byte(whole[:len(whole)*2/3]), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := u.poq("ledger", "import", part, "--dir", restored); r.code != 1 || !strings.Contains(r.stdout, "cut off") {
		t.Errorf("half an archive: exit code %d\n%s", r.code, r.stdout)
	}
	u.poq("ledger", "import", backup, "--dir", restored).ok()
	if got := decode[imported](u.poqIn(whole, "ledger", "import", "-", "--dir", restored, "--json")); !got.Equal || got.New.Receipts != 0 || got.Ledger.Tasks != 2 {
		t.Errorf("imported again: %+v", got)
	}
	if got := u.poq("ledger", "accounts", "--json", "--dir", restored).ok().stdout; got != accounts {
		t.Errorf("the backup has the accounts\n%s\nthe ledger has\n%s", got, accounts)
	}
	if v := decode[[]control.PeerVerification](u.poq("ledger", "verify", "--json", "--dir", restored)); len(v) != 1 || !v[0].OK || v[0].Digest != running.Ledgers[0].Digest {
		t.Errorf("verified: %+v", v)
	}

	// A ledger that was lost is put back, and the network goes on.
	if err := os.RemoveAll(filepath.Join(dir, "validator-1", "ledger")); err != nil {
		t.Fatal(err)
	}
	u.poq("ledger", "import", backup, "--dir", dir, "--peer", "validator-1").ok()
	again := u.devnet("--dir", dir, "--engine", "extract", "--workers", "1")
	again.ask("Who built the lighthouse?\n\n" + passage)
	again.checkLedgers(3)
	again.stop()
	u.poq("ledger", "export", "--dir", restored, filepath.Join(dir, "no", "such", "place")).fails(1, "no such file")
	u.poq("ledger", "import", backup).fails(2, "--dir")
	u.poqIn("what?", "ledger", "import", "-", "--dir", restored).fails(1, "no archive")
	other := u.devnet("--dir", filepath.Join(t.TempDir(), "other"), "--engine", "extract", "--workers", "1")
	other.stop()
	u.poq("ledger", "import", backup, "--dir", other.card.Dir).fails(1, "another network", "differs in")
}

func TestLedgerOutlivesTheNetwork(t *testing.T) {
	u := newUser(t)
	dir := filepath.Join(t.TempDir(), "net")
	args := []string{"--dir", dir, "--engine", "extract", "--seed", "9"}
	question := "When was the lighthouse built?\n\n" + passage

	n := u.devnet(args...)
	s := n.ask(question)
	accounts := u.poq("ledger", "accounts", "--json").ok().stdout
	u.poq("devnet", "--dir", dir).fails(1, "in use", dir)
	n.stop()

	offline := u.poq("ledger", "accounts", "--json", "--dir", dir).ok().stdout
	if offline != accounts {
		t.Errorf("accounts while it ran:\n%s\nafter it ended:\n%s", accounts, offline)
	}
	task := decode[node.TaskStatus](u.poq("ledger", "task", s.Task.Short(), "--json", "--dir", dir)).Settlement
	if fmt.Sprint(task.Answers) != fmt.Sprint(s.Answers) || task.Prompt != question {
		t.Errorf("offline the task reads\n%+v\nit was\n%+v", task, s)
	}
	if results := decode[[]control.PeerVerification](u.poq("ledger", "verify", "--json", "--dir", dir)); len(results) != 8 {
		t.Errorf("%d ledgers verified offline", len(results))
	}
	u.poq("devnet", "--dir", dir, "--workers", "1").fails(1, "another network", "3 workers")
	u.poq("devnet", "--dir", dir, "--engine", "extract", "--seed", "10").fails(1, "another network", "seed")

	again := u.devnet("--dir", dir, "--engine", "extract")
	if again.card.Chain != n.card.Chain {
		t.Error("the second start made another network")
	}
	if got := u.poq("ledger", "accounts", "--json").ok().stdout; got != accounts {
		t.Errorf("after the second start:\n%s\nbefore:\n%s", got, accounts)
	}
	if s := again.ask(question); s.Nonce != 1 {
		t.Errorf("the second order has nonce %d", s.Nonce)
	}
	again.checkLedgers(2)

	// Killed without warning, in the middle of a task: nothing acknowledged is lost.
	cmd := u.command("ask", "--json", question)
	stages, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(stages); in.Scan() && !strings.Contains(in.Text(), "locked"); {
	}
	if err := again.signal(syscall.SIGKILL); err == nil {
		t.Error("a killed network ended well")
	}
	_ = cmd.Wait() // it may have been answered or not
	third := u.devnet("--dir", dir, "--engine", "extract")
	third.ask(question)
	third.checkLedgers(4) // the one that was cut off among them: its order was kept before anybody saw it
	third.stop()
}

func TestTwoNetworksDoNotMeet(t *testing.T) {
	u := newUser(t)
	dir := t.TempDir()
	a := u.devnet("--dir", filepath.Join(dir, "a"), "--engine", "extract", "--validators", "1", "--workers", "1")
	b := u.devnet("--dir", filepath.Join(dir, "b"), "--engine", "extract", "--validators", "1", "--workers", "1")
	u.poq("ask", "which one?").fails(1, "several networks", a.card.Dir, b.card.Dir)
	question := "What stands on granite?\n\n" + passage
	a.ask(question)
	b.ask(question)
	b.ask(question)
	a.checkLedgers(1)
	b.checkLedgers(2)
	a.stop()
	b.ask(question)
	u.poq("ledger", "accounts").ok() // only one is left
	b.stop()
}

func TestBadInputGetsAClearLineAndTheRightExitCode(t *testing.T) {
	u := newUser(t)
	u.poq("ledger", "accounts").fails(1, "poq devnet", "--dir")
	u.poq("ledger", "accounts", "--dir", t.TempDir()).fails(1, "holds none")

	dir := filepath.Join(t.TempDir(), "net")
	u.devnet("--engine", "extract", "--workers", "1", "--validators", "1", "--dir", dir)
	huge := strings.Repeat("x", ledger.MaxPrompt+1)
	before := u.poq("ledger", "accounts", "--json").ok().stdout
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	model := t.TempDir()
	if err := os.WriteFile(filepath.Join(model, "model.onnx"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
		words []string
	}{
		{"", []string{"ask", ""}, 2, []string{"empty"}},
		{"", []string{"ask", " \n"}, 2, []string{"empty"}},
		{"", []string{"ask"}, 2, []string{"--help"}},
		{"", []string{"ask", "what", "is this"}, 2, []string{"--help"}},
		{huge, []string{"ask", "--file", "-", "Summarise."}, 2, []string{"262144 bytes"}},
		{" ", []string{"ask", "--file", "-", "Summarise."}, 2, []string{"empty"}},
		{"", []string{"ask", "--file", empty, "Summarise."}, 2, []string{"empty"}},
		{"", []string{"ask", "--file", empty + "-not", "Summarise."}, 1, []string{"no such file"}},
		{"", []string{"ask", "--fee", "1000.000001", "hi"}, 1, []string{"1000.000000", "fee"}},
		{"", []string{"ask", "--fee", "0.000001", "hi"}, 2, []string{"0.001000"}},
		{"", []string{"ask", "--fee", "-1", "hi"}, 2, []string{"amount"}},
		{"", []string{"ask", "--fee", "1.0000001", "hi"}, 2, []string{"decimals"}},
		{"", []string{"ask", "--max-answers", "17", "hi"}, 2, []string{"1 to 16"}},
		{"", []string{"ask", "--answer-timeout", "1h", "hi"}, 2, []string{"deadlines"}},
		{"", []string{"ask", "--nonsense", "hi"}, 2, []string{"--nonsense"}},
		{"", []string{"ask", "--dir", empty, "hi"}, 1, []string{"nothing is running", empty}},
		{"", []string{"asl", "hi"}, 2, []string{"asl", "ask"}},
		{"", []string{"ledger"}, 2, []string{"subcommand"}},
		{"", []string{"ledger", "task", "xyz"}, 2, []string{"hex"}},
		{"", []string{"ledger", "task", "00000000"}, 1, []string{"not found"}},
		{"", []string{"ledger", "accounts", "--peer", "nobody"}, 1, []string{"nobody", "worker-1"}},
		{"", []string{"ledger", "tasks", "-n", "0"}, 2, []string{"positive"}},
		{"", []string{"devnet", "--engine", "gpt"}, 2, []string{"gpt", "smol"}},
		{"", []string{"devnet", "--engine", "smol,temperature=hot"}, 2, []string{"temperature"}},
		{"", []string{"devnet", "--worker-engine", "9=smol"}, 2, []string{"1 to 3"}},
		{"", []string{"devnet", "--validators", "0"}, 2, []string{"1 to 64"}},
		{"", []string{"devnet", "--workers", "0"}, 2, []string{"1 to 64"}},
		{"", []string{"devnet", "--ask", ""}, 2, []string{"empty"}},
		{"", []string{"devnet", "--dir", empty}, 1, []string{empty}},
		{"", []string{"judge", "score", "--prompt", "hi"}, 2, []string{"--answer"}},
		{"", []string{"judge", "score", "--prompt", "hi", "--answer", "ho", "--model", model}, 1, []string{"model.onnx"}},
		{"", []string{"judge", "score", "--prompt", "hi", "--answer", "ho", "--model", empty + "-not"}, 1, []string{empty}},
		{"", []string{"judge", "eval", empty + "-not"}, 1, []string{"no such file"}},
		{"", []string{"bench", "settle", "--tasks", "0"}, 2, []string{"positive"}},
	} {
		u.poqIn(c.stdin, c.args...).fails(c.code, c.words...)
	}
	if after := u.poq("ledger", "accounts", "--json").ok().stdout; after != before {
		t.Errorf("bad input changed the ledger:\n%s\n%s", before, after)
	}
}

func TestJudgeScoresAndIsMeasured(t *testing.T) {
	u := newUser(t)
	score := func(answer string) ledger.Score {
		return decode[struct {
			Score     ledger.Score
			Judge     string
			ElapsedMS int64 `json:"elapsed_ms"`
		}](u.poq("judge", "score", "--json", "--prompt", "What is the capital of France?", "--answer", answer)).Score
	}
	good, bad := score("The capital of France is Paris."), score("I like turtles.")
	if good <= bad || score("") != 0 {
		t.Errorf("right answer %d, nonsense %d, nothing %d", good, bad, score(""))
	}
	file := filepath.Join(t.TempDir(), "labelled.jsonl")
	if err := os.WriteFile(file, []byte(`{"prompt": "What is the capital of France?", "answers": [{"text": "Paris.", "quality": 0.9, "kind": "good"}, {"text": "I like turtles.", "quality": 0, "kind": "off"}]}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := u.poq("judge", "eval", file).ok().stdout; !strings.Contains(out, "off") || !strings.Contains(out, "1.00") {
		t.Errorf("eval says\n%s", out)
	}
	if err := os.WriteFile(file, []byte("{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.poq("judge", "eval", file).fails(1, "line 1")
}

func TestHelpBeginsWithTheTwoCommandsThatMostPeopleNeed(t *testing.T) {
	u := newUser(t)
	out := u.poq("--help").ok().stdout
	if a, b := strings.Index(out, "poq devnet"), strings.Index(out, "poq ask"); a < 0 || b < a || b > 900 {
		t.Errorf("help:\n%s", out)
	}
	u.poq("version").ok()
	u.poq("bench", "settle", "--tasks", "5").ok()
}
