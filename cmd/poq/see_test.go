package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/poqmesh/poq/ledger"
	"github.com/poqmesh/poq/node"
	"github.com/poqmesh/poq/node/control"
	"github.com/poqmesh/poq/p2p"
)

func TestFiguresForPeopleAreShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 KB", 1234: "1.2 KB", 9949: "9.9 KB", 9960: "10 KB", 999_400: "999 KB", 999_600: "1.0 MB", 34_000_000: "34 MB", 1<<64 - 1: "18 EB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0 ms", -time.Hour: "0 ms", 999 * time.Millisecond: "999 ms", 61 * time.Second: "1 m 1 s", 90 * time.Minute: "1 h 30 m", 49 * time.Hour: "2 d 1 h"} {
		if got := formatSpan(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	for us, want := range map[int64]string{0: "-", 5: "0.01 ms", 1234: "1.23 ms", 45_678: "45 ms"} {
		if got := formatLatency(us); got != want {
			t.Errorf("%d µs: %q, want %q", us, got, want)
		}
	}
}

func TestAnotherVersionIsSaidOnce(t *testing.T) {
	if n := versionNote("v2", "v1"); !strings.Contains(n, "v1") || !strings.Contains(n, "v2") || strings.Contains(n, "\n") {
		t.Errorf("%q", n)
	}
	if n := versionNote("v2", "v2"); n != "" {
		t.Errorf("%q", n)
	}
}

func TestPingStatisticsAreThoseOfAllAnswers(t *testing.T) {
	var p pings
	for _, us := range []int64{400, 100, 400, 100} {
		p.add(us)
	}
	if p.Answered != 4 || p.LeastUS != 100 || p.MostUS != 400 || p.MeanUS != 250 || p.SpreadUS != 150 {
		t.Errorf("%+v", p)
	}
}

func TestStatusNamesWhatIsWrong(t *testing.T) {
	now := time.Now()
	s := control.NodeState{Name: "validator-1", Role: "validator", State: node.State{
		Started: now.Add(-time.Hour), Problems: []node.Problem{{What: "it rains", Mend: "go in"}}, Ledger: node.LedgerState{Tasks: 10},
		Validator: &node.ValidatorState{Refusal: "restored"},
		Peers:     []node.PeerState{{PeerInfo: p2p.PeerInfo{Connected: true}}, {PeerInfo: p2p.PeerInfo{Connected: true, Gone: true}}},
		Committee: []node.Member{{Self: true}, {Name: "validator-2", Link: true}, {Name: "validator-3", Gone: true, Heard: now.Add(-70 * time.Second)}, {Name: "validator-4", Gone: true}},
		Compared:  []node.Comparison{{Equal: true, Tasks: 10}, {Tasks: 12}, {Tasks: 9}, {Tasks: 10}, {Error: "no answer in time"}},
		Worker:    &node.WorkerState{Engine: "smol", Answered: 3, AnswerMS: 2500, Declined: 2, Failed: 1, Busy: 4},
	}, Recent: []control.Task{{Outcome: ledger.Paid}}}
	var out bytes.Buffer
	printStatus(&out, s, now)
	for _, want := range []string{
		"NOT READY", "up 1 h 0 m", "SIGNS NOTHING", "! it rains\n  -> go in\n", "1 peer connected, 1 silent for more than 15 s",
		"2 of 4, links to 1 of 3 (validator-3 was last heard 1 m 10 s ago, validator-4 was not met)",
		"equal to those of 1 of 5 peers, behind 1 by up to 2 tasks, ahead of 1, differs from 1 with as many tasks, no answer from 1",
		"smol: 3 answered in 2.5 s (mean), 2 declined, 1 failed, 4 in work",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestTopFitsEveryScreen(t *testing.T) {
	now := time.Now()
	at := func(tasks int, cpu float64, in uint64) []view {
		busy := view{name: "worker-1", NodeState: control.NodeState{Name: "worker-1", Process: control.Process{PID: 7, CPUSeconds: cpu, Memory: 5e6}, State: node.State{
			Started: now.Add(-time.Hour), Ready: true, Ledger: node.LedgerState{Tasks: tasks, Open: 2}, Bandwidth: p2p.Bandwidth{In: in, Out: 2 * in}, Worker: &node.WorkerState{Answered: 4, Busy: 1},
		}, Recent: []control.Task{{Outcome: ledger.Paid}}}}
		idle := view{name: "payer", NodeState: control.NodeState{Name: "payer", Process: busy.Process, State: node.State{Started: now, Problems: []node.Problem{{What: "it rains ☂ and rains"}}}}}
		return []view{busy, idle, {name: "gone", err: errShown}}
	}
	var top top
	top.sample(at(10, 1, 1000), now)
	top.sample(at(16, 2, 7000), now.Add(2*time.Second))
	var all strings.Builder
	lines := top.lines(control.Status{Network: "hamlet"}, now.Add(2*time.Second))
	for _, l := range lines {
		all.WriteString(l.text + "\n")
	}
	for _, want := range []string{"network hamlet", "up 1 h 0 m", "16 settled, 2 open, 3.0/s", "50% CPU, 5.0 MB", "3.0 KB  6.0 KB  4 answered, 1 in work", "gone      down", "! payer: it rains", "PAID"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is not in\n%s", want, all.String())
		}
	}
	for _, size := range [][2]int{{0, 0}, {1, 1}, {20, 5}, {80, 24}, {300, 100}} {
		var out bytes.Buffer
		draw(&out, lines, size[0], size[1], false)
		text := strings.NewReplacer(topLeft, "", restOfLine, "", restOfAll, "").Replace(out.String())
		rows := strings.Split(text, "\r\n")
		if len(rows) > max(1, size[1]) {
			t.Errorf("%d rows on a screen of %d", len(rows), size[1])
		}
		for _, r := range rows {
			if n := len([]rune(r)); n > size[0] {
				t.Errorf("%d characters on a screen of %d: %q", n, size[0], r)
			}
		}
	}
	var plainText, coloured bytes.Buffer
	draw(&plainText, lines, 80, 24, false)
	draw(&coloured, lines, 80, 24, true)
	if strings.Contains(plainText.String(), red) || !strings.Contains(coloured.String(), red+"gone") {
		t.Errorf("colours: %q", coloured.String())
	}
	if c := curve([]float64{0, 1, 2}); c != "▁▄█" || curve([]float64{0, 0}) != "▁▁" || curve(nil) != "" {
		t.Errorf("curve: %q", c)
	}
}

func TestPasswordsInAddressesAreLeftOut(t *testing.T) {
	text := `at http://ann:sesame@host:1/v1 and "https://sesame@x" but http://host/a@b and mail a@b`
	want := `at http://***@host:1/v1 and "https://***@x" but http://host/a@b and mail a@b`
	if got := string(redact([]byte(text))); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
