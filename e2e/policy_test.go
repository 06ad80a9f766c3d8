package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poqmesh/poq/ledger"
)

func TestAskShowsWhyAWorkerDoesNotTakeATask(t *testing.T) {
	t.Parallel()
	m := newMachines(t, 1)
	validator := m.up("validator-1", "--roles", "validator")
	invitation := validator.token()
	payer := m.up("payer", "--join", invitation)
	stranger := strings.Repeat("00", 31) + "01"
	account := payer.card.Peers[0].Account.String()
	dear := []string{"--roles", "worker", "--engine", "extract", "--join", invitation}
	m.fails("choosy", 2, []string{"--payers bob", "poq keys show account"}, append(dear, "--payers", "bob")...)
	m.fails("choosy", 2, []string{"--min-fee", "six decimals"}, append(dear, "--min-fee", "0.1234567")...)

	// Both may stand in the file of settings.
	if err := os.MkdirAll(m.path("choosy"), 0o700); err != nil {
		t.Fatal(err)
	}
	settings := "min-fee = 1.5\npayers = [\"" + stranger + "\", \"" + account + "\"]\n"
	if err := os.WriteFile(filepath.Join(m.path("choosy"), "config.toml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	choosy := m.up("choosy", dear...)

	prompt := "When was the lighthouse built?\n\n" + passage
	why := "declined: fee too low: 1.000000, this worker takes 1.500000 or more"
	r := m.user.poq("ask", "--dir", payer.card.Dir, "--max-answers", "1", "--answer-timeout", "5s", prompt).ok()
	if !strings.Contains(r.stdout, why) || !strings.Contains(r.stderr, why) {
		t.Errorf("ask does not say why the worker declined:\n%s%s", r.stdout, r.stderr)
	}
	if s := payer.ask("--fee", "1.5", prompt); s.Outcome != ledger.Paid || len(s.Answers) != 1 {
		t.Errorf("a payer that is served: %+v", s)
	}
	// A flag stands above the file.
	choosy.stop()
	m.up("choosy", append(dear, "--payers", stranger)...)
	s := payer.ask("--fee", "1.5", "--max-answers", "1", "--answer-timeout", "5s", prompt)
	if s.Outcome != ledger.NoAnswers || len(s.Declined) != 1 || s.Declined[0].Reason != "payer not served" {
		t.Errorf("a payer that is not served: %+v", s)
	}
}
