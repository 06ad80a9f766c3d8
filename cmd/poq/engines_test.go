package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/poqmesh/poq/llm/engines"
)

func TestDetectPrintsTheEngineThatUsesTheServer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/models" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, `{"object":"list","data":[{"id":"tiny","owned_by":"llamacpp"}]}`)
	}))
	defer s.Close()
	run := func(arguments ...string) (string, error) {
		c := newRoot()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(io.Discard)
		c.SetArgs(append([]string{"engines", "detect"}, arguments...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	host := strings.TrimPrefix(s.URL, "http://")
	spec := "openai=" + s.URL + "/v1,model=tiny"
	if out, err := run("--at", host); err != nil || !strings.Contains(out, "llama.cpp  "+s.URL+"/v1  tiny\n") || !strings.Contains(out, "\npoq up --roles worker --engine "+spec+"\n") {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err := run("--at", s.URL+"/v1", "--json")
	var list []detected
	if e := json.Unmarshal([]byte(out), &list); err != nil || e != nil || len(list) != 1 || list[0].Engine != spec || list[0].Kind != "llama.cpp" {
		t.Errorf("%v, %v: %s", err, e, out)
	}
	if _, err := engines.New(spec); err != nil {
		t.Errorf("the engine printed is none: %v", err)
	}
	s.Close()
	if out, err := run("--at", host, "--json"); out != "[]\n" || err == nil || errors.As(err, new(usageError)) || !strings.Contains(err.Error(), s.URL) {
		t.Errorf("nobody there: %q, %v", out, err)
	}
	if _, err := run("--at", "a/b"); !errors.As(err, new(usageError)) {
		t.Errorf("wrong address: %v", err)
	}
}

func TestWorkersOfADevnetHaveTheEnginesOfTheirNumber(t *testing.T) {
	for _, c := range []struct {
		all, each []string
		want      string
	}{
		{nil, nil, "smol|smol|extract"},
		{[]string{"extract"}, nil, "extract|extract|extract"},
		{[]string{"smol", "extract"}, []string{"2=extract"}, "smol+extract|extract|smol+extract"},
		{nil, []string{"3=smol,alias=a", "1=extract", "3=extract,alias=b"}, "extract|smol|smol+extract"},
	} {
		specs, list, err := workerEngines(3, c.all, c.each)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i, e := range list {
			names = append(names, e.Name())
			if same, err := engines.New(specs[i]...); err != nil || !slices.Equal(same.Models(), e.Models()) {
				t.Errorf("%q makes another engine (%v)", specs[i], err)
			}
		}
		if got := strings.Join(names, "|"); got != c.want {
			t.Errorf("%q, %q: got %s, want %s", c.all, c.each, got, c.want)
		}
	}
	for _, e := range []string{"0=smol", "4=smol", "smol", "1=", "x=smol"} {
		if _, _, err := workerEngines(3, nil, []string{e}); !errors.As(err, new(usageError)) {
			t.Errorf("%s: %v", e, err)
		}
	}
}
