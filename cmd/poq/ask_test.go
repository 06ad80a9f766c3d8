package main

import (
	"strings"
	"testing"

	"github.com/poqmesh/poq/node"
)

func TestAskWarnsOnlyBelowAQuorum(t *testing.T) {
	here, away := node.Member{Connected: true}, node.Member{}
	for _, c := range []struct {
		committee []node.Member
		want      string
	}{
		{[]node.Member{{Self: true}}, ""},
		{[]node.Member{here, here, away, here}, ""},
		{[]node.Member{here, {Self: true}, away, away}, "connected to 2 of 4 validators; it takes 3"},
		{[]node.Member{away}, "connected to 0 of 1 validators; it takes 1"},
	} {
		if got := quorumNote(c.committee); got == "" != (c.want == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %q, want %q", c.committee, got, c.want)
		}
	}
}
