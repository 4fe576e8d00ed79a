package deptest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the path of the module, with a slash at its end.
const module = "github.com/headgate/headgate/"

// file is one parsed Go file.
type file struct {
	path  string // below the module's root, with slashes
	dir   string
	ast   *ast.File
	lines int
	// test says that only tests use it: test files, and test support.
	test      bool
	generated bool
}

// tree is the source of the module.
type tree struct {
	fset  *token.FileSet
	files []*file
	root  fs.FS
}

// load parses every Go file below root, except what Go itself ignores.
func load(root fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet(), root: root}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		return t.add(name)
	})
	if err != nil {
		return nil, fmt.Errorf("load source: %w", err)
	}
	return t, nil
}

func (t *tree) add(name string) error {
	source, err := fs.ReadFile(t.root, name)
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(t.fset, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := path.Dir(name)
	t.files = append(t.files, &file{
		path: name, dir: dir, ast: parsed,
		lines:     bytes.Count(source, []byte("\n")),
		test:      strings.HasSuffix(name, "_test.go") || within(dir, "pkg/internal"),
		generated: ast.IsGenerated(parsed),
	})
	return nil
}

// source loads the module once for all tests.
var source = sync.OnceValues(func() (*tree, error) { return load(os.DirFS("../../..")) })

// imports returns the paths that f imports, in their order.
func (f *file) imports() []string {
	var paths []string
	for _, spec := range f.ast.Imports {
		// The parser has checked the literal.
		p, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// localName returns the name under which f imports a package, or "".
func (f *file) localName(importPath string) string {
	for i, p := range f.imports() {
		if p != importPath {
			continue
		}
		if n := f.ast.Imports[i].Name; n != nil {
			return n.Name
		}
		return path.Base(p)
	}
	return ""
}

// uses returns the positions at which f selects one of the names of a package.
func (t *tree) uses(f *file, importPath string, wanted func(name string) bool) []string {
	local := f.localName(importPath)
	if local == "" {
		return nil
	}
	var found []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := selector.X.(*ast.Ident); ok && x.Name == local && wanted(selector.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: %s.%s", t.at(n), local, selector.Sel.Name))
		}
		return true
	})
	return found
}

// at returns a node's file and line.
func (t *tree) at(n ast.Node) string {
	p := t.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// within reports whether dir is home or below it.
func within(dir, home string) bool { return dir == home || strings.HasPrefix(dir, home+"/") }

func withinAny(dir string, homes []string) bool {
	return slices.ContainsFunc(homes, func(h string) bool { return within(dir, h) })
}

// rule is something that the source must not do.
type rule struct {
	reason string
	remedy string
	// check returns what goes against the rule, one line each.
	check func(*tree) []string
}

func enforce(t *testing.T, r rule) {
	t.Helper()
	tree, err := source()
	if err != nil {
		t.Fatal(err)
	}
	if found := r.check(tree); len(found) > 0 {
		t.Errorf("%s\n\nwhy:    %s\nremedy: %s", strings.Join(found, "\n"), r.reason, r.remedy)
	}
}
