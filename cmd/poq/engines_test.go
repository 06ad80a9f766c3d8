package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
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
