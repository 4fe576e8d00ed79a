# What programs do with psycopg 3: the extended protocol with both formats, prepared statements, pipelines, cursors,
# COPY as a stream. Each check is a line: its name, and what came.
import asyncio
import datetime
import decimal
import hashlib
import logging
import threading
import uuid

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

# It warns of an aborted pipeline, or not, by when the answers come.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)


def check(name, value):
    print(f"{name}: {value!r}", flush=True)


def digest(value):
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()[:16]


def failing(name, conn, query, args=None, **more):
    try:
        conn.execute(query, args, **more)
        check(name, "no error")
    except psycopg.Error as e:
        d = e.diag
        check(name, (type(e).__name__, e.sqlstate, d.severity, d.severity_nonlocalized, d.message_primary, d.message_detail,
                     d.message_hint, d.statement_position, d.internal_position, d.internal_query, d.context, d.schema_name,
                     d.table_name, d.column_name, d.datatype_name, d.constraint_name, d.source_file, d.source_function))
    conn.rollback()


def types(conn):
    values = [
        None, True, 42, -2**62, 2**70, decimal.Decimal("12345678901234567890.123456789"), decimal.Decimal("NaN"), 1.5, float("inf"),
        "text with ' and \\ and é and 你好", "", b"\x00\x01\xfe\xff", datetime.date(2024, 2, 29), datetime.time(23, 59, 59, 999999),
        datetime.datetime(2024, 2, 29, 12, 0, 0, 123456), datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=3, microseconds=7), [1, 2, None], ["a", "b'"], [[1.5], [2.5]], Jsonb({"a": [1, None, "é"]}),
        uuid.UUID(int=7), Range(1, 5),
    ]
    for form in ("t", "b"):
        for binary in (False, True):
            for i, v in enumerate(values):
                cur = conn.cursor(binary=binary)
                try:
                    cur.execute("select %" + form, (v,))
                    got = cur.fetchone()[0]
                    check(f"type {i} {form} {binary}", (got, cur.description[0].type_code, cur.pgresult.fformat(0)))
                except psycopg.Error as e:
                    check(f"type {i} {form} {binary}", (e.sqlstate, str(e)))
                    conn.rollback()
    cur = conn.cursor(binary=True)
    cur.execute("select '{1.5,NaN}'::float8[], '[1,5)'::int4range, '127.0.0.1/8'::inet, '3 days'::interval, '(1,2)'::point::text,"
                " 1::smallint, 1::oid, 'n'::name, 'c'::\"char\", row(1, 'x', null), '{[1,2],[5,6]}'::int4multirange, 1::money::text")
    check("binary types", cur.fetchone())
    conn.rollback()


def statements(conn):
    conn.execute("create table items (id serial primary key, name varchar(20) unique not null, price numeric(10,2) check (price >= 0))")
    cur = conn.cursor()
    cur.executemany("insert into items (name, price) values (%s, %s) returning id", [(f"item {i}", i) for i in range(200)], returning=True)
    ids = []
    while True:
        ids.append(cur.fetchone()[0])
        if not cur.nextset():
            break
    check("executemany", (len(ids), ids[-1]))
    conn.commit()
    for prepare in (None, True, False):
        for i in range(8):
            row = conn.execute("select name, price from items where id = %s", (i + 1,), prepare=prepare).fetchone()
        check(f"prepare {prepare}", row)
    check("prepared statements", conn.execute("select count(*), min(statement), bool_and(not from_sql) from pg_prepared_statements").fetchone())
    check("dict rows", conn.cursor(row_factory=dict_row).execute("select 1 as a, 2 as b").fetchall())
    check("two statements", [r for r in conn.execute("select 1; select 2").fetchall()])
    check("client side", psycopg.ClientCursor(conn).execute("select %s, %s; select 3", ("a'b", 7)).fetchall())
    check("stream", sum(r[0] for r in conn.cursor().stream("select i from generate_series(1, 1000) i")))
    check("empty", (conn.execute("").statusmessage, conn.execute("-- nothing").pgresult.status))
    check("composed", conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier("items"))).fetchone())
    # What is prepared sees a table that has changed.
    conn.execute("select * from items where id = 1", prepare=True).fetchall()
    conn.commit()
    conn.execute("alter table items add column extra int")
    failing("cached plan", conn, "select * from items where id = 1", prepare=True)
    conn.execute("alter table items drop column if exists extra")
    conn.commit()
    conn.execute("deallocate all")
    conn.commit()


