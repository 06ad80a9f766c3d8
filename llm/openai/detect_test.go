package openai

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode"
)

func TestServersAreTheKindTheySay(t *testing.T) {
	models := func(owner string, ids ...string) string {
		var list []string
		for _, id := range ids {
			list = append(list, `{"id":"`+id+`","object":"model","owned_by":"`+owner+`"}`)
		}
		return `{"object":"list","data":[` + strings.Join(list, ",") + `]}`
	}
	for _, c := range []struct {
		name   string
		status int // of /v1/models
		header string
		paths  map[string]string
		want   *Server // URL left out; nil: no model server
		model  string  // of the spec; "-" if it names none, "" if there is no spec
	}{
		{"Ollama", 200, "", map[string]string{"/v1/models": models("library", "nomic-embed-text", "llama3.2:latest"), "/api/version": `{"version":"0.5.7"}`}, &Server{Kind: "Ollama", Models: []string{"nomic-embed-text", "llama3.2:latest"}}, "llama3.2:latest"},
		{"Ollama without a model", 200, "", map[string]string{"/v1/models": `{"object":"list","data":null}`, "/api/version": `{"version":"0.5.7"}`}, &Server{Kind: "Ollama", Models: []string{}, Problem: "it has no model yet"}, ""},
		{"llama.cpp", 200, "llama.cpp", map[string]string{"/v1/models": models("llamacpp", "smollm2.gguf")}, &Server{Kind: "llama.cpp", Models: []string{"smollm2.gguf"}}, "smollm2.gguf"},
		{"vLLM", 200, "uvicorn", map[string]string{"/v1/models": models("vllm", "Qwen/Qwen2.5-0.5B-Instruct")}, &Server{Kind: "vLLM", Models: []string{"Qwen/Qwen2.5-0.5B-Instruct"}}, "Qwen/Qwen2.5-0.5B-Instruct"},
		{"vLLM with a key", 401, "uvicorn", map[string]string{"/v1/models": `{"error":"Unauthorized"}`}, &Server{Kind: "other", Models: []string{}, Problem: "it wants a key; name the variable that holds it with key-env=NAME"}, ""},
		{"LM Studio", 200, "", map[string]string{"/v1/models": models("organization_owner", "qwen2.5-7b"), "/api/v0/models": models("", "qwen2.5-7b")}, &Server{Kind: "LM Studio", Models: []string{"qwen2.5-7b"}}, "qwen2.5-7b"},
		{"another", 200, "", map[string]string{"/v1/models": models("me", "a,b", "c")}, &Server{Kind: "other", Models: []string{"a,b", "c"}}, "c"},
		{"names that would write on the terminal", 200, "", map[string]string{"/v1/models": models("me", `\u001b[2Jx`, "fine")}, &Server{Kind: "other", Models: []string{"fine"}}, "fine"},
		{"a name that a shell would run", 200, "", map[string]string{"/v1/models": models("me", "$(reboot)", "a;reboot", "-rf", "b")}, &Server{Kind: "other", Models: []string{"$(reboot)", "a;reboot", "-rf", "b"}}, "b"},
		{"only model with an odd name", 200, "", map[string]string{"/v1/models": models("llamacpp", "C:/My Models/x.gguf")}, &Server{Kind: "llama.cpp", Models: []string{"C:/My Models/x.gguf"}}, "-"},
		{"a web page", 200, "nginx", map[string]string{"/v1/models": "<html>hello</html>"}, nil, ""},
		{"other JSON", 200, "", map[string]string{"/v1/models": `{"models":[]}`}, nil, ""},
		{"a page behind a password", 401, "nginx", map[string]string{"/v1/models": "<html>401</html>"}, nil, ""},
		{"nothing there", 404, "", map[string]string{"/v1/models": `{"error":"no"}`}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, ok := c.paths[r.URL.Path]
				w.Header().Set("Server", c.header)
				switch {
				case !ok:
					http.NotFound(w, r)
				case r.URL.Path == "/v1/models":
					w.WriteHeader(c.status)
					fallthrough
				default:
					io.WriteString(w, body)
				}
			}))
			defer s.Close()
			host := strings.TrimPrefix(s.URL, "http://")
			urls, err := DetectURLs(host)
			if err != nil || !slices.Equal(urls, []string{s.URL + "/v1"}) {
				t.Fatalf("addresses %v, %v", urls, err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			nobody := "http://" + l.Addr().String() + "/v1"
			l.Close()
			got := Detect(t.Context(), append([]string{nobody}, urls...))
			if c.want == nil {
				if len(got) != 0 {
					t.Errorf("found %+v", got)
				}
				return
			}
			c.want.URL = s.URL + "/v1"
			if len(got) != 1 || got[0].Kind != c.want.Kind || got[0].URL != c.want.URL || got[0].Problem != c.want.Problem || !slices.Equal(got[0].Models, c.want.Models) {
				t.Fatalf("found %+v, want %+v", got, *c.want)
			}
			spec := ""
			switch c.model {
			case "":
			case "-":
				spec = "openai=" + s.URL + "/v1"
			default:
				spec = "openai=" + s.URL + "/v1,model=" + c.model
			}
			if got[0].Spec() != spec {
				t.Errorf("spec %q, want %q", got[0].Spec(), spec)
			}
		})
	}
}

