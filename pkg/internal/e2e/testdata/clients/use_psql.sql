-- What people type into psql. Everything it prints is compared.
\set VERBOSITY verbose
\pset null '(null)'
\echo :SERVER_VERSION_NUM :ENCODING :HOST :USER :DBNAME
select 1 as one, null as nothing, 'é 你好' as text, E'a\nb' as lines;
create type mood as enum ('sad', 'happy');
create domain positive as int constraint is_positive check (value > 0);
create table items (
  id int generated always as identity primary key, name varchar(20) unique not null, price numeric(10,2) default 1.5 check (price >= 0),
  at timestamptz default '2024-02-29 12:00+00', data jsonb, tags text[], m mood, r int4range, p point, b bytea, u uuid, net inet, n positive
);
insert into items (name, data, tags, m, r, p, b, u, net, n) values
  ('one', '{"a": [1, 2, {"b": null}]}', '{a,"b c",NULL}', 'happy', '[1,5)', '(1,2)', '\x00ff', '00000000-0000-0000-0000-000000000007', '10.0.0.0/8', 7),
  ('two', null, null, null, null, null, null, null, null, null);
table items;
\x
table items;
\x off
select name, data->'a', tags[1], upper(r), p[0], encode(b, 'hex'), net << '10.0.0.0/7' from items;
select 1.0/3, 2^0.5, 1e300::float8, 'NaN'::float4, -0.0::float8, '1 year 2 mons -3 days'::interval, '2024-02-29'::date + 1,
  '12:00+02'::timetz, B'101'::varbit, 'a:1 b'::tsvector, 123.45::money, '<a>b</a>'::xml, row(1, null, 'x')::text, '{{1,2},{3,4}}'::int[];

-- errors, with positions
select * form items;
select 'é', nothing
  from items;
insert into items (name) values ('one');
\errverbose
insert into items (name, price) values ('three', -1);
insert into items (name, n) values ('three', 0);
insert into items (name) values (null);
insert into items (id, name) values (1, 'x');
select 1/0;
select 'abc'::int;
do $$ begin raise exception 'own % text', 1 using errcode='P1234', detail='d', hint='h', column='c', constraint='k', table='t', schema='s', datatype='y'; end $$;
create function inner_fails() returns int language sql as 'select 1/0';
create function outer_fails() returns int language plpgsql as $$ begin return inner_fails(); end $$;
select outer_fails();
do $$ begin raise notice 'hello'; raise warning 'careful' using hint = 'h'; raise info 'i'; raise debug 'd'; end $$;
select * from pg_authid;
drop table if exists nothing;
create table if not exists items (id int);

-- several in one message
select 1 as a\; select 2 as b, 3 as c\; select 4 as d where false;
select 1 as a\; select 1/0\; select 3 as never;
begin\; insert into items (name) values ('never')\; select 1/0\; commit;
rollback;
;
select;

-- transactions
\set ON_ERROR_ROLLBACK off
begin;
insert into items (name) values ('four');
select 1/0;
select 1;
commit;
begin;
savepoint s;
select 1/0;
rollback to s;
insert into items (name) values ('five');
commit;
\set ON_ERROR_ROLLBACK on
begin;
insert into items (name) values ('six');
select 1/0;
insert into items (name) values ('seven');
commit;
select name from items order by id;
begin isolation level serializable read only deferrable;
delete from items;
rollback and chain;
show transaction_isolation;
rollback;

-- \copy and COPY
create table copied (id int, body text);
\copy copied from stdin
1	one
2	\N
3	tab\tnew\nline\\
\.
copy copied from stdin (format csv, header);
id,body
4,"quo""ted, and
over two lines"
5,x,y
\.
copy copied from stdin;
6	six
x	seven
\.
\copy copied from program 'seq -f "%.0f;line" 1000 3000' (delimiter ';')
\copy (select count(*), min(id), max(id) from copied) to stdout (format csv, header)
copy (select * from copied where id < 10 order by id) to stdout;
copy copied (id) to stdout (format csv, force_quote *);
copy nothing from stdin;
1	one
\.
copy nothing to stdout;
\copy copied to program 'sha256sum'
select count(*) from copied\; copy (select 1) to stdout\; select 2;

-- \gset, \gexec, \gdesc, \crosstabview, \g
select count(*) as many from items \gset
\echo there are :many
select format('create table gen_%s (id int)', i) from generate_series(1, 5) i \gexec
select format('drop table gen_%s', i) from generate_series(1, 5) i
union all select 'select 1/0' union all select 'select 42 as after' \gexec
select i, data, 1.5 as x from items, generate_series(1, 2) i \gdesc
select i % 3 as row, i % 2 as col, sum(i) from generate_series(1, 12) i group by 1, 2 order by 1, 2 \crosstabview
select repeat('x', 100) from generate_series(1, 20000) \g | sha256sum

-- rows in portions
\set FETCH_COUNT 100
select i, repeat('y', i % 50) from generate_series(1, 5000) i \g | sha256sum
select 10 / (500 - i) from generate_series(1, 1000) i \g | sha256sum
insert into items (name) values ('eight') returning name;
\set FETCH_COUNT 0

-- cursors, prepared statements
begin;
declare c scroll cursor for select i from generate_series(1, 100) i;
fetch 3 from c;
fetch backward 2 from c;
move absolute 50 in c;
fetch relative 3 from c;
fetch last from c;
close c;
fetch 1 from c;
rollback;
begin;
declare h cursor with hold for select name from items order by id;
commit;
fetch 2 from h;
close all;
prepare q (int, text) as select $1 + 1 as x, $2 || '!' as y;
execute q (1, 'a');
execute q (1);
explain (costs off) execute q (1, 'a');
deallocate q;
execute q (1, 'a');

-- notifications and settings
listen news;
notify news, 'payload';
select pg_notify('news', repeat('z', 100));
unlisten news;
set application_name = 'gate';
show application_name;
set search_path = pg_catalog;
select current_schemas(false);
reset search_path;
set client_encoding = latin1;
select 'plain ' || chr(228) = 'plain ' || chr(228);
\encoding utf8
set statement_timeout = 100;
select pg_sleep(10);
reset statement_timeout;
set datestyle = german;
select '2024-02-29'::date;
reset datestyle;
set standard_conforming_strings = off;
set standard_conforming_strings = on;
set role nobody_there;
set session authorization default;
discard all;

-- what is described
\d items
\d+ items
\dt
\dT+ mood
\dD
\df *_fails
\di+ items_pkey
\dn
\du app
\dp items
\sf outer_fails
\dx
\dconfig work_mem
\l clients
\d nothing

-- large objects
select lo_from_bytea(424242, decode(repeat('00ff', 500000), 'hex'));
\lo_export 424242 /dev/null
\lo_list
select lo_get(424242, 10, 4), length(lo_get(424242));
\lo_unlink 424242

-- large values
select length(v), md5(v) from (select repeat('large é ', 2500000) v) s;
select repeat('large é ', 2500000) \g | sha256sum
\c
select current_user, session_user, current_database();
\c nothing_there
