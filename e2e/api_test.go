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
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the listed API anew")

// embedded are the packages that programs of others import.
var embedded = []string{"node", "node/nodetest", "node/gateway", "llm", "quality"}

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
	var list []string
	set, files := parsed(t, dir)
	for _, file := range files {
		for _, d := range declarations(file) {
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

// parsed is the package in a directory without its tests and without what is not exported.
func parsed(t *testing.T, dir string) (*token.FileSet, []*ast.File) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.FileExports(file)
		files = append(files, file)
	}
	return set, files
}

// declarations are those of a file that others can use, without bodies of functions.
func declarations(file *ast.File) (list []ast.Decl) {
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
		list = append(list, d)
	}
	return list
}

// TestAPIHasAReasonForEachName compares the names with those of the tables in docs/api.md.
func TestAPIHasAReasonForEachName(t *testing.T) {
	tables := tabled(t, filepath.Join("..", "docs", "api.md"))
	foreign := map[string]bool{}
	for _, pkg := range embedded {
		own := map[string]bool{}
		_, files := parsed(t, filepath.Join("..", filepath.FromSlash(pkg)))
		for _, file := range files {
			for _, d := range declarations(file) {
				for _, name := range declared(d) {
					own[name] = true
				}
				for _, name := range borrowed(t, file, d) {
					foreign[name] = true
				}
			}
		}
		compare(t, "Package "+pkg, own, tables["Package "+pkg])
	}
	const others = "Types of other packages"
	compare(t, others, foreign, tables[others])
	if len(tables) != len(embedded)+1 {
		t.Errorf("docs/api.md has %d tables, want one for each of %v and one for types of other packages", len(tables), embedded)
	}
}

func compare(t *testing.T, table string, got, want map[string]bool) {
	t.Helper()
	for name := range got {
		if !want[name] {
			t.Errorf("docs/api.md, %s: no reason is given for %s", table, name)
		}
	}
	for name := range want {
		if !got[name] {
			t.Errorf("docs/api.md, %s: %s is not there any more", table, name)
		}
	}
}

// tabled are the names in the first columns of a page's tables, by the heading above. Names stand between backquotes.
func tabled(t *testing.T, page string) map[string]map[string]bool {
	t.Helper()
	text, err := os.ReadFile(page) //nolint:gosec // a page of this repository
	if err != nil {
		t.Fatal(err)
	}
	tables, heading := map[string]map[string]bool{}, ""
	for line := range strings.Lines(string(text)) {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(h)
		}
		cells := strings.Split(line, "|")
		if len(cells) < 3 || !strings.Contains(cells[1], "`") {
			continue
		}
		if tables[heading] == nil {
			tables[heading] = map[string]bool{}
		}
		for i, name := range strings.Split(cells[1], "`") {
			if i%2 == 0 {
				continue
			}
			if tables[heading][name] {
				t.Errorf("%s has %s twice", page, name)
			}
			tables[heading][name] = true
		}
	}
	return tables
}

// declared are the names that a declaration makes: of a method with its type's. Methods that the interfaces of errors
// and printing want need no reason of their own.
func declared(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		switch d.Name.Name {
		case "Error", "Unwrap", "String", "MarshalText", "MarshalJSON", "UnmarshalText", "UnmarshalJSON":
			return nil
		}
		return []string{receiver(d) + "." + d.Name.Name}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
			case *ast.ValueSpec:
				for _, n := range s.Names {
					names = append(names, n.Name)
				}
			}
		}
	}
	return names
}

// borrowed are the names of packages that a declaration uses, neither of the standard library nor of those that have a table.
func borrowed(t *testing.T, file *ast.File, d ast.Decl) (names []string) {
	imported := map[string]bool{}
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path[strings.LastIndex(path, "/")+1:], "go-")
		if i.Name != nil {
			name = i.Name.Name
		}
		own, _ := strings.CutPrefix(path, "github.com/poqmesh/poq/")
		imported[name] = strings.Contains(strings.Split(path, "/")[0], ".") && !slices.Contains(embedded, own)
	}
	ast.Inspect(d, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && imported[x.Name] {
				names = append(names, x.Name+"."+sel.Sel.Name)
			}
		}
		return true
	})
	return names
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
