package e2e

import (
	"bytes"
	"flag"
	"go/ast"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the listed API anew")

// embedded are the packages that programs of others import.
var embedded = []string{"node", "node/nodetest", "llm", "quality"}

// A change of what other programs build on is made on purpose: it shows in testdata/api, which
// go test ./e2e -run TestAPI -update writes.
func TestAPIForOtherProgramsIsTheListedOne(t *testing.T) {
	for _, pkg := range embedded {
		got := exported(t, filepath.Join("..", filepath.FromSlash(pkg)))
		golden := filepath.Join("testdata", "api", strings.ReplaceAll(pkg, "/", "_")+".txt")
		if *update {
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden) //nolint:gosec // a name from the list above
		if err != nil {
			t.Fatal(err)
		}
		gone, come := lines(want, got), lines(got, want)
		if len(gone)+len(come) > 0 {
			t.Errorf("the API of %s is not that of %s; if it is meant to change: go test ./e2e -run TestAPI -update\n- %s\n+ %s", pkg, golden, strings.Join(gone, "\n- "), strings.Join(come, "\n+ "))
		}
	}
}

func TestAPIListingLeavesOutWhatIsNotExported(t *testing.T) {
	dir := t.TempDir()
	const source = `package p

// T is documented.
type T struct {
	A int // shown
	b int
}

type hidden struct{ C int }

func (t *T) Do(x int) error { return nil }
func (t *T) do()            {}
func (hidden) Do()          {}
func F(opts ...func(T)) (n int, err error) { return 0, nil }

const (
	X = 1
	y = 2
)
`
	for name, content := range map[string]string{"p.go": source, "p_test.go": "package p\n\nfunc OnlyInTests() {}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const want = `const (
	X = 1
)

func (t *T) Do(x int) error

func F(opts ...func(T)) (n int, err error)

type T struct {
	A int
	// contains filtered or unexported fields
}
`
	if got := string(exported(t, dir)); got != want {
		t.Errorf("listed\n%s\nwant\n%s", got, want)
	}
}

// lines returns those lines of a that b lacks.
func lines(a, b []byte) (only []string) {
	have := map[string]int{}
	for l := range strings.Lines(string(b)) {
		have[l]++
	}
	for l := range strings.Lines(string(a)) {
		if have[l]--; have[l] < 0 {
			only = append(only, strings.TrimSuffix(l, "\n"))
		}
	}
	return only
}

// exported lists the exported declarations of the package in a directory, without comments and bodies, sorted. It does
// not look at build constraints: an API that depends on the system is to be seen.
func exported(t *testing.T, dir string) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(file)
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && !ast.IsExported(receiver(d)) {
					continue
				}
				d.Body = nil
			case *ast.GenDecl:
				if d.Tok == token.IMPORT {
					continue
				}
			}
			var text bytes.Buffer
			if err := printer.Fprint(&text, set, d); err != nil {
				t.Fatal(err)
			}
			// Where a comment stood, an empty line is left.
			packed := slices.DeleteFunc(strings.SplitAfter(text.String(), "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
			clean, err := format.Source([]byte(strings.Join(packed, "")))
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, string(clean))
		}
	}
	if len(list) == 0 {
		t.Fatalf("no declarations found in %s", dir)
	}
	slices.Sort(list)
	return []byte(strings.Join(list, "\n\n") + "\n")
}

// receiver is the name of the type that a method belongs to.
func receiver(d *ast.FuncDecl) string {
	for x := d.Recv.List[0].Type; ; {
		switch y := x.(type) {
		case *ast.StarExpr:
			x = y.X
		case *ast.IndexExpr: // a type parameter
			x = y.X
		case *ast.IndexListExpr:
			x = y.X
		case *ast.Ident:
			return y.Name
		default:
			return ""
		}
	}
}
