package statement

import (
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/pkg/internal/pgtest"
)

// reviewed are the volatile functions that count as computing: they tell the
// time, chance or the state of the server, and leave nothing behind that others
// could see. setseed is in [Mentions.Leaves].
var reviewed = []string{
	"amvalidate", "clock_timestamp", "current_query", "currtid2", "currval", "gen_random_uuid", "lastval",
	"pg_blocking_pids", "pg_collation_actual_version", "pg_control_checkpoint", "pg_control_init",
	"pg_control_recovery", "pg_control_system", "pg_current_logfile", "pg_current_wal_flush_lsn",
	"pg_current_wal_insert_lsn", "pg_current_wal_lsn", "pg_database_collation_actual_version", "pg_database_size",
	"pg_export_snapshot", "pg_get_backend_memory_contexts", "pg_get_multixact_members", "pg_get_shmem_allocations",
	"pg_get_wal_replay_pause_state", "pg_get_wal_resource_managers", "pg_indexes_size", "pg_is_in_recovery",
	"pg_is_wal_replay_paused", "pg_isolation_test_session_is_blocked", "pg_jit_available", "pg_last_committed_xact",
	"pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp", "pg_lock_status",
	"pg_notification_queue_usage", "pg_partition_ancestors", "pg_partition_tree", "pg_prepared_xact",
	"pg_relation_size", "pg_safe_snapshot_blocking_pids", "pg_sequence_last_value", "pg_show_replication_origin_status",
	"pg_sleep", "pg_sleep_for", "pg_sleep_until", "pg_stat_clear_snapshot", "pg_stat_force_next_flush",
	"pg_stat_get_recovery_prefetch", "pg_stat_get_xact_blocks_fetched", "pg_stat_get_xact_blocks_hit",
	"pg_stat_get_xact_function_calls", "pg_stat_get_xact_function_self_time", "pg_stat_get_xact_function_total_time",
	"pg_stat_get_xact_numscans", "pg_stat_get_xact_tuples_deleted", "pg_stat_get_xact_tuples_fetched",
	"pg_stat_get_xact_tuples_hot_updated", "pg_stat_get_xact_tuples_inserted", "pg_stat_get_xact_tuples_returned",
	"pg_stat_get_xact_tuples_updated", "pg_stat_have_stats", "pg_table_size", "pg_tablespace_size",
	"pg_total_relation_size", "pg_xact_commit_timestamp", "pg_xact_commit_timestamp_origin", "pg_xact_status", "random",
	"setseed", "timeofday", "txid_status",
}

func TestTheTablesOfBuiltInNamesAreThoseOfEveryServer(t *testing.T) {
	for _, v := range pgtest.Versions() {
		t.Run(v.String(), func(t *testing.T) {
			c := v.Start(t)
			list := func(query string) map[string]bool {
				names := map[string]bool{}
				for name := range strings.Lines(c.SQL(t, "postgres", query)) {
					names[strings.TrimSpace(name)] = true
				}
				return names
			}
			for _, table := range []struct {
				name  string
				ours  []string
				query string
			}{
				{"builtinFunctions", builtinFunctions, `SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace`},
				{"actingFunctions", actingFunctions, `SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace`},
				{"informationFunctions", informationFunctions, `SELECT proname FROM pg_proc WHERE pronamespace = 'information_schema'::regnamespace`},
				{"builtinOperators", builtinOperators, `SELECT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace UNION ALL SELECT '!='`},
				{"builtinTypes", builtinTypes, `SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace`},
			} {
				theirs := list(table.query)
				for _, name := range table.ours {
					// A name that the server does not have may be a user's.
					if !theirs[name] {
						t.Errorf("%s: %s is not built in", table.name, name)
					}
				}
			}
			for name := range list(`SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v'`) {
				if _, computes := slices.BinarySearch(builtinFunctions, name); computes && !slices.Contains(reviewed, name) {
					t.Errorf("%s is volatile and counts as computing", name)
				}
			}
			for name := range list(`SELECT proname FROM pg_proc`) {
				known := isBuiltin([]string{name})
				if s := Parse(`SELECT "` + name + `"()`)[0]; !known && !(s.Does(UserFunction) && s.Does(Opaque)) {
					t.Errorf("%s is in no table and counts as harmless: %v", name, s.Effects)
				}
			}
		})
	}
}
