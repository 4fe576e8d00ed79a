package postgres

import (
	"testing"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol/postgres/catalog"
)

// customers is a database with a column to protect, and the mask that does.
func customers(tb testing.TB) (*mask.Set, *catalog.Catalog) {
	tb.Helper()
	c := catalog.New()
	for _, row := range [][]string{
		{"c", "16400", "1", "public", "customers", "id", "r"},
		{"c", "16400", "2", "public", "customers", "ssn", "r"},
		{"c", "16401", "1", "public", "orders", "total", "r"},
	} {
		values := make([][]byte, len(row))
		for i := range row {
			values[i] = []byte(row[i])
		}
		if err := c.Add(dataRow(tb, values...)[5:]); err != nil {
			tb.Fatal(err)
		}
	}
	return mustCompile(tb, mask.Rule{Name: "r", Columns: []string{"public.customers.ssn"}, With: "redact"}), c
}

// knowing returns a session that knows the database of customers.
func knowing(tb testing.TB) (*exchange, *mask.Set) {
	tb.Helper()
	set, c := customers(tb)
	x := &exchange{pending: newPending()}
	x.database = newDatabases().enter(place{})
	x.entry = newEntry(x.database, burst)
	x.entry.catalog, x.entry.begun = c, x.database.of.now()
	return x, set
}
