package deptest

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

const (
	maxFunction   = 80  // lines
	maxFile       = 500 // lines
	maxParameters = 5   // a context included
)

func TestEveryPackageHasOneComment(t *testing.T) {
	enforce(t, rule{
		reason: "the package comment is the first thing that a reader sees, and two of them contradict each other sooner or later",
		remedy: "write it in doc.go or in the main file, not in both; it begins with \"Package\" and the name, or with \"Command\"",
		check:  checkPackageComments,
	})
}

func checkPackageComments(t *tree) []string {
	comments := map[string][]string{}
	var found []string
	for _, f := range t.files {
		if strings.HasSuffix(f.path, "_test.go") || f.generated {
			continue
		}
		comments[f.dir] = append(comments[f.dir], "")
		if f.ast.Doc == nil {
			continue
		}
		comments[f.dir][len(comments[f.dir])-1] = f.path
		begin := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			begin = ""
		}
		if !strings.HasPrefix(f.ast.Doc.Text(), begin) {
			found = append(found, fmt.Sprintf("%s: the comment does not begin with %q", f.path, begin))
		}
	}
	for dir, paths := range comments {
		paths = slices.DeleteFunc(paths, func(p string) bool { return p == "" })
		if len(paths) != 1 {
			found = append(found, fmt.Sprintf("%s: has %d package comments %v", dir, len(paths), paths))
		}
	}
	slices.Sort(found)
	return found
}

func TestExportedNamesAreDocumented(t *testing.T) {
	enforce(t, rule{
		reason: "an exported name is a promise, and the comment is where it is written down",
		remedy: "say what it means, who owns what it takes and returns, and when it fails; or don't export it",
		check:  checkDocumented,
	})
}

func checkDocumented(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if strings.HasSuffix(f.path, "_test.go") || f.generated {
			continue
		}
		for _, decl := range f.ast.Decls {
			for _, name := range undocumented(decl) {
				found = append(found, fmt.Sprintf("%s: %s", t.at(name), name.Name))
			}
		}
	}
	return found
}

// undocumented returns the exported names of a declaration without a comment.
// The comment of a group counts for all of it.
func undocumented(decl ast.Decl) []*ast.Ident {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
			return []*ast.Ident{d.Name}
		}
	case *ast.GenDecl:
		if d.Doc != nil {
			return nil
		}
		var names []*ast.Ident
		for _, spec := range d.Specs {
			names = append(names, undocumentedSpec(spec)...)
		}
		return slices.DeleteFunc(names, func(n *ast.Ident) bool { return !n.IsExported() })
	}
	return nil
}

func undocumentedSpec(spec ast.Spec) []*ast.Ident {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if s.Doc == nil && s.Comment == nil {
			return []*ast.Ident{s.Name}
		}
	case *ast.ValueSpec:
		if s.Doc == nil && s.Comment == nil {
			return s.Names
		}
	}
	return nil
}

// exportedReceiver reports whether a function's receiver, if it has one, is of
// an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return false
		}
	}
}

func TestFunctionsAndFilesStayShort(t *testing.T) {
	enforce(t, rule{
		reason: "what doesn't fit on two screens is read by nobody, least of all by a reviewer",
		remedy: "give a part of it a name; give a type or a stage a file of its own",
		check:  checkLengths,
	})
}

func checkLengths(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if strings.HasSuffix(f.path, "_test.go") || f.generated {
			continue
		}
		if f.lines > maxFile {
			found = append(found, fmt.Sprintf("%s: it has %d lines, at most %d", f.path, f.lines, maxFile))
		}
		for d := range functions(f) {
			lines := t.fset.Position(d.End()).Line - t.fset.Position(d.Pos()).Line + 1
			if lines > maxFunction {
				found = append(found, fmt.Sprintf("%s: %s has %d lines, at most %d", t.at(d), d.Name.Name, lines, maxFunction))
			}
		}
	}
	return found
}

func TestFunctionsTakeFewParameters(t *testing.T) {
	enforce(t, rule{
		reason: "nobody remembers the order of six arguments, and two of the same type get swapped",
		remedy: "make a struct whose fields have names",
		check:  checkParameters,
	})
}

func checkParameters(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.generated {
			continue
		}
		for d := range functions(f) {
			if n := d.Type.Params.NumFields(); n > maxParameters {
				found = append(found, fmt.Sprintf("%s: %s has %d parameters, at most %d", t.at(d), d.Name.Name, n, maxParameters))
			}
		}
	}
	return found
}

func TestNothingHappensAtInit(t *testing.T) {
	enforce(t, rule{
		reason: "what init does happens in every test and in every command, in an order that nobody wrote down",
		remedy: "write a constructor and call it from main",
		check:  checkInit,
	})
}

func checkInit(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.generated {
			continue
		}
		for d := range functions(f) {
			if d.Recv == nil && d.Name.Name == "init" {
				found = append(found, t.at(d))
			}
		}
	}
	return found
}

func TestTestsDoNotSleep(t *testing.T) {
	enforce(t, rule{
		reason: "a sleep is too short on a busy machine and too long on every other",
		remedy: "wait for the event itself, with a deadline; or use testing/synctest, where time is simulated",
		check:  checkSleep,
	})
}

func checkSleep(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.test || withinAny(f.dir, support) {
			found = append(found, t.uses(f, "time", oneOf("Sleep"))...)
		}
	}
	return found
}

// functions yields the functions and methods that f declares.
func functions(f *file) func(yield func(*ast.FuncDecl) bool) {
	return func(yield func(*ast.FuncDecl) bool) {
		for _, decl := range f.ast.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && !yield(d) {
				return
			}
		}
	}
}

// A folder whose package has another name
// would make every rule about folders a rule about something else.
func TestPackagesAreNamedAfterTheirFolders(t *testing.T) {
	enforce(t, rule{
		reason: "the rules here, and readers, take the folder for the package",
		remedy: "rename one of them",
		check:  checkFolders,
	})
}

func checkFolders(t *tree) []string {
	var found []string
	for _, f := range t.files {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		if name != "main" && name != path.Base(f.dir) {
			found = append(found, fmt.Sprintf("%s: package %s", f.path, name))
		}
	}
	return found
}

func TestProtocolGoroutinesAreGuarded(t *testing.T) {
	enforce(t, rule{
		reason: "a panic in a goroutine that nobody recovers ends the daemon and every session in it",
		remedy: "run its body in protocol.Guard",
		check:  checkGuarded,
	})
}

// checkGuarded looks at the wire languages: what they run decodes hostile bytes.
func checkGuarded(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if strings.HasSuffix(f.path, "_test.go") || path.Dir(f.dir) != "pkg/protocol" || f.dir == "pkg/protocol/protocoltest" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok && !mentions(g, "Guard") {
				found = append(found, fmt.Sprintf("%s: a goroutine without protocol.Guard", t.at(g)))
			}
			return true
		})
	}
	return found
}

// mentions reports whether a selector of that name occurs below a node.
func mentions(n ast.Node, name string) bool {
	seen := false
	ast.Inspect(n, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == name {
			seen = true
		}
		return !seen
	})
	return seen
}
