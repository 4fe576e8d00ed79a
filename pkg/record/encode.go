package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Appender is a body that appends its own JSON to b and returns the extended
// buffer: one object, without white space between its tokens, as encoding/json
// would write it. It must not keep b.
type Appender interface{ AppendJSON(b []byte) []byte }

// encoder turns bodies into JSON. One is used by one goroutine at a time.
type encoder struct {
	buf  bytes.Buffer
	json *json.Encoder
}

func newEncoder() *encoder {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}

// encode returns body as JSON. The result is valid until the next call.
func (e *encoder) encode(body any) ([]byte, error) {
	e.buf.Reset()
	if own, ok := body.(Appender); ok {
		e.buf.Write(own.AppendJSON(e.buf.AvailableBuffer()))
		return escapeControls(e.buf.Bytes()), nil
	}
	if err := e.json.Encode(body); err != nil {
		return nil, fmt.Errorf("encode body: %w", err)
	}
	return escapeControls(bytes.TrimSuffix(e.buf.Bytes(), []byte("\n"))), nil
}

// escapeControls replaces DEL and the C1 control characters, which JSON lets
// through, by escapes, and what is not UTF-8 by U+FFFD. Outside of strings none
// of them can occur in JSON. It returns its argument if there is nothing to do.
func escapeControls(b []byte) []byte {
	const leadOfC1 = 0xc2
	if bytes.IndexByte(b, 0x7f) < 0 && bytes.IndexByte(b, leadOfC1) < 0 && utf8.Valid(b) {
		return b
	}
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

// appendEntry appends an entry's object to b.
func appendEntry(b []byte, e Entry, body []byte) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	b = append(b, `,"time":"`...)
	b = e.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","kind":"`...)
	b = append(b, e.Kind...)
	b = append(b, `","body":`...)
	b = append(b, body...)
	return append(b, '}')
}

// appendLine appends the line that holds object to b.
func appendLine(b []byte, hash [32]byte, object []byte) []byte {
	b = hex.AppendEncode(b, hash[:])
	b = append(b, ' ')
	b = append(b, object...)
	return append(b, '\n')
}
