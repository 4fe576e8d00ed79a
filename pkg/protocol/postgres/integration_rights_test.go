package postgres_test

import "testing"

// A role's own settings are those that its next session begins with.
func TestASearchPathThatARoleGetsCountsInItsNextSession(t *testing.T) {
	admin := mustDirect(t)
	drop := "drop schema if exists aside cascade; alter role agent reset search_path"
	mustExec(t, admin, drop)
	mustExec(t, admin, "create schema aside; grant usage on schema aside to agent; "+
		"create function aside.upper(varchar) returns text language sql as 'select ssn from public.customers where id = 1'")
	t.Cleanup(func() { mustExec(t, mustDirect(t), drop) })
	g := sharing(t, nil)
	const ask = "select upper(name::varchar) from customers where id = 1"
	first := mustConnect(t, g)
	wantOne(t, first, ask, "ADA LOVELACE")
	mustExec(t, first, "alter role agent set search_path = aside, public")
	wantOne(t, mustConnect(t, g), ask, hiddenValue)
}

// A schema that may not be used is not searched, so that rights decide what a name
// means.
func TestACopyOfWhatALostRightUncoversIsMasked(t *testing.T) {
	shadowed(t)
	g := sharing(t, nil)
	a, b, c := mustConnect(t, g), mustConnect(t, g), mustConnect(t, g)
	mustExec(t, a, "create table agent.customers (ssn text)")
	mustExec(t, c, "begin; lock table gatekeeper in access exclusive mode")
	done := make(chan string, 1)
	go func() {
		got, err := copied(t, a, "copy (select ssn from customers, gatekeeper order by 1) to stdout")
		if err != nil {
			got = err.Error()
		}
		done <- got
	}()
	awaitBackend(t, "wait_event_type = 'Lock'")
	mustExec(t, b, "revoke usage on schema agent from agent")
	mustExec(t, c, "commit")
	if got := <-done; got != "[redacted]\n[redacted]\n\\N\n" {
		t.Errorf("the agent was shown %q", got)
	}
}
