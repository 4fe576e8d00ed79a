package catalog

// Query lists what a [Catalog] is built from, in columns of text:
//
//	c  relation  attribute number  schema  relation name  attribute name  kind
//	d  view      attribute number of the other or 0       the other
//	w  view      (it refers to a whole row, which leaves no trace in pg_depend)
//	f  view      (it calls a function that may read anything)
//	q  view      (it calls a function that shows definitions)
//	r  relation  (it has a rule that runs where it is written)
//	i  child     parent
//	k  relation  number of an attribute of a unique index or a foreign key, 0 for an expression
//	u  function  whether its schema is searched, that, its name, whether a row alone may
//	             be its argument: of users, as all that follows but the casts
//	g  cast      (it turns rows into something else without being written)
//	o  operator  the same of an operator
//	t  type      the same of a type whose values run code when they are made
//	e  function  the same of a function of an extension that takes any row
//	p  -         the search path that a session begins with
//	x  relation  the events at which it runs code of users, and what of it does
//	y  relation  its events that are others of another relation, too: that, and those
//
// What belongs to an extension is not among those of users: citext alone has an
// operator of each name that compares.
//
// Every name and operator is qualified: the agent's search_path may be in force.
// The relations of the system are listed beside those of users: statistics hold
// values of columns, and definitions may quote them. A sequence is a relation too,
// with columns that are not protected.
const Query = `SELECT 'c'::pg_catalog.text, c.oid::pg_catalog.text, a.attnum::pg_catalog.text,` +
	` n.nspname::pg_catalog.text, c.relname::pg_catalog.text, a.attname::pg_catalog.text, c.relkind::pg_catalog.text` +
	` FROM pg_catalog.pg_class c, pg_catalog.pg_namespace n, pg_catalog.pg_attribute a` +
	` WHERE n.oid OPERATOR(pg_catalog.=) c.relnamespace AND a.attrelid OPERATOR(pg_catalog.=) c.oid` +
	` AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped` +
	` AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v,m,f,p,S}'::pg_catalog."char"[])` +
	` AND (c.oid::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8 OR n.nspname OPERATOR(pg_catalog.=)` +
	` ANY ('{pg_catalog,information_schema}'::pg_catalog.name[]))` +
	` UNION ALL SELECT 'd', r.ev_class::pg_catalog.text, d.refobjsubid::pg_catalog.text, d.refobjid::pg_catalog.text, '', '', ''` +
	` FROM pg_catalog.pg_depend d, pg_catalog.pg_rewrite r` +
	` WHERE d.classid OPERATOR(pg_catalog.=) 2618::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) r.oid` +
	` AND d.refclassid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class` +
	` AND r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` UNION ALL SELECT 'w', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND pg_catalog.strpos(r.ev_action::pg_catalog.text, ':varattno 0 ') OPERATOR(pg_catalog.>) 0` +
	` UNION ALL SELECT 'f', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND (EXISTS (SELECT 1 FROM pg_catalog.pg_depend f WHERE f.classid OPERATOR(pg_catalog.=) 2618::pg_catalog.oid` +
	` AND f.objid OPERATOR(pg_catalog.=) r.oid AND f.refclassid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid)` +
	` OR r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT pg_catalog.concat(':funcid (',` +
	` pg_catalog.string_agg(p.oid::pg_catalog.text, '|'), ') ') FROM pg_catalog.pg_proc p` +
	` WHERE p.proname::pg_catalog.text OPERATOR(pg_catalog.~) '_to_xml'))` +
	readsSystem +
	` UNION ALL SELECT 'r', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog."char"` +
	` UNION ALL SELECT 'i', h.inhrelid::pg_catalog.text, h.inhparent::pg_catalog.text, '', '', '', ''` +
	` FROM pg_catalog.pg_inherits h` +
	` UNION ALL SELECT 'k', x.indrelid::pg_catalog.text, k.n::pg_catalog.text, '', '', '', ''` +
	` FROM pg_catalog.pg_index x, pg_catalog.unnest(x.indkey::pg_catalog.int2[]) k(n)` +
	` WHERE (x.indisunique OR x.indisexclusion) AND x.indrelid::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` UNION ALL SELECT 'k', f.conrelid::pg_catalog.text, k.n::pg_catalog.text, '', '', '', ''` +
	` FROM pg_catalog.pg_constraint f, pg_catalog.unnest(f.conkey) k(n) WHERE f.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"` +
	` UNION ALL SELECT 'u', p.oid::pg_catalog.text, pg_catalog.pg_function_is_visible(p.oid)::pg_catalog.text, p.pronamespace::pg_catalog.regnamespace::pg_catalog.text, p.proname::pg_catalog.text, (` + takesRow + `)::pg_catalog.text, ''` +
	` FROM pg_catalog.pg_proc p WHERE p.oid::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.classid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid` +
	` AND e.objid OPERATOR(pg_catalog.=) p.oid AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char")` +
	` UNION ALL SELECT 'e', p.oid::pg_catalog.text, 'true', '', p.proname::pg_catalog.text, '', ''` +
	` FROM pg_catalog.pg_proc p, pg_catalog.pg_depend e WHERE e.classid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid` +
	` AND e.objid OPERATOR(pg_catalog.=) p.oid AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"` +
	// record, "any", and the polymorphic types that a row can be.
	` AND p.proargtypes::pg_catalog.oid[] OPERATOR(pg_catalog.&&) '{2249,2276,2283,2776,5077,5079}'::pg_catalog.oid[]` +
	` UNION ALL SELECT 'g', g.oid::pg_catalog.text, 'true', '', '', '', ''` +
	` FROM pg_catalog.pg_cast g, pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.=) g.castsource` +
	` AND g.castcontext OPERATOR(pg_catalog.=) 'i'::pg_catalog."char" AND t.typtype OPERATOR(pg_catalog.=) ANY ('{c,d,p}'::pg_catalog."char"[])` +
	` UNION ALL SELECT 'o', q.oid::pg_catalog.text, pg_catalog.pg_operator_is_visible(q.oid)::pg_catalog.text, q.oprnamespace::pg_catalog.regnamespace::pg_catalog.text, q.oprname::pg_catalog.text, '', ''` +
	` FROM pg_catalog.pg_operator q WHERE q.oid::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.classid OPERATOR(pg_catalog.=) 2617::pg_catalog.oid` +
	` AND e.objid OPERATOR(pg_catalog.=) q.oid AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char")` +
	` UNION ALL SELECT 'p', '0', 'true', '', pg_catalog.left(pg_catalog.current_setting('search_path'), 1024), '', ''` + queryBehind

