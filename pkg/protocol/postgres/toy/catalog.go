package toy

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// catalogWidth is the number of columns in which the mediator reads a catalog:
// kind of row, object id, attribute number, schema, relation, attribute, kind of
// relation.
const catalogWidth = 7

// catalog answers the mediator's question about relations, whatever its text:
// there is one table.
func catalog() []pgproto3.BackendMessage {
	description := &pgproto3.RowDescription{}
	for i := range catalogWidth {
		description.Fields = append(description.Fields, pgproto3.FieldDescription{
			Name: fmt.Appendf(nil, "c%d", i), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1,
		})
	}
	answer := []pgproto3.BackendMessage{description}
	for i, name := range Columns() {
		row := &pgproto3.DataRow{}
		for _, cell := range []string{"c", fmt.Sprint(TableOID), fmt.Sprint(i + 1), "public", Table, name, "r"} {
			row.Values = append(row.Values, []byte(cell))
		}
		answer = append(answer, row)
	}
	return append(answer, &pgproto3.CommandComplete{CommandTag: fmt.Appendf(nil, "SELECT %d", len(Columns()))})
}
