package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// maxInteger is how many digits are an integer whatever they are: more may be a
// number of another kind.
const maxInteger = 9

// The kinds of literals, as they stand at the end of a form's key.
const (
	literalInteger = 'i'
	literalString  = 's'
	// literalNegative is an integer behind a minus that can't be an operator
	// between two operands.
	literalNegative = 'n'
)

// form is a text with parameters in the place of its literals. Texts of the same
// key have the same tokens but for the values of those.
type form struct {
	text     []byte // valid SQL, if the text is
	kinds    []byte // of the literals, in order
	at       places // where they stand
	previous byte   // the last byte that was read, or a space
	solid    byte   // the last one that was no space
	literal  bool   // the last token was a string
}

// key is what forms are told apart by. It is valid until the next use of the form.
func (f *form) key() []byte { return append(append(f.text, 0), f.kinds...) }

// read makes f the form of text, and reports whether that could be done: it knows
// plain integers and strings of ASCII, names and the usual punctuation. What may
// be read in two ways is left alone: a backslash, a dollar sign, a comment, a
// string with a prefix, a number with a fraction. The text is one that is read
// with standard_conforming_strings on.
func (f *form) read(text string) bool {
	f.text, f.kinds, f.at, f.previous, f.solid, f.literal = f.text[:0], f.kinds[:0], f.at[:0], ' ', ' ', false
	for i := 0; i < len(text); {
		literals := len(f.kinds)
		n := f.token(text[i:])
		if n == 0 {
			return false
		}
		if len(f.kinds) > literals {
			f.at = append(f.at, i)
		}
		i += n
		if f.previous = text[i-1]; !isBlank(f.previous) {
			f.solid = f.previous
		}
	}
	return len(f.kinds) > 0
}

// token takes over the next token, and returns its length; 0 if it is none that is
// known here.
func (f *form) token(rest string) int {
	c := rest[0]
	n := 1
	switch {
	case isBlank(c):
		f.text = append(f.text, c)
		return 1 // a string behind a string may continue it
	case isLetter(c):
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n])) {
			n++
		}
	case isDigit(c):
		return f.put(rest, digitsOf(rest), literalInteger)
	case c == '-' && f.signs(rest):
		return f.put(rest, 1+digitsOf(rest[1:]), literalNegative)
	case c == '\'':
		n = quoted(rest)
		if f.literal || n == 0 {
			return 0
		}
		return f.put(rest, n, literalString)
	case c == '"':
		if n = quoted(rest); n == 0 || !strings.ContainsRune(before+".", rune(f.previous)) {
			return 0
		}
	case c == '-' && f.previous == '-', c == '*' && f.previous == '/':
		return 0 // a comment
	case !strings.ContainsRune("(),.=<>+-*/;!", rune(c)):
		return 0
	}
	f.text = append(f.text, rest[:n]...)
	f.literal = false
	return n
}

// What may stand beside a literal, so that the two are tokens of their own.
const (
	before = " \t\n\r(,=<>+-*/"
	behind = " \t\n\r),=<>+-*/;"
)

// signs reports whether a minus is the sign of the integer behind it.
func (f *form) signs(rest string) bool {
	return len(rest) > 1 && isDigit(rest[1]) && strings.IndexByte(" \t\n\r(,", f.previous) >= 0 && strings.IndexByte("(,=<>+", f.solid) >= 0
}

// digitsOf returns the number of digits that rest begins with.
func digitsOf(rest string) int {
	n := 0
	for n < len(rest) && isDigit(rest[n]) {
		n++
	}
	return n
}

// put puts a parameter in the place of a literal of n bytes.
func (f *form) put(rest string, n int, kind byte) int {
	const most = 99
	if kind != literalString && n > maxInteger || strings.IndexByte(before, f.previous) < 0 || n < len(rest) && strings.IndexByte(behind, rest[n]) < 0 || len(f.kinds) == most {
		return 0
	}
	f.kinds = append(f.kinds, kind)
	number := byte(len(f.kinds))
	f.text = append(f.text, '$')
	if number > 9 {
		f.text = append(f.text, '0'+number/10)
	}
	f.text = append(f.text, '0'+number%10)
	f.literal = kind == literalString
	return n
}

