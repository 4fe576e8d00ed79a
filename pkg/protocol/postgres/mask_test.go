package postgres

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

func mustCompile(tb testing.TB, rules ...mask.Rule) *mask.Set {
	tb.Helper()
	set, err := mask.Compile(rules)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func dataRow(tb testing.TB, values ...[]byte) []byte {
	tb.Helper()
	raw, err := (&pgproto3.DataRow{Values: values}).Encode(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func all(set *mask.Set) func(*wire.Column) (mask.Action, bool) {
	return func(*wire.Column) (mask.Action, bool) { return set.Strictest(), true }
}

func none(*wire.Column) (mask.Action, bool) { return mask.Action{}, false }

func TestProtectedValuesStayReadableForTheirType(t *testing.T) {
	set := mustCompile(t, mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"})
	for name, tc := range map[string]struct {
		typ    uint32
		format int16
		in     []byte
		want   []byte
	}{
		"text":           {25, 0, []byte("secret"), []byte("[redacted]")},
		"binary varchar": {1043, 1, []byte("secret"), []byte("[redacted]")},
		"int8 as text":   {20, 0, []byte("12"), nil},
		"binary int8":    {20, 1, make([]byte, 8), nil},
		"json":           {114, 0, []byte(`"x"`), nil},
		"binary jsonb":   {3802, 1, []byte("\x01{}"), nil},
		"user's own":     {20000, 1, []byte("x"), nil},
		"null":           {25, 0, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var m masker
			p := newPlan(set, []wire.Column{{Type: tc.typ, Format: tc.format}}, all(set))
			out, _, err := m.row(p, dataRow(t, tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(dataRow(t, tc.want), out); diff != "" {
				t.Errorf("row (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDetectorsSeeThroughFormats(t *testing.T) {
	set := mustCompile(t, mask.Rule{Name: "r", Detect: []string{"pan"}, With: "redact"})
	const pan = "4111111111111111"
	number := binary.BigEndian.AppendUint64(nil, 4111111111111111)
	numeric := []byte{0, 4, 0, 3, 0, 0, 0, 0, 0x10, 0x0f, 0x04, 0x57, 0x04, 0x57, 0x04, 0x57}
	for name, tc := range map[string]struct {
		typ      uint32
		format   int16
		in, want []byte
	}{
		"text":           {25, 0, []byte("a " + pan), []byte("a [redacted]")},
		"binary text":    {25, 1, []byte("a " + pan), []byte("a [redacted]")},
		"int8 as text":   {20, 0, []byte(pan), nil},
		"binary int8":    {20, 1, number, nil},
		"binary numeric": {1700, 1, numeric, nil},
		"binary array":   {1009, 1, []byte("\x00\x00\x00\x10" + pan), nil},
		"json string":    {114, 0, []byte(`{"a":"` + pan + `"}`), []byte(`{"a":"[redacted]"}`)},
		"json number":    {114, 0, []byte(`{"a":` + pan + `}`), nil},
		"binary jsonb":   {3802, 1, []byte("\x01\"" + pan + "\""), []byte("\x01\"[redacted]\"")},
		"bytea as text":  {17, 0, []byte(`\x34313131313131313131313131313131`), nil},
		"harmless":       {25, 0, []byte("a"), []byte("a")},
		"harmless int8":  {20, 1, make([]byte, 8), make([]byte, 8)},
		"date as text":   {1082, 0, []byte("2026-11-23"), []byte("2026-11-23")},
	} {
		t.Run(name, func(t *testing.T) {
			var m masker
			out, _, err := m.row(newPlan(set, []wire.Column{{Type: tc.typ, Format: tc.format}}, none), dataRow(t, tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(dataRow(t, tc.want), out); diff != "" {
				t.Errorf("row (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARowWithoutAHitIsNotTouched(t *testing.T) {
	set := mustCompile(t, mask.Rule{Name: "r", Detect: []string{"pan"}, With: "redact"})
	p := newPlan(set, []wire.Column{{Type: 25}, {Type: 23}}, none)
	raw := dataRow(t, []byte("nothing here"), []byte("7"))
	var m masker
	if n := testing.AllocsPerRun(100, func() {
		out, masked, err := m.row(p, raw)
		if err != nil || masked != 0 || &out[0] != &raw[0] {
			t.Fatal("row was rewritten")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestMaskedValuesAreCountedByWhatFoundThem(t *testing.T) {
	set := mustCompile(t,
		mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"},
		mask.Rule{Name: "d", Detect: []string{"pan", "email"}, With: "redact"})
	columns := []wire.Column{{Name: "ssn", Type: 25}, {Type: 25}, {Type: 25}, {Type: 17}, {Type: 25}}
	p := newPlan(set, columns, func(c *wire.Column) (mask.Action, bool) { return set.Strictest(), c.Name == "ssn" })
	var got tally
	m := masker{tally: &got}
	raw := dataRow(t, []byte("x"), []byte("4111111111111111 and 5500005555555559"), []byte("ada@example.com 4111111111111111"),
		[]byte(`\xzz`), []byte("nothing"))
	for range 2 {
		if _, masked, err := m.row(p, raw); err != nil || masked != 4 {
			t.Fatalf("%d masked (%v)", masked, err)
		}
	}
	want := map[string]uint64{"column": 2, "pan": 4, "email": 2, "any": 2}
	if diff := cmp.Diff(want, got.byReason()); diff != "" {
		t.Errorf("detected (-want +got):\n%s", diff)
	}
}

func TestARowOfAnotherWidthIsRefused(t *testing.T) {
	set := mustCompile(t, mask.Rule{Name: "r", Detect: []string{"pan"}, With: "redact"})
	p := newPlan(set, []wire.Column{{Type: 25}}, none)
	var m masker
	for name, raw := range map[string][]byte{
		"wider":  dataRow(t, []byte("a"), []byte("b")),
		"cut":    {'D', 0, 0, 0, 10, 0, 1, 0, 0, 0, 9},
		"behind": append(dataRow(t, []byte("a")), 'x'),
	} {
		if _, _, err := m.row(p, raw); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzRow(f *testing.F) {
	set := mustCompile(f,
		mask.Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"},
		mask.Rule{Name: "d", Detect: []string{"pan", "email"}, With: "keep-last-4"})
	f.Add(dataRow(f, []byte("4111111111111111"), nil)[5:], uint32(25), int16(0))
	f.Add(dataRow(f, []byte("\x01{\"a\":4111111111111111}"), []byte("x"))[5:], uint32(3802), int16(1))
	f.Add(dataRow(f, make([]byte, 16), []byte("x"))[5:], uint32(1700), int16(1))
	f.Fuzz(func(t *testing.T, body []byte, typ uint32, format int16) {
		raw, mark := wire.Begin(nil, wire.DataRow)
		raw = wire.Finish(append(raw, body...), mark)
		columns := []wire.Column{{Type: typ, Format: format & 1}, {Name: "ssn", Type: 25}}
		p := newPlan(set, columns, func(c *wire.Column) (mask.Action, bool) { return set.Strictest(), c.Name == "ssn" })
		all := newPlan(set, columns, func(c *wire.Column) (mask.Action, bool) { return set.Strictest(), c.Name == "ssn" })
		for i := range all.columns {
			all.columns[i].glance = doubtful
		}
		var m, careful masker
		out, masked, err := m.row(p, bytes.Clone(raw))
		other, same, otherErr := careful.row(all, bytes.Clone(raw))
		if !bytes.Equal(out, other) || masked != same || (err == nil) != (otherErr == nil) {
			t.Fatalf("%q became %q (%v), and %q (%v) when all values are read", raw, out, err, other, otherErr)
		}
		if err != nil {
			return
		}
		row, n, err := wire.DecodeDataRow(out[5:])
		if err != nil || n != 2 || int(binary.BigEndian.Uint32(out[1:])) != len(out)-1 {
			t.Fatalf("%q became %q", raw, out)
		}
		row.Next()
		if secret := row.Next(); secret != nil && string(secret) != "[redacted]" || row.Err() != nil {
			t.Errorf("%q became %q", raw, out)
		}
	})
}

func BenchmarkRow(b *testing.B) {
	set := mustCompile(b, mask.Rule{Name: "r", Detect: []string{"pan", "email", "ssn"}, With: "redact"})
	p := newPlan(set, []wire.Column{{Type: 23}, {Type: 23}, {Type: 25}}, none)
	raw := dataRow(b, []byte("1234567"), []byte("12"), bytes.Repeat([]byte("lorem ipsum "), 8))
	var m masker
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := m.row(p, raw); err != nil {
			b.Fatal(err)
		}
	}
}
