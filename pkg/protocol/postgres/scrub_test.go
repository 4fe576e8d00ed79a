package postgres

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
	"github.com/headgate/headgate/pkg/protocol/postgres/wire"
)

func told(code, message string, more ...wire.Field) []wire.Field {
	return append([]wire.Field{{Code: 'S', Value: []byte("ERROR")}, {Code: 'C', Value: []byte(code)}, {Code: 'M', Value: []byte(message)}}, more...)
}

func TestAnErrorTellsNothingOfAStatementThatTouchesWhatIsProtected(t *testing.T) {
	x, set := knowing(t)
	position := wire.Field{Code: 'P', Value: []byte("8")}
	context := wire.Field{Code: 'W', Value: []byte("PL/pgSQL function f() line 1 at RAISE")}
	table := wire.Field{Code: 't', Value: []byte("123-45-6789")}
	for name, tc := range map[string]struct {
		text   string
		fields []wire.Field
		shown  bool // the number in the message
	}{
		"cast to regclass":         {`select ssn::regclass from customers`, told("42P01", `relation "123-45-6789" does not exist`), false},
		"in a condition":           {`select 1 from customers where ssn::regclass is not null`, told("42P01", `relation "123-45-6789" does not exist`), false},
		"no such setting":          {`select current_setting(ssn) from customers`, told("42704", `unrecognized configuration parameter "123-45-6789"`), false},
		"limit":                    {`select chr(2000000000+ssn::int) from customers`, told("54000", `requested character too large for encoding: 123-45-6789`), false},
		"number without quotes":    {`select get_byte('', ssn::int) from customers`, told("2202E", `index 123-45-6789 out of valid range, 0..0`), false},
		"syntax error in a value":  {`select 1 from customers where to_tsquery(ssn) is null`, told("42601", `syntax error in tsquery: "123-45-6789"`), false},
		"column in a value":        {`select has_column_privilege('x', ssn, 'select') from customers`, told("42703", `column "123-45-6789" of relation "x" does not exist`), false},
		"index of a table":         {`update customers set id = 2`, told("22P02", `invalid input syntax for type integer: 123-45-6789`), false},
		"warning":                  {`select ssn from customers`, told("01000", `123-45-6789`), false},
		"trigger chooses the code": {`update orders set total = 2`, told("42000", `123-45-6789`, context, table), false},
		"trigger, with a position": {`update orders set total = 2`, told("42000", `123-45-6789`, context, position), false},
		"unknown relation":         {`select 1 from fresh`, told("22023", `123-45-6789`), false},
		"user function":            {`select f()`, told("34000", `123-45-6789`), false},
		"own text":                 {`select ssn, "123-45-6789" from customers`, told("42703", `column "123-45-6789" does not exist`, position), true},
		"other table":              {`select 1 from orders where total::regclass is null`, told("42P01", `relation "123-45-6789" does not exist`), true},
		"cancelled":                {`select ssn from customers`, told("57014", `canceling statement 123-45-6789`), true},
		"driver's cue":             {`select ssn /* 123-45-6789 */ from customers`, told("0A000", `cached plan must not change result type`), false},
	} {
		facts := statement.Parse(tc.text)
		r := &request{steps: []*step{{facts: []*statement.Statement{&facts[0]}}}}
		mode := x.scrubbing(r, set, tc.fields)
		raw := []byte{'E', 0, 0, 0, 4}
		_, kept := scrub(raw, tc.fields, set, mode)
		var all strings.Builder
		for _, f := range kept {
			all.Write(f.Value)
		}
		if shown := strings.Contains(all.String(), "123-45-6789"); shown != tc.shown {
			t.Errorf("%s: shown %v in %s", name, shown, all.String())
		}
		if name == "driver's cue" && !strings.Contains(all.String(), "cached plan") {
			t.Errorf("%s: %s", name, all.String())
		}
		if got, want := string(wire.Get(kept, 'C')), string(wire.Get(tc.fields, 'C')); got != want {
			t.Errorf("%s: SQLSTATE %s became %s", name, want, got)
		}
	}
}
