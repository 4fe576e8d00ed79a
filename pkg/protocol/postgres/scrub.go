package postgres

import (
	"encoding/binary"
	"slices"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// withheld takes the place of a text that may hold protected data.
const withheld = "withheld by headgate: a mask applies"

// scrubMode is how much of an error or a notice may be shown.
type scrubMode uint8

const (
	scrubNothing scrubMode = iota // only what the detectors find goes
	scrubValues                   // details go, and whatever is quoted or in parentheses
	scrubAll                      // the message goes too
)

// scrubbing chooses the mode for an error or a notice that belongs to r.
// pending.mu is held.
func (x *exchange) scrubbing(r *request, set *mask.Set, fields []wire.Field) scrubMode {
	if !set.HasColumns() {
		return scrubNothing
	}
	if r != nil && r.next != nil {
		r = r.next
	}
	hidden, reveals := false, false
	if r != nil {
		facts := factsOf(r)
		for _, fact := range facts {
			hidden = hidden || obscure(fact)
		}
		reveals = x.mayReveal(&step{facts: facts}, set)
	}
	code := string(wire.Get(fields, 'C'))
	switch {
	case errorClass(code) == "P0", hidden && (!structural(code) || wire.Get(fields, 'W') != nil):
		return scrubAll // code that nobody can see chooses its words and its code
	case hidden, errorClass(code) == "22", errorClass(code) == "23", errorClass(code) == "XX":
		return scrubValues
	case reveals && !structural(code):
		return scrubValues
	default:
		return scrubNothing
	}
}

// factsOf returns what may have caused an error in r: a Bind and a Parse
// evaluate constants already.
func factsOf(r *request) (facts []*statement.Statement) {
	switch {
	case len(r.steps) > 0:
		for _, s := range r.steps {
			facts = append(facts, s.facts...)
		}
		return facts
	case r.portal != nil:
		return r.portal.facts()
	default:
		return nil
	}
}

func errorClass(code string) string {
	if len(code) < 2 {
		return code
	}
	return code[:2]
}

// structural reports whether errors of the class speak of names, states and
// limits, and not of data.
func structural(code string) bool {
	switch errorClass(code) {
	case "42", "25", "26", "34", "08", "57", "53", "54", "55", "28", "3D", "3F", "0A", "40":
		return true
	default:
		return false
	}
}

// scrub returns the message without what must not be shown, and its fields then.
// Without a change that is raw itself.
func scrub(raw []byte, fields []wire.Field, set *mask.Set, mode scrubMode) ([]byte, []wire.Field) {
	if set.Empty() {
		return raw, fields
	}
	changed := false
	kept := make([]wire.Field, 0, len(fields))
	for _, f := range fields {
		value := f.Value
		if mode != scrubNothing {
			value = hide(f, fields, mode)
		}
		if !fixed(f.Code) {
			value, _ = set.Scan(nil, value)
		}
		changed = changed || string(value) != string(f.Value)
		kept = append(kept, wire.Field{Code: f.Code, Value: value})
	}
	if !changed {
		return raw, fields
	}
	out, mark := wire.Begin(make([]byte, 0, len(raw)), raw[0])
	for _, f := range kept {
		out = append(append(append(out, f.Code), f.Value...), 0)
	}
	return wire.Finish(append(out, 0), mark), kept
}

// fixed fields hold words and numbers of the server's own.
func fixed(code byte) bool { return code == 'S' || code == 'V' || code == 'C' }

// hide returns a field without the values that it may quote.
func hide(f wire.Field, fields []wire.Field, mode scrubMode) []byte {
	switch f.Code {
	case 'D', 'q':
		return []byte(withheld)
	case 'M', 'H':
		if mode == scrubAll {
			return []byte(withheld)
		}
		return hideQuoted(f.Value, fields)
	case 'W':
		return hideQuoted(f.Value, fields)
	default:
		return f.Value
	}
}

// hideQuoted replaces what stands in quotes or in parentheses by ***, unless it
// is a name that another field gives.
func hideQuoted(text []byte, fields []wire.Field) []byte {
	var out []byte
	for i := 0; i < len(text); {
		closing, ok := closes(text[i])
		if !ok {
			out = append(out, text[i])
			i++
			continue
		}
		// The last closing mark counts: a value may hold one itself.
		end := lastIndex(text[i+1:], closing)
		if end < 0 {
			return append(append(out, text[i]), "***"...)
		}
		if named := nextIndex(text[i+1:], closing); isName(text[i+1:i+1+named], fields) {
			end = named
			out = append(out, text[i:i+end+2]...)
		} else {
			out = append(append(append(out, text[i]), "***"...), closing)
		}
		i += end + 2
	}
	return out
}

func closes(open byte) (closing byte, ok bool) {
	switch open {
	case '"', '\'':
		return open, true
	case '(':
		return ')', true
	default:
		return 0, false
	}
}

func nextIndex(s []byte, b byte) int { return slices.Index(s, b) }

func lastIndex(s []byte, b byte) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == b {
			return i
		}
	}
	return -1
}

// isName reports whether text is the name of an object that a field holds.
func isName(text []byte, fields []wire.Field) bool {
	for _, f := range fields {
		switch f.Code {
		case 's', 't', 'c', 'd', 'n':
			if string(f.Value) == string(text) {
				return true
			}
		}
	}
	return false
}

// scrubStatus replaces a reported setting that holds free text, if what ran could
// have put protected data there.
func (x *exchange) scrubStatus(name, value string, raw []byte) []byte {
	set := x.masks()
	if set.Empty() {
		return raw
	}
	shown, hits := set.Scan(nil, []byte(value))
	x.pending.mu.Lock()
	r := x.pending.first()
	if set.HasColumns() && r != nil && (name == "application_name" || name == "TimeZone") &&
		x.mayReveal(&step{facts: factsOf(r)}, set) {
		shown, hits = []byte("***"), 1
	}
	x.pending.mu.Unlock()
	if hits == 0 {
		return raw
	}
	out, mark := wire.Begin(nil, wire.ParameterStatus)
	out = append(append(out, name...), 0)
	return wire.Finish(append(append(out, shown...), 0), mark)
}

func appendNotification(pid uint32, channel, payload []byte) []byte {
	out, mark := wire.Begin(nil, wire.NotificationResponse)
	out = binary.BigEndian.AppendUint32(out, pid)
	out = append(append(out, channel...), 0)
	return wire.Finish(append(append(out, payload...), 0), mark)
}
