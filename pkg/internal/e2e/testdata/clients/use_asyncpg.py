# What programs do with asyncpg: its own implementation of the extended protocol, binary format only, types that it asks
# the catalog about. Each check is a line: its name, and what came.
import asyncio
import datetime
import decimal
import hashlib
import io
import uuid

import asyncpg


def check(name, value):
    print(f"{name}: {value!r}", flush=True)


def digest(value):
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()[:16]


FIELDS = ("severity", "sqlstate", "message", "detail", "hint", "position", "internal_position", "internal_query", "context",
          "schema_name", "table_name", "column_name", "data_type_name", "constraint_name", "server_source_filename", "server_source_function")


async def failing(name, what):
    try:
        check(name, await what)
    except asyncpg.PostgresError as e:
        check(name, (type(e).__name__, *(getattr(e, f, None) for f in FIELDS)))
    except (asyncpg.InterfaceError, asyncio.TimeoutError) as e:
        check(name, type(e).__name__)


async def connect(**more):
    return await asyncpg.connect(**more)


async def types(c):
    utc = datetime.timezone.utc
    for typ, value in {
        "bool": True, "int2": 7, "int4": -7, "int8": 2**62, "numeric": decimal.Decimal("12345678901234567890.123456789"), "float4": 1.5,
        "float8": float("-inf"), "text": "é 你好 '\\", "varchar(5)": "abcde", "bytea": b"\x00\xff", "date": datetime.date(2024, 2, 29),
        "time": datetime.time(1, 2, 3, 4), "timestamp": datetime.datetime(2024, 2, 29, 1), "timestamptz": datetime.datetime(2024, 2, 29, 1, tzinfo=utc),
        "interval": datetime.timedelta(days=3, microseconds=7), "uuid": uuid.UUID(int=7), "json": '{"a": 1}', "jsonb": '{"a": [1, null]}',
        "int4[]": [1, None, 3], "text[]": ["a", None], "int4[][]": [[1, 2], [3, 4]], "point": asyncpg.Point(1, 2), "int4range": asyncpg.Range(1, 5),
        "inet": "10.0.0.1", "varbit": asyncpg.BitString("1010"), "name": "n", "oid": 7, "money": "$1.00", "xml": "<a/>",
        "int4multirange": [asyncpg.Range(1, 2)], "tsvector": "'a'", "macaddr": "08:00:2b:01:02:03",
    }.items():
        await failing("type " + typ, c.fetchval(f"select $1::{typ}", value))
    await c.execute("create type mood as enum ('sad', 'happy'); create type pair as (a int, b text); create domain positive as int check (value > 0)")
    await failing("own types", c.fetchrow("select 'happy'::mood, row(1, 'x')::pair, 7::positive, array[row(1, 'y')::pair], array['sad'::mood]"))
    await failing("record", c.fetchval("select row(1, 'x'::text, null)"))
    await c.set_type_codec("jsonb", encoder=str, decoder=len, schema="pg_catalog")
    await failing("codec", c.fetchval("select '[1, 2]'::jsonb"))
    await c.reset_type_codec("jsonb", schema="pg_catalog")


async def statements(c):
    await c.execute("create table items (id serial primary key, name varchar(20) unique not null, price numeric(10,2) check (price >= 0))")
    await c.executemany("insert into items (name, price) values ($1, $2)", [(f"item {i}", i) for i in range(1000)])
    check("sum", await c.fetchval("select sum(price) from items"))
    p = await c.prepare("select name, price from items where id = $1")
    check("prepared", (p.get_query(), [t.name for t in p.get_parameters()], [(a.name, a.type.name) for a in p.get_attributes()]))
    for i in range(5):
        row = await p.fetchrow(i + 1)
    check("row", (dict(row), p.get_statusmsg()))
    check("status", (await c.execute("update items set price = 1 where id < 10"), await c.execute("select 1; select 2"), await c.fetch("")))
    check("returning", await c.fetch("delete from items where id > $1 returning id", 998))
    await c.execute("alter table items add column extra int")
    await failing("changed table", c.fetch("select * from items where id = 1"))
    await c.execute("alter table items drop column extra")
    await failing("changed again", c.fetch("select * from items where id = 1"))
    # That sends Parse and Flush, and never Sync: the server has begun a transaction of which the agent knows nothing.
    await failing("too few", c.fetch("select $1::int"))
    await failing("begin behind it", c.execute("begin isolation level serializable"))
    await failing("and again", c.execute("begin isolation level serializable; rollback"))


async def transactions(c):
    async with c.transaction(isolation="serializable"):
        await c.execute("insert into items (name) values ('outer')")
        try:
            async with c.transaction():
                await c.execute("insert into items (name) values ('outer')")
        except asyncpg.UniqueViolationError as e:
            check("inner", e.constraint_name)
    check("outer", await c.fetchval("select count(*) from items where name = 'outer'"))
    tr = c.transaction(readonly=True)
    await tr.start()
    await failing("read only", c.execute("insert into items (name) values ('never')"))
    await failing("aborted", c.fetch("select 1"))
    await tr.rollback()


