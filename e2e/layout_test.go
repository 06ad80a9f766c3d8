package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/poqmesh/poq/"

// mayImport says which of the module's packages each top-level package may import, tests included.
var mayImport = map[string][]string{
	"crypto":   {},
	"ledger":   {"crypto"},
	"quality":  {"crypto"},
	"llm":      {"crypto"},
	"p2p":      {},
	"node":     {"crypto", "ledger", "quality", "llm", "p2p"},
	"cmd":      {"crypto", "ledger", "quality", "llm", "p2p", "node"},
	"e2e":      {"crypto", "ledger", "quality", "llm", "p2p", "node"},
	"examples": {"crypto", "ledger", "quality", "llm", "p2p", "node"},
}

// impure are packages that the settlement core must not know.
var impure = []string{"net", "os", "time/tzdata", "math/rand", "math/rand/v2", "crypto/rand", "sync", "sync/atomic", "context", "io/fs", "log", "log/slog"}

type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) (list []goPackage) {
	c := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	c.Dir = ".."
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func top(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, module), "/")
	return name
}

func TestImportsGoOneWay(t *testing.T) {
	list := packages(t)
	if len(list) < 10 {
		t.Fatalf("only %d packages found", len(list))
	}
	for _, p := range list {
		allowed, known := mayImport[top(p.ImportPath)]
		if !known {
			t.Errorf("%s is in no known top-level package", p.ImportPath)
		}
		for _, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, i := range imports {
				if !strings.HasPrefix(i, module) || top(i) == top(p.ImportPath) {
					continue
				}
				if !slices.Contains(allowed, top(i)) {
					t.Errorf("%s must not import %s", p.ImportPath, i)
				}
			}
		}
	}
}

func TestSettlementCoreIsPure(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != module+"ledger" {
			continue
		}
		for _, i := range p.Imports {
			if slices.Contains(impure, i) || strings.Contains(i, "libp2p") || strings.Contains(i, "badger") {
				t.Errorf("the settlement core imports %s", i)
			}
		}
		return
	}
	t.Error("package ledger not found")
}

// The standard library's ed25519 verifies by another rule than our batches: see crypto/verify.go.
func TestOnlyCryptoKnowsTheStandardEd25519(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range append(p.Imports, append(p.TestImports, p.XTestImports...)...) {
			if i == "crypto/ed25519" && p.ImportPath != module+"crypto" {
				t.Errorf("%s imports crypto/ed25519", p.ImportPath)
			}
		}
	}
}
