// Package catalog knows what the relations of a PostgreSQL database are made of,
// and what a set of masks means there.
//
// A [Catalog] is built from the rows that [Query] returns. A [Shield] is a mask
// set applied to it: protected columns are followed through views and inheritance,
// and statements are judged by the names that they mention. Where something is not
// in the catalog the answers err on the side of protection.
//
// The package is pure: no I/O, no clock. Rows are a target's, so they are bounded
// and nothing is believed of them: a shield whose computation would take too long
// protects everything.
//
// Source: PostgreSQL documentation, "System Catalogs": pg_class, pg_attribute,
// pg_depend, pg_rewrite, pg_inherits.
package catalog
