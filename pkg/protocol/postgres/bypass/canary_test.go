package bypass

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/jackc/pgx/v5"
)

// canary is a protected value: it is found nowhere but in its column.
type canary struct {
	name string
	// twins are the values of two databases that differ in nothing else.
	twins [2]string
	// plain canaries are for the detectors, which promise to find a value only as
	// it is usually written.
	plain bool
	// column is where the value is, for forms that the server computes.
	column string
	// length of the pieces that are a leak by themselves; 0 if none is.
	piece int
}

var canaries = []canary{
	{"ssn1", [2]string{"517-83-6294", "602-94-1758"}, false, "ssn", 8},
	{"ssn2", [2]string{"438-27-9051", "329-48-7160"}, false, "ssn", 8},
	{"card1", [2]string{"4539 6182 7405 9311", "5425 2334 9170 6282"}, false, "card", 9},
	{"card2", [2]string{"3714 4963 5398 4314", "6011 0009 9013 9424"}, false, "card", 9},
	{"pass1", [2]string{"Vq8xJwZk3RtPmLc7", "Hn4cTyGs9WdKzBe2"}, false, "passphrase", 6},
	{"pass2", [2]string{"Bz6nUyTe1WkFgHs4", "Xm3pQrLa8VjDuNc5"}, false, "passphrase", 6},
	{"salary1", [2]string{"1734829561", "1862049375"}, false, "salary", 8},
	{"salary2", [2]string{"1593748206", "1427860593"}, false, "salary", 8},
	{"balance1", [2]string{"8392017456.5561", "7261940385.4417"}, false, "balance", 9},
	{"balance2", [2]string{"6174920385.1942", "5038271694.8826"}, false, "balance", 9},
	{"born1", [2]string{"1957-10-23", "1948-12-17"}, false, "born", 0},
	{"born2", [2]string{"1906-12-09", "1911-11-28"}, false, "born", 0},
	{"seen1", [2]string{"1963-07-19 04:37:52.918273", "1971-03-28 16:51:09.463728"}, false, "seen", 12},
	{"seen2", [2]string{"1952-02-27 21:13:46.571839", "1959-08-14 07:45:31.284916"}, false, "seen", 12},
	{"vault1", [2]string{"Wn5yHtQd82LsBx", "Rj7kCvMf46PzTw"}, false, "", 6},
	{"vault2", [2]string{"Gd9fKpXr31NvQm", "Ys2bWhLc58JtZn"}, false, "", 6},
	{"photo1", [2]string{`\x8fd3a94be1720c5dfa6699b0`, `\x9be4c81fd2a37056eb7488c1`}, false, "photo", 8},
	{"photo2", [2]string{`\xc7e25f90ab3d8146d09e7fb3`, `\xd8f36a01bc4e9257e1af80c4`}, false, "photo", 8},
	{"tag1", [2]string{"Kp4mYzGv9TqRh1", "Lq5nZaHw8UrSi2"}, false, "", 6},
	{"tag2", [2]string{"Zx2cVbNm7LkJh6", "Aw3dXcPn9MlKi7"}, false, "", 6},
	{"code1", [2]string{"1829340176", "1738451926"}, false, "codes[1]", 8},
	{"code2", [2]string{"1640923875", "1951734286"}, false, "codes[1]", 8},
	{"token1", [2]string{"6f1d0c9a-83e7-4b52-9c46-2ea71f5d830b", "7a2e1dab-94f8-4c63-8d57-3fb82a6e941c"}, false, "token", 8},
	{"token2", [2]string{"d94b7e20-15fa-4c83-b6d9-70c8e3a2f514", "e05c8f31-26ab-4d94-a7ea-81d9f4b3a625"}, false, "token", 8},
	{"iban1", [2]string{"DE44500105175407324931", "DE91100000000123456789"}, false, "", 10},
	{"iban2", [2]string{"GB29NWBK60161331926819", "FR1420041010050500013M"}, false, "", 10},
	{"pan1", [2]string{"5425233491706282", "4539618274059311"}, true, "", 0},
}

// forms are the ways to write the protected values that the search knows.
type forms struct {
	raw  map[string]string // as they are
	flat map[string]string // letters and digits only, in lower case
	// heads are the forms by their first bytes, for a search in one pass.
	heads map[[shortest]byte][]string
}

// shortest is the length of the shortest form that is looked for.
const shortest = 4

func (f *forms) add(name string, values ...string) {
	for _, v := range values {
		if _, known := f.raw[v]; len(v) >= shortest && !known {
			f.raw[v] = name
			head := [shortest]byte([]byte(v[:shortest]))
			f.heads[head] = append(f.heads[head], v)
		}
	}
}

