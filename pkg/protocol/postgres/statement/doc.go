// Package statement turns the SQL text of PostgreSQL into facts: what each
// statement does, to what, and which columns its outputs may show.
//
// The grammar is PostgreSQL's own (libpg_query, PostgreSQL 17), inside a
// WebAssembly sandbox. The whole syntax tree is visited by reflection, so a
// DELETE in a WITH query, in a COPY or under EXPLAIN ANALYZE is found where it
// stands. What cannot be understood is unknown, never harmless: text that does
// not parse, text that is too long or nested too deeply, a zero byte, invalid
// UTF-8, a statement or command without an entry in the tables.
//
// # Operations
//
// A statement has a verb, which says what it is, and effects, which say all
// that it does. Effects are the words of a rule's list of operations. A
// statement is allowed only if every one of its effects is, and denied if one
// of them is.
//
//	select         reads rows: SELECT, TABLE, VALUES, FROM or USING of a write, RETURNING, COPY TO
//	insert         inserts rows, in a CTE, a MERGE or a COPY too
//	update         updates rows, in a CTE, a MERGE or ON CONFLICT too
//	delete         deletes rows, in a CTE or a MERGE too
//	merge          MERGE; together with select and with what its branches do
//	truncate       TRUNCATE
//
//	ddl            definitions: CREATE, ALTER, DROP, COMMENT, REINDEX, REFRESH, SELECT INTO, CREATE TABLE AS
//	drop           DROP of anything, ALTER TABLE DROP COLUMN, DROP OWNED; together with ddl or dcl
//	drop_database  DROP DATABASE; together with ddl and drop
//	dcl            who may do what: GRANT, REVOKE, roles, default privileges, owners, row security, security labels
//
//	copy_in        COPY FROM STDIN; together with insert
//	copy_out       COPY TO STDOUT; together with select, or with what its query does
//	copy_file      COPY from or to a file of the server
//	copy_program   COPY from or to a program that the server starts
//
//	code           defines code that runs later: functions, triggers, rules, casts, operators; together with ddl
//	do             DO with an anonymous block; always together with opaque
//	call           CALL of a procedure; always together with opaque
//	user_function  calls a function or operator that is not built in; always together with opaque
//	opaque         runs code or SQL text that cannot be seen: DO, CALL, extensions, functions that are not built in
//	system         reaches beyond the data: server files, other hosts, other sessions, replication, large objects, server configuration
//	sequence       nextval and setval
//
//	set            SET and RESET of an ordinary setting, by set_config too
//	set_role       SET and RESET of ROLE and SESSION AUTHORIZATION: who acts
//	set_unsafe     SET and RESET of what enforces or records: session_replication_role, row_security, log_*
//	show           SHOW of a setting
//	discard        DISCARD ALL, PLANS, SEQUENCES or TEMP
//	transaction    BEGIN, COMMIT, ROLLBACK, savepoints, two-phase commit, SET TRANSACTION, SET CONSTRAINTS
//
//	explain        EXPLAIN; with ANALYZE together with what the statement does
//	prepare        PREPARE, together with what its statement does, and DEALLOCATE
//	execute        EXECUTE of a prepared statement; the session adds what that does
//	declare        DECLARE of a cursor; together with what its query does
//	fetch          FETCH, MOVE and CLOSE of a cursor
//
//	lock           LOCK, SELECT FOR UPDATE or SHARE, advisory locks
//	listen         LISTEN and UNLISTEN
//	notify         NOTIFY and pg_notify
//	maintenance    VACUUM, ANALYZE, CLUSTER, CHECKPOINT and index upkeep functions
//
//	empty          nothing but white space, semicolons and comments
//	unknown        could not be understood; no list of operations matches it
//
// Some consequences:
//
//   - A read-only policy allows select, show, explain, set and transaction, and
//     whatever of prepare, execute, declare and fetch its agents need. It then
//     denies SELECT purge(), because that has user_function and opaque too.
//   - Whoever may CREATE but not DROP is allowed ddl and not drop.
//   - Built-in functions that only compute add nothing: SELECT lower(name),
//     count(*) FROM t has the effect select alone.
//   - RETURNING reads, as in PostgreSQL's own privileges: an insert-only rule
//     has to list select for INSERT ... RETURNING.
//   - A definition stores its query and does not run it: CREATE VIEW, RULE,
//     TRIGGER, POLICY and FUNCTION are ddl, whatever is inside. RULE, TRIGGER,
//     FUNCTION and what else is called later without being named are code too.
//   - EXPLAIN without ANALYZE does not run the statement, but the planner may
//     call its functions: their effects stay.
//   - Rows of the system's own tables are definitions and rights too: a write
//     to pg_class or pg_authid is ddl, dcl and system beside what it is.
//   - DISCARD ALL returns to the role and settings that the session began with.
//     It is discard alone, so that connection pools can work without set_role.
//
// A verb is one of the effects, or "copy", "close", "deallocate", "unlisten",
// where the effect has another name: fetch, prepare, listen. A SET has the verb
// set, or transaction.
//
// # Settings that change what text means
//
// The facts hold only while the upstream reads text as this package does. A SET
// of standard_conforming_strings to anything but on, of client_encoding to
// anything but UTF-8, of search_path to a list that names pg_catalog behind
// another schema, a set_config whose name is not a literal, and an UPDATE of
// pg_settings are therefore unknown. The session has to see to it that they
// hold when it begins ([Setting] judges the start-up message), and to watch
// ParameterStatus.
//
// # Masking
//
// [Statement.MayReveal] tells whether an output without an origin may carry a
// protected column. [Statement.MayCopy] tells whether a write may take one to a
// place that no mask covers. [Mentions.Leaves] tells of functions that do.
// [Statement.MayInfer] tells whether the rows that come back, their order or an
// effect may depend on one, and [Statement.MayCollide] whether a value that is
// written may be compared with what is there. [Statement.Redefines] and
// [Statement.MayRedefine] tell behind which statements the names of relations
// and columns may stand for something else, or code runs unseen.
//
// # What is not seen
//
//   - What the upstream runs by itself: triggers, rules, the functions behind
//     views, casts, defaults, generated columns, row security, the checks of
//     domains and tables, the operators of indexes, and overloads of built-in
//     names. Whoever defines such a thing needs code, or ddl beside the effects
//     of the functions that it calls; types that are not built in are objects.
//     Package catalog knows what of this a database has.
//   - A condition that is true of every row and does not look like it: HasWhere
//     is a guard against mistakes. It sees through literals, AND, OR, NOT,
//     comparisons of something with itself and LIKE '%', and not through
//     id > -1 or a sub-query that returns every id.
//   - A function of a whole row in column notation: t.purge means purge(t) if t
//     has no column purge. Only the catalog can tell; [Mentions.Attributes]
//     lists the candidates.
//   - Functions of common extensions: they are user functions here. So are the
//     functions and the JSON syntax that versions after 15 added: to a server
//     of version 15 a call of json_scalar or gamma is one of a user's function.
//     On a newer server any_value, array_sort, casefold, crc32, date_add,
//     json_agg_strict, uuidv7 and the like are user_function and opaque for that
//     reason. A name that a later version dropped is one, too.
//   - What a view is made of.
//   - Whose column a name means. Columns are no objects; [Mentions] has them.
//   - The grammar of other servers, and that of PostgreSQL 18 where it is new.
//     Text that does not parse is unknown and so refused: RETURNING WITH (OLD AS
//     o), GENERATED ALWAYS AS (…) as VIRTUAL or without a word behind it, NOT
//     ENFORCED, WITHOUT OVERLAPS and PERIOD, ADD CONSTRAINT … NOT NULL, ALTER
//     CONSTRAINT … INHERIT, VACUUM and ANALYZE ONLY. RETURNING old.a and new.a
//     parse as columns of tables of that name; old and new alone are rows.
//     What is new in 16 and 17 parses whatever the server is.
//
// # Cost
//
// A known text costs a look-up. A new one costs a tenth of a millisecond for a
// short query, and about half a second at the limit of 100,000 tokens; parsing
// is one text at a time in the process, so that one sandbox is enough and its
// memory (30 MiB, some 50 MiB after long texts) is bounded. Long texts wait for
// each other before they wait for the short ones.
package statement
