package catalog

// queryBehind lists what relations run by themselves, as the rows 'x' and 'y' of
// [Query], and the types as the rows 't'. The events are letters; see [events].
//
// What counts is in own: functions, operators and operator classes of users, types
// that run such code when a value is made, and what is made of those types. The
// numbers are the OIDs of pg_type, pg_proc, pg_class, pg_attrdef, pg_constraint,
// pg_opclass, pg_operator, pg_rewrite, pg_trigger, pg_policy and pg_statistic_ext,
// which are those of every version. A CASE with an operand would look for its
// operator in the search path, and so would IN.
const queryBehind = ` UNION ALL (WITH RECURSIVE own(class, id) AS (` +
	`SELECT k.class, k.id FROM (` +
	`SELECT 1255::pg_catalog.oid, p.oid FROM pg_catalog.pg_proc p` +
	` UNION ALL SELECT 2617::pg_catalog.oid, q.oid FROM pg_catalog.pg_operator q` +
	` UNION ALL SELECT 2616::pg_catalog.oid, l.oid FROM pg_catalog.pg_opclass l` +
	` UNION ALL SELECT 1247::pg_catalog.oid, t.id FROM pg_catalog.pg_cast g, LATERAL (VALUES (g.castsource), (g.casttarget)) t(id)` +
	` WHERE g.castfunc::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` UNION ALL SELECT 1247::pg_catalog.oid, n.contypid FROM pg_catalog.pg_constraint n, pg_catalog.pg_depend d` +
	` WHERE n.contypid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND d.classid OPERATOR(pg_catalog.=) 2606::pg_catalog.oid` +
	` AND d.objid OPERATOR(pg_catalog.=) n.oid AND d.refclassid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid` +
	`) k(class, id) WHERE k.id::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.classid OPERATOR(pg_catalog.=) k.class` +
	` AND e.objid OPERATOR(pg_catalog.=) k.id AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char")` +
	` UNION SELECT 1247::pg_catalog.oid, m.id FROM own w, (` +
	`SELECT d.refclassid, d.refobjid, d.objid FROM pg_catalog.pg_depend d` +
	` WHERE d.classid OPERATOR(pg_catalog.=) 1247::pg_catalog.oid AND d.refobjid::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` UNION ALL SELECT d.refclassid, d.refobjid, c.reltype FROM pg_catalog.pg_depend d, pg_catalog.pg_class c` +
	` WHERE d.classid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid AND d.refclassid OPERATOR(pg_catalog.=) 1247::pg_catalog.oid` +
	` AND c.oid OPERATOR(pg_catalog.=) d.objid` +
	` UNION ALL SELECT d.refclassid, d.refobjid, n.contypid FROM pg_catalog.pg_depend d, pg_catalog.pg_constraint n` +
	` WHERE d.classid OPERATOR(pg_catalog.=) 2606::pg_catalog.oid AND n.oid OPERATOR(pg_catalog.=) d.objid` +
	`) m(refclass, ref, id) WHERE m.refclass OPERATOR(pg_catalog.=) w.class AND m.ref OPERATOR(pg_catalog.=) w.id` +
	` AND m.id OPERATOR(pg_catalog.<>) 0::pg_catalog.oid)` +
	` SELECT DISTINCT 'x', b.relation::pg_catalog.text,` +
	// An operator class is what a search in its index runs, too.
	` pg_catalog.concat(b.events, CASE WHEN d.refclassid OPERATOR(pg_catalog.=) 2616::pg_catalog.oid AND b.what OPERATOR(pg_catalog.<>) 'a foreign key' THEN 's' END),` +
	` '', b.what, '', '' FROM (` +
	`SELECT 2618::pg_catalog.oid, r.oid, r.ev_class, CASE WHEN r.ev_type OPERATOR(pg_catalog.=) '2'::pg_catalog."char" THEN 'u'` +
	` WHEN r.ev_type OPERATOR(pg_catalog.=) '3'::pg_catalog."char" THEN 'i' WHEN r.ev_type OPERATOR(pg_catalog.=) '4'::pg_catalog."char" THEN 'd'` +
	` WHEN c.relkind OPERATOR(pg_catalog.=) 'm'::pg_catalog."char" THEN 'm' ELSE 'siud' END,` +
	` CASE WHEN r.ev_type OPERATOR(pg_catalog.=) '1'::pg_catalog."char" THEN 'the query' ELSE 'a rule' END` +
	` FROM pg_catalog.pg_rewrite r, pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) r.ev_class` +
	` UNION ALL SELECT 2604::pg_catalog.oid, f.oid, f.adrelid, CASE WHEN a.attgenerated OPERATOR(pg_catalog.=) 'v'::pg_catalog."char" THEN 'sium'` +
	` WHEN a.attgenerated OPERATOR(pg_catalog.=) 's'::pg_catalog."char" THEN 'ium' ELSE 'iu' END,` +
	` CASE WHEN a.attgenerated OPERATOR(pg_catalog.=) ''::pg_catalog."char" THEN 'a default' ELSE 'a generated column' END` +
	` FROM pg_catalog.pg_attrdef f, pg_catalog.pg_attribute a` +
	` WHERE a.attrelid OPERATOR(pg_catalog.=) f.adrelid AND a.attnum OPERATOR(pg_catalog.=) f.adnum` +
	` UNION ALL SELECT 2620::pg_catalog.oid, t.oid, t.tgrelid, pg_catalog.concat(` +
	`CASE WHEN t.tgtype::pg_catalog.int4 OPERATOR(pg_catalog.&) 4 OPERATOR(pg_catalog.<>) 0 THEN 'i' END,` +
	` CASE WHEN t.tgtype::pg_catalog.int4 OPERATOR(pg_catalog.&) 16 OPERATOR(pg_catalog.<>) 0 THEN 'u' END,` +
	` CASE WHEN t.tgtype::pg_catalog.int4 OPERATOR(pg_catalog.&) 8 OPERATOR(pg_catalog.<>) 0 THEN 'd' END,` +
	` CASE WHEN t.tgtype::pg_catalog.int4 OPERATOR(pg_catalog.&) 32 OPERATOR(pg_catalog.<>) 0 THEN 't' END), 'a trigger'` +
	` FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'::pg_catalog."char"` +
	` UNION ALL SELECT 2606::pg_catalog.oid, n.oid, n.conrelid, 'ium', 'a constraint' FROM pg_catalog.pg_constraint n` +
	foreignKeys +
	` UNION ALL SELECT 1259::pg_catalog.oid, i.indexrelid, i.indrelid, 'ium', 'an index' FROM pg_catalog.pg_index i` +
	` UNION ALL SELECT 1259::pg_catalog.oid, c.oid, c.oid, 'siump', 'the type of a column or the partition key' FROM pg_catalog.pg_class c` +
	` WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,f}'::pg_catalog."char"[])` +
	` UNION ALL SELECT 3256::pg_catalog.oid, y.oid, y.polrelid, ` + policyEvents + `, 'a policy' FROM pg_catalog.pg_policy y, pg_catalog.pg_class c` +
	` WHERE c.oid OPERATOR(pg_catalog.=) y.polrelid AND c.relrowsecurity` +
	` UNION ALL SELECT 3381::pg_catalog.oid, s.oid, s.stxrelid, 'm', 'statistics' FROM pg_catalog.pg_statistic_ext s` +
	`) b(class, id, relation, events, what), pg_catalog.pg_depend d, own w` +
	` WHERE d.classid OPERATOR(pg_catalog.=) b.class AND d.objid OPERATOR(pg_catalog.=) b.id` +
	` AND w.class OPERATOR(pg_catalog.=) d.refclassid AND w.id OPERATOR(pg_catalog.=) d.refobjid` +
	` AND b.relation::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	// To look for a key computes no expression of an index or of a constraint.
	` AND (b.what OPERATOR(pg_catalog.<>) 'a foreign key' OR d.refclassid OPERATOR(pg_catalog.<>) 1255::pg_catalog.oid)` +
	// A rule that writes does what the statement does not say, without a function too.
	` UNION ALL SELECT 'x', r.ev_class::pg_catalog.text, CASE WHEN r.ev_type OPERATOR(pg_catalog.=) '2'::pg_catalog."char" THEN 'u'` +
	` WHEN r.ev_type OPERATOR(pg_catalog.=) '3'::pg_catalog."char" THEN 'i' ELSE 'd' END, '', 'a rule', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog."char"` +
	` AND r.ev_class::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~) ':commandType [23456] '` +
	// Relation 0 stands for every statement: nobody can tell where such a cast or order is used.
	` UNION ALL SELECT 'x', '0', '', '', 'a cast between types of the system', '', '' FROM pg_catalog.pg_cast g` +
	` WHERE g.castfunc::pg_catalog.int8 OPERATOR(pg_catalog.>=) 16384::pg_catalog.int8` +
	` AND g.castsource::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` AND g.casttarget::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e WHERE e.classid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid` +
	` AND e.objid OPERATOR(pg_catalog.=) g.castfunc AND e.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char")` +
	` UNION ALL SELECT 'x', '0', '', '', 'an operator class of a type of the system', '', '' FROM pg_catalog.pg_opclass l, own w, (` +
	`SELECT 1255::pg_catalog.oid, s.amproc::pg_catalog.oid, s.amprocfamily FROM pg_catalog.pg_amproc s` +
	` WHERE s.amproclefttype::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` AND s.amprocrighttype::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` UNION ALL SELECT 2617::pg_catalog.oid, s.amopopr, s.amopfamily FROM pg_catalog.pg_amop s` +
	` WHERE s.amoplefttype::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` AND s.amoprighttype::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8) s(class, id, family)` +
	` WHERE l.opcdefault AND l.opcintype::pg_catalog.int8 OPERATOR(pg_catalog.<) 16384::pg_catalog.int8` +
	` AND l.opcfamily OPERATOR(pg_catalog.=) s.family AND w.class OPERATOR(pg_catalog.=) s.class AND w.id OPERATOR(pg_catalog.=) s.id` +
	` UNION ALL SELECT 't', t.oid::pg_catalog.text, 'true', '', t.typname::pg_catalog.text, '', ''` +
	` FROM pg_catalog.pg_type t, own w WHERE w.class OPERATOR(pg_catalog.=) 1247::pg_catalog.oid AND w.id OPERATOR(pg_catalog.=) t.oid)` +
	// A foreign key writes to its own table, and what is read in a policy is a view, maybe.
	` UNION ALL SELECT DISTINCT 'y', f.confrelid::pg_catalog.text, v.gives, f.conrelid::pg_catalog.text, v.event, '', ''` +
	` FROM pg_catalog.pg_constraint f, (VALUES ('d', 'd'), ('d', 'u'), ('u', 'u'), ('t', 't')) v(gives, event)` +
	` WHERE f.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char" AND (f.confrelid OPERATOR(pg_catalog.<>) f.conrelid OR v.gives OPERATOR(pg_catalog.<>) v.event)` +
	` AND CASE WHEN v.gives OPERATOR(pg_catalog.=) 't' THEN true` +
	` WHEN v.gives OPERATOR(pg_catalog.=) 'u' THEN f.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog."char"[])` +
	` WHEN v.event OPERATOR(pg_catalog.=) 'd' THEN f.confdeltype OPERATOR(pg_catalog.=) 'c'::pg_catalog."char"` +
	` ELSE f.confdeltype OPERATOR(pg_catalog.=) ANY ('{n,d}'::pg_catalog."char"[]) END` +
	// A rule that writes may write to its own table: one that only mentions it, as all
	// do, looks the same in pg_depend. The kinds of commands are those of 15 and 18; 6 is NOTIFY.
	` UNION ALL SELECT DISTINCT 'y', r.ev_class::pg_catalog.text, CASE WHEN r.ev_type OPERATOR(pg_catalog.=) '2'::pg_catalog."char" THEN 'u'` +
	` WHEN r.ev_type OPERATOR(pg_catalog.=) '3'::pg_catalog."char" THEN 'i' ELSE 'd' END, r.ev_class::pg_catalog.text, 'iud', '', ''` +
	` FROM pg_catalog.pg_rewrite r WHERE r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog."char"` +
	` AND r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~) ':commandType [23456] '` +
	` UNION ALL SELECT DISTINCT 'y', y.polrelid::pg_catalog.text, ` + policyEvents + `, d.refobjid::pg_catalog.text, 's', '', ''` +
	` FROM pg_catalog.pg_policy y, pg_catalog.pg_class c, pg_catalog.pg_depend d` +
	` WHERE c.oid OPERATOR(pg_catalog.=) y.polrelid AND c.relrowsecurity AND d.classid OPERATOR(pg_catalog.=) 3256::pg_catalog.oid` +
	` AND d.objid OPERATOR(pg_catalog.=) y.oid AND d.refclassid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid` +
	` AND d.refobjid OPERATOR(pg_catalog.<>) y.polrelid`

