package mask

// matchSSN returns the end of the US social security number at i, or 0: three,
// two and four digits joined by dashes, no letter or digit on either side; the
// area is not 000, 666 or above 899, the group not 00, the serial not 0000
// (Social Security Administration, POMS RM 10201.035).
func matchSSN(v []byte, i int) int {
	const n = len("ddd-dd-dddd")
	if len(v) < i+n || len(v) > i+n && is(v[i+n], alnum) {
		return 0
	}
	s := v[i : i+n]
	for p, c := range s {
		if p == 3 || p == 6 {
			if c != '-' {
				return 0
			}
		} else if !is(c, digit) {
			return 0
		}
	}
	area, group, serial := string(s[:3]), string(s[4:6]), string(s[7:])
	if area == "000" || area == "666" || area >= "900" || group == "00" || serial == "0000" {
		return 0
	}
	return i + n
}
