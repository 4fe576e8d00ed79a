package mask

// Lengths of a card number (ISO/IEC 7812-1).
const (
	minPAN = 12
	maxPAN = 19
)

// matchPAN returns the end of the longest card number that starts at i, or 0:
//
//   - 12 to 19 digits, in one piece or in groups joined by single spaces or
//     dashes, where the first group has at least four digits, the last at least
//     one, and those between at least three;
//   - no letter or digit in front of it or behind it. A group next to a joint
//     may be left out, as in "id 12 4111 1111 1111 1111";
//   - not the fraction of a decimal number that a float64 can hold;
//   - an issuer prefix that goes with the number of digits (see issuers);
//   - the Luhn check digit (ISO/IEC 7812-1, annex B).
func matchPAN(v []byte, i int) int {
	var number digits
	group, best := 0, 0
	first := true
	for p := i; p < len(v); p++ {
		c := v[p]
		if d := c - '0'; d <= 9 {
			if number.count == maxPAN {
				return best
			}
			number.add(int(d))
			group++
			continue
		}
		if group == 0 || is(c, letter) {
			return best
		}
		if number.isPAN() && !(first && isFraction(v, i, number.count)) {
			best = p
		}
		if !is(c, joint) || group < 3 || first && group < 4 {
			return best
		}
		first, group = false, 0
	}
	if group > 0 && number.isPAN() && !(first && isFraction(v, i, number.count)) {
		best = len(v)
	}
	return best
}

// digits are the digits of a number so far.
type digits struct {
	count  int
	prefix int // of the first six
	// even and odd are the sums of the Luhn formula, should the number end with
	// an even or an odd count of digits.
	even, odd int
}

func (n *digits) add(d int) {
	if n.count < 6 {
		n.prefix = n.prefix*10 + d
	}
	doubled := 2 * d
	if d > 4 {
		doubled -= 9
	}
	if n.count%2 == 0 {
		n.even, n.odd = n.even+doubled, n.odd+d
	} else {
		n.even, n.odd = n.even+d, n.odd+doubled
	}
	n.count++
}

func (n *digits) isPAN() bool { return n.count >= minPAN && n.luhn() && n.issued() }

func (n *digits) luhn() bool {
	if n.count%2 == 0 {
		return n.even%10 == 0
	}
	return n.odd%10 == 0
}

// isFraction reports whether the n digits at i are the digits behind the point
// of a number with at most 17 significant digits, which is what a float64
// prints at most.
func isFraction(v []byte, i, n int) bool {
	if i < 2 || v[i-1] != '.' {
		return false
	}
	p := i - 1
	for p > 0 && is(v[p-1], digit) && i-p <= 5 {
		p--
	}
	whole := v[p : i-1]
	if len(whole) == 0 || p > 0 && (is(v[p-1], alnum) || v[p-1] == '.') {
		return false
	}
	if string(whole) == "0" {
		return n <= 17
	}
	return len(whole)+n <= 17
}

// issuer is a range of six-digit prefixes and the lengths that occur with it.
type issuer struct {
	from, to int
	lengths  uint32 // bit n: n digits
}

const (
	any1219 = 1<<20 - 1<<12
	any1419 = 1<<20 - 1<<14
	any1619 = 1<<20 - 1<<16
)

// issuers are the prefixes of the card schemes, by ascending prefix, from the
// schemes' public tables of issuer identification numbers.
var issuers = [...]issuer{
	{220000, 220499, any1619},                       // Mir
	{222100, 272099, 1 << 16},                       // Mastercard
	{300000, 305999, any1419},                       // Diners Club
	{309500, 309599, any1419},                       // Diners Club
	{340000, 349999, 1 << 15},                       // American Express
	{352800, 358999, any1619},                       // JCB
	{360000, 369999, any1419},                       // Diners Club
	{370000, 379999, 1 << 15},                       // American Express
	{380000, 399999, any1419},                       // Diners Club
	{400000, 499999, 1<<13 | 1<<16 | 1<<18 | 1<<19}, // Visa
	{500000, 509999, any1219},                       // Maestro, Elo, RuPay, Verve, Dankort
	{510000, 559999, 1 << 16},                       // Mastercard
	{560000, 589999, any1219},                       // Maestro
	{600000, 699999, any1219},                       // Discover, UnionPay, Maestro, RuPay
	{810000, 829999, any1619},                       // UnionPay, RuPay
	{979200, 979299, 1 << 16},                       // Troy
}

// firstIssuer is the first range that ends behind a first digit.
var firstIssuer = func() (t [10]int) {
	for d := range t {
		for t[d] < len(issuers) && issuers[t[d]].to < d*100000 {
			t[d]++
		}
	}
	return t
}()

// issued reports whether the prefix, of six digits, goes with their number.
func (n *digits) issued() bool {
	for _, r := range issuers[firstIssuer[n.prefix/100000]:] {
		if n.prefix <= r.to {
			return n.prefix >= r.from && r.lengths>>n.count&1 == 1
		}
	}
	return false
}
