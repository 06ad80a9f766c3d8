package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
)

// write makes a file in a directory of the test's.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type verdict struct {
	Valid      bool
	Reason     string
	Bytes      int
	Signatures int
	Settlement *node.Settlement
}

func TestReceiptIsTakenAlongAndChecksWithoutTheNetwork(t *testing.T) {
	u := newUser(t)
	dir := filepath.Join(t.TempDir(), "net")
	n := u.devnet("--dir", dir, "--engine", "extract", "--workers", "2", "--seed", "3")
	question := "Who built the lighthouse?\n\n" + passage
	s := n.ask(question)
	file := u.poq("receipt", "get", s.Task.Short()).ok().stdout
	u.poq("receipt", "get", "00000000").fails(1, "not found")
	u.poq("receipt", "get", "xyz").fails(2, "hex")
	n.stop()
	if offline := u.poq("receipt", "get", s.Task.Short(), "--dir", dir).ok().stdout; offline != file {
		t.Errorf("the receipt from disk is another one:\n%s\n%s", offline, file)
	}
	u.poq("receipt", "get", "00000000", "--dir", dir).fails(1, "not found")
	u.poq("receipt", "get", "xyz", "--dir", dir).fails(2, "hex")

	// From here on there is no network and no ledger: a file and the genesis are all that is left.
	data, err := os.ReadFile(filepath.Join(dir, "genesis.json"))
	if err != nil {
		t.Fatal(err)
	}
	genesis, receipt := write(t, "g.json", string(data)), write(t, "r.json", file)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	text := u.poq("receipt", "verify", receipt, "--genesis", genesis).ok().stdout
	for _, want := range []string{"VALID", s.Task.String(), "PAID", "payer signed order 0", "locked", "validator-3", "lower median", "fast-commit", "fee 1.000000 = paid", "Not proven", "--prompt", "--answer"} {
		if !strings.Contains(text, want) {
			t.Errorf("verify does not say %q:\n%s", want, text)
		}
	}
	prompt, answer := write(t, "prompt", question), write(t, "answer", s.Answers[0].Text+"\n")
	v := decode[struct {
		verdict
		ElapsedUS          int64 `json:"elapsed_us"`
		Lock, Seal, Settle struct {
			Vote    string
			Round   uint32
			Signers []int
		}
		PromptHash string `json:"prompt_hash"`
	}](u.poqIn(file, "receipt", "verify", "-", "--genesis", genesis, "--json", "--prompt", prompt, "--answer", answer))
	if !v.Valid || v.Settlement.Task != s.Task || v.Settlement.Prompt != question || v.Settlement.Answers[0].Text != s.Answers[0].Text || len(v.Settle.Signers) < 3 || v.Signatures < 14 {
		t.Errorf("verify --json says %+v", v)
	}
	sum := ledger.Amount(0)
	for _, c := range v.Settlement.Credits {
		sum += c.Amount
	}
	if sum != s.Fee {
		t.Errorf("credits make %d of a fee of %d", sum, s.Fee)
	}

	var other ledger.Genesis
	if err := json.Unmarshal(data, &other); err != nil {
		t.Fatal(err)
	}
	other.Network += "x"
	stranger, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	// The fields of a file stand in the bytes too; those are in base64, whose last letters are a vote's.
	end := strings.LastIndex(file, `"`)
	for _, c := range []struct {
		file  string
		args  []string
		code  int
		words []string
	}{
		{file, []string{"--genesis", write(t, "other.json", string(stranger))}, 1, []string{"genesis of the receipt's network"}},
		{file, []string{"--genesis", write(t, "broken.json", "{}")}, 1, []string{"genesis", "network name"}},
		{file, []string{"--genesis", genesis + "-not"}, 1, []string{"no such file"}},
		{file, nil, 2, []string{"--genesis"}},
		{file, []string{"--genesis", genesis, "--prompt", answer}, 1, []string{"is no prompt of this task"}},
		{file, []string{"--genesis", genesis, "--answer", prompt}, 1, []string{"is no answer of this task"}},
		{strings.Replace(file, "poq-receipt/1", "poq-receipt/7", 1), []string{"--genesis", genesis}, 1, []string{"poq-receipt/7"}},
		{strings.Replace(file, s.Task.String(), strings.Repeat("0", 64), 1), []string{"--genesis", genesis}, 1, []string{"the file says task"}},
		{file[:end-8] + "AAAA" + file[end-4:], []string{"--genesis", genesis}, 1, []string{"not valid"}},
		{file[:len(file)/2], []string{"--genesis", genesis}, 1, []string{"not valid"}},
		{strings.Repeat(" ", ledger.MaxReceiptFile) + file, []string{"--genesis", genesis}, 1, []string{"at most"}},
		{"", []string{"--genesis", genesis}, 1, []string{"JSON object"}},
	} {
		u.poqIn(c.file, append([]string{"receipt", "verify", "-"}, c.args...)...).fails(c.code, c.words...)
	}
	r := u.poqIn(strings.Replace(file, s.Task.String(), strings.Repeat("0", 64), 1), "receipt", "verify", "-", "--genesis", genesis, "--json")
	var refused verdict
	if err := json.Unmarshal([]byte(r.stdout), &refused); err != nil || r.code != 1 || refused.Valid || !strings.Contains(refused.Reason, "the file says task") {
		t.Errorf("--json of a receipt that does not hold: exit code %d, %s %v", r.code, r.stdout, err)
	}
}

func TestReceiptsAreMeasured(t *testing.T) {
	b := decode[struct {
		Cores, Runs int
		Sizes       []struct {
			Validators, Answers, Signatures, Bytes int
			FileBytes                              int   `json:"file_bytes"`
			P50                                    int64 `json:"p50_us"`
			P99                                    int64 `json:"p99_us"`
		}
	}](newUser(t).poq("bench", "receipt", "--json"))
	if len(b.Sizes) != 3 || b.Sizes[2].Validators != 64 || b.Sizes[2].Bytes <= b.Sizes[0].Bytes {
		t.Errorf("%+v", b)
	}
}
