package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// simulate runs poq sim.
func simulate(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := newRoot()
	c.SetArgs(append([]string{"sim"}, args...))
	c.SetOut(&out)
	c.SetErr(&bytes.Buffer{})
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestSimSumsUpTheRunsThatItMade(t *testing.T) {
	out, err := simulate(t, "--runs", "20", "--from", "7", "-n", "4", "--faults", "crash,disk", "--adversary", "liar", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var total simTotal
	if err := json.Unmarshal([]byte(out), &total); err != nil {
		t.Fatal(err)
	}
	if total.Runs != 20 || total.Failed != 0 || total.ByValidators[4] != 20 || total.ByFault["crash"] != 20 || total.ByAdversary["liar"] != 20 || total.Settled == 0 {
		t.Errorf("%+v", total)
	}
}

func TestSimShowsTheRunOfASeedAlikeEachTime(t *testing.T) {
	first, err := simulate(t, "--seed", "3", "-v")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := simulate(t, "--seed", "3", "-v"); again != first {
		t.Error("the second trace differs")
	}
	if !strings.Contains(first, "settled T0") {
		t.Errorf("no task is settled in\n%s", first)
	}
}

func TestSimRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range [][]string{{"-n", "17"}, {"--faults", "rain"}, {"--adversary", "saint"}, {"--runs", "0"}, {"--workers", "0"}, {"here"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			if _, err := simulate(t, args...); !errors.As(err, new(usageError)) {
				t.Errorf("%v", err)
			}
		})
	}
}
