package gateway

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/poqmesh/poq/llm"
)

func TestConversationIsRenderedByOneRule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ messages, want string }{
		{`[{"role":"user","content":" Who?\n"}]`, " Who?\n"},
		{`[{"role":"user","content":[{"type":"text","text":"Who?"},{"type":"text","text":"A passage."}]}]`, "Who?\n\nA passage."},
		{`[{"role":"system","content":"Be brief."},{"role":"user","content":"Who?"}]`, "Be brief.\n\nWho?"},
		{`[{"role":"user","content":"Hi"},{"role":"developer","content":"Be brief."},{"role":"assistant","content":"Hello."},{"role":"user","content":"Who?"}]`,
			"Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Who?"},
	} {
		q, err := parse([]byte(`{"model":"poq-best","messages":` + c.messages + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := chatPrompt(q); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.messages, got, err, c.want)
		}
	}
}

func TestWishesAreReadUnderTheNamesThatClientsUse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body string
		want llm.Options
	}{
		{``, llm.Options{}},
		{`,"temperature":null,"top_p":null,"seed":null,"max_tokens":null,"max_completion_tokens":null,"stop":null`, llm.Options{}},
		{`,"temperature":0,"top_p":1,"seed":-3,"max_tokens":8,"stop":"x"`, llm.Options{Temperature: new(0.0), TopP: new(1.0), Seed: new(int64(-3)), MaxTokens: 8, Stop: []string{"x"}}},
		{`,"max_tokens":8,"max_completion_tokens":9,"stop":["a","b"]`, llm.Options{MaxTokens: 9, Stop: []string{"a", "b"}}},
	} {
		q, err := parse([]byte(`{"model":"poq-best"` + c.body + `}`))
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if got := q.options().Options; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.body, got, c.want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"model":"poq-best","messages":[{"role":"user","content":"Who?"}],"n":2,"stop":["a"],"stream":true,"poq":{"fee":1}}`,
		`{"model":"poq-best","prompt":"Who?","stop":"x","tools":null}`, `{"model":"poq-best","messages":[{"content":[{"type":"image_url"}]}]}`, `[]`, `{"n":1e9}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parse(body)
		for _, prompt := range []func(*request) (string, error){chatPrompt, textPrompt} {
			if err != nil {
				break
			}
			var text string
			if text, err = prompt(q); err == nil && (strings.TrimSpace(text) == "" || !utf8.ValidString(text)) {
				t.Errorf("prompt %q", text)
			}
			var bad *apiError
			if err != nil && !errors.As(err, &bad) {
				t.Errorf("%v is no error for clients", err)
			}
			err = nil
		}
		var bad *apiError
		if err != nil && (!errors.As(err, &bad) || bad.status < 400 || bad.status > 499) {
			t.Errorf("%v is no error of the request", err)
		}
	})
}

func FuzzPieces(f *testing.F) {
	f.Add(strings.Repeat("é", 300))
	f.Add(strings.Repeat("\xff", 300))
	f.Fuzz(func(t *testing.T, text string) {
		valid := utf8.ValidString(text)
		for len(text) > 0 {
			n := pieceEnd(text)
			if n <= 0 || n > pieceBytes || valid && !utf8.ValidString(text[:n]) {
				t.Fatalf("a piece of %d bytes of %q", n, text)
			}
			text = text[n:]
		}
	})
}
