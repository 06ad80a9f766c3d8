package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestBindTakesWhatPeopleWrite(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.7":               "/ip4/10.0.0.7/udp/4777/quic-v1 /ip4/10.0.0.7/tcp/4777",
		"10.0.0.7:99":            "/ip4/10.0.0.7/udp/99/quic-v1 /ip4/10.0.0.7/tcp/99",
		"::1":                    "/ip6/::1/udp/4777/quic-v1 /ip6/::1/tcp/4777",
		"[::1]":                  "/ip6/::1/udp/4777/quic-v1 /ip6/::1/tcp/4777",
		"[::1]:99":               "/ip6/::1/udp/99/quic-v1 /ip6/::1/tcp/99",
		"::ffff:10.0.0.7":        "/ip4/10.0.0.7/udp/4777/quic-v1 /ip4/10.0.0.7/tcp/4777",
		"localhost:99":           "/ip4/127.0.0.1/udp/99/quic-v1 /ip4/127.0.0.1/tcp/99",
		"/ip4/10.0.0.7/tcp/1234": "/ip4/10.0.0.7/tcp/1234",
		"example.org":            "", "10.0.0.300": "", "10.0.0.7:x": "", "10.0.0.7:70000": "", "/ip4/x": "", "": "",
	} {
		addrs, err := bindAddrs(in, defaultPort)
		if got := strings.Trim(fmt.Sprint(addrs), "[]"); err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %s, %v, want %q", in, got, err, want)
		}
	}
}

func TestDistanceCountsChanges(t *testing.T) {
	for pair, want := range map[[2]string]int{
		{"port", "port"}: 0, {"prot", "port"}: 2, {"pot", "port"}: 1, {"ports", "port"}: 1, {"", "abc"}: 3, {"abc", ""}: 3, {"roles", "rolse"}: 2, {"bind", "kind"}: 1,
	} {
		if got := distance(pair[0], pair[1]); got != want {
			t.Errorf("%q and %q: %d, want %d", pair[0], pair[1], got, want)
		}
	}
}
