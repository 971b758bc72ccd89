package fastpath

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// TestBoundsChecks has the compiler report which bounds checks are left on the way of
// plain packets. A header's fields are read and written without: one check covers
// the frame. What is left per packet is named here, with what is at stake.
func TestBoundsChecks(t *testing.T) {
	left := map[string]int{
		"parse":   7, // the packet, its key, short or whole, its place; and the slices of each eight
		"plain":   3, // the frame; the interface's MAC and the port's role, as many as there are
		"whole":   1, // the frame
		"wayBack": 4, // a client's way, of as many as there are
		"express": 1, // the connection
	}
	out, err := exec.Command("go", "build", "-gcflags=-d=ssa/check_bce", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	found := map[string]int{}
	for _, file := range []string{"plain.go", "express.go"} {
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\S*\b`+regexp.QuoteMeta(file)+`:(\d+):\d+: Found Is`).FindAllSubmatch(out, -1) {
			line, _ := strconv.Atoi(string(m[1]))
			found[function(set, tree, line)]++
		}
	}
	if !maps.Equal(found, left) {
		t.Errorf("bounds checks by function: %v, want %v\n%s", found, left, out)
	}
}

// function is the name of the function of that line.
func function(set *token.FileSet, tree *ast.File, line int) string {
	for _, d := range tree.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && set.Position(f.Pos()).Line <= line && line <= set.Position(f.End()).Line {
			return f.Name.Name
		}
	}
	return "none"
}
