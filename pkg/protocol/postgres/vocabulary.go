package postgres

import "github.com/headgate/headgate/pkg/protocol/postgres/statement"

// Operations lists the effects that package statement documents, and those of
// messages that carry no statement.
func (*Postgres) Operations() []string {
	list := []string{verbFunctionCall, verbReplication}
	for _, o := range statement.Operations() {
		list = append(list, o.Name)
	}
	return list
}
