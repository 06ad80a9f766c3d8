package engines_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/poqmesh/poq/llm/engines"
)

func TestSpecMakesTheEngineItNames(t *testing.T) {
	t.Setenv("POQ_TEST_KEY", "k")
	for _, c := range []struct{ spec, name, models string }{
		{"smol", "smol", "SmolLM2-135M-Instruct-Q4_1 smol"},
		{"smol,temperature=0.9,seed=7,max-tokens=64,top-p=0.95,threads=1", "smol", "SmolLM2-135M-Instruct-Q4_1 smol"},
		{" smol , temperature=0 ", "smol", "SmolLM2-135M-Instruct-Q4_1 smol"},
		{"extract", "extract", "extract-1 extract"},
		{"extract,concurrency=4,queue=9", "extract", "extract-1 extract"},
		{"openai=http://127.0.0.1:11434/v1,model=qwen2.5:0.5b", "openai", "qwen2.5:0.5b"},
		{"openai=https://api.example.com/v1,model=m,key-env=POQ_TEST_KEY,max-tokens=9,timeout=30s,concurrency=2", "openai", "m"},
		{"openai=http://127.0.0.1:11434/v1,alias=small,model=m,alias=code:7b,alias=small", "openai", "m small code:7b"},
		{"smol,alias=small", "smol", "SmolLM2-135M-Instruct-Q4_1 smol small"},
	} {
		e, err := engines.New(c.spec)
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		if e.Name() != c.name || strings.Join(e.Models(), " ") != c.models {
			t.Errorf("%s: got %s with %v", c.spec, e.Name(), e.Models())
		}
	}
}

func TestWrongSpecSaysWhatCouldStandThere(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"", "no such engine, have extract, openai, smol"},
		{"smoll", `did you mean "smol"? (have extract, openai, smol)`},
		{"gpt", "no such engine, have extract, openai, smol"},
		{"smol=7", "smol takes no value; options follow after a comma"},
		{"smol,temprature=1", `no such option "temprature", did you mean "temperature"? (have alias, concurrency, max-tokens, queue, seed, temperature, threads, top-p)`},
		{"smol,temperature=hot", "temperature=hot: want a number"},
		{"smol,temperature=3", "temperature is 3, want 0 to 2"},
		{"smol,temperature=NaN", "temperature is NaN, want 0 to 2"},
		{"smol,top-p=0", "top-p=0: want a number above 0"},
		{"smol,top-p=1.5", "top-p is 1.5"},
		{"smol,seed=-1", "seed=-1: want a whole number, 1 or more"},
		{"smol,max-tokens=9999", "max-tokens is 9999, want 1 to 1024"},
		{"smol,max-tokens=0", "max-tokens=0: want a whole number, 1 or more"},
		{"smol,seed", "option seed needs a value, seed=VALUE"},
		{"smol,seed=1,seed=2", "option seed stands twice"},
		{"smol,", `no such option ""`},
		{"extract,seed=1", `no such option "seed", have alias, concurrency, queue`},
		{"extract,concurrency=0", "concurrency=0: want a whole number from 1 to 256"},
		{"extract,queue=1000000", "queue=1000000: want a whole number from 1 to 4096"},
		{"extract,alias=", "option alias needs a value, alias=VALUE"},
		{"extract,alias=two words", "alias=two words: want up to 128 letters, digits and marks of ASCII"},
		{"extract,alias=klein\u00fc", "want up to 128 letters"},
		{"extract,alias=" + strings.Repeat("x", 129), "want up to 128 letters"},
		{"extract,alias=a,alias=b,alias=c,alias=d,alias=e,alias=f,alias=g,alias=h,alias=i,alias=j,alias=k,alias=l,alias=m,alias=n,alias=o,alias=p", "alias=p: more than 16 names"},
		{"openai=http://host/v1,timeout=30", "timeout=30: want a time like 30s"},
		{"openai=http://host/v1,timeout=-1s", "timeout=-1s: want a time like 30s"},
		{"openai", "openai needs a value: openai=http://127.0.0.1:11434/v1"},
		{"openai=127.0.0.1:11434", "is no URL like http://127.0.0.1:11434/v1"},
		{"openai=ftp://host/v1", "is no URL like"},
		{"openai=http://user:secret@host/v1", "has a password in it"},
		{"openai=http://host/v1,key-env=POQ_TEST_NO_SUCH_KEY", "environment variable POQ_TEST_NO_SUCH_KEY holds no key"},
	} {
		e, err := engines.New(c.spec)
		var typed *engines.SpecError
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), c.want) || e != nil {
			t.Errorf("%s:\n got %v\nwant %s", c.spec, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error shows the password: %v", c.spec, err)
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add("smol,temperature=0.9,seed=7,max-tokens=64,top-p=0.95")
	f.Add("openai=http://127.0.0.1:11434/v1,model=a,key-env=PATH")
	f.Add("smol,alias=small,alias=s")
	f.Add("extract,,=")
	f.Fuzz(func(t *testing.T, spec string) {
		if e, err := engines.New(spec); (e == nil) == (err == nil) {
			t.Errorf("got %v and %v", e, err)
		}
	})
}
