package mask

import "bytes"

// findEmail looks for an email address as people write it: a local part of
// letters, digits, '.', '_', '%', '+', '-' and bytes of non-ASCII characters,
// with at least one that is neither '.', '-', '%' nor '+'; an '@'; and at least
// two labels of letters, digits, '-' and non-ASCII, joined by single dots, the
// last of which has two characters or more and is no number. Quoted local parts
// and address literals (RFC 5321, section 4.1.2) are not looked for.
func findEmail(v []byte, from int) span {
	for p := from; ; p++ {
		at := bytes.IndexByte(v[p:], '@')
		if at < 0 {
			return span{}
		}
		at += p
		start := at
		real := false
		for start > p && is(v[start-1], local) {
			start--
			real = real || is(v[start], word) || v[start] == '_'
		}
		if real {
			if end := domainEnd(v, at+1); end > 0 {
				return span{start, end}
			}
		}
		p = at
	}
}

// domainEnd returns the end of the longest host name at i, or 0.
func domainEnd(v []byte, i int) int {
	best := 0
	for label := 0; ; label++ {
		start, digits := i, 0
		for i < len(v) && (is(v[i], word) || v[i] == '-') {
			if is(v[i], digit) {
				digits++
			}
			i++
		}
		size := i - start
		for size > 0 && v[start+size-1] == '-' {
			size--
		}
		if size == 0 {
			return best
		}
		if label > 0 && size >= 2 && digits < size {
			best = start + size
		}
		if i == len(v) || v[i] != '.' || start+size < i {
			return best
		}
		i++
	}
}
