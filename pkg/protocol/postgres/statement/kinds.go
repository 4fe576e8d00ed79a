package statement

// kind says what a statement node of the syntax tree means, whatever its
// fields say. What depends on fields is in [walker.visit].
type kind struct {
	verb    string
	effects []string
	// stored marks nodes whose queries are kept for later rather than run.
	stored bool
	// part marks nodes that only occur inside others: unknown when outermost.
	part bool
}

func plain(verb string) kind { return kind{verb: verb, effects: []string{verb}} }

func ddl(more ...string) kind {
	return kind{verb: DDL, effects: append([]string{DDL}, more...)}
}

func dcl(more ...string) kind {
	return kind{verb: DCL, effects: append([]string{DCL}, more...)}
}

func stored(k kind) kind {
	k.stored = true
	return k
}

// kindOf returns the kind of a message of the syntax tree. It reports false
// for every name that is not in the tables.
func kindOf(name string) (kind, bool) {
	if k, ok := runKinds[name]; ok {
		return k, true
	}
	k, ok := definitionKinds[name]
	return k, ok
}

// runKinds are the statements that work on data or on the session.
var runKinds = map[string]kind{
	"CallStmt":           {verb: Call, effects: []string{Call, Opaque}},
	"CheckPointStmt":     plain(Maintenance),
	"ClosePortalStmt":    {verb: "close", effects: []string{Fetch}},
	"ClusterStmt":        plain(Maintenance),
	"ConstraintsSetStmt": plain(Transaction),
	"CopyStmt":           {verb: "copy"}, // the visitor refines it
	"CreateTableAsStmt":  ddl(Select),
	"DeallocateStmt":     {verb: "deallocate", effects: []string{Prepare}},
	"DeclareCursorStmt":  plain(Declare),
	"DeleteStmt":         plain(Delete),
	"DiscardStmt":        plain(Discard),
	"DoStmt":             {verb: Do, effects: []string{Do, Opaque}},
	"ExecuteStmt":        plain(Execute),
	"ExplainStmt":        plain(Explain),
	"FetchStmt":          plain(Fetch),
	"InsertStmt":         plain(Insert),
	"ListenStmt":         plain(Listen),
	"LoadStmt":           plain(System),
	"LockStmt":           plain(Lock),
	"MergeStmt":          {verb: Merge, effects: []string{Merge, Select}},
	"NotifyStmt":         plain(Notify),
	"PrepareStmt":        plain(Prepare),
	"SelectStmt":         plain(Select),
	"TransactionStmt":    plain(Transaction),
	"TruncateStmt":       plain(Truncate),
	"UnlistenStmt":       {verb: "unlisten", effects: []string{Listen}},
	"UpdateStmt":         plain(Update),
	"VacuumStmt":         plain(Maintenance),
	"VariableSetStmt":    {verb: Set}, // the visitor finds the effect
	"VariableShowStmt":   plain(Show),

	"ReplicaIdentityStmt": {part: true},
	"ReturnStmt":          {part: true},
}

// definitionKinds are the statements that change definitions or rights.
var definitionKinds = map[string]kind{
	"AlterCollationStmt":           ddl(),
	"AlterDatabaseRefreshCollStmt": ddl(),
	"AlterDatabaseSetStmt":         ddl(),
	"AlterDatabaseStmt":            ddl(),
	"AlterDefaultPrivilegesStmt":   dcl(),
	"AlterDomainStmt":              ddl(),
	"AlterEnumStmt":                ddl(),
	"AlterEventTrigStmt":           ddl(Code),
	"AlterExtensionContentsStmt":   ddl(Opaque, UserFunction), // what is in there counts as the extension's
	"AlterExtensionStmt":           ddl(Opaque),
	"AlterFdwStmt":                 ddl(System),
	"AlterForeignServerStmt":       ddl(System),
	"AlterFunctionStmt":            stored(ddl(Code)),
	"AlterObjectDependsStmt":       ddl(),
	"AlterObjectSchemaStmt":        ddl(),
	"AlterOpFamilyStmt":            ddl(Code),
	"AlterOperatorStmt":            ddl(Code),
	"AlterOwnerStmt":               ddl(DCL),
	"AlterPolicyStmt":              stored(ddl(DCL)),
	"AlterPublicationStmt":         stored(ddl()),
	"AlterRoleSetStmt":             dcl(),
	"AlterRoleStmt":                dcl(),
	"AlterSeqStmt":                 ddl(),
	"AlterStatsStmt":               ddl(),
	"AlterSubscriptionStmt":        ddl(System),
	"AlterSystemStmt":              plain(System),
	"AlterTSConfigurationStmt":     ddl(),
	"AlterTSDictionaryStmt":        ddl(),
	"AlterTableMoveAllStmt":        ddl(),
	"AlterTableSpaceOptionsStmt":   ddl(),
	"AlterTableStmt":               ddl(),
	"AlterTypeStmt":                ddl(),
	"AlterUserMappingStmt":         ddl(System),
	"CommentStmt":                  ddl(),
	"CompositeTypeStmt":            ddl(),
	"CreateAmStmt":                 ddl(),
	"CreateCastStmt":               ddl(Code),
	"CreateConversionStmt":         ddl(Code),
	"CreateDomainStmt":             ddl(),
	"CreateEnumStmt":               ddl(),
	"CreateEventTrigStmt":          ddl(Code),
	"CreateExtensionStmt":          ddl(Opaque),
	"CreateFdwStmt":                ddl(System),
	"CreateForeignServerStmt":      ddl(System),
	"CreateForeignTableStmt":       ddl(System),
	"CreateFunctionStmt":           stored(ddl(Code)),
	"CreateOpClassStmt":            ddl(Code),
	"CreateOpFamilyStmt":           ddl(Code),
	"CreatePLangStmt":              ddl(Code, System),
	"CreatePolicyStmt":             stored(ddl(DCL)),
	"CreatePublicationStmt":        stored(ddl()),
	"CreateRangeStmt":              ddl(),
	"CreateRoleStmt":               dcl(),
	"CreateSchemaStmt":             ddl(),
	"CreateSeqStmt":                ddl(),
	"CreateStatsStmt":              ddl(),
	"CreateStmt":                   ddl(),
	"CreateSubscriptionStmt":       ddl(System),
	"CreateTableSpaceStmt":         ddl(System),
	"CreateTransformStmt":          ddl(Code),
	"CreateTrigStmt":               stored(ddl(Code)),
	"CreateUserMappingStmt":        ddl(System),
	"CreatedbStmt":                 ddl(),
	"DefineStmt":                   ddl(), // the visitor adds code
	"DropOwnedStmt":                ddl(Drop, DCL),
	"DropRoleStmt":                 dcl(Drop),
	"DropStmt":                     ddl(Drop),
	"DropSubscriptionStmt":         ddl(Drop, System),
	"DropTableSpaceStmt":           ddl(Drop, System),
	"DropUserMappingStmt":          ddl(Drop, System),
	"DropdbStmt":                   ddl(Drop, DropDatabase),
	"GrantRoleStmt":                dcl(),
	"GrantStmt":                    dcl(),
	"ImportForeignSchemaStmt":      ddl(System),
	"IndexStmt":                    ddl(),
	"ReassignOwnedStmt":            ddl(DCL),
	"RefreshMatViewStmt":           ddl(),
	"ReindexStmt":                  ddl(),
	"RenameStmt":                   ddl(),
	"RuleStmt":                     stored(ddl(Code)),
	"SecLabelStmt":                 dcl(),
	"ViewStmt":                     stored(ddl()),
}
