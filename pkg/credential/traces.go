package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// minTrace is the length in bytes from which on a secret is looked for inside of
// other text. A shorter one would be found everywhere by chance.
const minTrace = 8

// Traces finds secrets in bytes that must not hold them: as they are, in
// hexadecimal, in base64 (standard and for URLs, wherever it begins), escaped for
// URLs, for JSON, for SQL and for COPY; letters of ASCII in either case. A secret
// of less than 8 bytes is found where it, or one of those forms, is the whole
// value. What was cut in pieces, turned around or encrypted is not found: Traces is
// against accidents and the direct way, and no substitute for the privileges of an
// account.
//
// It is immutable and safe for concurrent use, and cannot be printed, like a
// [Secret]. A nil Traces finds nothing.
type Traces struct{ tables func() *tables }

// tables are what secrets are found by.
type tables struct {
	needles [][]byte // folded, at least minTrace bytes each, the longest first
	whole   [][]byte // folded, shorter
	// window is the length of the shortest needle. shift says how far the search
	// may go on from a window that ends in two bytes of that hash; where that is
	// nowhere, buckets has the needles that may begin there.
	window  int
	shift   [blocks]uint8
	buckets map[uint16][]int
}

// NewTraces returns what finds the secrets, all in all their forms. It returns nil
// if all of them are empty.
func NewTraces(secrets ...Secret) *Traces {
	t := &tables{}
	for _, s := range secrets {
		value := s.Reveal()
		if len(value) == 0 {
			continue
		}
		if len(value) < minTrace {
			for _, form := range wholeForms(value) {
				add(&t.whole, form)
			}
			continue
		}
		for _, form := range forms(value) {
			if len(form) >= minTrace {
				add(&t.needles, form)
			}
		}
	}
	if len(t.needles) == 0 && len(t.whole) == 0 {
		return nil
	}
	slices.SortStableFunc(t.needles, func(a, b []byte) int { return len(b) - len(a) })
	t.prepare()
	return &Traces{tables: func() *tables { return t }}
}

func add(list *[][]byte, form []byte) {
	form = fold(form)
	if !slices.ContainsFunc(*list, func(other []byte) bool { return bytes.Equal(other, form) }) {
		*list = append(*list, form)
	}
}

// wholeForms returns the ways in which a server may write a value and nothing else.
func wholeForms(value []byte) [][]byte {
	return [][]byte{
		value, hex.AppendEncode(nil, value), hex.AppendEncode([]byte(`\x`), value),
		base64.StdEncoding.AppendEncode(nil, value), base64.RawStdEncoding.AppendEncode(nil, value), base64.URLEncoding.AppendEncode(nil, value),
	}
}

