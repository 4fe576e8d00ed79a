package strict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file. Line and Column count from 1; they are zero
// where the place is not known.
type Position struct {
	File         string
	Line, Column int
}

// String returns "file:line:column", or the file alone.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Positions tells where values stood, by path, as in "rules[2].operations[0]".
// The empty path is the whole document.
type Positions map[string]Position

// At returns the place of a value, or of the nearest enclosing value that has
// one, so that a key that is missing is reported where it should have been.
func (p Positions) At(path string) Position {
	for {
		if at, ok := p[path]; ok || path == "" {
			return at
		}
		i := strings.LastIndexAny(path, ".[")
		path = path[:max(i, 0)]
	}
}

// Error is one finding at one place.
type Error struct {
	Position
	Message string
}

// Error returns "file:line:column: message", or what is known of it.
func (e *Error) Error() string {
	if at := e.Position.String(); at != "" {
		return at + ": " + e.Message
	}
	return e.Message
}

// Errors is every finding of a check. It is an error only if it is not empty:
// return [Errors.Err], not the list.
type Errors []*Error

// shown bounds how many findings are printed at once.
const shown = 100

// Error returns one finding per line.
func (e Errors) Error() string {
	var b strings.Builder
	for i, one := range e {
		if i == shown {
			fmt.Fprintf(&b, "\nand %d more", len(e)-shown)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(one.Error())
	}
	return b.String()
}

// Unwrap returns the findings one by one, for errors.As.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i, one := range e {
		list[i] = one
	}
	return list
}

// Err returns the list as an error, nil if it is empty.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// Add appends a finding.
func (e *Errors) Add(at Position, format string, args ...any) {
	*e = append(*e, &Error{Position: at, Message: fmt.Sprintf(format, args...)})
}

// Sort orders the findings by file, line and column.
func (e Errors) Sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
