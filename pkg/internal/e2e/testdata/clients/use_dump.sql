-- A bit of everything that a dump can hold.
create schema other;
create type mood as enum ('sad', 'happy');
create domain positive as int check (value > 0);
create sequence numbers start 100 increment 7;
create table items (id int primary key default nextval('numbers'), name text not null, m mood, n positive, raw bytea, at timestamptz, data jsonb, amount numeric);
insert into items (name, m, n, raw, at, data, amount)
  select 'item é ' || i || E'\t\n\\' || repeat('x', i % 200), (array['sad', 'happy', null]::mood[])[i % 3 + 1], i + 1, decode(md5(i::text), 'hex'),
    '2024-02-29'::timestamptz + i * interval '1 second', jsonb_build_object('i', i, 'n', null), i / 7.0 from generate_series(1, 10000) i;
create table other.child (item int references items on delete cascade, body text, unique (item, body));
insert into other.child select id, 'child of ' || id from items where id % 3 = 0;
create table parted (id int, body text) partition by range (id);
create table parted_1 partition of parted for values from (0) to (100);
create table parted_2 partition of parted default;
insert into parted select i, 'p' || i from generate_series(1, 500) i;
create index on items (lower(name)) where n > 10;
create view shown as select i.name, c.body from items i join other.child c on c.item = i.id;
create materialized view summed as select m, sum(amount), count(*) from items group by m;
create function touched() returns trigger language plpgsql as $$ begin new.at := '2024-01-01'; return new; end $$;
create trigger touches before update on items for each row execute function touched();
create rule nothing as on delete to parted do instead nothing;
create function added(a int, b int default 1) returns int language sql immutable as 'select a + b';
create aggregate total (int) (sfunc = int4pl, stype = int, initcond = '0');
alter table items enable row level security;
create policy seen on items using (n > 0);
alter table items force row level security;
alter table items no force row level security;
grant select on items to public;
comment on table items is 'It''s a table; -- with words
on two lines';
create statistics spread on m, n from items;
select count(lo_from_bytea(oid::oid, decode(repeat('00ff', 100000), 'hex'))) from generate_series(500001, 500003) oid;
create table wide as select repeat('wide ', 4000000) as body;
