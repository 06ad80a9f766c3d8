package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// modelServer is a llama.cpp server that serves the model of llm/smol.
type modelServer struct {
	url  string
	stop func() // at once, in the middle of what it does
}

// newModelServer skips the test where the machine has no llama.cpp.
func newModelServer(t *testing.T) modelServer {
	t.Helper()
	python := os.Getenv("POQ_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.CommandContext(t.Context(), python, "-c", "import xllamacpp").Run(); err != nil {
		t.Skipf("no llama.cpp server: pip install xllamacpp, and name the python that has it with POQ_PYTHON (%s: %v)", python, err)
	}
	model, err := filepath.Abs("../llm/smol/model/SmolLM2-135M-Instruct.Q4_1.gguf")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), python, "testdata/llama_server.py", model)
	log := newRecord()
	c.Stderr = log
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = c.Process.Kill()
			_ = in.Close()
			_ = c.Wait()
		}
	}
	t.Cleanup(stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the model server does not start: %v\n%s", err, log)
	}
	return modelServer{strings.TrimSpace(line) + "/v1", stop}
}

func TestWorkerAnswersThroughARealModelServerAndWithoutIt(t *testing.T) {
	server := newModelServer(t)
	m := newMachines(t, 1)
	host := strings.TrimSuffix(strings.TrimPrefix(server.url, "http://"), "/v1")
	found := decode[[]struct {
		Kind, URL, Engine string
		Models            []string
	}](m.user.poq("engines", "detect", "--at", host, "--json"))
	if len(found) != 1 || found[0].Kind != "llama.cpp" || found[0].URL != server.url || len(found[0].Models) != 1 || !strings.HasPrefix(found[0].Engine, "openai="+server.url+",model=") {
		t.Fatalf("found %+v", found)
	}
	validator := m.up("validator-1", "--roles", "validator")
	token := validator.token()
	worker := m.up("worker", "--roles", "worker", "--engine", found[0].Engine+",concurrency=2,max-tokens=24", "--engine", "extract", "--join", token)
	if e := worker.card.Peers[0].Engine; e != "openai+extract" {
		t.Errorf("the worker's engine is %s", e)
	}
	payer := m.up("payer", "--join", token)
	s := payer.ask("What is the capital of France?", "--max-answers", "1", "--answer-timeout", "55s") // extract declines what has no passage
	payer.checkSettlement(s)
	if len(s.Answers) != 1 || s.Answers[0].Text == "" {
		t.Fatalf("the answers are %+v", s.Answers)
	}
	t.Logf("llama.cpp answers %q", s.Answers[0].Text)

	server.stop()
	s = payer.ask("When was the lighthouse built?\n\n"+passage, "--max-answers", "1")
	if len(s.Answers) != 1 || !strings.Contains(s.Answers[0].Text, "1871") {
		t.Errorf("without the server the answers are %+v", s.Answers)
	}
	worker.stderr.await(t, "engine failed, another answered", "cannot reach "+server.url)
	s = payer.ask("What is the capital of Spain?", "--answer-timeout", "2s")
	if len(s.Declined) != 1 || !slices.ContainsFunc([]string{"openai is down, tried again in ", "the engine failed"}, func(reason string) bool {
		return strings.Contains(s.Declined[0].Reason, reason) // the latter if the machine took 5 s to come here
	}) {
		t.Errorf("without the server it declines with %+v", s.Declined)
	}
	m.user.poq("engines", "detect", "--at", host).fails(1, "no model server at "+server.url)
}