// foreignKeys is what a foreign key looks into: the table that it refers to where its
// own is written, and the other way round.
const foreignKeys = ` UNION ALL SELECT v.class, v.id, v.relation, v.events, 'a foreign key' FROM pg_catalog.pg_constraint n, LATERAL (VALUES` +
	` (1259::pg_catalog.oid, n.conindid, n.conrelid, 'iu'), (1259::pg_catalog.oid, n.confrelid, n.conrelid, 'iu'),` +
	` (2606::pg_catalog.oid, n.oid, n.confrelid, 'ud'), (1259::pg_catalog.oid, n.conrelid, n.confrelid, 'ud')) v(class, id, relation, events)` +
	` WHERE n.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char"` +
	` UNION ALL SELECT 1259::pg_catalog.oid, i.indexrelid, n.confrelid, 'ud', 'a foreign key' FROM pg_catalog.pg_constraint n, pg_catalog.pg_index i` +
	` WHERE n.contype OPERATOR(pg_catalog.=) 'f'::pg_catalog."char" AND i.indrelid OPERATOR(pg_catalog.=) n.conrelid`

// policyEvents is when a policy for row security runs. That for UPDATE runs at a
// SELECT FOR UPDATE as well.
const policyEvents = `CASE WHEN y.polcmd OPERATOR(pg_catalog.=) 'r'::pg_catalog."char" THEN 's'` +
	` WHEN y.polcmd OPERATOR(pg_catalog.=) 'a'::pg_catalog."char" THEN 'i' WHEN y.polcmd OPERATOR(pg_catalog.=) 'w'::pg_catalog."char" THEN 'ul'` +
	` WHEN y.polcmd OPERATOR(pg_catalog.=) 'd'::pg_catalog."char" THEN 'd' ELSE 'siud' END`
