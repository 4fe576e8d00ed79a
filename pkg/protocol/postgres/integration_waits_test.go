package postgres_test

import "testing"

func TestWhatAStatementStoresIsNotChangedWhileItWaits(t *testing.T) {
	shadowed(t)
	g := sharing(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	a, b, c := mustConnect(t, g), mustConnect(t, g), mustConnect(t, g)
	mustExec(t, c, "begin; lock table gatekeeper in access exclusive mode")
	done := make(chan error, 1)
	go func() {
		_, err := a.Exec(testContext(t), "insert into notes (body) select x from gatekeeper, plain")
		done <- err
	}()
	awaitBackend(t, "wait_event_type = 'Lock'")
	_, err := b.Exec(testContext(t), "create view agent.plain as select ssn as x from public.customers")
	t.Logf("definition: %v", err)
	mustExec(t, c, "commit")
	t.Logf("insert: %v", <-done)
	if n := count(t, secretNumber); n != 0 {
		mustExec(t, mustDirect(t), "delete from notes where body like '%-%-%'")
		t.Errorf("protected data was stored %d times", n)
	}
}

// Its agent is gone, and the statement is not.
func TestWhatAnAgentLeftBehindStoresIsNotChangedEither(t *testing.T) {
	shadowed(t)
	g := sharing(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	a, b, c := mustConnect(t, g), mustConnect(t, g), mustConnect(t, g)
	mustExec(t, c, "begin; lock table gatekeeper in access exclusive mode")
	done := make(chan error, 1)
	go func() {
		_, err := a.Exec(testContext(t), "insert into notes (body) select x from gatekeeper, plain")
		done <- err
	}()
	awaitBackend(t, "wait_event_type = 'Lock'")
	if err := a.PgConn().Conn().Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("the agent that was gone got an answer")
	}
	_, err := b.Exec(testContext(t), "create view agent.plain as select ssn as x from public.customers")
	wantCode(t, err, "42501")
	mustExec(t, c, "commit")
	if n := count(t, secretNumber); n != 0 {
		t.Errorf("protected data was stored %d times", n)
	}
}

func TestWhatWasPreparedIsNotCommittedWhileOthersStore(t *testing.T) {
	shadowed(t)
	g := sharing(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	a, b, c := mustConnect(t, g), mustConnect(t, g), mustConnect(t, g)
	mustExec(t, b, "begin; create view agent.plain as select ssn as x from public.customers; prepare transaction 'later'")
	mustExec(t, c, "begin; lock table gatekeeper in access exclusive mode")
	done := make(chan error, 1)
	go func() {
		_, err := a.Exec(testContext(t), "insert into notes (body) select x from gatekeeper, plain")
		done <- err
	}()
	awaitBackend(t, "wait_event_type = 'Lock'")
	_, err := b.Exec(testContext(t), "commit prepared 'later'")
	mustExec(t, c, "commit")
	t.Logf("insert: %v", <-done)
	wantCode(t, err, "42501")
	mustExec(t, b, "rollback prepared 'later'")
	if n := count(t, secretNumber); n != 0 {
		t.Errorf("protected data was stored %d times", n)
	}
}

func TestADefinitionIsRefusedOnlyWhileOthersStore(t *testing.T) {
	shadowed(t)
	g := sharing(t, func(g *gate) { rule := ssnRule(); rule.AllowCopies = false; g.masks = mustMask(t, rule) })
	a, b := mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "insert into notes (body) select x from plain")
	mustExec(t, b, "create view harmless_one as select 1 as one")
	mustExec(t, a, "insert into notes (body) select one::text from harmless_one")
	mustExec(t, b, "drop view harmless_one; create view harmless_one as select 2 as one")
	mustExec(t, b, "drop view harmless_one")
	mustExec(t, mustDirect(t), "delete from notes")
}
