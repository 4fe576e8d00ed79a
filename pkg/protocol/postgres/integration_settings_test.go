package postgres_test

import "testing"

// Data of a setting that the target reports.
func TestWhatCodePutsIntoAReportedSettingIsMasked(t *testing.T) {
	g := newGate(t, func(g *gate) { g.masks = mustMask(t, ssnRule()) })
	conn := mustConnect(t, g)
	mustExec(t, conn, "do $$ begin perform set_config('search_path', (select ssn from customers where id = 1), false); end $$")
	if got := conn.PgConn().ParameterStatus("search_path"); got == secretNumber {
		t.Errorf("search_path is reported as %s", got)
	}
	mustExec(t, conn, "do $$ begin perform set_config('search_path', 'public', false); perform set_config('scram_iterations', (select replace(ssn, '-', '') from public.customers where id = 1), false); exception when undefined_object then null; end $$")
	if got := conn.PgConn().ParameterStatus("scram_iterations"); got == "123456789" {
		t.Errorf("scram_iterations is reported as %s", got)
	}
}
