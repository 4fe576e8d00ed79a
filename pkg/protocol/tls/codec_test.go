package tls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// codec makes conversations readable. Its lines:
//
//	hello name=a.example alpn=h2,http/1.1 versions=1.3,1.2 pad=100 records=3 ech grease
//	alert 49
//	"any bytes"
type codec struct{}

func (codec) Encode(line string) ([]byte, error) {
	words := strings.Fields(line)
	switch {
	case strings.HasPrefix(line, `"`):
		s, err := strconv.Unquote(line)
		return []byte(s), err
	case words[0] == "hello":
		return encodeHello(words[1:])
	case words[0] == "alert" && len(words) == 2:
		n, err := strconv.ParseUint(words[1], 10, 8)
		return alert(byte(n)), err
	}
	return nil, errors.New("want hello, alert or a literal")
}

// Decode quotes all but alerts: a hello is seen from its operation.
func (codec) Decode(p []byte) []string {
	var lines []string
	for len(p) > 0 {
		n := min(len(p), 32)
		if p[0] == recordAlert && len(p) >= 7 {
			lines, p = append(lines, fmt.Sprintf("alert %d", p[6])), p[7:]
			continue
		}
		lines, p = append(lines, strconv.Quote(string(p[:n]))), p[n:]
	}
	return lines
}

var versionNumbers = map[string]uint16{"1.0": 0x0301, "1.1": 0x0302, "1.2": 0x0303, "1.3": 0x0304}

func encodeHello(words []string) ([]byte, error) {
	var extensions []byte
	records := 1
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var content []byte
		kind := 0
		switch key {
		case "name":
			kind, content = extServerName, vector16(append([]byte{0}, vector16([]byte(value))...))
		case "alpn":
			for _, p := range strings.Split(value, ",") {
				content = append(content, vector8([]byte(p))...)
			}
			kind, content = extALPN, vector16(content)
		case "versions":
			for _, v := range strings.Split(value, ",") {
				content = binary.BigEndian.AppendUint16(content, versionNumbers[v])
			}
			kind, content = extSupportedVersions, vector8(content)
		case "ech":
			kind, content = extEncryptedHello, []byte{0}
		case "grease":
			kind = 0x3a3a
		case "pad":
			n, err := strconv.Atoi(value)
			if err != nil {
				return nil, err
			}
			kind, content = 21, make([]byte, n)
		case "records":
			n, err := strconv.Atoi(value)
			if err != nil {
				return nil, err
			}
			records = n
			continue
		default:
			return nil, fmt.Errorf("unknown word %q", word)
		}
		extensions = append(extensions, extension(kind, content)...)
	}
	return inRecords(message(extensions), records), nil
}

func vector8(b []byte) []byte  { return append([]byte{byte(len(b))}, b...) }
func vector16(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }

func extension(kind int, content []byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind)}, vector16(content)...)
}

// message returns a ClientHello with these extensions.
func message(extensions []byte) []byte {
	body := slices.Concat(
		[]byte{3, 3}, bytes.Repeat([]byte{7}, 32), vector8(make([]byte, 32)),
		vector16([]byte{0x13, 1, 0xc0, 0x2f}), vector8([]byte{0}), vector16(extensions))
	return append([]byte{clientHello, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// inRecords cuts a message into n records of about the same length.
func inRecords(message []byte, n int) []byte {
	var out []byte
	size := (len(message) + n - 1) / n
	for chunk := range slices.Chunk(message, size) {
		out = append(append(out, recordHandshake, 3, 1), vector16(chunk)...)
	}
	return out
}
