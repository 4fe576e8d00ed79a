package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// The events of each session and operation are written as encoding/json would write them, and
// at a fraction of the cost; see record.Appender.

// object appends the members of a JSON object.
type object struct {
	b    []byte
	more bool // a member stands in front
}

func begin(b []byte) object { return object{b: append(b, '{')} }

func (o *object) end() []byte { return append(o.b, '}') }

func (o *object) key(name string) {
	if o.more {
		o.b = append(o.b, ',')
	}
	o.more = true
	o.b = append(o.b, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) text(name, value string) {
	o.key(name)
	o.b = appendText(o.b, value)
}

// some is text that is left out if it is empty, as all that follows.
func (o *object) some(name, value string) {
	if value != "" {
		o.text(name, value)
	}
}

func (o *object) count(name string, value uint64) {
	if value != 0 {
		o.key(name)
		o.b = strconv.AppendUint(o.b, value, 10)
	}
}

// number is a number that is never left out.
func (o *object) number(name string, value uint64) {
	o.key(name)
	o.b = strconv.AppendUint(o.b, value, 10)
}

func (o *object) flag(name string, value bool) {
	if value {
		o.key(name)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) bytes(name string, value []byte) {
	if len(value) > 0 {
		o.key(name)
		o.b = append(o.b, '"')
		o.b = base64.StdEncoding.AppendEncode(o.b, value)
		o.b = append(o.b, '"')
	}
}

func (o *object) list(name string, values []string) {
	if len(values) > 0 {
		o.key(name)
		o.b = appendList(o.b, values, appendText)
	}
}

func appendList[T any](b []byte, values []T, one func([]byte, T) []byte) []byte {
	if values == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, value := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(b, value)
	}
	return append(b, ']')
}

// plain reports whether s is the same within quotes: printable ASCII without quote and
// backslash. It looks at eight bytes at a time.
func plain(s string) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		quote, backslash := w^ones*'"', w^ones*'\\' // a byte that is one becomes zero
		// The highest bit of a byte says: below ' ', zero, zero, above '~' or all but ASCII.
		// What borrows from its neighbour is found itself.
		if ((w-ones*' ')|(quote-ones)|(backslash-ones)|(w+ones)|w)&high != 0 {
			return false
		}
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// appendText appends a string. Plain ASCII, as nearly all are, needs no look at
// its characters; encoding/json sees to the others.
func appendText(b []byte, s string) []byte {
	if plain(s) {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil { // a string has a form, whatever is in it
		return append(b, `""`...)
	}
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}

// AppendJSON is for package record.
func (e Decision) AppendJSON(b []byte) []byte {
	o := begin(b)
	o.text("session", e.Session)
	o.text("op", e.Op)
	o.some("stage", e.Stage)
	o.key("operation")
	o.b = e.Operation.appendTo(o.b)
	o.text("verdict", e.Verdict)
	o.some("would_have", e.WouldHave)
	o.some("would_have_rule", e.WouldHaveRule)
	o.some("mode", e.Mode)
	o.some("rule", e.Rule)
	o.some("reason", e.Reason)
	o.some("resource", e.Resource)
	o.some("message", e.Message)
	o.key("generation")
	o.b = strconv.AppendUint(o.b, e.Generation, 10)
	o.some("approval", e.Approval)
	o.some("approver", e.Approver)
	return o.end()
}

func (o *Operation) appendTo(b []byte) []byte {
	out := begin(b)
	out.text("protocol", o.Protocol)
	out.text("verb", o.Verb)
	out.key("effects")
	out.b = appendList(out.b, o.Effects, appendText)
	if len(o.Objects) > 0 {
		out.key("objects")
		out.b = append(out.b, '[')
		for i := range o.Objects {
			if i > 0 {
				out.b = append(out.b, ',')
			}
			one := begin(out.b)
			one.text("kind", o.Objects[i].Kind)
			one.text("name", o.Objects[i].Name)
			one.key("write")
			one.b = strconv.AppendBool(one.b, o.Objects[i].Write)
			out.b = one.end()
		}
		out.b = append(out.b, ']')
	}
	out.some("text", o.Text)
	out.list("parameters", o.Parameters)
	out.some("reason", o.Reason)
	out.flag("announced", o.Announced)
	out.bytes("text_base64", o.TextBase64)
	out.flag("truncated", o.Truncated)
	return out.end()
}

// AppendJSON is for package record.
func (e Result) AppendJSON(b []byte) []byte {
	o := begin(b)
	o.text("session", e.Session)
	o.text("op", e.Op)
	o.text("outcome", e.Outcome)
	o.count("rows", e.Rows)
	o.count("bytes", e.Bytes)
	o.some("tag", e.Tag)
	o.some("code", e.Code)
	o.some("error", e.Error)
	o.count("masked", e.Masked)
	return o.end()
}

// AppendJSON is for package record.
func (f Frame) AppendJSON(b []byte) []byte {
	o := begin(b)
	o.key("t")
	o.b = strconv.AppendInt(o.b, f.T, 10)
	o.some("op", f.Op)
	o.some("direction", f.Direction)
	o.text("kind", f.Kind)
	o.some("text", f.Text)
	o.bytes("data", f.Data)
	o.list("columns", f.Columns)
	if len(f.Rows) > 0 {
		o.key("rows")
		o.b = appendList(o.b, f.Rows, func(b []byte, row []*string) []byte {
			return appendList(b, row, func(b []byte, cell *string) []byte {
				if cell == nil {
					return append(b, "null"...)
				}
				return appendText(b, *cell)
			})
		})
	}
	o.flag("more", f.More)
	o.flag("cut", f.Cut)
	return o.end()
}
