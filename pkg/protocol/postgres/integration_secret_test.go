package postgres_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/credential"
	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
)

// tap keeps all that a connection reads.
type tap struct {
	net.Conn
	mu   sync.Mutex
	read bytes.Buffer
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.read.Write(p[:n])
	return n, err
}

// take returns what was read since it was asked last.
func (t *tap) take() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := bytes.Clone(t.read.Bytes())
	t.read.Reset()
	return b
}

// tapped connects an agent and listens to all that it reads.
func tapped(t *testing.T, g *gate, options string) (*pgx.Conn, *tap) {
	t.Helper()
	config, err := pgx.ParseConfig(dsn(g.addr, "whoever", placeholder) + "&database=" + testDatabase + options)
	if err != nil {
		t.Fatal(err)
	}
	var listening *tap
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		listening = &tap{Conn: conn}
		return listening, err
	}
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	conn, err := pgx.ConnectConfig(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the gate has closed some of them
	return conn, listening
}

// spilled returns the form in which text holds the secret, or "".
func spilled(text []byte, secret string) string {
	folded := strings.ToLower(string(text))
	for name, form := range map[string]string{
		"raw": secret, "hex": hex.EncodeToString([]byte(secret)),
		"base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "=")[:4*(len(secret)/3)],
	} {
		if strings.Contains(folded, strings.ToLower(form)) {
			return name
		}
	}
	return ""
}

// throughSQL are ways to make a server say what is in application_name.
var throughSQL = map[string]string{
	"a setting":         "show application_name",
	"all settings":      "select setting from pg_settings where name = 'application_name'",
	"show all":          "show all",
	"current_setting":   "select current_setting('application_name')",
	"inside of text":    "select 'it is ' || current_setting('application_name') || '!'",
	"upper":             "select upper(current_setting('application_name'))",
	"hex":               "select encode(current_setting('application_name')::bytea, 'hex')",
	"base64":            "select encode(current_setting('application_name')::bytea, 'base64')",
	"base64, moved":     "select encode(('x' || current_setting('application_name'))::bytea, 'base64')",
	"bytea":             "select current_setting('application_name')::bytea",
	"json":              "select json_build_object('a', current_setting('application_name'))",
	"jsonb":             "select jsonb_build_object('a', current_setting('application_name'))",
	"xml":               "select xmlelement(name a, current_setting('application_name'))::text",
	"array":             "select array[current_setting('application_name'), 'x']",
	"record":            "select row(current_setting('application_name'), 1)",
	"name":              "select current_setting('application_name')::name",
	"a system catalog":  "select application_name from pg_stat_activity where pid = pg_backend_pid()",
	"a set":             "select * from regexp_split_to_table('a ' || current_setting('application_name'), ' ')",
	"a cursor":          "begin; declare c cursor for select current_setting('application_name'); fetch c; rollback",
	"an error":          "select current_setting('application_name')::int",
	"an error's detail": "do $$ begin raise exception 'e' using detail = current_setting('application_name'), hint = upper(current_setting('application_name')); end $$",
	"a notice":          "do $$ begin raise notice 'it is %', current_setting('application_name'); end $$",
	"a setting again":   "set application_name = 'x'; select set_config('application_name', '" + realSecret + "', false)",
	"a column's name":   "do $$ begin execute format('create temp view v as select 1 as %I', current_setting('application_name')); end $$; select * from v; drop view v",
	"an explanation":    "explain (verbose) select '" + realSecret + "'",
	"a statement":       "select query from pg_stat_activity where pid = pg_backend_pid() and '" + realSecret + "' <> ''",
	"md5 of the login":  "select 'md5' || md5('" + realSecret + "' || 'agent')",
	"a JSON of all":     "select json_agg(s) from pg_settings s where name like 'application%'",
}

