package bypass

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// lab is a real server with a database to attack, and its twin with other
// values.
type lab struct {
	server *pgtest.Cluster
	watch  string // a directory that the server may write to
	forms  [2]*forms
	state  string
	admin  *pgx.Conn
	made   int
	clean  [2]*site // databases that the case before left as they were
}

// site is a database to attack, with a session of somebody else in it.
type site struct {
	database string
	twin     int
	witness  *pgx.Conn
	before   map[string]string
	used     bool // it is not as it was made
}

const template0 = "bypass_"

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

var shared lab

// need starts the server when the first test needs it, on a thread that stays.
func need(tb testing.TB) *lab {
	tb.Helper()
	if shared.server != nil {
		return &shared
	}
	var err error
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		shared.server, err = pgtest.Open("max_prepared_transactions=4", "wal_level=logical", "autovacuum=off")
		close(done)
		select {}
	}()
	<-done
	if errors.Is(err, pgtest.ErrMissing) {
		pgtest.Skip(tb, err.Error())
	}
	if err == nil {
		shared.admin, err = shared.direct(context.Background(), "postgres")
	}
	if err == nil {
		err = shared.furnish(tb)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return &shared
}

func (l *lab) furnish(tb testing.TB) error {
	l.watch = filepath.Join(l.server.Dir, "watch")
	if err := errors.Join(os.Mkdir(l.watch, 0o777), os.Chmod(l.watch, 0o777)); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	l.state = read(tb, filepath.Join(testdata, "state.sql"))
	fixture := read(tb, filepath.Join(testdata, "fixture.sql"))
	for twin := range l.forms {
		name := fmt.Sprintf("%s%d", template0, twin)
		if _, err := l.server.Exec("postgres", "create database "+name); err != nil {
			return fmt.Errorf("make database: %w", err)
		}
		sql := fixture
		for _, c := range canaries {
			sql = strings.ReplaceAll(sql, "<<"+c.name+">>", c.twins[twin])
		}
		if twin > 0 { // roles are those of the whole server
			sql = strings.ReplaceAll(sql, "create role bypass_reader;", "")
		}
		if _, err := l.server.Exec(name, sql); err != nil {
			return fmt.Errorf("make tables: %w", err)
		}
		conn, err := l.direct(tb.Context(), name)
		if err != nil {
			return err
		}
		l.forms[twin], err = formsOf(tb.Context(), conn, twin)
		if err := errors.Join(err, conn.Close(tb.Context())); err != nil {
			return fmt.Errorf("compute forms: %w", err)
		}
	}
	return nil
}

// direct connects past everything.
func (l *lab) direct(ctx context.Context, database string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable&application_name=runner",
		pgtest.Admin, pgtest.AdminPassword, l.server.Addr(), database))
	if err != nil {
		return nil, fmt.Errorf("connect directly: %w", err)
	}
	return conn, nil
}

// enter returns a site as the fixture made it, with setup added to it.
func (l *lab) enter(ctx context.Context, twin int, setup func(s *site) (string, error)) (*site, error) {
	s := l.clean[twin]
	if l.clean[twin] = nil; s == nil {
		l.made++
		s = &site{database: fmt.Sprintf("case_%d", l.made), twin: twin}
		sql := fmt.Sprintf("create database %s template %s%d strategy file_copy", s.database, template0, twin)
		if _, err := l.admin.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("make database: %w", err)
		}
		var err error
		if s.witness, err = l.direct(ctx, s.database); err == nil {
			err = s.testify(ctx)
		}
		if err != nil {
			return s, err
		}
	}
	sql, err := setup(s)
	if err == nil && sql != "" {
		s.used = true
		_, err = s.witness.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	}
	if err == nil {
		err = s.testify(ctx)
	}
	if err == nil && (sql != "" || s.before == nil) {
		s.before, err = l.snapshot(ctx, s.witness)
	}
	if err != nil {
		return s, fmt.Errorf("set up: %w", err)
	}
	return s, nil
}

