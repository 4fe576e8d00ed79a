package postgres_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/policy"
	"github.com/headgate/headgate/pkg/protocol"
	"github.com/headgate/headgate/pkg/protocol/postgres/statement"
)

// denyUnknown denies what is not known, and DROP.
func denyUnknown() func(*policy.Operation) *protocol.Denial {
	return deny(policy.Unknown, statement.Drop)
}

func TestAViewCannotChangeHowAPipelinedTextIsRead(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = denyUnknown() })
	text := `select 'a\' as x, '; drop table lexed; --'`
	off := "update hidden_settings set setting = 'off' where name = 'standard_conforming_strings'"
	sync := &pgproto3.Sync{}
	for name, send := range map[string][]pgproto3.FrontendMessage{
		"query": {&pgproto3.Query{String: off}, &pgproto3.Query{String: text}},
		"extended": {
			&pgproto3.Parse{Query: off}, &pgproto3.Bind{}, &pgproto3.Execute{}, sync, &pgproto3.Query{String: text},
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := mustConnect(t, g)
			mustExec(t, conn, "create table if not exists lexed (id int)")
			mustExec(t, conn, "create or replace view hidden_settings as select * from pg_settings")
			if got := script(t, conn, 2, send...); !strings.Contains(got, "E42501 Z") {
				t.Errorf("the text was let through: %s", got)
			}
			other := mustConnect(t, g)
			if got := cells(t, other, modes["simple"], "select count(*) from lexed"); got[0][0] != "0" {
				t.Errorf("the table holds %v", got)
			}
		})
	}
}

func TestATextWithABackslashIsReadWhenNothingIsUnanswered(t *testing.T) {
	g := newGate(t, func(g *gate) { g.decide = denyUnknown() })
	conn := mustConnect(t, g)
	for name, mode := range modes {
		for range 3 {
			if got := cells(t, conn, mode, `select 'a\' as x, 'é' as y`); got[0][0] != `a\` {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}
