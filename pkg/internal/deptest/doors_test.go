package deptest

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestOneDoorOut(t *testing.T) {
	enforce(t, rule{
		reason: "what is dialled anywhere but in pkg/upstream has passed no decision, no time limit and no check of a certificate",
		remedy: "take a connection from pkg/upstream; in a protocol, from Session.Dial; give an http.Client a Transport with its DialContext",
		check:  checkOneDoor,
	})
}

// dialling lists what opens connections, by package. net/http is among them
// because its default client dials by itself.
var dialling = map[string]func(name string) bool{
	"net":                   func(n string) bool { return strings.HasPrefix(n, "Dial") },
	"crypto/tls":            func(n string) bool { return strings.HasPrefix(n, "Dial") },
	"net/http":              oneOf("Get", "Head", "Post", "PostForm", "DefaultClient", "DefaultTransport"),
	"syscall":               oneOf("Connect"),
	"golang.org/x/sys/unix": oneOf("Connect"),
}

func oneOf(names ...string) func(string) bool {
	return func(n string) bool { return slices.Contains(names, n) }
}

func checkOneDoor(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if f.test || within(f.dir, "pkg/upstream") {
			continue
		}
		for importPath, wanted := range dialling {
			found = append(found, t.uses(f, importPath, wanted)...)
		}
		found = append(found, t.bareClients(f)...)
	}
	slices.Sort(found)
	return found
}

// bareClients finds literals of HTTP clients that dial by themselves.
func (t *tree) bareClients(f *file) []string {
	local := f.localName("net/http")
	required := map[string][]string{"Client": {"Transport"}, "Transport": {"DialContext", "Dial", "DialTLSContext"}}
	var found []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		literal, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		selector, ok := literal.Type.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := selector.X.(*ast.Ident)
		fields := required[selector.Sel.Name]
		if ok && local != "" && x.Name == local && fields != nil && !hasField(literal, fields) {
			found = append(found, fmt.Sprintf("%s: http.%s without %s", t.at(n), selector.Sel.Name, fields[0]))
		}
		return true
	})
	return found
}

func hasField(literal *ast.CompositeLit, names []string) bool {
	return slices.ContainsFunc(literal.Elts, func(e ast.Expr) bool {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return false
		}
		key, ok := pair.Key.(*ast.Ident)
		return ok && slices.Contains(names, key.Name)
	})
}

func TestProtocolNameHasOneHome(t *testing.T) {
	enforce(t, rule{
		reason: "a protocol's name in another folder is a switch over protocols in the making: adding the next protocol would need a change there",
		remedy: "put the difference behind a method of protocol.Protocol, or pass the name through as a value",
		check:  checkProtocolNames,
	})
}

// checkProtocolNames looks for names as whole string literals. It leaves out
// names of up to three characters: "tcp" is an argument of net.Listen and "tls"
// a key of the configuration, and neither means the protocol there.
func checkProtocolNames(t *tree) []string {
	const longest = 3
	names := protocolNames(t)
	var found []string
	for _, f := range t.files {
		if f.test || f.dir == "pkg/protocol/all" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			// The parser has checked the literal.
			value, _ := strconv.Unquote(literal.Value)
			if len(value) > longest && slices.Contains(names, value) && !within(f.dir, "pkg/protocol/"+value) {
				found = append(found, fmt.Sprintf("%s: %q", t.at(n), value))
			}
			return true
		})
	}
	return found
}

// protocolNames returns the names of the protocols' folders.
func protocolNames(t *tree) []string {
	var names []string
	for _, f := range t.files {
		rest, ok := strings.CutPrefix(f.dir, "pkg/protocol/")
		name, _, _ := strings.Cut(rest, "/")
		if ok && name != "all" && name != "protocoltest" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestOnlyMainExits(t *testing.T) {
	enforce(t, rule{
		reason: "a library that ends the process skips every deferred close, and nobody can test what comes after",
		remedy: "return an error; main turns it into a status",
		check:  checkExits,
	})
}

func checkExits(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if isMain(f) || strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		found = append(found, t.uses(f, "os", oneOf("Exit"))...)
		found = append(found, t.uses(f, "log", oneOf("Fatal", "Fatalf", "Fatalln"))...)
	}
	return found
}

// isMain reports whether f is main.go of a command, or of the one that measures.
func isMain(f *file) bool {
	return f.path == "pkg/internal/bench/headgate-bench/main.go" || strings.Count(f.path, "/") == 2 && strings.HasPrefix(f.path, "cmd/") && strings.HasSuffix(f.path, "/main.go")
}

func TestTopLevelIsTheLayout(t *testing.T) {
	enforce(t, rule{
		reason: "who opens the repository finds everything where every headgate release has had it",
		remedy: "put it into one of the folders that are there",
		check:  checkLayout,
	})
}

var (
	layout = []string{"bpf", "cmd", "pkg", "policies", "scripts", "testdata", "go.mod", "go.sum", "Makefile", "Dockerfile", "README.md"}
	// usual is what every project has, and what working on it leaves behind.
	usual = []string{
		"LICENSE", "docs", "SECURITY.md", "CONTRIBUTING.md", ".golangci.yml", ".ci", ".git", ".gitignore", ".gitattributes", ".dockerignore",
		"bin", "dist", ".cache",
	}
)

func checkLayout(t *tree) []string {
	entries, err := fs.ReadDir(t.root, ".")
	if err != nil {
		return []string{err.Error()}
	}
	var found, there []string
	for _, e := range entries {
		there = append(there, e.Name())
		if !slices.Contains(layout, e.Name()) && !slices.Contains(usual, e.Name()) {
			found = append(found, e.Name()+": it is not in the layout")
		}
	}
	for _, want := range layout {
		if !slices.Contains(there, want) {
			found = append(found, want+": it is missing")
		}
	}
	return found
}
