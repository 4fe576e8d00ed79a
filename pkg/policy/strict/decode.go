package strict

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

type decoder struct {
	name string
	at   Positions
	errs Errors
}

func (d *decoder) fail(tk *token.Token, format string, args ...any) {
	d.errs.Add(d.position(tk), format, args...)
}

func (d *decoder) position(tk *token.Token) Position {
	f := faultAt(tk, "")
	return Position{File: d.name, Line: f.line, Column: f.column}
}

// decode reads a node into a settable value.
func (d *decoder) decode(path string, n ast.Node, v reflect.Value) {
	d.at[path] = d.position(keyToken(n))
	if _, ok := n.(*ast.NullNode); ok {
		d.fail(n.GetToken(), "%s has no value: leave it out or give one", label(path))
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, u)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(path, n, v)
	case reflect.Map:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.sequence(path, n, v)
	default:
		d.scalar(path, n, v)
	}
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	known := fields(v.Type())
	if _, word := str(n); word {
		for key, f := range known {
			if f.short {
				d.decode(join(path, key), n, v.Field(f.index))
				return
			}
		}
	}
	d.entries(path, n, func(key string, e *ast.MappingValueNode) {
		f, ok := known[key]
		if !ok {
			d.fail(e.Key.GetToken(), "unknown key %q%s%s", key, among(v.Type()), hint(v, key))
			return
		}
		if s, ok := numeral(e.Value); ok && f.text && v.Field(f.index).Kind() == reflect.String {
			d.at[join(path, key)] = d.position(keyToken(e.Value))
			v.Field(f.index).SetString(s)
			return
		}
		if f.text && v.Field(f.index).Kind() == reflect.Slice {
			d.texts(join(path, key), e.Value, v.Field(f.index))
			return
		}
		d.decode(join(path, key), e.Value, v.Field(f.index))
	})
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	d.entries(path, n, func(key string, e *ast.MappingValueNode) {
		one := reflect.New(v.Type().Elem()).Elem()
		d.decode(join(path, key), e.Value, one)
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), one)
	})
}

// entries calls f for every key of a mapping once.
func (d *decoder) entries(path string, n ast.Node, f func(string, *ast.MappingValueNode)) {
	var list []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		list = m.Values
	case *ast.MappingValueNode:
		list = []*ast.MappingValueNode{m}
	default:
		d.fail(n.GetToken(), "%s: want a mapping, found %s", label(path), kind(n))
		return
	}
	seen := make(map[string]Position, len(list))
	for _, e := range list {
		s, ok := e.Key.(*ast.StringNode)
		if !ok {
			d.fail(e.Key.GetToken(), "%s: a key must be a word, found %s", label(path), kind(e.Key))
			continue
		}
		if first, ok := seen[s.Value]; ok {
			d.fail(s.GetToken(), "duplicate key %q, first at line %d", s.Value, first.Line)
			continue
		}
		seen[s.Value] = d.position(s.GetToken())
		f(s.Value, e)
	}
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value) {
	d.items(path, n, func(i int, item ast.Node, list reflect.Value) {
		d.decode(fmt.Sprintf("%s[%d]", path, i), item, list.Index(i))
	}, v)
}

// texts reads a list of strings of which some may look like numbers.
func (d *decoder) texts(path string, n ast.Node, v reflect.Value) {
	d.items(path, n, func(i int, item ast.Node, list reflect.Value) {
		at := fmt.Sprintf("%s[%d]", path, i)
		if s, ok := numeral(item); ok {
			d.at[at] = d.position(item.GetToken())
			list.Index(i).SetString(s)
			return
		}
		d.decode(at, item, list.Index(i))
	}, v)
}

// items replaces the list v by a new one and calls f for each of its items.
func (d *decoder) items(path string, n ast.Node, f func(int, ast.Node, reflect.Value), v reflect.Value) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(keyToken(n), "%s: want a list, found %s", label(path), kind(n))
		return
	}
	// An empty list is ambiguous where leaving the key out means everything.
	if len(s.Values) == 0 {
		d.fail(s.GetToken(), "%s is an empty list: leave it out or give a value", label(path))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values))
	for i, item := range s.Values {
		f(i, item, list)
	}
	v.Set(list)
}

func (d *decoder) text(path string, n ast.Node, u encoding.TextUnmarshaler) {
	s, ok := str(n)
	if !ok {
		s, ok = numeral(n)
	}
	if !ok {
		d.fail(keyToken(n), "%s: want a string, found %s", label(path), kind(n))
		return
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		d.fail(n.GetToken(), "%s: %v", label(path), err)
	}
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	want := "a string"
	switch v.Kind() {
	case reflect.String:
		if s, ok := str(n); ok {
			v.SetString(s)
			return
		}
	case reflect.Bool:
		want = "true or false"
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
			return
		}
	case reflect.Int:
		want = "an integer"
		if i, ok := n.(*ast.IntegerNode); ok {
			if x, err := strconv.ParseInt(i.Token.Value, 10, 32); err == nil {
				v.SetInt(x)
				return
			}
			want = "a decimal integer of 32 bits"
		}
	case reflect.Uint16, reflect.Uint32:
		want = "an integer"
		if i, ok := n.(*ast.IntegerNode); ok {
			if x, err := strconv.ParseUint(i.Token.Value, 10, v.Type().Bits()); err == nil {
				v.SetUint(x)
				return
			}
			want = fmt.Sprintf("a decimal integer from 0 to %d", uint64(1)<<v.Type().Bits()-1)
		}
	default:
		// A field of another kind is a mistake in this program.
		want = "nothing"
	}
	hint := ""
	if _, number := numeral(n); number && v.Kind() == reflect.String {
		hint = "; put it in quotes"
	}
	d.fail(keyToken(n), "%s: want %s, found %s%s", label(path), want, kind(n), hint)
}

func str(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		if s.Value != nil {
			return s.Value.Value, true
		}
	}
	return "", false
}

// numeral returns a number as it was written.
func numeral(n ast.Node) (string, bool) {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// keyToken returns where a node begins: a mapping's own token is the colon.
func keyToken(n ast.Node) *token.Token {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return m.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return m.Key.GetToken()
	}
	return n.GetToken()
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "a string"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "null"
	}
	return "something else"
}

// Hinter is a struct that has something to say about a key that it lacks.
type Hinter interface {
	// HintAbout returns a sentence about the unknown key, or nothing.
	HintAbout(key string) string
}

func hint(v reflect.Value, key string) string {
	h, ok := v.Addr().Interface().(Hinter)
	if !ok || h.HintAbout(key) == "" {
		return ""
	}
	return "; " + h.HintAbout(key)
}

type field struct {
	index int
	text  bool
	short bool
}

// fields returns the keys that a struct takes.
func fields(t reflect.Type) map[string]field {
	m := make(map[string]field, t.NumField())
	for i := range t.NumField() {
		key, option, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if key != "" && key != "-" {
			m[key] = field{index: i, text: option == "text", short: option == "short"}
		}
	}
	return m
}

// among lists the keys that would have been understood.
func among(t reflect.Type) string {
	var keys []string
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if key != "" && key != "-" {
			keys = append(keys, key)
		}
	}
	return ", want one of " + strings.Join(keys, ", ")
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func label(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}