// takesRow tells of a function whether it may be called with a row and nothing else:
// none of its other arguments has to be given, and the first one is a composite type, a
// domain over one, or a pseudo-type, as record and anyelement are. Of VARIADIC ones each
// element counts.
const takesRow = `(p.pronargs OPERATOR(pg_catalog.=) 1::pg_catalog.int2 OR (p.pronargs::pg_catalog.int4` +
	` OPERATOR(pg_catalog.-) p.pronargdefaults::pg_catalog.int4) OPERATOR(pg_catalog.<=) 1)` +
	` AND EXISTS (SELECT 1 FROM pg_catalog.pg_type t WHERE (t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]` +
	` OR t.oid OPERATOR(pg_catalog.=) p.provariadic) AND (t.typtype OPERATOR(pg_catalog.=) ANY ('{c,p}'::pg_catalog."char"[])` +
	` OR t.typtype OPERATOR(pg_catalog.=) 'd'::pg_catalog."char" AND EXISTS (SELECT 1 FROM pg_catalog.pg_type b` +
	` WHERE b.oid OPERATOR(pg_catalog.=) t.typbasetype AND b.typtype OPERATOR(pg_catalog.=) ANY ('{c,d,p}'::pg_catalog."char"[]))))`

// readsSystem lists what views of users read of the system. On the catalogs
// themselves, which are always there, they depend without a trace in pg_depend: their
// rule has the relation, and the columns as numbers that begin below zero, with that of
// the tableoid (FirstLowInvalidHeapAttributeNumber in access/sysattr.h).
const readsSystem = ` UNION ALL SELECT DISTINCT 'd', x.view::pg_catalog.text, (k.n::pg_catalog.int4 OPERATOR(pg_catalog.-)` +
	` CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.<) 120000 THEN 8 ELSE 7 END)::pg_catalog.text,` +
	` pg_catalog.substring(x.part, '^[0-9]+'), '', '', '' FROM (SELECT r.ev_class AS view, s.part FROM pg_catalog.pg_rewrite r,` +
	` pg_catalog.regexp_split_to_table(r.ev_action::pg_catalog.text, ':relid ') s(part)` +
	` WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8) x,` +
	` pg_catalog.regexp_split_to_table(pg_catalog.substring(x.part, ':selectedCols [(]b ([0-9 ]+)[)]'), ' ') k(n)` +
	` WHERE pg_catalog.substring(x.part, '^([0-9]+) ')::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` UNION ALL SELECT 'f', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT pg_catalog.concat(':funcid (',` +
	` pg_catalog.string_agg(p.oid::pg_catalog.text, '|'), ') ') FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=)` +
	` ANY ('{pg_mcv_list_items,pg_stat_get_activity,pg_stat_get_backend_activity,ts_rewrite,ts_stat}'::pg_catalog.name[]))` +
	` UNION ALL SELECT 'q', r.ev_class::pg_catalog.text, '', '', '', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~) (SELECT pg_catalog.concat(':funcid (',` +
	` pg_catalog.string_agg(p.oid::pg_catalog.text, '|'), ') ') FROM pg_catalog.pg_proc p WHERE p.proname OPERATOR(pg_catalog.=)` +
	` ANY ('{col_description,enum_first,enum_last,enum_range,obj_description,pg_cursor,pg_get_backend_memory_contexts,` +
	`pg_get_constraintdef,pg_get_expr,pg_get_function_arg_default,pg_get_function_arguments,pg_get_function_sqlbody,` +
	`pg_get_functiondef,pg_get_indexdef,pg_get_partition_constraintdef,pg_get_partkeydef,pg_get_publication_tables,` +
	`pg_get_ruledef,pg_get_statisticsobjdef,pg_get_statisticsobjdef_columns,pg_get_statisticsobjdef_expressions,` +
	`pg_get_triggerdef,pg_get_viewdef,pg_prepared_statement,shobj_description}'::pg_catalog.name[]))`

// Columns is the number of columns that [Query] returns.
const Columns = 7