// quoted returns the length of a string or a quoted name of printable ASCII without
// a backslash, or 0. A doubled quote is for others to understand.
func quoted(rest string) int {
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == rest[0]:
			if i+1 < len(rest) && (rest[i+1] == '\'' || rest[i+1] == '"') {
				return 0
			}
			return i + 1
		case c < ' ', c > '~', c == '\\':
			return 0
		}
	}
	return 0
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// places are where literals stand in a text, in bytes.
type places []int

// inert returns the places of the integers and strings of a statement that stand
// where a parameter would mean the same whatever its value: compared with a column
// in a WHERE, as a value of INSERT and UPDATE, in LIMIT. What the statement does
// can't depend on them. Those of others are left out.
func inert(n *pg.Node) places {
	switch {
	case n.GetSelectStmt() != nil:
		return inertSelect(n.GetSelectStmt())
	case n.GetInsertStmt() != nil:
		return inertSelect(n.GetInsertStmt().GetSelectStmt().GetSelectStmt())
	case n.GetUpdateStmt() != nil:
		u := n.GetUpdateStmt()
		return append(inertTargets(u.GetTargetList()), inertWhere(u.GetWhereClause())...)
	case n.GetDeleteStmt() != nil:
		return inertWhere(n.GetDeleteStmt().GetWhereClause())
	default:
		return nil
	}
}

func inertSelect(s *pg.SelectStmt) places {
	found := slices.Concat(inertWhere(s.GetWhereClause()), literals(s.GetLimitCount(), s.GetLimitOffset()))
	for _, row := range s.GetValuesLists() {
		found = append(found, literals(row.GetList().GetItems()...)...)
	}
	return found
}

// inertTargets looks at SET a = 1, b = b + 1.
func inertTargets(targets []*pg.Node) (found places) {
	for _, t := range targets {
		value := t.GetResTarget().GetVal()
		found = append(found, literals(value)...)
		if e := value.GetAExpr(); operates(e, "+", "-") {
			found = append(found, beside(e)...)
		}
	}
	return found
}

// inertWhere looks at conditions. It does not look below comparisons: see
// [trivial], which compares their operands.
func inertWhere(n *pg.Node) (found places) {
	if list := n.GetBoolExpr(); list != nil {
		for _, arg := range list.GetArgs() {
			found = append(found, inertWhere(arg)...)
		}
		return found
	}
	e := n.GetAExpr()
	switch {
	case operates(e, "=", "<>", "<", ">", "<=", ">="):
		return beside(e)
	case e.GetKind() == pg.A_Expr_Kind_AEXPR_IN, e.GetKind() == pg.A_Expr_Kind_AEXPR_BETWEEN:
		if e.GetLexpr().GetColumnRef() != nil {
			return literals(e.GetRexpr().GetList().GetItems()...)
		}
	}
	return nil
}

// operates reports whether e is an operator of one of the names, without a schema.
func operates(e *pg.A_Expr, names ...string) bool {
	if e.GetKind() != pg.A_Expr_Kind_AEXPR_OP || len(e.GetName()) != 1 {
		return false
	}
	for _, name := range names {
		if e.GetName()[0].GetString_().GetSval() == name {
			return true
		}
	}
	return false
}

// beside returns the place of a literal whose other operand is a column.
func beside(e *pg.A_Expr) places {
	switch {
	case e.GetLexpr().GetColumnRef() != nil:
		return literals(e.GetRexpr())
	case e.GetRexpr().GetColumnRef() != nil:
		return literals(e.GetLexpr())
	default:
		return nil
	}
}

// literals returns the places of those of the nodes that are integers or strings.
// Some that are in a tree stand nowhere in the text, as the 1 of FETCH FIRST ROW
// ONLY.
func literals(nodes ...*pg.Node) (found places) {
	for _, n := range nodes {
		if c := n.GetAConst(); c.GetIval() != nil || c.GetSval() != nil {
			found = append(found, int(c.GetLocation()))
		}
	}
	return found
}
