package statement

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// TestFactsHoldOnARealServer runs generated texts on a real server and compares
// what happened with what the facts allow. Twice each, on databases that differ
// in the protected column alone: where the facts say that nothing is inferred
// and nothing copied, the two must not differ in anything else.
//
// HEADGATE_FACTS_TIME makes it longer, as in 10m, and HEADGATE_FACTS_SEED starts
// elsewhere.
func TestFactsHoldOnARealServer(t *testing.T) {
	limit, seed := 10*time.Second, uint64(1)
	if s := os.Getenv("HEADGATE_FACTS_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		limit = d
	}
	if s := os.Getenv("HEADGATE_FACTS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	for _, v := range pgtest.Versions() {
		t.Run(v.String(), func(t *testing.T) {
			r := newRig(t, v.Start(t, "autovacuum=off")) // statistics of one side alone would change its plans
			end := time.Now().Add(limit)
			for ; time.Now().Before(end) && r.complaints < 5; seed++ {
				r.check(newGenerator(seed, r.dir).text(), seed)
			}
			t.Logf("%d texts: %d failed on the server, %d unknown, %d compared, %d databases", r.texts, r.failed, r.unknown, r.compared, r.renewed)
			if r.texts > 100 && (r.failed > r.texts*2/3 || r.compared == 0) {
				t.Error("too few of the texts say anything")
			}
		})
	}
}

// rig is a server with two databases of the same make.
type rig struct {
	t       *testing.T
	cluster *pgtest.Cluster
	dir     string
	sides   [2]*side

	texts, failed, unknown, compared, renewed int
	complaints                                int
}

// side is one of the databases.
type side struct {
	name     string
	conn     *rawConn
	baseline map[string]string
	names    map[string]string // relations by OID
	ssn      [2]string         // the protected column: table and attribute number
	spoilt   bool              // something is left behind
}

func newRig(t *testing.T, c *pgtest.Cluster) *rig {
	r := &rig{t: t, cluster: c, dir: filepath.Join(c.Dir, "data")}
	for i, name := range []string{"one", "two"} {
		c.SQL(t, "postgres", "CREATE DATABASE model_"+name)
		for _, text := range []string{fmt.Sprintf(gauge, name), stateFunctions} {
			c.SQL(t, "model_"+name, text)
		}
		r.sides[i] = &side{name: name}
		r.fresh(r.sides[i])
	}
	return r
}

// fresh makes the database anew and connects to it.
func (r *rig) fresh(s *side) {
	r.t.Helper()
	if s.conn != nil {
		s.conn.close()
	}
	r.cluster.SQL(r.t, "postgres", "DROP DATABASE IF EXISTS "+s.name+" WITH (FORCE)")
	r.cluster.SQL(r.t, "postgres", "DROP ROLE IF EXISTS n8")
	r.cluster.SQL(r.t, "postgres", "ALTER ROLE app RESET ALL")
	r.cluster.SQL(r.t, "postgres", "CREATE DATABASE "+s.name+" TEMPLATE model_"+s.name)
	s.spoilt = false
	s.conn = dialRaw(r.t, r.cluster, s.name)
	s.names = map[string]string{}
	for _, row := range s.conn.query(r.t, `SELECT oid::text, relname FROM pg_class WHERE oid >= 16384`) {
		s.names[row[0]] = row[1]
	}
	s.conn.exec(r.t, settled)
	s.ssn[0] = s.conn.query(r.t, `SELECT 't'::regclass::oid::text`)[0][0]
	s.ssn[1] = "2"
	s.baseline = s.state(r.t)
}

// state returns hashes of everything that a statement might change.
func (s *side) state(t *testing.T) map[string]string {
	state := map[string]string{}
	for _, row := range s.conn.query(t, stateQuery) {
		state[row[0]] = row[1]
	}
	return state
}

// settled brings the settings to the same values: one that was never set is null.
const settled = `RESET ALL; SET my.a = ''; SET my.b = ''`

// scansQuery counts how often each table was read. The counts of earlier
// transactions are in it, if they were not yet reported.
const scansQuery = `SELECT relid::text, (coalesce(seq_scan, 0) + coalesce(idx_scan, 0))::text FROM pg_stat_xact_user_tables
	WHERE coalesce(seq_scan, 0) + coalesce(idx_scan, 0) > 0`

// outcome is what running a text did.
type outcome struct {
	answer  *answer
	changed []string
	scanned []string
	state   map[string]string
	open    bool // the transaction is still there
	file    string
}