// forms returns the ways in which a server may write a value down.
func forms(value []byte) [][]byte {
	text := string(value)
	list := [][]byte{value, hex.AppendEncode(nil, value)}
	for offset := range 3 {
		list = append(list, inBase64(base64.RawStdEncoding, value, offset), inBase64(base64.RawURLEncoding, value, offset))
	}
	list = append(list, []byte(octal(value)))
	if !utf8.Valid(value) {
		return list // no text, and so not escaped as one
	}
	double := func(s, c string) string { return strings.ReplaceAll(s, c, c+c) }
	for _, s := range []string{
		url.QueryEscape(text), url.PathEscape(text),
		inJSON(text, true), inJSON(text, false),
		double(text, `'`), double(text, `"`), double(text, `\`), double(double(text, `\`), `"`), double(double(text, `\`), `'`),
		strings.ReplaceAll(double(text, `\`), `"`, `\"`),
	} {
		list = append(list, []byte(s))
	}
	return list
}

// longestLine is how much of a value in base64 stands in one line wherever lines
// are broken: RFC 2045 does after 76 characters, RFC 7468 after 64.
const longestLine = 60

// inBase64 returns the characters that depend on value alone where it stands behind
// offset bytes of something else, modulo 3.
func inBase64(e *base64.Encoding, value []byte, offset int) []byte {
	text := e.AppendEncode(nil, append(make([]byte, offset), value...))
	first, last := (offset*8+5)/6, (offset+len(value))*8/6
	text = text[first:last]
	return text[:min(len(text), longestLine)]
}

func inJSON(text string, html bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(html)
	if err := e.Encode(text); err != nil {
		return text
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`)
}

// octal is the escape format of PostgreSQL's bytea, and of MySQL's and C's strings
// in a pinch.
func octal(value []byte) string {
	var b strings.Builder
	for _, c := range value {
		switch {
		case c == '\\':
			b.WriteString(`\\`)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// blocks is the number of hashes of two bytes.
const blocks = 1 << 10

func block(a, b byte) uint16 { return (uint16(lower(a))<<5 ^ uint16(lower(b))) % blocks }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func fold(b []byte) []byte {
	folded := make([]byte, len(b))
	for i, c := range b {
		folded[i] = lower(c)
	}
	return folded
}

// prepare makes the tables of a search for several needles at once, after Wu and
// Manber, "A fast algorithm for multi-pattern searching", 1994.
func (t *tables) prepare() {
	if len(t.needles) == 0 {
		return
	}
	t.window = min(len(t.needles[len(t.needles)-1]), 255)
	t.buckets = make(map[uint16][]int)
	for i := range t.shift {
		t.shift[i] = uint8(t.window - 1)
	}
	for i, n := range t.needles {
		for end := 1; end < t.window; end++ {
			h := block(n[end-1], n[end])
			t.shift[h] = min(t.shift[h], uint8(t.window-1-end))
		}
		h := block(n[t.window-2], n[t.window-1])
		t.buckets[h] = append(t.buckets[h], i)
	}
}

// next returns where the first needle in b is that begins at from or behind it.
func next[T string | []byte](t *tables, b T, from int) (start, end int, ok bool) {
	if t.window == 0 {
		return 0, 0, false
	}
	for last := from + t.window - 1; last < len(b); {
		h := block(b[last-1], b[last])
		if skip := t.shift[h]; skip > 0 {
			last += int(skip)
			continue
		}
		start := last - t.window + 1
		for _, i := range t.buckets[h] {
			if n := t.needles[i]; len(b)-start >= len(n) && same(b[start:start+len(n)], n) {
				return start, start + len(n), true
			}
		}
		last++
	}
	return 0, 0, false
}

// same reports whether b is folded.
func same[T string | []byte](b T, folded []byte) bool {
	for i, c := range folded {
		if lower(b[i]) != c {
			return false
		}
	}
	return true
}

// Find reports whether a value holds a secret, or is one.
func (t *Traces) Find(value []byte) bool {
	if t == nil || t.tables == nil {
		return false
	}
	return find(t.tables(), value)
}

// FindString is [Traces.Find] for a string.
func (t *Traces) FindString(value string) bool {
	if t == nil || t.tables == nil {
		return false
	}
	return find(t.tables(), value)
}

func find[T string | []byte](t *tables, value T) bool {
	_, _, ok := next(t, value, 0)
	return ok || is(t, value)
}

func is[T string | []byte](t *tables, value T) bool {
	return slices.ContainsFunc(t.whole, func(w []byte) bool { return len(w) == len(value) && same(value, w) })
}

// Blank writes asterisks over the secrets in a text, and returns how many it found.
// Nothing else of the text changes, not its length either, and no zero byte: what is
// framed by lengths or by zeros stays framed.
func (t *Traces) Blank(text []byte) (hits int) {
	if t == nil || t.tables == nil {
		return 0
	}
	tables := t.tables()
	if is(tables, text) {
		blank(text)
		return 1
	}
	for at := 0; ; hits++ {
		start, end, ok := next(tables, text, at)
		if !ok {
			return hits
		}
		blank(text[start:end])
		at = start
	}
}

func blank(b []byte) {
	for i := range b {
		if b[i] != 0 {
			b[i] = '*'
		}
	}
}
