package scale

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain is also the process of a peer.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "peer" {
		if err := ServePeer(context.Background(), Stack(os.Args[2]), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPeersMayBeProcesses(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := Config{Peers: 8, Validators: 4, Answers: 3, Tasks: 2, Command: []string{os.Args[0], "peer"}}
	f, err := c.Measure(ctx, Poq)
	if err != nil {
		t.Fatal(err)
	}
	// All are connected with all: each message goes to 7 others at least, and comes to each.
	if f.Connections != 7 || f.Sent < 21*7/8 || f.Duplicates < 1 || f.CPU <= 0 || f.Memory < 1<<20 || f.P50 <= 0 || f.P50 > f.P99 || f.P99 > f.Max {
		t.Errorf("odd figures: %+v", f)
	}
	if f.Lost > 0 {
		t.Errorf("%d messages were lost", f.Lost)
	}
}

func TestPeerThatCanNotStartIsReported(t *testing.T) {
	for what, argv := range map[string][]string{"no program": {"/does/not/exist"}, "one that says nothing": {os.Args[0], "-test.run=^$"}} {
		c := Config{Peers: 3, Validators: 1, Answers: 1, Tasks: 1, Command: argv}
		if _, err := c.Measure(t.Context(), Poq); err == nil || !strings.Contains(err.Error(), "host 0") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPeerEndsWithItsInputAndRefusesWhatItDoesNotUnderstand(t *testing.T) {
	var out bytes.Buffer
	in := `{"id":1,"topic":"order","size":3}
{"id":2,"topic":"weather","size":100}
{"id":3,"dial":["nonsense"]}
{"id":4}
`
	if err := ServePeer(t.Context(), Poq, strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	said := out.String()
	for _, want := range []string{`"addrs":["/ip4/127.0.0.1/tcp/`, `"id":1,"error":"can't publish 3 bytes`, `"id":2,"error":"can't publish 100 bytes`, `"id":3,"error":"`, `"id":4,"usage":{`} {
		if !strings.Contains(said, want) {
			t.Errorf("it said\n%s\nwithout %s", said, want)
		}
	}
	if err := ServePeer(t.Context(), Poq, strings.NewReader("no request"), &out); err == nil {
		t.Error("nonsense was taken for a request")
	}
}

func TestConfigThatMakesNoSenseIsRefused(t *testing.T) {
	good := Config{Peers: 8, Validators: 4, Answers: 3, Tasks: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Config){
		"too few peers": func(c *Config) { c.Peers = 7 },
		"no validator":  func(c *Config) { c.Validators = 0 },
		"no answer":     func(c *Config) { c.Answers = 0 },
		"no task":       func(c *Config) { c.Tasks = 0 },
		"degree":        func(c *Config) { c.Degree = 8 },
	} {
		c := good
		if change(&c); c.Validate() == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
