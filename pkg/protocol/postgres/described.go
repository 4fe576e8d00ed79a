package postgres

import (
	"strings"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// result describes the rows of something: what a RowDescription or a NoData
// said. It is immutable, but for what was found out about it once and holds as long
// as nothing changes that it was found out from. That is guarded by pending.mu.
type result struct {
	columns []wire.Column // nil: no rows
	// names are those of the columns, for the record.
	names []string

	plan    *plan // the last one, and what it was made for
	planned planKey
	sieve   *sieve
	sifted  bool // sieve is the one
}

// newResult returns the result of columns that a target has described.
func newResult(columns []wire.Column) *result {
	r := &result{columns: columns}
	for i := range columns {
		r.names = append(r.names, strings.ToValidUTF8(columns[i].Name, "\uFFFD"))
	}
	return r
}

// planKey is all that the plan of a result depends on, where nothing is in doubt:
// the masks, what is known of the database, and the statement that the rows are of.
type planKey struct {
	set       *mask.Set
	knowledge uint64
	shown     *statement.Statement
}

// planKeyOf returns the key of the rows of r, and false where there may be more that
// its plan depends on.
func planKeyOf(r *request, known *knowledge) (planKey, bool) {
	s := r.step()
	if r.copy != nil || len(s.facts) != 1 || s.facts[0] == nil || known.doubtful(r) || known.mistaken(r) {
		return planKey{}, false
	}
	key := planKey{set: r.masks, knowledge: known.number, shown: s.facts[0]}
	if s.form != nil && s.facts[0] == s.text { // it was not changed since
		key.shown = s.form
	}
	return key, true
}

// The bounds of what is remembered of the descriptions that a target has sent.
const (
	maxDescriptions = 16
	maxDescription  = 1 << 10
)

// descriptions are what the bytes of RowDescriptions say: a statement that runs
// again is described by the same. They are of one session.
type descriptions struct{ of map[string]*result }

// result returns what the body of a RowDescription says. pending.mu is held.
func (d *descriptions) result(body []byte) (*result, error) {
	if known := d.of[string(body)]; known != nil {
		return known, nil
	}
	columns, err := wire.DecodeRowDescription(body)
	if err != nil {
		return nil, err
	}
	if columns == nil {
		columns = []wire.Column{} // rows without columns are rows
	}
	r := newResult(columns)
	if len(body) > maxDescription {
		return r, nil
	}
	if d.of == nil || len(d.of) >= maxDescriptions {
		d.of = make(map[string]*result) // costs decoding them again
	}
	d.of[string(body)] = r
	return r, nil
}
