package postgres

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

// repeated reads the same bytes again and again.
type repeated struct {
	data []byte
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.data[r.at:])
	r.at = (r.at + n) % len(r.data)
	return n, nil
}

// hexes looks like a column of hashes.
func hexes(i int) []byte {
	sum := md5.Sum(fmt.Append(nil, i))
	return []byte(hex.EncodeToString(sum[:]))
}

// BenchmarkRows measures what one byte of a result costs beside its way through
// the sockets: rows of some 100 bytes, by what is masked in them.
func BenchmarkRows(b *testing.B) {
	detect := []string{"pan", "email", "ssn"}
	for _, bench := range []struct {
		name  string
		dense bool
		rules []mask.Rule
	}{
		{"no masks", false, nil},
		{"nothing matches", false, []mask.Rule{{Name: "d", Detect: detect, Columns: []string{"*.*.absent"}, With: "keep-last-4"}}},
		{"column and detector in each row", true, []mask.Rule{{Name: "d", Detect: detect, Columns: []string{"*.*.md5"}, With: "keep-last-4"}}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			set := mustCompile(b, bench.rules...)
			columns := []wire.Column{{Name: "id", Type: 23}, {Name: "md5", Type: 25}, {Name: "card", Type: 25}, {Name: "at", Type: 1114}}
			var stream []byte
			const rows = 5000
			for i := range rows {
				third := hexes(i)
				if bench.dense {
					third = []byte("4111 1111 1111 1111")
				}
				stream = append(stream, dataRow(b, fmt.Append(nil, 100000+i), hexes(i+rows), third,
					[]byte("2026-11-23 04:50:00.123456"))...)
			}
			s := &protocol.Session{Mask: func() *mask.Set { return set }, Record: func(protocol.Frame) error { return nil }}
			x := &exchange{postgres: New(Options{}), session: s, pending: newPending()}
			x.fromTarget = wire.NewReader(&repeated{data: stream}, targetLimits)
			x.toAgent = wire.NewWriter(io.Discard)
			r := &request{kind: askQuery, masks: set, result: newResult(columns), steps: []*step{{op: "x", facts: []*statement.Statement{nil}}}}
			r.plan = newPlan(set, columns, func(c *wire.Column) (mask.Action, bool) { return set.Column("public", "t", c.Name) })
			x.pending.push(r)
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				for range rows {
					_, length, err := x.fromTarget.Next()
					if err != nil {
						b.Fatal(err)
					}
					if err := x.dataRow(b.Context(), length); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