// run runs a text in a transaction and puts everything back.
func (r *rig) run(s *side, text string) *outcome {
	r.t.Helper()
	out := filepath.Join(r.dir, "out")
	_ = os.Remove(out) // it may not be there
	s.conn.exec(r.t, "BEGIN")
	before := s.conn.query(r.t, scansQuery)
	o := &outcome{answer: s.conn.exec(r.t, text)}
	o.open = o.answer.status == 'T'
	if o.open {
		for _, row := range s.conn.query(r.t, scansQuery) {
			if !slices.ContainsFunc(before, func(old []string) bool { return slices.Equal(old, row) }) {
				o.scanned = append(o.scanned, row[0])
			}
		}
	}
	if o.answer.status == 'E' {
		s.conn.exec(r.t, "ROLLBACK")
	}
	o.state = s.state(r.t)
	o.changed = different(s.baseline, o.state)
	if content, err := os.ReadFile(out); err == nil {
		o.file = string(content)
		o.changed = append(o.changed, "file")
	}
	s.conn.exec(r.t, "ROLLBACK")
	s.conn.exec(r.t, `RESET ROLE; SELECT pg_advisory_unlock_all(); SELECT setval('q', 1, false) FROM q WHERE is_called OR last_value <> 1;
		UNLISTEN *; CLOSE ALL; DEALLOCATE ALL; `+settled)
	if !o.open || len(o.changed) > 0 {
		s.spoilt = len(different(s.baseline, s.state(r.t))) > 0
	}
	return o
}