def transactions(conn):
    with conn.transaction():
        conn.execute("insert into items (name) values ('outer')")
        try:
            with conn.transaction():
                conn.execute("insert into items (name) values ('outer')")
        except psycopg.errors.UniqueViolation as e:
            check("inner", (e.diag.constraint_name, conn.info.transaction_status.name))
    check("outer", conn.execute("select count(*) from items where name = 'outer'").fetchone())
    conn.rollback()
    conn.isolation_level, conn.read_only = psycopg.IsolationLevel.SERIALIZABLE, True
    failing("read only", conn, "insert into items (name) values ('never')")
    conn.isolation_level, conn.read_only = None, None


def errors(conn):
    conn.execute("create domain positive as int check (value > 0)")
    conn.execute("create table child (item int references items (id))")
    conn.execute("create function fails(x int) returns int language plpgsql as $$ begin raise exception 'own % text', x using"
                 " errcode='P1234', detail='d', hint='h', column='c', constraint='k', table='t', schema='s', datatype='y'; end $$")
    conn.commit()
    for name, (query, args) in {
        "syntax": ("select from where %s", (1,)), "no column": ("select 'é', nothing from items where id = %s", (1,)),
        "unique": ("insert into items (name) values (%s)", ("item 1",)), "check": ("insert into items (name, price) values ('x', %s)", (-1,)),
        "not null": ("insert into items (name) values (%s)", (None,)), "foreign key": ("insert into child values (%s)", (-1,)),
        "domain": ("select (%s::int)::positive", (-1,)), "division": ("select 1/%s", (0,)), "raised": ("select fails(%s)", (7,)),
        "cast": ("select %s::text::int", ("abc",)), "too many": ("select 1", (1,)), "unknown type": ("select %s", (object,)),
    }.items():
        for prepare in (False, True):
            try:
                failing(f"error: {name} {prepare}", conn, query, args, prepare=prepare)
            except psycopg.ProgrammingError as e:
                check(f"error: {name} {prepare}", str(e))
    notices = []
    conn.add_notice_handler(lambda d: notices.append((d.severity, d.sqlstate, d.message_primary, d.message_hint, d.context)))
    conn.execute("do $$ begin raise notice 'hello'; raise warning 'w' using hint = 'careful'; end $$")
    check("notices", notices)
    conn.commit()


def pipelines(conn):
    with conn.pipeline() as p:
        cursors = [conn.execute("select %s::int * 2", (i,)) for i in range(300)]
        p.sync()
        check("pipeline", sum(c.fetchone()[0] for c in cursors))
    conn.rollback()
    conn.autocommit = True
    states = []
    try:
        with conn.pipeline() as p:
            conn.execute("insert into items (name) values ('first')")
            p.sync()
            conn.execute("insert into items (name) values ('second')")
            bad = conn.execute("select 1/0")
            conn.execute("insert into items (name) values ('third')")
            try:
                p.sync()
                bad.fetchone()
            except psycopg.Error as e:
                states.append((type(e).__name__, e.sqlstate))
    except psycopg.Error as e:
        states.append((type(e).__name__, e.sqlstate))
    check("error in a pipeline", states)
    check("what is left of it", conn.execute("select name from items where name in ('first', 'second', 'third')").fetchall())
    conn.autocommit = False


def cursors(conn):
    with conn.cursor("named", scrollable=True) as cur:
        cur.itersize = 37
        cur.execute("select i, repeat('x', 50) from generate_series(1, %s) i", (1000,))
        check("server cursor", sum(row[0] for row in cur))
        cur.scroll(10, mode="absolute")
        check("scrolled", cur.fetchmany(2))
    with conn.cursor("binary", binary=True) as cur:
        cur.execute("select i::int8, i::text from generate_series(1, 3) i")
        check("binary cursor", cur.fetchall())
    conn.commit()


