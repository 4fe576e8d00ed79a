package postgres

import (
	"bytes"
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
	hidden, touches := false, false
	if r != nil {
		facts := factsOf(r)
		for _, fact := range facts {
			hidden = hidden || obscure(fact)
		}
		changed := len(facts) > 0 && r.changes != x.database.seen()
		touches = hidden || changed || x.mayTouch(facts, set) || set.NoDefinitions() && traces(fields)
	}
	return modeOf(fields, hidden, touches)
}

// traces reports whether a message is one of those by which the target describes
// its own work, on demand: plans and parse trees have the constants of views, policies
// and functions in them. An extension gives a plan any severity, and several lines.
func traces(fields []wire.Field) bool {
	switch string(wire.Get(fields, 'V')) {
	case "LOG", "DEBUG", "INFO":
		return true
	default:
		return bytes.ContainsRune(wire.Get(fields, 'M'), '\n')
	}
}

// mayTouch reports whether one of the statements may look at protected data,
// in a condition or behind the scenes too. pending.mu is held.
func (x *exchange) mayTouch(facts []*statement.Statement, set *mask.Set) bool {
	known := x.know(set)
	return known.doubt || slices.ContainsFunc(facts, known.Touches)
}

// modeOf chooses the mode by what an error says of its origin: hidden tells that
// code ran that nobody can see, touches that something protected was in reach.
func modeOf(fields []wire.Field, hidden, touches bool) scrubMode {
	code := string(wire.Get(fields, 'C'))
	class := errorClass(code)
	switch {
	case class == "P0", wire.Get(fields, 'W') != nil:
		return scrubAll // a function or a trigger chooses its words and its code
	case analysed(fields):
		return scrubNothing
	case class == "23", fixedTexts(code), string(wire.Get(fields, 'M')) == stalePlan:
		return scrubValues
	case hidden:
		return scrubAll
	case touches && !namesOnly(code):
		return scrubAll
	case class == "22", class == "XX":
		return scrubValues
	default:
		return scrubNothing
	}
}

// stalePlan is a message by which drivers know that they have to prepare again.
const stalePlan = "cached plan must not change result type"

// analysed reports whether the error was raised before anything ran. Only the
// parser and the analysis give a position in the agent's own text, so what the
// message quotes is from that text or from the catalog. SQLSTATEs can't tell: a
// cast to regclass finds no relation, and to_tsquery a syntax error, while the
// statement runs.
func analysed(fields []wire.Field) bool {
	return wire.Get(fields, 'P') != nil && wire.Get(fields, 'W') == nil && wire.Get(fields, 'q') == nil
}

// fixedTexts reports whether the messages with that code speak of the session,
// its transaction and the state of the server. Their details may hold more.
func fixedTexts(code string) bool {
	switch errorClass(code) {
	case "08", "25", "40", "53", "57":
		return true
	default:
		return code == "55P03"
	}
}

// namesOnly reports whether the messages with that code name only what a
// statement that is understood spells out itself.
func namesOnly(code string) bool {
	switch errorClass(code) {
	case "26", "34", "28":
		return true
	default:
		return code == codePrivilege
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
	return messageOf(raw[0], kept), kept
}

// messageOf returns an ErrorResponse or a NoticeResponse.
func messageOf(typ byte, fields []wire.Field) []byte {
	out, mark := wire.Begin(nil, typ)
	for _, f := range fields {
		out = append(append(append(out, f.Code), f.Value...), 0)
	}
	return wire.Finish(append(out, 0), mark)
}

// fixed fields hold words and numbers of the server's own.
func fixed(code byte) bool { return code == 'S' || code == 'V' || code == 'C' }

// hide returns a field without the values that it may quote.
func hide(f wire.Field, fields []wire.Field, mode scrubMode) []byte {
	switch f.Code {
	case 'C':
		if mode == scrubAll && !serversOwn(string(f.Value)) {
			return []byte(codeRaised)
		}
		return f.Value
	case 'D', 'q':
		return []byte(withheld)
	case 'M', 'H':
		if mode == scrubAll {
			return []byte(withheld)
		}
		return hideQuoted(f.Value, fields)
	case 'W':
		if mode == scrubAll {
			return []byte(withheld)
		}
		return hideQuoted(f.Value, fields)
	case 's', 't', 'c', 'd', 'n': // RAISE sets them to what it likes
		if mode == scrubAll && wire.Get(fields, 'W') != nil {
			return []byte(withheld)
		}
		return f.Value
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

// maxRan bounds the statements that are remembered until the next ReadyForQuery.
const maxRan = 64

// remember keeps what ran: the target reports settings at the next ReadyForQuery,
// which is that of another message. pending.mu is held.
func (x *exchange) remember(s *step) {
	if len(x.ran) < maxRan {
		x.ran = append(x.ran, s)
	}
}

// mayReport reports whether a setting that is reported now may hold protected
// data. pending.mu is held.
func (x *exchange) mayReport(set *mask.Set) bool {
	if len(x.ran) == maxRan {
		return true
	}
	r := x.pending.first()
	return r != nil && x.mayReveal(&step{facts: factsOf(r)}, set) ||
		slices.ContainsFunc(x.ran, func(s *step) bool { return x.mayReveal(s, set) })
}

// narrowSettings are the reported settings that have no room for data: words from
// a short list, and what no session can set. Of any other the value may be free
// text or any number, as those of search_path and scram_iterations, which newer
// servers report.
var narrowSettings = []string{
	"client_encoding", "DateStyle", "default_transaction_read_only", "in_hot_standby", "integer_datetimes", "IntervalStyle",
	"is_superuser", "server_encoding", "server_version", "session_authorization", "standard_conforming_strings",
}

// scrubStatus replaces a reported setting that may hold data, if what ran could
// have put protected data there.
func (x *exchange) scrubStatus(name, value string, raw []byte) []byte {
	set := x.masks()
	if set.Empty() {
		return raw
	}
	shown, hits := set.Scan(nil, []byte(value))
	x.pending.mu.Lock()
	if set.HasColumns() && !slices.Contains(narrowSettings, name) && x.mayReport(set) {
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
