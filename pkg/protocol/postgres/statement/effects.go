package statement

import "slices"

// The effects, and with them the words that a rule's list of operations may
// hold for this protocol. The package comment describes each.
const (
	Call         = "call"
	Code         = "code"
	CopyFile     = "copy_file"
	CopyIn       = "copy_in"
	CopyOut      = "copy_out"
	CopyProgram  = "copy_program"
	DCL          = "dcl"
	DDL          = "ddl"
	Declare      = "declare"
	Delete       = "delete"
	Discard      = "discard"
	Do           = "do"
	Drop         = "drop"
	DropDatabase = "drop_database"
	Empty        = "empty"
	Execute      = "execute"
	Explain      = "explain"
	Fetch        = "fetch"
	Insert       = "insert"
	Listen       = "listen"
	Lock         = "lock"
	Maintenance  = "maintenance"
	Merge        = "merge"
	Notify       = "notify"
	Opaque       = "opaque"
	Prepare      = "prepare"
	Select       = "select"
	Sequence     = "sequence"
	Set          = "set"
	SetRole      = "set_role"
	SetUnsafe    = "set_unsafe"
	Show         = "show"
	System       = "system"
	Transaction  = "transaction"
	Truncate     = "truncate"
	Unknown      = "unknown"
	Update       = "update"
	UserFunction = "user_function"
)

// Operation is one word of the vocabulary.
type Operation struct {
	Name string
	// Doc is one line for people, without a final period.
	Doc string
}

// Operations returns the vocabulary, sorted by name: for the check of a
// policy's spelling and for its reference page.
func Operations() []Operation { return slices.Clone(operations) }

var operations = []Operation{
	{Call, "CALL of a procedure; always together with opaque"},
	{Code, "defines code that runs later: functions, triggers, rules, casts, operators; together with ddl"},
	{CopyFile, "COPY from or to a file of the server"},
	{CopyIn, "COPY FROM STDIN; together with insert"},
	{CopyOut, "COPY TO STDOUT; together with select, or with what its query does"},
	{CopyProgram, "COPY from or to a program that the server starts"},
	{DCL, "who may do what: GRANT, REVOKE, roles, default privileges, owners, row security, security labels"},
	{DDL, "definitions: CREATE, ALTER, DROP, COMMENT, REINDEX, REFRESH, SELECT INTO, CREATE TABLE AS"},
	{Declare, "DECLARE of a cursor; together with what its query does"},
	{Delete, "deletes rows, in a CTE or a MERGE too"},
	{Discard, "DISCARD ALL, PLANS, SEQUENCES or TEMP"},
	{Do, "DO with an anonymous block; always together with opaque"},
	{Drop, "DROP of anything, ALTER TABLE DROP COLUMN, DROP OWNED; together with ddl or dcl"},
	{DropDatabase, "DROP DATABASE; together with ddl and drop"},
	{Empty, "nothing but white space, semicolons and comments"},
	{Execute, "EXECUTE of a prepared statement; the session adds what that does"},
	{Explain, "EXPLAIN; with ANALYZE together with what the statement does"},
	{Fetch, "FETCH, MOVE and CLOSE of a cursor"},
	{Insert, "inserts rows, in a CTE, a MERGE or a COPY too"},
	{Listen, "LISTEN and UNLISTEN"},
	{Lock, "LOCK, SELECT FOR UPDATE or SHARE, advisory locks"},
	{Maintenance, "VACUUM, ANALYZE, CLUSTER, CHECKPOINT and index upkeep functions"},
	{Merge, "MERGE; together with select and with what its branches do"},
	{Notify, "NOTIFY and pg_notify"},
	{Opaque, "runs code or SQL text that cannot be seen: DO, CALL, extensions, functions that are not built in"},
	{Prepare, "PREPARE, together with what its statement does, and DEALLOCATE"},
	{Select, "reads rows: SELECT, TABLE, VALUES, FROM or USING of a write, RETURNING, COPY TO"},
	{Sequence, "nextval and setval"},
	{Set, "SET and RESET of an ordinary setting, by set_config too"},
	{SetRole, "SET and RESET of ROLE and SESSION AUTHORIZATION: who acts"},
	{SetUnsafe, "SET and RESET of what enforces or records: session_replication_role, row_security, log_*"},
	{Show, "SHOW of a setting"},
	{System, "reaches beyond the data: server files, other hosts, other sessions, replication, large objects, server configuration"},
	{Transaction, "BEGIN, COMMIT, ROLLBACK, savepoints, two-phase commit, SET TRANSACTION, SET CONSTRAINTS"},
	{Truncate, "TRUNCATE"},
	{Unknown, "could not be understood; no list of operations matches it"},
	{Update, "updates rows, in a CTE, a MERGE or ON CONFLICT too"},
	{UserFunction, "calls a function or operator that is not built in; always together with opaque"},
}
