-- What a case must not change: the rows of every table, every definition, every
-- role and setting, in lines of a name and a hash.
select 'rows of ' || c.oid::regclass, md5(query_to_xml(format('select row(t.*)::text from %s t order by 1', c.oid::regclass), true, false, '')::text)
  from pg_class c join pg_namespace n on n.oid = relnamespace
 where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and relkind in ('r', 'm', 'p', 'S') and relpersistence <> 't'
union all select 'relation ' || oid::regclass, md5(row(relname, relnamespace::regnamespace, relkind, relowner::regrole, relacl, relrowsecurity, relforcerowsecurity, reloptions, relpersistence, relispartition, relreplident, reltablespace)::text)
  from pg_class where relnamespace not in (select oid from pg_namespace where nspname ~ '^pg_(toast_)?temp')
union all select 'columns of ' || attrelid::regclass, md5(string_agg(row(attname, atttypid, attnotnull, atthasdef, attisdropped, attacl, attstattarget, attoptions)::text, ',' order by attnum))
  from pg_attribute where attrelid in (select oid from pg_class where relpersistence <> 't') group by attrelid
union all select 'defaults', md5(string_agg(a::text, ',' order by oid)) from pg_attrdef a
union all select 'function ' || oid::regprocedure, md5(p::text) from pg_proc p where oid >= 16384
union all select 'built-in functions', md5(string_agg(row(proname, prosrc, proowner, prosecdef, proacl, probin, proconfig)::text, ',' order by oid)) from pg_proc where oid < 16384
union all select 'types', md5(string_agg(row(oid, typname, typowner, typacl)::text, ',' order by oid)) from pg_type where typnamespace not in (select oid from pg_namespace where nspname ~ '^pg_(toast_)?temp')
union all select 'triggers', md5(string_agg(t::text, ',' order by oid)) from pg_trigger t
union all select 'rules', md5(string_agg(r::text, ',' order by oid)) from pg_rewrite r
union all select 'constraints', md5(string_agg(c::text, ',' order by oid)) from pg_constraint c
union all select 'schemas', md5(string_agg(row(nspname, nspowner, nspacl)::text, ',' order by oid)) from pg_namespace where nspname !~ '^pg_(toast_)?temp'
union all select 'role ' || rolname, md5(a::text) from pg_authid a
union all select 'memberships', md5(string_agg(m::text, ',' order by roleid, member)) from pg_auth_members m
union all select 'settings of roles', md5(string_agg(s::text, ',' order by setdatabase, setrole)) from pg_db_role_setting s
union all select 'database ' || datname, md5(row(datdba, datistemplate, datallowconn, datconnlimit, dattablespace, datacl)::text) from pg_database where datname not like 'case%' or datname = current_database()
union all select 'large objects', md5(string_agg(l::text, ',' order by loid, pageno)) from pg_largeobject l
union all select 'owners of large objects', md5(string_agg(l::text, ',' order by oid)) from pg_largeobject_metadata l
union all select 'extensions', md5(string_agg(e::text, ',' order by oid)) from pg_extension e
union all select 'wrappers', md5(string_agg(e::text, ',' order by oid)) from pg_foreign_data_wrapper e
union all select 'servers', md5(string_agg(e::text, ',' order by oid)) from pg_foreign_server e
union all select 'publications', md5(string_agg(e::text, ',' order by oid)) from pg_publication e
union all select 'subscriptions', md5(string_agg(e::text, ',' order by oid)) from pg_subscription e
union all select 'slots', md5(string_agg(slot_name, ',' order by slot_name)) from pg_replication_slots
union all select 'origins', md5(string_agg(roname, ',' order by roname)) from pg_replication_origin
union all select 'event triggers', md5(string_agg(e::text, ',' order by oid)) from pg_event_trigger e
union all select 'policies', md5(string_agg(e::text, ',' order by oid)) from pg_policy e
union all select 'default privileges', md5(string_agg(e::text, ',' order by oid)) from pg_default_acl e
union all select 'comments', md5(string_agg(e::text, ',' order by objoid, classoid, objsubid)) from pg_description e where objoid >= 16384
union all select 'statistics', md5(string_agg(row(oid, stxname, stxkind)::text, ',' order by oid)) from pg_statistic_ext
union all select 'tablespaces', md5(string_agg(e::text, ',' order by oid)) from pg_tablespace e
union all select 'casts', md5(string_agg(e::text, ',' order by oid)) from pg_cast e
union all select 'operators', md5(string_agg(e::text, ',' order by oid)) from pg_operator e
union all select 'operator classes', md5(string_agg(e::text, ',' order by oid)) from pg_opclass e
union all select 'conversions', md5(string_agg(e::text, ',' order by oid)) from pg_conversion e
union all select 'languages', md5(string_agg(e::text, ',' order by oid)) from pg_language e
union all select 'dictionaries', md5(string_agg(e::text, ',' order by oid)) from pg_ts_dict e
union all select 'prepared transactions', md5(string_agg(gid, ',' order by gid)) from pg_prepared_xacts
union all select 'settings', md5(string_agg(name || '=' || setting, ',' order by name)) from pg_settings where name not in ('application_name')
union all select 'configuration', md5(pg_read_file('postgresql.auto.conf'))
union all select 'sessions of others', string_agg(application_name, ',' order by application_name) from pg_stat_activity where application_name like 'witness%' and datname = current_database()
