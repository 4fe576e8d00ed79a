package statement

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// effectsByFunction are the functions that do more than compute, by name: a
// schema in front of the name does not matter, because extensions are
// installed anywhere. set_config is handled as SET.
var effectsByFunction = map[string][]string{
	"nextval":   {Sequence},
	"setval":    {Sequence},
	"pg_notify": {Notify},

	// They run SQL text, or read tables by a name that is data.
	"cursor_to_xml":                 {Opaque},
	"cursor_to_xmlschema":           {Opaque},
	"database_to_xml":               {Opaque},
	"database_to_xml_and_xmlschema": {Opaque},
	"database_to_xmlschema":         {Opaque},
	"query_to_xml":                  {Opaque},
	"query_to_xml_and_xmlschema":    {Opaque},
	"query_to_xmlschema":            {Opaque},
	"schema_to_xml":                 {Opaque},
	"schema_to_xml_and_xmlschema":   {Opaque},
	"schema_to_xmlschema":           {Opaque},
	"table_to_xml":                  {Opaque},
	"table_to_xml_and_xmlschema":    {Opaque},
	"table_to_xmlschema":            {Opaque},
	"ts_rewrite":                    {Opaque},
	"ts_stat":                       {Opaque},
	// It decodes the statistics, which hold values of the columns.
	"pg_mcv_list_items": {Opaque},
	// They show the statements of other sessions, with the values in them.
	"pg_stat_get_activity":         {Opaque},
	"pg_stat_get_backend_activity": {Opaque},

	"brin_desummarize_range":    {Maintenance},
	"brin_summarize_new_values": {Maintenance},
	"brin_summarize_range":      {Maintenance},
	"gin_clean_pending_list":    {Maintenance},

	"loread":                              {System},
	"lowrite":                             {System},
	"pg_backup_start":                     {System},
	"pg_backup_stop":                      {System},
	"pg_cancel_backend":                   {System},
	"pg_copy_logical_replication_slot":    {System},
	"pg_copy_physical_replication_slot":   {System},
	"pg_create_logical_replication_slot":  {System},
	"pg_create_physical_replication_slot": {System},
	"pg_create_restore_point":             {System},
	"pg_drop_replication_slot":            {System},
	"pg_extension_config_dump":            {System},
	"pg_hba_file_rules":                   {System},
	"pg_ident_file_mappings":              {System},
	"pg_import_system_collations":         {System},
	"pg_log_backend_memory_contexts":      {System},
	"pg_logical_emit_message":             {System},
	"pg_logical_slot_get_binary_changes":  {Opaque, System},
	"pg_logical_slot_get_changes":         {Opaque, System},
	"pg_logical_slot_peek_binary_changes": {Opaque, System},
	"pg_logical_slot_peek_changes":        {Opaque, System},
	"pg_nextoid":                          {System},
	"pg_promote":                          {System},
	"pg_reload_conf":                      {System},
	"pg_rotate_logfile":                   {System},
	"pg_rotate_logfile_old":               {System},
	"pg_show_all_file_settings":           {System},
	"pg_start_backup":                     {System},
	"pg_stat_file":                        {System},
	"pg_stop_backup":                      {System},
	"pg_stop_making_pinned_objects":       {System},
	"pg_switch_wal":                       {System},
	"pg_sync_replication_slots":           {System},
	"pg_terminate_backend":                {System},
	"pg_wal_replay_pause":                 {System},
	"pg_wal_replay_resume":                {System},
}

// effectsByPrefix are families of functions.
var effectsByPrefix = []struct {
	prefix  string
	effects []string
}{
	{"binary_upgrade_", []string{System}},
	{"dblink", []string{Opaque, System}},
	{"lo_", []string{System}},
	{"pg_advisory_", []string{Lock}},
	{"pg_clear_", []string{Maintenance}},
	{"pg_file_", []string{System}},
	{"pg_ls_", []string{System}},
	{"pg_read_", []string{Opaque, System}},
	{"pg_replication_", []string{System}},
	{"pg_restore_", []string{Maintenance}},
	{"pg_stat_reset", []string{System}},
	{"pg_try_advisory_", []string{Lock}},
	{"postgres_fdw_", []string{System}},
}

// functionEffects returns what a function of that name does beyond computing,
// nil for one that is in no table.
func functionEffects(name string) []string {
	if effects, ok := effectsByFunction[name]; ok {
		return effects
	}
	for _, f := range effectsByPrefix {
		if strings.HasPrefix(name, f.prefix) {
			return f.effects
		}
	}
	return nil
}

// QuotingFunctions returns the names of the functions that show the text of a
// definition, or of a part of it, sorted. The caller owns the list.
func QuotingFunctions() []string { return slices.Clone(quotingFunctions) }

// quotingFunctions show what somebody wrote into a definition. What only names
// things, their types or the values of settings is not among them. Sorted. Source:
// pg_proc of 15 and 18. pg_get_backend_memory_contexts has the texts of statements
// inside functions.
var quotingFunctions = []string{
	"col_description", "enum_first", "enum_last", "enum_range", "obj_description", "pg_cursor", "pg_get_backend_memory_contexts",
	"pg_get_constraintdef", "pg_get_expr", "pg_get_function_arg_default", "pg_get_function_arguments",
	"pg_get_function_sqlbody", "pg_get_functiondef", "pg_get_indexdef", "pg_get_partition_constraintdef",
	"pg_get_partkeydef", "pg_get_publication_tables", "pg_get_ruledef", "pg_get_statisticsobjdef",
	"pg_get_statisticsobjdef_columns", "pg_get_statisticsobjdef_expressions", "pg_get_triggerdef", "pg_get_viewdef",
	"pg_prepared_statement", "shobj_description",
}

// quotes reports whether a call shows the text of a definition. A schema in front
// of the name does not matter.
func quotes(n *pg.FuncCall) bool {
	_, ok := slices.BinarySearch(quotingFunctions, last(stringsOf(n.GetFuncname())))
	return ok
}

// rowFunctions turn a whole row into a value that shows it, and take one
// argument: t.to_json is to_json(t). Sorted. Source: pg_proc, and PostgreSQL 18
// for max and min.
var rowFunctions = []string{
	"any_out", "any_value", "anycompatible_out", "anycompatiblenonarray_out", "anyelement_out", "anynonarray_out",
	"array_agg", "concat", "hash_record", "json_agg", "json_agg_strict", "json_build_array", "json_build_object",
	"jsonb_agg", "jsonb_agg_strict", "jsonb_build_array", "jsonb_build_object", "max", "min", "quote_literal",
	"quote_nullable", "record_out", "record_send", "row_to_json", "to_json", "to_jsonb",
}
