package catalog

import "github.com/headgate/headgate/pkg/protocol/postgres/statement"

// activity is the view of what the sessions of a server do. All but their
// statements is shown.
const activity = "pg_stat_activity"

// everyColumn stands for all columns of a relation in the tables below.
const everyColumn = "*"

// samples are the columns of the system that hold values of other columns,
// whatever a mask says of definitions: statistics, the statements of other sessions,
// and the value that the rows of a table have in a column that was added to it.
// Source: the documentation's chapter "System Catalogs".
var samples = map[string][]string{
	"pg_attribute":          {"attmissingval"},
	"pg_stat_activity":      {"query"},
	"pg_statistic":          {everyColumn},
	"pg_statistic_ext_data": {everyColumn},
	"pg_stats":              {everyColumn},
	"pg_stats_ext":          {everyColumn},
	"pg_stats_ext_exprs":    {everyColumn},
}

// quoting are the columns of pg_catalog that show what somebody wrote into a
// definition: of the catalogs, some of them gone since PostgreSQL 12, and of the views
// on them. Of names, types and the values of settings nobody would call it a quote.
// Source: the same chapter.
var quoting = map[string][]string{
	"pg_aggregate":               {"agginitval", "aggminitval"},
	"pg_attrdef":                 {"adbin", "adsrc"},
	"pg_attribute":               {"attoptions", "attfdwoptions"},
	"pg_backend_memory_contexts": {"ident"}, // the statements inside functions
	"pg_class":                   {"relpartbound"},
	"pg_collation":               {"collicurules", "colliculocale"},
	"pg_constraint":              {"conbin", "consrc"},
	"pg_cursors":                 {"statement"},
	"pg_db_role_setting":         {"setconfig"},
	"pg_description":             {"description"},
	"pg_enum":                    {"enumlabel"},
	"pg_extension":               {"extcondition"},
	"pg_foreign_data_wrapper":    {"fdwoptions"},
	"pg_foreign_server":          {"srvtype", "srvversion", "srvoptions"},
	"pg_foreign_table":           {"ftoptions"},
	"pg_index":                   {"indexprs", "indpred"},
	"pg_indexes":                 {"indexdef"},
	"pg_matviews":                {"definition"},
	"pg_partitioned_table":       {"partexprs"},
	"pg_policies":                {"qual", "with_check"},
	"pg_policy":                  {"polqual", "polwithcheck"},
	"pg_prepared_statements":     {"statement"},
	"pg_proc":                    {"prosrc", "probin", "proargdefaults", "prosqlbody", "proconfig"},
	"pg_publication_rel":         {"prqual"},
	"pg_publication_tables":      {"rowfilter"},
	"pg_rewrite":                 {"ev_qual", "ev_action"},
	"pg_roles":                   {"rolconfig"},
	"pg_rules":                   {"definition"},
	"pg_seclabel":                {"label"},
	"pg_seclabels":               {"label"},
	"pg_shadow":                  {"useconfig"},
	"pg_shdescription":           {"description"},
	"pg_shseclabel":              {"label"},
	"pg_statistic_ext":           {"stxexprs"},
	"pg_subscription":            {"subconninfo"},
	"pg_trigger":                 {"tgargs", "tgqual"},
	"pg_ts_dict":                 {"dictinitoption"},
	"pg_type":                    {"typdefault", "typdefaultbin"},
	"pg_user":                    {"useconfig"},
	"pg_user_mapping":            {"umoptions"},
	"pg_user_mappings":           {"umoptions"},
	"pg_views":                   {"definition"},
}

// quotingStandard are those of information_schema. Source: the chapter "The
// Information Schema".
var quotingStandard = map[string][]string{
	"_pg_foreign_data_wrappers":    {"fdwoptions"},
	"_pg_foreign_servers":          {"srvoptions", "foreign_server_type", "foreign_server_version"},
	"_pg_foreign_table_columns":    {"attfdwoptions"},
	"_pg_foreign_tables":           {"ftoptions"},
	"_pg_user_mappings":            {"umoptions"},
	"attributes":                   {"attribute_default"},
	"check_constraints":            {"check_clause"},
	"column_options":               {"option_value"},
	"columns":                      {"column_default", "generation_expression"},
	"domains":                      {"domain_default"},
	"element_types":                {"domain_default"},
	"foreign_data_wrapper_options": {"option_value"},
	"foreign_server_options":       {"option_value"},
	"foreign_servers":              {"foreign_server_type", "foreign_server_version"},
	"foreign_table_options":        {"option_value"},
	"parameters":                   {"parameter_default"},
	"routines":                     {"routine_definition", "external_name"},
	"triggers":                     {"action_condition", "action_statement"},
	"user_mapping_options":         {"option_value"},
	"views":                        {"view_definition"},
}

// system protects what shows values of columns in a relation of the system, what
// quotes definitions if the set wants that, and what the set names itself.
func (f *follower) system(oid uint32, r *relation) {
	column := f.set.ColumnOfSystem
	if r.name == activity {
		column = f.set.Column
	}
	for _, a := range r.attributes {
		if action, ok := column(r.schema, r.name, a.name); ok {
			f.protect(oid, a, action)
		}
	}
	standard := r.schema == "information_schema"
	if !standard {
		f.protectNamed(oid, r, samples[r.name])
	}
	switch {
	case !f.set.NoDefinitions():
	case standard:
		f.protectNamed(oid, r, quotingStandard[r.name])
	default:
		f.protectNamed(oid, r, quoting[r.name])
	}
}

// protectNamed protects columns by their names. What this version of the system
// does not have is not missed.
func (f *follower) protectNamed(oid uint32, r *relation, columns []string) {
	for _, column := range columns {
		for _, a := range r.attributes {
			if column == everyColumn || column == a.name {
				f.protect(oid, a, f.set.Strictest())
			}
		}
	}
}

// quotes reports whether the statement shows definitions other than by a column,
// and the set protects them: by a function, or in a plan.
func (s *Shield) quotes(fact *statement.Statement) bool {
	if fact == nil || !s.set.NoDefinitions() {
		return false
	}
	return fact.Mentions.Quotes || fact.Does(statement.Explain) && len(fact.Tables()) > 0
}
