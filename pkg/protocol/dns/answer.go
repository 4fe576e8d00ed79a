package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/headgate/headgate/pkg/names"
)

const (
	// maxChain bounds the CNAMEs between a question and its addresses.
	maxChain = 16
	// maxFacts bounds the records that are looked at for what they teach. From
	// an answer with more of them nothing is learned.
	maxFacts = 512
)

// facts is what was read of an answer.
type facts struct {
	rcode     int
	truncated bool
	// records is the number of records in the answer section.
	records int
	// told is what the answer teaches. It has no addresses if that is nothing.
	told names.Answer
	// altered says that keys were taken out.
	altered bool
}

// readAnswer reads b, which answers q. Where strip is not nil it is called for
// each record that may hold keys, and may change what the record holds.
func readAnswer(q *query, b []byte, strip func(b []byte, r record) (bool, error)) (facts, error) {
	h := readHeader(b)
	f := facts{rcode: h.rcode(), truncated: h.flags&flagTruncated != 0, records: h.counts[1]}
	start := headerSize
	if q.question != nil && h.counts[0] == 1 {
		start += len(q.question)
	} else if h.counts[0] != 0 {
		return f, fmt.Errorf("%w: it has %d questions", errMalformed, h.counts[0])
	}
	var kept []record
	_, err := walk(b, h, start, func(r record) error {
		switch r.kind {
		case dns.TypeHTTPS, dns.TypeSVCB:
			if strip == nil {
				return nil
			}
			altered, err := strip(b, r)
			f.altered = f.altered || altered
			return err
		case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME:
			if r.section == 1 && len(kept) <= maxFacts {
				kept = append(kept, r)
			}
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	if f.altered {
		binary.BigEndian.PutUint16(b[2:], h.flags&^flagAuthentic)
	}
	if f.rcode == dns.RcodeSuccess && len(kept) <= maxFacts && q.class == Address {
		f.told, err = follow(q, b, kept)
	}
	return f, err
}

// follow goes from the question along the CNAMEs to the addresses.
func follow(q *query, b []byte, records []record) (names.Answer, error) {
	if q.kind != dns.TypeA && q.kind != dns.TypeAAAA {
		return names.Answer{}, nil
	}
	owners := make([]string, len(records))
	for i, r := range records {
		var err error
		if owners[i], err = nameAt(b, r.owner, r.data); err != nil {
			return names.Answer{}, err
		}
	}
	told := names.Answer{Name: q.name, TTL: time.Duration(1<<31-1) * time.Second}
	for current := q.name; len(told.Aliases) <= maxChain; {
		next := ""
		for i, r := range records {
			if owners[i] != current || r.class != dns.ClassINET {
				continue
			}
			if r.kind == q.kind {
				addr, ok := netip.AddrFromSlice(b[r.data:r.end])
				if !ok || addr.Is4() != (q.kind == dns.TypeA) {
					return names.Answer{}, fmt.Errorf("%w: an address has %d bytes", errMalformed, r.end-r.data)
				}
				told.Addrs, told.TTL = append(told.Addrs, addr.Unmap()), min(told.TTL, lifetime(r))
			}
			if r.kind == dns.TypeCNAME && next == "" {
				var err error
				if next, err = nameAt(b, r.data, r.end); err != nil {
					return names.Answer{}, err
				}
				told.TTL = min(told.TTL, lifetime(r))
			}
		}
		if len(told.Addrs) > 0 || next == "" || slices.Contains(told.Aliases, next) {
			return told, nil
		}
		told.Aliases, current = append(told.Aliases, next), next
	}
	return names.Answer{}, nil
}

// lifetime is a record's TTL; one with the highest bit set is zero (RFC 2181
// section 8).
func lifetime(r record) time.Duration {
	if r.ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(r.ttl) * time.Second
}

const (
	paramMandatory = 0
	paramECH       = 5
	// paramFiller is the last key for private use (RFC 9460 section 14.3.2).
	paramFiller = 65534
)

// stripKeys takes the Encrypted Client Hello out of an HTTPS or SVCB record, in
// place: see the package comment. It reports whether there was one.
func stripKeys(b []byte, r record) (bool, error) {
	const priority = 2
	off, err := skipName(b[:r.end], r.data+priority)
	if err != nil {
		return false, err
	}
	at, size, mandatory, last := -1, 0, []byte(nil), -1
	for off < r.end {
		if r.end-off < 4 {
			return false, fmt.Errorf("%w: it ends inside a service parameter", errMalformed)
		}
		key, n := int(binary.BigEndian.Uint16(b[off:])), int(binary.BigEndian.Uint16(b[off+2:]))
		if key <= last || n > r.end-off-4 {
			return false, fmt.Errorf("%w: a service parameter is out of order, or too long", errMalformed)
		}
		switch key {
		case paramMandatory:
			mandatory = b[off+4 : off+4+n]
		case paramECH:
			at, size = off, n
		}
		last, off = key, off+4+n
	}
	if at < 0 {
		return false, nil
	}
	if last >= paramFiller {
		return false, fmt.Errorf("%w: a service parameter has a key that nobody may use beside these", errMalformed)
	}
	copy(b[at:r.end], b[at+4+size:r.end])
	filler := b[r.end-4-size : r.end]
	clear(filler)
	binary.BigEndian.PutUint16(filler, paramFiller)
	binary.BigEndian.PutUint16(filler[2:], uint16(size))
	stripMandatory(mandatory)
	return true, nil
}

// stripMandatory puts the filler in place of the keys in the list of what an
// agent must understand: who must have them can't use the record.
func stripMandatory(list []byte) {
	for i := 0; i+1 < len(list); i += 2 {
		if binary.BigEndian.Uint16(list[i:]) == paramECH {
			copy(list[i:], list[i+2:])
			binary.BigEndian.PutUint16(list[len(list)-2:], paramFiller)
			return
		}
	}
}
