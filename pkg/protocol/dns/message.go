package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// maxMessage is what the length in front of a message can say.
	maxMessage = 1<<16 - 1

	flagResponse  = 1 << 15
	flagTruncated = 1 << 9
	flagRecursion = 1 << 8
	flagAvailable = 1 << 7
	flagAuthentic = 1 << 5
	maskCode      = 0xf
)

var errMalformed = errors.New("message is malformed")

// header is a message's first 12 bytes.
type header struct {
	id, flags uint16
	// counts are the numbers of questions and of records in the answer, the
	// authority and the additional section.
	counts [4]int
}

// readHeader reads the header of b, which has at least headerSize bytes.
func readHeader(b []byte) header {
	h := header{id: binary.BigEndian.Uint16(b), flags: binary.BigEndian.Uint16(b[2:])}
	for i := range h.counts {
		h.counts[i] = int(binary.BigEndian.Uint16(b[4+2*i:]))
	}
	return h
}

func (h header) response() bool { return h.flags&flagResponse != 0 }
func (h header) opcode() int    { return int(h.flags >> 11 & maskCode) }
func (h header) rcode() int     { return int(h.flags & maskCode) }

// question is what one asks for, at the offset headerSize of a message.
type question struct {
	name, shown string
	kind, class uint16
	end         int
}

// readQuestion reads the first question. Its name must be spelt out: there is
// nothing before it that a pointer could mean.
func readQuestion(b []byte) (question, error) {
	end, err := skipLabels(b)
	if err != nil {
		return question{}, err
	}
	if len(b) < end+4 {
		return question{}, fmt.Errorf("%w: it ends inside the question", errMalformed)
	}
	shown, _, err := dns.UnpackDomainName(b[:end], headerSize)
	if err != nil {
		return question{}, fmt.Errorf("%w: the question's name can't be read", errMalformed)
	}
	return question{
		name: canonical(shown), shown: shown, end: end + 4,
		kind:  binary.BigEndian.Uint16(b[end:]),
		class: binary.BigEndian.Uint16(b[end+2:]),
	}, nil
}

// skipLabels returns the offset after the name at headerSize.
func skipLabels(b []byte) (int, error) {
	for off := headerSize; off < len(b); {
		n := int(b[off])
		off++
		switch {
		case n == 0:
			return off, nil
		case n > 63:
			return 0, fmt.Errorf("%w: the question's name is not spelt out", errMalformed)
		}
		off += n
	}
	return 0, fmt.Errorf("%w: it ends inside the question", errMalformed)
}

// canonical returns a name as policies have it: lower case, no final dot. The
// root is ".".
func canonical(shown string) string {
	if shown == "." {
		return shown
	}
	return strings.ToLower(strings.TrimSuffix(shown, "."))
}

// record is where a resource record lies in a message.
type record struct {
	section     int // as in header.counts
	owner       int // offset of its name
	kind, class uint16
	ttl         uint32
	data, end   int // of its content
}

// walk calls visit for each record after the question in their order, and
// checks that all of them lie within b. It returns the offset after the last.
func walk(b []byte, h header, start int, visit func(record) error) (int, error) {
	off := start
	for section := 1; section < len(h.counts); section++ {
		for range h.counts[section] {
			r, err := readRecord(b, off)
			if err != nil {
				return 0, err
			}
			r.section = section
			if err := visit(r); err != nil {
				return 0, err
			}
			off = r.end
		}
	}
	return off, nil
}

func readRecord(b []byte, off int) (record, error) {
	after, err := skipName(b, off)
	if err != nil {
		return record{}, err
	}
	const fixed = 10
	if len(b)-after < fixed {
		return record{}, fmt.Errorf("%w: it ends inside a record", errMalformed)
	}
	f := b[after:]
	r := record{
		owner: off, kind: binary.BigEndian.Uint16(f), class: binary.BigEndian.Uint16(f[2:]),
		ttl: binary.BigEndian.Uint32(f[4:]), data: after + fixed,
	}
	r.end = r.data + int(binary.BigEndian.Uint16(f[8:]))
	if r.end > len(b) {
		return record{}, fmt.Errorf("%w: it ends inside a record", errMalformed)
	}
	return r, nil
}

// skipName returns the offset after a name that may end in a pointer. Where the
// pointer leads is for who reads the name.
func skipName(b []byte, off int) (int, error) {
	for off < len(b) {
		n := int(b[off])
		off++
		switch {
		case n == 0:
			return off, nil
		case n >= 0xc0 && off < len(b):
			return off + 1, nil
		case n > 63:
			return 0, fmt.Errorf("%w: a name can't be read", errMalformed)
		}
		off += n
	}
	return 0, fmt.Errorf("%w: it ends inside a name", errMalformed)
}

// nameAt reads the name at off, in canonical form. It may not run past end.
func nameAt(b []byte, off, end int) (string, error) {
	shown, after, err := dns.UnpackDomainName(b, off)
	if err != nil || after > end {
		return "", fmt.Errorf("%w: a name can't be read", errMalformed)
	}
	return canonical(shown), nil
}
