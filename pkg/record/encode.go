package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Appender is a body that appends its own JSON to b and returns the extended
// buffer: one object, without white space between its tokens, as encoding/json
// would write it. It must not keep b.
type Appender interface{ AppendJSON(b []byte) []byte }

// front is how many bytes a draft has in front of its body: as much as a line can have
// there, and more than a hash needs to be linked.
const front = hashDigits + 1 + len(`{"seq":,"time":"","kind":"","body":`) + 20 + len(time.RFC3339Nano) + maxKind

// draft is an entry on its way to become a line. It is one piece of memory, so that
// nothing has to be moved for the hash or the line: the body is written once, and
// what is known only when the entry has its place is put in front of it.
type draft struct {
	b  []byte // ends with the line's "}\n"
	at int    // what is there of the object begins here
}

// object returns the entry's object, once it has its front.
func (d *draft) object() []byte { return d.b[d.at : len(d.b)-1] }

// line returns the whole line, once the draft is linked.
func (d *draft) line() []byte { return d.b[d.at-1-hashDigits:] }

// lineBytes returns how many bytes the line has, once the object has its front.
func (d *draft) lineBytes() int { return hashDigits + 1 + len(d.b) - d.at }

// link completes the line and returns its hash, which is that of the line before, as
// 32 bytes, and the object: both stand next to each other until the digits do.
func (d *draft) link(previous [sha256.Size]byte) [sha256.Size]byte {
	from := d.at - sha256.Size
	copy(d.b[from:], previous[:])
	hash := sha256.Sum256(d.b[from : len(d.b)-1])
	d.b[d.at-1] = ' '
	hex.Encode(d.b[d.at-1-hashDigits:], hash[:])
	return hash
}

// lead puts the members in front of the body that the entry's place decides. s keeps
// the text of the last second for the next entry.
func (d *draft) lead(e *Entry, s *second) {
	var room [front]byte
	members := appendFront(room[:0], e, s)
	d.at -= len(members)
	copy(d.b[d.at:], members)
}

// encoder makes drafts. One is used by one goroutine at a time, and so is its draft.
type encoder struct {
	draft
	buf  bytes.Buffer
	json *json.Encoder
}

func newEncoder() *encoder {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}

// encode begins the draft of an entry with that body.
func (e *encoder) encode(body any) error {
	b := slices.Grow(e.b[:0], front)[:front]
	if own, ok := body.(Appender); ok {
		b = own.AppendJSON(b)
	} else {
		e.buf.Reset()
		if err := e.json.Encode(body); err != nil {
			return fmt.Errorf("encode body: %w", err)
		}
		b = append(b, bytes.TrimSuffix(e.buf.Bytes(), []byte("\n"))...)
	}
	if !printable(b[front:]) {
		b = append(b[:front], escapeControls(b[front:])...)
	}
	e.draft = draft{b: append(b, "}\n"...), at: front}
	return nil
}

// shrink gives back the memory of a long entry.
func (e *encoder) shrink() {
	if cap(e.b) > maxWaiting || e.buf.Cap() > maxWaiting {
		e.draft, e.buf = draft{}, bytes.Buffer{}
	}
}

// printable reports whether all bytes are below DEL. It looks at eight at a time: one
// that is not sets its highest bit, or has it already.
func printable(b []byte) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		if w := binary.LittleEndian.Uint64(b); (w|(w+ones))&high != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= 0x7f {
			return false
		}
	}
	return true
}

// escapeControls replaces DEL and the C1 control characters, which JSON lets
// through, by escapes, and what is not UTF-8 by U+FFFD. Outside of strings none
// of them can occur in JSON.
func escapeControls(b []byte) []byte {
	out := make([]byte, 0, len(b)+64)
	for _, r := range string(b) {
		if r >= 0x7f && r <= 0x9f {
			out = fmt.Appendf(out, `\u%04x`, r)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// appendFront appends an entry's object up to its body.
func appendFront(b []byte, e *Entry, s *second) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	b = append(b, `,"time":"`...)
	b = s.appendTime(b, e.Time)
	b = append(b, `","kind":"`...)
	b = append(b, e.Kind...)
	return append(b, `","body":`...)
}

// second is the text of a second, up to its fraction: many entries are of the same one.
type second struct {
	unix int64
	text [len("2006-01-02T15:04:05")]byte
}

// appendTime appends a time in UTC, of a year of four digits, as RFC 3339 has it.
func (s *second) appendTime(b []byte, t time.Time) []byte {
	if unix := t.Unix(); unix != s.unix || s.text[0] == 0 {
		s.unix = unix
		t.AppendFormat(s.text[:0], "2006-01-02T15:04:05")
	}
	b = append(b, s.text[:]...)
	if n := t.Nanosecond(); n > 0 {
		fraction := [...]byte{'.', '0', '0', '0', '0', '0', '0', '0', '0', '0'}
		for i := len(fraction) - 1; i > 0; i-- {
			fraction[i] += byte(n % 10)
			n /= 10
		}
		b = append(b, bytes.TrimRight(fraction[:], "0")...)
	}
	return append(b, 'Z')
}

// appendLine appends the line that holds object to b.
func appendLine(b []byte, hash [32]byte, object []byte) []byte {
	b = hex.AppendEncode(b, hash[:])
	b = append(b, ' ')
	b = append(b, object...)
	return append(b, '\n')
}
