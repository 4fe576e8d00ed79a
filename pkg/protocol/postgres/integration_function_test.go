package postgres_test

import (
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/headgate/headgate/pkg/mask"
	"github.com/headgate/headgate/pkg/protocol"
)

// What its function stored is refused only when all is committed.
func TestAFunctionCallHasOneResultHoweverItsCommitEnds(t *testing.T) {
	direct := mustDirect(t)
	mustExec(t, direct, `create table twice (id int unique deferrable initially deferred); grant all on twice to public;
		create function agent_twice() returns int language sql as 'insert into twice values (1); select 7'`)
	t.Cleanup(func() { mustExec(t, mustDirect(t), "drop function agent_twice(); drop table twice") })
	oid, err := strconv.ParseUint(cells(t, direct, modes["simple"], "select 'agent_twice'::regproc::oid")[0][0], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	for name, masks := range map[string]*mask.Set{"nothing masked": nil, "a mask": mustMask(t, ssnRule())} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, func(g *gate) { g.masks = masks })
			conn := mustConnect(t, g)
			mustExec(t, mustDirect(t), "delete from twice")
			call := &pgproto3.FunctionCall{Function: uint32(oid)}
			g.set(func() { g.frames = nil })
			script(t, conn, 2, call, call)
			var got []string
			g.set(func() {
				for _, f := range g.frames {
					if f.Kind == protocol.FrameResult {
						got = append(got, f.Outcome.Code)
					}
				}
			})
			if diff := cmp.Diff([]string{"", "23505"}, got); diff != "" {
				t.Errorf("results of two calls (-want +got):\n%s", diff)
			}
		})
	}
}