async def errors(c):
    await c.execute("create table child (item int references items (id)); create function fails(x int) returns int language plpgsql as"
                    " $$ begin raise exception 'own % text', x using errcode='P1234', detail='d', hint='h', column='c', constraint='k',"
                    " table='t', schema='s', datatype='y'; end $$")
    for name, (query, *args) in {
        "syntax": ("select from where",), "no column": ("select 'é', nothing from items",), "unique": ("insert into items (name) values ($1)", "item 1"),
        "check": ("insert into items (name, price) values ('x', $1)", -1), "not null": ("insert into items (name) values ($1)", None),
        "foreign key": ("insert into child values ($1)", -1), "domain": ("select ($1::int)::positive", -1), "division": ("select 1/$1::int", 0),
        "raised": ("select fails($1)", 7), "several": ("select 1; select 2", ), "several with arguments": ("select $1::int; select 2", 1),
    }.items():
        await failing("error: " + name, c.fetch(query, *args))
    notices = []
    c.add_log_listener(lambda _, m: notices.append((m.severity, m.sqlstate, m.message, m.hint)))
    await c.execute("do $$ begin raise notice 'hello'; raise warning 'w' using hint = 'careful'; end $$")
    await asyncio.sleep(0)
    check("notices", notices)


async def cursors(c):
    async with c.transaction():
        total = 0
        async for row in c.cursor("select i from generate_series(1, $1::int) i", 1000, prefetch=37):
            total += row[0]
        check("cursor", total)
        cur = await c.cursor("select i, repeat('x', 10) from generate_series(1, 100) i")
        check("fetched", (await cur.fetchrow(), await cur.fetch(3), await cur.forward(50), await cur.fetchrow()))


async def copies(c):
    await c.execute("create table copied (id int, body text, at timestamptz)")
    at = datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)
    check("records in", await c.copy_records_to_table("copied", records=[(i, None if i % 5 == 0 else "y" * (i % 300), at) for i in range(20000)]))
    for form in ("text", "csv", "binary"):
        out = io.BytesIO()
        tag = await c.copy_from_query("select * from copied order by id", output=out, format=form)
        check("out " + form, (tag, len(out.getvalue()), digest(out.getvalue())))
    out.seek(0)
    check("binary in", await c.copy_to_table("copied", source=out, format="binary"))
    await failing("bad records", c.copy_to_table("copied", source=io.BytesIO(b"x,y\n"), format="csv"))
    await failing("copy into nothing", c.copy_records_to_table("nothing", records=[(1,)]))

    async def broken():
        yield b"1\tx\t\\N\n"
        raise ValueError("no more")

    try:
        await c.copy_to_table("copied", source=broken())
    except ValueError as e:
        check("broken copy", str(e))
    check("after copies", await c.fetchval("select count(*) from copied"))


async def notifications(c):
    other, got, done = await connect(), [], asyncio.Event()

    def heard(_, pid, channel, payload):
        got.append((pid == other.get_server_pid(), channel, payload))
        if len(got) == 50:
            done.set()

    await c.add_listener("news", heard)
    for i in range(50):
        await other.execute("select pg_notify('news', $1)", f"payload {i} " + "z" * 7000)
    await asyncio.wait_for(done.wait(), 20)
    check("notifications", (len(got), {g[0] for g in got}, {g[1] for g in got}, digest("".join(g[2] for g in got))))
    await c.remove_listener("news", heard)
    await other.close()


async def cancel(c):
    await failing("timeout", c.fetch("select pg_sleep(30)", timeout=0.3))
    check("after timeout", await c.fetchval("select 1"))
    task = asyncio.ensure_future(c.fetch("select pg_sleep(30)"))
    await asyncio.sleep(0.3)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        check("cancelled", True)
    check("after cancel", await c.fetchval("select 1"))


async def large(c):
    await c.execute("create table wide (t text, b bytea)")
    await c.copy_records_to_table("wide", records=[("wide é" * 3_000_000, bytes(range(256)) * 80_000)])
    t, b = await c.fetchrow("select t, b from wide")
    check("20 MB in one row", (len(t), digest(t), len(b), digest(b)))
    check("many rows", sum(len(r[0]) for r in await c.fetch("select repeat('r', 1000), i from generate_series(1, 20000) i")))
    check("parameter of 900 kB", await c.fetchval("select length($1::bytea)", b"\x00" * 900_000))


async def concurrent():
    async with asyncpg.create_pool(min_size=8, max_size=8) as pool:
        async def work(i):
            async with pool.acquire() as c:
                return sum([await c.fetchval("select $1::int * 1000 + $2::int", i, j) for j in range(30)])
        check("pool", await asyncio.gather(*(work(i) for i in range(40))))


async def session():
    c = await connect(server_settings={"statement_timeout": "12345", "application_name": "gate é"})
    s = c.get_settings()
    check("settings", (await c.fetchval("show statement_timeout"), s.application_name, s.client_encoding, s.server_version, s.TimeZone, s.is_superuser))
    check("version", c.get_server_version()[:2])
    await c.reset()
    await c.close()
    try:
        await connect(database="nothing")
    except asyncpg.PostgresError as e:
        check("no database", (type(e).__name__, str(e)))


async def main():
    c = await connect()
    for part in (types, statements, transactions, errors, cursors, copies, notifications, cancel, large):
        await part(c)
    await c.close()
    await concurrent()
    await session()


asyncio.run(main())
