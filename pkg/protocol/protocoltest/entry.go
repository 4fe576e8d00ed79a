package protocoltest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// entry is one line of the sections operations and frames: words in their
// order, then values under keys. Words and values are in canonical form, so
// that equal entries have equal text.
type entry struct {
	words []string
	keys  []keyed
}

type keyed struct{ key, value string }

func (e *entry) add(key string, items ...string) {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = quote(item)
	}
	if value := strings.Join(quoted, ","); value != "" {
		e.keys = append(e.keys, keyed{key, value})
	}
}

// only returns e with no other keys than those of want, in want's order. A key
// that e lacks has no value.
func (e entry) only(want entry) entry {
	kept := entry{words: e.words}
	for _, w := range want.keys {
		value := ""
		for _, k := range e.keys {
			if k.key == w.key {
				value = k.value
			}
		}
		kept.keys = append(kept.keys, keyed{w.key, value})
	}
	return kept
}

// String returns the entry as a line of a conversation.
func (e entry) String() string {
	parts := slices.Clone(e.words)
	for _, k := range e.keys {
		parts = append(parts, k.key+"="+k.value)
	}
	return strings.Join(parts, " ")
}

// lines renders got as far as want asks for it, and in full where want has no
// counterpart.
func lines(want, got []entry) (wanted, had []string) {
	for _, w := range want {
		wanted = append(wanted, w.String())
	}
	for i, g := range got {
		if i < len(want) {
			g = g.only(want[i])
		}
		had = append(had, g.String())
	}
	return wanted, had
}

func parseEntry(line string) (entry, error) {
	fields, err := splitOutsideQuotes(line, ' ')
	if err != nil {
		return entry{}, err
	}
	var e entry
	for _, field := range fields {
		key, value, isKey := strings.Cut(field, "=")
		switch {
		case field == "":
		case isKey && !strings.HasPrefix(field, `"`):
			items, err := parseList(value)
			if err != nil {
				return entry{}, err
			}
			e.keys = append(e.keys, keyed{key, strings.Join(items, ",")})
		default:
			word, err := canonicalWord(field)
			if err != nil {
				return entry{}, err
			}
			e.words = append(e.words, word)
		}
	}
	return e, nil
}

// parseList brings each item of a list into the form that quote gives it.
func parseList(value string) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	items, err := splitOutsideQuotes(value, ',')
	if err != nil {
		return nil, err
	}
	for i, item := range items {
		plain, err := unquote(item)
		if err != nil {
			return nil, err
		}
		items[i] = quote(plain)
	}
	return items, nil
}

// canonicalWord keeps a word that is quoted apart from one that is not: NULL is
// not "NULL".
func canonicalWord(word string) (string, error) {
	if !strings.HasPrefix(word, `"`) && !strings.HasPrefix(word, "`") {
		return word, nil
	}
	plain, err := unquote(word)
	return strconv.Quote(plain), err
}

func unquote(s string) (string, error) {
	if !strings.HasPrefix(s, `"`) && !strings.HasPrefix(s, "`") {
		return s, nil
	}
	plain, err := strconv.Unquote(s)
	if err != nil {
		return "", fmt.Errorf("unquote %s: %w", s, err)
	}
	return plain, nil
}

// quote leaves simple words alone and quotes all others.
func quote(s string) string {
	simple := s != ""
	for _, r := range s {
		if !strconv.IsPrint(r) || strings.ContainsRune(" ,\"`", r) {
			simple = false
		}
	}
	if simple {
		return s
	}
	return strconv.Quote(s)
}

// splitOutsideQuotes splits s at each separator that is not inside a Go string
// literal.
func splitOutsideQuotes(s string, sep byte) ([]string, error) {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case sep:
			parts = append(parts, s[start:i])
			start = i + 1
		case '"', '`':
			literal, err := strconv.QuotedPrefix(s[i:])
			if err != nil {
				return nil, fmt.Errorf("read quoted word in %s: %w", s, err)
			}
			i += len(literal) - 1
		}
	}
	return append(parts, s[start:]), nil
}
