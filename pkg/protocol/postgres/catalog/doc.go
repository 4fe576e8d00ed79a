// Package catalog knows what the relations of a PostgreSQL database are made of,
// and what a set of masks means there.
//
// A [Catalog] is built from the rows that [Query] returns. A [Shield] is a mask
// set applied to it: protected columns are followed through views and inheritance,
// and statements are judged by the names that they mention. Where something is not
// in the catalog the answers err on the side of protection.
//
// It also tells which statements run code of users that they do not name: an
// overload of a built-in function, the check of a domain ([Shield.RunsCode]), and
// what relations run by themselves ([Shield.RunsBehind]): the queries of views,
// rules, defaults, generated columns, triggers, checks, expressions of indexes,
// partition keys and statistics, policies for row security, types of columns. It
// follows them through views, partitions, inheritance and foreign keys. Code counts
// if pg_depend knows of it and it belongs to no extension.
//
// Not followed are event triggers, what the planner computes in advance when a
// table is only read, and functions that come with the system and run text (a view
// with query_to_xml). Nor are casts between types of the system by a function of
// users, and their order by an operator class of users; the check of a domain for a
// value that a function makes for the type of another argument (the default of lag,
// array_append, a row of JSON for the row of a table); defaults that EXPLAIN of an
// INSERT computes; and what a definition of the session's own has made a moment ago
// (a view to insert through, a trigger that was enabled). A rule counts by the
// functions that it calls: what else it writes is not among the effects. A command for a whole database or schema, or for an index by
// its name (ANALYZE, REINDEX), names no table that could be looked up, and a table
// without a column is in no row.
//
// The package is pure: no I/O, no clock. Rows are a target's, so they are bounded
// and nothing is believed of them: a shield whose computation would take too long
// protects everything.
//
// Source: PostgreSQL documentation, "System Catalogs": pg_class, pg_attribute,
// pg_depend, pg_rewrite, pg_inherits, pg_trigger, pg_attrdef, pg_constraint,
// pg_index, pg_policy; "Dependency Tracking".
package catalog