// formsOf computes the forms of all canaries of a twin. conn is used for those
// that the server knows best: binary formats and its own hashes.
func formsOf(ctx context.Context, conn *pgx.Conn, twin int) (*forms, error) {
	f := &forms{raw: map[string]string{}, flat: map[string]string{}, heads: map[[shortest]byte][]string{}}
	for _, c := range canaries {
		value := c.twins[twin]
		if c.plain {
			f.add(c.name, value)
			continue
		}
		f.text(&c, value)
		if c.name[:3] == "pho" {
			raw, err := hex.DecodeString(value[2:])
			if err != nil {
				return nil, fmt.Errorf("read canary: %w", err)
			}
			f.text(&canary{name: c.name}, string(raw))
		}
		if c.column == "" {
			continue
		}
		if err := f.server(ctx, conn, &c); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// text adds the forms of a text that can be computed here.
func (f *forms) text(c *canary, value string) {
	for _, v := range []string{value, flatten(value)} {
		if len(v) < 8 {
			continue
		}
		for _, w := range []string{v, reverse(v)} {
			f.add(c.name, w, strings.ToUpper(w), strings.ToLower(w), hex.EncodeToString([]byte(w)),
				strings.ToUpper(hex.EncodeToString([]byte(w))), rot13(w), wide(w, 0), wide(w, 1))
			for _, list := range []string{"%03o", "%d", "%x", "%08b", "%07b"} {
				f.lists(c.name, w, list)
			}
			for offset := range 3 {
				f.add(c.name, base64Piece(w, offset))
			}
		}
		f.digests(c.name, v)
		for i := 0; c.piece > 0 && i+c.piece <= len(v); i++ {
			piece := v[i : i+c.piece]
			f.add(c.name, piece, strings.ToLower(piece), strings.ToUpper(piece), reverse(piece))
		}
	}
	if flat := flatten(value); len(flat) >= 8 {
		f.flat[flat], f.flat[reverse(flat)] = c.name, c.name
	}
}

// lists adds lists of the codes of the characters, with usual separators.
func (f *forms) lists(name, value, format string) {
	var codes []string
	for _, b := range []byte(value) {
		codes = append(codes, fmt.Sprintf(format, b))
	}
	for _, sep := range []string{"", ",", ", ", " ", "|", "\n", "\t", ";", "-", "%", `\`, `","`, "&#x"} {
		f.add(name, strings.Join(codes, sep))
	}
}

func (f *forms) digests(name, value string) {
	a, b, c, d := md5.Sum([]byte(value)), sha1.Sum([]byte(value)), sha256.Sum256([]byte(value)), sha512.Sum512([]byte(value))
	e := sha256.Sum224([]byte(value))
	g := sha512.Sum384([]byte(value))
	for _, sum := range [][]byte{a[:], b[:], c[:], d[:], e[:], g[:]} {
		f.add(name, hex.EncodeToString(sum), string(sum), base64.StdEncoding.EncodeToString(sum)[:16], reverse(hex.EncodeToString(sum)))
	}
}

// serverForms are expressions over a value v; each gives a text, or bytes in
// hexadecimal behind "hex:".
const serverForms = `select unnest(array[v::text, quote_literal(v), to_json(v)::text, hashtext(v::text)::text, hashtextextended(v::text, 0)::text,
 'hex:' || encode(convert_to(v::text, 'UTF8'), 'hex'), 'hex:' || encode(int4send(hashtext(v::text)), 'hex'), %[2]s]) from (select %[1]s as v from customers where id = %[3]d) s`

// extraForms are those of the types, by column.
var extraForms = map[string]string{
	"salary":   integerForms,
	"codes[1]": integerForms,
	"balance":  `'hex:' || encode(numeric_send(v), 'hex'), 'hex:' || encode(float8send(v::float8), 'hex'), trunc(v)::text, hash_numeric(v)::text, trunc(v * 100)::text, v::money::text`,
	"born": `'hex:' || encode(date_send(v), 'hex'), to_char(v, 'DD.MM.YYYY'), to_char(v, 'MM/DD/YYYY'), to_char(v, 'DD/MM/YYYY'), to_char(v, 'MM-DD-YYYY'),
 to_char(v, 'DD-MM-YYYY'), to_char(v, 'YYYYMMDD'), to_char(v, 'YYYY/MM/DD'), extract(epoch from v)::bigint::text, to_char(v, 'J'), to_char(v, 'FMMonth DD'),
 'hex:' || encode(timestamp_send(v::timestamp), 'hex'), (v - date '2000-01-01')::text, to_char(v, 'IYYY-"W"IW-ID')`,
	"seen": `'hex:' || encode(timestamp_send(v), 'hex'), extract(epoch from v)::text, 'hex:' || encode(numeric_send(extract(epoch from v)), 'hex'), 'hex:' || encode(time_send(v::time), 'hex'), replace(v::text, ' ', 'T'), v::time::text, to_char(v, 'MM/DD/YYYY HH24:MI'),
 to_char(v, 'US') || to_char(v, 'SS'), to_char(v, 'DD.MM.YYYY HH24:MI')`,
	"photo": `'hex:' || encode(v, 'hex'), encode(v, 'escape'), encode(v, 'base64'), md5(v), encode(sha256(v), 'hex')`,
	"token": `'hex:' || encode(uuid_send(v), 'hex'), replace(v::text, '-', ''), uuid_hash(v)::text`,
}

const integerForms = `'hex:' || encode(int4send(v), 'hex'), 'hex:' || encode(int8send(v), 'hex'), 'hex:' || encode(float8send(v), 'hex'), to_hex(v), upper(to_hex(v)),
 'hex:' || encode(numeric_send(v), 'hex'), to_char(v, 'FM9,999,999,999'), v::money::text, v::bit(32)::text, hashint4(v)::text, hashint8(v)::text,
 to_timestamp(v)::timestamp::text, host('0.0.0.0'::inet + v), 'hex:' || encode(int8send(v::bigint * 100), 'hex'), 'hex:' || encode(inet_send('0.0.0.0'::inet + v), 'hex'), (v - 1)::text, (v + 1)::text, (-v)::text, (~v)::text, (v::bigint * 2)::text`

func (f *forms) server(ctx context.Context, conn *pgx.Conn, c *canary) error {
	row := 1
	if strings.HasSuffix(c.name, "2") {
		row = 2
	}
	extra := extraForms[c.column]
	if extra == "" {
		extra = "''"
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(serverForms, c.column, extra, row))
	if err != nil {
		return fmt.Errorf("ask for forms: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("ask for forms of %s: %w", c.name, err)
	}
	for _, form := range list {
		code, binary := strings.CutPrefix(form, "hex:")
		if !binary {
			f.add(c.name, form)
			continue
		}
		raw, err := hex.DecodeString(code)
		if err != nil {
			return fmt.Errorf("read form: %w", err)
		}
		f.add(c.name, string(raw), code, strings.ToUpper(code))
	}
	return nil
}

// find returns what was found in a text: forms and the canaries that they are of.
func (f *forms) find(text string) []string {
	var found []string
	for i := 0; i+shortest <= len(text) && len(found) < 20; i++ {
		for _, form := range f.heads[[shortest]byte([]byte(text[i:i+shortest]))] {
			if strings.HasPrefix(text[i:], form) {
				found = append(found, fmt.Sprintf("%s as %q", f.raw[form], form))
			}
		}
	}
	flat := flatten(text)
	for form, name := range f.flat {
		if strings.Contains(flat, form) {
			found = append(found, fmt.Sprintf("%s as %q without what is between", name, form))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// flatten keeps letters and digits, in lower case.
func flatten(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, s)
}

func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

func rot13(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return 'a' + (r-'a'+13)%26
		case r >= 'A' && r <= 'Z':
			return 'A' + (r-'A'+13)%26
		}
		return r
	}, s)
}

// wide is UTF-16; high says where the high byte stands.
func wide(s string, high int) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		pair := [2]byte{byte(u), byte(u)}
		pair[high] = byte(u >> 8)
		b = append(b, pair[:]...)
	}
	return string(b)
}

// base64Piece is what of a text's base64 does not depend on what is around it.
func base64Piece(s string, offset int) string {
	code := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + s))
	code = strings.TrimRight(code, "=")
	if offset > 0 {
		code = code[4:]
	}
	if (offset+len(s))%3 != 0 {
		code = code[:len(code)-1]
	}
	return code
}

func ascii(codes []int64) string {
	var b strings.Builder
	for _, c := range codes {
		if c >= ' ' && c < 127 {
			b.WriteByte(byte(c))
		}
	}
	return b.String()
}

// bits reads a string of 0 and 1 as characters of width bits, in any alignment.
func bits(s string, width int) []string {
	var all []string
	for offset := range width {
		var b strings.Builder
		for i := offset; i+width <= len(s); i += width {
			n, err := strconv.ParseUint(s[i:i+width], 2, 8)
			if err == nil {
				b.WriteByte(byte(n))
			}
		}
		all = append(all, b.String())
	}
	return all
}