// testify makes the last statement of the witness one that has a secret in it.
func (s *site) testify(ctx context.Context) error {
	for _, sql := range []string{
		"reset all", "set application_name = 'witness'",
		"select count(*) from customers where passphrase = '" + canaries[4].twins[s.twin] + "'",
	} {
		if _, err := s.witness.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("make witness: %w", err)
		}
	}
	return nil
}

// leave compares a site with what it was, and keeps or drops it.
func (l *lab) leave(ctx context.Context, s *site) (effects []string, err error) {
	if err := l.settle(ctx, s.database); err != nil {
		return nil, err
	}
	after, err := l.snapshot(ctx, s.witness)
	if err != nil {
		effects = append(effects, "the session of somebody else is over")
		fresh, err := l.direct(ctx, s.database)
		if err == nil {
			after, err = l.snapshot(ctx, fresh)
			err = errors.Join(err, fresh.Close(ctx))
		}
		if err != nil {
			effects = append(effects, "the database can't be read any more")
		}
	}
	effects = append(effects, difference(s.before, after)...)
	slices.Sort(effects)
	if len(effects) == 0 && !s.used {
		l.clean[s.twin] = s
		return nil, nil
	}
	return effects, l.demolish(ctx, s)
}

func (l *lab) demolish(ctx context.Context, s *site) error {
	if s.witness != nil {
		_ = s.witness.Close(ctx) // an attack may have ended it
	}
	_, err := l.admin.Exec(ctx, "drop database if exists "+s.database+" with (force)")
	for _, sql := range []string{ // what databases share
		"alter role bypass_reader nosuperuser", "alter role all reset all", "alter system reset all",
	} {
		_, next := l.admin.Exec(ctx, sql)
		err = errors.Join(err, next)
	}
	files, listErr := os.ReadDir(l.watch)
	err = errors.Join(err, listErr)
	for _, f := range files {
		err = errors.Join(err, os.RemoveAll(filepath.Join(l.watch, f.Name())))
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// snapshot is the state of everything that an attack may have an effect on.
func (l *lab) snapshot(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	state := map[string]string{}
	rows, err := conn.Query(ctx, l.state)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var name string
	var hash *string
	if _, err := pgx.ForEachRow(rows, []any{&name, &hash}, func() error {
		state[name] = ""
		if hash != nil {
			state[name] = *hash
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	files, err := os.ReadDir(l.watch)
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	for _, f := range files {
		state["file "+f.Name()] = "there"
	}
	return state, nil
}

// difference lists what changed.
func difference(before, after map[string]string) []string {
	var changed []string
	for name, hash := range before {
		if now, ok := after[name]; !ok {
			changed = append(changed, name+" is gone")
		} else if now != hash {
			changed = append(changed, name+" changed")
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			changed = append(changed, name+" is new")
		}
	}
	return changed
}

// settle waits until the sessions of a case have ended on the server.
func (l *lab) settle(ctx context.Context, database string) error {
	const query = `select count(*) from pg_stat_activity where datname = $1 and application_name not like 'witness%'`
	for {
		var n int
		if err := l.admin.QueryRow(ctx, query, database).Scan(&n); err != nil {
			return fmt.Errorf("count sessions: %w", err)
		}
		if n == 0 {
			return nil
		}
	}
}

// numbers differ from one database to the next without a meaning.
var numbers = regexp.MustCompile(`[0-9]{4,}|op-[0-9]+`)

// transcript is what an agent heard, without what is different every time.
func transcript(agents []*agent) string {
	var b strings.Builder
	for _, a := range agents {
		for _, f := range a.frames {
			body := f.body
			if f.typ == 'T' {
				body = withoutOrigins(body)
			}
			fmt.Fprintf(&b, "%c %q\n", f.typ, numbers.ReplaceAllString(string(body), "#"))
		}
	}
	return b.String()
}

// withoutOrigins takes the object ids of tables out of a RowDescription: two
// databases number what they create in their own ways.
func withoutOrigins(body []byte) []byte {
	var d pgproto3.RowDescription
	if err := d.Decode(body); err != nil {
		return body
	}
	for i := range d.Fields {
		if d.Fields[i].TableOID != 0 {
			d.Fields[i].TableOID = 1
		}
	}
	raw, err := d.Encode(nil)
	if err != nil {
		return body
	}
	return raw[5:]
}
