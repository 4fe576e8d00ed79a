package audit

import (
	"slices"
	"unicode/utf8"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/process"
)

// Bounds of what one event holds. JSON may make six bytes of one; an event must
// still fit into an entry of 1 MiB.
const (
	maxText      = 64 << 10 // an operation's text, in bytes
	maxWord      = MaxWord
	maxItems     = 64       // entries of a list
	maxListBytes = 16 << 10 // all strings of a list
	maxLineage   = 64       // processes
	maxArgvBytes = 64 << 10 // all arguments of a lineage
)

// MaxWord bounds, in bytes, a message, a name, an argument, a tag or an error of an
// event. Longer ones are cut.
const MaxWord = 4 << 10

// event is a body that is brought within bounds and redacted before it is
// written. The receiver stays as it is, and so does what redact is given; what
// changes is a copy.
type event interface {
	kind() string
	prepared(redact func([]string) []string) (body any, changed bool)
}

// Lineage returns p and its ancestors, nearest first, for [SessionOpen], and
// whether something in it is missing, was guessed, or was cut. Argument vectors
// are neither copied nor redacted here; [Log.Append] does that.
func Lineage(p *process.Process) (list []Process, partial bool) {
	if p == nil {
		return nil, true
	}
	for ; p != nil; p = p.Parent {
		if len(list) == maxLineage {
			return list, true
		}
		list = append(list, ProcessOf(p))
		partial = partial || p.Partial
	}
	return list, partial
}

// ProcessOf returns what an event says about p, which is not nil.
func ProcessOf(p *process.Process) Process {
	q := Process{ID: p.ID, UID: p.UID, Partial: p.Partial}
	if p.Image == nil {
		q.Partial = true
		return q
	}
	q.Exe, q.Argv, q.ArgvTruncated = p.Image.Exe, p.Image.Argv, p.Image.ArgvTruncated
	return q
}

func (e SessionOpen) kind() string { return KindSessionOpen }
func (e Decision) kind() string    { return KindDecision }
func (e Result) kind() string      { return KindResult }
func (e SessionEnd) kind() string  { return KindSessionEnd }
func (e Enrol) kind() string       { return KindEnrol }

func (e EscapeAttempt) kind() string { return KindEscape }
func (e Finding) kind() string       { return KindFinding }

func (e SessionOpen) prepared(redact func([]string) []string) (any, bool) {
	e.LineagePartial = e.LineagePartial || len(e.Lineage) > maxLineage
	e.Lineage = preparedLineage(e.Lineage, redact)
	e.Names, _ = boundList(e.Names, maxListBytes)
	return e, true
}

func preparedLineage(lineage []Process, redact func([]string) []string) []Process {
	lineage = slices.Clone(lineage[:min(len(lineage), maxLineage)])
	left := maxArgvBytes
	for i := range lineage {
		lineage[i] = lineage[i].prepared(redact, &left)
	}
	return lineage
}

func (e EscapeAttempt) prepared(redact func([]string) []string) (any, bool) {
	e.Lineage = preparedLineage(e.Lineage, redact)
	e.Names, _ = boundList(e.Names, maxListBytes)
	e.Target, _ = bound(e.Target, maxWord)
	return e, true
}

func (p Process) prepared(redact func([]string) []string, left *int) Process {
	argv, cut := boundList(redact(p.Argv), *left)
	for _, a := range argv {
		*left -= len(a)
	}
	p.Argv, p.ArgvTruncated = argv, p.ArgvTruncated || cut
	p.Exe, _ = bound(p.Exe, maxWord)
	return p
}

func (e Decision) prepared(func([]string) []string) (any, bool) {
	var long bool
	changed := e.Operation.prepare()
	e.Message, long = bound(e.Message, maxWord)
	if !changed && !long {
		return nil, false // there are many of them: no copy of each
	}
	return e, true
}

// prepare reports whether anything had to be changed.
func (o *Operation) prepare() bool {
	var cuts [5]bool
	o.Text, cuts[0] = bound(o.Text, maxText)
	changed := !utf8.ValidString(o.Text)
	if changed {
		o.TextBase64, o.Text = []byte(o.Text), ""
	}
	o.Effects, cuts[1] = boundList(o.Effects, maxListBytes)
	o.Parameters, cuts[2] = boundList(o.Parameters, maxListBytes)
	o.Objects, cuts[3] = boundObjects(o.Objects)
	o.Reason, cuts[4] = bound(o.Reason, maxWord)
	cut := slices.Contains(cuts[:], true)
	o.Truncated = o.Truncated || cut
	changed = changed || cut || len(o.Verb) > maxWord
	o.Verb, _ = bound(o.Verb, maxWord)
	return changed
}

func (e Result) prepared(func([]string) []string) (any, bool) {
	if max(len(e.Tag), len(e.Code), len(e.Error)) <= maxWord {
		return nil, false
	}
	e.Tag, _ = bound(e.Tag, maxWord)
	e.Code, _ = bound(e.Code, maxWord)
	e.Error, _ = bound(e.Error, maxWord)
	return e, true
}

func (e SessionEnd) prepared(func([]string) []string) (any, bool) {
	e.Error, _ = bound(e.Error, maxWord)
	e.RecordingError, _ = bound(e.RecordingError, maxWord)
	return e, true
}

func (e Finding) prepared(func([]string) []string) (any, bool) {
	e.Credential, _ = bound(e.Credential, maxWord)
	return e, true
}

func (e Enrol) prepared(redact func([]string) []string) (any, bool) {
	if e.Process != nil {
		left := maxArgvBytes
		p := e.Process.prepared(redact, &left)
		e.Process = &p
	}
	return e, true
}

// bound cuts s to at most limit bytes, at the beginning of a rune.
func bound(s string, limit int) (string, bool) {
	if len(s) <= limit {
		return s, false
	}
	return s[:runeStart(s, limit)], true
}

// runeStart returns the largest offset up to limit that does not split a rune.
// Of what is not UTF-8 any offset will do.
func runeStart(s string, limit int) int {
	for i := limit; i > limit-utf8.UTFMax && i > 0; i-- {
		if utf8.RuneStart(s[i]) {
			return i
		}
	}
	return limit
}

// boundList cuts a list to maxItems, and to limit bytes in all.
func boundList(list []string, limit int) ([]string, bool) {
	total := 0
	for i, s := range list {
		if i == maxItems {
			return list[:i], true
		}
		total += len(s)
		if total > limit || len(s) > maxWord {
			room := min(maxWord, limit-(total-len(s)))
			last, _ := bound(s, room)
			return append(slices.Clone(list[:i]), last), true
		}
	}
	return list, false
}

func boundObjects(objects []policy.Object) ([]policy.Object, bool) {
	total := 0
	for i, o := range objects {
		total += len(o.Kind) + len(o.Name)
		if i == maxItems || total > maxListBytes {
			return objects[:i], true
		}
	}
	return objects, false
}

// textOrBase64 tells how bytes are written: as text if they are UTF-8.
func textOrBase64(b []byte) (text string, data []byte) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	return "", b
}
