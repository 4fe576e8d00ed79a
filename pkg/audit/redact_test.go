package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/process"
)

func TestArgumentsThatLookSecretAreRedacted(t *testing.T) {
	const r = redacted
	for _, c := range []struct{ in, want []string }{
		{[]string{"x", "--password=s3cret", "--name=bob"}, []string{"x", "--password=" + r, "--name=bob"}},
		{[]string{"x", "--db-password", "s3cret", "y"}, []string{"x", "--db-password", r, "y"}},
		{[]string{"x", "-token", "s3cret"}, []string{"x", "-token", r}},
		{[]string{"env", "PGPASSWORD=s3cret", "psql"}, []string{"env", "PGPASSWORD=" + r, "psql"}},
		{[]string{"psql", "host=a password=s3cret user=b"}, []string{"psql", "host=a password=" + r + " user=b"}},
		{[]string{"psql", "host=a password='s3 cret' user=b"}, []string{"psql", "host=a password=" + r + " user=b"}},
		{[]string{"psql", "db://alice:s3cret@host/db?x=1"}, []string{"psql", "db://" + r + "@host/db?x=1"}},
		{[]string{"git", "clone", "https://s3cret@host/r.git"}, []string{"git", "clone", "https://" + r + "@host/r.git"}},
		{[]string{"curl", "-H", "Authorization: Bearer s3cret.abc"}, []string{"curl", "-H", "Authorization: " + r}},
		{[]string{"x", "bearer s3cretabc"}, []string{"x", "bearer " + r}},
		{[]string{"curl", "-H", "X-Api-Key: s3cret"}, []string{"curl", "-H", "X-Api-Key: " + r}},
		{[]string{"/usr/bin/curl", "-u", "me:s3cret", "http://h"}, []string{"/usr/bin/curl", "-u", r, "http://h"}},
		{[]string{"curl", "--user", "me:s3cret"}, []string{"curl", "--user", r}},
		{[]string{"mysql", "-ps3cret", "-uroot"}, []string{"mysql", "-p" + r, "-uroot"}},
		{[]string{"sshpass", "-p", "s3cret", "ssh", "h"}, []string{"sshpass", "-p", r, "ssh", "h"}},
		{[]string{"sh", "-c", "x --password s3cret ; MY_TOKEN=s3cret y"}, []string{"sh", "-c", "x --password " + r + " ; MY_TOKEN=" + r + " y"}},
		{[]string{"x", `{"client_secret": "s3cret", "a": 1}`}, []string{"x", `{"client_secret": ` + r + `, "a": 1}`}},
		{[]string{"x", "https://h/?access_token=s3cret&b=1"}, []string{"x", "https://h/?access_token=" + r + "&b=1"}},
		{[]string{"x", "ghp_0123456789abcdefghij"}, []string{"x", r}},
		{[]string{"psql", "-p", "5432", "-h", "db", "-c", "select 1"}, []string{"psql", "-p", "5432", "-h", "db", "-c", "select 1"}},
		{[]string{"grep", "-r", "password", "."}, []string{"grep", "-r", "password", "."}},
		{[]string{"x", "--password=s3,cr;et x", "MY_PASSWORD=s3&cret"}, []string{"x", "--password=" + r, "MY_PASSWORD=" + r}},
		{[]string{"x", `{"token":"s3\"cret"}`}, []string{"x", `{"token":` + r + `}`}},
		{nil, nil},
		{[]string{"x", "--password"}, []string{"x", "--password"}},
	} {
		if diff := cmp.Diff(c.want, RedactArgv(slices.Clone(c.in))); diff != "" {
			t.Errorf("%q: -want +got\n%s", c.in, diff)
		}
	}
}

func TestOwnRedactionReplacesTheDefault(t *testing.T) {
	state := t.TempDir()
	l := mustOpen(t, state, Options{Redact: func([]string) []string { return []string{"gone"} }})
	mustAppend(t, l, KindSessionOpen, opening("a1"))
	q := ProcessOf(&process.Process{Image: &process.Image{Argv: []string{"x"}}})
	mustAppend(t, l, KindEnrol, Enrol{Agent: "ci", Process: &q})
	d, err := Session(state, "a1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"gone"}, d.Open.Lineage[0].Argv); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if b, err := os.ReadFile(mustLast(t, filepath.Join(state, auditDir))); err != nil || bytes.Contains(b, []byte(`"x"`)) {
		t.Errorf("enrol was not redacted: %s, %v", b, err)
	}
}

func TestRedactionIsRememberedForTheSameArgumentsOnly(t *testing.T) {
	asked := 0
	r := redactions{redact: func(argv []string) []string {
		asked++
		return RedactArgv(argv)
	}}
	for range 3 {
		for _, argv := range [][]string{{"x", "--password", "a"}, {"x", "--passworda"}, {"x", "--password=b"}, {"x --password=b"}, {}} {
			given := slices.Clone(argv)
			want := RedactArgv(slices.Clone(argv))
			if diff := cmp.Diff(want, r.of(given)); diff != "" {
				t.Errorf("%q: -want +got\n%s", argv, diff)
			}
			if diff := cmp.Diff(argv, given); diff != "" {
				t.Errorf("what was given has changed: -want +got\n%s", diff)
			}
		}
	}
	if asked != 5 {
		t.Errorf("five argument vectors were redacted %d times", asked)
	}
	for i := range 2 * maxRedactions {
		r.of([]string{"x", strconv.Itoa(i)})
	}
	r.of([]string{strings.Repeat("x", maxRedacted+1)})
	if len(r.known) > maxRedactions {
		t.Errorf("%d are remembered", len(r.known))
	}
}