func TestTheInjectedSecretDoesNotComeBack(t *testing.T) {
	digest := "0000"
	for _, masked := range []bool{false, true} {
		for name, mode := range modes {
			g := newGate(t, func(g *gate) {
				guarded(g)
				if masked {
					g.masks = mustMask(t, ssnRule())
				}
			})
			conn, heard := tapped(t, g, "&application_name="+realSecret)
			digest = conn.PgConn().ParameterStatus("application_name")
			if spilled(heard.take(), realSecret) != "" {
				t.Error("the start-up spills it")
			}
			for what, text := range throughSQL {
				if (strings.Contains(text, "; ") && !strings.HasSuffix(text, "$$") || strings.HasPrefix(text, "begin")) && mode != pgx.QueryExecModeSimpleProtocol {
					continue
				}
				g.set(func() { g.frames = nil })
				rows, err := conn.Query(testContext(t), text, mode)
				if err == nil {
					for rows.Next() {
						_ = rows.RawValues()
					}
				}
				if form := spilled(heard.take(), realSecret); form != "" {
					t.Errorf("masked %v, %s, %s: spills it in %s", masked, name, what, form)
				}
				if rows != nil && rows.Err() != nil && !strings.Contains(what, "error") {
					t.Errorf("masked %v, %s, %s: %v", masked, name, what, rows.Err())
				}
				g.set(func() {
					for i := range g.operations {
						if spilled([]byte(g.operations[i].Text), realSecret) != "" {
							t.Errorf("masked %v, %s, %s: judged as %q", masked, name, what, g.operations[i].Text)
						}
					}
					g.operations = nil
				})
				if form := spilled(g.recorded(t), realSecret); form != "" {
					t.Errorf("masked %v, %s, %s: the record has it in %s", masked, name, what, form)
				}
			}
		}
	}
	if digest != strings.Repeat("*", len(realSecret)) {
		t.Errorf("the setting is reported as %q", digest)
	}
}

