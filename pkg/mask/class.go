package mask

// class says what a byte is to the detectors and to keep-last-4.
type class uint8

const (
	digit     class = 1 << iota
	letter          // ASCII
	joint           // what may stand between the groups of a number
	separator       // what keep-last-4 leaves in place
	mark            // what else an email's local part may have
	foreign         // a byte of a character beyond ASCII

	alnum   = digit | letter
	numeral = digit | joint
	word    = alnum | foreign
	local   = word | mark
)

// classes is the class of each byte.
var classes = func() (t [256]class) {
	for c := range t {
		switch {
		case '0' <= c && c <= '9':
			t[c] = digit
		case 'a' <= c|0x20 && c|0x20 <= 'z':
			t[c] = letter
		case c >= 0x80:
			t[c] = foreign
		}
	}
	for _, c := range []byte(" -") {
		t[c] |= joint
	}
	for _, c := range []byte(" -./:@") {
		t[c] |= separator
	}
	for _, c := range []byte("._%+-") {
		t[c] |= mark
	}
	return t
}()

func is(c byte, what class) bool { return classes[c]&what != 0 }
