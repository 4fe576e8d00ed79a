package mask

import "bytes"

// span is a match. The zero span is none, for a match is never empty.
type span struct{ start, end int }

func (m span) none() bool { return m.end == 0 }

// find returns the first match of a detector that starts at or behind from.
// What stands in front of from still counts as a boundary.
func find(d kind, v []byte, from int) span {
	switch d {
	case email:
		return findEmail(v, from)
	case iban:
		return findIBAN(v, from)
	case pan:
		return findNumber(v, from, matchPAN)
	case ssn:
		if bytes.IndexByte(v[from:], '-') < 0 {
			return span{} // as in most card numbers
		}
		return findNumber(v, from, matchSSN)
	default:
		return span{}
	}
}

// minNumber is the length of the shortest match of a number: an SSN.
const minNumber = len("ddd-dd-dddd")

// findNumber looks for digits, single spaces and dashes that match accepts. It
// probes four bytes in eight (see [Set.candidates]) and looks closer only where
// all four are such bytes and enough others stand beside them. match gets the
// position of a digit with no letter or digit in front of it, and returns the
// end of the match, or 0.
func findNumber(v []byte, from int, match func(v []byte, i int) int) span {
	for p := from; p+4 <= len(v); p += 8 {
		if !is(v[p], numeral) || !is(v[p+1], numeral) || !is(v[p+2], numeral) || !is(v[p+3], numeral) {
			continue
		}
		end := p + 4
		for p > from && is(v[p-1], numeral) {
			p--
		}
		for end < len(v) && end-p < minNumber && is(v[end], numeral) {
			end++
		}
		if end-p < minNumber {
			p = end - 8
			continue
		}
		for ; p < len(v) && is(v[p], numeral); p++ {
			if !is(v[p], digit) || p > 0 && is(v[p-1], alnum) {
				continue
			}
			if end := match(v, p); end > 0 {
				return span{p, end}
			}
		}
		p -= 8 // go on right here
	}
	return span{}
}
