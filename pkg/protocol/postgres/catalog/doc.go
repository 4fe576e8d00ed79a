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
// partition keys and statistics, policies for row security, types of columns, what a
// foreign key looks into. It follows them through views, partitions, inheritance and
// foreign keys. Code counts if pg_depend knows of it and it belongs to no extension. A
// name behind a dot counts as a function of a row where the relation that is meant has
// no such column.
//
// Where it can't be told which statement runs such code, all count that may: those
// of a database with a cast between types of the system, or an order of one, by
// functions of users; those that read a column whose type runs code when a value
// is made. A rule that writes counts whatever it does.
//
// Not followed are event triggers, what the planner computes in advance when a
// table is only read, and functions that come with the system and run text (a view
// with query_to_xml). A command for a whole database or schema, or for an index by
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
