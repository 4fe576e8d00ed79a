// Package postgres mediates PostgreSQL sessions, version 3 of the protocol.
//
// # What is understood
//
// Every statement is judged before the server sees it: the texts of Query and
// Parse, and again each Execute with its parameters, over everything that the
// name of its portal may denote at that moment. Results, errors, notices and
// notifications are masked on their way back, in text and in binary format.
//
// # Both ends of TLS
//
// The agent's TLS ends here, whether it asks for it first or begins with it as of
// PostgreSQL 17, and it is shown a certificate of the host's own authority. So its
// sslmode is between the two of us. The target's certificate is verified as the
// policy says, and fully where it says nothing.
//
// The version of the protocol is the target's, 3.0 or 3.2. The key by which an
// agent cancels is ours and good for its own tree; the target's never leaves.
//
// # After a denial
//
// A refused message is never swallowed: the server would then commit what an
// error would have rolled back. It is replaced by one that has to fail at the
// same place (a text that is no SQL, an Execute or a Bind of something that does
// not exist), and the one error that comes back is rewritten. Skipping to Sync,
// implicit rollback and the state of the transaction are the server's own.
//
// # Logins
//
// Where a credential is configured headgate logs in with it: by SCRAM-SHA-256,
// bound to the target's certificate where the target offers that, md5, a password
// in the clear over verified TLS, a client certificate, or a token for Amazon RDS
// (package login). The agent is asked for nothing, since who it is was known when it
// connected; or for the credential's placeholder, by SCRAM-SHA-256 as well, bound to
// the certificate that the agent was shown. Without a credential the agent's own
// login is relayed.
//
// What headgate logged in with does not come back: not in errors, notices,
// notifications, reported settings, names of columns, results of function calls,
// the data of COPY, and not in values that are computed or come from a system
// catalog. It is found as it is and in hexadecimal, base64 and the usual escapes,
// inside of other text too if it has 8 bytes or more; as the md5 form that a server
// keeps, and after SCRAM as the keys that it keeps. The values of columns of users'
// tables are not looked into. Who takes a secret apart in SQL gets its pieces, so an
// account should not be able to read its own password anywhere.
//
// # Masks
//
// A masked value of a type that is no text is NULL, or the constant of a mask
// that has one, if it is a value of that type.
//
// The server says of each result column from which table's column it comes, so
// a new name, a join, a subquery or a cursor hide nothing. Views are followed to
// the columns that they depend on. A computed column is masked when its
// statement could compute it from a protected column: in a plain SELECT that is a
// question of each column, unless what all are made of is computed. While it is not known what
// a relation is made of (it was created a moment ago) all of it is protected.
// Unless the mask has copies: allow, a statement is refused that may store
// protected data where no mask follows, or change what a relation with protected
// columns is made of; with predicates: deny, one that chooses, orders, groups,
// joins or computes by a protected column. What a function or a procedure of the
// database does is for the policy to allow; an anonymous block counts as copying.
// A view or a materialized view is no copy, since it is followed. The payload of a
// notification is withheld while column masks are active. Of errors and notices
// the SQLSTATE stays; the words are withheld if they come from a function or a
// trigger, or if the statement could reach a protected column or its table while
// it ran. What the parser and the analysis say of the agent's own text stays.
//
// A definition that quotes a value is shown: it is its owner's words, and no reading
// of a column. While a mask has definitions: deny, the columns of the system that hold
// such texts are protected like its columns, and so are computed columns of statements
// that call a function that shows them, and plans. What a definition does, as a
// default that is inserted, is no quote.
//
// # Code of the database
//
// While column masks are active, or a rule that denies or asks a person lists
// user_function or opaque by its name, the effects that the policy is asked about
// include both where the database runs code of users that the statement
// does not name: an overload of a built-in name, the query of a view, a trigger or a
// default of a table that is written (package catalog has the list). Code that the
// session has defined in front of a statement, in the same Query or transaction, counts
// where such a rule names it: a function by its name, and a trigger, a rule, a cast, an
// operator or a view with such code in it for all that computes. A statement of another
// session that waits for a lock meanwhile is not judged again: who may define code may
// so have it run. What views,
// triggers and the like run is for the policy alone: a mask is no stricter for it.
// Where nothing is masked and the catalog can't be read, a statement is unknown if
// users may have put code behind anything in it.
//
// # What is known of a database
//
// What relations are made of is read from the target's catalog: read-only, on a
// connection of headgate's own with the credential that is injected, which the
// account must have room for. One catalog serves all sessions of a target, network
// namespace, database, resource and credential. Where the agent's own login is
// relayed there is nothing to log in with: the agent's session is asked, while it
// is idle outside a transaction, and the answer serves it alone.
//
// Definitions of mediated sessions count at once, in all sessions of the database.
// From when one is sent until a catalog was loaded behind its end, views and
// computed columns are protected like what is protected most; that is also so for
// a result that was asked for in front of the definition and comes behind it. A
// definition inside a transaction is its session's own matter until the end of the
// transaction is sent. What only adds to what there is (CREATE TABLE, ADD COLUMN,
// CREATE INDEX) and what only drops puts nobody in doubt. A definition that is still
// running when its agent has gone is waited for, ten minutes at most; what is
// waited for longer, or what is lost, keeps the database in doubt for two minutes.
//
// What a statement stores or weighs is judged when it is sent, and it may wait for
// a lock then. While a mask forbids copies or predicates, a definition is therefore
// refused as long as such statements of other sessions are under way; it may be
// tried again. A statement that code prepares anew under a name that the agent has
// prepared (DO, or a function that runs text) is judged by what the agent knows of
// that name: whoever allows such code allows that.
//
// Definitions of others are not seen: of sessions that are not mediated or only
// observed under TLS, of those that reach the same database by another address or
// name, of functions. A catalog that is older than 30 seconds is loaded again when
// it is asked for, and one that is older than two minutes does not count: a view
// that such a session replaced may show for that long what it showed before in the
// eyes of a mask. What the catalog does not have is protected, and makes it be
// loaded again.
//
// No more than five loads begin at once, and no more than one a second, or one in
// five times as long as it takes; an agent that defines more has a database in doubt
// meanwhile. A load that fails refuses
// the sessions that start without a catalog, and leaves the others in doubt.
//
// # Limits
//
// Rows and bytes are charged as the target sends them, before a mask changes
// them: a DataRow is a row, and so is a message of data of a COPY; the value of a
// function that is called by its OID is one. At a limit nothing more of the
// result reaches the agent. The target is sent a CancelRequest, and its error
// becomes the refusal, 54000, so that the transaction is aborted as it is told.
// Nothing is sent meanwhile, so that the request can hit no other statement.
// Where it could, because something was sent behind the statement that an error
// would not skip, and where the statement was completed (or its portal suspended)
// before it was hit, the session ends with the same code: what was carried out
// can't be called an error. Several Executes of one portal have one result; each
// FETCH of a cursor has one of its own, and counts as an operation. Errors and
// notices are not counted.
//
// # COPY
//
// The data of a COPY TO STDOUT is masked in text, CSV and binary format. A COPY
// does not describe its columns, so while masks are active what it copies is
// prepared and described in front of it, as a query: in the same transaction, so
// that the locks of the one hold for the other. The COPY runs in the extended
// protocol then, and the agent sees what its Query would have been answered with.
// A table without a list of columns leaves out those that are generated, and does
// not say which: where it has such columns, the ones beside a protected one may be
// masked, too. Between the two looks a schema may be renamed by another session:
// who may do that may as well copy what is protected.
//
// # What is refused
//
// Replication; while masks are active, a COPY TO STDOUT that is not alone in a
// Query, that is sent before the Sync of a pipeline, or whose data nobody can read
// for sure (another encoding, an unknown option); while column masks are, a
// statement that looks at a protected column and hands a value that it computes to
// a function with an effect (set_config, pg_notify, advisory locks, large
// objects), where it could be read back without a mask; GSSAPI and SSPI logins,
// and encryption by GSSAPI; the second half of a session after a message that is
// malformed or over its limit, or that has a name of more than 63 bytes: the
// server would cut it.
//
// A text with a backslash or a byte beyond ASCII is unknown while anything that
// runs in front of it has not ended: a view or a trigger may change how it is
// read. The rows of an EXECUTE or a FETCH are refused while masks are active if
// their name may have changed since the portal was bound. An error that may be of
// two requests, because a failed COPY may have swallowed a Sync, ends the session.
//
// # What is bounded
//
// The start of a session takes at most as long as Options.StartupTimeout. What
// has to be looked into as a whole has a limit for each message, and large
// messages share a budget in all sessions (Options.MaxMemory): one that finds no
// room soon, or that stalls, ends its session. All else is streamed.
//
// A name may denote whatever was sent for it and not yet answered. Between two
// Syncs that is only the latest: had that failed, the server would skip what
// follows.
//
// Sources: PostgreSQL documentation, "Frontend/Backend Protocol";
// src/backend/tcop/postgres.c for what is skipped after an error and
// src/backend/commands/copyfromparse.c for what is swallowed during a COPY.
package postgres
