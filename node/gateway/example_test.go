package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/poqmesh/poq/llm"
	"github.com/poqmesh/poq/node/devnet"
	"github.com/poqmesh/poq/node/gateway"
)

// The gateway in a program's own HTTP server, beside what else that serves. [gateway.Serve] has a server of its own.
func ExampleHandler() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "poq-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	network, err := devnet.Start(ctx, devnet.Config{
		Dir: dir, Validators: 1, Judge: lengthJudge{}, Engines: []llm.Engine{engine(func(context.Context, string) (string, error) { return "Jane Austen", nil })},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer network.Close()

	mux := http.NewServeMux()
	mux.Handle("/v1/", gateway.Handler(network.Payer().Node))
	server := httptest.NewServer(mux)
	defer server.Close()

	r, err := http.Post(server.URL+"/v1/chat/completions", "application/json", strings.NewReader(
		`{"model": "poq-best", "messages": [{"role": "user", "content": "Who wrote Emma?"}]}`))
	if err != nil {
		log.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		Choices []struct {
			Message struct{ Content string }
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Choices[0].Message.Content)
	// Output: Jane Austen
}
