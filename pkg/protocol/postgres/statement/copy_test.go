package statement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestACopyTellsWhatItsDataLooksLike(t *testing.T) {
	text := func(change func(*Copy)) *Copy {
		c := &Copy{Format: CopyText, Delimiter: '\t', Quote: '"', Escape: '"', Null: `\N`}
		change(c)
		return c
	}
	csv := func(change func(*Copy)) *Copy {
		c := &Copy{Format: CopyCSV, Delimiter: ',', Quote: '"', Escape: '"'}
		change(c)
		return c
	}
	for sql, want := range map[string]*Copy{
		"copy t to stdout": text(func(c *Copy) { c.Table, c.Query = true, `SELECT * FROM ONLY "t"` }),
		`copy public."T""x" (id, "a b", "select") to stdout`: text(func(c *Copy) {
			c.Query = `SELECT "id", "a b", "select" FROM ONLY "public"."T""x"`
		}),
		"copy (select 1) to stdout with (delimiter '|', null 'x')": text(func(c *Copy) {
			c.Delimiter, c.Null, c.Query, c.Placed = '|', "x", "      select 1", true
		}),
		"/* ( */ copy -- )\n( (select ')' /* ) */ , $$)$$, U&\"\\0029\") ) to stdout": text(func(c *Copy) {
			c.Query, c.Placed = "                    (select ')' /* ) */ , $$)$$, U&\"\\0029\") ", true
		}),
		" \n copy /* é */ (select 'é', nosuch) to stdout ;": text(func(c *Copy) {
			c.Query, c.Placed = "                 select 'é', nosuch", true
		}),
		`copy t (a) to stdout (format csv, header, quote '''', escape e'\\', force_quote *, delimiter ';', encoding 'utf-8')`: csv(func(c *Copy) {
			c.Query, c.Header, c.Quote, c.Escape, c.Delimiter = `SELECT "a" FROM ONLY "t"`, true, '\'', '\\', ';'
		}),
		"copy t (a) to stdout with csv header quote '|' force quote a": csv(func(c *Copy) {
			c.Query, c.Header, c.Quote, c.Escape = `SELECT "a" FROM ONLY "t"`, true, '|', '|'
		}),
		"copy binary t to stdout": text(func(c *Copy) {
			c.Format, c.Table, c.Query = CopyBinary, true, `SELECT * FROM ONLY "t"`
		}),
		"copy t to stdout using delimiters ':' with null as ''": text(func(c *Copy) {
			c.Delimiter, c.Null, c.Table, c.Query = ':', "", true, `SELECT * FROM ONLY "t"`
		}),
		"copy t (a) to stdout (header 0, format 'csv')": csv(func(c *Copy) { c.Query = `SELECT "a" FROM ONLY "t"` }),
		"copy t (a) to stdout (freeze off, header On)":  text(func(c *Copy) { c.Query, c.Header = `SELECT "a" FROM ONLY "t"`, true }),
		"copy t from stdin":                             nil,
		"copy t to '/tmp/x'":                            nil,
		"copy t to program 'cat'":                       nil,
		"select 1":                                      nil,
	} {
		facts := Parse(sql)
		if len(facts) != 1 {
			t.Fatalf("%s: %d statements", sql, len(facts))
		}
		got := facts[0].Copy
		if got != nil {
			c := *got
			c.Facts = nil
			got = &c
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
	}
}

func TestACopyThatNobodyCanReadSaysWhy(t *testing.T) {
	for _, sql := range []string{
		"copy t to stdout (encoding 'latin1')",
		"copy t to stdout (encoding 'sql_ascii')",
		"copy t to stdout (format 'json')",
		"copy t to stdout (format 'CSV')",
		"copy t to stdout (format csv, format text)",
		"copy t to stdout (delimiter '||')",
		"copy t to stdout (delimiter 'é')",
		"copy t to stdout (delimiter 'n')",
		`copy t to stdout (delimiter '\')`,
		`copy t to stdout (delimiter 'N')`,
		"copy t to stdout (null e'a\nb')",
		"copy t to stdout (format csv, delimiter '\"')",
		"copy t to stdout (format csv, null 'a,b')",
		"copy t to stdout (format csv, null '\"')",
		"copy t to stdout (format csv, quote '')",
		"copy t to stdout (quote 'x')",
		"copy t to stdout (format binary, header)",
		"copy t to stdout (format binary, null 'x')",
		"copy t to stdout (header match)",
		`copy t to stdout (null '\')`,
		`copy t to stdout (null 'x\\\')`,
		`copy t to stdout (null '\.')`,
		"copy t to stdout (header 2)",
		"copy t to stdout (nosuch 1)",
		"copy t to stdout (force_null (a))",
		"copy t to stdout; select 1",
	} {
		facts := Parse(sql)
		if facts[0].Copy == nil || facts[0].Copy.Reason == "" {
			t.Errorf("%s: no reason: %+v %s", sql, facts[0].Copy, facts[0].Reason)
		}
	}
}

func TestTheQueryInACopyHasFactsOfItsOwn(t *testing.T) {
	s := Parse("copy (select id, upper(name) from customers where ssn = 'x') to stdout")[0]
	protected := func(column string) bool { return column == "ssn" }
	if !s.MayReveal(protected) {
		t.Error("the COPY itself would not reveal what it mentions")
	}
	facts := s.Copy.Facts
	if facts.MayReveal(protected) || facts.Verb != Select || facts.Text != "select id, upper(name) from customers where ssn = 'x'" {
		t.Errorf("facts of the query: %+v", facts)
	}
	s = Parse("copy (delete from customers returning ssn || '') to stdout")[0]
	if !s.Copy.Facts.MayReveal(protected) || !s.Does(Delete) {
		t.Errorf("facts of the query: %+v", s.Copy.Facts)
	}
}
