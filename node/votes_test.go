package node

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/poqmesh/poq/ledger/votelog"
)

// heard closes a channel when a node logs a line that contains a text.
type heard struct {
	text string
	once sync.Once
	done chan struct{}
}

func (h *heard) Write(p []byte) (int, error) {
	if strings.Contains(string(p), h.text) {
		h.once.Do(func() { close(h.done) })
	}
	return len(p), nil
}

// listen has a member's next life close the channel when it logs a text.
func (m *member) listen(text string) <-chan struct{} {
	h := &heard{text: text, done: make(chan struct{})}
	m.opts = append(m.opts, WithLogger(slog.New(slog.NewTextHandler(h, nil))))
	return h.done
}

// forget puts a copy of a directory of the member back.
func (m *member) forget(t *testing.T, copied, name string) {
	t.Helper()
	dir := filepath.Join(m.dir, name)
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join(copied, name)))); err != nil {
		t.Fatal(err)
	}
}

func TestValidatorThatForgotVotesSignsNothingAndTheOthersGoOn(t *testing.T) {
	for _, name := range []string{"its peers have seen more", "its peers had seen more before they restarted", "its own ledger has seen more"} {
		all, lost := strings.Contains(name, "restarted"), strings.Contains(name, "ledger")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSwarm(t, 4, says("an answer"))
			forgetful := s.validators[0] // stands in every certificate that it voted for in time
			ask := func(prompt string, of ...*member) {
				t.Helper()
				s.await(s.ask(prompt, AskOptions{MaxAnswers: 1}).Task, of...)
			}
			ask("first", s.all()...)
			s.stop(forgetful)
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(forgetful.dir)); err != nil {
				t.Fatal(err)
			}
			s.launch(forgetful)
			for range 4 {
				ask("while it signs", s.all()...)
			}
			if err := forgetful.node.Refusal(); err != nil {
				t.Errorf("before: %v", err)
			}
			if lost {
				// What it stored must be enough: its peers will not be there.
				s.stop(s.all()...)
				forgetful.forget(t, copied, "votes")
				refused := forgetful.listen("signs nothing more in this epoch")
				s.launch(forgetful)
				await(t, refused)
				return
			}
			if all {
				s.stop(s.all()...)
			}
			s.stop(forgetful)
			forgetful.forget(t, copied, ".") // as a snapshot of its machine
			before := len(s.bundles(0))
			refused := forgetful.listen("signs nothing more in this epoch")
			if all {
				s.launch(s.all()...)
			} else {
				s.launch(forgetful)
			}
			await(t, refused)
			if err := forgetful.node.Refusal(); !errors.Is(err, votelog.ErrBehind) {
				t.Errorf("it refuses with %v", err)
			}
			ask("without it", s.all()...) // which follows
			s.check()
			s.stop(forgetful)
			// Peers that restarted know what stands in certificates: not all of them may know enough.
			if after := len(s.bundles(0)); after != before && !all {
				t.Errorf("it signed %d bundles", after-before)
			}
		})
	}
}

func await(t *testing.T, refused <-chan struct{}) {
	t.Helper()
	select {
	case <-refused:
	case <-soon(t).Done():
		t.Fatal("it does not refuse to sign")
	}
}

func TestValidatorOfTheFirstLayoutKeepsItsVotes(t *testing.T) {
	t.Parallel()
	s := newSwarm(t, 4, says("an answer"))
	beside := filepath.Join(s.validators[0].dir, "votes.log")
	if err := errors.Join(os.MkdirAll(s.validators[0].dir, 0o700), os.WriteFile(beside, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.start(s.all()...)
	if _, err := os.Stat(beside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old log was not taken over: %v", err)
	}
	s.await(s.ask("q", AskOptions{MaxAnswers: 1}).Task, s.all()...)
}