def copies(conn):
    cur = conn.cursor()
    cur.execute("create table copied (id int, body text, raw bytea, at timestamptz)")
    at = datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)
    with cur.copy("copy copied from stdin") as copy:
        for i in range(10000):
            copy.write_row((i, f"line {i} \\ \t\n{'y' * (i % 300)}", bytes([i % 256]), at))
    check("rows in", cur.rowcount)
    with cur.copy("copy copied from stdin (format binary)") as copy:
        copy.set_types(["int4", "text", "bytea", "timestamptz"])
        for i in range(10000, 20000):
            copy.write_row((i, None if i % 7 == 0 else f"line {i}", b"\x00" * (i % 9), at))
    check("binary rows in", cur.rowcount)
    for form in ("", "(format csv)", "(format binary)"):
        with cur.copy(f"copy (select * from copied order by id) to stdout {form}") as copy:
            data = b"".join(copy)
        check("out " + form, (len(data), digest(data)))
    with cur.copy("copy (select id, body, raw, at from copied where id in (1, 10500) order by id) to stdout (format binary)") as copy:
        copy.set_types(["int4", "text", "bytea", "timestamptz"])
        check("rows out", [[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in copy.rows()])
    conn.commit()
    try:
        with cur.copy("copy copied from stdin") as copy:
            copy.write("1\tx\n")
            raise ValueError("no more")
    except Exception as e:
        check("broken copy", (type(e).__name__, getattr(e, "sqlstate", None)))
    conn.rollback()
    try:
        with cur.copy("copy copied from stdin") as copy:
            copy.write("x\ty\n")
    except psycopg.Error as e:
        check("bad copy", (e.sqlstate, e.diag.context))
    conn.rollback()
    # Not all of it is read.
    try:
        with cur.copy("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout") as copy:
            for block in copy:
                raise ValueError("enough")
    except Exception as e:
        check("copy that is left", (type(e).__name__, getattr(e, "sqlstate", None)))
    conn.rollback()
    check("after copies", conn.execute("select count(*) from copied").fetchone())
    conn.commit()


def notifications(conn):
    with psycopg.connect("", autocommit=True) as other, psycopg.connect("", autocommit=True) as listener:
        listener.execute("listen news")
        for i in range(50):
            other.execute("select pg_notify('news', %s)", (f"payload {i} " + "z" * 7000,))
        got = []
        for n in listener.notifies():
            got.append(n)
            if len(got) == 50:
                break
        check("notifications", (digest("".join(n.payload for n in got)), {n.channel for n in got}, {n.pid == other.info.backend_pid for n in got}))


def cancel(conn):
    timer = threading.Timer(0.3, conn.cancel)
    timer.start()
    failing("cancelled", conn, "select pg_sleep(30)")
    timer.join()
    check("after cancel", conn.execute("select 1").fetchone())
    conn.rollback()


def large(conn):
    conn.execute("create table wide (t text, b bytea)")
    with conn.cursor().copy("copy wide (t) from stdin") as copy:
        copy.write_row(("wide é" * 3_000_000,))
    conn.execute("update wide set b = convert_to(t, 'UTF8')")
    for binary in (False, True):
        t, b = conn.cursor(binary=binary).execute("select t, b from wide").fetchone()
        check(f"20 MB in one row {binary}", (len(t), digest(t), len(b), digest(bytes(b))))
    check("parameter of 900 kB", conn.execute("select length(%s::text), length(%b::bytea)", ("p" * 400_000, b"\x00" * 500_000)).fetchone())
    conn.rollback()


def concurrent():
    async def work(i):
        async with await psycopg.AsyncConnection.connect("") as c:
            total = 0
            for j in range(50):
                cur = await c.execute("select %s::int * 1000 + %s", (i, j))
                total += (await cur.fetchone())[0]
            return total

    async def all_of_them():
        return await asyncio.gather(*(work(i) for i in range(10)))

    check("10 connections", asyncio.run(all_of_them()))


def session():
    with psycopg.connect("", options="-c statement_timeout=12345", application_name="gate é") as c:
        check("options", c.execute("show statement_timeout").fetchone())
        check("parameters", [c.info.parameter_status(n) for n in ("client_encoding", "DateStyle", "TimeZone", "server_version", "search_path", "application_name", "in_hot_standby", "scram_iterations")])
        check("timezone", c.execute("select '2024-02-29 12:00+02'::timestamptz").fetchone())
    for name, bad in {"no database": {"dbname": "nothing"}, "bad option": {"options": "-c nothing=1"}}.items():
        try:
            psycopg.connect("", **bad)
        except psycopg.OperationalError as e:
            check(name, str(e).rpartition("FATAL: ")[2])


with psycopg.connect("") as conn:
    for part in (types, statements, transactions, errors, pipelines, cursors, copies, notifications, cancel, large):
        part(conn)
concurrent()
session()