func TestAddressToDetectAtIsHostPortOrURL(t *testing.T) {
	usual := func(host string) (list []string) {
		for _, p := range []string{"11434", "8080", "8000", "1234"} {
			list = append(list, "http://"+host+":"+p+"/v1")
		}
		return list
	}
	for at, want := range map[string][]string{
		"127.0.0.1":                  usual("127.0.0.1"),
		"::1":                        usual("[::1]"),
		"[::1]":                      usual("[::1]"),
		"gpu.example":                usual("gpu.example"),
		"gpu.example:9000":           {"http://gpu.example:9000/v1"},
		"[::1]:9000":                 {"http://[::1]:9000/v1"},
		"https://api.example.com/v1": {"https://api.example.com/v1"},
		"http://gpu.example/x/v1/":   {"http://gpu.example/x/v1"},
		"":                           nil,
		":80":                        nil,
		"a/b":                        nil,
		"user@host":                  nil,
		"ftp://host":                 nil,
		"http://u:secret@host/v1":    nil,
		"host:port":                  nil,
	} {
		got, err := DetectURLs(at)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v; want %v", at, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error shows the password: %v", at, err)
		}
	}
}

// roundTrip is a transport made of a function.
type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

func FuzzDetect(f *testing.F) {
	f.Add(200, "llama.cpp", `{"object":"list","data":[{"id":"a","owned_by":"vllm"},{"id":"b, c"}]}`)
	f.Add(200, "", `{"object":"list","data":null,"version":"1"}`)
	f.Add(401, "", `{"error":{"message":"no key"}}`)
	f.Add(200, "", `{"data":[{"id":"\u001b[2J"},{"id":7}]}`)
	f.Add(200, "", `{"data":[{"id":"\u009b2J"},{"id":"\u202eevil"}]}`)
	f.Fuzz(func(t *testing.T, status int, header, body string) {
		e, err := New(Options{BaseURL: "http://host/v1"})
		if err != nil {
			t.Fatal(err)
		}
		e.http = &http.Client{Transport: roundTrip(func(r *http.Request) *http.Response {
			return &http.Response{StatusCode: status, Header: http.Header{"Server": {header}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}
		}), CheckRedirect: e.http.CheckRedirect}
		s := e.detect(t.Context())
		if s == nil {
			return
		}
		if s.Kind == "" || (len(s.Models) == 0) != (s.Problem != "") {
			t.Errorf("found %+v", s)
		}
		for _, m := range append(s.Models, s.Problem) {
			if strings.ContainsFunc(m, func(r rune) bool { return !unicode.IsPrint(r) }) || len(m) > 4*maxModelName+100 {
				t.Errorf("unfit for a table: %q", m)
			}
		}
		if strings.ContainsAny(s.Spec(), " ;&|<>()$`\\\"'*?[]#~!{}\n") {
			t.Errorf("unfit to be pasted: %q", s.Spec())
		}
	})
}
