package mask

import "slices"

// kind numbers the detectors in the order of their names.
type kind uint8

const (
	email kind = iota
	iban
	pan
	ssn
	kindCount
)

var kindNames = [kindCount]string{email: "email", iban: "iban", pan: "pan", ssn: "ssn"}

const maxPasses = 8

// kinds is a set of detectors, one bit each.
type kinds uint8

func (k kinds) has(d kind) bool { return k>>d&1 == 1 }

// Detectors returns the names of the detectors, sorted.
func Detectors() []string { return slices.Clone(kindNames[:]) }

// Scan looks for what the set's detectors find and rewrites it. If there is
// nothing, it returns value itself and 0, without an allocation. Otherwise it
// appends the rewritten value to dst, which must not overlap value, and returns
// the extended buffer and the number of places that were rewritten.
//
// Matches that overlap are rewritten as one, with the strictest of their
// actions. Apart from rewriting with a constant, the result contains nothing
// that the set would find again. It depends on nothing but value.
func (s *Set) Scan(dst, value []byte) (out []byte, hits int) {
	return s.ScanFunc(dst, value, nil)
}

// ScanFunc is [Set.Scan] and calls hit, if it is not nil, with the name of the
// detector for each place that was rewritten. Of matches that overlap, the
// leftmost gives the name; of those, the longest.
func (s *Set) ScanFunc(dst, value []byte, hit func(detector string)) (out []byte, hits int) {
	if !s.HasDetectors() {
		return value, 0
	}
	found := s.candidates(value)
	if found == 0 {
		return value, 0
	}
	m := merger{set: s, value: value, hit: hit}
	out, hits = m.rewrite(dst, found)
	if hits == 0 {
		return value, 0
	}
	if m.whole {
		return out, hits
	}
	// What is left beside a match can be a match now that its neighbour is
	// gone. Each pass leaves fewer digits and '@', unless a constant brings new
	// ones. Hence the bounds: from the fourth pass on all matches are redacted,
	// and should that not end it, so is the whole value.
	for pass := 1; ; pass++ {
		rest := out[len(dst):]
		if found = s.candidates(rest); !m.any(rest, found) {
			return out, hits
		}
		if pass == maxPasses {
			return append(out[:len(dst)], redacted...), hits
		}
		m = merger{set: s, value: slices.Clone(rest), hit: hit, strict: pass >= 3}
		var more int
		out, more = m.rewrite(out[:len(dst)], found)
		hits += more
	}
}

// merger walks over the matches of all detectors in a value, from left to right.
type merger struct {
	set    *Set
	value  []byte
	hit    func(string)
	strict bool // redact, whatever the rules say
	whole  bool // one match was all of the value; its rewriting is no match
	next   [kindCount]span
	done   int // how much of the value is rewritten
	hits   int
}

// any reports whether a detector finds anything in v.
func (m *merger) any(v []byte, found kinds) bool {
	for d := range kindCount {
		if found.has(d) && !find(d, v, 0).none() {
			return true
		}
	}
	return false
}

// rewrite appends the value to dst with its matches rewritten. If there are
// none, it appends nothing.
func (m *merger) rewrite(dst []byte, found kinds) (out []byte, hits int) {
	finders, last := 0, kindCount
	for d := range kindCount {
		if !found.has(d) {
			continue
		}
		if m.next[d] = find(d, m.value, 0); !m.next[d].none() {
			finders++
			last = d
		}
	}
	switch {
	case finders == 0:
		return dst, 0
	case finders == 1 && !m.set.thorough: // nothing overlaps
		for match := m.next[last]; !match.none(); match = find(last, m.value, match.end) {
			dst = m.replace(dst, match, last, &m.set.actions[last])
		}
	default:
		for d := m.first(); d != kindCount; d = m.first() {
			match, action := m.take(d)
			dst = m.replace(dst, match, d, action)
		}
	}
	return append(dst, m.value[m.done:]...), m.hits
}

// replace appends what stands in front of a match that was not appended yet, and
// what the match becomes.
func (m *merger) replace(dst []byte, match span, d kind, action *Action) []byte {
	if m.strict {
		action = &Action{Rule: action.Rule, With: Redact}
	}
	dst = append(dst, m.value[m.done:match.start]...)
	dst = action.rewrite(dst, m.value[match.start:match.end])
	m.done = match.end
	m.hits++
	m.whole = match.start == 0 && match.end == len(m.value)
	if m.hit != nil {
		m.hit(kindNames[d])
	}
	return dst
}

// first returns the detector of the leftmost match, the longest of those, or
// kindCount if there is none.
func (m *merger) first() kind {
	best := kindCount
	for d := range kindCount {
		n := m.next[d]
		if n.none() {
			continue
		}
		if best == kindCount || n.start < m.next[best].start || n.start == m.next[best].start && n.end > m.next[best].end {
			best = d
		}
	}
	return best
}

// take takes a detector's next match and every match that overlaps it, and
// returns what they cover together and the strictest of their actions.
func (m *merger) take(d kind) (span, *Action) {
	match, action := m.next[d], &m.set.actions[d]
	m.next[d] = find(d, m.value, match.end)
	for again := true; again; {
		again = false
		for o := range kindCount {
			n := m.next[o]
			if n.none() || n.start >= match.end {
				continue
			}
			match.end = max(match.end, n.end)
			if a := &m.set.actions[o]; a.With < action.With {
				action = a
			}
			m.next[o] = find(o, m.value, n.end)
			again = true
		}
	}
	return match, action
}
