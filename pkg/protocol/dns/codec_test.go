package dns

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// codec makes conversations readable. Its lines:
//
//	query 7 A GitHub.com. edns class=CH opcode=UPDATE
//	answer 7 A github.com. NOERROR truncated authentic | github.com. 60 IN A 192.0.2.1 | EDE 15 text
//	bytes 0007…   a message in hexadecimal
//	"any bytes"   without a length in front
type codec struct{}

func (codec) Encode(line string) ([]byte, error) {
	if strings.HasPrefix(line, `"`) {
		s, err := strconv.Unquote(line)
		return []byte(s), err
	}
	first, rest, _ := strings.Cut(line, " | ")
	words := strings.Fields(first)
	if words[0] == "bytes" {
		b, err := hex.DecodeString(words[1])
		return framed(b), err
	}
	if len(words) < 4 {
		return nil, errors.New("want query or answer with an id, a type and a name")
	}
	m, err := message(words)
	if err != nil {
		return nil, err
	}
	if words[0] == "answer" {
		if err := records(m, rest); err != nil {
			return nil, err
		}
	}
	b, err := m.Pack()
	return framed(b), err
}

func message(words []string) (*dns.Msg, error) {
	id, err := strconv.ParseUint(words[1], 10, 16)
	if err != nil {
		return nil, err
	}
	m := &dns.Msg{}
	m.SetQuestion(words[3], dns.StringToType[words[2]])
	m.Id, m.Compress = uint16(id), true
	if words[0] == "answer" {
		m.Response, m.RecursionAvailable = true, true
	}
	for _, word := range words[4:] {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "edns":
			m.SetEdns0(1232, false)
		case "class":
			m.Question[0].Qclass = dns.StringToClass[value]
		case "opcode":
			m.Opcode = dns.StringToOpcode[value]
		case "truncated":
			m.Truncated = true
		case "authentic":
			m.AuthenticatedData = true
		default:
			rcode, ok := dns.StringToRcode[key]
			if !ok {
				return nil, fmt.Errorf("unknown word %q", word)
			}
			m.Rcode = rcode
		}
	}
	return m, nil
}

func records(m *dns.Msg, text string) error {
	for _, line := range strings.Split(text, " | ") {
		if line == "" {
			continue
		}
		if words := strings.SplitN(line, " ", 3); words[0] == "EDE" {
			code, err := strconv.ParseUint(words[1], 10, 16)
			if err != nil {
				return err
			}
			m.SetEdns0(maxOwn, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: uint16(code), ExtraText: words[2]}}
			continue
		}
		rr, err := dns.NewRR(line)
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return nil
}

// Decode shows whole messages as dig does, in one line.
func (codec) Decode(p []byte) []string {
	var lines []string
	for len(p) >= 2 {
		n := int(binary.BigEndian.Uint16(p))
		if len(p) < 2+n {
			break
		}
		var m dns.Msg
		if err := m.Unpack(p[2 : 2+n]); err != nil {
			lines = append(lines, fmt.Sprintf("bytes %x", p[2:2+n]))
		} else {
			lines = append(lines, strings.Join(strings.Fields(m.String()), " "))
		}
		p = p[2+n:]
	}
	if len(p) > 0 {
		lines = append(lines, strconv.Quote(string(p)))
	}
	return lines
}
