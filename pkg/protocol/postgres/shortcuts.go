package postgres

import (
	"context"
	"encoding/binary"

	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// The ways that are shorter than others and have to come to the same. Where
// [Options.Shortcuts] says that they are avoided,
//
//   - every text is parsed, and nothing remembered of it (package statement);
//   - every detector reads every value (package mask);
//   - a row is put together anew, value by value, whether anything in it changes or
//     not, and what is the same for all rows is looked up for each;
//   - nothing is passed on before all of it has come.
//
// Tests run the same sessions either way and compare all that both sides get, what
// is decided and what is recorded.

// shortcuts reports whether they are taken.
func (x *exchange) shortcuts() bool { return x.postgres.options.Shortcuts.Taken() }

// rewritten returns a row as the plan wants it, and the number of values that were
// masked. A nil plan wants nothing.
func (x *exchange) rewritten(p *plan, raw []byte) (out []byte, masked int, err error) {
	switch {
	case !x.shortcuts():
		return x.masker.rebuilt(p, raw)
	case p == nil:
		return raw, 0, nil
	default:
		return x.masker.row(p, raw)
	}
}

// rebuilt is [masker.row] in the plainest way. Without a plan, what is no row stays
// what it is: nobody looks into it otherwise either.
func (m *masker) rebuilt(p *plan, raw []byte) (out []byte, masked int, err error) {
	row, n, err := wire.DecodeDataRow(raw[5:])
	if p == nil && err != nil {
		return raw, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if p != nil && n != len(p.columns) {
		return nil, 0, errDesync
	}
	out, mark := wire.Begin(m.out[:0], wire.DataRow)
	out = binary.BigEndian.AppendUint16(out, uint16(n))
	for i := range n {
		value, null := row.Next(), false
		if null = value == nil; p != nil && !null {
			if replaced, none, hit := m.value(&p.columns[i], p.set, value); hit {
				value, null = replaced, none
				masked++
				m.report()
			}
		}
		length := uint32(len(value))
		if null {
			value, length = nil, 0xffffffff
		}
		out = append(binary.BigEndian.AppendUint32(out, length), value...)
	}
	if err := row.Err(); err != nil {
		if p == nil {
			return raw, 0, nil
		}
		return nil, 0, err
	}
	m.out = wire.Finish(out, mark)
	return m.out, masked, nil
}

// tellWhole passes data of a COPY on when all of it has come.
func (x *exchange) tellWhole(ctx context.Context, length int) error {
	lease, err := x.borrow(ctx, min(length, x.postgres.options.MaxRow))
	if err != nil {
		return fromUpstream(err)
	}
	defer x.handBack(lease)
	raw, err := x.fromTarget.Raw(x.postgres.options.MaxRow)
	if err != nil {
		return fromUpstream(err)
	}
	return x.tell(raw)
}
