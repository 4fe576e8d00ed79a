package mask

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mustCompile(tb testing.TB, rules ...Rule) *Set {
	tb.Helper()
	s, err := Compile(rules, WithKey([]byte("a key of the tests")))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func detectAll(tb testing.TB, with string) *Set {
	tb.Helper()
	return mustCompile(tb, Rule{Name: "all", Detect: Detectors(), With: with})
}

func TestCompileRefusesRulesThatCannotMeanAnything(t *testing.T) {
	ok := Rule{Name: "r", Columns: []string{"*.*.ssn"}, With: "redact"}
	for name, change := range map[string]func(*Rule){
		"no name":             func(r *Rule) { r.Name = "" },
		"no transform":        func(r *Rule) { r.With = "" },
		"unknown transform":   func(r *Rule) { r.With = "rot13" },
		"nothing to act on":   func(r *Rule) { r.Columns = nil },
		"unknown detector":    func(r *Rule) { r.Detect = []string{"phone"} },
		"bad column":          func(r *Rule) { r.Columns = []string{"ssn"} },
		"constant not used":   func(r *Rule) { r.Constant = "x" },
		"constant too long":   func(r *Rule) { r.With, r.Constant = "constant", strings.Repeat("x", maxConstant+1) },
		"constant with a NUL": func(r *Rule) { r.With, r.Constant = "constant", "a\x00" },
		"constant not UTF-8":  func(r *Rule) { r.With, r.Constant = "constant", "\xff" },
		"constant is a finding": func(r *Rule) {
			r.With, r.Constant, r.Detect = "constant", "me@example.com", []string{"email"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := ok
			change(&r)
			if _, err := Compile([]Rule{r}); !errors.Is(err, ErrRule) {
				t.Errorf("got %v, want ErrRule", err)
			}
		})
	}
	if _, err := Compile([]Rule{ok}); err != nil {
		t.Errorf("the unchanged rule: %v", err)
	}
	if _, err := Compile([]Rule{ok, ok}); !errors.Is(err, ErrRule) {
		t.Errorf("two rules of one name: got %v, want ErrRule", err)
	}
}

func TestNilSetMasksNothing(t *testing.T) {
	var s *Set
	if !s.Empty() || s.HasColumns() || s.HasDetectors() || s.Protects("x") {
		t.Error("nil set claims to mask something")
	}
	if _, ok := s.Column("a", "b", "c"); ok {
		t.Error("nil set protects a column")
	}
	v := []byte("4111111111111111")
	if out, hits := s.Scan(nil, v); hits != 0 || &out[0] != &v[0] {
		t.Errorf("nil set rewrote to %q", out)
	}
}

func TestZeroActionDisclosesNothing(t *testing.T) {
	if out, null := (Action{}).Apply(nil, []byte("secret")); !null || len(out) != 0 {
		t.Errorf("got %q, null %v", out, null)
	}
	if out, null := (&Set{}).Strictest().Apply(nil, []byte("secret")); !null || len(out) != 0 {
		t.Errorf("strictest of nothing: got %q, null %v", out, null)
	}
}

func TestColumnPatternsMatchAsDocumented(t *testing.T) {
	for _, tc := range []struct {
		pattern, schema, table, column string
		want                           bool
	}{
		{"public.customers.card", "public", "customers", "card", true},
		{"public.customers.card", "public", "customers", "cards", false},
		{"public.customers.card", "other", "customers", "card", false},
		{"public.Customers.card", "public", "customers", "CARD", true},
		{"*.*.ssn", "", "t", "ssn", true},
		{"*.*.*ssn*", "a", "t", "old_ssn_2", true},
		{"*.*.*a*b*c", "a", "t", "xxaybzbc", true},
		{"*.*.*a*b*c", "a", "t", "xxacyb", false},
		{"public.*.card", "public", "", "card", true},
		{`public."Cust.omers"."c*"`, "public", "Cust.omers", "c*", true},
		{`public."Cust.omers"."c*"`, "public", "Cust.omers", "card", false},
		{`public."Customers".card`, "public", "customers", "card", false},
		{`a."q""q".c`, "a", `q"q`, "c", true},
	} {
		p, err := ParseColumn(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tc.schema, tc.table, tc.column); got != tc.want {
			t.Errorf("%s against %s.%s.%s: got %v", tc.pattern, tc.schema, tc.table, tc.column, got)
		}
	}
	for _, bad := range []string{"", "a", "a.b", "a.b.", "a..c", "a.b.c.d", `a.b."c`, `a.b.""`, `a."b"x.c`, `a.b c.d`, `a.b.c"`, strings.Repeat("a", 600) + ".b.c"} {
		if _, err := ParseColumn(bad); err == nil {
			t.Errorf("pattern %q was accepted", bad)
		}
	}
}

func TestStrictestRuleOfAColumnWins(t *testing.T) {
	s := mustCompile(t,
		Rule{Name: "keep", Columns: []string{"*.*.card"}, With: "keep-last-4"},
		Rule{Name: "hash", Columns: []string{"*.customers.card"}, With: "hash"},
		Rule{Name: "null", Columns: []string{"*.*.token"}, With: "null"},
		Rule{Name: "hash2", Columns: []string{"*.customers.*"}, With: "hash"},
	)
	for column, want := range map[string]string{"card": "hash", "token": "null", "name": "hash2"} {
		a, ok := s.Column("public", "customers", column)
		if !ok || a.Rule != want {
			t.Errorf("%s: got rule %q, %v, want %q", column, a.Rule, ok, want)
		}
	}
	if a, ok := s.Column("public", "orders", "card"); !ok || a.Rule != "keep" {
		t.Errorf("orders.card: got rule %q, %v", a.Rule, ok)
	}
	if a := s.Strictest(); a.Rule != "null" {
		t.Errorf("strictest: got %q", a.Rule)
	}
	if !s.Protects("CARD") || !s.Protects("name") {
		t.Error("Protects denies a column that some table may have")
	}
	only := mustCompile(t, Rule{Name: "r", Columns: []string{"a.b.c"}, With: "null"})
	if only.Protects("d") {
		t.Error("Protects names a column that no pattern can match")
	}
}

func TestTransformsRewriteWholeValues(t *testing.T) {
	for _, tc := range []struct {
		with, in, want string
	}{
		{"redact", "Jane", "[redacted]"},
		{"constant", "Jane", "n/a"},
		{"keep-last-4", "4111 1111 1111 1234", "**** **** **** 1234"},
		{"keep-last-4", "078-05-1120", "***-**-1120"},
		{"keep-last-4", "jane.doe@example.com", "****.***@******e.com"},
		{"keep-last-4", "a.very.long.local@b.cd", "*.****.****.*****@b.cd"},
		{"keep-last-4", "1234", "**34"},
		{"keep-last-4", "1", "*"},
		{"keep-last-4", "", ""},
		{"keep-last-4", "Зоя Müller", "*** **ller"},
		{"keep-last-4", "abcdef\xff\xfe", "********"[:4] + "ef**"},
	} {
		r := Rule{Name: "r", Columns: []string{"*.*.*"}, With: tc.with}
		if tc.with == "constant" {
			r.Constant = "n/a"
		}
		a, _ := mustCompile(t, r).Column("", "", "")
		out, null := a.Apply([]byte(">"), []byte(tc.in))
		if null || string(out) != ">"+tc.want {
			t.Errorf("%s of %q: got %q, null %v, want %q", tc.with, tc.in, out, null, ">"+tc.want)
		}
	}
}

func TestHashIsStableUnderOneKeyAndDiffersUnderAnother(t *testing.T) {
	r := []Rule{{Name: "r", Columns: []string{"*.*.*"}, With: "hash"}}
	apply := func(value string, opts ...Option) string {
		s, err := Compile(r, opts...)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := s.Strictest().Apply(nil, []byte(value))
		return string(out)
	}
	a := apply("x", WithKey([]byte("k")))
	if len(a) != 16 || a != apply("x", WithKey([]byte("k"))) {
		t.Errorf("hash %q is not stable", a)
	}
	if a == apply("y", WithKey([]byte("k"))) || a == apply("x", WithKey([]byte("l"))) || a == apply("x") || apply("x") == apply("x") {
		t.Error("hashes are equal that must differ")
	}
}

// found lists what a detector finds, as text.
func found(tb testing.TB, detector, value string) []string {
	tb.Helper()
	d := kind(slices.Index(kindNames[:], detector))
	alone := mustCompile(tb, Rule{Name: "r", Detect: []string{detector}, With: "redact"})
	all := detectAll(tb, "redact")
	var got []string
	for from := 0; ; {
		m := find(d, []byte(value), from)
		if m.none() {
			break
		}
		if !alone.candidates([]byte(value)).has(d) || !all.candidates([]byte(value)).has(d) {
			tb.Errorf("the prefilter would have missed %q in %q", value[m.start:m.end], value)
		}
		got = append(got, value[m.start:m.end])
		from = m.end
	}
	return got
}

func TestDetectorsFindWhatTheyDocument(t *testing.T) {
	for _, tc := range []struct {
		detector, value string
		want            []string
	}{
		{"pan", "4111111111111111", []string{"4111111111111111"}},
		{"pan", "card=4111111111111111;", []string{"4111111111111111"}},
		{"pan", "card_no_4111111111111111", []string{"4111111111111111"}},
		{"pan", "4111 1111 1111 1111", []string{"4111 1111 1111 1111"}},
		{"pan", "4111-1111-1111-1111.", []string{"4111-1111-1111-1111"}},
		{"pan", "id 12 4111 1111 1111 1111 ok", []string{"4111 1111 1111 1111"}},
		{"pan", "3782 822463 10005", []string{"3782 822463 10005"}},
		{"pan", "5555555555554444,2223003122003222", []string{"5555555555554444", "2223003122003222"}},
		{"pan", "6011111111111117 3530111333300000 30569309025904", []string{"6011111111111117", "3530111333300000", "30569309025904"}},
		{"pan", "4111111111111111.00", []string{"4111111111111111"}},
		{"pan", "4111111111111112", nil},     // Luhn
		{"pan", "14111111111111111", nil},    // longer run
		{"pan", "41111111111111110000", nil}, // longer run
		{"pan", "a4111111111111111", nil},    // glued to a letter
		{"pan", "4111111111111111b", nil},    // glued to a letter
		{"pan", "4111  1111 1111 1111", nil}, // double space
		{"pan", "4111 1111 1111 1111x", nil}, // last group is glued
		{"pan", "411 1111 1111 11111", nil},  // first group too short
		{"pan", "1111111111111117", nil},     // no issuer
		{"pan", "0.4111111111111111", nil},   // fraction
		{"pan", "12.411111111111111", nil},   // fraction
		{"pan", "5 6 7 8 1 2 3 4 5 6 7 8", nil},
		{"pan", "2026-11-23 04:50:00.123456", nil},
		{"ssn", "078-05-1120", []string{"078-05-1120"}},
		{"ssn", "ssn:078-05-1120,219-09-9999", []string{"078-05-1120", "219-09-9999"}},
		{"ssn", "000-05-1120 666-05-1120 900-05-1120 078-00-1120 078-05-0000", nil},
		{"ssn", "1078-05-1120 078-05-11201 x078-05-1120", nil},
		{"email", "jane@example.com", []string{"jane@example.com"}},
		{"email", "<o.b+tag@mail.example.co.uk>.", []string{"o.b+tag@mail.example.co.uk"}},
		{"email", "a@b.com@c.com", []string{"a@b.com"}},
		{"email", "зоя@пример.рф", []string{"зоя@пример.рф"}},
		{"email", "me@host you@1.2.3.4 @x.com a@b. -@x.com a@.com a@b.c", nil},
		{"email", "x@y.co.1", []string{"x@y.co"}},
		{"iban", "DE89370400440532013000", []string{"DE89370400440532013000"}},
		{"iban", "pay GB29 NWBK 6016 1331 9268 19 now", []string{"GB29 NWBK 6016 1331 9268 19"}},
		{"iban", "NO9386011117947", []string{"NO9386011117947"}},
		{"iban", "mt84malt011000012345mtlcast001s", []string{"mt84malt011000012345mtlcast001s"}},
		{"iban", "DE89370400440532013001", nil},  // check digits
		{"iban", "DE8937040044053201300", nil},   // too short
		{"iban", "DE893704004405320130000", nil}, // too long
		{"iban", "XDE89370400440532013000", nil}, // glued
		{"iban", "ZZ89370400440532013000", nil},  // no such country
	} {
		if diff := cmp.Diff(tc.want, found(t, tc.detector, tc.value)); diff != "" {
			t.Errorf("%s in %q (-want +got):\n%s", tc.detector, tc.value, diff)
		}
		// What stands around a value must not matter beyond its neighbours.
		for pad := range 17 {
			pad := strings.Repeat("~", pad)
			for _, padded := range []string{pad + tc.value, tc.value + pad, pad + tc.value + pad} {
				if diff := cmp.Diff(tc.want, found(t, tc.detector, padded)); diff != "" {
					t.Errorf("%s in %q (-want +got):\n%s", tc.detector, padded, diff)
				}
			}
		}
	}
}

func TestScanRewritesMatchesAndKeepsTheRest(t *testing.T) {
	keep := mustCompile(t, Rule{Name: "k", Detect: Detectors(), With: "keep-last-4"})
	mixed := mustCompile(t,
		Rule{Name: "mail", Detect: []string{"email"}, With: "keep-last-4"},
		Rule{Name: "card", Detect: []string{"pan"}, With: "redact"},
		Rule{Name: "nothing", Detect: []string{"ssn"}, With: "null"},
	)
	for _, tc := range []struct {
		set       *Set
		in, want  string
		detectors []string
	}{
		{keep, "card 4111 1111 1111 1234 no match", "card 4111 1111 1111 1234 no match", nil},
		{keep, "a 4111 1111 1111 1111 b 078-05-1120", "a **** **** **** 1111 b ***-**-1120", []string{"pan", "ssn"}},
		{keep, "mail jane@example.com!", "mail ****@******e.com!", []string{"email"}},
		{keep, "DE89 3704 0044 0532 0130 00", "**** **** **** **** **30 00", []string{"iban"}},
		// The kept digits must not make a new number with what follows.
		{keep, "4111 1111 1111 1111 4111 1111 1111 1111", "**** **** **** 1111 **** **** **** 1111", []string{"pan", "pan"}},
		// Overlapping matches are one, rewritten by the strictest action.
		{mixed, "4111111111111111@example.com", "[redacted]", []string{"email"}},
		{mixed, "x@example.com 078-05-1120", "*@******e.com [redacted]", []string{"email", "ssn"}},
	} {
		var got []string
		out, hits := tc.set.ScanFunc([]byte(">"), []byte(tc.in), func(d string) { got = append(got, d) })
		if hits == 0 {
			out = append([]byte(">"), out...)
		}
		if string(out) != ">"+tc.want || hits != len(tc.detectors) {
			t.Errorf("%q: got %q, %d hits, want %q", tc.in, out, hits, tc.want)
		}
		if diff := cmp.Diff(tc.detectors, got); diff != "" {
			t.Errorf("%q: detectors (-want +got):\n%s", tc.in, diff)
		}
	}
}

func TestScanOfACleanValueAllocatesNothing(t *testing.T) {
	s := detectAll(t, "redact")
	for _, v := range []string{"", "short", "d41d8cd98f00b204e9800998ecf8427e", "2026-11-23 04:50:00", "plain words @ home", "123456789012345678"} {
		value := []byte(v)
		n := testing.AllocsPerRun(100, func() {
			out, hits := s.Scan(nil, value)
			if hits != 0 || len(out) != len(value) || len(out) > 0 && &out[0] != &value[0] {
				t.Errorf("%q was rewritten to %q", v, out)
			}
		})
		if n != 0 {
			t.Errorf("%q: %v allocations", v, n)
		}
	}
}

func TestScanIsLinearInHostileValues(t *testing.T) {
	// Quadratic behaviour would make this run for minutes, not be a little slow.
	s := detectAll(t, "keep-last-4")
	for _, unit := range []string{"4111 1111 1111 1111 ", "4111-", "a@", "a.a@a.", "DE89 ", "1 ", "9", "@", "x@y.zz,", "078-05-1120-", "ab12 cd34 "} {
		v := bytes.Repeat([]byte(unit), 1<<20/len(unit))
		out, hits := s.Scan(nil, v)
		if _, again := s.Scan(nil, out); hits > 0 && again > 0 {
			t.Errorf("%q repeated: %d more hits in the result", unit, again)
		}
	}
}

func seeds(f *testing.F) {
	for _, v := range []string{
		"", "4111 1111 1111 1111", "4111111111111111@example.com", "DE89370400440532013000", "078-05-1120",
		"4111 1111 1111 1111 4111 1111 1111 1111", "a@b.com@c.com", "078-05-1120-4111-1111-1111-1111",
		"1111.4012888888881881", "4111 1111 1111 1111.501811111113", "NO93 8601 1117 947 078-05-1120",
	} {
		f.Add([]byte(v))
	}
}

func FuzzScanLeavesNothingToFind(f *testing.F) {
	seeds(f)
	var sets []*Set
	for _, with := range []string{"redact", "keep-last-4", "null", "hash"} {
		sets = append(sets, detectAll(f, with))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, s := range sets {
			before := bytes.Clone(value)
			out, hits := s.Scan(nil, value)
			if !bytes.Equal(before, value) {
				t.Fatalf("the value was changed: %q", before)
			}
			if hits == 0 {
				if len(out) != len(value) || len(value) > 0 && &out[0] != &value[0] {
					t.Fatalf("no hits, but another slice: %q", out)
				}
				for d := range kindCount {
					if m := find(d, value, 0); !m.none() {
						t.Fatalf("missed %q in %q", value[m.start:m.end], value)
					}
				}
				continue
			}
			if again, n := s.Scan(nil, bytes.Clone(out)); n != 0 {
				t.Fatalf("%q became %q became %q", value, out, again)
			}
			with, n := s.Scan([]byte("dst"), value)
			if n != hits || string(with) != "dst"+string(out) {
				t.Fatalf("with a buffer: %q, %d, without: %q, %d", with, n, out, hits)
			}
		}
	})
}

func FuzzParseColumn(f *testing.F) {
	for _, s := range []string{"a.b.c", `"a".*."c""d"`, "..", `"`, "*.*.*"} {
		f.Add(s, "name")
	}
	f.Fuzz(func(t *testing.T, s, name string) {
		p, err := ParseColumn(s)
		if err == nil {
			p.Match(name, name, name)
		}
	})
}
