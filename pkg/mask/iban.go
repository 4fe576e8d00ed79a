package mask

const minIBAN = 15

// ibanLengths has the length of an IBAN for each country of the IBAN registry
// (ISO 13616, kept by SWIFT), as "CCnn" strung together.
const ibanLengths = "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28" +
	"EE20EG29ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20" +
	"LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29" +
	"RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20YE30"

// countries is ibanLengths by country, two letters from 0 to 25 each.
var countries = func() (t [26 * 26]uint8) {
	for i := 0; i < len(ibanLengths); i += 4 {
		t[countryIndex(ibanLengths[i], ibanLengths[i+1])] = (ibanLengths[i+2]-'0')*10 + ibanLengths[i+3] - '0'
	}
	return t
}()

func countryIndex(a, b byte) int { return int(a&0x1f-1)*26 + int(b&0x1f-1) }

// findIBAN looks for an international bank account number: a country of the
// registry, two check digits, and as many letters and digits as that country
// has, in one piece or with single spaces or dashes, no letter or digit on
// either side, and the right check digits (ISO 7064, mod 97-10). Case does not
// matter.
func findIBAN(v []byte, from int) span {
	for i := from; i+minIBAN <= len(v); i++ {
		if !is(v[i+2], digit) || !is(v[i+3], digit) || !is(v[i], letter) || !is(v[i+1], letter) || i > 0 && is(v[i-1], alnum) {
			continue
		}
		if end := matchIBAN(v, i); end > 0 {
			return span{i, end}
		}
	}
	return span{}
}

func matchIBAN(v []byte, i int) int {
	want := int(countries[countryIndex(v[i], v[i+1])])
	if want == 0 {
		return 0
	}
	n, rest, p := 4, 0, i+4
	for ; n < want; p++ {
		if p >= len(v) {
			return 0
		}
		if is(v[p], joint) && is(v[p-1], alnum) {
			continue
		}
		if !is(v[p], alnum) {
			return 0
		}
		rest = mod97(rest, v[p])
		n++
	}
	if p < len(v) && is(v[p], alnum) {
		return 0
	}
	for _, c := range v[i : i+4] {
		rest = mod97(rest, c)
	}
	if rest != 1 {
		return 0
	}
	return p
}

// mod97 appends a character to a number of which only the rest is kept.
func mod97(rest int, c byte) int {
	if is(c, digit) {
		return (rest*10 + int(c-'0')) % 97
	}
	return (rest*100 + int(c&0x1f) + 9) % 97
}
