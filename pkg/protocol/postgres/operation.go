package postgres

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// Bounds of what is rendered of a Bind's parameters for the record.
const (
	maxParameters = 64
	maxParameter  = 1 << 10
)

// Verbs of operations that have no SQL text.
const (
	verbFunctionCall = "function_call"
	verbReplication  = "replication"
)

// operation turns what runs into the question for the policy: the union of all
// that it may be. A nil statement is unknown.
func operation(facts []*statement.Statement, parameters []string) *policy.Operation {
	op := &policy.Operation{}
	describe(op, facts, parameters)
	return op
}

// describe makes op that question. The lists in it may be those of the facts, which
// are shared: they must not be changed.
func describe(op *policy.Operation, facts []*statement.Statement, parameters []string) {
	*op = policy.Operation{Protocol: Name, Parameters: parameters}
	if len(facts) == 1 && facts[0] != nil && len(facts[0].Effects) > 0 { // nearly all
		s := facts[0] // sorted and without duplicates
		op.Verb, op.Text, op.Reason, op.Effects, op.Objects = s.Verb, s.Text, s.Reason, slices.Clip(s.Effects), slices.Clip(s.Objects)
		return
	}
	for _, s := range facts {
		if s == nil || len(s.Effects) == 0 {
			op.Effects = append(op.Effects, policy.Unknown)
			setOnce(&op.Verb, policy.Unknown)
			setOnce(&op.Reason, "it is not known what the name stands for")
			continue
		}
		setOnce(&op.Verb, s.Verb)
		setOnce(&op.Text, s.Text)
		setOnce(&op.Reason, s.Reason)
		op.Effects = append(op.Effects, s.Effects...)
		op.Objects = append(op.Objects, s.Objects...)
	}
	slices.Sort(op.Effects)
	op.Effects = slices.Compact(op.Effects)
	slices.SortFunc(op.Objects, func(a, b policy.Object) int {
		if c := strings.Compare(a.Kind, b.Kind); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	op.Objects = slices.Compact(op.Objects)
}

func setOnce(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

// notUnderstood is the operation for a text that was not looked into.
func notUnderstood(text, reason string) *statement.Statement {
	return &statement.Statement{
		Verb: statement.Unknown, Effects: []string{statement.Unknown}, Reason: reason, Text: text,
	}
}

// redefines reports whether the statement may change what relations are made of,
// or define one that shows another's data. So do rights and the settings of roles:
// they decide which schemas are searched for a name.
// A function that does it on the quiet is not suspected: whoever may create one
// may as well copy what is protected.
func redefines(s *statement.Statement) bool {
	if s == nil || len(s.Effects) == 0 {
		return true
	}
	hidden := s.Does(statement.Opaque) && !s.Does(statement.UserFunction)
	return hidden || s.Does(statement.Unknown) || s.Does(statement.Do) || s.Does(statement.Call) || s.Does(statement.DCL) ||
		!s.Keeps && (s.Does(statement.DDL) || s.Does(statement.Drop)) || s.Transaction == "commit_prepared"
}

// ends reports whether the statement may end a transaction, which commits what was
// defined in it. Code that nobody can see can't: inside a transaction that was
// begun by a statement the server refuses that.
func ends(s *statement.Statement) bool {
	if s == nil || s.Does(statement.Unknown) {
		return true
	}
	switch s.Transaction {
	case "", "begin", "savepoint", "release", "rollback_to":
		return false
	default:
		return true
	}
}

// obscure reports whether the statement runs code that nobody can see: what it
// says in errors and notices may be any data.
func obscure(s *statement.Statement) bool {
	if s == nil || len(s.Effects) == 0 {
		return true
	}
	return s.Does(statement.Unknown) || s.Does(statement.Opaque) || s.Does(statement.Call) || s.Does(statement.Do)
}

// ambiguous reports whether the text reads differently under another client
// encoding or with standard_conforming_strings off.
func ambiguous(text []byte) bool {
	return bytes.IndexByte(text, '\\') >= 0 || bytes.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0
}

// render renders parameters for the record, into room if that is enough.
func render(room []string, m *wire.BindMessage) []string {
	if len(m.Parameters) == 0 {
		return nil
	}
	rendered := slices.Grow(room[:0], min(len(m.Parameters), maxParameters))
	for i, value := range m.Parameters {
		if i == maxParameters {
			break
		}
		rendered = append(rendered, renderValue(value, formatOf(m.Formats, i)))
	}
	return rendered
}

// overlong reports whether render leaves something out.
func overlong(m *wire.BindMessage) bool {
	if len(m.Parameters) > maxParameters {
		return true
	}
	for i, value := range m.Parameters {
		if len(value) > maxParameter || len(value) > maxParameter/2 && formatOf(m.Formats, i) == 1 {
			return true
		}
	}
	return false
}

func renderValue(value []byte, format int16) string {
	if value == nil {
		return "NULL"
	}
	if format == 1 {
		return `\x` + hex.EncodeToString(value[:min(len(value), maxParameter/2)])
	}
	return strings.ToValidUTF8(string(value[:min(len(value), maxParameter)]), "\uFFFD")
}

// formatOf returns the format of the i-th value: none given means text, one
// stands for all.
func formatOf(formats []int16, i int) int16 {
	switch {
	case len(formats) == 0:
		return 0
	case len(formats) == 1:
		return formats[0]
	case i < len(formats):
		return formats[i]
	default:
		return 0
	}
}