// recorded is all that was recorded, as text.
func (g *gate) recorded(t *testing.T) []byte {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := json.Marshal(g.frames)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatTakesASecretsPlaceIsAValueOfItsType(t *testing.T) {
	g := newGate(t, guarded)
	conn, _ := tapped(t, g, "&application_name="+realSecret)
	const text = `select current_setting('application_name'), json_build_object('a', current_setting('application_name')),
		jsonb_build_object('a', current_setting('application_name')), current_setting('application_name')::bytea, 7, 'plain'`
	for name, mode := range modes {
		var (
			setting   string
			plainJSON json.RawMessage
			binJSON   json.RawMessage
			raw       []byte
			number    int
			plain     string
		)
		if err := conn.QueryRow(testContext(t), text, mode).Scan(&setting, &plainJSON, &binJSON, &raw, &number, &plain); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := []string{setting, string(plainJSON), string(binJSON), string(raw), fmt.Sprint(number), plain}
		if diff := cmp.Diff([]string{"[secret]", `"[secret]"`, `"[secret]"`, "", "7", "plain"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	want := []protocol.Finding{{Kind: protocol.FindingReturned, Credential: "shop", Fingerprint: g.secret.Secret.Fingerprint()}}
	if diff := cmp.Diff(want, g.findings()); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.frames {
		if f.Outcome != nil && (f.Outcome.Masked != 4 || f.Outcome.Detected["credential"] != 4) {
			t.Errorf("outcome is %+v", f.Outcome)
		}
	}
}

func TestCopiesAndNotificationsDoNotSpillTheSecret(t *testing.T) {
	for masked, masks := range map[string]*mask.Set{
		"nothing": nil, "a column": mustMask(t, ssnRule()), "cards": mustMask(t, mask.Rule{Name: "d", Detect: []string{"pan"}, With: "redact"}),
	} {
		g := newGate(t, func(g *gate) {
			guarded(g)
			g.masks = masks
		})
		conn, heard := tapped(t, g, "&application_name="+realSecret)
		ctx := testContext(t)
		for _, options := range []string{"", "(format csv)", "(format csv, force_quote *)", "(format binary)"} {
			var out bytes.Buffer
			tag, err := conn.PgConn().CopyTo(ctx, &out, "copy (select 'a', current_setting('application_name') from generate_series(1, 3)) to stdout "+options)
			if err != nil {
				// Masks let only copies pass of which they know what is in them.
				if masks == nil {
					t.Errorf("%s: %v", options, err)
				}
			} else if tag.RowsAffected() != 3 || !strings.Contains(out.String(), "a") {
				t.Errorf("%s: %s, %q", options, tag, out.Bytes())
			}
			if form := spilled(heard.take(), realSecret); form != "" {
				t.Errorf("%s masked, copy %s: spills it in %s", masked, options, form)
			}
		}
		mustExec(t, conn, "listen a; select pg_notify('a', 'it is ' || current_setting('application_name'))", pgx.QueryExecModeSimpleProtocol)
		mustExec(t, conn, "select 1")
		if form := spilled(heard.take(), realSecret); form != "" {
			t.Errorf("%s masked: a notification spills it in %s", masked, form)
		}
	}
}

func TestRowsOfAPortalThatNobodyDescribedAreLookedInto(t *testing.T) {
	g := newGate(t, guarded)
	conn, heard := tapped(t, g, "&application_name="+realSecret)
	heard.take()
	got := script(t, conn, 1,
		&pgproto3.Parse{Query: "select current_setting('application_name')"}, &pgproto3.Bind{}, &pgproto3.Execute{}, &pgproto3.Sync{})
	if spilled(heard.take(), realSecret) != "" || !strings.Contains(got, "SELECT 1") {
		t.Errorf("answers are %s", got)
	}
	got = script(t, conn, 1, &pgproto3.FunctionCall{Function: 2077, Arguments: [][]byte{[]byte("application_name")}, ArgFormatCodes: []uint16{0}})
	if form := spilled(heard.take(), realSecret); form != "" || strings.Contains(got, "E") {
		t.Errorf("a function call: %s, %s", form, got)
	}
}

func TestLargeRowsAreLookedInto(t *testing.T) {
	g := newGate(t, guarded)
	conn, heard := tapped(t, g, "&application_name="+realSecret)
	var size int
	rows, err := conn.Query(testContext(t), "select repeat('x', 300000), repeat('y', 200000) || current_setting('application_name'), name from customers limit 1")
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		for _, v := range rows.RawValues() {
			size += len(v)
		}
	}
	if form := spilled(heard.take(), realSecret); form != "" || rows.Err() != nil || size < 300000 || size > 301000 {
		t.Errorf("spills %s, %d bytes, %v", form, size, rows.Err())
	}
}

func TestTheVerifierOfTheInjectedAccountDoesNotComeBack(t *testing.T) {
	g := newGate(t, func(g *gate) {
		g.secret = &credential.Credential{Name: "shop", Username: superuser, Secret: credential.NewSecret([]byte(adminPassword))}
	})
	conn, heard := tapped(t, g, "")
	stored := shared.server.SQL(t, testDatabase, "select rolpassword from pg_authid where rolname = '"+superuser+"'")
	if !strings.HasPrefix(stored, "SCRAM-SHA-256$") {
		t.Fatalf("the server keeps %s", stored)
	}
	heard.take()
	rows := cells(t, conn, pgx.QueryExecModeSimpleProtocol, "select rolpassword from pg_authid where rolname in ('"+superuser+"', 'agent') order by 1")
	if len(rows) != 2 {
		t.Fatalf("got %v", rows)
	}
	_, keys, _ := strings.Cut(stored[len("SCRAM-SHA-256$"):], "$")
	for _, key := range strings.Split(keys, ":") {
		if bytes.Contains(heard.take(), []byte(key)) {
			t.Errorf("%s comes back", key)
		}
	}
}

func TestTablesOfUsersAreNotLookedInto(t *testing.T) {
	g := newGate(t, guarded)
	conn, _ := tapped(t, g, "")
	mustExec(t, conn, "insert into notes (body) values ($1)", realSecret)
	defer mustExec(t, conn, "delete from notes where body = $1", realSecret)
	if got := cells(t, conn, pgx.QueryExecModeSimpleProtocol, "select body from notes where body like 'agent%'"); len(got) != 1 || got[0][0] != realSecret {
		t.Errorf("got %v", got)
	}
	g.set(func() {
		for i := range g.operations {
			if form := spilled([]byte(g.operations[i].Text+strings.Join(g.operations[i].Parameters, " ")), realSecret); form != "" {
				t.Errorf("what the agent said is recorded with the secret in %s", form)
			}
		}
	})
	want := []protocol.Finding{{Kind: protocol.FindingHoldsSecret, Credential: "shop", Fingerprint: g.secret.Secret.Fingerprint()}}
	if diff := cmp.Diff(want, g.findings()); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestARelayedLoginIsNotLookedInto(t *testing.T) {
	g := newGate(t, nil)
	conn := mustConnect(t, g)
	if got := cells(t, conn, pgx.QueryExecModeSimpleProtocol, "select 'agent-' || 'password'"); got[0][0] != realSecret {
		t.Errorf("got %v", got)
	}
}