func different(before, after map[string]string) []string {
	var keys []string
	for k, v := range before {
		if after[k] != v {
			keys = append(keys, k)
		}
	}
	for k := range after {
		if _, ok := before[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

func (r *rig) check(text string, seed uint64) {
	r.t.Helper()
	r.texts++
	facts := Parse(text)
	// Both sides run everything: dead rows and sequences change plans and answers.
	left, right := r.run(r.sides[0], text), r.run(r.sides[1], text)
	if r.sides[0].spoilt || r.sides[1].spoilt {
		r.renewed++
		r.fresh(r.sides[0])
		r.fresh(r.sides[1])
	}
	if left.answer.code != "" {
		r.failed++
	}
	if slices.ContainsFunc(facts, func(s Statement) bool { return s.Does(Unknown) }) {
		r.unknown++
		return
	}
	for _, complaint := range slices.Concat(complainOfEffects(facts, left), complainOfTables(facts, left, r.sides[0]), complainOfTags(facts, left)) {
		r.complaints++
		r.t.Errorf("seed %d: %s\n%s\n%s", seed, complaint, text, describe(facts))
	}
	if !independent(facts) {
		return
	}
	r.compared++
	if diff := cmp.Diff(masked(left, facts, r.sides[0]), masked(right, facts, r.sides[1])); diff != "" {
		r.complaints++
		r.t.Errorf("seed %d: what happens depends on the protected column: %s\n%s\n%s", seed, diff, text, describe(facts))
	}
}

func describe(facts []Statement) string {
	var b strings.Builder
	for _, s := range facts {
		fmt.Fprintf(&b, "%v %v %+v %+v\n", s.Effects, s.Objects, s.Mentions, s.Definitions)
	}
	return b.String()
}

// does reports whether one of the statements has one of the effects.
func does(facts []Statement, effects ...string) bool {
	return slices.ContainsFunc(facts, func(s Statement) bool { return slices.ContainsFunc(effects, s.Does) })
}

// explanations are the effects of which one is needed for a change.
var explanations = map[string][]string{
	"data":      {Insert, Update, Delete, Truncate, DDL},
	"sequence":  {Sequence, Truncate, DDL},
	"catalog":   {DDL, DCL, Maintenance},
	"roles":     {DCL},
	"settings":  {Set, SetRole, SetUnsafe, Discard, Transaction},
	"user":      {SetRole, Discard, Transaction},
	"locks":     {Lock, Discard},
	"objects":   {System},
	"prepared":  {Prepare, Discard},
	"cursors":   {Declare, Fetch, Discard, Transaction},
	"listening": {Listen, Discard},
	"file":      {CopyFile, CopyProgram},
	"open":      {},
	"view":      {},
}

// complainOfEffects compares what changed with the effects.
func complainOfEffects(facts []Statement, o *outcome) (complaints []string) {
	if does(facts, Opaque) {
		return nil
	}
	for _, key := range o.changed {
		kind, _, _ := strings.Cut(key, ":")
		needs, ok := explanations[kind]
		if !ok {
			complaints = append(complaints, "no explanation for "+key)
		} else if len(needs) > 0 && !does(facts, needs...) {
			complaints = append(complaints, "changed without an effect: "+key)
		}
	}
	if o.answer.status == 'I' && !does(facts, Transaction) {
		complaints = append(complaints, "the transaction is over")
	}
	return complaints
}

// reach are the tables behind a name.
var reach = map[string][]string{
	"v": {"t"}, "p": {"p1", "p2"}, "par": {"par", "kid"}, "m": {"m", "t"}, "n4": {"t", "u"}, "z": {"t", "u"},
}

// complainOfTables compares the tables that were read and written with the
// objects.
func complainOfTables(facts []Statement, o *outcome, s *side) (complaints []string) {
	if does(facts, Opaque, Code) || len(facts) > 1 && does(facts, DDL) {
		return nil // who knows what a name stands for
	}
	read, written := map[string]bool{}, map[string]bool{}
	for _, f := range facts {
		for _, object := range f.Objects {
			if object.Kind != "table" {
				continue
			}
			name := strings.TrimPrefix(strings.TrimPrefix(object.Name, "public."), "s.")
			name = strings.Trim(name, `"`)
			for _, table := range append(reach[name], name) {
				read[table] = true
				written[table] = written[table] || object.Write
			}
		}
	}
	for _, key := range o.changed {
		if oid, ok := strings.CutPrefix(key, "data:"); ok && s.names[oid] != "" && !written[s.names[oid]] {
			complaints = append(complaints, "changed and no object: "+s.names[oid])
		}
	}
	for _, oid := range o.scanned {
		if name := s.names[oid]; name != "" && !read[name] {
			complaints = append(complaints, "read and no object: "+name)
		}
	}
	return complaints
}

// tagEffects are the effects of which a command tag needs one.
var tagEffects = map[string][]string{
	"SELECT": {Select, Execute, DDL}, "INSERT": {Insert, Execute}, "UPDATE": {Update, Execute}, "DELETE": {Delete, Execute},
	"MERGE": {Merge, Execute}, "TRUNCATE": {Truncate}, "CREATE": {DDL, DCL}, "ALTER": {DDL, DCL}, "DROP": {Drop}, "GRANT": {DCL},
	"REVOKE": {DCL}, "COPY": {CopyIn, CopyOut, CopyFile, CopyProgram}, "SET": {Set, SetRole, SetUnsafe, Transaction}, "RESET": {Set, SetRole},
	"SHOW": {Show}, "EXPLAIN": {Explain}, "PREPARE": {Prepare}, "DEALLOCATE": {Prepare}, "DECLARE": {Declare}, "FETCH": {Fetch},
	"MOVE": {Fetch}, "CLOSE": {Fetch}, "LOCK": {Lock}, "LISTEN": {Listen}, "UNLISTEN": {Listen}, "NOTIFY": {Notify}, "DO": {Do},
	"CALL": {Call}, "DISCARD": {Discard}, "COMMENT": {DDL}, "REFRESH": {DDL}, "ANALYZE": {Maintenance}, "SAVEPOINT": {Transaction},
	"ROLLBACK": {Transaction}, "COMMIT": {Transaction}, "RELEASE": {Transaction}, "BEGIN": {Transaction},
}

// complainOfTags compares the statements that ran with those that were found.
func complainOfTags(facts []Statement, o *outcome) (complaints []string) {
	var found []Statement
	for _, f := range facts {
		if !f.Does(Empty) {
			found = append(found, f)
		}
	}
	tags := o.answer.tags()
	if o.answer.code == "" && len(tags) != len(found) || len(tags) > len(found) {
		return []string{fmt.Sprintf("%d statements ran: %v", len(tags), tags)}
	}
	for i, tag := range tags {
		word, _, _ := strings.Cut(tag, " ")
		if needs, ok := tagEffects[word]; !ok || !slices.ContainsFunc(needs, found[i].Does) {
			complaints = append(complaints, "does not explain "+tag)
		}
	}
	return complaints
}

// shown tells which columns of a statement's relations are protected.
func shown(s *Statement) func(string) bool {
	views := slices.ContainsFunc(s.Tables(), func(table string) bool {
		return slices.Contains([]string{"v", "m", "n4", "n5"}, strings.TrimPrefix(table, "public."))
	})
	return func(column string) bool { return views || column == "ssn" }
}

// independent reports whether the facts promise that nothing but the outputs of
// the protected column depends on it.
func independent(facts []Statement) bool {
	for i := range facts {
		s := &facts[i]
		tables, schemas := s.Redefines()
		if s.MayInfer(shown(s)) || s.MayCopy(shown(s)) || s.MayRedefine() || len(tables)+len(schemas) > 0 {
			return false
		}
		if s.MayCollide(shown(s)) && s.Does(CopyIn) {
			return false
		}
	}
	return true
}

// masked returns what is seen of an outcome when the protected column is not.
func masked(o *outcome, facts []Statement, s *side) any {
	reveals := slices.ContainsFunc(facts, func(f Statement) bool { return f.MayReveal(shown(&f)) })
	explains := does(facts, Explain)
	var rows []string
	for _, result := range o.answer.results {
		for _, row := range result.rows {
			for i, value := range row {
				c := result.columns[i]
				computed := c.table == "0"
				switch name, known := s.names[c.table]; {
				case explains, computed && reveals, !computed && !known, name == "v" || name == "m", [2]string{c.table, c.number} == s.ssn:
					value = "***"
				}
				rows = append(rows, value)
			}
		}
		if !reveals {
			rows = append(rows, result.copied)
		}
		if !explains {
			rows = append(rows, result.tag)
		}
	}
	kept := map[string]string{}
	for key, hash := range o.state {
		kind, rest, _ := strings.Cut(key, ":")
		switch kind {
		case "open", "settings", "user", "locks", "sequence", "prepared", "cursors":
			if name, ok := s.names[rest]; ok {
				key = kind + ":" + name
			} else if kind == "sequence" {
				continue // a new one, by its number
			}
			kept[key] = hash
		}
	}
	return []any{rows, o.answer.code, o.file, kept}
}
