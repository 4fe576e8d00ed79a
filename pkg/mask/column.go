package mask

import (
	"errors"
	"fmt"
	"strings"
)

// ColumnPattern matches columns by schema, table and name. The zero pattern
// matches the column whose three names are empty.
type ColumnPattern struct{ schema, table, column glob }

// glob is one part of a pattern. Folded parts are kept in lower case.
type glob struct {
	text  string
	exact bool // quoted: case counts, and '*' is a character
}

// everything reports whether the part is nothing but wildcards.
func (g glob) everything() bool { return !g.exact && strings.Trim(g.text, "*") == "" }

const maxPattern = 512

// ParseColumn reads "schema.table.column". Each part is a name in which '*'
// stands for any characters, compared without regard to ASCII case; or a quoted
// name, "Like ""This""", compared exactly and without wildcards.
func ParseColumn(s string) (ColumnPattern, error) {
	if len(s) > maxPattern {
		return ColumnPattern{}, fmt.Errorf("parse column pattern: longer than %d bytes", maxPattern)
	}
	var parts [3]glob
	rest := s
	for i := range parts {
		var err error
		if parts[i], rest, err = parsePart(rest); err != nil {
			return ColumnPattern{}, fmt.Errorf("parse column pattern %q: %v", s, err)
		}
		if i == 2 {
			break
		}
		if !strings.HasPrefix(rest, ".") {
			return ColumnPattern{}, fmt.Errorf("parse column pattern %q: want schema.table.column", s)
		}
		rest = rest[1:]
	}
	if rest != "" {
		return ColumnPattern{}, fmt.Errorf("parse column pattern %q: want schema.table.column", s)
	}
	return ColumnPattern{parts[0], parts[1], parts[2]}, nil
}

func parsePart(s string) (glob, string, error) {
	if strings.HasPrefix(s, `"`) {
		return parseQuoted(s[1:])
	}
	end := strings.IndexByte(s, '.')
	if end < 0 {
		end = len(s)
	}
	name := s[:end]
	if name == "" {
		return glob{}, "", errors.New("empty part")
	}
	if strings.ContainsAny(name, "\" \t\r\n") {
		return glob{}, "", fmt.Errorf("part %q needs quotes", name)
	}
	return glob{text: lower(name)}, s[end:], nil
}

func parseQuoted(s string) (glob, string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		if b.Len() == 0 {
			return glob{}, "", errors.New("empty part")
		}
		return glob{text: b.String(), exact: true}, s[i+1:], nil
	}
	return glob{}, "", errors.New("quote is not closed")
}

// Match reports whether the pattern matches the column. Names are as the
// upstream reports them, without quotes.
func (p ColumnPattern) Match(schema, table, column string) bool {
	return p.column.match(column) && p.table.match(table) && p.schema.match(schema)
}

// match is the two-pointer wildcard match: on a mismatch, let the latest star
// take one byte more. Quadratic at worst, and patterns are the operator's.
func (g glob) match(name string) bool {
	if g.exact {
		return g.text == name
	}
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(g.text) && g.text[p] == '*':
			star, mark = p, n
			p++
		case p < len(g.text) && g.text[p] == lowerByte(name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(g.text[p:], "*") == ""
}

// lower folds ASCII only, as databases do for identifiers in most encodings.
func lower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = lowerByte(b[i])
	}
	return string(b)
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
