package postgres

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// The types of which a constant can be a value, by their OIDs in pg_type.dat.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidOID         = 26
	oidJSON        = 114
	oidFloat4      = 700
	oidFloat8      = 701
	oidDate        = 1082
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidNumeric     = 1700
	oidUUID        = 2950
	oidJSONB       = 3802
)

// constantOf returns a mask's constant as a value of a type, in the format of a
// column, so that who reads the column need not know that it is masked. It
// returns false for what is no value of the type, and for types that it doesn't
// know: NULL is the only value that all types have. The text format is what the
// type's output function writes, the binary format what its send function does
// (src/backend/utils/adt).
func constantOf(oid uint32, binaryFormat bool, text string) ([]byte, bool) {
	encode, ok := constants[oid]
	if !ok {
		return nil, false
	}
	written, sent, ok := encode(text)
	if !ok {
		return nil, false
	}
	if binaryFormat {
		return sent, sent != nil
	}
	return []byte(written), true
}

// constants hold an encoder for each type: it returns the text and the binary
// form of a constant.
var constants = map[uint32]func(text string) (written string, sent []byte, ok bool){
	oidBool: constantBool,
	oidInt2: func(s string) (string, []byte, bool) { return constantInteger(s, 16) },
	oidInt4: func(s string) (string, []byte, bool) { return constantInteger(s, 32) },
	oidInt8: func(s string) (string, []byte, bool) { return constantInteger(s, 64) },
	oidOID: func(s string) (string, []byte, bool) {
		n, err := strconv.ParseUint(s, 10, 32)
		return strconv.FormatUint(n, 10), binary.BigEndian.AppendUint32(nil, uint32(n)), err == nil
	},
	oidFloat4: func(s string) (string, []byte, bool) {
		f, ok := finite(s, 32)
		return strconv.FormatFloat(f, 'g', -1, 32), binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(f))), ok
	},
	oidFloat8: func(s string) (string, []byte, bool) {
		f, ok := finite(s, 64)
		return strconv.FormatFloat(f, 'g', -1, 64), binary.BigEndian.AppendUint64(nil, math.Float64bits(f)), ok
	},
	oidNumeric:     constantNumeric,
	oidDate:        constantDate,
	oidTimestamp:   func(s string) (string, []byte, bool) { return constantTime(s, "") },
	oidTimestamptz: func(s string) (string, []byte, bool) { return constantTime(s, "+00") },
	oidUUID:        constantUUID,
	oidBytea:       func(s string) (string, []byte, bool) { return `\x` + hex.EncodeToString([]byte(s)), []byte(s), true },
	oidJSON:        func(s string) (string, []byte, bool) { return s, []byte(s), json.Valid([]byte(s)) },
	oidJSONB:       func(s string) (string, []byte, bool) { return s, append([]byte{1}, s...), json.Valid([]byte(s)) },
}

func constantBool(s string) (string, []byte, bool) {
	switch strings.ToLower(s) {
	case "t", "true":
		return "t", []byte{1}, true
	case "f", "false":
		return "f", []byte{0}, true
	default:
		return "", nil, false
	}
}

func constantInteger(s string, bits int) (string, []byte, bool) {
	n, err := strconv.ParseInt(s, 10, bits)
	if err != nil {
		return "", nil, false
	}
	sent := binary.BigEndian.AppendUint64(nil, uint64(n))
	return strconv.FormatInt(n, 10), sent[8-bits/8:], true
}

func finite(s string, bits int) (float64, bool) {
	f, err := strconv.ParseFloat(s, bits)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// constantNumeric takes whole numbers of up to 18 digits.
func constantNumeric(s string) (string, []byte, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n >= 1e18 || n <= -1e18 {
		return "", nil, false
	}
	var groups []uint16
	rest := uint64(max(n, -n))
	for ; rest > 0; rest /= 10000 {
		groups = append([]uint16{uint16(rest % 10000)}, groups...)
	}
	sign := uint16(0)
	if n < 0 {
		sign = 0x4000 // NUMERIC_NEG
	}
	weight := uint16(max(0, len(groups)-1))
	sent := binary.BigEndian.AppendUint16(nil, uint16(len(groups)))
	for _, v := range append([]uint16{weight, sign, 0}, groups...) {
		sent = binary.BigEndian.AppendUint16(sent, v)
	}
	return strconv.FormatInt(n, 10), sent, true
}

// epoch is that of PostgreSQL's dates and timestamps.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func constantDate(s string) (string, []byte, bool) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Year() < 1 {
		return "", nil, false
	}
	days := int32(t.Sub(epoch) / (24 * time.Hour))
	return s, binary.BigEndian.AppendUint32(nil, uint32(days)), true
}

// constantTime takes a date, or a date and a time, in UTC.
func constantTime(s, zone string) (string, []byte, bool) {
	t, err := time.Parse(time.DateTime, s)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s)
	}
	if err != nil || t.Year() < 1709 { // further away no time.Duration reaches
		return "", nil, false
	}
	micros := t.Sub(epoch).Microseconds()
	return t.Format(time.DateTime) + zone, binary.BigEndian.AppendUint64(nil, uint64(micros)), true
}

func constantUUID(s string) (string, []byte, bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return "", nil, false
	}
	sent, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	return strings.ToLower(s), sent, err == nil
}
