package mask

import (
	"bytes"
	"encoding/binary"
)

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// Which bytes a detector looks for, one bit each in the result of candidates.
const (
	numeric = 1<<pan | 1<<ssn
)

// MayFind reports whether a detector may find something in v. It is much cheaper
// than [Set.Scan], and a false is certain.
func (s *Set) MayFind(v []byte) bool { return s.HasDetectors() && s.candidates(v) != 0 }

// candidates returns the detectors that could find something in v. It is what
// every clean value pays, so it reads eight bytes at a time and does not branch
// on them. It may say yes to a clean value, never no to a value with a match:
//
//   - an email has an '@';
//   - a card number or an SSN is at least eleven digits, spaces and dashes in a
//     row, so it covers eight bytes that start at a multiple of four, and all of
//     them are in 0x20 to 0x3f;
//   - an IBAN is at least 15 bytes long and starts with two letters and two
//     digits behind something that is neither.
func (s *Set) candidates(v []byte) kinds {
	if s.thorough {
		return s.detectors
	}
	if s.detectors == 1<<email || len(v) < 8 {
		if s.detectors.has(email) && bytes.IndexByte(v, '@') >= 0 {
			return 1 << email
		}
		return 0
	}
	var found kinds
	if s.detectors.has(iban) && ibanStarts(v) {
		found = 1 << iban
	}
	// The last eight bytes, for an '@' behind the last full word.
	at := zeroBytes(binary.LittleEndian.Uint64(v[len(v)-8:]) ^ '@'*lows)
	var digits, before uint32
	for len(v) >= 8 {
		x := binary.LittleEndian.Uint64(v)
		at |= zeroBytes(x ^ '@'*lows)
		first, second := numericWindow(uint32(x)), numericWindow(uint32(x>>32))
		digits |= first & (before | second)
		before = second
		v = v[8:]
	}
	if len(v) >= 4 {
		digits |= before & numericWindow(binary.LittleEndian.Uint32(v))
	}
	if at&highs != 0 {
		found |= 1 << email
	}
	if digits>>31 != 0 {
		found |= numeric
	}
	return found & s.detectors
}

// zeroBytes sets the high bit of at least one byte if some byte of x is zero,
// and of none if there is none. Other bits are noise.
func zeroBytes(x uint64) uint64 { return (x - lows) &^ x }

// numericWindow sets the highest bit if all four bytes are in 0x20 to 0x3f.
func numericWindow(x uint32) uint32 {
	x = x&0xe0e0e0e0 ^ 0x20202020
	return (x - 1) &^ x
}

// ibanStarts reports whether two letters and two digits stand at the start of
// v or behind a byte that is neither. A start in the last bytes behind the last
// full word is not looked for: no IBAN fits there.
func ibanStarts(v []byte) bool {
	var found, prevLetter, prevDigit uint64
	for len(v) >= 8 {
		x := binary.LittleEndian.Uint64(v)
		ascii := ^x & highs
		low := x &^ highs
		digits := (low + (0x80-'0')*lows) &^ (low + (0x80-'9'-1)*lows) & ascii
		folded := low | 0x20*lows
		letters := (folded + (0x80-'a')*lows) &^ (folded + (0x80-'z'-1)*lows) & ascii
		// Lane i of each is what byte i-1, i-2, … is.
		d1 := digits<<8 | prevDigit>>56
		l2 := letters<<16 | prevLetter>>48
		l3 := letters<<24 | prevLetter>>40
		alnum4 := (letters|digits)<<32 | (prevLetter|prevDigit)>>32
		found |= digits & d1 & l2 & l3 &^ alnum4
		prevLetter, prevDigit = letters, digits
		v = v[8:]
	}
	return found != 0
}
