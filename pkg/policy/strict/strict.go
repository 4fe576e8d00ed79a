// Package strict decodes YAML that people write by hand and that must not be
// misread: policies and the configuration.
//
// It understands one document of plain mappings, sequences and scalars.
// Anchors, aliases, tags, merge keys, directives, unknown or duplicate keys,
// null or empty values and values of another type are errors, all of them
// reported, each with its file, line and column. Input is bounded before it is
// parsed: [MaxSize] bytes, [maxDepth] levels.
//
// The package is pure: it takes bytes and returns values.
package strict

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the size, in bytes, of the largest document that is read.
const MaxSize = 1 << 20

// maxDepth bounds flow collections, and maxEntryColumn the compact nesting of
// block ones ("- - - a"). The parser recurses; its stack must not be the
// author's to choose.
const (
	maxDepth       = 32
	maxEntryColumn = 200
	// maxKeys bounds one mapping: the parser's time grows with its square.
	maxKeys = 1000
)

// Decode reads the document data into the value that into points to, and
// notes in at where each value stood. The name is the file's, for errors.
//
// A struct takes the keys that its fields name in a `yaml:"key"` tag. Values
// that the document does not mention keep what they hold, lists that it does
// mention are replaced, and so are the entries of maps. A string field takes a
// string; with the option `yaml:"key,text"` it also takes a number, as written.
// A struct of which a field has the option `yaml:"key,short"` may be written as
// that field's string alone.
// An [encoding.TextUnmarshaler] takes any string or number, as written.
//
// The result is nil or lists every finding in the order of the document; what
// into holds is then undefined.
func Decode(name string, data []byte, into any, at Positions) Errors {
	d := &decoder{name: name, at: at}
	body, err := parse(data)
	if err != nil {
		d.errs = append(d.errs, &Error{
			Position: Position{File: name, Line: err.line, Column: err.column}, Message: err.message,
		})
		return d.errs
	}
	d.decode("", body, reflect.ValueOf(into).Elem())
	d.errs.Sort()
	return d.errs
}

// fault is an error of the text itself, at a place.
type fault struct {
	line, column int
	message      string
}

func faultAt(tk *token.Token, message string) *fault {
	if tk == nil || tk.Position == nil {
		return &fault{line: 1, column: 1, message: message}
	}
	return &fault{line: tk.Position.Line, column: tk.Position.Column, message: message}
}

// parse returns the one document in data. A panic of the parser is an error:
// the text comes from outside, and the daemon must outlive it.
func parse(data []byte) (body ast.Node, err *fault) {
	defer func() {
		if r := recover(); r != nil {
			body, err = nil, faultAt(nil, "not understood as YAML")
		}
	}()
	if err := screenText(data); err != nil {
		return nil, err
	}
	tokens := lexer.Tokenize(string(data))
	if err := screenTokens(tokens); err != nil {
		return nil, err
	}
	// Duplicate keys are found while decoding, so that all of them are reported.
	file, perr := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if perr != nil {
		return nil, syntaxFault(perr)
	}
	return oneDocument(file)
}

func oneDocument(file *ast.File) (ast.Node, *fault) {
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			return nil, faultAt(keyToken(doc.Body), "a second document: one file holds one")
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return nil, faultAt(nil, "the file is empty")
	}
	return body, nil
}

func syntaxFault(err error) *fault {
	var y yaml.Error
	if !errors.As(err, &y) {
		return faultAt(nil, "not understood as YAML")
	}
	message, _, _ := strings.Cut(y.GetMessage(), "\n")
	return faultAt(y.GetToken(), message)
}

// screenText refuses bytes that no editor shows.
func screenText(data []byte) *fault {
	if len(data) > MaxSize {
		return faultAt(nil, fmt.Sprintf("larger than %d bytes", MaxSize))
	}
	line, column := 1, 1
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n <= 1 {
			return &fault{line: line, column: column, message: "not UTF-8"}
		}
		if hidden(r) {
			return &fault{line: line, column: column, message: fmt.Sprintf("control character %U", r)}
		}
		i += n
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
	}
	return nil
}

// hidden reports whether a character may make a text mean something else than
// what a reader sees: controls, and marks that reverse or hide text.
func hidden(r rune) bool {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return false
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return true
	case r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2060 && r <= 0x2069, r == 0xfeff:
		return true
	}
	return false
}

// screenTokens refuses what plain files do not need, before the parser, which
// recurses, sees it.
func screenTokens(tokens token.Tokens) *fault {
	depth := 0
	keys := keyCounter{}
	for i, tk := range tokens {
		if what := notPlain(tk.Type); what != "" {
			return faultAt(tk, what+" are not understood")
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		}
		if depth > maxDepth || tk.Type == token.SequenceEntryType && tk.Position.Column > maxEntryColumn {
			return faultAt(tk, "nested too deeply")
		}
		if !keys.add(tokens, i, depth) {
			return faultAt(tk, fmt.Sprintf("more than %d keys in one mapping", maxKeys))
		}
	}
	return nil
}

func notPlain(t token.Type) string {
	switch t {
	case token.AnchorType, token.AliasType:
		return "anchors and aliases"
	case token.TagType:
		return "tags"
	case token.MergeKeyType:
		return "merge keys"
	case token.DirectiveType:
		return "directives"
	case token.MappingKeyType:
		return "complex keys"
	}
	return ""
}

// keyCounter counts the keys of the mappings that are open: of block mappings
// by the column of their keys, of flow mappings, at negative keys, by depth.
type keyCounter map[int]int

// add looks at the i-th token and reports whether no mapping is too large.
func (k keyCounter) add(tokens token.Tokens, i, depth int) bool {
	tk := tokens[i]
	switch {
	case tk.Type == token.MappingStartType:
		k[-depth] = 0
	case tk.Type == token.SequenceEntryType && depth == 0:
		k.close(tk.Position.Column)
	case tk.Type == token.MappingValueType && depth > 0:
		k[-depth]++
		return k[-depth] <= maxKeys
	case tk.Type == token.MappingValueType && i > 0:
		column := tokens[i-1].Position.Column
		k.close(column)
		k[column]++
		return k[column] <= maxKeys
	}
	return true
}

// close forgets the mappings that stood further to the right than a column.
func (k keyCounter) close(column int) {
	for c := range k {
		if c > column {
			delete(k, c)
		}
	}
}
