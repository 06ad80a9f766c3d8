package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Server is a model server that [Detect] found.
type Server struct {
	// Kind is "Ollama", "llama.cpp", "vLLM" or "LM Studio", and "other" for one that only speaks the same protocol.
	Kind string `json:"kind"`
	// URL is the base address, as [Options.BaseURL] wants it.
	URL string `json:"url"`
	// Models are what it lists; none if Problem says why not.
	Models []string `json:"models"`
	// Problem says in one line why the server can't be used as it stands: it wants a key, or has no model yet.
	Problem string `json:"problem,omitempty"`
}

// usualPorts are where servers listen unless told otherwise.
var usualPorts = []string{"11434", "8080", "8000", "1234"} // Ollama, llama.cpp, vLLM, LM Studio

const (
	detectTimeout = 3 * time.Second // for one address; a list of models takes milliseconds
	maxModelName  = 200             // bytes; a longer one is no name
)

// DetectURLs returns the base addresses that stand for at: a host, which is asked on the usual ports of Ollama, llama.cpp, vLLM and
// LM Studio; a host and port; or a base address, which stands for itself.
func DetectURLs(at string) ([]string, error) {
	if strings.Contains(at, "://") {
		if _, err := New(Options{BaseURL: at}); err != nil {
			return nil, err
		}
		return []string{strings.TrimRight(at, "/")}, nil
	}
	hosts, ports := strings.Trim(at, "[]"), usualPorts
	if host, port, err := net.SplitHostPort(at); err == nil {
		hosts, ports = host, []string{port}
	}
	var list []string
	for _, port := range ports {
		u := url.URL{Scheme: "http", Host: net.JoinHostPort(hosts, port), Path: "/v1"}
		if _, err := New(Options{BaseURL: u.String()}); err != nil || hosts == "" || strings.ContainsAny(hosts, "/?#@ ") {
			return nil, fmt.Errorf("%q is no HOST, HOST:PORT or URL like http://127.0.0.1:11434/v1", at)
		}
		list = append(list, u.String())
	}
	return list, nil
}

// Detect asks each base address for its models, all at once, and returns the servers that speak the protocol, in the order of the
// addresses. It takes 3 seconds at most, sends no prompt and no key, and skips addresses where nobody listens or something
// else does.
func Detect(ctx context.Context, urls []string) []Server {
	found := make([]*Server, len(urls))
	var wg sync.WaitGroup
	for i, u := range urls {
		e, err := New(Options{BaseURL: u})
		if err != nil {
			continue
		}
		wg.Go(func() { found[i] = e.detect(ctx) })
	}
	wg.Wait()
	var servers []Server
	for _, s := range found {
		if s != nil {
			servers = append(servers, *s)
		}
	}
	return servers
}

// detect returns nil if no server that speaks the protocol is at the address.
func (e *Engine) detect(ctx context.Context) *Server {
	ctx, cancel := context.WithTimeout(ctx, detectTimeout)
	defer cancel()
	s := &Server{URL: e.base, Models: []string{}}
	list, header, err := e.list(ctx)
	var status *StatusError
	switch {
	case errors.As(err, &status) && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden) && status.shaped:
		s.Problem = status.Message
	case err != nil || list.Data == nil && list.Object != "list": // Ollama without a model sends null
		return nil
	}
	s.Kind = e.kind(ctx, list, header)
	for _, m := range list.Data {
		if m.ID != "" && len(m.ID) <= maxModelName && e.words(m.ID) == m.ID {
			s.Models = append(s.Models, m.ID)
		}
	}
	if len(s.Models) == 0 && s.Problem == "" {
		s.Problem = "it has no model yet"
	}
	return s
}

// kind tells servers apart by what they say of themselves: a header or the owner of the models, and else a path that only they have.
func (e *Engine) kind(ctx context.Context, list modelList, header http.Header) string {
	owner := ""
	if len(list.Data) > 0 {
		owner = list.Data[0].Owner
	}
	switch {
	case strings.HasPrefix(header.Get("Server"), "llama.cpp") || owner == "llamacpp":
		return "llama.cpp"
	case owner == "vllm":
		return "vLLM"
	}
	own := &Engine{base: strings.TrimSuffix(e.base, "/v1"), http: e.http}
	for _, k := range []struct{ path, field, name string }{{"/api/version", "version", "Ollama"}, {"/api/v0/models", "data", "LM Studio"}} {
		resp, err := own.do(ctx, http.MethodGet, k.path, nil)
		if err != nil {
			continue
		}
		var doc map[string]json.RawMessage
		err = decodeBounded(resp, &doc)
		if err == nil && resp.StatusCode == http.StatusOK && doc[k.field] != nil {
			return k.name
		}
	}
	return "other"
}

// plain are names that mean nothing else to a shell or to package engines: the line is there to be pasted.
var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$|^/[A-Za-z0-9._:/@+-]+$`)

// embeds are words in the names of models that make no text.
var embeds = regexp.MustCompile(`(?i)embed|rerank`)

// Spec returns the text from which package engines makes an engine for the server: for its first model that is not named as one
// for embeddings or ranking. It names no model if the server has one only, with a name that a shell would take apart. It is empty
// if there is none.
func (s Server) Spec() string {
	for _, m := range s.Models {
		switch {
		case embeds.MatchString(m):
		case plain.MatchString(m):
			return "openai=" + s.URL + ",model=" + m
		case len(s.Models) == 1:
			return "openai=" + s.URL
		}
	}
	return ""
}
