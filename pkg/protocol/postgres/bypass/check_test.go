package bypass

import (
	"strings"
	"testing"
)

func TestTheCasesCanBeRead(t *testing.T) {
	if n := len(attacks(t)); n < 150 {
		t.Errorf("there are %d cases", n)
	} else {
		t.Logf("%d cases", n)
	}
}

// TestTheSearchKnowsEachForm sees to it that a leak in any of many forms is found.
func TestTheSearchKnowsEachForm(t *testing.T) {
	l := need(t)
	for _, sql := range []string{
		"ssn", "upper(passphrase)", "reverse(passphrase)", "replace(ssn, '-', '')", "replace(ssn, '-', ' / ')", "encode(ssn::bytea, 'hex')",
		"encode(passphrase::bytea, 'base64')", "encode(('a' || passphrase)::bytea, 'base64')", "encode(('ab' || passphrase || 'c')::bytea, 'base64')",
		"md5(passphrase)", "encode(sha256(ssn::bytea), 'hex')", "hashtext(passphrase)", "salary", "to_hex(salary)", "salary::numeric", "salary::money",
		"salary::bit(32)", "'0.0.0.0'::inet + salary", "balance", "born", "to_char(born, 'DD.MM.YYYY')", "born - date '2000-01-01'", "seen", "seen::time",
		"extract(epoch from seen)", "profile", "photo", "encode(photo, 'base64')", "encode(photo, 'escape')", "tags", "codes", "token",
		"replace(token::text, '-', '')", "substr(passphrase, 3, 7)", "substr(card, 1, 12)", "row(c.*)",
		"string_agg(ascii(substr(passphrase, g, 1))::text, ', ' order by g)", "string_agg(substr(passphrase, g, 1), ' ~ ' order by g)",
		"string_agg(to_hex(ascii(substr(passphrase, g, 1))), ' ' order by g)",
		"translate(passphrase, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz', 'NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm')",
	} {
		for _, mode := range []string{"simple", "binary"} {
			a := &attack{Name: sql, Policy: "open", Masks: "masks", Steps: []step{{Text: "select " + sql + " from customers c where id = 1"}}}
			if strings.Contains(sql, "agg") {
				a.Steps[0].Text = "select " + sql + " from customers c, generate_series(1, 16) g where id = 1"
			}
			f := a.attempt(t, &place{lab: l, addr: l.server.Addr()}, mode, 0)
			if f.broken != nil || len(f.leaks) == 0 {
				t.Errorf("%s: %s is not found, %v: %s", mode, sql, f.broken, f.script)
			}
		}
	}
}
