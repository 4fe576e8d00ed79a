package bypass

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// heard is all that an agent heard, put together in the ways in which an attacker
// would put it together.
type heard struct {
	texts []string // each is searched
	codes []string // SQLSTATE of each error
}

// listen takes the tapes of all sessions of a case.
func listen(agents []*agent) *heard {
	h := &heard{}
	var every [][]byte // the values of all results
	for _, a := range agents {
		if a.tape == nil {
			continue
		}
		h.texts = append(h.texts, string(a.tape.bytes))
		var copied, notices strings.Builder
		var rows [][][]byte
		flush := func() {
			h.result(rows)
			rows = nil
		}
		for _, f := range a.frames {
			switch f.typ {
			case 'D':
				row := values(f.body)
				if len(rows) > 0 && len(rows[0]) != len(row) {
					flush()
				}
				rows, every = append(rows, row), append(every, row...)
			case 'T', 'C':
				flush()
			case 'd':
				copied.Write(f.body)
			case 'E':
				h.codes = append(h.codes, field(f.body, 'C'))
				notices.WriteString(field(f.body, 'M'))
			case 'N':
				notices.WriteString(field(f.body, 'M'))
			}
		}
		flush()
		h.texts = append(h.texts, copied.String(), notices.String())
		h.text(strings.Split(copied.String(), "\n"))
	}
	h.sequence(every)
	return h
}

// result adds the rows and the columns of one result.
func (h *heard) result(rows [][][]byte) {
	if len(rows) == 0 {
		return
	}
	for i := range rows[0] {
		var column [][]byte
		for _, row := range rows {
			column = append(column, row[i])
		}
		h.sequence(column)
	}
	if len(rows[0]) > 1 {
		for _, row := range rows {
			h.sequence(row)
		}
	}
}

// sequence adds what values say one after the other: as text, as codes of
// characters, and as bits.
func (h *heard) sequence(list [][]byte) {
	if len(list) < 2 {
		return
	}
	var text, bools strings.Builder
	var codes []int64
	for _, v := range list {
		text.Write(v)
		if n, ok := number(v); ok {
			codes = append(codes, n)
		}
		switch string(v) {
		case "t", "1", "\x01":
			bools.WriteByte('1')
		case "f", "0", "\x00":
			bools.WriteByte('0')
		}
	}
	h.texts = append(h.texts, text.String(), ascii(codes))
	if bools.Len() >= 28 {
		h.texts = append(h.texts, bits(bools.String(), 7)...)
		h.texts = append(h.texts, bits(bools.String(), 8)...)
	}
}

func (h *heard) text(lines []string) {
	list := make([][]byte, len(lines))
	for i, l := range lines {
		list[i] = []byte(l)
	}
	h.sequence(list)
}

// number reads a value as an integer, in either format.
func number(v []byte) (int64, bool) {
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n, true
	}
	switch len(v) {
	case 2:
		return int64(binary.BigEndian.Uint16(v)), true
	case 4:
		return int64(binary.BigEndian.Uint32(v)), true
	case 8:
		return int64(binary.BigEndian.Uint64(v)), true
	}
	return 0, false
}

// values reads a DataRow. One that is cut short has fewer.
func values(body []byte) [][]byte {
	if len(body) < 2 {
		return nil
	}
	var list [][]byte
	for body = body[2:]; len(body) >= 4; {
		n := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		if n < 0 {
			list = append(list, nil)
			continue
		}
		if n > len(body) {
			return list
		}
		list, body = append(list, body[:n]), body[n:]
	}
	return list
}

// field returns a field of an error or a notice.
func field(body []byte, code byte) string {
	for _, f := range strings.Split(string(body), "\x00") {
		if f != "" && f[0] == code {
			return f[1:]
		}
	}
	return ""
}
